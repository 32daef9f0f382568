// The solvers of native/compress against small scalar code that follows the papers' formulas directly.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/half.h"
#include "base/status.h"
#include "compress/alps.h"
#include "compress/encode.h"
#include "compress/factor.h"
#include "compress/masks.h"
#include "compress/round.h"
#include "compress/solve.h"
#include "compress/sweep.h"
#include "compress_inputs.h"
#include "harness.h"

namespace filigree::test {
namespace {

constexpr const char* kIsas = "scalar avx2 avx512 avx512bf16 neon";

// SparseGPT's algorithm 1 as the paper writes it, with the inverse Hessian updated column by column (its eq. 3 and 5) in f64: no
// Cholesky factor, no lazy blocks.
DenseMatrix plain_sparsegpt(const DenseMatrix& weight, std::vector<double> inverse, uint32_t keep,
                            uint32_t of) {
  const uint32_t n = weight.cols;
  DenseMatrix w = copy_of(weight);
  std::vector<std::vector<double>> rows(w.rows, std::vector<double>(n));
  for (uint32_t r = 0; r < w.rows; ++r)
    for (uint32_t c = 0; c < n; ++c) rows[r][c] = w.row(r)[c];
  std::vector<std::vector<uint8_t>> kept(w.rows, std::vector<uint8_t>(n, 1));
  std::vector<std::vector<double>> inverses;  // the inverse over columns i.., for every i
  for (uint32_t i = 0; i < n; ++i) {
    inverses.push_back(inverse);
    const double pivot = inverse[size_t{i} * n + i];
    for (uint32_t a = i + 1; a < n; ++a)
      for (uint32_t b = i + 1; b < n; ++b)
        inverse[size_t{a} * n + b] -= inverse[size_t{a} * n + i] * inverse[size_t{i} * n + b] / pivot;
  }
  for (uint32_t r = 0; r < w.rows; ++r) {
    for (uint32_t i = 0; i < n; ++i) {
      if (i % of == 0) {
        std::vector<float> scores(of);
        for (uint32_t j = 0; j < of; ++j) {
          const double d = inverses[i + j][size_t{i + j} * n + i + j];
          scores[j] = static_cast<float>(rows[r][i + j] * rows[r][i + j] / d);
        }
        choose_group(scores.data(), of, keep, kept[r].data() + i);
      }
      if (kept[r][i]) continue;
      const std::vector<double>& h = inverses[i];
      const double e = rows[r][i] / h[size_t{i} * n + i];
      for (uint32_t j = i; j < n; ++j) rows[r][j] -= e * h[size_t{i} * n + j];
      rows[r][i] = 0;
    }
    for (uint32_t c = 0; c < n; ++c) w.row(r)[c] = static_cast<float>(rows[r][c]);
  }
  return w;
}

uint64_t zeros_of(const DenseMatrix& m) {
  return static_cast<uint64_t>(std::count(m.data(), m.data() + m.size(), 0.0f));
}

}  // namespace

FILIGREE_ISA_TEST(gemm_tiles_and_blocks_agree_with_a_double_loop, kIsas) {
  const GemmOps ops = select_gemm(cpu);
  Random random(1);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (const auto& [m, n, k] :
         {std::array<size_t, 3>{1, 1, 1}, {5, 37, 193}, {150, 530, 7}, {31, 64, 400}}) {
      const std::vector<float> a = noise(random, m * k), b = noise(random, k * n);
      std::vector<float> c(m * n, 2.0f);
      multiply<float>(pool, ops, m, n, k, -1.0f, {a.data(), 1, m}, {b.data(), 1, k}, 0.5f, c.data(), n);
      for (size_t i = 0; i < m; ++i) {
        for (size_t j = 0; j < n; ++j) {
          double sum = 0, size = 0;
          for (size_t p = 0; p < k; ++p) {
            sum += double{a[p * m + i]} * b[j * k + p];
            size += std::fabs(double{a[p * m + i]} * b[j * k + p]);
          }
          check_near(c[i * n + j], 1.0 - sum, 6e-8 * (static_cast<double>(k) + 2) * (size + 1),
                     "f32 product");
        }
      }
    }
  }
}

