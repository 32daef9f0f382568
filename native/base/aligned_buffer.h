#pragma once

#include <cstddef>
#include <utility>

namespace filigree {

// Zeroed memory aligned to 64 bytes (2 MiB for large buffers), owned and movable.
//
// From 2 MiB on it is anonymous memory straight from the kernel, asked for as huge pages and touched by nobody: pages are
// zeroed at first touch, by the thread that touches them, which decides the NUMA node they live on. Reserving a large KV
// arena therefore costs nothing until it is used.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Throws out_of_memory. Zero bytes give a null pointer.
  explicit AlignedBuffer(size_t bytes);
  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    AlignedBuffer moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~AlignedBuffer();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(mapped_, other.mapped_);
  }

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_ = 0;  // bytes to unmap; 0 = heap
};

}  // namespace filigree
