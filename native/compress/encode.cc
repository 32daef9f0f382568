#include "compress/encode.h"

#include <algorithm>
#include <cstring>

#include "base/half.h"
#include "base/status.h"

namespace filigree {
namespace {

size_t bytes_of(FloatType type) { return type == FloatType::f32 ? 4 : 2; }
const char* name_of(FloatType type) {
  return type == FloatType::f32 ? "F32" : type == FloatType::f16 ? "F16" : "BF16";
}

void store_float(FloatType type, float value, std::byte* at) {
  if (type == FloatType::f32) {
    std::memcpy(at, &value, 4);
    return;
  }
  const uint16_t half = type == FloatType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
  std::memcpy(at, &half, 2);
}

std::string module_of(const std::string& name) {
  constexpr std::string_view kSuffix = ".weight";
  if (!name.ends_with(kSuffix))
    throw Error(ErrorCode::internal, "matrix " + name + " is not called a weight");
  return name.substr(0, name.size() - kSuffix.size());
}

template <class T>
EncodedTensor tensor_of(std::string name, const char* dtype, std::vector<uint64_t> shape,
                        const std::vector<T>& values) {
  EncodedTensor out{std::move(name), dtype, std::move(shape), {}};
  out.bytes.resize(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(out.bytes.data(), values.data(), out.bytes.size());
  return out;
}

EncodedTensor shape_tensor(std::string name, const DenseMatrix& m) {
  return tensor_of(std::move(name), "I64", {2}, std::vector<int64_t>{m.rows, m.cols});
}

// Whether a mask of one bit an element costs less than the zeros it saves.
bool mask_pays(uint64_t zeros, uint64_t elements, double bits) {
  return static_cast<double>(zeros) * bits > static_cast<double>(elements);
}

struct MaskParts {
  std::vector<uint8_t> bits;
  std::vector<int64_t> offsets;
  uint64_t stored = 0;
};

// is_stored(element index); rows begin at multiples of `align` stored elements.
template <class IsStored>
MaskParts mask_of(const DenseMatrix& m, uint64_t align, IsStored is_stored) {
  MaskParts out;
  const uint64_t row_bytes = (uint64_t{m.cols} + 7) / 8;
  out.bits.resize(m.rows * row_bytes);
  out.offsets.resize(m.rows);
  for (uint32_t r = 0; r < m.rows; ++r) {
    out.stored = (out.stored + align - 1) / align * align;
    out.offsets[r] = static_cast<int64_t>(out.stored);
    for (uint32_t c = 0; c < m.cols; ++c) {
      if (!is_stored(size_t{r} * m.cols + c)) continue;
      out.bits[r * row_bytes + c / 8] |= static_cast<uint8_t>(1u << (c % 8));
      ++out.stored;
    }
  }
  out.stored = (out.stored + align - 1) / align * align;
  return out;
}

void add_mask(const std::string& module, const DenseMatrix& m, const MaskParts& mask,
              std::vector<EncodedTensor>& out) {
  out.push_back(tensor_of(module + ".bitmask", "U8", {m.rows, (uint64_t{m.cols} + 7) / 8}, mask.bits));
  out.push_back(tensor_of(module + ".row_offsets", "I64", {m.rows}, mask.offsets));
  out.push_back(shape_tensor(module + ".shape", m));
}

void encode_i8(const std::string& module, const DenseMatrix& m, const Codes& codes,
               std::vector<EncodedTensor>& out) {
  uint64_t zeros = 0;
  for (const int8_t code : codes.values) zeros += code == 0;
  if (!mask_pays(zeros, m.size(), 8)) {
    out.push_back(tensor_of(module + ".weight", "I8", {m.rows, m.cols}, codes.values));
    return;
  }
  const MaskParts mask = mask_of(m, 1, [&](size_t i) { return codes.values[i] != 0; });
  std::vector<int8_t> stored;
  stored.reserve(mask.stored);
  for (const int8_t code : codes.values) {
    if (code != 0) stored.push_back(code);
  }
  out.push_back(tensor_of(module + ".compressed", "I8", {stored.size()}, stored));
  add_mask(module, m, mask, out);
}

void encode_i4(const std::string& module, const DenseMatrix& m, const Codes& codes,
               std::vector<EncodedTensor>& out) {
  const auto nibble = [&](size_t i) { return static_cast<uint8_t>(codes.values[i] + 8); };
  uint64_t zeros = 0;
  for (const int8_t code : codes.values) zeros += code == 0;
  if (!mask_pays(zeros, m.size(), 4)) {
    const uint64_t words = (uint64_t{m.cols} + 7) / 8;
    std::vector<uint32_t> packed(m.rows * words);
    for (uint32_t r = 0; r < m.rows; ++r) {
      for (uint32_t c = 0; c < m.cols; ++c) {
        packed[r * words + c / 8] |= uint32_t{nibble(size_t{r} * m.cols + c)} << (4 * (c % 8));
      }
    }
    out.push_back(tensor_of(module + ".weight_packed", "I32", {m.rows, words}, packed));
    out.push_back(shape_tensor(module + ".weight_shape", m));
    return;
  }
  const MaskParts mask = mask_of(m, 2, [&](size_t i) { return codes.values[i] != 0; });
  std::vector<uint8_t> stored(mask.stored / 2);
  for (uint32_t r = 0; r < m.rows; ++r) {
    uint64_t at = static_cast<uint64_t>(mask.offsets[r]);
    for (uint32_t c = 0; c < m.cols; ++c) {
      const size_t i = size_t{r} * m.cols + c;
      if (codes.values[i] == 0) continue;
      stored[at / 2] |= static_cast<uint8_t>(nibble(i) << (4 * (at % 2)));
      ++at;
    }
  }
  out.push_back(tensor_of(module + ".compressed", "U8", {stored.size()}, stored));
  add_mask(module, m, mask, out);
}

}  // namespace

void round_to_float_type(FloatType type, float* values, size_t n) {
  if (type == FloatType::f32) return;
  for (size_t i = 0; i < n; ++i) {
    values[i] =
        type == FloatType::f16 ? f16_to_f32(f32_to_f16(values[i])) : bf16_to_f32(f32_to_bf16(values[i]));
  }
}

void encode_dense(const DenseMatrix& m, FloatType type, std::vector<EncodedTensor>& out) {
  const size_t element = bytes_of(type);
  EncodedTensor tensor{m.name, name_of(type), {m.rows, m.cols}, {}};
  tensor.bytes.resize(m.size() * element);
  for (size_t i = 0; i < m.size(); ++i) store_float(type, m.data()[i], tensor.bytes.data() + i * element);
  out.push_back(std::move(tensor));
}

void encode_floats(const DenseMatrix& m, FloatType type, std::vector<EncodedTensor>& out) {
  const size_t element = bytes_of(type);
  const float* values = m.data();
  const uint64_t zeros = static_cast<uint64_t>(std::count(values, values + m.size(), 0.0f));
  if (!mask_pays(zeros, m.size(), 8.0 * static_cast<double>(element))) return encode_dense(m, type, out);
  const std::string module = module_of(m.name);
  EncodedTensor tensor{module + ".compressed", name_of(type), {m.size() - zeros}, {}};
  tensor.bytes.resize((m.size() - zeros) * element);
  std::byte* at = tensor.bytes.data();
  for (size_t i = 0; i < m.size(); ++i) {
    if (values[i] == 0.0f) continue;
    store_float(type, values[i], at);
    at += element;
  }
  out.push_back(std::move(tensor));
  add_mask(module, m, mask_of(m, 1, [&](size_t i) { return values[i] != 0.0f; }), out);
}

void encode_codes(const DenseMatrix& m, const Codes& codes, std::vector<EncodedTensor>& out) {
  const std::string module = module_of(m.name);
  const uint32_t groups = group_count(m.cols, codes.group);
  EncodedTensor scale{module + ".weight_scale", codes.bits == 8 ? "F32" : "F16", {m.rows, groups}, {}};
  const FloatType type = codes.bits == 8 ? FloatType::f32 : FloatType::f16;
  scale.bytes.resize(codes.scales.size() * bytes_of(type));
  for (size_t i = 0; i < codes.scales.size(); ++i)
    store_float(type, codes.scales[i], scale.bytes.data() + i * bytes_of(type));
  if (codes.bits == 8) {
    encode_i8(module, m, codes, out);
  } else {
    encode_i4(module, m, codes, out);
  }
  out.push_back(std::move(scale));
}

void encode_vector(const std::string& name, const std::vector<float>& values, FloatType type,
                   std::vector<EncodedTensor>& out) {
  EncodedTensor tensor{name, name_of(type), {values.size()}, {}};
  tensor.bytes.resize(values.size() * bytes_of(type));
  for (size_t i = 0; i < values.size(); ++i)
    store_float(type, values[i], tensor.bytes.data() + i * bytes_of(type));
  out.push_back(std::move(tensor));
}

}  // namespace filigree
