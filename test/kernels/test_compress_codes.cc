// How native/compress chooses codes and scales.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/half.h"
#include "compress/masks.h"
#include "compress/refine.h"
#include "compress/sweep.h"
#include "compress_inputs.h"
#include "harness.h"

namespace filigree::test {
namespace {

struct Rounded {
  DenseMatrix target, weight;
  Mask mask;
  Codes codes;
};

// Normal weights under a random mask of half of them, rounded by the sweep.
Rounded swept(const SolveContext& context, Random& random, uint32_t rows, DampedHessian& hessian, int bits,
              uint32_t group) {
  Rounded out;
  const uint32_t n = hessian.size();
  out.target = matrix_of(random, rows, n);
  out.mask.resize(out.target.size());
  for (uint8_t& keep : out.mask) keep = random.below(2) == 0;
  apply_mask(context.pool, out.mask, out.target);
  out.weight = copy_of(out.target);
  sweep_quantize(context, bits, group, out.mask, hessian, out.weight, out.codes);
  return out;
}

}  // namespace

FILIGREE_TEST(refined_codes_miss_less_and_end_where_no_code_alone_helps) {
  Random random(21);
  ThreadPool pool(2);
  const GemmOps ops = select_gemm(detect_cpu());
  const SolveContext context{pool, ops};
  const uint32_t rows = 12, n = 200;  // the last group is shorter
  const Statistics s = statistics_of(pool, ops, inputs_of(random, 900, n), n);
  DampedHessian hessian(pool, ops, s.hessian(), n, 0.01);
  const float* h = hessian.values();
  struct Case {
    int bits;
    uint32_t group;
    double gain;  // of the error, at least
  };
  for (const auto& [bits, group, gain] : {Case{8, 0, 0.0}, Case{4, 32, 0.02}, Case{4, 128, 0.02}}) {
    Rounded m = swept(context, random, rows, hessian, bits, group);
    const double before = error_of(h, m.weight, m.target);
    refine_codes(context, h, m.target, m.mask, 1, m.weight, m.codes);
    const double once = error_of(h, m.weight, m.target);
    check(once <= (1 - gain) * before * (1 + 1e-5),
          std::to_string(bits) + " bits: " + std::to_string(once / before) + " of the error is left");
    refine_codes(context, h, m.target, m.mask, 50, m.weight, m.codes);
    const double after = error_of(h, m.weight, m.target);
    check(after <= once * (1 + 1e-5), "more passes miss no more");

    const uint32_t groups = group_count(n, m.codes.group);
    const int low = bits == 8 ? -127 : -8, high = bits == 8 ? 127 : 7;
    for (uint32_t r = 0; r < rows; ++r) {
      for (uint32_t c = 0; c < n; ++c) {
        const size_t at = size_t{r} * n + c;
        const int code = m.codes.values[at];
        const float scale = m.codes.scales[r * groups + (group == 0 ? 0 : c / group)];
        check_equal(m.weight.row(r)[c], scale * static_cast<float>(code), "value of its code");
        if (bits == 4) check_equal(scale, f16_to_f32(f32_to_f16(scale)), "a scale of f16");
        check(code >= low && code <= high, "a code within range");
        if (!m.mask[at]) check_equal(code, 0, "zeros stay");
        if (!m.mask[at]) continue;
        double gradient = 0;
        for (uint32_t j = 0; j < n; ++j)
          gradient += double{h[size_t{c} * n + j]} * (m.weight.row(r)[j] - m.target.row(r)[j]);
        for (const int step : {-1, 1}) {
          if (code + step < low || code + step > high) continue;
          const double change = double{scale} * step;
          const double worse = change * (2 * gradient + change * h[size_t{c} * n + c]);
          check(worse > -1e-3 * after, "a code alone makes it better");
        }
      }
    }
  }
}

FILIGREE_TEST(codes_do_not_depend_on_the_number_of_threads) {
  const GemmOps ops = select_gemm(detect_cpu());
  std::vector<int8_t> codes;
  for (const int threads : {1, 3}) {
    Random random(22);
    ThreadPool pool(threads);
    const uint32_t n = 160;
    const Statistics s = statistics_of(pool, ops, inputs_of(random, 500, n), n);
    DampedHessian hessian(pool, ops, s.hessian(), n, 0.01);
    Rounded m = swept({pool, ops}, random, 17, hessian, 4, 32);
    refine_codes({pool, ops}, hessian.values(), m.target, m.mask, 3, m.weight, m.codes);
    if (threads > 1) check(codes == m.codes.values, "the same codes");
    codes = m.codes.values;
  }
}

}  // namespace filigree::test
