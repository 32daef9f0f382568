#include "cuda/linear.h"
#include "cuda/store.cuh"

// Products of 1 to 4 tokens with a matrix in row lanes (row_lanes.h). A block computes 32 rows over all of K, its warps sharing
// the units; the partial sums meet in shared memory in warp order, so a result is the same every time.
//
// A lane walks its nonzeros: eight distances become eight columns with one multiplication (a prefix sum of the bytes), each is
// turned into an address of shared memory by dp4a, which extracts, scales and adds at once, and one FFMA follows the load.

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
  using Type = uint32_t;
  static constexpr uint32_t fill = 0x88888888u;
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

uint32_t warp_bytes(uint32_t unit_cols, uint32_t units, uint32_t column_bytes) {
  return kPad + (unit_cols * units * column_bytes + 15) / 16 * 16;
}

// The activations of one lane's chunk meet its weights. x is the address of column -1, moved past the chunk.
template <Values Kind, int Tokens, Staged As>
struct Accumulator {
  static constexpr uint32_t bytes = kColumnBytes<Tokens, As>;
  float sum[Tokens] = {};
  float odd = 0;  // a second chain for one token
  int whole = 0;
  float nibble[4] = {};  // i4, one token: by the place of the nibble, each 16 times the one before it

  FILIGREE_DEVICE static float one(uint32_t address) {
    return As == Staged::f32 ? shared_f32(address) : shared_bf16(address);
  }

  FILIGREE_DEVICE void gather_i8(const uint32_t (&low)[4], const uint32_t (&high)[4], uint32_t v0,
                                 uint32_t v1) {
    // i8: nonzeros 0..3 and 4..7; i4: the even and the odd ones, as its nibbles come.
    const uint32_t a = Kind == Values::i4
                           ? prmt(prmt(low[0], low[1], 0x0040), prmt(low[2], low[3], 0x0040), 0x5410)
                           : prmt(prmt(low[0], high[0], 0x0040), prmt(low[1], high[1], 0x0040), 0x5410);
    const uint32_t b = Kind == Values::i4
                           ? prmt(prmt(high[0], high[1], 0x0040), prmt(high[2], high[3], 0x0040), 0x5410)
                           : prmt(prmt(low[2], high[2], 0x0040), prmt(low[3], high[3], 0x0040), 0x5410);
    whole = __dp4a(static_cast<int>(v0), static_cast<int>(a), whole);
    whole = __dp4a(static_cast<int>(v1), static_cast<int>(b), whole);
  }

