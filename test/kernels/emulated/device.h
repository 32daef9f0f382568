#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

// A device on the host, for kernels of native/cuda that are compiled as C++: a fiber for each thread of a block, blocks one after the
// other. A fiber runs until it must wait for others of its warp or block; who comes next changes from round to round, so that a
// missing barrier shows. Shared memory is poisoned before each block, and where an asynchronous copy is under way.

namespace emulated {

struct Index {
  uint32_t x = 0, y = 0, z = 0;
};
extern Index thread, block, block_size;

inline constexpr uint32_t kSharedBytes = 227 << 10;

uint32_t lane();
void warp_barrier();
void block_barrier();
// Where a lane puts what the others of its warp shall have, and, after a warp barrier and until the next, what all of them put there.
uint64_t (&slots())[32][8];
const uint64_t (&given())[32][8];
// Whether the stage-th fill of the ring at this address has come.
bool& filled(uint32_t ring, int stage);
void yield();

// Asynchronous copies of this thread, into `shared` (from null: zeros): they come when waited for, as late as they may.
void begin_copy(uint32_t to, const void* from, uint32_t bytes);
void end_copy_group();
void wait_for_copies(size_t pending_groups);

void launch(Index blocks, uint32_t threads, const std::function<void()>& kernel);

}  // namespace emulated
