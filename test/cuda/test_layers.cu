// filigree_cuda_layers_test: what a decoder does between its linear layers, against float64: attention over a paged cache, of prompts
// and of decoding, with heads in groups, sliding windows and padding rows; norms; SwiGLU; digests of logits. Needs a GPU. --quick: a small part.
#include <cstdio>
#include <cstring>
#include <string>

#include "attention_problem.h"
#include "cuda/layers.h"
#include "cuda/memory.h"
#include "digest_cases.h"
#include "problem.h"

namespace filigree::cuda::test {
namespace {

int failures = 0, checks = 0;

void expect(bool ok, const std::string& what) {
  ++checks;
  if (!ok && ++failures <= 40) std::printf("FAIL %s\n", what.c_str());
}

template <class T>
DeviceBuffer to_device(const std::vector<T>& values) {
  DeviceBuffer out(values.size() * sizeof(T) + 256);
  out.upload(values.data(), values.size() * sizeof(T));
  return out;
}

// A problem on the device.
struct OnDevice {
  Attention a;
  std::string name;
  std::vector<uint8_t> keys_before, values_before;
  std::vector<double> want;
  DeviceBuffer positions, tables, block_tables, qkv, inv_freq, keys, values, out;
  uint32_t count, wide;

  OnDevice(Attention problem, const std::string& of)
      : a(std::move(problem)),
        name(of),
        positions(to_device(a.positions)),
        tables(to_device(a.tables)),
        block_tables(to_device(a.block_tables)),
        qkv(to_device(a.qkv)),
        inv_freq(to_device(a.inv_freq)),
        count(static_cast<uint32_t>(a.rows.size())),
        wide(a.shape.heads * a.shape.dim) {
    a.spoil_unused();
    keys_before = a.keys, values_before = a.values;
    want = a.reference();
    out = DeviceBuffer(size_t{count} * wide * 2);
  }

  StepRows rows() const {
    return {nullptr, positions.as<int32_t>(), tables.as<int32_t>(), block_tables.as<int32_t>(),
            a.table_stride};
  }
  KvPages pages() const { return {a.element, a.shape.kv_heads, a.shape.dim, keys.data(), values.data()}; }
  AttentionShape shape(uint32_t split_positions) const {
    return {a.shape.heads, 1.0f / std::sqrt(static_cast<float>(a.shape.dim)), a.window, split_positions};
  }

  // What a way of attending leaves in `out` and the cache, twice: what a launch leaves behind must serve the next.
  template <class Launches>
  std::vector<uint16_t> run(const std::string& way, const Launches& launches) {
    std::vector<uint16_t> got(size_t{count} * wide);
    keys = to_device(keys_before), values = to_device(values_before);
    for (int again = 0; again < 2; ++again) {
      out.upload(std::vector<uint16_t>(got.size(), 0x7fc0).data(), got.size() * 2);
      cudaError_t error = launches(again == 1);
      if (error == cudaSuccess) error = cudaDeviceSynchronize();
      expect(error == cudaSuccess, name + way + ": " + cudaGetErrorString(error));
      if (error != cudaSuccess) return got;
      out.download(got.data(), got.size() * 2);
      const double off = relative(got, want);
      expect(off < allowed_error(a.element), name + way + ": relative error " + std::to_string(off));
    }
    std::vector<uint8_t> stored(a.keys.size());
    keys.download(stored.data(), stored.size());
    expect(a.near(stored, a.keys), name + way + ": keys in the cache");
    values.download(stored.data(), stored.size());
    expect(a.near(stored, a.values), name + way + ": values in the cache");
    return got;
  }

