// The kernel that digests rows of logits, compiled as C++ and run on an emulated device (emulated/device.h).
#define digest_logits emulated_digest_logits  // beside the real one, where it is linked
#include "cuda/ptx.cuh"
#undef __shared__
#define __shared__ static  // blocks run one after the other
#include "../../native/cuda/digest.cu"
#include "../cuda/digest_cases.h"
#include "emulated/end.h"
#include "harness.h"

namespace filigree::test {
namespace {

using cuda::test::DigestCase;

FILIGREE_TEST(cuda_digests_of_logits_emulated) {
  for (const DigestCase& c : cuda::test::digest_cases(true)) {
    std::vector<cuda::LogitDigest> out(c.wanted.size());
    for (cuda::LogitDigest& o : out) o.count = 99;
    check(cuda::emulated_digest_logits(c.logits.data(), static_cast<uint32_t>(out.size()), c.columns,
                                       c.wanted.data(), out.data(), true, nullptr) == cudaSuccess);
    for (size_t i = 0; i < out.size(); ++i) {
      const std::string error = cuda::test::digest_error(c, i, out[i]);
      check(error.empty(), c.name + ", row " + std::to_string(i) + ": " + error);
    }
  }
}

}  // namespace
}  // namespace filigree::test
