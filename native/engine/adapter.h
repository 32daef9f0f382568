#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/model_config.h"
#include "engine/weights.h"

namespace filigree {

// Low-rank adapters (LoRA, arXiv 2106.09685): a matrix W of a layer becomes W + scale B A without being touched, so one base in
// memory, its zeros left out, serves any number of them.

// The matrices that an adapter may change, in the order of their rows in a projection.
enum class Target { q, k, v, o, gate, up, down };

// One changed matrix where it lies on disk: A [rank, in], B [out, rank].
struct AdapterPair {
  uint32_t layer = 0;
  Target target = Target::q;
  float scale = 1;
  TensorDesc a, b;
};

struct AdapterDescription {
  std::string name;
  std::vector<std::string> files;
  std::vector<AdapterPair> pairs;
};

inline constexpr uint32_t kMaxRank = 512;

// What an adapter adds to one projection: out += [B of each part] (A x). The parts' A stand one under the other, so that the input
// is read once; scale is folded into B. All in f32.
struct LowRank {
  struct Part {
    PackedMatrix b;  // [out of the part][rank]
    linear::Plan plan;
    uint32_t first = 0;  // of its `rank` values in A x
    // Row r adds to column `column + r / 16 * panel_stride + r % 16` of the projection's output.
    uint32_t column = 0, panel_stride = linear::kPanelRows;
  };
  PackedMatrix a;  // [sum of ranks][in]; empty: nothing is added
  linear::Plan plan;
  std::vector<Part> parts;

  bool empty() const { return parts.empty(); }
  uint32_t rank() const { return empty() ? 0 : a.matrix().rows; }  // of all parts together
};

struct Adapter {
  std::vector<std::array<LowRank, kSites>> layers;
  uint64_t bytes = 0;

  const LowRank& at(uint32_t layer, Site site) const { return layers[layer][static_cast<size_t>(site)]; }
};

// Reads and packs an adapter of the model that `weights` are. Throws Error naming the adapter and the tensor at fault: a shape that
// does not fit the model, a rank of 0 or over kMaxRank, a pair given twice, values that are not finite.
Adapter load_adapter(const AdapterDescription& description, const ModelConfig& config,
                     const ModelWeights& weights, const CpuFeatures& cpu, ThreadPool& pool);

}  // namespace filigree
