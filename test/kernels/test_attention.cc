#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/half.h"
#include "harness.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/plan.h"

namespace filigree::test {
namespace {

struct Shape {
  KvType type;
  int heads, kv_heads, head_dim, tokens, window;
};

const KvType kTypes[] = {KvType::f32, KvType::f16, KvType::bf16, KvType::i8};

// One sequence's queries, keys and values, stored in shuffled blocks of an arena full of NaN.
struct Fixture {
  Shape shape;
  KvLayout kv;
  AlignedBuffer arena;
  std::vector<int32_t> table;
  std::vector<float> q;

  Fixture(const Shape& s, const AttentionOps& ops, uint64_t seed)
      : shape(s), kv{s.type, s.kv_heads, s.head_dim} {
    const size_t blocks = (static_cast<size_t>(s.tokens) + 15) / 16;
    arena = AlignedBuffer((blocks + 2) * kv.bytes_per_block());
    std::memset(arena.data(), 0xff, arena.size());
    Random random(seed);
    for (size_t b = 0; b < blocks; ++b) table.push_back(static_cast<int32_t>(b + 1));
    for (size_t b = blocks; b > 1; --b)
      std::swap(table[b - 1], table[random.below(static_cast<uint32_t>(b))]);
    const size_t row = static_cast<size_t>(s.kv_heads) * static_cast<size_t>(s.head_dim);
    std::vector<float> k(row), v(row);
    for (int t = 0; t < s.tokens; ++t) {
      for (float& x : k) x = random.normal();
      for (float& x : v) x = random.normal();
      ops.store_kv(
          kv, arena.data() + static_cast<size_t>(table[static_cast<size_t>(t / 16)]) * kv.bytes_per_block(),
          t % 16, k.data(), v.data());
    }
    q.resize(static_cast<size_t>(s.tokens) * width());
    for (float& x : q) x = random.normal();
  }

  size_t width() const { return static_cast<size_t>(shape.heads) * static_cast<size_t>(shape.head_dim); }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape.head_dim)); }

  // The stored number, read by the layout's description alone.
  double element(bool key, int token, int head, int d) const {
    const std::byte* at = arena.data() +
                          static_cast<size_t>(table[static_cast<size_t>(token / 16)]) * kv.bytes_per_block() +
                          static_cast<size_t>(head) * kv.head_bytes();
    const size_t slot = static_cast<size_t>(token % 16), dim = static_cast<size_t>(d);
    const size_t index = key ? dim * 16 + slot : slot * kv.padded_dim() + dim;
    const std::byte* data = key ? at : at + kv.values_offset();
    switch (kv.type) {
      case KvType::f32:
        return reinterpret_cast<const float*>(data)[index];
      case KvType::f16:
        return f16_to_f32(reinterpret_cast<const uint16_t*>(data)[index]);
      case KvType::bf16:
        return bf16_to_f32(reinterpret_cast<const uint16_t*>(data)[index]);
      case KvType::i8:
        return static_cast<double>(reinterpret_cast<const int8_t*>(data)[index]) *
               reinterpret_cast<const float*>(
                   at + (key ? kv.key_scales_offset() : kv.value_scales_offset()))[slot];
      case KvType::fp8:  // a GPU's alone
        break;
    }
    return 0;
  }

  // Runs queries [begin, end) in steps of `step`, planned for `threads`.
  std::vector<float> run(const AttentionOps& ops, int begin, int end, int step, int threads) {
    AttentionPlan plan(kv, shape.heads, shape.tokens, 4, threads);
    std::vector<float> out(static_cast<size_t>(shape.tokens) * width(), -7.0f);
    AlignedBuffer workspace(attend_workspace_floats(kv, shape.heads) * sizeof(float));
    for (int at = begin; at < end; at += step) {
      AttendSequence sequence;
      sequence.block_table = table.data();
      sequence.first_position = at;
      sequence.n_queries = std::min(step, end - at);
      sequence.q = q.data() + static_cast<size_t>(at) * width();
      sequence.q_stride = sequence.out_stride = width();
      sequence.out = out.data() + static_cast<size_t>(at) * width();
      plan.build({&sequence, 1}, shape.window);
      const AttendArgs args = {kv,           arena.data(), kv.bytes_per_block(), shape.heads, scale(),
                               shape.window, &sequence,    plan.partials()};
      for (const AttendItem& item : plan.items()) ops.attend(args, item, workspace.as<float>());
      for (const CombineItem& item : plan.combines()) ops.combine(args, item);
    }
    return out;
  }

  void check_against_formula(const std::vector<float>& out, int query) const {
    const int group = shape.heads / shape.kv_heads;
    const int first = shape.window > 0 ? std::max(0, query - shape.window + 1) : 0;
    std::vector<double> p(static_cast<size_t>(query + 1));
    for (int h = 0; h < shape.heads; ++h) {
      double max = -1e300, sum = 0, reach = 0;
      const float* x = q.data() + static_cast<size_t>(query) * width() +
                       static_cast<size_t>(h) * static_cast<size_t>(shape.head_dim);
      for (int t = first; t <= query; ++t) {
        double s = 0, magnitude = 0;
        for (int d = 0; d < shape.head_dim; ++d) {
          const double product = x[d] * element(true, t, h / group, d);
          s += product;
          magnitude += std::abs(product);
        }
        p[static_cast<size_t>(t)] = s * scale();
        max = std::max(max, s * scale());
        reach = std::max(reach, magnitude * scale());
      }
      for (int t = first; t <= query; ++t)
        sum += p[static_cast<size_t>(t)] = std::exp(p[static_cast<size_t>(t)] - max);
      // A score is off by (head_dim + 4) roundings of its magnitude, which the exponential turns into a relative error of p;
      // the weighted sum adds one rounding per token and a few per chunk.
      const double relative =
          (2 * reach * (shape.head_dim + 4) + query + 16 * (query / kAttentionChunk + 1)) * 0x1p-24;
      for (int d = 0; d < shape.head_dim; ++d) {
        double y = 0, size = 0;
        for (int t = first; t <= query; ++t) {
          const double term = p[static_cast<size_t>(t)] / sum * element(false, t, h / group, d);
          y += term;
          size += std::abs(term);
        }
        check_near(out[static_cast<size_t>(query) * width() + static_cast<size_t>(h * shape.head_dim + d)], y,
                   relative * size + 1e-30, "attention");
      }
    }
  }
};

