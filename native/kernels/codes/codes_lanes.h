#pragma once

#include "base/half.h"
#include "kernels/codes/codes.h"

namespace filigree {
namespace {

constexpr int kDescents = 4;  // passes of coordinate descent within a block

// Ties to even, for |x| < 2^22.
inline float nearest_code(const CodeBlock& block, float x) {
  const float code = (x + 12582912.0f) - 12582912.0f;
  const float raised = code < block.low ? block.low : code;
  return block.high < raised ? block.high : raised;
}
inline float as_f16(float x) { return f16_to_f32(f32_to_f16(x)); }

struct CodeChoice {
  float scale, cost;
  float codes[kCodeBlock];
};

// The kept columns of a block, `count` of them, as a problem of their own: cost(q) = (q - optimum)^T h (q - optimum). Every sum runs in
// the order of its index, whatever the lanes. Rows are padded with zeros to whole vectors.
template <class V>
class BlockProblem {
 public:
  uint32_t count = 0;
  uint32_t columns[kCodeBlock];  // within the block

  explicit BlockProblem(float* workspace)
      : h_(workspace), lower_(h_ + kCodeBlock * kCodeBlock), upper_(lower_ + kCodeBlock * kCodeBlock) {}

  // False where nothing is kept or the block's Hessian has no factor in f32.
  bool load(const CodeBlock& block, const float* values) {
    count = 0;
    for (uint32_t c = 0; c < block.width; ++c)
      if (block.keep[c]) columns[count++] = c;
    if (count == 0) return false;
    padded_ = (count + 15) / 16 * 16;
    for (uint32_t i = 0; i < count; ++i) {
      const float* from = block.h + columns[i] * block.stride;
      float *row = h_ + i * kCodeBlock, *factor = upper_ + i * kCodeBlock;
      for (uint32_t j = 0; j < count; ++j) row[j] = from[columns[j]];
      for (uint32_t j = count; j < padded_; ++j) row[j] = 0;
      for (uint32_t j = i / 16 * 16; j < padded_; j += 16) V::store(factor + j, V::load(row + j));
    }
    if (!factorize()) return false;
    for (uint32_t i = 0; i < count; ++i) optimum_[i] = -block.gradient[columns[i]];
    for (uint32_t i = count; i < padded_; ++i) optimum_[i] = 0;
    solve();
    for (uint32_t i = 0; i < count; ++i) optimum_[i] += values[columns[i]];
    return true;
  }

  // Fills choice.codes for choice.scale, last column first, and its cost.
  void nearest_plane(const CodeBlock& block, CodeChoice& choice) const {
    float pull[kCodeBlock];  // sum over later j of L_ji (q_j - optimum_j)
    for (uint32_t j = 0; j < padded_; j += 16) V::store(pull + j, V::zero());
    choice.cost = 0;
    for (uint32_t i = count; i-- > 0;) {
      const float code = nearest_code(block, (optimum_[i] - pull[i] / diagonal_[i]) / choice.scale);
      const float off = choice.scale * code - optimum_[i], missed = pull[i] + diagonal_[i] * off;
      choice.codes[i] = code;
      choice.cost += missed * missed;
      add(pull, lower_ + i * kCodeBlock, off, i);
    }
  }

  void descend(const CodeBlock& block, CodeChoice& choice) const {
    float off[kCodeBlock], gradient[kCodeBlock];
    times_off(choice, off, gradient);
    for (int pass = 0; pass < kDescents; ++pass) {
      bool moved = false;
      for (uint32_t i = 0; i < count; ++i) {
        const float* row = h_ + i * kCodeBlock;
        const float code = nearest_code(block, choice.codes[i] - gradient[i] / (row[i] * choice.scale));
        if (code == choice.codes[i]) continue;
        const float change = choice.scale * (code - choice.codes[i]);
        choice.codes[i] = code;
        add(gradient, row, change, count);
        moved = true;
      }
      if (!moved) break;
    }
  }

  // The least-squares scale of the codes, in f16.
  void refit_scale(CodeChoice& choice) const {
    float product[kCodeBlock];
    times(choice.codes, product);
    float with_optimum = 0, with_codes = 0;
    for (uint32_t i = 0; i < count; ++i) {
      with_optimum += product[i] * optimum_[i];
      with_codes += product[i] * choice.codes[i];
    }
    const float scale = with_codes > 0 ? as_f16(with_optimum / with_codes) : 0.0f;
    if (scale != 0 && __builtin_isfinite(scale)) choice.scale = scale;
  }

  void measure(CodeChoice& choice) const {
    float off[kCodeBlock], gradient[kCodeBlock];
    times_off(choice, off, gradient);
    choice.cost = 0;
    for (uint32_t i = 0; i < count; ++i) choice.cost += gradient[i] * off[i];
  }

 private:
  // to[j] += factor * from[j] for j < end, and up to the end of the vector.
  static void add(float* to, const float* from, float factor, uint32_t end) {
    const auto f = V::set(factor);
    for (uint32_t j = 0; j < end; j += 16)
      V::store(to + j, V::add(V::load(to + j), V::mul(f, V::load(from + j))));
  }
  // The same with -=, from the beginning of the vector that holds `begin` to padded_.
  void subtract(float* to, const float* from, float factor, uint32_t begin) const {
    const auto f = V::set(factor);
    for (uint32_t j = begin / 16 * 16; j < padded_; j += 16)
      V::store(to + j, V::sub(V::load(to + j), V::mul(f, V::load(from + j))));
  }

  // out[j] = sum over i of x[i] h_ij.
  void times(const float* x, float* out) const {
    for (uint32_t j = 0; j < padded_; j += 16) {
      auto sum = V::zero();
      for (uint32_t i = 0; i < count; ++i)
        sum = V::add(sum, V::mul(V::set(x[i]), V::load(h_ + i * kCodeBlock + j)));
      V::store(out + j, sum);
    }
  }

