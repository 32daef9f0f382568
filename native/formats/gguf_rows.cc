#include <algorithm>
#include <vector>

#include "base/status.h"
#include "formats/gguf_blocks.h"
#include "formats/row_sources.h"

namespace filigree {
namespace {

constexpr uint64_t kReadBytes = 1 << 20;

class GgufRows final : public MatrixRows {
 public:
  GgufRows(const TensorDesc& desc, Extent extent, std::span<const File> files)
      : MatrixRows(desc, extent), data_(desc, "data", files), block_(*find_gguf_block(desc.encoding)) {
    data_.require_dtype({desc.encoding.c_str()});
    if (extent.cols % block_.elements != 0) {
      fail_corrupt(desc.name, "its " + std::to_string(extent.cols) + " columns are not whole blocks of " +
                                  std::to_string(block_.elements));
    }
    blocks_ = extent.cols / block_.elements;
    data_.require_bytes(extent.rows * blocks_ * block_.bytes);
  }

  void read_f32(uint64_t row, uint64_t n, float* out) const override {
    for_each_block(row, n, [&](const uint8_t* block, uint64_t index) {
      block_.dequantize(block, out + index * block_.elements);
    });
  }

  std::optional<SourceCodes> codes() const override {
    if (block_.codes == nullptr) return std::nullopt;
    return SourceCodes{4, 32, block_.has_min};
  }

  void read_codes(uint64_t row, uint64_t n, int8_t* codes, float* scales, float* mins) const override {
    if (block_.codes == nullptr) return RowSource::read_codes(row, n, codes, scales, mins);
    const uint64_t groups = block_.elements / 32;
    for_each_block(row, n, [&](const uint8_t* block, uint64_t index) {
      block_.codes(block, codes + index * block_.elements, scales + index * groups,
                   block_.has_min ? mins + index * groups : nullptr);
    });
  }

 private:
  // body(block's bytes, its index counted from the first block of `row`)
  template <class Body>
  void for_each_block(uint64_t row, uint64_t n, Body body) const {
    check_range(row, n);
    const uint64_t row_bytes = blocks_ * block_.bytes;
    const uint64_t step = std::max<uint64_t>(1, kReadBytes / row_bytes);
    std::vector<uint8_t> raw(std::min(step, n) * row_bytes);
    for (uint64_t i = 0; i < n; i += step) {
      const uint64_t take = std::min(step, n - i);
      data_.read((row + i) * row_bytes, raw.data(), take * row_bytes);
      for (uint64_t b = 0; b < take * blocks_; b++) body(raw.data() + b * block_.bytes, i * blocks_ + b);
    }
  }

  const PartView data_;
  const GgufBlock& block_;
  uint64_t blocks_ = 0;  // of a row
};

}  // namespace

std::unique_ptr<RowSource> open_gguf_rows(const TensorDesc& desc, std::span<const File> files) {
  return std::make_unique<GgufRows>(desc, extent_of(desc), files);
}

}  // namespace filigree
