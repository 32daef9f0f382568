#pragma once

#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/tensor_source.h"
#include "harness.h"

namespace filigree::test {

inline const std::string kFixtures = FILIGREE_FIXTURES;

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) skip("no " + path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A file that lives as long as this object.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& bytes) {
    std::string name = "/tmp/filigree-test-XXXXXX";
    const int fd = mkstemp(name.data());
    path_ = name;
    if (fd < 0 || write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
      skip("cannot write " + name);
    close(fd);
  }
  ~TemporaryFile() { unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The lines that test/unit/model/describe.ts writes of a manifest.
struct FixtureModel {
  std::vector<std::string> files;
  std::vector<TensorDesc> tensors;
};

inline FixtureModel read_descriptions(const std::string& path) {
  FixtureModel model;
  std::istringstream lines(read_file(path));
  const auto dims = [](std::istringstream& in) {
    size_t rank = 0;
    in >> rank;
    std::vector<uint64_t> shape(rank);
    for (uint64_t& d : shape) in >> d;
    return shape;
  };
  for (std::string line; std::getline(lines, line);) {
    std::istringstream in(line);
    std::string kind;
    in >> kind;
    if (kind == "file") {
      in >> model.files.emplace_back();
    } else if (kind == "tensor") {
      TensorDesc& desc = model.tensors.emplace_back();
      in >> desc.name >> desc.encoding >> desc.group_size >> desc.bits >> desc.permuted_heads;
      desc.shape = dims(in);
    } else if (kind == "part") {
      std::string key;
      TensorPart part;
      in >> key >> part.file >> part.offset >> part.bytes >> part.dtype;
      part.shape = dims(in);
      model.tensors.back().parts[key] = part;
    }
  }
  return model;
}

}  // namespace filigree::test