  void times_off(const CodeChoice& choice, float* off, float* out) const {
    for (uint32_t i = 0; i < count; ++i) off[i] = choice.scale * choice.codes[i] - optimum_[i];
    times(off, out);
  }

  // upper_ = U of h = U^T U from the upper part of h that lies in it, four rows of U at a time; below its diagonal stays what may be
  // there. lower_ = U^T, zero from its diagonal to the end of the vector; the diagonal goes to diagonal_.
  bool factorize() {
    constexpr uint32_t kPanel = 4;
    for (uint32_t first = 0; first < count; first += kPanel) {
      const uint32_t end = first + kPanel < count ? first + kPanel : count;
      for (uint32_t k = first; k < end; ++k) {
        float* row = upper_ + k * kCodeBlock;
        for (uint32_t p = first; p < k; ++p)
          subtract(row, upper_ + p * kCodeBlock, upper_[p * kCodeBlock + k], k);
        if (!(row[k] > 0)) return false;
        const float root = __builtin_sqrtf(row[k]);
        const auto divisor = V::set(root);
        for (uint32_t j = k / 16 * 16; j < padded_; j += 16)
          V::store(row + j, V::div(V::load(row + j), divisor));
        diagonal_[k] = root;
        float* column = lower_ + k;
        for (uint32_t i = k; i < (k / 16 + 1) * 16; ++i) lower_[k * kCodeBlock + i] = 0;
        for (uint32_t i = k + 1; i < count; ++i) column[i * kCodeBlock] = row[i];
      }
      if (end - first < kPanel) break;  // the last ones
      const float *u0 = upper_ + first * kCodeBlock, *u1 = u0 + kCodeBlock, *u2 = u1 + kCodeBlock,
                  *u3 = u2 + kCodeBlock;
      for (uint32_t i = end; i < count; ++i) {
        float* row = upper_ + i * kCodeBlock;
        const auto f0 = V::set(u0[i]), f1 = V::set(u1[i]), f2 = V::set(u2[i]), f3 = V::set(u3[i]);
        for (uint32_t j = i / 16 * 16; j < padded_; j += 16) {
          auto x = V::sub(V::load(row + j), V::mul(f0, V::load(u0 + j)));
          x = V::sub(x, V::mul(f1, V::load(u1 + j)));
          x = V::sub(x, V::mul(f2, V::load(u2 + j)));
          V::store(row + j, V::sub(x, V::mul(f3, V::load(u3 + j))));
        }
      }
    }
    return true;
  }

  // optimum_ := h^-1 optimum_.
  void solve() {
    float x[kCodeBlock];
    for (uint32_t i = 0; i < count; ++i) {
      x[i] = optimum_[i] / diagonal_[i];
      subtract(optimum_, upper_ + i * kCodeBlock, x[i], i + 1);  // what it does to those before is never read
    }
    for (uint32_t i = count; i < padded_; ++i) x[i] = 0;
    for (uint32_t i = count; i-- > 0;) {
      x[i] /= diagonal_[i];
      add(x, lower_ + i * kCodeBlock, -x[i], i);
    }
    for (uint32_t i = 0; i < padded_; i += 16) V::store(optimum_ + i, V::load(x + i));
  }

  uint32_t padded_ = 0;
  float *h_, *lower_, *upper_;
  float optimum_[kCodeBlock], diagonal_[kCodeBlock];
};

// Puts the better choice for a block in place of `now`; false where there is none.
template <class V>
bool improve_choice(const BlockProblem<V>& problem, const CodeBlock& block, CodeChoice& now) {
  problem.measure(now);
  CodeChoice best, trial;
  best.scale = best.cost = 0;
  for (int i = -block.trials; i <= block.trials; ++i) {
    trial.scale = i == 0 ? now.scale : as_f16(now.scale * (1.0f + block.step * static_cast<float>(i)));
    if (trial.scale == 0) continue;
    problem.nearest_plane(block, trial);
    if (best.scale == 0 || trial.cost < best.cost) best = trial;
  }
  if (best.scale == 0 || now.cost < best.cost) best = now;
  for (int turn = 0; turn < 2; ++turn) {
    problem.descend(block, best);
    if (!block.scales) break;
    problem.refit_scale(best);
  }
  problem.measure(best);
  if (!(best.cost < 0.99999f * now.cost)) return false;
  now = best;
  return true;
}

template <class V>
bool improve_block(const CodeBlock& block, float* workspace, float* values, int8_t* code, float* scale,
                   float* change) {
  BlockProblem<V> problem(workspace);
  if (!problem.load(block, values)) return false;
  CodeChoice now;
  now.scale = *scale;
  for (uint32_t i = 0; i < problem.count; ++i) now.codes[i] = code[problem.columns[i]];
  if (!improve_choice(problem, block, now)) return false;
  *scale = now.scale;
  for (uint32_t i = 0; i < problem.count; ++i) {
    const uint32_t c = problem.columns[i];
    const float value = now.scale * now.codes[i];
    code[c] = static_cast<int8_t>(now.codes[i]);
    change[c] = value - values[c];
    values[c] = value;
  }
  return true;
}

template <class V>
void subtract(float* x, const float* y, float factor, size_t n) {
  const auto f = V::set(factor);
  size_t i = 0;
  for (; i + 16 <= n; i += 16) V::store(x + i, V::sub(V::load(x + i), V::mul(f, V::load(y + i))));
  for (; i < n; ++i) x[i] -= factor * y[i];
}

template <class V>
CodeOps code_ops() {
  return {V::name, improve_block<V>, subtract<V>};
}

}  // namespace
}  // namespace filigree