FILIGREE_ISA_TEST(gemm_gives_the_bits_of_the_scalar_variant, kIsas) {
  Random random(2);
  const GemmOps ops = select_gemm(cpu), scalar = select_gemm(restrict_to(cpu, "scalar"));
  ThreadPool pool(2);
  const size_t m = 61, n = 77, k = 430;
  const std::vector<float> a = noise(random, m * k), b = noise(random, k * n);
  std::vector<float> ours(m * n), theirs(m * n);
  multiply<float>(pool, ops, m, n, k, 1.0f, {a.data(), k, 1}, {b.data(), n, 1}, 0.0f, ours.data(), n);
  multiply<float>(pool, scalar, m, n, k, 1.0f, {a.data(), k, 1}, {b.data(), n, 1}, 0.0f, theirs.data(), n);
  check(ours == theirs, "bits");
}

FILIGREE_ISA_TEST(gram_is_the_upper_part_of_xtx, kIsas) {
  Random random(3);
  const GemmOps ops = select_gemm(cpu);
  ThreadPool pool(2);
  const uint32_t rows = 201, n = 150;
  const std::vector<float> x = inputs_of(random, rows, n);
  for (const bool bf16 : {false, true}) {
    std::vector<float> c(size_t{n} * n);
    add_gram(pool, ops, rows, n, x.data(), n, bf16, c.data());
    for (uint32_t i = 0; i < n; ++i) {
      for (uint32_t j = i; j < n; ++j) {
        double sum = 0, size = 0;
        for (uint32_t r = 0; r < rows; ++r) {
          sum += double{x[size_t{r} * n + i]} * x[size_t{r} * n + j];
          size += std::fabs(double{x[size_t{r} * n + i]} * x[size_t{r} * n + j]);
        }
        check_near(c[size_t{i} * n + j], sum, (bf16 ? 0.008 : 2e-5) * size, bf16 ? "bf16" : "f32");
      }
    }
  }
}

FILIGREE_ISA_TEST(inverse_factor_and_inverse_undo_the_hessian, kIsas) {
  Random random(4);
  const GemmOps ops = select_gemm(cpu);
  ThreadPool pool(2);
  const uint32_t n = 149;
  const Statistics s = statistics_of(pool, ops, inputs_of(random, 400, n), n);
  DampedHessian h(pool, ops, s.hessian(), n, 0.01);
  check_near(h.damping(), 0.01, 0, "no more damping than asked");
  const float* u = h.inverse_factor();
  const AlignedBuffer inverse = ridge_inverse(pool, ops, h.values(), n, 0.0);
  double worst = 0, worst_inverse = 0;
  for (uint32_t i = 0; i < n; ++i) {
    for (uint32_t j = 0; j < n; ++j) {
      check(j >= i || u[size_t{i} * n + j] == 0, "upper");
      double product = 0, direct = 0;  // of U^T U and of the inverse with H
      for (uint32_t p = 0; p < n; ++p) {
        double entry = 0;
        for (uint32_t q = 0; q <= std::min(i, p); ++q)
          entry += double{u[size_t{q} * n + i]} * u[size_t{q} * n + p];
        product += entry * h.values()[size_t{p} * n + j];
        direct += double{inverse.as<float>()[size_t{i} * n + p]} * h.values()[size_t{p} * n + j];
      }
      worst = std::max(worst, std::fabs(product - (i == j)));
      worst_inverse = std::max(worst_inverse, std::fabs(direct - (i == j)));
    }
  }
  check(worst < 2e-3, "U^T U H = I");
  check(worst_inverse < 2e-3, "P H = I");
}

FILIGREE_TEST(factors_of_every_size_undo_the_hessian_on_random_vectors) {
  Random random(14);
  const GemmOps ops = select_gemm(detect_cpu());
  ThreadPool pool(2);
  // One element, one block, halves of halves, and more than a chunk on both sides of the middle.
  for (const uint32_t n : {1u, 64u, 65u, 330u, 1100u}) {
    // The covariance of a first-order autoregression, columns of several sizes: positive definite.
    std::vector<float> h(size_t{n} * n);
    for (uint32_t i = 0; i < n; ++i)
      for (uint32_t j = 0; j < n; ++j)
        h[size_t{i} * n + j] = std::pow(0.9f, std::fabs(static_cast<float>(i) - static_cast<float>(j))) *
                               static_cast<float>((1 + i % 5) * (1 + j % 5));
    DampedHessian damped(pool, ops, h.data(), n, 0.01);
    const float* u = damped.inverse_factor();
    const AlignedBuffer inverse = ridge_inverse(pool, ops, damped.values(), n, 0.5);
    const auto times = [&](const float* m, const std::vector<double>& x, bool transposed) {
      std::vector<double> y(n);
      for (uint32_t i = 0; i < n; ++i)
        for (uint32_t j = 0; j < n; ++j) y[i] += m[transposed ? size_t{j} * n + i : size_t{i} * n + j] * x[j];
      return y;
    };
    for (int vector = 0; vector < 3; ++vector) {
      std::vector<double> x(n);
      for (double& value : x) value = random.normal();
      const std::vector<double> back = times(damped.values(), times(u, times(u, x, false), true), false);
      std::vector<double> ridged = times(inverse.as<float>(), x, false);
      const std::vector<double> product = times(damped.values(), ridged, false);
      for (uint32_t i = 0; i < n; ++i) {
        check_near(back[i], x[i], 5e-3, "H U^T U x = x");
        check_near(product[i] + 0.5 * ridged[i], x[i], 5e-3, "(H + ridge) P x = x");
      }
    }
  }
}

