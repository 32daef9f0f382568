#include "cuda/linear.h"
#include "cuda/store.cuh"

// Products of 1 to 4 tokens with a matrix in row lanes (row_lanes.h). A block computes 32 rows over all of K, a unit a warp; the
// partial sums meet in shared memory in warp order, so a result is the same every time.
//
// A lane walks its nonzeros: eight distances become eight columns with one multiplication (a prefix sum of the bytes), each is
// turned into an address of shared memory by dp4a, which extracts, scales and adds at once, and one FFMA follows the load. i8
// activations are gathered four to a word for dp4a. The last column of a chunk of i4 tells its quantization group, whose scale
// waits in shared memory.

namespace filigree::cuda {
namespace {

template <Values Kind>
struct Chunk;
template <>
struct Chunk<Values::bf16> {
  using Type = uint4;
  static constexpr uint32_t fill = 0;
};
template <>
struct Chunk<Values::i8> {
  using Type = uint2;
  static constexpr uint32_t fill = 0x80808080u;  // code 0
};
template <>
struct Chunk<Values::i4> {
  using Type = uint2;  // values, distances
  static constexpr uint32_t fill = 0;
};

// How activations lie in shared memory: i8 codes; the tokens of a column side by side in bf16; or, for one token, f32, which
// costs bank conflicts (the more words the columns of a unit take, the more of a warp's 32 addresses meet in one bank) and
// spares a shift.
enum class Staged { i8, bf16, f32 };

template <int Tokens, Staged As>
constexpr uint32_t kColumnBytes = As == Staged::i8    ? 1
                                  : As == Staged::f32 ? 4
                                                      : 2 * Tokens;

constexpr uint32_t kPad =
    16;  // in front of a warp's columns: where an entry of distance 0 points, always zero

constexpr float kWhole =
    12582912.0f;  // 1.5 x 2^23: added to an integer below 2^22, leaves it in the mantissa's last bits

// Bytes of a warp's columns; the scales of i4 follow.
FILIGREE_HD constexpr uint32_t columns_bytes(uint32_t unit_cols, uint32_t column_bytes) {
  return kPad + round_up(unit_cols * column_bytes, 16u);
}

// Bytes of a row of scales of i4: f16 of 32 lanes. A warp has one row of zeros, where what lies before its first column belongs,
// and one for each quantization group that its columns may touch.
constexpr uint32_t kScaleRow = kLanes * 2;
uint32_t scales_bytes(const RowLanesShape& m) {
  return m.kind == Values::i4 ? (2 + (m.unit_cols + m.group - 2) / m.group) * kScaleRow : 0;
}

// Where a lane finds the scale of the chunk whose last column lies at shared address x.
struct GroupScales {
  uint32_t first = 0, bias = 0, shift = 0;
  FILIGREE_DEVICE float at(uint32_t x) const { return shared_f16(first + ((x + bias) >> shift) * kScaleRow); }
};

FILIGREE_DEVICE uint32_t four_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return prmt(prmt(a, b, 0x0040), prmt(c, d, 0x0040), 0x5410);
}

// The activations of one lane's chunk meet its weights. x is the address of column -1, moved past the chunk.
template <Values Kind, int Tokens, Staged As>
struct Accumulator {
  static constexpr uint32_t bytes = kColumnBytes<Tokens, As>;
  float sum[Tokens] = {};
  float odd = 0;  // a second chain for one token
  int whole = 0;  // i8 x i8

  FILIGREE_DEVICE static float one(uint32_t address) {
    return As == Staged::f32 ? shared_f32(address) : shared_bf16(address);
  }
  // The i-th byte of `four`, an unsigned code + offset, as the code: it becomes the last of the mantissa of 2^23.
  FILIGREE_DEVICE static float code(uint32_t four, int i, float offset) {
    return __uint_as_float(prmt(four, 0x4b000000u, 0x7540 + i)) - (8388608.0f + offset);
  }

