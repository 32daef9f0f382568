#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <vector>

#include "base/status.h"
#include "sample_draw.h"

namespace filigree::test {
namespace {

int32_t draw_once(const VocabularyOps& ops, const SamplingParams& p, const std::vector<float>& x) {
  Sampler sampler(p, {}, {}, x.size(), 4);
  return draw(ops, sampler, x).result.token;
}

// The distribution that temperature, min_p, top_k and top_p leave, by sorting everything.
std::vector<double> filtered_distribution(const std::vector<float>& x, const SamplingParams& p) {
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  std::vector<double> w(x.size(), 0.0);
  const double max = x[order[0]];
  for (size_t i = 0; i < x.size(); ++i) {
    w[i] = std::exp((x[i] - max) / p.temperature);
    if (w[i] < p.min_p) w[i] = 0;
  }
  if (p.top_k > 0) {
    for (size_t r = static_cast<size_t>(p.top_k); r < order.size(); ++r) w[order[r]] = 0;
  }
  const double mass = std::accumulate(w.begin(), w.end(), 0.0);
  double before = 0, kept = 0;
  for (size_t i : order) {
    const double here = w[i];
    if (before >= p.top_p * mass && before > 0) w[i] = 0;
    before += here;
    kept += w[i];
  }
  for (double& v : w) v /= kept;
  return w;
}

// Pearson's chi-square of `draws` draws against `expected`; cells below 5 expected draws are put together.
void check_distribution(const VocabularyOps& ops, const std::vector<float>& x, SamplingParams p,
                        const char* what) {
  const std::vector<double> expected = filtered_distribution(x, p);
  const int draws = 5000;
  std::vector<int> counts(x.size(), 0);
  SampleWorkspace workspace(x.size());
  Sampler sampler(p, {}, {}, x.size(), draws);
  for (int i = 0; i < draws; ++i) {
    const SampleResult r = sampler.sample(ops, x.data(), workspace, nullptr, nullptr);
    if (r.token < 0) return check(false, what);
    ++counts[static_cast<size_t>(r.token)];
  }
  double chi = 0, rest_expected = 0, rest = 0;
  int cells = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (expected[i] == 0) check_equal(counts[i], 0, what);
    const double e = expected[i] * draws;
    if (e < 5) {
      rest_expected += e;
      rest += counts[i];
      continue;
    }
    chi += (counts[i] - e) * (counts[i] - e) / e;
    ++cells;
  }
  if (rest_expected >= 5) {
    chi += (rest - rest_expected) * (rest - rest_expected) / rest_expected;
    ++cells;
  }
  // Mean k, variance 2k: five standard deviations and a little for few cells. The seed is fixed, so this cannot flicker.
  const double k = cells - 1;
  check(chi <= k + 5 * std::sqrt(2 * k) + 12, std::string(what) + ": chi-square " + std::to_string(chi) +
                                                  " with " + std::to_string(cells) + " cells");
}

}  // namespace

FILIGREE_TEST(philox_known_answers) {
  // Random123's kat_vectors, philox4x32-10.
  const PhiloxWords zero = philox4x32(0, 0, 0);
  check_equal(zero.word[0], 0x6627e8d5u);
  check_equal(zero.word[1], 0xe169c58du);
  check_equal(zero.word[2], 0xbc57ac4cu);
  check_equal(zero.word[3], 0x9b00dbd8u);
  const PhiloxWords ones = philox4x32(UINT64_MAX, UINT64_MAX, UINT64_MAX);
  check_equal(ones.word[0], 0x408f276du);
  check_equal(ones.word[1], 0x41c83b0eu);
  check_equal(ones.word[2], 0xa20bc7c6u);
  check_equal(ones.word[3], 0x6d5451fdu);
  const PhiloxWords pi = philox4x32(0x299f31d0a4093822u, 0x85a308d3243f6a88u, 0x0370734413198a2eu);
  check_equal(pi.word[0], 0xd16cfe09u);
  check_equal(pi.word[3], 0x24126ea1u);
}

