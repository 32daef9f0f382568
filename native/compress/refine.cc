#include "compress/refine.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>

#include "base/half.h"
#include "compress/rows.h"

namespace filigree {
namespace {

constexpr uint32_t kWidest = 128;  // columns of a block
constexpr int kDescents = 4;       // passes of coordinate descent within a block

// Trial scales, as multiples of the one there is, on either side of it: many in the first pass, few and close in the later ones.
struct Trials {
  int count;
  float step;
};
constexpr Trials kFirstTrials{4, 0.06f}, kNextTrials{1, 0.03f}, kNoTrials{0, 0.0f};

// Ties to even, for |x| < 2^22; unlike std::nearbyint a pair of additions that becomes vector code.
float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

struct Range {
  float low, high;
  float code(float x) const { return std::min(std::max(nearest(x), low), high); }
};

struct Choice {
  float scale = 0, cost = 0;
  std::array<float, kWidest> codes;
};

// The kept columns of one block of one row, `count` of them, as a problem of their own: cost(q) = (q - optimum)^T h (q - optimum).
class BlockProblem {
 public:
  uint32_t count = 0;
  std::array<uint32_t, kWidest> columns;  // within the block

  // `values` are there now, and `gradient` is half that of the whole error, both from the block's first column on. False where
  // nothing is kept or the block's Hessian has no factor in f32.
  bool load(const float* h, size_t stride, uint32_t width, const uint8_t* keep, const float* values,
            const float* gradient) {
    count = 0;
    for (uint32_t c = 0; c < width; ++c)
      if (keep[c]) columns[count++] = c;
    for (uint32_t i = 0; i < count; ++i) {
      const float* from = h + columns[i] * stride;
      float *row = h_.data() + i * kWidest, *factor = l_.data() + i * kWidest;
      for (uint32_t j = 0; j < count; ++j) row[j] = from[columns[j]];
      std::copy_n(row, i + 1, factor);
    }
    if (count == 0 || !factorize()) return false;
    for (uint32_t i = 0; i < count; ++i) optimum_[i] = -gradient[columns[i]];
    solve(optimum_);
    for (uint32_t i = 0; i < count; ++i) optimum_[i] += values[columns[i]];
    return true;
  }

  // Fills choice.codes for choice.scale, last column first, and its cost.
  void nearest_plane(const Range& range, Choice& choice) const {
    std::array<float, kWidest> pull{};  // sum over later j of L_ji (q_j - optimum_j)
    choice.cost = 0;
    for (uint32_t i = count; i-- > 0;) {
      const float* l = l_.data() + i * kWidest;
      const float code = range.code((optimum_[i] - pull[i] / l[i]) / choice.scale);
      const float off = choice.scale * code - optimum_[i], missed = pull[i] + l[i] * off;
      choice.codes[i] = code;
      choice.cost += missed * missed;
      for (uint32_t j = 0; j < i; ++j) pull[j] += l[j] * off;
    }
  }

  void descend(const Range& range, Choice& choice) const {
    std::array<float, kWidest> gradient;
    times_off(choice, gradient);
    for (int pass = 0; pass < kDescents; ++pass) {
      bool moved = false;
      for (uint32_t i = 0; i < count; ++i) {
        const float* row = h_.data() + i * kWidest;
        const float code = range.code(choice.codes[i] - gradient[i] / (row[i] * choice.scale));
        if (code == choice.codes[i]) continue;
        const float change = choice.scale * (code - choice.codes[i]);
        choice.codes[i] = code;
        for (uint32_t j = 0; j < count; ++j) gradient[j] += change * row[j];
        moved = true;
      }
      if (!moved) break;
    }
  }

  // The least-squares scale of the codes, in f16.
  void refit_scale(Choice& choice) const {
    std::array<float, kWidest> product{};
    for (uint32_t i = 0; i < count; ++i) add_row(i, choice.codes[i], product);
    float with_optimum = 0, with_codes = 0;
    for (uint32_t i = 0; i < count; ++i) {
      with_optimum += product[i] * optimum_[i];
      with_codes += product[i] * choice.codes[i];
    }
    const float scale = with_codes > 0 ? f16_to_f32(f32_to_f16(with_optimum / with_codes)) : 0.0f;
    if (scale != 0 && std::isfinite(scale)) choice.scale = scale;
  }

  void measure(Choice& choice) const {
    std::array<float, kWidest> gradient;
    times_off(choice, gradient);
    choice.cost = 0;
    for (uint32_t i = 0; i < count; ++i)
      choice.cost += gradient[i] * (choice.scale * choice.codes[i] - optimum_[i]);
  }

 private:
  void add_row(uint32_t i, float factor, std::array<float, kWidest>& to) const {
    const float* row = h_.data() + i * kWidest;
    for (uint32_t j = 0; j < count; ++j) to[j] += factor * row[j];
  }

