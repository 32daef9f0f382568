// Attention of decoding on the GPU, compiled as C++ and run on an emulated device (emulated/device.h), against float64: what a machine
// without a GPU can say about it. test/cuda/test_layers.cu is the same on a GPU, with more shapes.
#define decode_attend emulated_decode_attend  // beside the real ones, where they are linked
#define decode_attention_fits emulated_decode_attention_fits
#include <vector>

#include "../../native/cuda/decode_attention.cu"
#include "../cuda/attention_problem.h"
#include "emulated/bytes.h"
#include "emulated/end.h"
#include "harness.h"

namespace filigree::test {
namespace {

using namespace cuda;
using cuda::test::Attention;
using cuda::test::Heads;

void check_attention(Attention a, uint32_t split_positions, const std::string& name) {
  const Heads& h = a.shape;
  const uint32_t count = static_cast<uint32_t>(a.rows.size()), wide = h.heads * h.dim;
  Bytes keys(a.keys), values(a.values);
  const std::vector<double> want = a.reference();
  uint32_t longest = 1;
  for (const cuda::test::Row& r : a.rows) longest = std::max(longest, static_cast<uint32_t>(r.position + 1));
  const uint32_t splits = ceil_div(longest, split_positions);
  const StepRows rows{nullptr, a.positions.data(), a.tables.data(), a.block_tables.data(), a.table_stride};
  AttentionShape shape;
  shape.heads = h.heads, shape.scale = 1.0f / std::sqrt(static_cast<float>(h.dim)),
  shape.sliding_window = a.window;
  const KvPages pages{a.element, h.kv_heads, h.dim, keys.memory.data(), values.memory.data()};
  Bytes partials(attention_floats(shape, h.dim, count * splits) * 4);
  std::vector<uint32_t> arrivals(size_t{count} * h.heads);
  // Twice: what a launch leaves behind must serve the next.
  for (int again = 0; again < 2; ++again) {
    std::vector<uint16_t> got(size_t{count} * wide, 0x7fc0);
    check(emulated_decode_attend(rows, count, shape,
                                 {a.qkv.data(), a.qkv_stride, a.inv_freq.data(), 1.0f, split_positions},
                                 pages, splits, reinterpret_cast<float*>(partials.memory.data()),
                                 arrivals.data(), got.data(), wide, false, nullptr) == cudaSuccess,
          name);
    const double off = cuda::test::relative(got, want);
    check(off < cuda::test::allowed_error(a.element), name + ": relative error " + std::to_string(off));
  }
  check(a.near(keys.copy(a.keys.size()), a.keys), name + ": keys in the cache");
  check(a.near(values.copy(a.values.size()), a.values), name + ": values in the cache");
}

FILIGREE_TEST(cuda_decode_attention_emulated) {
  for (const Heads h : {Heads{2, 2, 128}, Heads{7, 1, 64}, Heads{9, 1, 80}, Heads{2, 1, 256}}) {
    for (const KvElement element : {KvElement::f16, KvElement::bf16, KvElement::i8, KvElement::e4m3}) {
      const std::string name = std::to_string(h.heads) + "/" + std::to_string(h.kv_heads) + " heads of " +
                               std::to_string(h.dim) + ", " + cuda::test::name_of(element);
      check_attention({h, element, 0, {{0, 139}, {1, 16}, {2, 0}, {0, -1}}}, 64, name + ", in splits");
      check_attention({h, element, 100, {{0, 151}, {1, 63}}}, 1024, name + ", window of 100");
    }
  }
}

}  // namespace
}  // namespace filigree::test
