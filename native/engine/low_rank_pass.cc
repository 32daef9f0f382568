#include "engine/low_rank_pass.h"

#include <algorithm>

namespace filigree {
namespace {

constexpr uint32_t kRun = linear::kPanelRows;

// B's products on their way to the output: so many rows of so many panels stay in the first-level cache.
constexpr uint32_t kTileRows = 16, kTilePanels = 8;
constexpr size_t kTileStride = size_t{kTilePanels} * kRun;
constexpr size_t kTileBytes = kTileRows * kTileStride * sizeof(float);

// As in graph.cc: less than so many bytes of weights a thread are not worth waking it.
constexpr uint64_t kWeightBytesPerThread = 48 << 10;
// From so many rows on threads share the rows, below it the panels of A.
constexpr uint32_t kRowsWorthSplitting = 32;

}  // namespace

LowRankPass::LowRankPass(std::span<const Adapter> adapters, uint32_t max_rows, uint32_t max_chunks,
                         ThreadPool& pool)
    : adapters_(adapters), pool_(pool) {
  if (adapters.empty()) return;
  size_t workspace = 0;
  for (const Adapter& adapter : adapters) {
    for (const auto& layer : adapter.layers) {
      for (const LowRank& low : layer) {
        if (low.empty()) continue;
        width_ = std::max(width_, low.rank());
        workspace = std::max(workspace, low.plan.workspace_bytes(max_rows));
        for (const LowRank::Part& part : low.parts)
          workspace = std::max(workspace, part.plan.workspace_bytes(kTileRows));
      }
    }
  }
  runs_.reserve(max_chunks);
  middle_ = AlignedBuffer(size_t{max_rows} * width_ * sizeof(float));
  scratch_bytes_ = (kTileBytes + workspace + 4095) / 4096 * 4096;
  scratch_ = AlignedBuffer(scratch_bytes_ * static_cast<size_t>(pool.size()));
}

void LowRankPass::begin(std::span<const Chunk> chunks) {
  runs_.clear();
  uint32_t row = 0;
  for (const Chunk& chunk : chunks) {
    const uint32_t rows = static_cast<uint32_t>(chunk.tokens.size());
    if (chunk.adapter >= 0) {
      const uint32_t adapter = static_cast<uint32_t>(chunk.adapter);
      const bool follows =
          !runs_.empty() && runs_.back().adapter == adapter && runs_.back().row + runs_.back().rows == row;
      if (follows) {
        runs_.back().rows += rows;
      } else {
        runs_.push_back({adapter, row, rows});
      }
    }
    row += rows;
  }
}

void LowRankPass::shrink(uint32_t layer, Site site, const float* x, size_t stride) {
  for (const Run& run : runs_) {
    const LowRank& low = adapters_[run.adapter].at(layer, site);
    if (low.empty()) continue;
    const linear::Matrix& a = low.a.matrix();
    float* middle = middle_.as<float>() + size_t{run.row} * width_;
    const auto multiply = [&](uint32_t row, uint32_t rows, uint32_t begin, uint32_t end, int thread) {
      if (rows == 0 || begin == end) return;
      linear::Input input;
      input.tokens = rows;
      input.stride = stride;
      input.f32 = x + (size_t{run.row} + row) * stride;
      low.plan.pick(rows).run(a, input, begin, end, middle + size_t{row} * width_, width_,
                              scratch(thread) + kTileBytes);
    };
    const uint64_t work = a.bytes * (1 + run.rows / 4) / kWeightBytesPerThread;
    const int threads = static_cast<int>(std::clamp<uint64_t>(work, 1, static_cast<uint64_t>(pool_.size())));
    const uint32_t panels = linear::panel_count(a);
    if (threads == 1) {
      multiply(0, run.rows, 0, panels, 0);
      continue;
    }
    pool_.run_short(threads, [&](int thread, int of) {
      const auto share = [&](uint32_t n, int part) {
        return static_cast<uint32_t>(uint64_t{n} * static_cast<uint32_t>(part) / static_cast<uint32_t>(of));
      };
      if (run.rows >= kRowsWorthSplitting) {
        const uint32_t row = share(run.rows, thread);
        multiply(row, share(run.rows, thread + 1) - row, 0, panels, thread);
      } else {
        multiply(0, run.rows, share(panels, thread), share(panels, thread + 1), thread);
      }
    });
  }
}

void LowRankPass::add(uint32_t layer, Site site, uint32_t first, uint32_t last, int thread, float* out,
                      size_t stride) {
  for (const Run& run : runs_) {
    for (const LowRank::Part& part : adapters_[run.adapter].at(layer, site).parts)
      add_part(part, run, first, last, thread, out, stride);
  }
}

void LowRankPass::add_part(const LowRank::Part& part, const Run& run, uint32_t first, uint32_t last,
                           int thread, float* out, size_t stride) {
  const linear::Matrix& b = part.b.matrix();
  const uint32_t panels = linear::panel_count(b), step = part.panel_stride;
  // Panels of the part with a column in [first, last); what they hold outside is another thread's.
  const uint32_t begin = first < part.column + kRun ? 0 : (first - part.column - kRun) / step + 1;
  const uint32_t end = last <= part.column ? 0 : std::min(panels, (last - part.column + step - 1) / step);
  float* tile = reinterpret_cast<float*>(scratch(thread));
  for (uint32_t panel = begin; panel < end; panel += kTilePanels) {
    const uint32_t next = std::min(end, panel + kTilePanels);
    // The matrix from this panel on, so that its products begin at the tile's first column.
    linear::Matrix rest = b;
    rest.rows -= panel * kRun;
    rest.values += size_t{panel} * kRun * b.cols * sizeof(float);
    for (uint32_t row = 0; row < run.rows; row += kTileRows) {
      linear::Input input;
      input.tokens = std::min(kTileRows, run.rows - row);
      input.stride = width_;
      input.f32 = middle_.as<float>() + size_t{run.row + row} * width_ + part.first;
      part.plan.pick(input.tokens)
          .run(rest, input, 0, next - panel, tile, kTileStride, scratch(thread) + kTileBytes);
      for (uint32_t p = panel; p < next; ++p) {
        const uint32_t column = part.column + p * step;
        const uint32_t from = std::max(column, first);
        const uint32_t to = std::min({column + std::min(kRun, b.rows - p * kRun), last});
        if (from >= to) continue;
        for (uint32_t t = 0; t < input.tokens; ++t) {
          const float* product = tile + t * kTileStride + size_t{p - panel} * kRun + (from - column);
          float* y = out + size_t{run.row + row + t} * stride + from;
          for (uint32_t i = 0; i < to - from; ++i) y[i] += product[i];
        }
      }
    }
  }
}

}  // namespace filigree