  FILIGREE_DEVICE void add(const typename Chunk<Kind>::Type& v, uint32_t distances, uint32_t& x,
                           const GroupScales& scales) {
    const uint32_t even = distances & 0x0f0f0f0fu, odd4 = (distances >> 4) & 0x0f0f0f0fu;
    const uint32_t upto = (even + odd4) * 0x01010101u,
                   before = upto - odd4;  // prefix sums at odd and even nonzeros
    const uint32_t last = x + (upto >> 24) * bytes;
    if constexpr (As == Staged::i8) {
      uint32_t low[4], high[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        low[i] = shared_u8(__dp4a(before, 1u << (8 * i), x));
        high[i] = shared_u8(__dp4a(upto, 1u << (8 * i), x));
      }
      if constexpr (Kind == Values::i8) {
        whole = __dp4a(static_cast<int>(v.x ^ 0x80808080u),
                       static_cast<int>(four_bytes(low[0], high[0], low[1], high[1])), whole);
        whole = __dp4a(static_cast<int>(v.y ^ 0x80808080u),
                       static_cast<int>(four_bytes(low[2], high[2], low[3], high[3])), whole);
      } else {
        // Codes in the high nibbles, 16 times as large; the sum begins with the bits of kWhole, so it need not be converted.
        int bits = __dp4a(static_cast<int>((v.x << 4) & 0xf0f0f0f0u),
                          static_cast<int>(four_bytes(low[0], low[1], low[2], low[3])), 0x4b400000);
        bits = __dp4a(static_cast<int>(v.x & 0xf0f0f0f0u),
                      static_cast<int>(four_bytes(high[0], high[1], high[2], high[3])), bits);
        sum[0] = fmaf(scales.at(last), __uint_as_float(static_cast<uint32_t>(bits)) - kWhole, sum[0]);
      }
    } else if constexpr (Kind == Values::i4) {
      const uint32_t low = (v.x & 0x0f0f0f0fu) ^ 0x08080808u, high = ((v.x >> 4) & 0x0f0f0f0fu) ^ 0x08080808u;
      Accumulator part;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        part.pair(code(low, i, 8), code(high, i, 8), __dp4a(before, bytes << (8 * i), x),
                  __dp4a(upto, bytes << (8 * i), x));
      const float scale = scales.at(last);
      if constexpr (Tokens == 1) part.sum[0] += part.odd;
#pragma unroll
      for (int t = 0; t < Tokens; ++t) sum[t] = fmaf(scale, part.sum[t], sum[t]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float w0, w1;
        if constexpr (Kind == Values::bf16) {
          const uint32_t two = i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
          w0 = low_bf16(two), w1 = high_bf16(two);
        } else {
          const uint32_t four = i < 2 ? v.x : v.y;
          w0 = code(four, i % 2 * 2, 128), w1 = code(four, i % 2 * 2 + 1, 128);
        }
        pair(w0, w1, __dp4a(before, bytes << (8 * i), x), __dp4a(upto, bytes << (8 * i), x));
      }
    }
    x = last;
  }

  // Two weights and the addresses of what they meet.
  FILIGREE_DEVICE void pair(float w0, float w1, uint32_t a0, uint32_t a1) {
    if constexpr (Tokens == 1) {
      sum[0] = fmaf(w0, one(a0), sum[0]);
      odd = fmaf(w1, one(a1), odd);
    } else if constexpr (Tokens == 2) {
      const uint32_t x0 = shared_u32(a0), x1 = shared_u32(a1);
      sum[0] = fmaf(w0, low_bf16(x0), sum[0]), sum[1] = fmaf(w0, high_bf16(x0), sum[1]);
      sum[0] = fmaf(w1, low_bf16(x1), sum[0]), sum[1] = fmaf(w1, high_bf16(x1), sum[1]);
    } else {
      const uint2 x0 = shared_u64(a0), x1 = shared_u64(a1);
      sum[0] = fmaf(w0, low_bf16(x0.x), sum[0]), sum[1] = fmaf(w0, high_bf16(x0.x), sum[1]);
      sum[2] = fmaf(w0, low_bf16(x0.y), sum[2]), sum[3] = fmaf(w0, high_bf16(x0.y), sum[3]);
      sum[0] = fmaf(w1, low_bf16(x1.x), sum[0]), sum[1] = fmaf(w1, high_bf16(x1.x), sum[1]);
      sum[2] = fmaf(w1, low_bf16(x1.y), sum[2]), sum[3] = fmaf(w1, high_bf16(x1.y), sum[3]);
    }
  }

