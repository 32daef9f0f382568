#pragma once

#include <atomic>
#include <cstdint>

#include "kernels/linear/linear.h"

namespace filigree::linear {

// What one thread takes of a product. Each has one contiguous run of panels, so that it streams megabytes from one place; the last
// quarter of the bytes lies in chunks for whoever is free. Virtual processors seldom get the same share of the memory's bandwidth, or
// of a busy machine's time: with runs alone, one of two threads waited for the other for up to a quarter of a product. A matrix too
// small for chunks that are worth their start is cut into runs only.
struct Share {
  uint32_t begin = 0, end = 0;                // the run; may be empty
  uint32_t chunks_begin = 0, chunks_end = 0;  // panels in common
  uint32_t chunk = 1;                         // panels a chunk

  // work(begin, end) for the run, then for chunks as long as there are any. next: 0 when the threads start, theirs in common.
  template <class Work>
  void take(std::atomic<uint32_t>& next, const Work& work) const {
    if (begin < end) work(begin, end);
    if (chunks_begin == chunks_end) return;
    for (uint32_t at; (at = chunks_begin + next.fetch_add(chunk, std::memory_order_relaxed)) < chunks_end;)
      work(at, at + chunk < chunks_end ? at + chunk : chunks_end);
  }
};

// The share of part `part` of `parts`; those of all parts cover every panel once. `together`: each range begins and ends at a multiple
// of so many panels, or at the matrix's end (1, or 2 for pairs). Reads all over the offsets of a sparse matrix: a step keeps what it
// was told.
Share share_of(const Matrix& matrix, int part, int parts, uint32_t together = 1);

// First panel of part `part` of `parts`: contiguous ranges, balanced by bytes, on unit boundaries; part == parts gives the end.
uint32_t split_panels(const Matrix& matrix, int part, int parts);

}  // namespace filigree::linear