FILIGREE_ISA_TEST(vocabulary_passes_match_scalar, "scalar avx2 avx512 neon") {
  const VocabularyOps ops = select_vocabulary(cpu), scalar = select_vocabulary(CpuFeatures{});
  check_equal(std::string(ops.variant), std::string(isa));
  Random random(31);
  for (size_t n = 1; n <= 1300; n += n < 80 ? 1 : 61) {
    std::vector<float> x = random_logits(random, n);
    if (n % 3 == 0) x[random.below(static_cast<uint32_t>(n))] = *std::max_element(x.begin(), x.end());
    if (n % 5 == 0) x[random.below(static_cast<uint32_t>(n))] = -kInf;
    const LogitScan a = ops.scan(x.data(), n);
    check(a.max == *std::max_element(x.begin(), x.end()), "max");
    check_equal(a.argmax, static_cast<int32_t>(std::max_element(x.begin(), x.end()) - x.begin()),
                "lowest id of the largest");
    check_equal(a.finite, std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); }));
    std::vector<double> sums(n / kVocabularyBlock + 1), scalar_sums = sums;
    const double total = ops.sum_exp(x.data(), n, a.max, 0.7f, sums.data());
    check(total == scalar.sum_exp(x.data(), n, a.max, 0.7f, scalar_sums.data()) && sums == scalar_sums,
          "sum_exp bits");
    double expected = 0;
    for (float v : x) expected += std::exp((static_cast<double>(v) - a.max) * 0.7f);
    check_near(total, expected, expected * 1e-5, "sum_exp");
    std::vector<float> row(n), scalar_row(n);
    ops.exp_row(x.data(), n, a.max, 0.7f, row.data());
    scalar.exp_row(x.data(), n, a.max, 0.7f, scalar_row.data());
    check(row == scalar_row, "exp_row bits");
    std::vector<Candidate> found(n);
    const size_t count = ops.collect(x.data(), n, 0.5f, found.data());
    size_t at = 0;
    for (size_t i = 0; i < n; ++i) {
      if (x[i] >= 0.5f) {
        check(at < count && found[at].id == static_cast<int32_t>(i) && found[at].logit == x[i], "collect");
        ++at;
      }
    }
    check_equal(count, at);
    for (float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
      std::vector<float> y = x;
      y[n / 2] = bad;
      check(!ops.scan(y.data(), n).finite, "not finite");
    }
  }
}

FILIGREE_ISA_TEST(sample_draws_the_same_token_as_scalar, "scalar avx2 avx512 neon") {
  const VocabularyOps ops = select_vocabulary(cpu), scalar = select_vocabulary(CpuFeatures{});
  Random random(32);
  for (int round = 0; round < 300; ++round) {
    const std::vector<float> x = random_logits(random, 1 + random.below(5000), random.uniform(0.1f, 6.0f));
    SamplingParams p;
    p.temperature = random.uniform(0.1f, 3.0f);
    p.top_k = round % 3 == 0 ? static_cast<int32_t>(random.below(60)) : 0;
    p.top_p = round % 2 == 0 ? random.uniform(0.05f, 1.0f) : 1.0f;
    p.min_p = round % 5 == 0 ? random.uniform(0.0f, 0.3f) : 0.0f;
    p.seed = random.bits();
    p.logprobs = 3;
    Sampler a(p, {}, {}, x.size(), 8), b(p, {}, {}, x.size(), 8);
    for (int i = 0; i < 3; ++i) {
      const Drawn da = draw(ops, a, x), db = draw(scalar, b, x);
      check(da.result.token == db.result.token && da.result.logprob == db.result.logprob && da.ids == db.ids);
    }
  }
}

FILIGREE_TEST(sample_greedy_is_argmax_with_lowest_id) {
  const VocabularyOps ops = select_vocabulary(detect_cpu());
  std::vector<float> x(1000, -1.0f);
  x[421] = x[422] = x[900] = 7.0f;
  SamplingParams p;
  p.temperature = 0;
  check_equal(draw_once(ops, p, x), 421);
  p.temperature = 1;
  p.top_k = 1;
  check_equal(draw_once(ops, p, x), 421);
  p.top_k = 0;
  p.top_p = 1e-6f;
  check_equal(draw_once(ops, p, x), 421);
}

FILIGREE_TEST(sample_distributions) {
  const VocabularyOps ops = select_vocabulary(detect_cpu());
  Random random(33);
  const std::vector<float> small = random_logits(random, 40, 1.0f), large = random_logits(random, 1500, 2.0f);
  const std::vector<float> flat(700, 0.25f);
  const auto params = [](float temperature, int32_t top_k, float top_p, float min_p) {
    SamplingParams p;
    p.temperature = temperature;
    p.top_k = top_k;
    p.top_p = top_p;
    p.min_p = min_p;
    p.seed = 12345;
    return p;
  };
  for (const std::vector<float>* x : {&small, &large}) {
    check_distribution(ops, *x, params(1.0f, 0, 1.0f, 0), "plain");
    check_distribution(ops, *x, params(0.6f, 0, 1.0f, 0), "temperature 0.6");
    check_distribution(ops, *x, params(2.5f, 0, 1.0f, 0), "temperature 2.5");
    check_distribution(ops, *x, params(1.0f, 7, 1.0f, 0), "top_k");
    check_distribution(ops, *x, params(1.0f, 0, 0.8f, 0), "top_p");
    check_distribution(ops, *x, params(1.0f, 0, 0.9999f, 0), "top_p near 1");
    check_distribution(ops, *x, params(1.0f, 0, 1.0f, 0.1f), "min_p");
    check_distribution(ops, *x, params(1.3f, 20, 0.7f, 0.05f), "all");
    check_distribution(ops, *x, params(0.05f, 30, 1.0f, 0), "top_k beyond the near candidates");
  }
  check_distribution(ops, flat, params(1.0f, 0, 0.5f, 0), "flat, top_p");
  check_distribution(ops, flat, params(1.0f, 100, 1.0f, 0), "flat, top_k keeps the lowest ids");
}