  std::vector<uint16_t> run(const std::string& way, const AttentionPlan& plan, uint32_t split_positions) {
    const AttentionShape of = shape(split_positions);
    const DeviceBuffer tiles = to_device(plan.tiles), q(size_t{count} * wide * 4),
                       partials(attention_floats(of, a.shape.dim, plan.slots) * 4 + 256),
                       arrivals(plan.tiles.size() * a.shape.kv_heads * 4);
    return run(way, [&](bool dependent) {
      const cudaError_t error =
          rotate_and_store(rows(), count, qkv.as<float>(), a.qkv_stride, a.shape.heads, inv_freq.as<float>(),
                           1.0f, pages(), q.as<float>(), false, 0);
      if (error != cudaSuccess) return error;
      return attend(rows(),
                    {tiles.as<AttentionTile>(), static_cast<uint32_t>(plan.tiles.size()), plan.splits}, of,
                    q.as<float>(), pages(), partials.as<float>(), arrivals.as<uint32_t>(), out.data(), wide,
                    dependent, 0);
    });
  }
};

// As decoding, and as a prompt's rows that are single.
void test_decoding(Attention a, const std::string& name) {
  OnDevice p(std::move(a), name);
  const Heads& h = p.a.shape;
  uint32_t longest = 1;
  for (const Row& r : p.a.rows) longest = std::max(longest, static_cast<uint32_t>(r.position + 1));
  if (decode_attention_fits(p.a.element, h.dim)) {
    // Short splits, and as many positions as a device of few multiprocessors would take.
    const uint32_t positions = name.size() % 2 ? 64 : decode_split(p.count, h.kv_heads, longest, 4),
                   splits = ceil_div(longest, positions);
    const AttentionShape shape = p.shape(512);
    const DeviceBuffer partials(attention_floats(shape, h.dim, p.count * splits) * 4 + 256),
        arrivals(size_t{p.count} * h.heads * 4 + 256);
    p.run(", decoding", [&](bool dependent) {
      return decode_attend(p.rows(), p.count, shape,
                           {p.qkv.as<float>(), p.a.qkv_stride, p.inv_freq.as<float>(), 1.0f, positions},
                           p.pages(), splits, partials.as<float>(), arrivals.as<uint32_t>(), p.out.data(),
                           p.wide, dependent, 0);
    });
  }
  AttentionPlan plan;
  plan_single_rows(p.a.positions.data(), p.count, ceil_div(longest, 256u), &plan);
  p.run(", as rows of prompts", plan, 256);
}

// By plans that share nothing but the order of a row's own steps: the same bits.
void test_prompts(Attention a, const std::string& name) {
  OnDevice p(std::move(a), name);
  const Heads& h = p.a.shape;
  for (const uint32_t split : {128u, 1024u}) {
    AttentionGrid grid{h.heads / h.kv_heads, h.kv_heads, split, p.a.window, 1};
    AttentionPlan plan;
    plan_attention(p.a.runs(), grid, &plan);
    const std::string of = ", splits of " + std::to_string(split);
    const std::vector<uint16_t> together = p.run(of + " in turn", plan, split);
    const auto same = [&](const std::string& way) {
      expect(p.run(of + way, plan, split) == together, name + of + way + ": other bits");
    };
    grid.multiprocessors = 100000;
    plan_attention(p.a.runs(), grid, &plan);
    same(" divided");
    plan_attention(p.a.runs(7), grid, &plan);
    same(" of runs of 7");
    plan_single_rows(p.a.positions.data(), p.count, plan.splits, &plan);
    same(" of single rows");
  }
}

void test_norm_and_swiglu() {
  constexpr uint32_t kRows = 3, kHidden = 576, kStride = 1024;
  Random random{5};
  std::vector<float> h(kRows * kHidden), weight(kHidden);
  for (float& v : h) v = random.normal();
  for (float& v : weight) v = 0.5f + random.uniform();
  const std::vector<int32_t> from = {2, 0, 1};
  DeviceBuffer out(kRows * kStride * 2), f32(kRows * kHidden * 4);
  const DeviceBuffer h_device = to_device(h), weight_device = to_device(weight),
                     from_device = to_device(from);
  expect(rms_norm(h_device.as<float>(), from_device.as<int32_t>(), kRows, weight_device.as<float>(), 1e-5f,
                  kHidden, out.data(), kStride, f32.as<float>(), true, 0) == cudaSuccess,
         "norm");
  std::vector<float> got(kRows * kHidden);
  f32.download(got.data(), got.size() * 4);
  double worst = 0;
  for (uint32_t r = 0; r < kRows; ++r) {
    const float* row = &h[static_cast<size_t>(from[r]) * kHidden];
    double squares = 0;
    for (uint32_t i = 0; i < kHidden; ++i) squares += double{row[i]} * row[i];
    for (uint32_t i = 0; i < kHidden; ++i)
      worst = std::max(
          worst, std::abs(got[r * kHidden + i] - row[i] / std::sqrt(squares / kHidden + 1e-5) * weight[i]));
  }
  expect(worst < 1e-5, "norm: off by " + std::to_string(worst));

  std::vector<uint16_t> narrow(kRows * kStride);
  out.download(narrow.data(), narrow.size() * 2);
  for (const uint32_t block : {256u, 512u}) {
    const DeviceBuffer codes(kRows * kStride), scales(kRows * kStride / block * sizeof(float));
    expect(rms_norm_rounded(h_device.as<float>(), from_device.as<int32_t>(), kRows, weight_device.as<float>(),
                            1e-5f, kHidden, codes.as<int8_t>(), kStride, scales.as<float>(), block, true,
                            0) == cudaSuccess,
           "rounded norm");
    std::vector<int8_t> got_codes(kRows * kStride);
    std::vector<float> got_scales(kRows * kStride / block);
    codes.download(got_codes.data(), got_codes.size());
    scales.download(got_scales.data(), got_scales.size() * sizeof(float));
    bool same = true;
    for (uint32_t first = 0; first < kRows * kStride; first += block) {
      float most = 0;
      for (uint32_t i = first; i < first + block; ++i) most = std::max(most, std::abs(from_bf16(narrow[i])));
      same = same && got_scales[first / block] == most / 127.0f;
      for (uint32_t i = first; i < first + block; ++i) {
        const float code = most > 0 ? std::nearbyint(from_bf16(narrow[i]) * (127.0f / most)) : 0.0f;
        same = same && got_codes[i] == static_cast<int8_t>(code);
      }
    }
    expect(same, "norm rounded in blocks of " + std::to_string(block));
  }

  constexpr uint32_t kColumns = 96;
  std::vector<uint16_t> gate_up(kRows * 2 * kColumns);
  for (uint16_t& v : gate_up) v = to_bf16(random.normal());
  const DeviceBuffer gate_up_device = to_device(gate_up);
  for (const bool interleaved : {false, true}) {
    DeviceBuffer product(kRows * kColumns * 2);
    expect(swiglu(gate_up_device.data(), 2 * kColumns, interleaved, kColumns, kRows, product.data(), kColumns,
                  true, 0) == cudaSuccess,
           "SwiGLU");
    std::vector<uint16_t> bits(kRows * kColumns);
    product.download(bits.data(), bits.size() * 2);
    std::vector<double> want;
    for (uint32_t r = 0; r < kRows; ++r) {
      for (uint32_t c = 0; c < kColumns; ++c) {
        const uint16_t* row = &gate_up[r * 2 * kColumns];
        const double gate = from_bf16(row[interleaved ? c / 16 * 32 + c % 16 : c]);
        const double up = from_bf16(row[interleaved ? c / 16 * 32 + 16 + c % 16 : kColumns + c]);
        want.push_back(gate / (1 + std::exp(-gate)) * up);
      }
    }
    expect(relative(bits, want) < 4e-3, "SwiGLU");
  }
}

// Rows loaded from the host's memory: copied as far as their positions reach, and embedded as by embed().
void test_loading() {
  constexpr uint32_t kRows = 5, kHidden = 136, kTokens = 9, kStride = 6;
  const int32_t tokens[kRows] = {3, 8, 0, 5, 7}, positions[kRows] = {0, 15, 16, 95, -1}, none = -7;
  std::vector<uint16_t> table(kTokens * kHidden);
  for (size_t i = 0; i < table.size(); ++i) table[i] = to_bf16(static_cast<float>(i) * 0.25f);
  const DeviceBuffer table_device = to_device(table);
  const size_t words = 3 * kRows + kRows * kStride;
  const PinnedBuffer host(words * 4);
  const DeviceBuffer device = to_device(std::vector<int32_t>(words, none));
  const auto rows_at = [&](int32_t* at) {
    return WritableStepRows{at, at + kRows, at + 2 * kRows, at + 3 * kRows, kStride};
  };
  const WritableStepRows from = rows_at(host.as<int32_t>()), to = rows_at(device.as<int32_t>());
  for (uint32_t r = 0; r < kRows; ++r) {
    from.tokens[r] = tokens[r], from.positions[r] = positions[r], from.tables[r] = static_cast<int32_t>(r);
    for (uint32_t i = 0; i < kStride; ++i)
      from.block_tables[r * kStride + i] = static_cast<int32_t>(r * 100 + i);
  }
  DeviceBuffer h(kRows * kHidden * 4), again(kRows * kHidden * 4);
  expect(load_and_embed(from, to, kRows, table_device.data(), kHidden, h.as<float>(), 0) == cudaSuccess &&
             embed(to, kRows, table_device.data(), kHidden, again.as<float>(), true, 0) == cudaSuccess,
         "loading rows");
  std::vector<int32_t> got(words);
  device.download(got.data(), words * 4);
  for (uint32_t r = 0; r < kRows; ++r) {
    bool same = got[r] == tokens[r] && got[kRows + r] == positions[r] &&
                got[2 * kRows + r] == static_cast<int32_t>(r);
    for (uint32_t i = 0; i < kStride; ++i)
      same =
          same && got[3 * kRows + r * kStride + i] == (static_cast<int32_t>(i * kBlockTokens) <= positions[r]
                                                           ? static_cast<int32_t>(r * 100 + i)
                                                           : none);
    expect(same, "row " + std::to_string(r) + " as loaded");
  }
  std::vector<float> one(kRows * kHidden), other(kRows * kHidden);
  h.download(one.data(), one.size() * 4), again.download(other.data(), other.size() * 4);
  expect(one == other && one[kHidden - 1] == from_bf16(table[4 * kHidden - 1]) && one[4 * kHidden] == 0,
         "rows embedded as they are loaded");
}

void test_digests(bool quick) {
  for (const DigestCase& c : digest_cases(quick)) {
    const uint32_t rows = static_cast<uint32_t>(c.wanted.size());
    const DeviceBuffer logits = to_device(c.logits);
    const PinnedBuffer wanted(rows * sizeof(DigestWanted)), digests(rows * sizeof(LogitDigest));
    std::copy(c.wanted.begin(), c.wanted.end(), wanted.as<DigestWanted>());
    LogitDigest* const out = digests.as<LogitDigest>();
    for (uint32_t i = 0; i < rows; ++i) out[i].count = 99;
    cudaError_t error =
        digest_logits(logits.as<float>(), rows, c.columns, wanted.as<DigestWanted>(), out, true, 0);
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    expect(error == cudaSuccess, c.name + ": " + cudaGetErrorString(error));
    for (uint32_t i = 0; i < rows; ++i) {
      const std::string wrong = digest_error(c, i, out[i]);
      expect(wrong.empty(), c.name + ", row " + std::to_string(i) + ": " + wrong);
    }
  }
}

int run(bool quick) {
  const std::vector<Heads> shapes =
      quick ? std::vector<Heads>{{9, 3, 64}, {4, 4, 128}}
            : std::vector<Heads>{{32, 32, 128}, {9, 3, 64},  {12, 2, 128}, {16, 2, 64}, {5, 1, 80},
                                 {14, 2, 64},   {4, 1, 256}, {2, 2, 8},    {24, 1, 64}};
  for (const Heads& h : shapes) {
    for (const KvElement element : {KvElement::f16, KvElement::bf16, KvElement::i8, KvElement::e4m3}) {
      for (const uint32_t window : {0u, 100u}) {
        const std::string name = std::to_string(h.heads) + "/" + std::to_string(h.kv_heads) + " heads of " +
                                 std::to_string(h.dim) + ", " + name_of(element) +
                                 (window ? ", window of 100" : "");
        try {
          for (const int32_t context : {1, 16, 17, 64, 65, 300, quick ? 301 : 1100})
            test_decoding({h, element, window, {{0, context - 1}}}, name + ", " + std::to_string(context));
          test_decoding({h, element, window, {{0, 9}, {1, 63}, {2, 64}, {3, 0}, {4, 200}, {0, -1}, {0, -1}}},
                        name + ", a batch");
          test_prompts({h, element, window, rows_of({{0, 30, quick ? 50 : 90}, {1, 300, 301}})},
                       name + ", a prompt and a token");
          test_prompts({h, element, window, rows_of({{1, 0, 5}, {0, 251, 268}})},
                       name + ", prompts, one across splits");
          if (quick) continue;
          test_prompts(
              {h, element, window, rows_of({{0, 0, 129}, {1, 1150, 1155}, {2, 63, 64}, {3, 500, 571}})},
              name + ", prompts");
        } catch (const std::exception& error) {
          expect(false, name + ": " + error.what());
        }
      }
    }
  }
  for (const KvElement element : {KvElement::f16, KvElement::bf16, KvElement::i8, KvElement::e4m3}) {
    const std::string name = std::string("a head of 64, ") + name_of(element) + ", ";
    for (int32_t length = 1; length <= (quick ? 20 : 300); length += quick ? 9 : length < 70 ? 1 : 23)
      test_prompts({{1, 1, 64}, element, 0, rows_of({{0, 0, length}})}, name + std::to_string(length));
    // Values that a row does not see yet, though its tile has them, are up to a thousand times as large.
    Attention rising({1, 1, 64}, element, 0, rows_of({{0, 0, 80}}));
    for (size_t i = 0; i < rising.qkv.size(); ++i) {
      if (i % rising.qkv_stride >= 2 * 64)
        rising.qkv[i] *= std::exp2(static_cast<float>(i / rising.qkv_stride) / 8);
    }
    test_prompts(std::move(rising), name + "rising");
  }
  test_norm_and_swiglu();
  test_loading();
  test_digests(quick);
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace filigree::cuda::test

int main(int argc, char** argv) {
  return filigree::cuda::test::run_tests(argc, argv, filigree::cuda::test::run);
}
