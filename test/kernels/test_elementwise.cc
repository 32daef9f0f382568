// norm, activation, rope's rotation and quantize: every variant gives the scalar variant's bits, and that one is close to the
// formula in double precision.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/half.h"
#include "harness.h"
#include "kernels/activation/activation.h"
#include "kernels/norm/norm.h"
#include "kernels/quantize/quantize.h"
#include "kernels/rope/rope.h"

namespace filigree::test {
namespace {

constexpr const char* kGuard = "written outside of the row";
const float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

// A row at an odd address, with guards on both sides.
template <class T>
struct Row {
  std::vector<T> memory;
  size_t n;
  explicit Row(size_t n) : memory(n + 35, T(77)), n(n) {}
  T* data() { return memory.data() + 3; }
  bool guarded() const {
    for (size_t i = 0; i < memory.size(); ++i) {
      if ((i < 3 || i >= n + 3) && !(memory[i] == T(77))) return false;
    }
    return true;
  }
};

Row<float> random_row(Random& random, size_t n, float scale = 1.0f) {
  Row<float> row(n);
  for (size_t i = 0; i < n; ++i) row.data()[i] = scale * random.normal();
  return row;
}

// Equal bits; NaNs may differ in sign and payload.
bool same(const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    if (std::memcmp(a + i, b + i, 4) != 0 && !(std::isnan(a[i]) && std::isnan(b[i]))) return false;
  }
  return true;
}

std::vector<size_t> lengths() {
  std::vector<size_t> all;
  for (size_t n = 1; n <= 300; ++n) all.push_back(n);
  for (size_t n : {576, 1000, 2048, 5632, 11008}) all.push_back(n);
  return all;
}

}  // namespace

FILIGREE_ISA_TEST(rms_norm_matches, "scalar avx2 avx512 neon") {
  const NormOps ops = select_norm(cpu), scalar = select_norm(CpuFeatures{});
  check_equal(std::string(ops.variant), std::string(isa));
  Random random(11);
  for (size_t n : lengths()) {
    for (float scale : {1.0f, 1e-20f, 1e16f}) {
      Row<float> x = random_row(random, n, scale), w = random_row(random, n), out(n), expected(n);
      ops.rms_norm(x.data(), w.data(), 1e-5f, n, out.data());
      scalar.rms_norm(x.data(), w.data(), 1e-5f, n, expected.data());
      check(same(out.data(), expected.data(), n), "differs from scalar");
      check(out.guarded(), kGuard);
      double sum = 0;
      for (size_t i = 0; i < n; ++i) sum += static_cast<double>(x.data()[i]) * x.data()[i];
      const double inverse = 1 / std::sqrt(sum / static_cast<double>(n) + 1e-5);
      // A lane adds at most n/16 + 2 squares, then six more levels; half of that relative error after the root; five roundings.
      const double bound = ((static_cast<double>(n) / 16 + 8) / 2 + 5) * 0x1p-24;
      for (size_t i = 0; i < n; ++i) {
        const double y = x.data()[i] * inverse * w.data()[i];
        check_near(out.data()[i], y, std::abs(y) * bound + 1e-37, "rms_norm");
      }
      ops.rms_norm(x.data(), w.data(), 1e-5f, n, x.data());
      check(same(x.data(), expected.data(), n), "in place");
    }
  }
  for (float special : {kNan, kInf, 3e38f}) {
    Row<float> x = random_row(random, 40), w = random_row(random, 40), out(40), expected(40);
    x.data()[37] = special;
    ops.rms_norm(x.data(), w.data(), 1e-5f, 40, out.data());
    scalar.rms_norm(x.data(), w.data(), 1e-5f, 40, expected.data());
    check(same(out.data(), expected.data(), 40), "special values");
  }
}

FILIGREE_ISA_TEST(add_matches, "scalar avx2 avx512 neon") {
  const NormOps ops = select_norm(cpu);
  Random random(12);
  for (size_t n : lengths()) {
    Row<float> x = random_row(random, n), y = random_row(random, n), before = x;
    ops.add(x.data(), y.data(), n);
    bool ok = x.guarded();
    for (size_t i = 0; i < n; ++i) ok = ok && x.data()[i] == before.data()[i] + y.data()[i];
    check(ok);
  }
}

