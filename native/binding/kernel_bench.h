#pragma once

#include <napi.h>

namespace filigree::js {

// measurePeak and packKernelMatrix of the addon (src/native/addon-types.ts): single kernels timed from JS, which interleaves them.
void define_kernel_bench(Napi::Env env, Napi::Object exports);

}  // namespace filigree::js
