#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace filigree {

// A regular file opened for reading. Reads copy (pread), they do not map: a file that is truncated or replaced later gives a
// clean error, where a mapped page that is gone kills the process. Safe to read from several threads.
class File {
 public:
  // Throws io (with the reason) if the file cannot be opened or is not a regular file.
  static File open(const std::string& path);

  File(File&& other) noexcept
      : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}
  File& operator=(File&& other) noexcept;
  ~File();

  uint64_t size() const { return size_; }  // when it was opened
  const std::string& path() const { return path_; }

  // Reads exactly `bytes` at `offset`. Throws io if the file is shorter or the read fails.
  void read_at(uint64_t offset, void* out, size_t bytes) const;

 private:
  File(std::string path, int fd, uint64_t size) : path_(std::move(path)), fd_(fd), size_(size) {}

  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

}  // namespace filigree
