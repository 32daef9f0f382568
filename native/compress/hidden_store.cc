#include "compress/hidden_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/status.h"

namespace filigree {

HiddenStore::HiddenStore(uint64_t tokens, uint32_t width, const std::string& folder)
    : tokens_(tokens), row_bytes_(size_t{width} * sizeof(float)) {
  if (folder.empty()) {
    memory_ = AlignedBuffer(tokens * row_bytes_);
    return;
  }
  path_ = folder + "/hidden-states";
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd_ < 0) throw Error(ErrorCode::io, "Cannot write " + path_ + ": " + std::strerror(errno));
  ::unlink(path_.c_str());
}

HiddenStore::~HiddenStore() {
  if (fd_ >= 0) ::close(fd_);
}

float* HiddenStore::load(uint64_t first, uint64_t n) {
  first_ = first;
  count_ = n;
  if (fd_ < 0) return memory_.as<float>() + first * (row_bytes_ / sizeof(float));
  const size_t bytes = n * row_bytes_;
  if (memory_.size() < bytes) memory_ = AlignedBuffer(bytes);
  for (size_t done = 0; done < bytes;) {
    const ssize_t got =
        ::pread(fd_, memory_.data() + done, bytes - done, static_cast<off_t>(first * row_bytes_ + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error(ErrorCode::io, "Cannot read " + path_ + ": " + std::strerror(errno));
    if (got == 0) break;  // not yet written: what is there does not matter
    done += static_cast<size_t>(got);
  }
  return memory_.as<float>();
}

void HiddenStore::store() {
  if (fd_ < 0) return;
  const size_t bytes = count_ * row_bytes_;
  for (size_t done = 0; done < bytes;) {
    const ssize_t put =
        ::pwrite(fd_, memory_.data() + done, bytes - done, static_cast<off_t>(first_ * row_bytes_ + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0)
      throw Error(ErrorCode::io, "Cannot write the hidden states that do not fit in memory to " + path_ +
                                     ": " + std::strerror(errno));
    done += static_cast<size_t>(put);
  }
}

}  // namespace filigree