  FILIGREE_DEVICE float total(int token) const {
    if constexpr (As == Staged::i8)
      return Kind == Values::i4 ? sum[0] * (1.0f / 16) : static_cast<float>(whole);
    return Tokens == 1 ? sum[0] + odd : sum[token];
  }
};

// Four columns of the residual stream times their weights of the norm; adds their squares.
FILIGREE_DEVICE float4 normed_columns(const Input& x, uint32_t cols, uint32_t column, float& squares) {
  if (column >= cols) return make_float4(0, 0, 0, 0);
  const float4 v = *reinterpret_cast<const float4*>(x.hidden + column);
  const float4 w = *reinterpret_cast<const float4*>(x.norm + column);
  squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
  return make_float4(v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w);
}

// Copies the columns of a warp's unit into its shared memory, eight at a time: the rows are padded (linear.h), so a unit that
// reaches past the last column reads zeros or weights that do not exist. Of x.hidden also the lane's share of the sum of squares.
template <int Tokens, Staged As>
FILIGREE_DEVICE void stage_columns(const Input& x, uint32_t cols, uint32_t first, uint32_t unit_cols,
                                   uint8_t* to, int lane, float& squares) {
  if (Tokens == 1 && As != Staged::i8 && x.hidden) {
#pragma unroll 1
    for (uint32_t i = lane; i < unit_cols / 4; i += kLanes) {
      const float4 v = normed_columns(x, cols, first + i * 4, squares);
      if constexpr (As == Staged::f32) {
        reinterpret_cast<float4*>(to)[i] = v;
      } else {
        reinterpret_cast<uint2*>(to)[i] = as_bf16(v);
      }
    }
    return;
  }
  for (uint32_t i = lane; i < unit_cols / 8; i += kLanes) {
    const uint32_t column = first + i * 8;
    const bool inside = column < x.stride;
    if constexpr (As == Staged::i8) {
      const uint2* from = reinterpret_cast<const uint2*>(static_cast<const uint8_t*>(x.data) + column);
      reinterpret_cast<uint2*>(to)[i] = inside ? *from : make_uint2(0, 0);
    } else {
      const uint16_t* const from = static_cast<const uint16_t*>(x.data) + column;
      uint4 row[Tokens];
#pragma unroll
      for (uint32_t m = 0; m < Tokens; ++m) {
        row[m] = inside && m < x.tokens ? *reinterpret_cast<const uint4*>(from + size_t{m} * x.stride)
                                        : make_uint4(0, 0, 0, 0);
      }
      uint4* const out = reinterpret_cast<uint4*>(to) + i * Tokens;
      if constexpr (As == Staged::f32) {
        uint4* const wide = reinterpret_cast<uint4*>(to) + i * 2;
        wide[0] = make_uint4(row[0].x << 16, row[0].x & 0xffff0000u, row[0].y << 16, row[0].y & 0xffff0000u);
        wide[1] = make_uint4(row[0].z << 16, row[0].z & 0xffff0000u, row[0].w << 16, row[0].w & 0xffff0000u);
      } else if constexpr (Tokens == 1) {
        out[0] = row[0];
      } else {
        // Column after column, its tokens side by side.
        const auto mix = [](uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t half) {
          return Tokens == 2 ? make_uint2(prmt(a, b, half), 0)
                             : make_uint2(prmt(a, b, half), prmt(c, d, half));
        };
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
          const auto word = [&](const uint4& r) {
            return pair == 0 ? r.x : pair == 1 ? r.y : pair == 2 ? r.z : r.w;
          };
          const uint32_t a = word(row[0]), b = word(row[1]), c = word(row[Tokens == 4 ? 2 : 0]),
                         d = word(row[Tokens - 1]);
          const uint2 low = mix(a, b, c, d, 0x5410), high = mix(a, b, c, d, 0x7632);
          if constexpr (Tokens == 2) {
            reinterpret_cast<uint2*>(out)[pair] = make_uint2(low.x, high.x);
          } else {
            out[pair] = make_uint4(low.x, low.y, high.x, high.y);
          }
        }
      }
    }
  }
}

