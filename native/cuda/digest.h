#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

// What the samplers need of a row of logits, found on the device: the numbers they would find themselves, bit for bit.

namespace filigree::cuda {

inline constexpr uint32_t kMostLargest = 128, kDigestBlock = 512, kMostDigestBlocks = 1024;

struct DigestWanted {
  uint32_t largest;  // so many of the largest logits, at most kMostLargest; 0: no digest
  float scale;       // not 0: of the weights exp((logit - largest) * scale), too
  double uniform;    // not below 0: of the block, too, in which that part of all weights lies
};

struct LogitDigest {
  struct Logit {
    float logit;
    int32_t id;
  };
  // Of `largest`; 0: the row must be looked at as a whole (not finite, or too much stands out to be ranked here).
  uint32_t count;
  uint32_t block;               // first id of the block of the uniform
  double total;                 // of all weights, summed as kernels/sample/vocabulary.h has it
  double rest;                  // of uniform * total, behind all blocks before
  Logit largest[kMostLargest];  // likeliest first, of equal ones the lowest id first
  float logits[kDigestBlock];   // of the block
};

// out[row] of logits f32 [rows][columns], columns at most kDigestBlock * kMostDigestBlocks where there is a scale. wanted and out are
// pinned memory of the host: the device reads the one before it waits for the logits, and what few bytes it writes to the other need
// no copy.
cudaError_t digest_logits(const float* logits, uint32_t rows, uint32_t columns, const DigestWanted* wanted,
                          LogitDigest* out, bool dependent, cudaStream_t stream);

}  // namespace filigree::cuda
