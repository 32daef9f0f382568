#pragma once

#include <cstddef>
#include <cstdint>

namespace filigree {

struct CpuFeatures;

struct Candidate {
  float logit;
  int32_t id;
};

struct LogitScan {
  float max;       // over the finite logits and -inf
  int32_t argmax;  // lowest id on ties
  bool finite;     // no NaN, no infinity
};

// Passes over one row of logits [n], n >= 1. All variants agree bit for bit.
using ScanLogitsFn = LogitScan (*)(const float* logits, size_t n);

// sum over i of exp((logits[i] - shift) * scale), and the same per block of kVocabularyBlock ids if block_sums is not null.
// Every block is summed in 16 lanes in f32, blocks in order in f64. -inf adds nothing.
constexpr size_t kVocabularyBlock = 512;
using SumExpFn = double (*)(const float* logits, size_t n, float shift, float scale, double* block_sums);

// Writes exp((logits[i] - shift) * scale), the summands of the above.
using ExpRowFn = void (*)(const float* logits, size_t n, float shift, float scale, float* out);

// All i with logits[i] >= threshold, ascending i. Room for n in out. Returns their number.
using CollectFn = size_t (*)(const float* logits, size_t n, float threshold, Candidate* out);

struct VocabularyOps {
  const char* variant;
  ScanLogitsFn scan;
  SumExpFn sum_exp;
  ExpRowFn exp_row;
  CollectFn collect;
};

VocabularyOps select_vocabulary(const CpuFeatures& cpu);

}  // namespace filigree
