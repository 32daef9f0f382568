#pragma once

#include <cstddef>

#include "base/thread_pool.h"
#include "kernels/gemm/gemm.h"

namespace filigree {

// Element (i, j) of a matrix operand lies at data[i * row + j * col]: a transpose is a swap of the two strides.
template <class T>
struct Operand {
  const T* data;
  size_t row, col;
};

enum class Part {
  all,
  lower,
  upper
};  // lower, upper: of the result, with its diagonal; what lies beyond may be written or not

// c = alpha * a b + beta * c, [m][n] with ldc elements between rows; a [m][k], b [k][n]. beta 0 overwrites whatever c held. Blocked
// for the caches, on all threads; the bits do not depend on how many there are. c overlaps neither operand.
template <class T>
void multiply(ThreadPool& pool, const GemmOps& ops, size_t m, size_t n, size_t k, T alpha, Operand<T> a,
              Operand<T> b, T beta, T* c, size_t ldc, Part part = Part::all);

// c += x^T x, the upper part of [n][n], x [rows][n] with `stride` floats between rows. With `bf16`, where the processor has it, x is
// rounded to bf16 first: twice as fast, and a relative error of 2^-9 an input, independent of each other, far below what the dampening
// of a Hessian forgives.
void add_gram(ThreadPool& pool, const GemmOps& ops, size_t rows, size_t n, const float* x, size_t stride,
              bool bf16, float* c);

}  // namespace filigree