// One token's columns of a warp as i8 codes; returns their scale. Its own for each warp's part of K: an outlier coarsens no more
// than the columns beside it. The first Held fours of a lane wait in registers for the scale, further ones are read again.
template <int Held>
FILIGREE_DEVICE float quantize_columns(const Input& x, uint32_t cols, uint32_t first, uint32_t unit_cols,
                                       uint8_t* to, int lane, float& squares) {
  const uint32_t fours = unit_cols / 4;
  const auto columns = [&](uint32_t i, float& sum) {
    const uint32_t column = first + i * 4;
    if (i >= fours) return make_float4(0, 0, 0, 0);
    if (x.hidden) return normed_columns(x, cols, column, sum);
    const uint2 four = column < x.stride
                           ? *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(x.data) + column)
                           : make_uint2(0, 0);
    return make_float4(low_bf16(four.x), high_bf16(four.x), low_bf16(four.y), high_bf16(four.y));
  };
  float most = 0;
  const auto see = [&](const float4& v) {
    most = fmaxf(most, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
  };
  float4 held[Held];
#pragma unroll
  for (int k = 0; k < Held; ++k) held[k] = columns(lane + k * kLanes, squares);
#pragma unroll
  for (int k = 0; k < Held; ++k) see(held[k]);
#pragma unroll 1
  for (uint32_t i = lane + Held * kLanes; i < fours; i += kLanes) see(columns(i, squares));
  most = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(most)));  // none is negative
  const float to_code = most > 0 ? __fdividef(127.0f, most) : 0.0f;
  const auto put = [&](uint32_t i, const float4& v) {
    const auto code = [&](float f) { return __float_as_uint(fmaf(f, to_code, kWhole)); };  // in the last byte
    if (i < fours)
      reinterpret_cast<uint32_t*>(to)[i] = four_bytes(code(v.x), code(v.y), code(v.z), code(v.w));
  };
#pragma unroll
  for (int k = 0; k < Held; ++k) put(lane + k * kLanes, held[k]);
#pragma unroll 1
  for (uint32_t i = lane + Held * kLanes; i < fours; i += kLanes) {
    float again = 0;
    put(i, columns(i, again));
  }
  return most * (1.0f / 127);
}

template <Values Kind, int Tokens, Staged As, int Warps, int InFlight, int PerSm>
__global__ void __launch_bounds__(Warps * 32, PerSm)
    row_lanes_kernel(const RowLanes m, const Input x, const Output out, uint32_t warp_shared) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ float all_squares[Tokens == 1 ? Warps * 32 : 1];  // a lane's share of the norm
  using Type = typename Chunk<Kind>::Type;
  constexpr bool kSplit = Kind != Values::i4;  // distances in an array of their own
  constexpr uint32_t kColumn = kColumnBytes<Tokens, As>;
  constexpr int kLead = static_cast<int>(kLeadChunks), kTaken = InFlight < kLead ? InFlight : kLead;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const uint32_t below = lanes_below();
  let_next_start();

  const bool mine = warp < m.units_per_group();  // narrow matrices have fewer units than a block warps
  const size_t unit = static_cast<size_t>(blockIdx.x) * m.units_per_group() + warp;
  const uint32_t first = warp * m.unit_cols;
  const Type* const values = reinterpret_cast<const Type*>(m.values);

  // Loads are InFlight chunks ahead of the sums.
  uint32_t base = 0, count = 0;
  Type v[InFlight];
  uint32_t d[kSplit ? InFlight : 1];
  const auto load = [&](int slot, uint32_t which) {
    const bool wanted = which < count;
    const uint32_t active = __ballot_sync(~0u, wanted);
    const uint32_t at = base + __popc(active & below);
    base += __popc(active);
    v[slot] = load_once_if(values + at, wanted, Chunk<Kind>::fill);
    if constexpr (kSplit) d[slot] = load_once_if(m.distances + at, wanted, 0);
  };
  const auto distances = [&](int slot) {
    if constexpr (kSplit) {
      return d[slot];
    } else {
      return v[slot].y;
    }
  };
  if (mine) {
    base = m.stride ? static_cast<uint32_t>(unit * m.stride) : m.offsets[unit];
    // Every lane has its lead chunks: these loads wait for no count.
#pragma unroll
    for (int u = 0; u < kTaken; ++u) {
      v[u] = load_once(values + base + u * kLanes + lane);
      if constexpr (kSplit) d[u] = load_once(m.distances + base + u * kLanes + lane);
    }
    base += kTaken * kLanes;
    count = m.counts[unit * kLanes + lane];
  }
  // i4: the scales of the groups that the unit touches. The first few are on their way while the inputs are waited for.
  constexpr int kEarly = Kind == Values::i4 ? 3 : 0;
  const uint32_t first_group = kEarly ? first / m.group : 0;
  const int my_groups =
      kEarly && mine ? (min(first + m.unit_cols, m.cols) - 1) / m.group - first_group + 1 : 0;
  const auto group_scale = [&](uint32_t g) {
    return m
        .unit_scales[(static_cast<size_t>(blockIdx.x) * m.scale_groups() + first_group + g) * kLanes + lane];
  };
  uint16_t early[kEarly + 1] = {};
