#pragma once

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/function_ref.h"
#include "base/thread_pool.h"
#include "kernels/gemm/gemm.h"

namespace filigree {

class RowSource;

// Packed lines of an operand (kernels/gemm/fixed.h): [block along k][panel of `width` lines].
class FixedPanels {
 public:
  // What was in it is lost; memory is kept from size to size.
  void resize(size_t lines, size_t depth, size_t width);

  size_t panels() const { return panels_; }
  size_t blocks() const { return blocks_; }
  size_t begin(size_t block) const { return block * step_; }  // along k
  size_t depth(size_t block) const { return std::min(step_, depth_ - block * step_); }
  uint32_t* panel(size_t block, size_t index) {
    return words_.as<uint32_t>() + (block * panels_ + index) * (step_ / 2) * width_;
  }
  float* scales(size_t block, size_t index) { return scales_.data() + (block * panels_ + index) * width_; }
  size_t bytes() const { return words_.size() + scales_.size() * sizeof(float); }

 private:
  size_t depth_ = 0, width_ = 0, panels_ = 0, blocks_ = 0, step_ = 0;
  AlignedBuffer words_;
  std::vector<float> scales_;
};

// A matrix [out][in] that multiplies rows of f32 in block floating point: about twice as fast as f32 where the processor adds products
// of 16 bits, off by about 2^-17 of the norms of a row and a column (kernels/gemm/fixed.h). A result's bits depend on its row and its column alone.
class FixedProduct {
 public:
  // Rows of the parts, one below the other.
  FixedProduct(const FixedGemm& gemm, ThreadPool& pool, std::initializer_list<const RowSource*> parts);

  // out[r][o] = x[r] . row o for `rows` rows, `stride` and `out_stride` floats apart; then finish(first column, end column, thread) on
  // the thread that computed them. Columns come in whole runs of 32.
  void run(ThreadPool& pool, const float* x, size_t stride, uint32_t rows, float* out, size_t out_stride,
           FunctionRef<void(uint32_t begin, uint32_t end, int thread)> finish);

  uint32_t in() const { return in_; }
  uint32_t out() const { return out_; }
  size_t bytes() const { return weights_.bytes() + input_.bytes(); }

 private:
  FixedGemm gemm_;
  uint32_t in_, out_ = 0;
  FixedPanels weights_, input_;
};

// c += x^T x, the upper part of [n][n], x [rows][n] with `stride` floats between rows; what lies below the diagonal may be written or
// not. largest[n] is raised to the magnitudes in x. The bits do not depend on the number of threads. panels: memory to work in.
void add_fixed_gram(ThreadPool& pool, const FixedGemm& gemm, size_t rows, size_t n, const float* x,
                    size_t stride, FixedPanels& panels, float* c, float* largest);

}  // namespace filigree