FILIGREE_TEST(sample_kept_set_matches_sorting) {
  const VocabularyOps ops = select_vocabulary(detect_cpu());
  Random random(34);
  for (int round = 0; round < 400; ++round) {
    const std::vector<float> x = random_logits(random, 2 + random.below(400), random.uniform(0.1f, 30.0f));
    SamplingParams p;
    p.temperature = random.uniform(0.05f, 4.0f);
    p.top_k = round % 2 ? static_cast<int32_t>(random.below(500)) : 0;
    p.top_p = round % 3 ? random.uniform(0.01f, 1.0f) : 1.0f;
    p.min_p = round % 4 ? 0.0f : random.uniform(0.0f, 0.5f);
    p.seed = random.bits();
    const std::vector<double> expected = filtered_distribution(x, p);
    Sampler sampler(p, {}, {}, x.size(), 50);
    for (int i = 0; i < 40; ++i) {
      const Drawn d = draw(ops, sampler, x);
      check(d.result.token >= 0 && expected[static_cast<size_t>(d.result.token)] > 0,
            "outside of the kept set");
    }
  }
}

FILIGREE_TEST(sample_stream_depends_on_seed_and_index_alone) {
  const VocabularyOps ops = select_vocabulary(detect_cpu());
  Random random(35);
  const std::vector<float> x = random_logits(random, 2000, 1.0f);
  SamplingParams p;
  p.seed = 99;
  Sampler whole(p, {}, {}, x.size(), 20);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 20; ++i) tokens.push_back(draw(ops, whole, x).result.token);
  for (size_t cut : {size_t{1}, size_t{7}, size_t{19}}) {
    Sampler resumed(p, {}, std::span(tokens).first(cut), x.size(), 20);
    for (size_t i = cut; i < 20; ++i)
      check_equal(draw(ops, resumed, x).result.token, tokens[i], "after a preemption");
  }
  p.seed = 100;
  Sampler other(p, {}, {}, x.size(), 20);
  int equal = 0;
  for (int32_t token : tokens) equal += draw(ops, other, x).result.token == token;
  check(equal < 5, "another seed is another stream");
}

FILIGREE_TEST(sample_penalties_bias_and_masks) {
  const VocabularyOps ops = select_vocabulary(detect_cpu());
  const std::vector<float> x = {1.0f, 2.0f, 3.0f, -1.0f, 2.9f};
  SamplingParams greedy;
  greedy.temperature = 0;
  const auto sequence = [&](SamplingParams p, std::vector<int32_t> prompt, int n) {
    Sampler sampler(std::move(p), prompt, {}, x.size(), 16);
    std::vector<int32_t> out;
    for (int i = 0; i < n; ++i) out.push_back(draw(ops, sampler, x).result.token);
    return out;
  };
  using Ids = std::vector<int32_t>;
  check(sequence(greedy, {}, 3) == Ids{2, 2, 2});
  SamplingParams p = greedy;
  p.repetition_penalty = 2.0f;  // 3 / 2 once seen, in the prompt too; once, however often
  check(sequence(p, {2}, 3) == Ids{4, 1, 2}, "repetition");
  p = greedy;
  p.frequency_penalty = 0.3f;  // 2: 3.0 2.7 2.4; 4: 2.9 2.6; the prompt does not count
  check(sequence(p, {2, 2, 2}, 5) == Ids{2, 4, 2, 4, 2}, "frequency");
  p = greedy;
  p.presence_penalty = 0.95f;  // 2: 2.05 ever after, 4: 1.95, 1: 2.0 before, 1.05 after
  check(sequence(p, {}, 4) == Ids{2, 4, 2, 2}, "presence");
  p = greedy;
  p.logit_bias = {{3, 10.0f}, {2, -100.0f}};
  check(sequence(p, {}, 1) == Ids{3}, "bias");
  p.allowed_token_ids = Ids{0, 1};
  check(sequence(p, {}, 1) == Ids{1}, "allowed ids bind even a bias");
  p = greedy;
  p.bad_words = {{4}, {2, 2}, {2, 1, 0}};
  check(sequence(p, {2}, 4) == Ids{2, 1, 2, 1}, "bad words, counted in the output alone");
  p = greedy;
  p.min_tokens = 2;
  p.suppressed_until_min = {2, 4};
  check(sequence(p, {}, 3) == Ids{1, 1, 2}, "min_tokens");
  p = greedy;
  p.allowed_token_ids = Ids{3};
  p.bad_words = {{3}};
  Sampler none(p, {}, {}, x.size(), 1);
  check(draw(ops, none, x).result.status == SampleStatus::no_token_allowed);
  p = {};
  p.allowed_token_ids = Ids{1, 3};
  p.seed = 5;
  for (int32_t token : sequence(p, {}, 16)) check(token == 1 || token == 3);
  // More distinct outputs than were announced: the table grows.
  p = {};
  p.presence_penalty = 0.1f;
  p.temperature = 100.0f;
  std::vector<float> wide(4000, 0.0f);
  Sampler grows(p, {}, {}, wide.size(), 2);
  for (int i = 0; i < 500; ++i) check(draw(ops, grows, wide).result.token >= 0);
}

