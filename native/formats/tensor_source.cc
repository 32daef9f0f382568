#include "formats/tensor_source.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "formats/gguf_blocks.h"
#include "formats/row_sources.h"

namespace filigree {
namespace {

// GGUF stores each head's q and k rows as (0, d/2, 1, d/2 + 1, ...), for a rotation of neighbouring pairs;
// everyone else rotates row i with row i + d/2. Row h*d + j*d/2 + i of the model is row h*d + 2*i + j of the
// file (j in {0, 1}).
class UnpermutedRows final : public MatrixRows {
 public:
  UnpermutedRows(const TensorDesc& desc, std::unique_ptr<RowSource> source, uint64_t head_dim)
      : MatrixRows(desc, {source->rows(), source->cols()}), source_(std::move(source)), head_dim_(head_dim) {}

  std::optional<SourceCodes> codes() const override { return source_->codes(); }
  bool masked() const override { return source_->masked(); }

  void read_f32(uint64_t row, uint64_t n, float* out) const override {
    check_range(row, n);
    for (uint64_t i = 0; i < n; i++) source_->read_f32(file_row(row + i), 1, out + i * cols());
  }
  void read_codes(uint64_t row, uint64_t n, int8_t* codes, float* scales, float* mins) const override {
    check_range(row, n);
    const std::optional<SourceCodes> kind = source_->codes();
    const uint64_t groups =
        kind && kind->group > 0 ? ceil_div(cols(), static_cast<uint64_t>(kind->group)) : 1;
    for (uint64_t i = 0; i < n; i++) {
      source_->read_codes(file_row(row + i), 1, codes + i * cols(), scales + i * groups,
                          mins ? mins + i * groups : nullptr);
    }
  }
  void read_mask(uint64_t row, uint64_t n, uint8_t* bits) const override {
    check_range(row, n);
    for (uint64_t i = 0; i < n; i++) source_->read_mask(file_row(row + i), 1, bits + i * ceil_div(cols(), 8));
  }

 private:
  uint64_t file_row(uint64_t row) const {
    const uint64_t half = head_dim_ / 2, in_head = row % head_dim_;
    return row - in_head + 2 * (in_head % half) + in_head / half;
  }

  const std::unique_ptr<RowSource> source_;
  const uint64_t head_dim_;
};

std::unique_ptr<RowSource> open_in_file_order(const TensorDesc& desc, std::span<const File> files) {
  const std::string& e = desc.encoding;
  if (e == "f32" || e == "f16" || e == "bf16") return open_dense_rows(desc, files);
  if (e == "random") return open_random_rows(desc);
  if (find_gguf_block(e) != nullptr) return open_gguf_rows(desc, files);
  if (e == "bitmask" || e == "sparse-24-bitmask") return open_bitmask_rows(desc, files);
  if (e == "int-quantized" || e == "pack-quantized") return open_quantized_rows(desc, files);
  if (e == "bitmask+int-quantized" || e == "sparse-24-bitmask+int-quantized" ||
      e == "bitmask+pack-quantized") {
    return open_bitmask_quantized_rows(desc, files);
  }
  throw Error(ErrorCode::unsupported,
              "tensor " + desc.name + ": encoding '" + e + "' is not one this build reads");
}

}  // namespace

void RowSource::read_codes(uint64_t, uint64_t, int8_t*, float*, float*) const {
  throw Error(ErrorCode::invalid_argument,
              "this tensor's file holds no codes that can be kept; read it as f32");
}

void RowSource::read_mask(uint64_t, uint64_t, uint8_t*) const {
  throw Error(ErrorCode::invalid_argument, "this tensor's file holds no mask; count its zeros instead");
}

void MatrixRows::check_range(uint64_t row, uint64_t n) const {
  if (row > extent_.rows || n > extent_.rows - row) {
    throw Error(ErrorCode::invalid_argument, "tensor " + name_ + ": rows " + std::to_string(row) + " + " +
                                                 std::to_string(n) + " of " + std::to_string(extent_.rows));
  }
}

std::unique_ptr<RowSource> open_rows(const TensorDesc& desc, std::span<const File> files) {
  std::unique_ptr<RowSource> source = open_in_file_order(desc, files);
  if (desc.permuted_heads == 0) return source;
  const auto heads = static_cast<uint64_t>(std::max(desc.permuted_heads, 1));
  if (desc.permuted_heads < 0 || source->rows() % (2 * heads) != 0) {
    fail_corrupt(desc.name, std::to_string(source->rows()) + " rows cannot be " +
                                std::to_string(desc.permuted_heads) + " heads of even size");
  }
  const uint64_t head_dim = source->rows() / heads;
  return std::make_unique<UnpermutedRows>(desc, std::move(source), head_dim);
}

}  // namespace filigree
