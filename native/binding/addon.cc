#include <napi.h>

#include "binding/engine_object.h"
#include "binding/grammar_object.h"
#include "binding/kernel_bench.h"
#include "binding/session_object.h"
#include "binding/tools.h"

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  filigree::js::EngineObject::define(env, exports);
  filigree::js::SessionObject::define(env, exports);
  filigree::js::define_grammar(env, exports);
  filigree::js::define_tools(env, exports);
  filigree::js::define_kernel_bench(env, exports);
  return exports;
}

NODE_API_MODULE(filigree, initialize)
