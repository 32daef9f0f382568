#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "compress/matrix.h"

namespace filigree {

// A tensor of a safetensors file: dtype as safetensors spells it (F32 F16 BF16 I8 U8 I32 I64).
struct EncodedTensor {
  std::string name, dtype;
  std::vector<uint64_t> shape;
  std::vector<std::byte> bytes;
};

enum class FloatType { f32, f16, bf16 };

// The values as they will be read back.
void round_to_float_type(FloatType type, float* values, size_t n);

// A matrix in compressed-tensors' forms (models/FORMAT.md): sparse-bitmask where its zeros pay for the mask, else dense; values floating
// point, or integer codes over it (int-quantized, pack-quantized). The matrix is called NAME.weight; the tensors NAME.compressed
// and so on. Nothing is appended but to `out`.
void encode_floats(const DenseMatrix& weight, FloatType type, std::vector<EncodedTensor>& out);
void encode_codes(const DenseMatrix& weight, const Codes& codes, std::vector<EncodedTensor>& out);

// As encode_floats, but dense whatever the zeros: the rows of a larger matrix follow each other in such tensors' bytes.
void encode_dense(const DenseMatrix& weight, FloatType type, std::vector<EncodedTensor>& out);

// A vector (a norm, a bias), under its own name.
void encode_vector(const std::string& name, const std::vector<float>& values, FloatType type,
                   std::vector<EncodedTensor>& out);

}  // namespace filigree
