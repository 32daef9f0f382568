#pragma once

#include <napi.h>

namespace filigree::js {

// Functions that need no engine: cpuInfo, gpus, measureReadBandwidth, countZeros, readRows.
void define_tools(Napi::Env env, Napi::Object exports);

}  // namespace filigree::js
