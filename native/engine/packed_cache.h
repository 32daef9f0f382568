#pragma once

#include <string>
#include <vector>

#include "engine/weight_plan.h"
#include "formats/packed_matrix.h"

namespace filigree {

// Weights as they lie in memory, in the order of a WeightPlan.
struct PackedWeights {
  std::vector<PackedMatrix> matrices;
  std::vector<std::vector<float>> vectors;
};

// A file of packed weights, so that a second start skips packing:
//   magic, version, head length, checksum of the head
//   head: key, vectors, (offset, bytes) of every matrix
//   the matrices' blobs, each on a page boundary
// The key names the source's bytes, every matrix with its format, and the instruction set, and is compared whole. Blobs carry
// their own checksums. Reading copies into anonymous memory, so nothing that happens to the file later can matter.
std::string packed_cache_key(const ModelDescription& model, const WeightOptions& options,
                             const WeightPlan& plan);
std::string packed_cache_path(const std::string& folder, const std::string& key);

// False if there is no such file. Throws Error (corrupt_data, io) if there is one that cannot be used.
bool read_packed_cache(const std::string& path, const std::string& key, const WeightPlan& plan,
                       PackedWeights& weights, ThreadPool& pool, const LoadProgress& progress);

// Writes beside the path, then renames: a reader sees the old file or the new one, never half of one. Throws Error(io).
void write_packed_cache(const std::string& path, const std::string& key, const PackedWeights& weights);

}  // namespace filigree
