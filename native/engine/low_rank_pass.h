#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "engine/adapter.h"
#include "engine/backend.h"

namespace filigree {

// The adapters' share of a forward pass: y[t] += B (A x[t]) for the rows t of sequences that have an adapter, in two halves around
// the projection. shrink() computes A x into a small buffer before it; expand() adds B to the columns that a thread of the
// projection has just written, so no barrier is added. x is the projection's input in f32, before it is quantized.
//
// Rows of one adapter should stand together: they then read its matrices once. The linear kernels sum in one order whatever the
// batch, so a row's result depends on its sequence and its adapter alone. A step without adapters costs one comparison a
// projection. Nothing is allocated after construction.
class LowRankPass {
 public:
  LowRankPass(std::span<const Adapter> adapters, uint32_t max_rows, uint32_t max_chunks, ThreadPool& pool);

  // Announces the rows of the coming pass, chunk after chunk.
  void begin(std::span<const Chunk> chunks);
  // x: the input of the projection at `site`, rows `stride` floats apart.
  void shrink(uint32_t layer, Site site, const float* x, size_t stride);
  // Adds to columns [first, last) of the projection's output, on pool thread `thread`.
  void expand(uint32_t layer, Site site, uint32_t first, uint32_t last, int thread, float* out,
              size_t stride) {
    if (!runs_.empty()) add(layer, site, first, last, thread, out, stride);
  }

  size_t workspace_bytes() const { return middle_.size() + scratch_.size(); }

 private:
  // Neighbouring rows that share an adapter.
  struct Run {
    uint32_t adapter, row, rows;
  };

  void add(uint32_t layer, Site site, uint32_t first, uint32_t last, int thread, float* out, size_t stride);
  void add_part(const LowRank::Part& part, const Run& run, uint32_t first, uint32_t last, int thread,
                float* out, size_t stride);
  std::byte* scratch(int thread) { return scratch_.data() + scratch_bytes_ * static_cast<size_t>(thread); }

  std::span<const Adapter> adapters_;
  ThreadPool& pool_;
  std::vector<Run> runs_;
  uint32_t width_ = 0;     // of a row of middle_: the largest sum of ranks
  AlignedBuffer middle_;   // A x, [max_rows][width]
  AlignedBuffer scratch_;  // per thread: a tile of products, then the kernels' workspace
  size_t scratch_bytes_ = 0;
};

}  // namespace filigree
