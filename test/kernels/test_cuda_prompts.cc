// Attention of rows of prompts on the GPU, compiled as C++ and run on an emulated device (emulated/device.h), against float64; that a row
// has the same bits whatever is attended beside it. test/cuda/test_layers.cu is the same on a GPU, with more shapes.
#define attend emulated_attend  // beside the real one, where it is linked
#include <vector>

#include "../../native/cuda/attention.cu"
#include "../cuda/attention_problem.h"
#include "emulated/bytes.h"
#include "emulated/end.h"
#include "harness.h"

namespace filigree::test {
namespace {

using namespace cuda;
using cuda::test::Attention;
using cuda::test::Heads;
using cuda::test::Row;
using cuda::test::rows_of;

struct Problem {
  Attention a;
  uint32_t split_positions;
  std::string name;
  std::vector<double> want;
  Bytes keys{0}, values{0}, queries{0};

  Problem(Attention problem, uint32_t split, const std::string& of)
      : a(std::move(problem)), split_positions(split), name(of) {
    a.spoil_unused();
    want = a.reference();
    keys = Bytes(a.keys), values = Bytes(a.values);
    const Heads& h = a.shape;
    queries = Bytes(a.rows.size() * h.heads * h.dim * sizeof(float));
    float* to = reinterpret_cast<float*>(queries.memory.data());
    std::vector<double> turned(h.dim);
    for (size_t r = 0; r < a.rows.size(); ++r) {
      for (uint32_t head = 0; head < h.heads; ++head) {
        a.rotate(&a.qkv[r * a.qkv_stride + head * h.dim], a.rows[r].position, turned.data());
        for (const double v : turned) *to++ = static_cast<float>(v);
      }
    }
  }

  AttentionGrid grid(uint32_t multiprocessors) const {
    return {a.shape.heads / a.shape.kv_heads, a.shape.kv_heads, split_positions, a.window, multiprocessors};
  }

  std::vector<uint16_t> run(const AttentionPlan& plan, const std::string& how) const {
    const Heads& h = a.shape;
    const uint32_t count = static_cast<uint32_t>(a.rows.size()), wide = h.heads * h.dim;
    AttentionShape shape;
    shape.heads = h.heads, shape.scale = 1.0f / std::sqrt(static_cast<float>(h.dim));
    shape.sliding_window = a.window, shape.split_positions = split_positions;
    const KvPages pages{a.element, h.kv_heads, h.dim, const_cast<uint4*>(keys.memory.data()),
                        const_cast<uint4*>(values.memory.data())};
    Bytes partials(attention_floats(shape, h.dim, plan.slots) * 4);
    std::memset(partials.memory.data(), 0xff, partials.memory.size() * 16);
    std::vector<uint32_t> arrivals(plan.tiles.size() * h.kv_heads);
    std::vector<uint16_t> got(size_t{count} * wide, 0x7fc0);
    check(
        emulated_attend({nullptr, a.positions.data(), a.tables.data(), a.block_tables.data(), a.table_stride},
                        {plan.tiles.data(), static_cast<uint32_t>(plan.tiles.size()), plan.splits}, shape,
                        reinterpret_cast<const float*>(queries.memory.data()), pages,
                        reinterpret_cast<float*>(partials.memory.data()), arrivals.data(), got.data(), wide,
                        false, nullptr) == cudaSuccess,
        name + how);
    for (const uint32_t n : arrivals) check(n == 0, name + how + ": arrivals");
    const double off = cuda::test::relative(got, want);
    check(off < cuda::test::allowed_error(a.element), name + how + ": relative error " + std::to_string(off));
    return got;
  }
};

// By two plans: of as few tiles as can be, in which splits are taken in turn, and of short runs on a device so large that all is divided.
void check_prompts(Attention a, uint32_t split_positions, const std::string& name) {
  const Problem problem(std::move(a), split_positions, name);
  AttentionPlan plan;
  plan_attention(problem.a.runs(), problem.grid(1), &plan);
  const std::vector<uint16_t> together = problem.run(plan, ", together");
  plan_attention(problem.a.runs(5), problem.grid(1000), &plan);
  check(problem.run(plan, ", in fives") == together, name + ": in fives the bits differ");
}

std::string name_of(const Heads& h, KvElement element) {
  return std::to_string(h.heads) + "/" + std::to_string(h.kv_heads) + " heads of " + std::to_string(h.dim) +
         ", " + cuda::test::name_of(element);
}

constexpr KvElement kElements[] = {KvElement::f16, KvElement::bf16, KvElement::i8, KvElement::e4m3};

FILIGREE_TEST(cuda_prompts_emulated) {
  for (const Heads h :
       {Heads{1, 1, 128}, Heads{3, 1, 64}, Heads{5, 1, 80}, Heads{2, 2, 8}, Heads{2, 1, 256}}) {
    for (const KvElement element : kElements) {
      const std::string name = name_of(h, element);
      check_prompts({h, element, 0, rows_of({{0, 0, 1}, {1, 120, 121}, {2, 37, 71}})}, 128, name);
      check_prompts({h, element, 50, rows_of({{0, 180, 201}, {1, 0, 18}})}, 64, name + ", window of 50");
    }
  }
}

FILIGREE_TEST(cuda_prompts_whole_emulated) {
  for (const KvElement element : {KvElement::f16, KvElement::e4m3})
    check_prompts({{1, 1, 64}, element, 0, rows_of({{0, 0, 300}})}, 128,
                  name_of({1, 1, 64}, element) + ", 300");
}

FILIGREE_TEST(cuda_prompts_single_rows_emulated) {
  for (const KvElement element : kElements) {
    const Heads h{4, 2, 64};
    const std::vector<Row> rows = {{0, 139}, {1, 16}, {2, 0}, {0, -1}};
    const Problem problem({h, element, 0, rows}, 64, name_of(h, element) + ", single rows");
    AttentionPlan plan;
    plan_single_rows(problem.a.positions.data(), 4, 4, &plan);
    const std::vector<uint16_t> single = problem.run(plan, "");
    const Problem prompt({h, element, 0, {rows.begin(), rows.end() - 1}}, 64, problem.name);
    plan_attention(prompt.a.runs(), prompt.grid(1), &plan);
    std::vector<uint16_t> same = prompt.run(plan, ", of a prompt");
    same.resize(single.size(), 0);
    check(single == same, problem.name + ": not what prompts have");
  }
}

}  // namespace
}  // namespace filigree::test
