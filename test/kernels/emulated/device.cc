#include "device.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace filigree::cuda {
alignas(128) extern uint8_t shared[];
alignas(128) uint8_t shared[emulated::kSharedBytes];
}  // namespace filigree::cuda

namespace emulated {

Index thread, block, block_size;

namespace {

struct Warp {
  uint32_t arrived = 0, generation = 0;
  uint64_t slots[2][32][8];  // by turns: who is ahead overwrites nothing that is still read
};
struct Copy {
  uint32_t to, bytes;
  const void* from;
};
struct Fiber {
  ucontext_t context;
  bool alive;
  std::vector<std::vector<Copy>> copies;  // by group; the last one is open
};
constexpr size_t kStack = 128 << 10;

ucontext_t scheduler;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
uint32_t arrived, generation;
std::map<std::pair<uint32_t, int>, bool> fills;
const std::function<void()>* work;

void enter() {
  (*work)();
  fibers[thread.x].alive = false;
  swapcontext(&fibers[thread.x].context, &scheduler);
}

}  // namespace

uint32_t lane() { return thread.x % 32; }
uint64_t (&slots())[32][8] {
  Warp& w = warps[thread.x / 32];
  return w.slots[w.generation % 2];
}
const uint64_t (&given())[32][8] {
  const Warp& w = warps[thread.x / 32];
  return w.slots[(w.generation + 1) % 2];
}
bool& filled(uint32_t ring, int stage) { return fills[{ring, stage}]; }

void begin_copy(uint32_t to, const void* from, uint32_t bytes) {
  if (to % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0 || to + bytes > kSharedBytes) {
    std::fprintf(stderr, "emulated device: a copy of %u bytes to %u\n", bytes, to);
    std::abort();
  }
  std::memset(filigree::cuda::shared + to, 0xcd, bytes);
  fibers[thread.x].copies.back().push_back({to, bytes, from});
}
void end_copy_group() { fibers[thread.x].copies.emplace_back(); }
void wait_for_copies(size_t pending_groups) {
  auto& groups = fibers[thread.x].copies;
  while (groups.size() > pending_groups + 1) {
    for (const Copy& copy : groups.front()) {
      uint8_t* const to = filigree::cuda::shared + copy.to;
      copy.from ? std::memcpy(to, copy.from, copy.bytes) : std::memset(to, 0, copy.bytes);
    }
    groups.erase(groups.begin());
  }
}

void yield() {
  const uint32_t me = thread.x;
  swapcontext(&fibers[me].context, &scheduler);
}

void warp_barrier() {
  Warp& w = warps[thread.x / 32];
  const uint32_t mine = w.generation;
  if (++w.arrived == 32) {
    w.arrived = 0, ++w.generation;
  } else {
    while (w.generation == mine) yield();
  }
}

void block_barrier() {
  const uint32_t mine = generation;
  if (++arrived == block_size.x) {
    arrived = 0, ++generation;
  } else {
    while (generation == mine) yield();
  }
}

namespace {

void run_block(uint32_t threads) {
  static std::vector<std::unique_ptr<uint8_t[]>> stacks;
  static uint32_t seed = 1;
  while (stacks.size() < threads) stacks.push_back(std::make_unique<uint8_t[]>(kStack));
  std::memset(filigree::cuda::shared, 0xcd, kSharedBytes);
  fills.clear();
  arrived = generation = 0;
  fibers.clear();
  fibers.resize(threads);
  warps.assign(threads / 32, {});
  for (uint32_t i = 0; i < threads; ++i) {
    fibers[i].alive = true, fibers[i].copies.resize(1);
    getcontext(&fibers[i].context);
    fibers[i].context.uc_stack = {stacks[i].get(), 0, kStack};
    makecontext(&fibers[i].context, enter, 0);
  }
  uint32_t left = threads;
  for (uint32_t rounds = 0; left > 0; ++rounds) {
    if (rounds > 1000000) {
      std::fprintf(stderr, "emulated device: threads wait for each other\n");
      std::abort();
    }
    seed = seed * 1664525 + 1013904223;
    for (uint32_t k = 0; k < threads; ++k) {
      const uint32_t i = ((seed >> 16) + k) % threads;
      if (!fibers[i].alive) continue;
      thread.x = i;
      swapcontext(&scheduler, &fibers[i].context);
      left -= fibers[i].alive ? 0 : 1;
    }
  }
}

}  // namespace

void launch(Index blocks, uint32_t threads, const std::function<void()>& kernel) {
  work = &kernel;
  block_size.x = threads;
  for (block.z = 0; block.z < blocks.z; ++block.z) {
    for (block.y = 0; block.y < blocks.y; ++block.y) {
      for (block.x = 0; block.x < blocks.x; ++block.x) run_block(threads);
    }
  }
}

}  // namespace emulated
