#include "formats/part_view.h"

#include <algorithm>
#include <cstring>

#include "base/half.h"
#include "base/status.h"

namespace filigree {
namespace {

constexpr uint64_t kMaxDimension = uint64_t{1} << 31;
constexpr uint64_t kMaxElements = uint64_t{1} << 40;

template <class T>
T load(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

}  // namespace

uint64_t ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

void fail_corrupt(const std::string& tensor, const std::string& what) {
  throw Error(ErrorCode::corrupt_data,
              "tensor " + tensor + ": " + what + "; the file is damaged or was written by a faulty tool");
}

Extent extent_of(const TensorDesc& desc) {
  if (desc.shape.empty() || desc.shape.size() > 2)
    fail_corrupt(desc.name, "has neither one nor two dimensions");
  for (const uint64_t d : desc.shape) {
    if (d == 0 || d > kMaxDimension) fail_corrupt(desc.name, "has a dimension of " + std::to_string(d));
  }
  const Extent extent =
      desc.shape.size() == 1 ? Extent{1, desc.shape[0]} : Extent{desc.shape[0], desc.shape[1]};
  if (extent.rows > kMaxElements / extent.cols) fail_corrupt(desc.name, "has more than 2^40 elements");
  return extent;
}

uint64_t dtype_bytes(const std::string& dtype) {
  if (dtype == "f32" || dtype == "i32") return 4;
  if (dtype == "f16" || dtype == "bf16" || dtype == "i16") return 2;
  if (dtype == "i8" || dtype == "u8") return 1;
  if (dtype == "i64") return 8;
  return 0;
}

PartView::PartView(const TensorDesc& desc, const std::string& key, std::span<const File> files)
    : label_(desc.name + " (" + key + ")") {
  const auto it = desc.parts.find(key);
  if (it == desc.parts.end()) fail_corrupt(desc.name, "its part '" + key + "' is missing");
  part_ = it->second;
  if (part_.file < 0 || static_cast<size_t>(part_.file) >= files.size()) {
    throw Error(ErrorCode::invalid_argument,
                "tensor " + label_ + ": no file number " + std::to_string(part_.file));
  }
  file_ = &files[static_cast<size_t>(part_.file)];
  if (part_.offset > file_->size() || part_.bytes > file_->size() - part_.offset) {
    fail_corrupt(label_, "bytes " + std::to_string(part_.offset) + " + " + std::to_string(part_.bytes) +
                             " lie beyond the end of the file (" + std::to_string(file_->size()) + ")");
  }
}

uint64_t PartView::elements() const {
  const uint64_t size = dtype_bytes(part_.dtype);
  if (size == 0) fail_corrupt(label_, "has the unexpected dtype " + part_.dtype);
  uint64_t n = 1;
  for (const uint64_t d : part_.shape) {
    if (d != 0 && n > kMaxElements / d) fail_corrupt(label_, "has more than 2^40 elements");
    n *= d;
  }
  if (n * size != part_.bytes) {
    fail_corrupt(label_, "is " + std::to_string(part_.bytes) + " bytes long where its shape needs " +
                             std::to_string(n * size));
  }
  return n;
}

void PartView::require_dtype(std::initializer_list<const char*> allowed) const {
  if (std::find(allowed.begin(), allowed.end(), part_.dtype) != allowed.end()) return;
  std::string names;
  for (const char* name : allowed) names += (names.empty() ? "" : ", ") + std::string(name);
  fail_corrupt(label_, "has dtype " + part_.dtype + ", expected " + names);
}

void PartView::require_bytes(uint64_t bytes) const {
  if (part_.bytes != bytes) {
    fail_corrupt(label_, "is " + std::to_string(part_.bytes) + " bytes long where the tensor's shape needs " +
                             std::to_string(bytes));
  }
}

void PartView::read(uint64_t offset, void* out, uint64_t bytes) const {
  if (offset > part_.bytes || bytes > part_.bytes - offset) fail_corrupt(label_, "is read beyond its end");
  if (bytes != 0) file_->read_at(part_.offset + offset, out, bytes);
}

std::vector<float> PartView::read_all_f32() const {
  const uint64_t n = elements();
  std::vector<uint8_t> raw(part_.bytes);
  read(0, raw.data(), raw.size());
  std::vector<float> out(n);
  if (part_.dtype == "f32" || part_.dtype == "f16" || part_.dtype == "bf16") {
    convert_floats(part_.dtype, raw.data(), n, out.data());
  } else {
    const std::vector<int64_t> integers = read_all_integers();
    std::transform(integers.begin(), integers.end(), out.begin(),
                   [](int64_t v) { return static_cast<float>(v); });
  }
  return out;
}

std::vector<int64_t> PartView::read_all_integers() const {
  const uint64_t n = elements();
  require_dtype({"i8", "u8", "i16", "i32", "i64"});
  std::vector<uint8_t> raw(part_.bytes);
  read(0, raw.data(), raw.size());
  std::vector<int64_t> out(n);
  for (uint64_t i = 0; i < n; i++) {
    if (part_.dtype == "i8") out[i] = static_cast<int8_t>(raw[i]);
    if (part_.dtype == "u8") out[i] = raw[i];
    if (part_.dtype == "i16") out[i] = load<int16_t>(&raw[2 * i]);
    if (part_.dtype == "i32") out[i] = load<int32_t>(&raw[4 * i]);
    if (part_.dtype == "i64") out[i] = load<int64_t>(&raw[8 * i]);
  }
  return out;
}

void convert_floats(const std::string& dtype, const uint8_t* in, uint64_t n, float* out) {
  if (dtype == "f32") {
    std::memcpy(out, in, n * sizeof(float));
  } else if (dtype == "f16") {
    for (uint64_t i = 0; i < n; i++) out[i] = f16_to_f32(load<uint16_t>(in + 2 * i));
  } else {
    for (uint64_t i = 0; i < n; i++) out[i] = bf16_to_f32(load<uint16_t>(in + 2 * i));
  }
}

}  // namespace filigree
