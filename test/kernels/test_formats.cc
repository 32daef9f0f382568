#include <cmath>
#include <cstring>
#include <thread>

#include "base/half.h"
#include "base/status.h"
#include "formats/gguf_blocks.h"
#include "formats_fixture.h"

namespace filigree::test {
namespace {

template <class T>
T take(const std::string& bytes, size_t& at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  at += sizeof value;
  return value;
}

struct Expected {
  uint64_t rows, cols;
  std::vector<float> values;
};

std::map<std::string, Expected> read_expected(const std::string& path) {
  const std::string bytes = read_file(path);
  std::map<std::string, Expected> out;
  for (size_t at = 0; at < bytes.size();) {
    const auto length = take<uint32_t>(bytes, at);
    Expected e;
    e.rows = take<uint32_t>(bytes, at);
    e.cols = take<uint32_t>(bytes, at);
    const std::string name = bytes.substr(at, length);
    at += length;
    e.values.resize(e.rows * e.cols);
    std::memcpy(e.values.data(), bytes.data() + at, e.values.size() * 4);
    at += e.values.size() * 4;
    out.emplace(name, std::move(e));
  }
  return out;
}

// What codes(), masks and rows of a source say of each other.
void check_consistent(const RowSource& source, const std::vector<float>& values, const std::string& name) {
  const uint64_t rows = source.rows(), cols = source.cols();
  std::vector<float> one(cols), tail(2 * cols);
  source.read_f32(rows - 1, 1, one.data());
  check(std::memcmp(one.data(), &values[(rows - 1) * cols], cols * 4) == 0, name + ": its last row alone");
  source.read_f32(rows - 2, 2, tail.data());
  check(std::memcmp(tail.data(), &values[(rows - 2) * cols], 2 * cols * 4) == 0,
        name + ": its last two rows");
  check_throws<Error>([&] { source.read_f32(rows, 1, one.data()); }, name + ": a row past the end");
  check_throws<Error>([&] { source.read_f32(1, UINT64_MAX, one.data()); }, name + ": a count that overflows");
  const uint64_t mask_bytes = (cols + 7) / 8;
  std::vector<uint8_t> mask(rows * mask_bytes, 0xff);
  if (source.masked()) {
    source.read_mask(0, rows, mask.data());
    for (uint64_t i = 0; i < rows * cols; i++) {
      const bool stored = mask[i / cols * mask_bytes + i % cols / 8] >> (i % cols % 8) & 1;
      if (!stored) check(values[i] == 0.0f, name + ": an element that is not stored");
    }
  } else {
    check_throws<Error>([&] { source.read_mask(0, 1, mask.data()); }, name + ": a mask it does not have");
  }
  const auto kind = source.codes();
  std::vector<int8_t> codes(rows * cols);
  if (!kind) {
    check_throws<Error>([&] { source.read_codes(0, 1, codes.data(), one.data(), one.data()); },
                        name + ": codes it does not have");
    return;
  }
  const uint64_t group = kind->group ? static_cast<uint64_t>(kind->group) : cols,
                 groups = (cols + group - 1) / group;
  std::vector<float> scales(rows * groups), mins(rows * groups);
  source.read_codes(0, rows, codes.data(), scales.data(), kind->has_min ? mins.data() : nullptr);
  const int low = kind->bits == 8 ? -127
                  : kind->has_min ? 0
                                  : -8,
            high = kind->bits == 8 ? 127
                   : kind->has_min ? 15
                                   : 7;
  for (uint64_t i = 0; i < rows * cols; i++) {
    const uint64_t r = i / cols, c = i % cols, g = r * groups + c / group;
    const bool stored = mask[r * mask_bytes + c / 8] >> (c % 8) & 1;
    check(codes[i] >= low && codes[i] <= high, name + ": code range");
    const float value = stored ? scales[g] * static_cast<float>(codes[i]) + mins[g] : 0.0f;
    check_near(value, values[i], 1e-6 * (1 + std::fabs(mins[g])), name + ": code to value");
  }
}

void check_model(const std::string& descriptions, const std::string& expected_path,
                 const std::string& folder) {
  const FixtureModel model = read_descriptions(kFixtures + "/" + descriptions);
  const auto expected = read_expected(kFixtures + "/" + expected_path);
  std::vector<File> files;
  for (const std::string& name : model.files)
    files.push_back(File::open(kFixtures + "/" + folder + "/" + name));
  size_t compared = 0;
  for (const TensorDesc& desc : model.tensors) {
    const auto source = open_rows(desc, files);
    std::vector<float> values(source->rows() * source->cols());
    source->read_f32(0, source->rows(), values.data());
    const auto it = expected.find(desc.name);
    if (it == expected.end()) continue;
    check_equal(source->rows(), it->second.rows, desc.name + ": rows");
    check_equal(source->cols(), it->second.cols, desc.name + ": columns");
    size_t wrong = 0;
    for (size_t i = 0; i < values.size(); i++)
      wrong += std::fabs(values[i] - it->second.values[i]) > 1e-6f * std::fabs(values[i]);
    check_equal(wrong, size_t{0},
                desc.name + " (" + desc.encoding + "): values that differ from the library's");
    check_consistent(*source, values, desc.name);
    compared++;
  }
  check_equal(compared, expected.size(), "tensors compared");
}

}  // namespace

FILIGREE_TEST(formats_gguf_blocks_equal_the_reference_to_the_bit) {
  const std::string bytes = read_file(kFixtures + "/gguf_blocks.bin");
  size_t types = 0;
  for (size_t at = 0; at < bytes.size(); types++) {
    const auto length = take<uint32_t>(bytes, at), count = take<uint32_t>(bytes, at);
    const std::string name = bytes.substr(at, length);
    at += length;
    const GgufBlock* block = find_gguf_block(name);
    if (block == nullptr) return check(false, "no block type " + name);
    const auto* in = reinterpret_cast<const uint8_t*>(bytes.data() + at);
    const char* expected = bytes.data() + at + size_t{count} * block->bytes;
    std::vector<float> out(block->elements), scales(8), mins(8);
    std::vector<int8_t> codes(block->elements);
    for (uint32_t b = 0; b < count; b++) {
      block->dequantize(in + b * block->bytes, out.data());
      check(std::memcmp(out.data(), expected + b * out.size() * 4, out.size() * 4) == 0,
            name + " block " + std::to_string(b));
      if (block->codes == nullptr) continue;
      block->codes(in + b * block->bytes, codes.data(), scales.data(),
                   block->has_min ? mins.data() : nullptr);
      for (uint32_t i = 0; i < block->elements; i++) {
        const float value =
            scales[i / 32] * static_cast<float>(codes[i]) + (block->has_min ? mins[i / 32] : 0.0f);
        check(value == out[i], name + ": code to value");
      }
    }
    at += size_t{count} * (block->bytes + block->elements * 4);
  }
  check_equal(types, size_t{8});
  check(find_gguf_block("q2_k") == nullptr);
}

FILIGREE_TEST(formats_compressed_tensors_equal_the_library) {
  check_model("models/tiny-compressed.tensors", "models/tiny-compressed/expected.bin",
              "models/tiny-compressed");
}

FILIGREE_TEST(formats_gguf_equals_the_library_with_rows_unpermuted) {
  check_model("models/tiny.gguf.tensors", "models/tiny.gguf.expected.bin", "models");
}

// Two rows of 10 columns, every row's nibbles on a byte, with zero points: what is not stored is exactly zero.
FILIGREE_TEST(formats_packed_sparse_codes) {
  const uint8_t compressed[] = {0x80, 0x0f, /* row 1 */ 0x21,
                                0x43};  // codes -8, 0, 7 (and a pad); -7, -6, -5, -4
  const uint8_t bitmask[] = {0b00001011, 0, /* row 1 */ 0b11000000, 0b00000011};
  const int64_t offsets[] = {0, 4};
  const float scales[] = {0.5f, 2.0f};
  const int8_t zeros[] = {1, -2};
  std::string bytes;
  TensorDesc desc{
      .name = "w", .shape = {2, 10}, .encoding = "bitmask+pack-quantized", .parts = {}, .bits = 4};
  const auto add = [&](const char* key, const void* data, size_t size, const char* dtype,
                       std::vector<uint64_t> shape) {
    desc.parts[key] = {0, bytes.size(), size, dtype, std::move(shape)};
    bytes.append(static_cast<const char*>(data), size);
  };
  add("compressed", compressed, sizeof compressed, "u8", {4});
  add("bitmask", bitmask, sizeof bitmask, "u8", {2, 2});
  add("row_offsets", offsets, sizeof offsets, "i64", {2});
  add("scale", scales, sizeof scales, "f32", {2, 1});
  add("zero_point", zeros, sizeof zeros, "i8", {2, 1});
  const TemporaryFile file(bytes);
  std::vector<File> files;
  files.push_back(File::open(file.path()));
  const auto source = open_rows(desc, files);
  std::vector<float> values(20);
  source->read_f32(0, 2, values.data());
  const std::vector<float> expected = {-4.5f, -0.5f, 0, 3.0f, 0, 0, 0,      0,     0,     0,
                                       0,     0,     0, 0,    0, 0, -10.0f, -8.0f, -6.0f, -4.0f};
  check(values == expected, "values");
  check(source->masked());
  check_consistent(*source, values, "w");
}

// A row that holds -128 is rescaled: kernels take -127..127.
FILIGREE_TEST(formats_int8_minus_128_is_rescaled) {
  const int8_t weights[] = {-128, 127, 1, 0, /* row 1 */ -127, 5, 0, 2};
  const uint16_t scales[] = {f32_to_bf16(0.25f), f32_to_bf16(0.5f)};
  std::string bytes(reinterpret_cast<const char*>(weights), sizeof weights);
  bytes.append(reinterpret_cast<const char*>(scales), sizeof scales);
  TensorDesc desc{.name = "w", .shape = {2, 4}, .encoding = "int-quantized", .parts = {}, .bits = 8};
  desc.parts["weight"] = {0, 0, 8, "i8", {2, 4}};
  desc.parts["scale"] = {0, 8, 4, "bf16", {2}};
  const TemporaryFile file(bytes);
  std::vector<File> files;
  files.push_back(File::open(file.path()));
  const auto source = open_rows(desc, files);
  std::vector<int8_t> codes(8);
  std::vector<float> got(2);
  source->read_codes(0, 2, codes.data(), got.data(), nullptr);
  check(codes == std::vector<int8_t>{-127, 126, 1, 0, -127, 5, 0, 2});
  check_near(got[0], 0.25 * 128 / 127, 1e-7);
  check(got[1] == 0.5f, "a row without -128 keeps its scale");
  std::vector<float> values(8);
  source->read_f32(0, 2, values.data());
  check(values[0] == -32.0f && values[4] == -63.5f, "values are the file's own");
}

FILIGREE_TEST(formats_rows_from_several_threads) {
  const FixtureModel model = read_descriptions(kFixtures + "/models/tiny-compressed.tensors");
  std::vector<File> files;
  for (const std::string& name : model.files)
    files.push_back(File::open(kFixtures + "/models/tiny-compressed/" + name));
  for (const TensorDesc& desc : model.tensors) {
    const auto source = open_rows(desc, files);
    std::vector<float> whole(source->rows() * source->cols());
    source->read_f32(0, source->rows(), whole.data());
    std::vector<std::thread> threads;
    std::vector<int> same(4, 0);
    for (int t = 0; t < 4; t++) {
      threads.emplace_back([&, t] {
        std::vector<float> row(source->cols());
        for (uint64_t r = 0; r < source->rows(); r++) {
          source->read_f32(r, 1, row.data());
          same[static_cast<size_t>(t)] +=
              std::memcmp(row.data(), &whole[r * row.size()], row.size() * 4) == 0;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const int n : same) check_equal(static_cast<uint64_t>(n), source->rows(), desc.name);
  }
}

}  // namespace filigree::test
