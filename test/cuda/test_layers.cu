// filigree_cuda_layers_test: what a decoder does between its linear layers, against float64: attention over a paged cache, of prompts
// and of decoding, with heads in groups, sliding windows and padding rows; norms; SwiGLU. Needs a GPU. --quick: a small part.
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "cuda/layers.h"
#include "cuda/memory.h"
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

// A head's row of the cache in memory: its elements, and the scale that stands apart from them.
void store_row(KvElement e, const float* from, uint32_t dim, uint8_t* elements, float* scale) {
  float most = 0;
  for (uint32_t d = 0; d < dim; ++d) most = std::max(most, std::abs(from[d]));
  const bool scaled = kv_element_bytes(e) == 1;
  if (scaled) *scale = most / (e == KvElement::i8 ? 127 : 448);
  for (uint32_t d = 0; d < dim; ++d) {
    const float v = scaled && *scale > 0 ? from[d] / *scale : from[d];
    const uint16_t bits = e == KvElement::f16    ? __half_as_ushort(__float2half(v))
                          : e == KvElement::bf16 ? to_bf16(v)
                          : e == KvElement::i8 ? static_cast<uint8_t>(static_cast<int8_t>(std::nearbyint(v)))
                                               : __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
    std::memcpy(elements + d * kv_element_bytes(e), &bits, kv_element_bytes(e));
  }
}
double from_element(KvElement e, const uint8_t* elements, uint32_t d, float scale) {
  uint16_t bits = 0;
  std::memcpy(&bits, elements + d * kv_element_bytes(e), kv_element_bytes(e));
  switch (e) {
    case KvElement::f16:
      return __half2float(__ushort_as_half(bits));
    case KvElement::bf16:
      return from_bf16(bits);
    case KvElement::i8:
      return double{scale} * static_cast<int8_t>(bits);
    case KvElement::e4m3:
      return double{scale} *
             __half2float(__half(__nv_cvt_fp8_to_halfraw(static_cast<uint8_t>(bits), __NV_E4M3)));
  }
  return 0;
}
const char* name_of(KvElement e) {
  static constexpr const char* kNames[] = {"f16", "bf16", "i8", "e4m3"};
  return kNames[static_cast<int>(e)];
}
// The largest difference between what two roundings of nearly the same row may leave, of the row's largest element.
double step_of(KvElement e) {
  switch (e) {
    case KvElement::f16:
      return 1.0 / 1024;
    case KvElement::bf16:
      return 1.0 / 128;
    case KvElement::i8:
      return 1.01 / 127;
    case KvElement::e4m3:
      return 1.0 / 8;
  }
  return 0;
}

double relative(const std::vector<uint16_t>& got, const std::vector<double>& want) {
  double error = 0, norm = 1e-30;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = from_bf16(got[i]) - want[i];
    if (!std::isfinite(d)) return 1e9;
    error += d * d, norm += want[i] * want[i];
  }
  return std::sqrt(error / norm);
}

struct Heads {
  uint32_t heads, kv_heads, dim;
};

// Rows of sequences: (sequence, position); the positions before a sequence's first row are in the cache. Position -1: padding.
struct Row {
  uint32_t sequence;
  int32_t position;
};

struct Attention {
  Heads shape;
  KvElement element;
  uint32_t window;
  std::vector<Row> rows;
  uint32_t sequences = 0, table_stride = 0, qkv_stride = 0;
  std::vector<int32_t> positions, tables, block_tables;
  std::vector<float> qkv, inv_freq;
  std::vector<uint8_t> keys, values;  // the cache before the step