  void times_off(const Choice& choice, std::array<float, kWidest>& out) const {
    out.fill(0);
    for (uint32_t i = 0; i < count; ++i) add_row(i, choice.scale * choice.codes[i] - optimum_[i], out);
  }

  // l_ = the Cholesky factor of the lower part that lies in it.
  bool factorize() {
    std::array<float, kWidest> column;
    for (uint32_t k = 0; k < count; ++k) {
      const float pivot = l_[k * kWidest + k];
      if (!(pivot > 0)) return false;
      const float root = std::sqrt(pivot);
      l_[k * kWidest + k] = root;
      for (uint32_t i = k + 1; i < count; ++i) column[i] = l_[i * kWidest + k] /= root;
      for (uint32_t i = k + 1; i < count; ++i) {
        float* row = l_.data() + i * kWidest;
        const float factor = column[i];
        for (uint32_t j = k + 1; j <= i; ++j) row[j] -= factor * column[j];
      }
    }
    return true;
  }

  void solve(std::array<float, kWidest>& x) const {
    for (uint32_t i = 0; i < count; ++i) {
      const float* l = l_.data() + i * kWidest;
      for (uint32_t j = 0; j < i; ++j) x[i] -= l[j] * x[j];
      x[i] /= l[i];
    }
    for (uint32_t i = count; i-- > 0;) {
      const float* l = l_.data() + i * kWidest;
      x[i] /= l[i];
      for (uint32_t j = 0; j < i; ++j) x[j] -= l[j] * x[i];
    }
  }

  std::array<float, kWidest> optimum_;
  std::vector<float> h_ = std::vector<float>(kWidest * kWidest), l_ = h_;
};

// Puts the better choice for a block in place of `now`; false where there is none.
bool improve(const BlockProblem& problem, const Range& range, bool scales, Trials trials, Choice& now) {
  problem.measure(now);
  Choice best, trial;
  for (int i = -trials.count; i <= trials.count; ++i) {
    trial.scale =
        i == 0 ? now.scale : f16_to_f32(f32_to_f16(now.scale * (1.0f + trials.step * static_cast<float>(i))));
    if (trial.scale == 0) continue;
    problem.nearest_plane(range, trial);
    if (best.scale == 0 || trial.cost < best.cost) best = trial;
  }
  if (best.scale == 0 || now.cost < best.cost) best = now;
  for (int turn = 0; turn < 2; ++turn) {
    problem.descend(range, best);
    if (!scales) break;
    problem.refit_scale(best);
  }
  problem.measure(best);
  if (!(best.cost < 0.99999f * now.cost)) return false;
  now = best;
  return true;
}

}  // namespace

void refine_codes(const SolveContext& context, const float* h, const DenseMatrix& target, const Mask& mask,
                  int passes, DenseMatrix& weight, Codes& codes) {
  const uint32_t rows = weight.rows, n = weight.cols;
  const uint32_t groups = group_count(n, codes.group), width = codes.group == 0 ? n : codes.group;
  const bool scales = codes.bits == 4 && width <= kWidest;
  const Range range = codes.bits == 4 ? Range{-8.0f, 7.0f} : Range{-127.0f, 127.0f};
  const uint32_t step = std::min(width, kWidest);
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
        BlockProblem problem;
        Choice now;
        for (uint32_t r = begin; r < end; ++r) {
          float *values = weight.row(r) + first, *out = change.row(r);
          int8_t* code = codes.values.data() + size_t{r} * n + first;
          float& scale = codes.scales[size_t{r} * groups + first / width];
          std::fill_n(out, wide, 0.0f);
          if (scale == 0) continue;
          if (!problem.load(h + size_t{first} * n + first, n, wide, mask.data() + size_t{r} * n + first,
                            values, gradient.row(r) + first))
            continue;
          now.scale = scale;
          for (uint32_t i = 0; i < problem.count; ++i) now.codes[i] = code[problem.columns[i]];
          if (!improve(problem, range, scales, trials, now)) continue;
          scale = now.scale;
          for (uint32_t i = 0; i < problem.count; ++i) {
            const uint32_t c = problem.columns[i];
            const float value = scale * now.codes[i];
            code[c] = static_cast<int8_t>(now.codes[i]);
            out[c] = value - values[c];
            values[c] = value;
          }
          moved.fetch_add(1, std::memory_order_relaxed);
          any.store(true, std::memory_order_relaxed);
        }
      });
      if (any.load())
        multiply<float>(context.pool, context.ops, rows, n, wide, 1.0f, {change.data(), step, 1},
                        {h + size_t{first} * n, n, 1}, 1.0f, gradient.data(), n);
    }
    if (moved.load() == 0) break;
  }
}

}  // namespace filigree
