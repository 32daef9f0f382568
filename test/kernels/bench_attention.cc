// Times attention alone on one thread, as GFLOP/s and GB/s of stored K and V: filigree_attention_bench [ISA]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/cpu_features.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/plan.h"

using namespace filigree;

static void measure(const AttentionOps& ops, KvType type, const char* name, int heads, int kv_heads,
                    int context, int queries) {
  const KvLayout kv = {type, kv_heads, 64};
  const size_t blocks = static_cast<size_t>(context + 15) / 16, width = static_cast<size_t>(heads) * 64;
  AlignedBuffer arena(blocks * kv.bytes_per_block());
  std::vector<int32_t> table;
  for (size_t b = 0; b < blocks; ++b) table.push_back(static_cast<int32_t>((b * 7919) % blocks));
  std::vector<float> k(static_cast<size_t>(kv_heads) * 64, 0.5f),
      q(static_cast<size_t>(queries) * width, 0.1f), out(q.size());
  for (int t = 0; t < context; ++t) {
    k[0] = std::sin(static_cast<float>(t));
    ops.store_kv(
        kv, arena.data() + static_cast<size_t>(table[static_cast<size_t>(t / 16)]) * kv.bytes_per_block(),
        t % 16, k.data(), k.data());
  }
  AttentionPlan plan(kv, heads, queries, 1, 1);
  const AttendSequence sequence = {table.data(), context - queries, queries, q.data(),
                                   width,        out.data(),        width};
  plan.build({&sequence, 1}, 0);
  const AttendArgs args = {kv, arena.data(), kv.bytes_per_block(), heads, 0.125f, 0, &sequence, nullptr};
  AlignedBuffer workspace(attend_workspace_floats(kv, heads) * sizeof(float));
  double best = 1e9;
  for (int round = 0; round < 15; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (const AttendItem& item : plan.items()) ops.attend(args, item, workspace.as<float>());
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  const double pairs = static_cast<double>(queries) * (context - (queries - 1) / 2.0) * heads;
  std::printf("%-5s %2d/%d heads, context %5d, %3d queries: %9.1f us  %6.1f GFLOP/s  %5.1f GB/s\n", name,
              heads, kv_heads, context, queries, best * 1e6, 4 * 64 * pairs / best * 1e-9,
              static_cast<double>(arena.size()) / best * 1e-9);
}

int main(int argc, char** argv) {
  try {
    const AttentionOps ops = select_attention(restrict_to(detect_cpu(), argc > 1 ? argv[1] : "auto"));
    std::printf("%s\n", ops.variant);
    const std::pair<KvType, const char*> types[] = {
        {KvType::f32, "f32"}, {KvType::f16, "f16"}, {KvType::bf16, "bf16"}, {KvType::i8, "i8"}};
    for (auto [type, name] : types) {
      measure(ops, type, name, 32, 4, 512, 512);
      measure(ops, type, name, 9, 3, 512, 512);
      measure(ops, type, name, 32, 4, 4096, 1);
      measure(ops, type, name, 9, 3, 4096, 1);
      measure(ops, type, name, 9, 9, 4096, 1);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
