#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/cpu_features.h"
#include "engine/model_config.h"
#include "formats/packed_matrix.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/shares.h"

namespace filigree {

class FixedProduct;
class ThreadPool;

// What weights become in memory. automatic keeps the class of each tensor: floating point as bf16, 8 bits (and the 5 and 6 bits
// of GGUF) as i8, 4 bits as i4 with its own groups and minimums.
enum class WeightChoice { automatic, f32, bf16, i8, i4 };

struct WeightOptions {
  WeightChoice matrices = WeightChoice::automatic;
  WeightChoice head = WeightChoice::automatic;  // head and embedding
  bool dense = false;                           // no sparse layout, whatever the zeros
  std::string cache_folder;                     // of packed weights; empty = no cache
  std::string isa;                              // part of the cache's key
};

// Matrices that multiply the same input and write side by side: out[t] = [part 0 | part 1 | ...].
struct Projection {
  struct Part {
    PackedMatrix packed;
    linear::Plan plan;
    std::vector<linear::Share> shares;  // of as many threads as the pool has
    uint32_t column = 0;                // where its rows begin in out
  };
  static constexpr size_t kMostParts = 3;  // q, k and v, each in a format of its own
  std::vector<Part> parts;
  std::shared_ptr<FixedProduct> fixed;  // in place of parts: calibration in block floating point
  uint32_t together = 1;                // panels that one thread computes: pairs where gate and up alternate
  uint32_t in = 0;                      // columns of the input
  uint32_t out = 0;                     // columns of the output
  std::vector<float> bias;              // [out] or empty
  bool wants_f32 = false, wants_bf16 = false, wants_i8 = false;
  uint32_t sum_groups[2] = {0, 0};  // group sizes (32, 128) whose sums the parts need; 0 = unused

  void add(PackedMatrix packed, const CpuFeatures& cpu);
  // Settles how so many threads share the parts.
  void share(int threads);
  uint64_t bytes() const;
};

// A layer's four projections, in the order they are computed.
enum class Site { qkv, output, gate_up, down };
inline constexpr size_t kSites = 4;

struct LayerWeights {
  std::vector<float> attention_norm, ffn_norm;  // [hidden]
  Projection qkv, output, gate_up, down;
  bool interleaved =
      false;  // gate_up rows alternate in runs of 16 (see interleaved_rows.h), else [gate | up]
};

struct WeightStatistics {
  uint64_t bytes = 0;         // packed matrices and vectors
  uint64_t decode_bytes = 0;  // read by one decode step
  uint64_t dense_f32_bytes = 0;
  uint64_t elements = 0, zeros = 0;
  std::map<std::string, uint64_t> formats;  // bytes by "format" or "format-layout"
  bool from_cache = false;
};

struct ModelWeights {
  PackedMatrix embedding;  // empty when the head serves as one
  Projection head;
  std::vector<float> final_norm;
  std::vector<LayerWeights> layers;
  WeightStatistics statistics;
  std::vector<std::string> warnings;

  bool has_embedding() const { return !embedding.empty() || !head.parts.empty(); }
  const linear::Matrix& embedding_matrix() const {
    return embedding.empty() ? head.parts[0].packed.matrix() : embedding.matrix();
  }
};

using LoadProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

// Reads the packed cache if it holds exactly this model in this form; otherwise packs from the model's files, matrix by matrix
// on all threads (nothing is expanded whole), and writes the cache. A cache that cannot be read or written costs a warning.
// Throws Error naming the tensor at fault.
ModelWeights load_weights(const ModelDescription& model, const WeightOptions& options, const CpuFeatures& cpu,
                          ThreadPool& pool, const LoadProgress& progress);

}  // namespace filigree
