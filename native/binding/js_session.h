#pragma once

#include <array>

#include "binding/js_values.h"
#include "compress/session.h"

// What a compression takes from JS and gives back, as plain data.

namespace filigree::js {

SessionOptions session_options(const Field& options);
VocabularyRounding vocabulary_options(const Field& options);
LayerOptions layer_options(const Field& options);

Napi::Value to_js(Napi::Env env, const std::vector<EncodedTensor>& tensors);
Napi::Value to_js(Napi::Env env, const LayerResult& result);
Napi::Value numbers(Napi::Env env, const std::array<double, kLayerMatrices>& values);

}  // namespace filigree::js
