#pragma once

#include <limits>
#include <vector>

#include "harness.h"
#include "kernels/sample/sample.h"

namespace filigree::test {

inline const float kInf = std::numeric_limits<float>::infinity();

inline std::vector<float> random_logits(Random& random, size_t n, float spread = 3.0f) {
  std::vector<float> x(n);
  for (float& v : x) v = spread * random.normal();
  return x;
}

struct Drawn {
  SampleResult result;
  std::vector<int32_t> ids = std::vector<int32_t>(64);
  std::vector<float> values = std::vector<float>(64);
};

inline Drawn draw(const VocabularyOps& ops, Sampler& sampler, const std::vector<float>& x) {
  SampleWorkspace workspace(x.size());
  Drawn d;
  d.result = sampler.sample(ops, x.data(), workspace, d.ids.data(), d.values.data());
  return d;
}

}  // namespace filigree::test