FILIGREE_TEST(matrices_that_share_an_input_are_solved_as_if_alone) {
  Random random(15);
  ThreadPool pool(2);
  const GemmOps ops = select_gemm(detect_cpu());
  const uint32_t n = 160;
  const std::vector<float> x = inputs_of(random, 500, n);
  SolveInput shared = input_of(pool, ops, x, n);
  for (const Solver solver : {Solver::sparsegpt, Solver::alps}) {
    for (const uint32_t rows : {16u, 40u}) {
      const DenseMatrix weight = matrix_of(random, rows, n);
      SolveOptions options;
      options.solver = solver;
      options.bits = 4;
      DenseMatrix together = copy_of(weight), alone = copy_of(weight);
      Codes codes;
      solve({pool, ops}, options, shared, together, codes);
      SolveInput own = input_of(pool, ops, x, n);
      solve({pool, ops}, options, own, alone, codes);
      check(std::equal(alone.data(), alone.data() + alone.size(), together.data()), "the same weights");
    }
  }
}

FILIGREE_TEST(a_hessian_that_is_not_positive_definite_gets_more_damping_or_a_clear_error) {
  ThreadPool pool(1);
  const GemmOps ops = select_gemm({});
  // Eigenvalues 4 and -2: a damping of 1 of the mean diagonal is not enough, 10 is.
  const std::vector<float> indefinite = {1, 3, 3, 1};
  DampedHessian h(pool, ops, indefinite.data(), 2, 0.01);
  check_near(h.damping(), 10.0, 1e-9, "raised tenfold until it works");
  const std::vector<float> dead = {4, 0, 0, 0};
  DampedHessian with_dead(pool, ops, dead.data(), 2, 0.01);
  check(!with_dead.dead()[0] && with_dead.dead()[1], "dead column");
  const std::vector<float> broken = {NAN, 0, 0, 1};
  check_throws<Error>([&] { DampedHessian(pool, ops, broken.data(), 2, 0.01); }, "NaN");
}

FILIGREE_ISA_TEST(sparsegpt_is_the_paper_s_algorithm, kIsas) {
  Random random(5);
  const GemmOps ops = select_gemm(cpu);
  ThreadPool pool(2);
  const uint32_t n = 160;  // more than a block
  const Statistics s = statistics_of(pool, ops, inputs_of(random, 600, n), n);
  DenseMatrix weight = matrix_of(random, 12, n);
  DampedHessian h(pool, ops, s.hessian(), n, 0.01);
  const AlignedBuffer inverse = ridge_inverse(pool, ops, h.values(), n, 0.0);
  const std::vector<double> start(inverse.as<float>(), inverse.as<float>() + size_t{n} * n);
  const DenseMatrix expected = plain_sparsegpt(weight, start, 2, 4);
  Mask mask;
  sweep_prune({pool, ops}, {2, 4, 1}, 0.5, h, weight, mask);
  check_equal(zeros_of(weight), uint64_t{12 * n / 2}, "two of four");
  for (size_t i = 0; i < weight.size(); ++i) check_near(weight.data()[i], expected.data()[i], 2e-2, "weight");
}

