#include <algorithm>
#include <vector>

#include "formats/row_sources.h"

namespace filigree {
namespace {

constexpr uint64_t kReadBytes = 1 << 20;

class DenseRows final : public MatrixRows {
 public:
  DenseRows(const TensorDesc& desc, Extent extent, std::span<const File> files)
      : MatrixRows(desc, extent), data_(desc, "data", files), element_(dtype_bytes(desc.encoding)) {
    data_.require_dtype({desc.encoding.c_str()});
    data_.require_bytes(extent.rows * extent.cols * element_);
  }

  void read_f32(uint64_t row, uint64_t n, float* out) const override {
    check_range(row, n);
    const uint64_t row_bytes = cols() * element_;
    if (element_ == sizeof(float)) {
      data_.read(row * row_bytes, out, n * row_bytes);
      return;
    }
    const uint64_t step = std::max<uint64_t>(1, kReadBytes / row_bytes);
    std::vector<uint8_t> raw(std::min(step, n) * row_bytes);
    for (uint64_t i = 0; i < n; i += step) {
      const uint64_t take = std::min(step, n - i);
      data_.read((row + i) * row_bytes, raw.data(), take * row_bytes);
      convert_floats(data_.dtype(), raw.data(), take * cols(), out + i * cols());
    }
  }

 private:
  const PartView data_;
  const uint64_t element_;
};

}  // namespace

std::unique_ptr<RowSource> open_dense_rows(const TensorDesc& desc, std::span<const File> files) {
  return std::make_unique<DenseRows>(desc, extent_of(desc), files);
}

}  // namespace filigree
