#pragma once

#include <cuda_runtime_api.h>

#include "cuda/plan.h"

// Linear layers on the device: out[t][n] = sum over k of weight[n][k] * x[t][k].
//
// x is bf16 [tokens][x_stride], or i8 codes with one scale a token, or one a token and block of tiles (mma_tiles.h): an outlier
// coarsens only the columns beside it. Tiles of i8 round bf16 themselves to the same codes. x_stride is at least cols rounded up to kInputPadding, and
// what lies between is finite (the buffers are zeroed once and never written there). Every kernel sums a token in an order that
// depends on the launch configuration alone, never on the other tokens.

namespace filigree::cuda {

inline constexpr uint32_t kInputPadding = 512;

// What becomes of a row's sum, after scales and bias.
enum class Store : uint32_t {
  bf16,    // out bf16 [token][out_stride]
  f32,     // out f32 [token][out_stride]
  add,     // out f32 += : the residual stream
  swiglu,  // rows alternate in runs of 16, gate then up: out bf16 [token][out_stride] of silu(gate) * up
};

struct Output {
  Store store = Store::bf16;
  void* data = nullptr;
  uint32_t stride = 0;
  const float* bias = nullptr;  // [rows], or null
};

struct Input {
  uint32_t tokens = 0;
  uint32_t stride = 0;            // elements from token to token
  const void* data = nullptr;     // bf16, or i8 where scales are given
  const float* scales = nullptr;  // i8 only: [tokens], or [tokens][stride / scale_columns]
  uint32_t scale_columns = 0;     // the tiles' columns of a block where each has its scale, else 0
  // Row lanes and one token alone. hidden: in place of data, f32 [cols], which the product itself normalizes (RMSNorm with weights
  // `norm`): every block reads the whole row anyway. quantize: with i8 or i4 weights, rounded to i8 on its way into shared memory,
  // with a scale for each warp's part of K.
  const float* hidden = nullptr;
  const float* norm = nullptr;
  float norm_eps = 0;
  bool quantize = false;
};

// dependent: launched so that it may start while the kernel before it in the stream still runs.
cudaError_t run_row_lanes(const RowLanes& m, const Input& x, const Output& out, const RowLanesPlan& plan,
                          bool dependent, cudaStream_t stream);
// partials: partial_floats(). A second launch adds them and stores.
cudaError_t run_tiles(const TileMatrix& m, const Input& x, const Output& out, const TilePlan& plan,
                      float* partials, bool dependent, cudaStream_t stream);
// The weights as bf16 [rows][cols], scales applied: prefill multiplies them densely. Columns in multiples of 8.
cudaError_t expand_row_lanes(const RowLanes& m, void* dense, cudaStream_t stream);

}  // namespace filigree::cuda