FILIGREE_ISA_TEST(swiglu_matches, "scalar avx2 avx512 neon") {
  const ActivationOps ops = select_activation(cpu), scalar = select_activation(CpuFeatures{});
  check_equal(std::string(ops.variant), std::string(isa));
  Random random(13);
  for (size_t n : lengths()) {
    for (float scale : {1.0f, 20.0f, 60.0f}) {
      Row<float> g = random_row(random, n, scale), u = random_row(random, n), out(n), expected(n);
      ops.swiglu(g.data(), u.data(), n, out.data());
      scalar.swiglu(g.data(), u.data(), n, expected.data());
      check(same(out.data(), expected.data(), n), "differs from scalar");
      check(out.guarded(), kGuard);
      for (size_t i = 0; i < n; ++i) {
        const double x = g.data()[i], y = x / (1 + std::exp(-x)) * u.data()[i];
        // exp 2 ulp, then add, divide, multiply; results below the smallest normal number lose digits.
        check_near(out.data()[i], y, std::abs(y) * 6 * 0x1p-24 + 1e-36, "swiglu");
      }
    }
  }
  // Every binade of both signs, and what is not a number.
  for (uint32_t bits = 0; bits < 0xfff00000u; bits += 0x000fffffu) {
    float g[16], u[16], out[16], expected[16];
    for (uint32_t i = 0; i < 16; ++i) {
      const uint32_t pattern = bits + i * 0xffffu;
      std::memcpy(&g[i], &pattern, 4);
      u[i] = 1.0f;
    }
    ops.swiglu(g, u, 16, out);
    scalar.swiglu(g, u, 16, expected);
    check(same(out, expected, 16), "bit patterns");
  }
  const float x[4] = {0.0f, kInf, -200.0f, kNan}, one[4] = {1, 1, 1, 1};
  float y[4];
  ops.swiglu(x, one, 4, y);
  check(y[0] == 0.0f && y[1] == kInf && y[2] == 0.0f && std::isnan(y[3]), "extremes");
}

FILIGREE_ISA_TEST(rope_rotation_matches, "scalar avx2 avx512 neon") {
  const RopeOps ops = select_rope(cpu), scalar = select_rope(CpuFeatures{});
  Random random(14);
  for (size_t head_dim : {2, 6, 30, 32, 64, 80, 96, 100, 128, 256}) {
    for (size_t heads : {1, 3, 9}) {
      Row<float> row = random_row(random, heads * head_dim), c = random_row(random, head_dim / 2),
                 s = random_row(random, head_dim / 2), before = row, expected = row;
      ops.apply(row.data(), heads, head_dim, c.data(), s.data());
      scalar.apply(expected.data(), heads, head_dim, c.data(), s.data());
      check(same(row.data(), expected.data(), row.n), "differs from scalar");
      check(row.guarded(), kGuard);
      for (size_t h = 0; h < heads; ++h) {
        for (size_t i = 0; i < head_dim / 2; ++i) {
          const double a = before.data()[h * head_dim + i],
                       b = before.data()[h * head_dim + i + head_dim / 2];
          const double size = std::abs(a) + std::abs(b),
                       bound = 4 * 0x1p-24 * size * (std::abs(c.data()[i]) + std::abs(s.data()[i]));
          check_near(row.data()[h * head_dim + i], a * c.data()[i] - b * s.data()[i], bound);
          check_near(row.data()[h * head_dim + i + head_dim / 2], b * c.data()[i] + a * s.data()[i], bound);
        }
      }
    }
  }
}