const Shape kShapes[] = {
    {KvType::f32, 8, 2, 64, 150, 0},  {KvType::f32, 3, 1, 100, 70, 0},  {KvType::f32, 9, 3, 64, 97, 0},
    {KvType::f32, 4, 4, 80, 65, 0},   {KvType::f32, 12, 2, 128, 40, 0}, {KvType::f32, 7, 1, 20, 33, 0},
    {KvType::f32, 4, 2, 32, 200, 70}, {KvType::f32, 4, 2, 32, 160, 1},  {KvType::f32, 72, 1, 16, 17, 0},
};

}  // namespace

FILIGREE_ISA_TEST(attention_matches_formula_and_scalar, "scalar avx2 avx512 neon") {
  const AttentionOps ops = select_attention(cpu), scalar = select_attention(CpuFeatures{});
  check_equal(std::string(ops.variant), std::string(isa));
  for (Shape shape : kShapes) {
    for (KvType type : kTypes) {
      shape.type = type;
      Fixture f(shape, ops, 21), reference(shape, scalar, 21);
      check(std::memcmp(f.arena.data(), reference.arena.data(), f.arena.size()) == 0,
            "stored blocks differ from scalar");
      const std::vector<float> out = f.run(ops, 0, shape.tokens, shape.tokens, 1);
      check(out == reference.run(scalar, 0, shape.tokens, shape.tokens, 1), "differs from scalar");
      for (int query = 0; query < shape.tokens; query += 1 + shape.tokens / 12)
        f.check_against_formula(out, query);
      f.check_against_formula(out, shape.tokens - 1);
    }
  }
}

