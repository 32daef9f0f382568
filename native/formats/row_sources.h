#pragma once

#include <memory>
#include <span>

#include "formats/part_view.h"
#include "formats/tensor_source.h"

// The readers behind open_rows(), one factory per family of encodings. Each validates its parts and throws as
// open_rows does.

namespace filigree {

// Rows and columns, and the check every read begins with.
class MatrixRows : public RowSource {
 public:
  MatrixRows(const TensorDesc& desc, Extent extent) : name_(desc.name), extent_(extent) {}
  uint64_t rows() const final { return extent_.rows; }
  uint64_t cols() const final { return extent_.cols; }

 protected:
  void check_range(uint64_t row, uint64_t n) const;
  const std::string name_;
  const Extent extent_;
};

std::unique_ptr<RowSource> open_random_rows(const TensorDesc& desc);
std::unique_ptr<RowSource> open_dense_rows(const TensorDesc& desc, std::span<const File> files);
std::unique_ptr<RowSource> open_gguf_rows(const TensorDesc& desc, std::span<const File> files);
std::unique_ptr<RowSource> open_bitmask_rows(const TensorDesc& desc, std::span<const File> files);
std::unique_ptr<RowSource> open_quantized_rows(const TensorDesc& desc, std::span<const File> files);
std::unique_ptr<RowSource> open_bitmask_quantized_rows(const TensorDesc& desc, std::span<const File> files);

}  // namespace filigree
