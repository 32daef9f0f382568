#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/tensor_source.h"

namespace filigree {

// A matrix's extent after checking that rows * cols cannot overflow anything computed from it.
struct Extent {
  uint64_t rows, cols;
};

// [n] counts as one row. Throws corrupt_data unless there are one or two dimensions of 1..2^31 and at most
// 2^40 elements.
Extent extent_of(const TensorDesc& desc);

uint64_t ceil_div(uint64_t a, uint64_t b);

// Bytes of one element of a plain dtype, 0 if it is not one.
uint64_t dtype_bytes(const std::string& dtype);

[[noreturn]] void fail_corrupt(const std::string& tensor, const std::string& what);

// One part whose range was checked to lie within its file. Holds no bytes.
class PartView {
 public:
  // Throws corrupt_data if the part is absent, beyond the file, or not `bytes` long.
  PartView(const TensorDesc& desc, const std::string& key, std::span<const File> files);

  const std::string& dtype() const { return part_.dtype; }
  const std::vector<uint64_t>& shape() const { return part_.shape; }
  uint64_t bytes() const { return part_.bytes; }
  // Elements of a plain dtype: product of the shape, checked against the byte count.
  uint64_t elements() const;

  void require_dtype(std::initializer_list<const char*> allowed) const;
  void require_bytes(uint64_t bytes) const;

  void read(uint64_t offset, void* out, uint64_t bytes) const;  // checked against the part's length
  // The whole part as f32, from f32, f16, bf16, i8, u8, i32 or i64.
  std::vector<float> read_all_f32() const;
  std::vector<int64_t> read_all_integers() const;

 private:
  TensorPart part_;
  const File* file_;
  std::string label_;  // "tensor (part)" for messages
};

// f32, f16 or bf16 to f32.
void convert_floats(const std::string& dtype, const uint8_t* in, uint64_t n, float* out);

}  // namespace filigree
