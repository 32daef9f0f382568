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
  const SolveContext context{pool, ops, select_codes(detect_cpu())};
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

FILIGREE_ISA_TEST(code_kernels_give_the_bits_of_the_scalar_variant, "scalar avx2 avx512 neon") {
  const CodeOps ops = select_codes(cpu), scalar = select_codes({});
  Random random(23);
  for (const uint32_t n : {1u, 15u, 16u, 47u, 200u}) {
    const std::vector<float> before = noise(random, n), y = noise(random, n);
    std::vector<float> x = before, other = before;
    ops.subtract(x.data(), y.data(), 0.7f, n);
    scalar.subtract(other.data(), y.data(), 0.7f, n);
    check(x == other, "bits of the scalar variant");
    for (uint32_t i = 0; i < n; ++i) {
      const volatile float product = 0.7f * y[i];  // or the compiler may fuse
      check(x[i] == before[i] - product, "rounded twice");
    }
  }
  ThreadPool pool(1);
  const GemmOps gemm = select_gemm({});
  const uint32_t rows = 6, n = 300;  // the last block is shorter
  const Statistics s = statistics_of(pool, gemm, inputs_of(random, 900, n), n);
  DampedHessian hessian(pool, gemm, s.hessian(), n, 0.01);
  uint32_t improved = 0;
  for (const auto& [bits, group] : {std::pair{8, 0u}, std::pair{4, 32u}, std::pair{4, 128u}}) {
    const SolveContext context{pool, gemm};
    const Rounded before = swept(context, random, rows, hessian, bits, group);
    DenseMatrix expected = copy_of(before.weight), actual = copy_of(before.weight);
    Codes expected_codes = before.codes, codes = before.codes;
    refine_codes(context, hessian.values(), before.target, before.mask, 2, expected, expected_codes);
    refine_codes({pool, gemm, ops}, hessian.values(), before.target, before.mask, 2, actual, codes);
    check(codes.values == expected_codes.values && codes.scales == expected_codes.scales, "codes");
    for (size_t i = 0; i < actual.size(); ++i) check(actual.data()[i] == expected.data()[i], "values");
    for (size_t i = 0; i < before.codes.values.size(); ++i)
      improved += before.codes.values[i] != codes.values[i];
  }
  check(improved > 0, "something was there to improve");

  // Where nothing is kept, or where the block has no factor, nothing is written.
  std::vector<float> h(16 * 16, 0.0f), workspace(code_workspace_floats), values(16, 1.0f), change(16, 5.0f);
  std::vector<uint8_t> keep(16, 0);
  std::vector<int8_t> code(16, 1);
  const std::vector<float> gradient(16, 1.0f);
  float scale = 1;
  for (const uint8_t kept : {0, 1}) {
    std::fill(keep.begin(), keep.end(), kept);
    const CodeBlock block{h.data(), 16, 16, keep.data(), gradient.data(), -8, 7, true, 4, 0.06f};
    check(!ops.improve_block(block, workspace.data(), values.data(), code.data(), &scale, change.data()),
          "no");
    check(scale == 1 && values == std::vector<float>(16, 1.0f) && change == std::vector<float>(16, 5.0f),
          "as it was");
  }
}

}  // namespace filigree::test
