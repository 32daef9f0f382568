#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/sample/vocabulary.h"

namespace filigree {

// A row of logits in short: what most samplers look at, found where the logits are (on a GPU), so that the row need not travel.
// It must be what the passes of vocabulary.h find in the row, bit for bit.
constexpr uint32_t kMostDigested = 128;  // of the largest logits

struct DigestNeeded {
  uint32_t largest = 0;  // so many of the largest logits; 0: no digest will do
  float scale = 0;       // not 0: sum_exp of this scale, too, its shift being the largest logit
  double uniform = -1;   // not below 0: the block of sum_exp, too, in which this part of its sum lies
};

struct LogitDigest {
  std::span<const Candidate> largest;  // as needed, or all there are; likeliest first
  double total = 0;                    // of sum_exp
  size_t block = 0;                    // first id of the block
  std::span<const float> logits;       // of the block
  double rest = 0;                     // of uniform * total, behind all blocks before
};

}  // namespace filigree