FILIGREE_ISA_TEST(attention_does_not_depend_on_chunking_or_parts, "scalar avx2 avx512 neon") {
  const AttentionOps ops = select_attention(cpu);
  for (Shape shape : {Shape{KvType::f16, 6, 2, 32, 700, 0}, Shape{KvType::i8, 4, 1, 16, 1100, 0},
                      Shape{KvType::bf16, 3, 3, 16, 1300, 600}}) {
    Fixture f(shape, ops, 22);
    const std::vector<float> whole = f.run(ops, 0, shape.tokens, shape.tokens, 1);
    check(f.run(ops, 0, shape.tokens, 37, 1) == whole, "prompt cut in chunks of 37");
    check(f.run(ops, 0, shape.tokens, 256, 3) == whole, "chunks of 256, planned for three threads");
    check(f.run(ops, 0, shape.tokens, shape.tokens, 64) == whole, "parts, planned for 64 threads");
    const std::vector<float> decode = f.run(ops, shape.tokens - 40, shape.tokens, 1, 1);
    const std::vector<float> split = f.run(ops, shape.tokens - 40, shape.tokens, 1, 16);
    const size_t from = static_cast<size_t>(shape.tokens - 40) * f.width();
    check(std::equal(decode.begin() + static_cast<long>(from), decode.end(),
                     whole.begin() + static_cast<long>(from)),
          "decode");
    check(split == decode, "decode in parts");
    f.check_against_formula(whole, shape.tokens - 1);
    f.check_against_formula(whole, 600);
  }
}

FILIGREE_ISA_TEST(attention_extreme_scores, "scalar avx2 avx512 neon") {
  const AttentionOps ops = select_attention(cpu);
  Fixture f({KvType::f32, 2, 1, 16, 130, 0}, ops, 23);
  for (float& x : f.q) x *= 3000.0f;  // one key takes all
  const std::vector<float> out = f.run(ops, 0, 130, 130, 1);
  for (float x : out) check(std::isfinite(x));
  f.q[5 * f.width()] = std::numeric_limits<float>::quiet_NaN();
  f.q[7 * f.width() + 16] = std::numeric_limits<float>::infinity();
  const std::vector<float> bad = f.run(ops, 0, 130, 130, 1);
  check(std::isnan(bad[5 * f.width()]) && std::isnan(bad[7 * f.width() + 16]), "what is not a number shows");
  for (size_t i = 0; i < out.size(); ++i) {
    const bool touched = i / 16 == 5 * 2 || i / 16 == 7 * 2 + 1;
    if (!touched) check(out[i] == bad[i], "and stays in its row");
  }
}

FILIGREE_TEST(attention_plan_covers_every_key_once) {
  const KvLayout kv = {KvType::f16, 4, 64};
  AttentionPlan plan(kv, 32, 600, 8, 16);
  std::vector<AttendSequence> sequences(5);
  Random random(24);
  for (int round = 0; round < 200; ++round) {
    const int window = round % 3 ? 0 : static_cast<int>(1 + random.below(900));
    int64_t expected = 0, planned = 0;
    for (AttendSequence& s : sequences) {
      s.n_queries = 1 + static_cast<int>(random.below(round % 2 ? 1 : 100));
      s.first_position = random.below(5000);
    }
    plan.build(sequences, window);
    std::vector<std::vector<int>> seen(sequences.size());
    for (size_t s = 0; s < sequences.size(); ++s) {
      seen[s].assign(static_cast<size_t>(sequences[s].n_queries) * 4, 0);
      expected += sequences[s].n_queries * 4;
    }
    for (const AttendItem& item : plan.items()) {
      if (item.part >= 0) continue;
      for (int query = item.query_begin; query < item.query_end; ++query, ++planned) {
        ++seen[static_cast<size_t>(item.sequence)][static_cast<size_t>(query * 4 + item.kv_head)];
      }
    }
    for (const CombineItem& item : plan.combines()) {
      int parts = 0;
      for (const AttendItem& part : plan.items()) {
        parts += part.part >= 0 && part.sequence == item.sequence && part.kv_head == item.kv_head &&
                 part.query_begin == item.query_begin;
      }
      check_equal(parts, item.parts);
      for (int query = item.query_begin; query < item.query_end; ++query, ++planned) {
        ++seen[static_cast<size_t>(item.sequence)][static_cast<size_t>(query * 4 + item.kv_head)];
      }
    }
    check_equal(planned, expected);
    for (const std::vector<int>& s : seen)
      check(std::all_of(s.begin(), s.end(), [](int n) { return n == 1; }));
  }
}

}  // namespace filigree::test