  FILIGREE_DEVICE void add(const typename Chunk<Kind>::Type& v, uint32_t distances, uint32_t& x) {
    const uint32_t even = distances & 0x0f0f0f0fu, odd4 = (distances >> 4) & 0x0f0f0f0fu;
    const uint32_t upto = (even + odd4) * 0x01010101u,
                   before = upto - odd4;  // prefix sums at odd and even nonzeros
    if constexpr (As == Staged::i8) {
      uint32_t low[4], high[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        low[i] = shared_u8(__dp4a(before, 1u << (8 * i), x));
        high[i] = shared_u8(__dp4a(upto, 1u << (8 * i), x));
      }
      if constexpr (Kind == Values::i8) {
        gather_i8(low, high, v.x ^ 0x80808080u, v.y ^ 0x80808080u);
      } else {
        const uint32_t q = v ^ 0x88888888u;  // two's complement, in the high nibble: 16 times the code
        gather_i8(low, high, (q << 4) & 0xf0f0f0f0u, q & 0xf0f0f0f0u);
      }
    } else {
      uint32_t shifted = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t a0 = __dp4a(before, bytes << (8 * i), x), a1 = __dp4a(upto, bytes << (8 * i), x);
        float w0, w1;
        if constexpr (Kind == Values::bf16) {
          const uint32_t pair = i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
          w0 = low_bf16(pair), w1 = high_bf16(pair);
        } else if constexpr (Kind == Values::i8) {
          // A byte becomes the last of the mantissa of 2^23.
          const uint32_t four = i < 2 ? v.x : v.y;
          w0 = __uint_as_float(prmt(four, 0x4b000000u, 0x7540 + 2 * (i & 1))) - 8388736.0f;
          w1 = __uint_as_float(prmt(four, 0x4b000000u, 0x7541 + 2 * (i & 1))) - 8388736.0f;
        } else {
          // A nibble stays where it is among the mantissa's bits: 16^j (code + 8).
          if (i == 0) shifted = v;
          if (i == 2) shifted = v >> 16;
          const int j0 = 2 * (i & 1), j1 = j0 + 1;
          w0 = __uint_as_float((shifted & (15u << (4 * j0))) | 0x4b000000u) -
               (8388608.0f + 8.0f * (1 << (4 * j0)));
          w1 = __uint_as_float((shifted & (15u << (4 * j1))) | 0x4b000000u) -
               (8388608.0f + 8.0f * (1 << (4 * j1)));
          if constexpr (Tokens > 1) w0 *= 1.0f / (1 << (4 * j0)), w1 *= 1.0f / (1 << (4 * j1));
        }
        if constexpr (Tokens == 1 && Kind == Values::i4) {
          nibble[2 * (i & 1)] = fmaf(w0, one(a0), nibble[2 * (i & 1)]);
          nibble[2 * (i & 1) + 1] = fmaf(w1, one(a1), nibble[2 * (i & 1) + 1]);
        } else if constexpr (Tokens == 1) {
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
    }
    x += (upto >> 24) * bytes;
  }

  // Takes the sums out and starts anew.
  FILIGREE_DEVICE void take(float (&out)[Tokens], float scale) {
    if constexpr (As == Staged::i8) {
      out[0] = fmaf(scale * (Kind == Values::i4 ? 1.0f / 16 : 1.0f), static_cast<float>(whole), out[0]);
      whole = 0;
    } else if constexpr (Tokens == 1 && Kind == Values::i4) {
      const float s =
          nibble[0] + nibble[1] * (1.0f / 16) + nibble[2] * (1.0f / 256) + nibble[3] * (1.0f / 4096);
      out[0] = fmaf(scale, s, out[0]);
      nibble[0] = nibble[1] = nibble[2] = nibble[3] = 0;
    } else {
      if constexpr (Tokens == 1) sum[0] += odd, odd = 0;
#pragma unroll
      for (int m = 0; m < Tokens; ++m) out[m] = fmaf(scale, sum[m], out[m]), sum[m] = 0;
    }
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

FILIGREE_DEVICE uint2 as_bf16(const float4& v) {
  __nv_bfloat162 low = __floats2bfloat162_rn(v.x, v.y), high = __floats2bfloat162_rn(v.z, v.w);
  return make_uint2(*reinterpret_cast<uint32_t*>(&low), *reinterpret_cast<uint32_t*>(&high));
}

// Copies the columns of a warp's units into its shared memory, eight at a time: the rows are padded (linear.h), so a unit that
// reaches past the last column reads zeros or weights that do not exist. Of x.hidden also the lane's share of the sum of squares.
template <int Tokens, Staged As, int Warps>
FILIGREE_DEVICE void stage_columns(const Input& x, uint32_t cols, uint32_t warp, uint32_t units,
                                   uint32_t unit_cols, uint8_t* to, int lane, float& squares) {
  if (Tokens == 1 && As != Staged::i8 && x.hidden) {
    const uint32_t fours = unit_cols / 4;
#pragma unroll 1
    for (uint32_t i = lane; i < units * fours; i += kLanes) {
      const uint32_t column = (warp + i / fours * Warps) * unit_cols + i % fours * 4;
      const float4 v = normed_columns(x, cols, column, squares);
      if constexpr (As == Staged::f32) {
        reinterpret_cast<float4*>(to)[i] = v;
      } else {
        reinterpret_cast<uint2*>(to)[i] = as_bf16(v);
      }
    }
    return;
  }
  const uint32_t per_unit = unit_cols / 8;
  for (uint32_t i = lane; i < units * per_unit; i += kLanes) {
    const uint32_t column = (warp + i / per_unit * Warps) * unit_cols + i % per_unit * 8;
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
// than the columns beside it.
template <int Warps>
FILIGREE_DEVICE float quantize_columns(const Input& x, uint32_t cols, uint32_t warp, uint32_t units,
                                       uint32_t unit_cols, uint8_t* to, int lane, float& squares) {
  const uint32_t fours = unit_cols / 4;
  const auto columns = [&](uint32_t i, float& sum) {
    const uint32_t column = (warp + i / fours * Warps) * unit_cols + i % fours * 4;
    if (x.hidden) return normed_columns(x, cols, column, sum);
    const uint2 four = column < x.stride
                           ? *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(x.data) + column)
                           : make_uint2(0, 0);
    return make_float4(low_bf16(four.x), high_bf16(four.x), low_bf16(four.y), high_bf16(four.y));
  };
  float most = 0;
  for (uint32_t i = lane; i < units * fours; i += kLanes) {
    const float4 v = columns(i, squares);
    most = fmaxf(most, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
  }
#pragma unroll
  for (int o = 16; o; o >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
  const float to_code = most > 0 ? 127.0f / most : 0.0f;
  for (uint32_t i = lane; i < units * fours; i += kLanes) {
    float again = 0;
    const float4 v = columns(i, again);
    const auto code = [&](float f) { return static_cast<uint32_t>(__float2int_rn(f * to_code)) & 255u; };
    reinterpret_cast<uint32_t*>(to)[i] = code(v.x) | code(v.y) << 8 | code(v.z) << 16 | code(v.w) << 24;
  }
  return most * (1.0f / 127);
}

template <Values Kind, int Tokens, Staged As, int Warps, int InFlight, int PerSm>
__global__ void __launch_bounds__(Warps * 32, PerSm)
    row_lanes_kernel(const RowLanes m, const Input x, const Output out, uint32_t warp_shared) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ float all_squares[Warps];
  using Type = typename Chunk<Kind>::Type;
  constexpr uint32_t kColumn = kColumnBytes<Tokens, As>;
  constexpr int kLead = static_cast<int>(lead_chunks(Kind)), kTaken = InFlight < kLead ? InFlight : kLead;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const uint32_t below = lanes_below();
  let_next_start();

  const uint32_t per_group = m.units_per_group();
  const uint32_t my_units = warp < per_group ? (per_group - warp + Warps - 1) / Warps : 0;
  const size_t first_unit = static_cast<size_t>(blockIdx.x) * per_group + warp;
  const Type* const values = reinterpret_cast<const Type*>(m.values);

  // Where loads stand, InFlight chunks ahead of the sums. The lengths of the units that they have entered and the sums have not
  // wait in `lengths`, a byte each.
  uint32_t load_unit = 0, load_chunk = 0, load_count = 0, load_most = 0, base = 0;
  uint32_t lengths = 0, waiting = 0, next_count = 0;
  const auto count_of = [&](uint32_t u) -> uint32_t {
    return u < my_units ? m.counts[(first_unit + static_cast<size_t>(u) * Warps) * kLanes + lane] : 0;
  };
  const auto open_unit = [&] {
    const size_t unit = first_unit + static_cast<size_t>(load_unit) * Warps;
    base = m.stride ? static_cast<uint32_t>(unit * m.stride) : m.offsets[unit];
    load_count = next_count;
    next_count = count_of(load_unit + 1);  // asked for a unit ahead
    load_most = __reduce_max_sync(~0u, load_count);
    load_chunk = 0;
    lengths |= load_most << (8 * waiting++);
  };
  Type v[InFlight];
  uint32_t d[InFlight];
  const auto load = [&](int slot, uint32_t which) {
    const bool mine = which < load_count;
    const uint32_t active = __ballot_sync(~0u, mine);
    const uint32_t at = base + __popc(active & below);
    base += __popc(active);
    v[slot] = load_once_if(values + at, mine, Chunk<Kind>::fill);
    d[slot] = load_once_if(m.distances + at, mine, 0);
  };
  const auto advance = [&] {
    if constexpr (Kind == Values::i4) {  // others have one unit a warp
      if (load_chunk >= load_most && load_unit + 1 < my_units) {
        ++load_unit;
        open_unit();
      }
    }
  };
  if (my_units > 0) {
    const size_t unit = first_unit;
    base = m.stride ? static_cast<uint32_t>(unit * m.stride) : m.offsets[unit];
    // Every lane has its lead chunks: these loads wait for no count.
#pragma unroll
    for (int u = 0; u < kTaken; ++u) {
      v[u] = load_once(values + base + u * kLanes + lane);
      d[u] = load_once(m.distances + base + u * kLanes + lane);
    }
    base += kTaken * kLanes;
    load_chunk = kTaken;
  }
  load_count = count_of(0);
  if constexpr (Kind == Values::i4) next_count = count_of(1);
  const auto scale_of = [&](uint32_t u) {
    if (Kind != Values::i4 || u >= my_units) return 1.0f;
    const size_t at = (first_unit + static_cast<size_t>(u) * Warps) * kLanes + lane;
    return __half2float(reinterpret_cast<const __half*>(m.unit_scales)[at]);
  };
  float scale = scale_of(0), next_scale = scale_of(1);
  // A lane has one row, so its scale can be fetched now and applied before the warps' sums meet.
  const uint32_t my_row = blockIdx.x * kLanes + lane;
  const float row_scale = Kind == Values::i8 && my_row < m.rows ? m.row_scales[my_row] : 1.0f;

  wait_for_inputs();
  uint8_t* const mine = shared + warp * warp_shared;
  if (lane < kPad / 4) reinterpret_cast<uint32_t*>(mine)[lane] = 0;
  float squares = 0;
  float input_scale = 1;
  if constexpr (As == Staged::i8) {
    if (x.scales) {
      stage_columns<Tokens, As, Warps>(x, m.cols, warp, my_units, m.unit_cols, mine + kPad, lane, squares);
      input_scale = x.scales[0];
    } else {
      input_scale =
          quantize_columns<Warps>(x, m.cols, warp, my_units, m.unit_cols, mine + kPad, lane, squares);
    }
  } else {
    stage_columns<Tokens, As, Warps>(x, m.cols, warp, my_units, m.unit_cols, mine + kPad, lane, squares);
  }
  if (Tokens == 1 && x.hidden) {
#pragma unroll
    for (int o = 16; o; o >>= 1) squares += __shfl_xor_sync(~0u, squares, o);
    if (lane == 0) all_squares[warp] = squares;
  }
  __syncwarp();
  load_most = __reduce_max_sync(~0u, load_count);
  const uint32_t first_length = load_most;
  if (my_units > 0) {
#pragma unroll
    for (int u = kTaken; u < InFlight; ++u) {
      advance();
      load(u, load_chunk++);
    }
  }

  Accumulator<Kind, Tokens, As> accumulator;
  float sum[Tokens] = {};
  uint32_t column = shared_address(mine) + kPad - kColumn;
  if constexpr (Kind == Values::i4) {
    uint32_t unit = 0, chunk = 0, most = my_units > 0 ? first_length : ~0u;
    while (unit < my_units) {
#pragma unroll
      for (int u = 0; u < InFlight; ++u) {
        accumulator.add(v[u], d[u], column);
        advance();
        load(u, load_chunk++);
        if (++chunk < most) continue;
        accumulator.take(sum, scale);
        ++unit;
        chunk = 0;
        column = shared_address(mine) + kPad + unit * m.unit_cols * kColumn - kColumn;
        most = unit < my_units ? lengths & 255 : ~0u;  // what is still in flight after the last unit is empty
        lengths >>= 8;
        --waiting;
        scale = next_scale;
        next_scale = scale_of(unit + 1);
      }
    }
  } else {
    for (uint32_t chunk = 0; chunk < load_most; chunk += InFlight) {
#pragma unroll
      for (int u = 0; u < InFlight; ++u) {
        accumulator.add(v[u], d[u], column);
        load(u, chunk + u + InFlight);
      }
    }
    accumulator.take(sum, 1.0f);
  }

  __syncthreads();
  float* const partial = reinterpret_cast<float*>(shared);  // [warps][tokens][32]
#pragma unroll
  for (int t = 0; t < Tokens; ++t)
    partial[(warp * Tokens + t) * 32 + lane] = sum[t] * row_scale * input_scale;
  __syncthreads();
  // A warp a token: its lanes are the rows again.
  if (warp >= Tokens || warp >= static_cast<int>(x.tokens)) return;
  float value = 0;
#pragma unroll
  for (int w = 0; w < Warps; ++w) value += partial[(w * Tokens + warp) * 32 + lane];
  if (Tokens == 1 && x.hidden) {
    float total = 0;
#pragma unroll
    for (int w = 0; w < Warps; ++w) total += all_squares[w];
    value *= rsqrtf(total / static_cast<float>(m.cols) + x.norm_eps);
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
  const uint32_t mine = warp_bytes(m.unit_cols, ceil_div<uint32_t>(m.units_per_group(), Warps), kColumn);
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
