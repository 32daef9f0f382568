#pragma once

#include "binding/js_values.h"
#include "engine/engine.h"
#include "kernels/sample/sample.h"

// The shapes of src/native/addon-types.ts as the engine's structs.

namespace filigree::js {

TensorDesc tensor_desc(const Field& entry);
std::vector<std::string> file_paths(const Field& files);
ModelDescription model_description(const Field& manifest);
EngineOptions engine_options(const Field& options);
SamplingParams sampling_params(const Field& params, int64_t vocabulary);

}  // namespace filigree::js