FILIGREE_TEST(sample_rejects_ids_outside_the_vocabulary) {
  const auto rejects = [](const std::function<void(SamplingParams&)>& change) {
    SamplingParams p;
    change(p);
    check_throws<Error>([&] { Sampler sampler(p, {}, {}, 10, 1); });
  };
  rejects([](SamplingParams& p) { p.logit_bias = {{10, 1.0f}}; });
  rejects([](SamplingParams& p) { p.suppressed_until_min = {-1}; });
  rejects([](SamplingParams& p) { p.allowed_token_ids = std::vector<int32_t>{}; });
  rejects([](SamplingParams& p) { p.allowed_token_ids = std::vector<int32_t>{1 << 30}; });
  rejects([](SamplingParams& p) { p.bad_words = {{}}; });
  rejects([](SamplingParams& p) { p.bad_words = {{1, 99}}; });
  const std::vector<int32_t> bad = {11};
  check_throws<Error>([&] { Sampler sampler(SamplingParams{}, bad, {}, 10, 1); });
  check_throws<Error>([&] { Sampler sampler(SamplingParams{}, {}, bad, 10, 1); });
}

FILIGREE_TEST(sample_reports_logits_that_are_not_finite) {
  const VocabularyOps ops = select_vocabulary(detect_cpu());
  for (float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x(100, 1.0f);
    x[57] = bad;
    Sampler sampler(SamplingParams{}, {}, {}, x.size(), 1);
    const SampleResult r = draw(ops, sampler, x).result;
    check(r.status == SampleStatus::non_finite_logits && r.token == -1);
    check_equal(sampler.output_count(), int64_t{0});
  }
}

FILIGREE_TEST(sample_log_probabilities) {
  const VocabularyOps ops = select_vocabulary(detect_cpu());
  Random random(36);
  for (float spread : {0.0f, 0.01f, 2.0f, 40.0f}) {
    const std::vector<float> x = random_logits(random, 777, spread);
    double sum = 0;
    const double max = *std::max_element(x.begin(), x.end());
    for (float v : x) sum += std::exp(v - max);
    const double lse = max + std::log(sum);
    check_near(log_sum_exp(ops, x.data(), x.size()), lse, 1e-5 + std::abs(lse) * 1e-6);
    std::vector<size_t> order(x.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
    SamplingParams p;
    p.logprobs = 20;
    p.temperature = 0.3f;  // log-probabilities are of the raw distribution
    p.repetition_penalty = 1.5f;
    Sampler sampler(p, std::vector<int32_t>{1, 2, 3}, {}, x.size(), 4);
    const Drawn d = draw(ops, sampler, x);
    check_equal(d.result.top, 20);
    check_near(d.result.logprob, x[static_cast<size_t>(d.result.token)] - lse, 1e-5 + std::abs(lse) * 1e-6);
    for (size_t i = 0; i < 20; ++i) {
      check_equal(static_cast<size_t>(d.ids[i]), order[i]);
      check_near(d.values[i], x[order[i]] - lse, 1e-5 + std::abs(lse) * 1e-6);
    }
  }
}

}  // namespace filigree::test