  Attention(const Heads& h, KvElement e, uint32_t w, std::vector<Row> r)
      : shape(h), element(e), window(w), rows(std::move(r)) {
    int32_t longest = 0;
    for (const Row& row : rows)
      sequences = std::max(sequences, row.sequence + 1), longest = std::max(longest, row.position + 1);
    table_stride = ceil_div(static_cast<uint32_t>(longest), kBlockTokens) + 1;
    const uint32_t blocks = sequences * table_stride;
    block_tables.resize(blocks);
    for (uint32_t i = 0; i < blocks; ++i) block_tables[i] = static_cast<int32_t>((i * 7 + 3) % blocks);
    if (blocks % 7 == 0)
      for (uint32_t i = 0; i < blocks; ++i) block_tables[i] = static_cast<int32_t>(blocks - 1 - i);
    Random random{h.heads * 1000 + h.dim + w};
    keys.resize(size_t{blocks} * h.kv_heads * kv_head_bytes(element, h.dim));
    values.resize(keys.size());
    std::vector<float> row(h.dim);
    for (uint32_t head = 0; head < blocks * h.kv_heads; ++head) {
      for (uint32_t slot = 0; slot < kBlockTokens; ++slot) {
        for (std::vector<uint8_t>* cache : {&keys, &values}) {
          for (float& v : row) v = random.normal();
          put(*cache, {head, slot}, row.data());
        }
      }
    }
    qkv_stride = (h.heads + 2 * h.kv_heads) * h.dim;
    for (size_t i = 0; i < rows.size() * qkv_stride; ++i) qkv.push_back(random.normal());
    for (uint32_t i = 0; i < h.dim / 2; ++i)
      inv_freq.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / h.dim)));
    for (const Row& row : rows)
      positions.push_back(row.position), tables.push_back(static_cast<int32_t>(row.sequence));
  }

  struct Place {
    uint32_t head, slot;  // of all blocks; position in the block
  };
  Place place(uint32_t sequence, uint32_t position, uint32_t head) const {
    const uint32_t block =
        static_cast<uint32_t>(block_tables[size_t{sequence} * table_stride + position / kBlockTokens]);
    return {block * shape.kv_heads + head, position % kBlockTokens};
  }
  size_t elements_at(const Place& p) const {
    return size_t{p.head} * kv_head_bytes(element, shape.dim) +
           size_t{p.slot} * shape.dim * kv_element_bytes(element);
  }
  size_t scale_at(const Place& p) const {
    return size_t{p.head} * kv_head_bytes(element, shape.dim) +
           size_t{kBlockTokens} * shape.dim * kv_element_bytes(element) + p.slot * 4;
  }
  void put(std::vector<uint8_t>& cache, const Place& p, const float* row) const {
    float scale = 0;
    store_row(element, row, shape.dim, &cache[elements_at(p)], &scale);
    if (kv_element_bytes(element) == 1) std::memcpy(&cache[scale_at(p)], &scale, 4);
  }
  double get(const std::vector<uint8_t>& cache, const Place& p, uint32_t d) const {
    float scale = 1;
    if (kv_element_bytes(element) == 1) std::memcpy(&scale, &cache[scale_at(p)], 4);
    return from_element(element, &cache[elements_at(p)], d, scale);
  }

  void rotate(const float* head, int32_t position, double* out) const {
    const uint32_t half = shape.dim / 2;
    for (uint32_t d = 0; d < half; ++d) {
      // The angle as the kernels have it, in f32.
      const double angle = static_cast<float>(position) * inv_freq[d];
      out[d] = head[d] * std::cos(angle) - head[half + d] * std::sin(angle);
      out[half + d] = head[half + d] * std::cos(angle) + head[d] * std::sin(angle);
    }
  }

  // [rows][heads * dim]; fills the cache as the step should.
  std::vector<double> reference() {
    const uint32_t dim = shape.dim, group = shape.heads / shape.kv_heads;
    std::vector<double> out(rows.size() * shape.heads * dim), turned(dim);
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r].position < 0) continue;
      for (uint32_t k = 0; k < shape.kv_heads; ++k) {
        const float* key = &qkv[r * qkv_stride + (shape.heads + k) * dim];
        const Place at = place(rows[r].sequence, static_cast<uint32_t>(rows[r].position), k);
        rotate(key, rows[r].position, turned.data());
        const std::vector<float> row(turned.begin(), turned.end());
        put(keys, at, row.data());
        put(values, at, key + shape.kv_heads * dim);
      }
    }
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r].position < 0) continue;
      const uint32_t context = static_cast<uint32_t>(rows[r].position) + 1;
      const uint32_t oldest = window > 0 && context > window ? context - window : 0;
      for (uint32_t h = 0; h < shape.heads; ++h) {
        rotate(&qkv[r * qkv_stride + h * dim], rows[r].position, turned.data());
        std::vector<double> scores;
        double most = -1e300, total = 0;
        for (uint32_t p = oldest; p < context; ++p) {
          const Place at = place(rows[r].sequence, p, h / group);
          double dot = 0;
          for (uint32_t d = 0; d < dim; ++d) dot += turned[d] * get(keys, at, d);
          scores.push_back(dot / std::sqrt(double{static_cast<float>(dim)}));
          most = std::max(most, scores.back());
        }
        for (double& s : scores) total += s = std::exp(s - most);
        for (uint32_t p = oldest; p < context; ++p) {
          const Place at = place(rows[r].sequence, p, h / group);
          for (uint32_t d = 0; d < dim; ++d)
            out[(r * shape.heads + h) * dim + d] += scores[p - oldest] / total * get(values, at, d);
        }
      }
    }
    return out;
  }
};

