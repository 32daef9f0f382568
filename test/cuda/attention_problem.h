#pragma once

// Attention over a paged cache of random rows, and what it must give, in double.

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "cuda/layers.h"
#include "problem.h"

namespace filigree::cuda::test {

// A head's row of the cache in memory: its elements, and the scale that stands apart from them.
inline void store_row(KvElement e, const float* from, uint32_t dim, uint8_t* elements, float* scale) {
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
inline double from_element(KvElement e, const uint8_t* elements, uint32_t d, float scale) {
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
inline const char* name_of(KvElement e) {
  static constexpr const char* kNames[] = {"f16", "bf16", "i8", "e4m3"};
  return kNames[static_cast<int>(e)];
}
// The largest difference between what two roundings of nearly the same row may leave, of the row's largest element.
inline double step_of(KvElement e) {
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

// Of an output, relative to its norm. A code of the new row that is rounded the other way than the reference's is a step off.
inline double allowed_error(KvElement e) {
  return e == KvElement::i8 ? 1e-2 : e == KvElement::e4m3 ? 4e-2 : 4e-3;
}

inline double relative(const std::vector<uint16_t>& got, const std::vector<double>& want) {
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

// Runs: sequence, from, to.
inline std::vector<Row> rows_of(std::initializer_list<std::array<int32_t, 3>> runs) {
  std::vector<Row> rows;
  for (const auto& [sequence, from, to] : runs) {
    for (int32_t p = from; p < to; ++p) rows.push_back({static_cast<uint32_t>(sequence), p});
  }
  return rows;
}

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

  // Whether a cache holds what another does, but for the rounding of new rows.
  bool near(const std::vector<uint8_t>& got, const std::vector<uint8_t>& expected) const {
    const uint32_t heads = static_cast<uint32_t>(got.size() / kv_head_bytes(element, shape.dim));
    for (uint32_t i = 0; i < heads * kBlockTokens; ++i) {
      const Place at{i / kBlockTokens, i % kBlockTokens};
      if (std::memcmp(&got[elements_at(at)], &expected[elements_at(at)],
                      shape.dim * kv_element_bytes(element)) == 0)
        continue;
      double most = 1e-3;
      for (uint32_t d = 0; d < shape.dim; ++d) most = std::max(most, std::abs(get(expected, at, d)));
      for (uint32_t d = 0; d < shape.dim; ++d) {
        if (!(std::abs(get(got, at, d) - get(expected, at, d)) <= step_of(element) * most)) return false;
      }
    }
    return true;
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
    std::vector<double> of_keys, of_values;  // of one sequence and key head
    for (uint32_t sequence = 0; sequence < sequences; ++sequence) {
      for (uint32_t k = 0; k < shape.kv_heads; ++k) {
        of_keys.clear(), of_values.clear();
        for (int32_t p = 0; p < length(sequence); ++p) {
          for (uint32_t d = 0; d < dim; ++d) {
            const Place at = place(sequence, static_cast<uint32_t>(p), k);
            of_keys.push_back(get(keys, at, d)), of_values.push_back(get(values, at, d));
          }
        }
        for (size_t r = 0; r < rows.size(); ++r) {
          if (rows[r].position < 0 || rows[r].sequence != sequence) continue;
          const uint32_t context = static_cast<uint32_t>(rows[r].position) + 1;
          const uint32_t oldest = window > 0 && context > window ? context - window : 0;
          for (uint32_t h = k * group; h < (k + 1) * group; ++h) {
            rotate(&qkv[r * qkv_stride + h * dim], rows[r].position, turned.data());
            std::vector<double> scores;
            double most = -1e300, total = 0;
            for (uint32_t p = oldest; p < context; ++p) {
              double dot = 0;
              for (uint32_t d = 0; d < dim; ++d) dot += turned[d] * of_keys[size_t{p} * dim + d];
              scores.push_back(dot / std::sqrt(double{static_cast<float>(dim)}));
              most = std::max(most, scores.back());
            }
            for (double& s : scores) total += s = std::exp(s - most);
            for (uint32_t p = oldest; p < context; ++p) {
              for (uint32_t d = 0; d < dim; ++d)
                out[(r * shape.heads + h) * dim + d] +=
                    scores[p - oldest] / total * of_values[size_t{p} * dim + d];
            }
          }
        }
      }
    }
    return out;
  }

  // Positions up to the sequence's last row.
  int32_t length(uint32_t sequence) const {
    int32_t most = 0;
    for (const Row& row : rows) {
      if (row.sequence == sequence) most = std::max(most, row.position + 1);
    }
    return most;
  }
  // What no row may see is no number.
  void spoil_unused() {
    for (uint32_t sequence = 0; sequence < sequences; ++sequence) {
      for (uint32_t p = static_cast<uint32_t>(length(sequence)); p < table_stride * kBlockTokens; ++p) {
        for (uint32_t k = 0; k < shape.kv_heads; ++k) {
          const Place at = place(sequence, p, k);
          for (std::vector<uint8_t>* cache : {&keys, &values}) {
            std::memset(&(*cache)[elements_at(at)], 0xff, shape.dim * kv_element_bytes(element));
            if (kv_element_bytes(element) == 1) std::memset(&(*cache)[scale_at(at)], 0xff, 4);
          }
        }
      }
    }
  }

  // The runs of rows, cut after `most`.
  std::vector<AttentionRun> runs(uint32_t most = ~0u) const {
    std::vector<AttentionRun> all;
    for (uint32_t r = 0; r < rows.size(); ++r) {
      if (r > 0 && rows[r].sequence == rows[r - 1].sequence && rows[r].position == rows[r - 1].position + 1 &&
          all.back().rows < most) {
        ++all.back().rows;
      } else {
        all.push_back({r, 1, static_cast<uint32_t>(rows[r].position)});
      }
    }
    return all;
  }
};

}  // namespace filigree::cuda::test
