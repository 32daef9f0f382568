#include "binding/session_object.h"

#include <utility>

#include "base/status.h"
#include "binding/js_config.h"
#include "binding/js_session.h"

namespace filigree::js {

void SessionObject::define(Napi::Env env, Napi::Object exports) {
  exports.Set("Compression", DefineClass(env, "Compression",
                                         {InstanceMethod<&SessionObject::open>("open"),
                                          InstanceMethod<&SessionObject::vocabulary>("vocabulary"),
                                          InstanceMethod<&SessionObject::layer>("layer"),
                                          InstanceMethod<&SessionObject::restore>("restore"),
                                          InstanceMethod<&SessionObject::probe>("probe"),
                                          InstanceMethod<&SessionObject::final_norm>("finalNorm"),
                                          InstanceMethod<&SessionObject::perplexity>("perplexity"),
                                          InstanceMethod<&SessionObject::close>("close")}));
}

SessionObject::SessionObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<SessionObject>(info),
      env_(info.Env()),
      settlement_(std::make_shared<Settlement>(info.Env())),
      host_(std::make_shared<Host>()),
      thread_(std::make_unique<EngineThread>()) {
  napi_add_env_cleanup_hook(env_, on_env_cleanup, this);
}

SessionObject::~SessionObject() {
  if (!thread_) return;
  napi_remove_env_cleanup_hook(env_, on_env_cleanup, this);
  shut_down();
}

void SessionObject::on_env_cleanup(void* self) { static_cast<SessionObject*>(self)->shut_down(); }

void SessionObject::shut_down() {
  host_->cancelled = true;
  thread_->post([host = host_] { host->session.reset(); });
  thread_.reset();
  settlement_->close();
}

// work on the native thread, then to_js on the JS thread.
template <class Result>
Napi::Value SessionObject::run(Napi::Env env, std::function<Result(Host&)> work,
                               std::function<Napi::Value(Napi::Env, Result&)> to_js,
                               std::shared_ptr<Napi::FunctionReference> progress) {
  settlement_->begin(env);
  Ref();
  auto deferred = std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env));
  thread_->post([this, work = std::move(work), to_js = std::move(to_js), deferred, progress,
                 settlement = settlement_, host = host_] {
    std::exception_ptr failure;
    auto result = std::make_shared<Result>();
    try {
      *result = work(*host);
    } catch (...) {
      failure = std::current_exception();
    }
    settlement->deliver([this, result, failure, to_js, deferred, progress, settlement](Napi::Env env) {
      Napi::HandleScope scope(env);
      settlement->end(env);
      if (failure) {
        deferred->Reject(to_js_error(env, failure).Value());
      } else {
        deferred->Resolve(to_js(env, *result));
      }
      if (progress) progress->Reset();
      Unref();
    });
  });
  return deferred->Promise();
}

static Session& opened(std::unique_ptr<Session>& session) {
  if (!session) throw Error(ErrorCode::invalid_argument, "the compression is not open");
  return *session;
}

Napi::Value SessionObject::open(const Napi::CallbackInfo& info) {
  auto model = std::make_shared<ModelDescription>(model_description(Field(info[0], "manifest")));
  auto options = std::make_shared<SessionOptions>(session_options(Field(info[1], "options")));
  struct Opened {
    double layer_bytes = 0;
  };
  return run<Opened>(
      info.Env(),
      [model, options](Host& host) {
        host.session = std::make_unique<Session>(*model, std::move(*options));
        return Opened{static_cast<double>(host.session->layer_bytes())};
      },
      [](Napi::Env env, Opened& opened) -> Napi::Value {
        auto out = Napi::Object::New(env);
        out.Set("layerBytes", Napi::Number::New(env, opened.layer_bytes));
        return out;
      });
}

Napi::Value SessionObject::vocabulary(const Napi::CallbackInfo& info) {
  const std::string name = Field(info[0], "name").string();
  const VocabularyRounding rounding = vocabulary_options(Field(info[1], "options"));
  return run<std::vector<EncodedTensor>>(
      info.Env(), [=](Host& host) { return opened(host.session).compress_vocabulary(name, rounding); },
      [](Napi::Env env, auto& tensors) -> Napi::Value { return to_js(env, tensors); });
}

Napi::Value SessionObject::layer(const Napi::CallbackInfo& info) {
  const LayerOptions options = layer_options(Field(info[0], "options"));
  std::shared_ptr<Napi::FunctionReference> on_progress;
  if (info[1].IsFunction()) {
    on_progress = std::make_shared<Napi::FunctionReference>(Napi::Persistent(info[1].As<Napi::Function>()));
    on_progress->SuppressDestruct();
  }
  const auto report = [on_progress, settlement = settlement_, host = host_](const char* stage, double share) {
    // Between batches is the place to stop for an environment that goes away.
    if (host->cancelled) throw Error(ErrorCode::invalid_argument, "the compression was closed");
    if (!on_progress) return;
    settlement->deliver([on_progress, stage, share](Napi::Env env) {
      Napi::HandleScope scope(env);
      on_progress->Call({Napi::String::New(env, stage), Napi::Number::New(env, share)});
    });
  };
  return run<LayerResult>(
      info.Env(), [=](Host& host) { return opened(host.session).compress_layer(options, report); },
      [](Napi::Env env, LayerResult& result) -> Napi::Value { return to_js(env, result); }, on_progress);
}

Napi::Value SessionObject::restore(const Napi::CallbackInfo& info) {
  std::vector<TensorDesc> tensors;
  for (const Field& entry : Field(info[0], "tensors").items()) tensors.push_back(tensor_desc(entry));
  std::vector<std::string> files;
  for (const Field& file : Field(info[1], "files").items()) files.push_back(file.string());
  return run<int>(
      info.Env(),
      [=](Host& host) {
        opened(host.session).restore_layer(tensors, files);
        return 0;
      },
      [](Napi::Env env, int&) -> Napi::Value { return env.Undefined(); });
}

Napi::Value SessionObject::probe(const Napi::CallbackInfo& info) {
  const LayerOptions options = layer_options(Field(info[0], "options"));
  return run<Sensitivity>(
      info.Env(), [=](Host& host) { return opened(host.session).probe_layer(options); },
      [](Napi::Env env, Sensitivity& s) -> Napi::Value {
        auto out = Napi::Object::New(env);
        out.Set("error", numbers(env, s.error));
        out.Set("outliers", numbers(env, s.outliers));
        return out;
      });
}

Napi::Value SessionObject::final_norm(const Napi::CallbackInfo& info) {
  return run<std::vector<EncodedTensor>>(
      info.Env(), [](Host& host) { return opened(host.session).final_norm(); },
      [](Napi::Env env, auto& tensors) -> Napi::Value { return to_js(env, tensors); });
}

Napi::Value SessionObject::perplexity(const Napi::CallbackInfo& info) {
  return run<Perplexity>(
      info.Env(), [](Host& host) { return opened(host.session).perplexity(); },
      [](Napi::Env env, Perplexity& p) -> Napi::Value {
        auto out = Napi::Object::New(env);
        out.Set("before", Napi::Number::New(env, p.before));
        out.Set("after", Napi::Number::New(env, p.after));
        out.Set("tokens", Napi::Number::New(env, static_cast<double>(p.tokens)));
        return out;
      });
}

Napi::Value SessionObject::close(const Napi::CallbackInfo& info) {
  host_->cancelled = true;
  return run<int>(
      info.Env(),
      [](Host& host) {
        host.session.reset();
        return 0;
      },
      [](Napi::Env env, int&) -> Napi::Value { return env.Undefined(); });
}

}  // namespace filigree::js
