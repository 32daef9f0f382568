#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>

namespace filigree::cuda {

// Dense bf16 products by cuBLASLt, opened at run time: it is no dependency of the build, and where it is missing the engine goes
// on with its own kernels.
class Blas {
 public:
  // Null if no libcublasLt.so.13 or .so.12 can be opened; *why says so.
  static std::unique_ptr<Blas> open(std::string* why);
  virtual ~Blas() = default;

  // Row-major: c [m][n] = a [m][k] * b [n][k]^T, a with rows lda apart, c bf16 or f32 with rows ldc apart; adds to an f32 c if
  // `add`. b_k_major: b is [k][n] instead. choice: the heuristic's n-th proposal (a benchmark takes the best of several; 0 is what
  // it recommends). False if there is no such proposal or the library fails.
  virtual bool multiply(uint32_t m, uint32_t n, uint32_t k, const void* a, uint32_t lda, const void* b,
                        bool b_k_major, void* c, uint32_t ldc, bool c_is_f32, bool add, int choice,
                        cudaStream_t stream) = 0;
};

}  // namespace filigree::cuda
