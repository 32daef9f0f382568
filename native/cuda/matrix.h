#pragma once

#include <memory>

#include "cuda/blas.h"
#include "cuda/linear.h"
#include "cuda/pack.h"
#include "kernels/linear/linear.h"

namespace filigree::cuda {

// A weight matrix on the device, in every layout that its numbers of tokens want, and the choice among them:
//   sparse  1 to 4 tokens: row lanes; up to tile_tokens: bitmask tiles; more: expanded into a workspace, then cuBLASLt
//   dense   bf16, cuBLASLt; without it dense tiles, 32 tokens at a time
// Row lanes keep the format (bf16, i8, i4) and take bf16 activations. Tiles hold bf16: the weights themselves, or i8 codes, which
// are exact in bf16, with a scale a row; i4 weights rounded to bf16.
class DeviceMatrix {
 public:
  // From a matrix that the CPU packed in a dense layout. Fewer than min_zeros (a fraction) zeros: dense.
  DeviceMatrix(const linear::Matrix& matrix, const DeviceLimits& device, bool have_blas, double min_zeros);

  uint32_t rows() const { return rows_; }
  uint32_t cols() const { return cols_; }
  bool sparse() const { return sparse_; }
  double density() const { return density_; }
  uint64_t bytes() const { return bytes_; }                // on the device
  uint64_t decode_bytes() const { return decode_bytes_; }  // that one token reads
  size_t partial_bytes(uint32_t tokens) const;
  size_t expanded_bytes() const { return sparse_ ? size_t{rows_} * cols_ * 2 : 0; }
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
  void run_tiled(const TileMatrix& m, const Input& x, const Output& out, const Workspace& w,
                 cudaStream_t stream) const;

  DeviceLimits device_;
  uint32_t rows_, cols_;
  bool sparse_ = false;
  double density_ = 1;
  uint64_t bytes_ = 0, decode_bytes_ = 0;
  uint32_t tile_tokens_ = 0;
  DeviceBuffer row_scales_, unit_scales_, dense_;
  PackedRowLanes lanes_;
  PackedTiles tiles_;
};

}  // namespace filigree::cuda
