#include "binding/grammar_object.h"

#include <cstring>
#include <utility>
#include <vector>

#include "binding/task.h"

namespace filigree::js {
namespace {

// Objects of ours are told from any other by these, before their pointer is touched.
constexpr napi_type_tag kVocabularyTag{0x7a3f5d0c41e84f6b, 0x9f1b6de2c05a4873};
constexpr napi_type_tag kGrammarTag{0x2b8c1e9a77d04d35, 0xa6e40f1953bb7c21};

template <class T>
Napi::Value wrap(Napi::Env env, std::shared_ptr<T> held, const napi_type_tag& tag, Napi::Object object) {
  auto* pointer = new std::shared_ptr<T>(std::move(held));
  object.TypeTag(&tag);
  napi_status status = napi_wrap(
      env, object, pointer,
      [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<T>*>(data); }, nullptr, nullptr);
  if (status != napi_ok) {
    delete pointer;
    throw Napi::Error::New(env, "an object could not be wrapped");
  }
  return object;
}

template <class T>
std::shared_ptr<T> unwrap(const Napi::Value& value, const napi_type_tag& tag, const char* expected) {
  void* pointer = nullptr;
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&tag) ||
      napi_unwrap(value.Env(), value, &pointer) != napi_ok) {
    throw Napi::TypeError::New(value.Env(), expected);
  }
  return *static_cast<std::shared_ptr<T>*>(pointer);
}

std::shared_ptr<const grammar::Vocabulary> vocabulary_of(const Napi::Value& value) {
  return unwrap<const grammar::Vocabulary>(value, kVocabularyTag, "not a vocabulary");
}

std::vector<int32_t> copied(const Napi::Value& value, const char* name) {
  const std::span<const int32_t> numbers = Field(value, name).int32_array();
  return {numbers.begin(), numbers.end()};
}

Napi::Value compile(const Napi::CallbackInfo& info) {
  return Task<std::shared_ptr<grammar::Grammar>>::run(
      info.Env(),
      [vocabulary = vocabulary_of(info.This()), program = copied(info[0], "program")] {
        return std::make_shared<grammar::Grammar>(vocabulary, program);
      },
      [](Napi::Env env, const std::shared_ptr<grammar::Grammar>& made) -> Napi::Value {
        auto object = Napi::Object::New(env);
        object.Set("statistics", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                     const auto statistics = grammar_of(Field(info.This(), "this"))->statistics();
                     auto out = Napi::Object::New(info.Env());
                     out.Set("states", Napi::Number::New(info.Env(), static_cast<double>(statistics.states)));
                     out.Set("stacks", Napi::Number::New(info.Env(), static_cast<double>(statistics.stacks)));
                     out.Set("masks", Napi::Number::New(info.Env(), static_cast<double>(statistics.masks)));
                     return out;
                   }));
        return wrap(env, made, kGrammarTag, object);
      });
}

Napi::Value create_vocabulary(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw Napi::TypeError::New(env, "bytes must be a Uint8Array");
  }
  const auto array = info[0].As<Napi::Uint8Array>();
  std::vector<uint8_t> bytes(array.Data(), array.Data() + array.ElementLength());
  std::vector<uint32_t> offsets;
  for (const int32_t offset : Field(info[1], "offsets").int32_array()) {
    if (offset < 0) throw Napi::RangeError::New(env, "offsets must not be negative");
    offsets.push_back(static_cast<uint32_t>(offset));
  }
  const bool strips = Field(info[4], "stripsLeadingSpace").boolean();
  using Made = std::shared_ptr<const grammar::Vocabulary>;
  return Task<Made>::run(
      env,
      [bytes = std::move(bytes), offsets = std::move(offsets), control = copied(info[2], "control"),
       ends = copied(info[3], "ends"), strips]() -> Made {
        return std::make_shared<const grammar::Vocabulary>(bytes, offsets, control, ends, strips);
      },
      [](Napi::Env env, const Made& made) -> Napi::Value {
        auto object = Napi::Object::New(env);
        object.Set("compile", Napi::Function::New<compile>(env, "compile"));
        return wrap(env, made, kVocabularyTag, object);
      });
}

class MatcherObject : public Napi::ObjectWrap<MatcherObject> {
 public:
  static void define(Napi::Env env, Napi::Object exports) {
    exports.Set("Matcher", DefineClass(env, "Matcher",
                                       {InstanceMethod<&MatcherObject::mask>("mask"),
                                        InstanceMethod<&MatcherObject::accept>("accept"),
                                        InstanceMethod<&MatcherObject::probe>("probe"),
                                        InstanceMethod<&MatcherObject::forced>("forced"),
                                        InstanceAccessor<&MatcherObject::complete>("complete"),
                                        InstanceAccessor<&MatcherObject::exhausted>("exhausted")}));
  }

  explicit MatcherObject(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<MatcherObject>(info),
        matcher_(grammar_of(Field(info[0], "grammar")), Field(info[1], "continuation").boolean_or(false)) {}

 private:
  // Bits of the allowed tokens, 32 to a word.
  Napi::Value mask(const Napi::CallbackInfo& info) {
    return guarded(info, [&]() -> Napi::Value {
      const grammar::TokenMask& mask = matcher_.mask();
      auto out = Napi::Uint32Array::New(info.Env(), mask.size() * 2);
      std::memcpy(out.Data(), mask.data(), mask.size() * sizeof(uint64_t));
      return out;
    });
  }
  Napi::Value accept(const Napi::CallbackInfo& info) {
    const auto token = static_cast<int32_t>(Field(info[0], "token").integer(0, INT32_MAX));
    return guarded(info,
                   [&]() -> Napi::Value { return Napi::Boolean::New(info.Env(), matcher_.accept(token)); });
  }
  Napi::Value probe(const Napi::CallbackInfo& info) {
    const auto token = static_cast<int32_t>(Field(info[0], "token").integer(0, INT32_MAX));
    return guarded(info,
                   [&]() -> Napi::Value { return Napi::Boolean::New(info.Env(), matcher_.probe(token)); });
  }
  Napi::Value forced(const Napi::CallbackInfo& info) {
    const auto most = static_cast<size_t>(Field(info[0], "most").integer(0, 1 << 20));
    return guarded(info, [&]() -> Napi::Value {
      std::vector<int32_t> tokens;
      matcher_.forced(most, tokens);
      return to_int32(info.Env(), tokens);
    });
  }
  Napi::Value complete(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), matcher_.complete());
  }
  Napi::Value exhausted(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), matcher_.exhausted());
  }

  template <class F>
  Napi::Value guarded(const Napi::CallbackInfo& info, F&& f) {
    try {
      return f();
    } catch (const Napi::Error&) {
      throw;
    } catch (...) {
      throw to_js_error(info.Env(), std::current_exception());
    }
  }

  grammar::Matcher matcher_;
};

}  // namespace

std::shared_ptr<grammar::Grammar> grammar_of(const Field& value) {
  return unwrap<grammar::Grammar>(value.value(), kGrammarTag, "not a compiled grammar");
}

void define_grammar(Napi::Env env, Napi::Object exports) {
  exports.Set("createVocabulary", Napi::Function::New<create_vocabulary>(env, "createVocabulary"));
  MatcherObject::define(env, exports);
}

}  // namespace filigree::js