FILIGREE_TEST(solvers_rank_as_their_papers_say_and_keep_their_pattern) {
  Random random(6);
  ThreadPool pool(2);
  const GemmOps ops = select_gemm(detect_cpu());
  const uint32_t rows = 48, n = 192;
  SolveInput input = input_of(pool, ops, inputs_of(random, 1200, n), n);
  const Statistics& s = *input.statistics;
  const DenseMatrix weight = matrix_of(random, rows, n);
  struct Case {
    Pattern pattern;
    double sparsity;
  };
  for (const Case& c : {Case{{}, 0.5}, Case{{}, 0.7}, Case{{2, 4, 1}, 0.5}, Case{{0, 0, 4}, 0.5}}) {
    double errors[4];
    for (int i = 0; i < 4; ++i) {
      SolveOptions options;
      options.solver = std::array{Solver::magnitude, Solver::wanda, Solver::sparsegpt, Solver::alps}[i];
      options.pattern = c.pattern;
      options.sparsity = c.sparsity;
      DenseMatrix w = copy_of(weight);
      Codes codes;
      const SolveReport report = solve({pool, ops}, options, input, w, codes);
      errors[i] = error_of(s.hessian(), w, weight);
      check_near(static_cast<double>(zeros_of(w)) / static_cast<double>(w.size()), c.sparsity, 0.01, "zeros");
      check_near(report.error * error_of(s.hessian(), weight, DenseMatrix("", rows, n)), errors[i],
                 0.01 * errors[i] + 1e-3, "reported error");
      for (uint32_t r = 0; r < rows; ++r) {
        for (uint32_t j = 0; j < n; j += 4) {
          int zero = 0;
          for (uint32_t k = 0; k < 4; ++k) zero += w.row(r)[j + k] == 0;
          check(c.pattern.of == 0 || zero >= 2, "N:M");
          check(c.pattern.block == 1 || zero == 0 || zero == 4, "blocks");
        }
      }
    }
    check(errors[1] < errors[0], "Wanda below magnitude");
    check(errors[2] < errors[1], "SparseGPT below Wanda");
    check(errors[3] < errors[2], "ALPS below SparseGPT");
  }
}

FILIGREE_TEST(sparsegpt_fits_what_stays_where_most_weights_go) {
  Random random(24);
  ThreadPool pool(2);
  const GemmOps ops = select_gemm(detect_cpu());
  const uint32_t rows = 48, n = 192;
  SolveInput input = input_of(pool, ops, inputs_of(random, 1200, n), n);
  const DenseMatrix weight = matrix_of(random, rows, n);
  DampedHessian hessian(pool, ops, input.statistics->hessian(), n, 0.01);
  for (const double sparsity : {0.5, 0.6, 0.7, 0.9}) {
    DenseMatrix swept = copy_of(weight), solved = copy_of(weight);
    Mask mask;
    sweep_prune({pool, ops}, {}, sparsity, hessian, swept, mask);
    SolveOptions options;
    options.sparsity = sparsity;
    Codes codes;
    solve({pool, ops}, options, input, solved, codes);
    for (size_t i = 0; i < mask.size(); ++i) check(mask[i] || solved.data()[i] == 0, "the sweep's zeros");
    const double ratio =
        error_of(hessian.values(), solved, weight) / error_of(hessian.values(), swept, weight);
    if (sparsity > 0.6) {
      check(ratio < 0.97, "misses less: " + std::to_string(ratio));
    } else {
      check(std::equal(swept.data(), swept.data() + swept.size(), solved.data()), "the sweep's weights");
    }
  }
}

FILIGREE_TEST(refit_ends_where_no_kept_weight_can_lower_the_error) {
  Random random(16);
  ThreadPool pool(2);
  const GemmOps ops = select_gemm(detect_cpu());
  const uint32_t rows = 8, n = 96;
  SolveInput input = input_of(pool, ops, inputs_of(random, 800, n), n);
  const DampedHessian damped(pool, ops, input.statistics->hessian(), n, 0.01);
  const float* h = damped.values();
  const DenseMatrix target = matrix_of(random, rows, n);
  DenseMatrix weight = copy_of(target);
  Mask mask(weight.size());
  for (size_t i = 0; i < mask.size(); ++i) mask[i] = random.below(2) == 0;
  apply_mask(pool, mask, weight);
  const double before = error_of(h, weight, target);
  refit({pool, ops}, h, target, mask, 200, weight);
  check(error_of(h, weight, target) < 0.9 * before, "a lower error");
  // The normal equations on the support: (target - weight) H is zero there.
  for (uint32_t r = 0; r < rows; ++r) {
    for (uint32_t c = 0; c < n; ++c) {
      const size_t at = size_t{r} * n + c;
      if (!mask[at]) check_equal(weight.data()[at], 0.0f, "zeros stay");
      double gradient = 0, size = 0;
      for (uint32_t j = 0; j < n; ++j) {
        const double part = double{h[size_t{c} * n + j]} * (target.row(r)[j] - weight.row(r)[j]);
        gradient += part;
        size += std::fabs(part);
      }
      if (mask[at]) check_near(gradient, 0, 1e-3 * size, "gradient");
    }
  }
}

