#pragma once

// Rows of logits, and what their digests must be: for the GPU and for the emulated one.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cuda/digest.h"
#include "kernels/sample/vocabulary.h"
#include "problem.h"

namespace filigree {
VocabularyOps vocabulary_scalar();  // the passes as plain code
}

namespace filigree::cuda::test {

// Rows [wanted.size()][columns].
struct DigestCase {
  std::string name;
  uint32_t columns;
  std::vector<float> logits;
  std::vector<DigestWanted> wanted;
};

inline std::vector<DigestCase> digest_cases(bool quick) {
  Random random{7};
  std::vector<DigestCase> cases;
  const std::vector<DigestWanted> wanted = {{1, 0, -1},
                                            {0, 1, 0.5},
                                            {2, 0, -1},
                                            {20, 1, -1},
                                            {64, 0, -1},
                                            {127, 1.4f, -1},
                                            {kMostLargest, 3, -1},
                                            {1, 1, random.uniform()},
                                            {1, 0.7f, 0.9999999},
                                            {1, 1 / 30.0f, 0}};
  const auto add = [&](const std::string& name, uint32_t columns, auto&& logit) {
    DigestCase c{name + ", " + std::to_string(columns) + " columns", columns, {}, wanted};
    for (uint32_t i = 0; i < columns * wanted.size(); ++i) c.logits.push_back(logit(i % columns));
    cases.push_back(std::move(c));
  };
  std::vector<uint32_t> widths = {1, 31, 129, 513, 1000, 1025, 4999, 49152};
  if (!quick)
    widths.insert(widths.end(), {2, 3, 15, 16, 17, 47, 127, 128, 511, 512, 1023, 1024, 100278, 151936});
  for (const uint32_t n : widths) {
    add("normal", n, [&](uint32_t) { return 3 * random.normal(); });
    if (n > 1000 && quick) continue;
    add("ties", n, [&](uint32_t) { return static_cast<float>(random.next() % 5) - 2; });
    add("all equal", n, [&](uint32_t) { return -1.5f; });
    add("zeros of both signs", n, [&](uint32_t) { return random.next() % 2 ? 0.0f : -0.0f; });
    add("ascending", n, [&](uint32_t i) { return static_cast<float>(i) * 0.25f; });
    add("descending", n, [&](uint32_t i) { return static_cast<float>(i) * -0x1p-130f; });
    add("extremes", n, [&](uint32_t) {
      return random.next() % 2 ? -std::numeric_limits<float>::max() : std::numeric_limits<float>::max();
    });
    for (const float odd : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()})
      add("not finite", n, [&](uint32_t i) { return i == n - 1 ? odd : random.normal(); });
  }
  // The likeliest in the columns of four threads: as many as are ranked, and more.
  for (const uint32_t n : {49152u, 300000u}) {
    if (n > 49152 && quick) continue;
    add("crowded", n, [&](uint32_t i) { return i % 1024 < 4 ? 50 + random.normal() : random.normal(); });
  }
  return cases;
}

// Empty if out, the digest of row i, is what the samplers' own passes find; else what is wrong. An out that nothing was written to has a
// count of 99.
inline std::string digest_error(const DigestCase& c, size_t i, const LogitDigest& out) {
  static const VocabularyOps ops = vocabulary_scalar();
  const float* const row = &c.logits[i * c.columns];
  const DigestWanted& wanted = c.wanted[i];
  const uint32_t largest = std::min(wanted.largest, c.columns);
  if (largest == 0) return out.count == 99 ? "" : "written unasked";
  const LogitScan scan = ops.scan(row, c.columns);
  if (!scan.finite) return out.count == 0 ? "" : "not finite, and not said";
  if (out.count == 0 && c.columns > 262144 && largest > 1) return "";
  if (out.count != largest) return std::to_string(out.count) + " of " + std::to_string(largest);
  std::vector<int32_t> order(c.columns);
  for (uint32_t j = 0; j < c.columns; ++j) order[j] = static_cast<int32_t>(j);
  std::partial_sort(order.begin(), order.begin() + largest, order.end(),
                    [&](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
  for (uint32_t k = 0; k < largest; ++k) {
    const LogitDigest::Logit& got = out.largest[k];
    if (got.id != order[k] || std::memcmp(&got.logit, &row[order[k]], sizeof(float)) != 0)
      return std::to_string(got.id) + " at " + std::to_string(k) + " and not " + std::to_string(order[k]);
  }
  if (wanted.scale == 0) return "";
  std::vector<double> sums(c.columns / kVocabularyBlock + 1);
  const double total = ops.sum_exp(row, c.columns, scan.max, wanted.scale, sums.data());
  if (out.total != total) return "sums to " + std::to_string(out.total) + " and not " + std::to_string(total);
  if (wanted.uniform < 0) return "";
  double rest = wanted.uniform * total;
  size_t block = 0, last = 0;
  const size_t blocks = (c.columns + kVocabularyBlock - 1) / kVocabularyBlock;
  for (; block < blocks; ++block) {
    if (sums[block] > 0) last = block;
    if (rest < sums[block]) break;
    rest -= sums[block];
  }
  const size_t begin = (block < blocks ? block : last) * kVocabularyBlock;
  if (out.block != begin || out.rest != rest) return "block " + std::to_string(out.block);
  const size_t count = std::min(kVocabularyBlock, c.columns - begin);
  return std::memcmp(out.logits, row + begin, count * sizeof(float)) == 0 ? "" : "logits of the block";
}

}  // namespace filigree::cuda::test