FILIGREE_ISA_TEST(quantize_row_i8_matches, "scalar avx2 avx512 neon") {
  const QuantizeOps ops = select_quantize(cpu), scalar = select_quantize(CpuFeatures{});
  check_equal(std::string(ops.variant), std::string(isa));
  Random random(15);
  for (size_t n : lengths()) {
    for (float scale : {1.0f, 1e-25f, 1e37f, 1e-35f, 0.0f}) {
      Row<float> x = random_row(random, n, scale);
      Row<int8_t> q(n), expected(n);
      float s = -1, es = -1;
      ops.quantize_row_i8(x.data(), n, q.data(), &s);
      scalar.quantize_row_i8(x.data(), n, expected.data(), &es);
      check(q.memory == expected.memory && s == es, "differs from scalar");
      float absmax = 0;
      for (size_t i = 0; i < n; ++i) absmax = std::max(absmax, std::abs(x.data()[i]));
      if (absmax < 0x1p-100f) {
        check(s == 0);
        continue;
      }
      check_near(s, absmax / 127.0, absmax * 1e-9 + s * 0x1p-24);
      for (size_t i = 0; i < n; ++i) {
        check(q.data()[i] != -128);
        check(std::abs(q.data()[i] * static_cast<double>(s) - x.data()[i]) <= s * 0.50002, "half a step");
      }
    }
  }
  for (float special : {kNan, kInf, -kInf}) {
    for (size_t at : {size_t{0}, size_t{17}, size_t{36}}) {
      Row<float> x = random_row(random, 37);
      x.data()[at] = special;
      Row<int8_t> q(37);
      float s = 0;
      ops.quantize_row_i8(x.data(), 37, q.data(), &s);
      bool zero = true;
      for (size_t i = 0; i < 37; ++i) zero = zero && q.data()[i] == 0;
      check(std::isnan(s) && zero, "not finite");
    }
  }
  const float ties[4] = {127.0f, 0.5f, 1.5f, -2.5f};
  int8_t q[4];
  float s;
  ops.quantize_row_i8(ties, 4, q, &s);
  check(s == 1.0f && q[0] == 127 && q[1] == 0 && q[2] == 2 && q[3] == -2, "ties to even");
}

FILIGREE_ISA_TEST(sum_squares_and_residual_match, "scalar avx2 avx512 neon") {
  const QuantizeOps ops = select_quantize(cpu), scalar = select_quantize(CpuFeatures{});
  Random random(18);
  for (size_t n = 1; n <= 300; ++n) {
    Row<float> x = random_row(random, n);
    double exact = 0;
    for (size_t i = 0; i < n; ++i) exact += double{x.data()[i]} * x.data()[i];
    const float sum = ops.sum_squares(x.data(), n);
    check_equal(sum, scalar.sum_squares(x.data(), n));
    check_near(sum, exact, exact * static_cast<double>(n) * 0x1p-24);

    Row<int8_t> q(n);
    Row<float> rest(n), expected(n);
    float scale = 0;
    ops.quantize_row_i8(x.data(), n, q.data(), &scale);
    ops.residual(x.data(), n, q.data(), scale, rest.data());
    scalar.residual(x.data(), n, q.data(), scale, expected.data());
    check(rest.guarded(), kGuard);
    for (size_t i = 0; i < n; ++i) {
      check_equal(rest.data()[i], expected.data()[i]);
      check(std::abs(rest.data()[i]) <= scale * 0.50002, "half a step");
    }
  }
}

FILIGREE_ISA_TEST(group_sums_are_exact, "scalar avx2 avx512 neon") {
  const QuantizeOps ops = select_quantize(cpu);
  Random random(16);
  for (size_t n = 1; n <= 300; ++n) {
    for (size_t group : {size_t{1}, size_t{7}, size_t{32}, size_t{128}, size_t{1000}}) {
      Row<int8_t> q(n);
      for (size_t i = 0; i < n; ++i)
        q.data()[i] = static_cast<int8_t>(static_cast<int>(random.below(256)) - 128);
      if (n % 3 == 0) std::memset(q.data(), -128, n);
      std::vector<int32_t> sums((n + group - 1) / group + 1, 99), expected = sums;
      for (size_t g = 0; g * group < n; ++g) {
        expected[g] = 0;
        for (size_t i = g * group; i < n && i < (g + 1) * group; ++i) expected[g] += q.data()[i];
      }
      ops.group_sums(q.data(), n, group, sums.data());
      check(sums == expected);
    }
  }
}

FILIGREE_ISA_TEST(to_bf16_is_exact, "scalar avx2 avx512 neon") {
  const QuantizeOps ops = select_quantize(cpu);
  Random random(17);
  for (size_t n = 1; n <= 300; ++n) {
    Row<float> x(n);
    Row<uint16_t> out(n);
    for (size_t i = 0; i < n; ++i) {
      const uint32_t bits = static_cast<uint32_t>(random.bits());
      std::memcpy(x.data() + i, &bits, 4);
    }
    ops.to_bf16(x.data(), n, out.data());
    check(out.guarded(), kGuard);
    for (size_t i = 0; i < n; ++i) check_equal(out.data()[i], f32_to_bf16(x.data()[i]));
  }
}

}  // namespace filigree::test
