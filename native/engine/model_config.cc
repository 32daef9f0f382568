#include "engine/model_config.h"

#include "base/status.h"

namespace filigree {
namespace {

void in_range(const char* field, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return;
  throw Error(ErrorCode::invalid_argument, std::string("the model's ") + field + " is " +
                                               std::to_string(value) + "; this engine runs " +
                                               std::to_string(low) + " to " + std::to_string(high));
}

}  // namespace

void validate(const ModelConfig& c) {
  in_range("hidden size", c.hidden, 1, 1u << 17);
  in_range("intermediate size", c.intermediate, 1, 1u << 19);
  in_range("number of layers", c.layers, 1, 1024);
  in_range("number of heads", c.heads, 1, 1024);
  in_range("number of key-value heads", c.kv_heads, 1, c.heads);
  in_range("head dimension", c.head_dim, 2, 1024);
  in_range("vocabulary size", c.vocabulary, 1, 1u << 24);
  if (c.heads % c.kv_heads != 0) {
    throw Error(ErrorCode::invalid_argument, std::to_string(c.heads) + " heads cannot share " +
                                                 std::to_string(c.kv_heads) + " key-value heads evenly");
  }
  if (c.head_dim % 2 != 0)
    throw Error(ErrorCode::invalid_argument, "an odd head dimension cannot be rotated");
  if (!(c.norm_eps >= 0.0f && c.norm_eps < 1.0f)) {
    throw Error(ErrorCode::invalid_argument, "the model's rms_norm_eps must lie in [0, 1)");
  }
  if (c.sliding_window > (1u << 30))
    throw Error(ErrorCode::invalid_argument, "the model's sliding window is absurd");
}

}  // namespace filigree
