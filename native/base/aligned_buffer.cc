#include "base/aligned_buffer.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/status.h"

namespace filigree {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

[[noreturn]] void fail(size_t bytes) {
  throw Error(ErrorCode::out_of_memory,
              "cannot allocate " + std::to_string(bytes >> 20) +
                  " MiB; free memory, or choose a smaller weight format, context or KV cache");
}

}  // namespace

AlignedBuffer::AlignedBuffer(size_t bytes) {
  if (bytes == 0) return;
  if (bytes > SIZE_MAX / 2) fail(bytes);
  if (bytes < kHugePage) {
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    data_ = static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded));
    if (!data_) fail(bytes);
    std::memset(data_, 0, rounded);
    size_ = bytes;
    return;
  }
  // Map one huge page more than needed and cut to alignment: only an aligned range can be backed by huge pages throughout.
  const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  const size_t reserved = rounded + kHugePage;
  void* map =
      mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) fail(bytes);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(map);
  const uintptr_t aligned = (begin + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > begin) munmap(map, aligned - begin);
  if (begin + reserved > aligned + rounded) {
    munmap(reinterpret_cast<void*>(aligned + rounded), begin + reserved - (aligned + rounded));
  }
  data_ = reinterpret_cast<std::byte*>(aligned);
  size_ = bytes;
  mapped_ = rounded;
#if defined(MADV_HUGEPAGE)
  madvise(data_, mapped_, MADV_HUGEPAGE);  // a wish; without it the pages are small
#endif
}

AlignedBuffer::~AlignedBuffer() {
  if (mapped_) {
    munmap(data_, mapped_);
  } else {
    std::free(data_);
  }
}

}  // namespace filigree