#pragma unroll
  for (int g = 0; g < kEarly; ++g) {
    if (g < my_groups) early[g] = group_scale(g);
  }
  // A lane has one row, so its scale can be fetched now and applied before the warps' sums meet.
  const uint32_t my_row = blockIdx.x * kLanes + lane;
  const float row_scale = Kind == Values::i8 && my_row < m.rows ? m.row_scales[my_row] : 1.0f;

  wait_for_inputs();
  uint8_t* const pad = shared + warp * warp_shared;
  uint8_t* const columns = pad + kPad;
  if (lane < kPad / 4) reinterpret_cast<uint32_t*>(pad)[lane] = 0;
  float squares = 0;
  float input_scale = 1;
  if (mine) {
    if constexpr (As == Staged::i8) {
      if (x.scales) {
        stage_columns<Tokens, As>(x, m.cols, first, m.unit_cols, columns, lane, squares);
        input_scale = x.scales[0];
      } else {
        input_scale =
            quantize_columns < Warps == 16 ? 2 : 3 > (x, m.cols, first, m.unit_cols, columns, lane, squares);
      }
    } else {
      stage_columns<Tokens, As>(x, m.cols, first, m.unit_cols, columns, lane, squares);
    }
  }
  const float scale = row_scale * input_scale;
  if (Tokens == 1 && x.hidden) all_squares[warp * 32 + lane] = squares;
  GroupScales scales;
  if constexpr (Kind == Values::i4) {
    uint16_t* const to = reinterpret_cast<uint16_t*>(pad + columns_bytes(m.unit_cols, kColumn)) + lane;
    to[0] = 0;
#pragma unroll
    for (int g = 0; g < kEarly; ++g) {
      if (g < my_groups) to[(g + 1) * kLanes] = early[g];
    }
    for (int g = kEarly; g < my_groups; ++g) to[(g + 1) * kLanes] = group_scale(g);
    scales.first = shared_address(to);
    scales.bias = kColumn * (first % m.group + m.group) - shared_address(columns);
    scales.shift = 31 - __clz(static_cast<int>(m.group * kColumn));
  }
  __syncwarp();
  const uint32_t most = __reduce_max_sync(~0u, count);
#pragma unroll
  for (int u = kTaken; u < InFlight; ++u) load(u, u);

  Accumulator<Kind, Tokens, As> sums;
  uint32_t column = shared_address(columns) - kColumn;
  uint32_t chunk = 0;
  for (; chunk + InFlight < most; chunk += InFlight) {
#pragma unroll
    for (int u = 0; u < InFlight; ++u) {
      sums.add(v[u], distances(u), column, scales);
      load(u, chunk + u + InFlight);
    }
  }
#pragma unroll
  for (int u = 0; u < InFlight; ++u) {
    if (chunk + u >= most) break;
    sums.add(v[u], distances(u), column, scales);
  }

  __syncthreads();
  float* const partial = reinterpret_cast<float*>(shared);  // [warps][tokens][32]
#pragma unroll
  for (int t = 0; t < Tokens; ++t) partial[(warp * Tokens + t) * 32 + lane] = sums.total(t) * scale;
  __syncthreads();
  // A warp a token: its lanes are the rows again.
  if (warp >= Tokens || warp >= static_cast<int>(x.tokens)) return;
  float value = 0;
