#include "compress/refine.h"

#include <algorithm>
#include <atomic>

#include "compress/rows.h"

namespace filigree {
namespace {

// Trial scales, as multiples of the one there is, on either side of it: many in the first pass, few and close in the later ones.
struct Trials {
  int count;
  float step;
};
constexpr Trials kFirstTrials{4, 0.06f}, kNextTrials{1, 0.03f}, kNoTrials{0, 0.0f};

}  // namespace

void refine_codes(const SolveContext& context, const float* h, const DenseMatrix& target, const Mask& mask,
                  int passes, DenseMatrix& weight, Codes& codes) {
  const uint32_t rows = weight.rows, n = weight.cols;
  const uint32_t groups = group_count(n, codes.group), width = codes.group == 0 ? n : codes.group;
  const bool scales = codes.bits == 4 && width <= kCodeBlock;
  const float low = codes.bits == 4 ? -8.0f : -127.0f, high = codes.bits == 4 ? 7.0f : 127.0f;
  const uint32_t step = std::min(width, kCodeBlock);
  DenseMatrix gradient("", rows, n), change("", rows, step);
  {
    DenseMatrix difference("", rows, n);
    for (size_t i = 0; i < weight.size(); ++i) difference.data()[i] = weight.data()[i] - target.data()[i];
    multiply<float>(context.pool, context.ops, rows, n, n, 1.0f, {difference.data(), n, 1}, {h, n, 1}, 0.0f,
                    gradient.data(), n);
  }
  for (int pass = 0; pass < passes; ++pass) {
    const Trials trials = !scales ? kNoTrials : pass == 0 ? kFirstTrials : kNextTrials;
    std::atomic<uint64_t> moved{0};
    for (uint32_t first = 0; first < n; first += step) {
      const uint32_t wide = std::min(step, n - first);
      std::atomic<bool> any{false};
      share_rows(context.pool, rows, [&](uint32_t begin, uint32_t end) {
        std::vector<float> workspace(code_workspace_floats);
        for (uint32_t r = begin; r < end; ++r) {
          float* out = change.row(r);
          const size_t at = size_t{r} * n + first;
          float& scale = codes.scales[size_t{r} * groups + first / width];
          std::fill_n(out, wide, 0.0f);
          if (scale == 0) continue;
          const CodeBlock block{h + size_t{first} * n + first,
                                n,
                                wide,
                                mask.data() + at,
                                gradient.data() + at,
                                low,
                                high,
                                scales,
                                trials.count,
                                trials.step};
          if (!context.codes.improve_block(block, workspace.data(), weight.data() + at,
                                           codes.values.data() + at, &scale, out))
            continue;
          moved.fetch_add(1, std::memory_order_relaxed);
          any.store(true, std::memory_order_relaxed);
        }
      });
      // After the last pass nobody asks for the gradient of what lies behind.
      const uint32_t from = pass + 1 == passes ? first + wide : 0;
      if (any.load() && from < n)
        multiply<float>(context.pool, context.ops, rows, n - from, wide, 1.0f, {change.data(), step, 1},
                        {h + size_t{first} * n + from, n, 1}, 1.0f, gradient.data() + from, n);
    }
    if (moved.load() == 0) break;
  }
}

}  // namespace filigree
