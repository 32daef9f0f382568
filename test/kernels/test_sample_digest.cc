// Tokens drawn from digests of rows (kernels/sample/digest.h) against those drawn from the rows.
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "base/status.h"
#include "sample_draw.h"

namespace filigree::test {
namespace {

// What a GPU finds of a row: as the passes over it do.
struct Digested {
  std::vector<Candidate> largest;
  LogitDigest digest;

  Digested(const VocabularyOps& ops, const std::vector<float>& x, const DigestNeeded& needed) {
    for (size_t i = 0; i < x.size(); ++i) largest.push_back({x[i], static_cast<int32_t>(i)});
    std::sort(largest.begin(), largest.end(), likelier);
    largest.resize(std::min<size_t>(needed.largest, x.size()));
    digest.largest = largest;
    if (needed.scale == 0) return;
    std::vector<double> sums(x.size() / kVocabularyBlock + 1);
    digest.total = ops.sum_exp(x.data(), x.size(), largest[0].logit, needed.scale, sums.data());
    digest.rest = needed.uniform * digest.total;
    if (needed.uniform < 0) return;
    while (digest.block + kVocabularyBlock < x.size() &&
           digest.rest >= sums[digest.block / kVocabularyBlock]) {
      digest.rest -= sums[digest.block / kVocabularyBlock];
      digest.block += kVocabularyBlock;
    }
    digest.logits = std::span(x).subspan(digest.block);
    digest.logits = digest.logits.first(std::min(kVocabularyBlock, digest.logits.size()));
  }
};

}  // namespace

// Every token drawn from a digest is the one that the whole row gives, also where top_p or min_p end at a tie.
FILIGREE_TEST(sample_from_digests) {
  const VocabularyOps ops = select_vocabulary(detect_cpu());
  Random random(41);
  int decided = 0, undecided = 0;
  for (const size_t n : {size_t{5}, size_t{700}, size_t{3000}}) {
    for (int kind = 0; kind < 4; ++kind) {
      std::vector<float> x = random_logits(random, n, kind == 0 ? 0.5f : 4.0f);
      if (kind == 2) std::fill(x.begin(), x.end(), 1.0f);
      if (kind == 3) {
        for (float& v : x) v = std::round(v);
      }
      for (const float temperature : {0.0f, 0.05f, 0.7f, 30.0f}) {
        for (const int32_t top_k : {0, 1, 2, 20, 128, 129, 6000}) {
          for (const float top_p : {1.0f, 0.95f, 0.3f}) {
            for (const float min_p : {0.0f, 0.02f, 1.0f}) {
              SamplingParams p;
              p.temperature = temperature, p.top_k = top_k, p.top_p = top_p, p.min_p = min_p;
              p.seed = random.bits();
              Sampler whole(p, {}, {}, n, 8), digested(p, {}, {}, n, 8);
              for (int i = 0; i < 8; ++i) {
                const DigestNeeded needed = digested.needed();
                if (needed.largest == 0) {
                  check(temperature > 0 && top_k == 129 && n > 129, "a digest would do");
                  break;
                }
                const int32_t token = draw(ops, whole, x).result.token;
                const Digested row(ops, x, needed);
                const SampleResult result = digested.sample(ops, row.digest);
                if (result.status == SampleStatus::undecided) {
                  check(n > 128 && top_k != 1 && (top_p < 1 || min_p > 0), "it was enough");
                  check_equal(digested.output_count(), int64_t{i});
                  ++undecided;
                  digested.append(token);
                } else {
                  check_equal(result.token, token);
                  ++decided;
                }
              }
            }
          }
        }
      }
    }
  }
  check(decided > 10 * undecided && undecided > 100, "both happen");
}

FILIGREE_TEST(sample_says_where_no_digest_will_do) {
  const auto needed = [](const std::function<void(SamplingParams&)>& change) {
    SamplingParams p;
    p.temperature = 0;
    change(p);
    return Sampler(p, {}, {}, 1000, 1).needed().largest;
  };
  check_equal(needed([](SamplingParams&) {}), 1u);
  check_equal(needed([](SamplingParams& p) { p.temperature = 1, p.top_p = 0.5f; }), 128u);
  check_equal(needed([](SamplingParams& p) { p.temperature = 1, p.top_k = 129; }), 0u);
  check_equal(needed([](SamplingParams& p) { p.logprobs = 0; }), 0u);
  check_equal(needed([](SamplingParams& p) { p.logit_bias = {{3, 1.0f}}; }), 0u);
  check_equal(needed([](SamplingParams& p) { p.repetition_penalty = 1.1f; }), 0u);
  check_equal(needed([](SamplingParams& p) { p.presence_penalty = 0.1f; }), 0u);
  check_equal(needed([](SamplingParams& p) { p.allowed_token_ids = std::vector<int32_t>{3}; }), 0u);
  check_equal(needed([](SamplingParams& p) { p.bad_words = {{3}}; }), 0u);
  SamplingParams p;
  p.top_k = 7, p.min_tokens = 1, p.suppressed_until_min = {2};
  Sampler sampler(p, {}, {}, 100, 2);
  check_equal(sampler.needed().largest, 0u);
  sampler.append(4);
  check_equal(sampler.needed().largest, 7u);
}

}  // namespace filigree::test