#pragma unroll
  for (int w = 0; w < Warps; ++w) value += partial[(w * Tokens + warp) * 32 + lane];
  if (Tokens == 1 && x.hidden) {
    float all = 0;
#pragma unroll
    for (int w = 0; w < Warps; ++w) all += all_squares[w * 32 + lane];
#pragma unroll
    for (int o = 16; o; o >>= 1) all += __shfl_xor_sync(~0u, all, o);
    value *= rsqrtf(all / static_cast<float>(m.cols) + x.norm_eps);
  }
  if (out.store == Store::swiglu) {
    const float up = __shfl_down_sync(~0u, value, 16);
    if (lane < 16 && my_row + 16 < m.rows) store_swiglu(out, my_row, warp, value, up);
  } else if (my_row < m.rows) {
    store_row(out, my_row, warp, value);
  }
}

template <Values Kind, int Tokens, Staged As, int Warps, int InFlight, int PerSm>
cudaError_t run(const RowLanes& m, const Input& x, const Output& out, bool dependent, cudaStream_t stream) {
  constexpr uint32_t kColumn = kColumnBytes<Tokens, As>;
  if (m.units_per_group() > Warps) return cudaErrorInvalidValue;
  const uint32_t mine = columns_bytes(m.unit_cols, kColumn) + scales_bytes(m);
  const uint32_t sums = Warps * Tokens * 32 * sizeof(float);
  return launch(row_lanes_kernel<Kind, Tokens, As, Warps, InFlight, PerSm>, dim3(m.row_groups()), Warps * 32,
                mine * Warps > sums ? mine * Warps : sums, dependent, stream, m, x, out, mine);
}

template <Values Kind>
cudaError_t pick(const RowLanes& m, const Input& x, const Output& out, const RowLanesPlan& p, bool dependent,
                 cudaStream_t stream) {
  const Staged as = x.scales || x.quantize ? Staged::i8 : p.wide ? Staged::f32 : Staged::bf16;
#define FILIGREE_ROW_LANES(TOKENS, AS, WARPS, IN_FLIGHT, PER_SM)                                            \
  if (p.tokens == TOKENS && as == AS && p.warps == WARPS && p.in_flight == IN_FLIGHT && p.per_sm == PER_SM) \
    return run<Kind, TOKENS, AS, WARPS, IN_FLIGHT, PER_SM>(m, x, out, dependent, stream);
  FILIGREE_ROW_LANES(1, Staged::bf16, 16, 4, 2)
  FILIGREE_ROW_LANES(1, Staged::bf16, 16, 3, 3)
  FILIGREE_ROW_LANES(1, Staged::bf16, 32, 4, 1)
  FILIGREE_ROW_LANES(1, Staged::f32, 16, 4, 2)
  FILIGREE_ROW_LANES(1, Staged::f32, 16, 3, 3)
  FILIGREE_ROW_LANES(1, Staged::f32, 32, 4, 1)
  FILIGREE_ROW_LANES(2, Staged::bf16, 16, 3, 3)
  FILIGREE_ROW_LANES(2, Staged::bf16, 32, 4, 1)
  FILIGREE_ROW_LANES(4, Staged::bf16, 16, 3, 2)
  FILIGREE_ROW_LANES(4, Staged::bf16, 32, 3, 1)
  if constexpr (Kind != Values::bf16) {
    FILIGREE_ROW_LANES(1, Staged::i8, 16, 4, 2)
    FILIGREE_ROW_LANES(1, Staged::i8, 16, 4, 3)
    FILIGREE_ROW_LANES(1, Staged::i8, 32, 4, 1)
  }
#undef FILIGREE_ROW_LANES
  return cudaErrorInvalidConfiguration;
}

}  // namespace

cudaError_t run_row_lanes(const RowLanes& m, const Input& x, const Output& out, const RowLanesPlan& plan,
                          bool dependent, cudaStream_t stream) {
  if (x.tokens == 0 || x.tokens > plan.tokens) return cudaErrorInvalidValue;
  if (m.kind == Values::bf16) return pick<Values::bf16>(m, x, out, plan, dependent, stream);
  if (m.kind == Values::i8) return pick<Values::i8>(m, x, out, plan, dependent, stream);
  return pick<Values::i4>(m, x, out, plan, dependent, stream);
}

}  // namespace filigree::cuda
