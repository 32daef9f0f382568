#pragma once

#include <cstdint>
#include <vector>

namespace filigree {

enum class RopeKind { none, linear, dynamic, llama3, yarn, longrope };

// The fields of a Hugging Face config's rope_scaling (rope_parameters) that the kinds use. 0 stands for "not given" where
// transformers has a default of its own.
struct RopeConfig {
  RopeKind kind = RopeKind::none;
  int head_dim = 0;
  double theta = 10000.0;
  int64_t max_position_embeddings = 0;
  double factor = 1.0;
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  int64_t original_max_position = 0;
  double attention_factor = 0.0;                  // yarn, longrope
  double beta_fast = 0.0;                         // yarn, default 32
  double beta_slow = 0.0;                         // yarn, default 1
  std::vector<double> short_factor, long_factor;  // longrope, head_dim/2 each
};

struct RopeFrequencies {
  std::vector<float> inv_freq;   // [head_dim / 2]
  float attention_scale = 1.0f;  // cos and sin are multiplied by it
};

// Computes the frequencies as transformers' modeling_rope_utils.py does (functions _compute_*_parameters of the same names).
// Where transformers lets them change with the length a sequence happens to have reached (dynamic, longrope), they are fixed
// here by `max_positions`, the longest sequence this server admits, as vLLM does: cached keys stay valid, and a result never
// depends on how far another part of the sequence has come.
// Throws invalid_argument naming the field that is wrong.
RopeFrequencies build_rope_frequencies(const RopeConfig& config, int64_t max_positions);

// cos and sin [head_dim / 2] of one position. The angle is rounded to f32 before its cosine is taken, as in transformers.
void rope_angles(const RopeFrequencies& frequencies, int64_t position, float* cos, float* sin);

}  // namespace filigree