void test_attention(Attention a, const std::string& name, bool decode) {
  const Heads& h = a.shape;
  const uint32_t count = static_cast<uint32_t>(a.rows.size()), wide = h.heads * h.dim;
  const DeviceBuffer positions = to_device(a.positions), tables = to_device(a.tables),
                     block_tables = to_device(a.block_tables), qkv = to_device(a.qkv),
                     inv_freq = to_device(a.inv_freq);
  const StepRows rows{nullptr, positions.as<int32_t>(), tables.as<int32_t>(), block_tables.as<int32_t>(),
                      a.table_stride};
  const std::vector<uint8_t> keys_before = a.keys, values_before = a.values;
  const std::vector<double> want = a.reference();
  uint32_t longest = 1;
  for (const Row& r : a.rows) longest = std::max(longest, static_cast<uint32_t>(r.position + 1));
  // As decoding; as a prompt whose rows are attended together; the same row by row, bit for bit.
  std::vector<uint16_t> together;
  for (int way = decode ? 2 : 1; way >= 0; --way) {
    const bool fused = way == 2;
    DeviceBuffer keys = to_device(keys_before), values = to_device(values_before);
    const KvPages pages{a.element, h.kv_heads, h.dim, keys.data(), values.data()};
    AttentionShape shape;
    shape.heads = h.heads, shape.scale = 1.0f / std::sqrt(static_cast<float>(h.dim)),
    shape.sliding_window = a.window;
    // Short splits, and as many positions as a device of few multiprocessors would take.
    const uint32_t decode_positions = name.size() % 2 ? 64 : decode_split(count, h.kv_heads, longest, 4);
    const uint32_t splits = ceil_div(longest, fused ? decode_positions : shape.split_positions);
    DeviceBuffer partials(attention_floats(shape, h.dim, count, splits) * 4 + 256),
        q(size_t{count} * wide * 4), arrivals(size_t{count} * h.kv_heads * 4 + 256);
    std::vector<uint16_t> got(size_t{count} * wide, 0x7fc0);
    DeviceBuffer out = to_device(got);
    // Twice: what a launch leaves behind must serve the next.
    for (int again = 0; again < 2; ++again) {
      cudaError_t error = cudaSuccess;
      if (fused) {
        error = decode_attend(
            rows, count, shape, {qkv.as<float>(), a.qkv_stride, inv_freq.as<float>(), 1.0f, decode_positions},
            pages, splits, partials.as<float>(), arrivals.as<uint32_t>(), out.data(), wide, again == 1, 0);
      } else {
        error = rotate_and_store(rows, count, qkv.as<float>(), a.qkv_stride, h.heads, inv_freq.as<float>(),
                                 1.0f, pages, q.as<float>(), false, 0);
        if (error == cudaSuccess)
          error = attend(rows, count, shape, q.as<float>(), pages, way == 1, splits, partials.as<float>(),
                         out.data(), wide, false, 0);
      }
      if (error == cudaSuccess) error = cudaDeviceSynchronize();
      expect(error == cudaSuccess, name + ": " + cudaGetErrorString(error));
      if (error != cudaSuccess) return;
      out.download(got.data(), got.size() * 2);
      const double off = relative(got, want);
      // A code of the new row that is rounded the other way than the reference's is a step off.
      const double allowed = a.element == KvElement::i8 ? 1e-2 : a.element == KvElement::e4m3 ? 4e-2 : 4e-3;
      expect(off < allowed, name +
                                (fused      ? ", decoding"
                                 : way == 1 ? ", as a prompt"
                                            : ", row by row") +
                                ": relative error " + std::to_string(off));
      if (way == 1) together = got;
      if (way == 0) expect(got == together, name + ": rows together and alone differ");
      out.upload(std::vector<uint16_t>(got.size(), 0x7fc0).data(), got.size() * 2);
    }
    std::vector<uint8_t> stored(a.keys.size());
    const auto near = [&](const DeviceBuffer& from, const std::vector<uint8_t>& expected) {
      from.download(stored.data(), stored.size());
      const uint32_t heads = static_cast<uint32_t>(stored.size() / kv_head_bytes(a.element, h.dim));
      for (uint32_t i = 0; i < heads * kBlockTokens; ++i) {
        const Attention::Place at{i / kBlockTokens, i % kBlockTokens};
        double most = 1e-3;
        for (uint32_t d = 0; d < h.dim; ++d) most = std::max(most, std::abs(a.get(expected, at, d)));
        for (uint32_t d = 0; d < h.dim; ++d) {
          if (!(std::abs(a.get(stored, at, d) - a.get(expected, at, d)) <= step_of(a.element) * most))
            return false;
        }
      }
      return true;
    };
    expect(near(keys, a.keys), name + ": keys in the cache");
    expect(near(values, a.values), name + ": values in the cache");
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

int run(bool quick) {
  const std::vector<Heads> shapes =
      quick ? std::vector<Heads>{{9, 3, 64}, {4, 4, 128}}
            : std::vector<Heads>{{32, 32, 128}, {9, 3, 64},  {12, 2, 128}, {16, 2, 64},
                                 {5, 1, 80},    {14, 2, 64}, {4, 1, 256},  {2, 2, 8}};
  for (const Heads& h : shapes) {
    for (const KvElement element : {KvElement::f16, KvElement::bf16, KvElement::i8, KvElement::e4m3}) {
      for (const uint32_t window : {0u, 100u}) {
        const std::string name = std::to_string(h.heads) + "/" + std::to_string(h.kv_heads) + " heads of " +
                                 std::to_string(h.dim) + ", " + name_of(element) +
                                 (window ? ", window of 100" : "");
        try {
          for (const int32_t context : {1, 16, 17, 64, 65, 300, quick ? 301 : 1100})
            test_attention({h, element, window, {{0, context - 1}}}, name + ", " + std::to_string(context),
                           true);
          test_attention({h, element, window, {{0, 9}, {1, 63}, {2, 64}, {3, 0}, {4, 200}, {0, -1}, {0, -1}}},
                         name + ", a batch", true);
          std::vector<Row> chunk;
          for (int32_t p = 30; p < (quick ? 50 : 90); ++p) chunk.push_back({0, p});
          chunk.push_back({1, 300});
          test_attention({h, element, window, chunk}, name + ", a prompt", false);
          chunk.clear();
          for (int32_t p = 0; p < 5; ++p) chunk.push_back({1, p});
          for (int32_t p = 251; p < 268; ++p) chunk.push_back({0, p});
          test_attention({h, element, window, chunk}, name + ", prompts, one across splits", false);
        } catch (const std::exception& error) {
          expect(false, name + ": " + error.what());
        }
      }
    }
  }
  test_norm_and_swiglu();
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace filigree::cuda::test

int main(int argc, char** argv) {
  return filigree::cuda::test::run_tests(argc, argv, filigree::cuda::test::run);
}
