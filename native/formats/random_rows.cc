#include "base/status.h"
#include "formats/row_sources.h"

// Rows that nobody trained: benchmarks of a shape need the bytes and the zeros of a model, not its knowledge.

namespace filigree {
namespace {

constexpr float kDeviation = 0.02f;

// SplitMix64 (Steele, Lea, Flood 2014): the n-th output is a hash of seed + n, so any row can be drawn on its own.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

class RandomRows final : public MatrixRows {
 public:
  RandomRows(const TensorDesc& desc, Extent extent)
      : MatrixRows(desc, extent),
        key_(mix(desc.seed)),
        zero_below_(static_cast<uint32_t>(desc.zeros * 4294967296.0)) {}

  void read_f32(uint64_t row, uint64_t n, float* out) const override {
    check_range(row, n);
    const uint64_t first = row * cols();
    for (uint64_t i = 0; i < n * cols(); i++) {
      const uint64_t bits = mix(key_ + first + i);
      // The sum of four bytes is close enough to a normal deviate: mean 510, deviation 147.8. Never zero itself.
      const auto low = static_cast<uint32_t>(bits);
      const int sum = (low & 255) + (low >> 8 & 255) + (low >> 16 & 255) + (low >> 24);
      const float value = (static_cast<float>(sum - 510) + 0.5f) * (kDeviation / 147.8f);
      out[i] = static_cast<uint32_t>(bits >> 32) < zero_below_ ? 0.0f : value;
    }
  }

 private:
  const uint64_t key_;
  const uint32_t zero_below_;
};

}  // namespace

std::unique_ptr<RowSource> open_random_rows(const TensorDesc& desc) {
  if (!(desc.zeros >= 0 && desc.zeros < 1)) {
    throw Error(ErrorCode::invalid_argument,
                "tensor " + desc.name + ": the fraction of zeros must be in [0, 1)");
  }
  return std::make_unique<RandomRows>(desc, extent_of(desc));
}

}  // namespace filigree
