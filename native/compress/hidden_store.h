#pragma once

#include <cstdint>
#include <string>

#include "base/aligned_buffer.h"

namespace filigree {

// Hidden states of the calibration text between two layers, [tokens][width] f32: in memory, or in a file where they would not fit.
// The file is unlinked as soon as it is open, so that nothing is left behind however the process ends.
class HiddenStore {
 public:
  // folder: where the file goes; empty = memory. Throws io.
  HiddenStore(uint64_t tokens, uint32_t width, const std::string& folder);
  ~HiddenStore();
  HiddenStore(const HiddenStore&) = delete;
  HiddenStore& operator=(const HiddenStore&) = delete;

  uint64_t tokens() const { return tokens_; }

  // The states of tokens [first, first + n), valid until the next call: where they lie in memory, or read from the file.
  float* load(uint64_t first, uint64_t n);
  // Keeps what was changed in the range last loaded.
  void store();

 private:
  uint64_t tokens_, first_ = 0, count_ = 0;
  size_t row_bytes_;
  int fd_ = -1;
  std::string path_;
  AlignedBuffer memory_;
};

}  // namespace filigree