FILIGREE_TEST(gptq_beats_nearest_and_leaves_zeros_alone) {
  Random random(7);
  ThreadPool pool(2);
  const GemmOps ops = select_gemm(detect_cpu());
  const uint32_t rows = 32, n = 200;  // a last group of 8
  SolveInput input = input_of(pool, ops, inputs_of(random, 900, n), n);
  const Statistics& s = *input.statistics;
  DenseMatrix sparse = matrix_of(random, rows, n);
  for (size_t i = 0; i < sparse.size(); i += 2) sparse.data()[i] = 0;
  for (const int bits : {8, 4}) {
    double errors[2];
    for (const Rounding rounding : {Rounding::gptq, Rounding::nearest}) {
      SolveOptions options;
      options.keep_mask = true;
      options.bits = bits;
      options.rounding = rounding;
      DenseMatrix w = copy_of(sparse);
      Codes codes;
      solve({pool, ops}, options, input, w, codes);
      for (size_t i = 0; i < w.size(); ++i) check(sparse.data()[i] != 0 || w.data()[i] == 0, "zero stays");
      const uint32_t groups = group_count(n, codes.group);
      for (uint32_t r = 0; r < rows; ++r)
        for (uint32_t c = 0; c < n; ++c)
          check_equal(w.row(r)[c],
                      codes.scales[r * groups + (codes.group ? c / codes.group : 0)] *
                          static_cast<float>(codes.values[size_t{r} * n + c]),
                      "value of its code");
      errors[rounding == Rounding::nearest] = error_of(s.hessian(), w, sparse);
    }
    check(errors[0] < 0.9 * errors[1], std::to_string(bits) + " bits: GPTQ's error " +
                                           std::to_string(errors[0] / errors[1]) + " of nearest's");
  }
}

FILIGREE_TEST(nearest_rounding_follows_the_training_rule_and_is_idempotent) {
  Random random(8);
  ThreadPool pool(1);
  DenseMatrix w = matrix_of(random, 5, 96);
  std::fill_n(w.row(3), 96, 0.0f);
  for (const int bits : {8, 4}) {
    DenseMatrix once = copy_of(w);
    const Codes codes = round_nearest(w, bits, 32, ScaleRule::largest, pool);
    apply_codes(codes, once, pool);
    const Codes again = round_nearest(once, bits, 32, ScaleRule::largest, pool);
    check(codes.values == again.values, "the same codes again");
    float most = 0;
    for (uint32_t c = 32; c < 64; ++c) most = std::max(most, std::fabs(w.row(1)[c]));
    if (bits == 4) check_equal(codes.scales[3 + 1], f16_to_f32(f32_to_f16(most / 7.0f)), "f16(max / 7)");
    check(std::all_of(once.row(3), once.row(3) + 96, [](float x) { return x == 0; }), "a row of zeros");
  }
}

FILIGREE_TEST(kth_smallest_is_that_of_sorting) {
  Random random(9);
  ThreadPool pool(3);
  std::vector<float> values(5001);
  for (float& v : values) v = random.below(4) == 0 ? 0.0f : std::fabs(random.normal());
  std::vector<float> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  for (const size_t k : {size_t{0}, size_t{700}, size_t{2500}, size_t{5000}})
    check_equal(kth_smallest(pool, values.data(), values.size(), k), sorted[k], "k-th");
}

FILIGREE_TEST(a_matrix_of_zeros_and_one_whose_inputs_are_zero_are_solved) {
  ThreadPool pool(1);
  const GemmOps ops = select_gemm({});
  Random random(10);
  const uint32_t n = 64;
  SolveInput silent(std::make_unique<Statistics>(n));
  silent.statistics->finish();
  SolveInput input = input_of(pool, ops, inputs_of(random, 100, n), n);
  for (const Solver solver : {Solver::wanda, Solver::sparsegpt, Solver::alps}) {
    SolveOptions options;
    options.solver = solver;
    options.bits = 4;
    Codes codes;
    DenseMatrix zero("z.weight", 8, n);
    solve({pool, ops}, options, input, zero, codes);
    check_equal(zeros_of(zero), uint64_t{8 * n}, "zeros");
    DenseMatrix weight = matrix_of(random, 8, n);
    const SolveReport report = solve({pool, ops}, options, silent, weight, codes);
    check_equal(report.dead, n, "dead columns are counted");
    check(std::all_of(weight.data(), weight.data() + weight.size(), [](float x) { return std::isfinite(x); }),
          "finite");
  }
}

}  // namespace filigree::test
