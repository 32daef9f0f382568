#pragma once

#include <memory>
#include <optional>

#include "cuda/blas.h"
#include "cuda/linear.h"
#include "cuda/pack.h"
#include "kernels/linear/linear.h"

namespace filigree::cuda {

// A weight matrix on the device, in every layout that its numbers of tokens want, and the choice among them:
//   sparse         1 to 4 tokens: row lanes; up to tile_tokens: tiles; more: expanded into a workspace, then cuBLASLt
//   dense          bf16, cuBLASLt; without it dense tiles, 32 tokens at a time
//   deterministic  tiles, whatever the number of tokens, K always cut alike: a token's sum does not know its neighbours
// Row lanes keep the format (bf16, i8, i4); one token is rounded to i8 for i8 and i4 weights, others are bf16. Tiles are bitmask, or
// 2:4 where the matrix is: bf16 weights, or i8 codes, which meet activations rounded to i8. Of i4 weights the tiles hold i8 codes, too,
// with a scale a row: 18 steps to one of a group as large as its row. In narrow matrices tiles hold bf16.
struct MatrixOptions {
  DeviceLimits device;
  bool have_blas = false;
  double min_zeros = 0.35;  // fewer: dense
  bool deterministic = false;
};

class DeviceMatrix {
 public:
  // From a matrix that the CPU packed in a dense layout.
  DeviceMatrix(const linear::Matrix& matrix, const MatrixOptions& options);

  uint32_t rows() const { return rows_; }
  uint32_t cols() const { return cols_; }
  bool sparse() const { return sparse_; }
  // Whether run() takes Input::hidden for so many tokens.
  bool normalizes(uint32_t tokens) const { return tokens == 1 && tokens <= lane_tokens_; }
  // Columns of a block whose activations run() takes as i8 codes with a scale each, for so many tokens; 0: it takes bf16.
  uint32_t rounded_columns(uint32_t tokens) const;
  double density() const { return density_; }
  uint64_t bytes() const { return bytes_; }                // on the device
  uint64_t decode_bytes() const { return decode_bytes_; }  // that one token reads
  size_t partial_bytes(uint32_t tokens) const;  // the most that any step of 1 to `tokens` tokens writes
  size_t expanded_bytes() const { return lanes_.values.size() ? size_t{rows_} * cols_ * 2 : 0; }
  const PackedTiles& tiles() const { return tiles_; }
  const void* dense() const { return dense_.data(); }  // bf16 [rows][cols], null where sparse

  // What run() needs beside the matrix, shared by all.
  struct Workspace {
    Blas* blas = nullptr;
    float* partials = nullptr;
    void* expanded = nullptr;
    void* wide = nullptr;  // bf16 [tokens][rows], between a dense product and SwiGLU
    bool dependent = true;
  };
  // Throws Error(internal) when a launch fails.
  void run(const Input& x, const Output& out, const Workspace& w, cudaStream_t stream) const;

 private:
  void run_dense(const void* weights, const Input& x, const Output& out, const Workspace& w,
                 cudaStream_t stream) const;
  void run_tiled(const Input& x, const Output& out, const Workspace& w, cudaStream_t stream) const;
  void pack_sparse(const PanelCodes* panels, const RowCodes& flat, Values kind, uint32_t group);
  void plan_tiles();

  MatrixOptions options_;
  uint32_t rows_, cols_;
  bool sparse_ = false;
  double density_ = 1;
  uint64_t bytes_ = 0, decode_bytes_ = 0;
  uint32_t lane_tokens_ = 0, tile_tokens_ = 0;  // most for each
  DeviceBuffer row_scales_, unit_scales_, tile_scales_, dense_;
  PackedRowLanes lanes_;
  PackedTiles tiles_;
  std::vector<std::optional<TilePlan>>
      plans_;  // of the tiles, for 1, 2, ... tokens; none: too little shared memory
};

}  // namespace filigree::cuda
