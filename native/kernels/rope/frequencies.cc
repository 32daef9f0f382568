#include "kernels/rope/frequencies.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/status.h"

namespace filigree {
namespace {

constexpr double kPi = 3.14159265358979323846;

void require(bool ok, const std::string& what) {
  if (!ok)
    throw Error(ErrorCode::invalid_argument,
                "rope: " + what + "; correct rope_scaling in the model's config.json");
}

std::vector<double> plain(double theta, int head_dim) {
  std::vector<double> inv_freq(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    inv_freq[i] = 1.0 / std::pow(theta, 2.0 * static_cast<double>(i) / head_dim);
  }
  return inv_freq;
}

int64_t original_length(const RopeConfig& c) {
  const int64_t length = c.original_max_position > 0 ? c.original_max_position : c.max_position_embeddings;
  require(length > 0, "original_max_position_embeddings must be positive");
  return length;
}

// transformers, _compute_dynamic_ntk_parameters.
std::vector<double> dynamic_ntk(const RopeConfig& c, int64_t max_positions) {
  require(c.head_dim > 2, "dynamic scaling needs a head_dim above 2");
  const double length = static_cast<double>(original_length(c));
  const double reached = std::max(static_cast<double>(max_positions), length);
  const double grown = c.factor * reached / length - (c.factor - 1.0);
  return plain(c.theta * std::pow(grown, c.head_dim / (c.head_dim - 2.0)), c.head_dim);
}

// transformers, _compute_llama3_parameters.
std::vector<double> llama3(const RopeConfig& c) {
  require(c.low_freq_factor > 0 && c.high_freq_factor > c.low_freq_factor,
          "llama3 scaling needs 0 < low_freq_factor < high_freq_factor");
  const double length = static_cast<double>(original_length(c));
  const double low_wavelength = length / c.low_freq_factor, high_wavelength = length / c.high_freq_factor;
  std::vector<double> inv_freq = plain(c.theta, c.head_dim);
  for (double& f : inv_freq) {
    const double wavelength = 2.0 * kPi / f;
    if (wavelength > low_wavelength) {
      f /= c.factor;
    } else if (wavelength >= high_wavelength) {
      const double smooth =
          (length / wavelength - c.low_freq_factor) / (c.high_freq_factor - c.low_freq_factor);
      f = (1.0 - smooth) * f / c.factor + smooth * f;
    }
  }
  return inv_freq;
}

// transformers, _compute_yarn_parameters (Peng et al., arXiv 2309.00071).
std::vector<double> yarn(const RopeConfig& c) {
  const double length = static_cast<double>(original_length(c));
  const double beta_fast = c.beta_fast > 0 ? c.beta_fast : 32.0,
               beta_slow = c.beta_slow > 0 ? c.beta_slow : 1.0;
  require(c.theta > 1, "yarn scaling needs a rope_theta above 1");
  const auto dimension_of = [&](double rotations) {
    return c.head_dim * std::log(length / (rotations * 2.0 * kPi)) / (2.0 * std::log(c.theta));
  };
  const double low = std::max(std::floor(dimension_of(beta_fast)), 0.0);
  double high = std::min(std::ceil(dimension_of(beta_slow)), c.head_dim - 1.0);
  if (low == high) high += 0.001;
  std::vector<double> inv_freq = plain(c.theta, c.head_dim);
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv_freq[i] = inv_freq[i] / c.factor * ramp + inv_freq[i] * (1.0 - ramp);
  }
  return inv_freq;
}

// transformers, _compute_longrope_parameters (Ding et al., arXiv 2402.13753).
std::vector<double> longrope(const RopeConfig& c, int64_t max_positions) {
  const std::vector<double>& factors = max_positions > original_length(c) ? c.long_factor : c.short_factor;
  require(factors.size() == static_cast<size_t>(c.head_dim / 2),
          "longrope needs short_factor and long_factor of head_dim / 2 = " + std::to_string(c.head_dim / 2) +
              " numbers each, not " + std::to_string(factors.size()));
  std::vector<double> inv_freq = plain(c.theta, c.head_dim);
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    require(factors[i] > 0, "longrope factors must be positive");
    inv_freq[i] /= factors[i];
  }
  return inv_freq;
}

double attention_scale(const RopeConfig& c) {
  if (c.kind != RopeKind::yarn && c.kind != RopeKind::longrope) return 1.0;
  if (c.attention_factor > 0) return c.attention_factor;
  if (c.kind == RopeKind::yarn) return c.factor <= 1.0 ? 1.0 : 0.1 * std::log(c.factor) + 1.0;
  const double length = static_cast<double>(original_length(c));
  const double factor = c.original_max_position > 0 && c.max_position_embeddings > 0
                            ? c.max_position_embeddings / length
                            : c.factor;
  return factor <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(factor) / std::log(length));
}

}  // namespace

RopeFrequencies build_rope_frequencies(const RopeConfig& c, int64_t max_positions) {
  require(c.head_dim >= 2 && c.head_dim % 2 == 0, "head_dim must be even, not " + std::to_string(c.head_dim));
  require(std::isfinite(c.theta) && c.theta > 0, "rope_theta must be positive");
  require(
      c.kind == RopeKind::none || c.kind == RopeKind::longrope || (std::isfinite(c.factor) && c.factor >= 1),
      "factor must be at least 1");
  std::vector<double> inv_freq;
  switch (c.kind) {
    case RopeKind::none:
      inv_freq = plain(c.theta, c.head_dim);
      break;
    case RopeKind::linear:
      inv_freq = plain(c.theta, c.head_dim);
      for (double& f : inv_freq) f /= c.factor;
      break;
    case RopeKind::dynamic:
      inv_freq = dynamic_ntk(c, max_positions);
      break;
    case RopeKind::llama3:
      inv_freq = llama3(c);
      break;
    case RopeKind::yarn:
      inv_freq = yarn(c);
      break;
    case RopeKind::longrope:
      inv_freq = longrope(c, max_positions);
      break;
  }
  RopeFrequencies result;
  result.attention_scale = static_cast<float>(attention_scale(c));
  result.inv_freq.assign(inv_freq.begin(), inv_freq.end());
  return result;
}

void rope_angles(const RopeFrequencies& frequencies, int64_t position, float* cos, float* sin) {
  for (size_t i = 0; i < frequencies.inv_freq.size(); ++i) {
    const float angle = static_cast<float>(position) * frequencies.inv_freq[i];
    cos[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * frequencies.attention_scale;
    sin[i] = static_cast<float>(std::sin(static_cast<double>(angle))) * frequencies.attention_scale;
  }
}

}  // namespace filigree
