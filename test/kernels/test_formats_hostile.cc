#include <cmath>

#include "base/status.h"
#include "formats_fixture.h"

// Descriptions and files that lie: every one must end in an Error or in values, never in a crash, a hang or an allocation
// that the files' sizes do not bound. Run under AddressSanitizer to see the rest.

namespace filigree::test {
namespace {

// Opens and reads everything a source offers.
void drain(const TensorDesc& desc, const std::vector<File>& files) {
  const auto source = open_rows(desc, files);
  const uint64_t rows = source->rows(), cols = source->cols();
  if (rows * cols > 1 << 20) return;
  std::vector<float> values(rows * cols), scales(rows * cols + 1), mins(rows * cols + 1);
  source->read_f32(0, rows, values.data());
  std::vector<int8_t> codes(rows * cols);
  if (source->codes()) source->read_codes(0, rows, codes.data(), scales.data(), mins.data());
  std::vector<uint8_t> mask(rows * ((cols + 7) / 8));
  if (source->masked()) source->read_mask(0, rows, mask.data());
}

struct Outcome {
  int errors = 0, values = 0;
};

void attempt(const TensorDesc& desc, const std::vector<File>& files, Outcome& outcome) {
  try {
    drain(desc, files);
    outcome.values++;
  } catch (const Error&) {
    outcome.errors++;
  }
}

uint64_t strange(Random& random, uint64_t was) {
  static constexpr uint64_t kValues[] = {0,
                                         1,
                                         2,
                                         7,
                                         31,
                                         33,
                                         255,
                                         1 << 16,
                                         1u << 31,
                                         uint64_t{1} << 32,
                                         uint64_t{1} << 62,
                                         UINT64_MAX,
                                         UINT64_MAX - 7};
  switch (random.below(4)) {
    case 0:
      return was + 1;
    case 1:
      return was - 1;
    case 2:
      return was * 2;
    default:
      return kValues[random.below(std::size(kValues))];
  }
}

void mutate(TensorDesc& desc, Random& random) {
  static const char* kEncodings[] = {"f32",
                                     "bf16",
                                     "q4_0",
                                     "q6_k",
                                     "bitmask",
                                     "sparse-24-bitmask",
                                     "int-quantized",
                                     "pack-quantized",
                                     "bitmask+int-quantized",
                                     "bitmask+pack-quantized",
                                     "nonsense",
                                     ""};
  static const char* kDtypes[] = {"f32", "f16", "bf16", "i8", "u8", "i32", "i64", "q4_0", "?"};
  auto part = desc.parts.begin();
  std::advance(part, random.below(static_cast<uint32_t>(desc.parts.size())));
  switch (random.below(10)) {
    case 0:
      desc.encoding = kEncodings[random.below(std::size(kEncodings))];
      break;
    case 1:
      desc.shape[random.below(static_cast<uint32_t>(desc.shape.size()))] = strange(random, desc.shape[0]);
      break;
    case 2:
      desc.bits = static_cast<int>(strange(random, static_cast<uint64_t>(desc.bits)));
      break;
    case 3:
      desc.group_size = static_cast<int>(strange(random, static_cast<uint64_t>(desc.group_size)));
      break;
    case 4:
      desc.permuted_heads = static_cast<int>(strange(random, static_cast<uint64_t>(desc.permuted_heads)));
      break;
    case 5:
      part->second.offset = strange(random, part->second.offset);
      break;
    case 6:
      part->second.bytes = strange(random, part->second.bytes);
      break;
    case 7:
      part->second.dtype = kDtypes[random.below(std::size(kDtypes))];
      break;
    case 8:
      if (!part->second.shape.empty()) part->second.shape[0] = strange(random, part->second.shape[0]);
      part->second.file = random.below(8) == 0 ? static_cast<int>(random.below(5)) - 1 : part->second.file;
      break;
    default:
      if (desc.parts.size() > 1) desc.parts.erase(part);
  }
}

}  // namespace

FILIGREE_TEST(formats_lying_descriptions) {
  const FixtureModel model = read_descriptions(kFixtures + "/models/tiny-compressed.tensors");
  std::vector<File> files;
  for (const std::string& name : model.files)
    files.push_back(File::open(kFixtures + "/models/tiny-compressed/" + name));
  Random random(1);
  Outcome outcome;
  for (int i = 0; i < 20000; i++) {
    TensorDesc desc = model.tensors[random.below(static_cast<uint32_t>(model.tensors.size()))];
    for (uint32_t n = 1 + random.below(3); n > 0; n--) mutate(desc, random);
    attempt(desc, files, outcome);
  }
  check(outcome.errors > 10000, "most lies are found");
  check(outcome.values > 100, "some mutations are harmless");
}

FILIGREE_TEST(formats_damaged_contents) {
  for (const char* fixture : {"tiny-compressed", "tiny.gguf"}) {
    const std::string folder = fixture == std::string("tiny.gguf") ? "/models/" : "/models/tiny-compressed/";
    const FixtureModel model = read_descriptions(kFixtures + "/models/" + fixture + ".tensors");
    Random random(2);
    Outcome outcome;
    for (int round = 0; round < 150; round++) {
      std::vector<std::unique_ptr<TemporaryFile>> copies;
      std::vector<File> files;
      for (const std::string& name : model.files) {
        std::string bytes = read_file(kFixtures + folder + name);
        for (int n = 0; n < 200; n++)
          bytes[random.below(static_cast<uint32_t>(bytes.size()))] = static_cast<char>(random.bits());
        if (round % 5 == 0) bytes.resize(random.below(static_cast<uint32_t>(bytes.size())));
        copies.push_back(std::make_unique<TemporaryFile>(bytes));
        files.push_back(File::open(copies.back()->path()));
      }
      for (const TensorDesc& desc : model.tensors) attempt(desc, files, outcome);
    }
    check(outcome.values > 100 && outcome.errors > 50, fixture);
  }
}

FILIGREE_TEST(formats_file_that_shrinks_after_opening) {
  const std::string bytes(4096, '\1');
  const TemporaryFile file(bytes);
  std::vector<File> files;
  files.push_back(File::open(file.path()));
  TensorDesc desc{.name = "w", .shape = {16, 64}, .encoding = "f32", .parts = {}};
  desc.parts["data"] = {0, 0, 4096, "f32", {16, 64}};
  const auto source = open_rows(desc, files);
  if (truncate(file.path().c_str(), 1000) != 0) skip("cannot truncate");
  std::vector<float> row(64);
  source->read_f32(0, 1, row.data());
  check_throws<Error>([&] { source->read_f32(15, 1, row.data()); }, "a row that is gone");
}

FILIGREE_TEST(formats_errors_name_the_tensor) {
  TensorDesc desc{.name = "model.norm.weight", .shape = {4}, .encoding = "f32", .parts = {}};
  try {
    open_rows(desc, {});
    check(false, "opened");
  } catch (const Error& error) {
    check(std::string(error.what()).find("model.norm.weight") != std::string::npos, error.what());
  }
}

}  // namespace filigree::test
