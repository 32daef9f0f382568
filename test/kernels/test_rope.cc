// Frequencies of every RoPE kind, against numbers from a transcription of transformers' modeling_rope_utils.py to plain Python.
#include <cmath>
#include <utility>
#include <vector>

#include "base/status.h"
#include "harness.h"
#include "kernels/rope/frequencies.h"

namespace filigree::test {
namespace {

RopeConfig config(RopeKind kind, int head_dim, double theta, double factor, int64_t original) {
  RopeConfig c;
  c.kind = kind;
  c.head_dim = head_dim;
  c.theta = theta;
  c.factor = factor;
  c.original_max_position = original;
  return c;
}

void expect(const RopeConfig& c, int64_t max_positions, std::vector<std::pair<int, double>> expected) {
  const RopeFrequencies f = build_rope_frequencies(c, max_positions);
  check_equal(f.inv_freq.size(), static_cast<size_t>(c.head_dim / 2));
  for (const auto& [i, value] : expected) {
    check_near(f.inv_freq[static_cast<size_t>(i)], value, value * 2e-7,
               "inv_freq[" + std::to_string(i) + "]");
  }
}

}  // namespace

FILIGREE_TEST(rope_frequencies_of_every_kind) {
  expect(config(RopeKind::none, 64, 10000, 1, 0), 100,
         {{0, 1}, {1, 0.749894209}, {15, 0.0133352143}, {31, 0.000133352143}});
  expect(config(RopeKind::linear, 64, 10000, 4, 0), 100, {{0, 0.25}, {15, 0.0133352143 / 4}});
  expect(config(RopeKind::llama3, 128, 500000, 8, 8192), 100,
         {{0, 1},
          {20, 0.0165604401},
          {28, 0.00321144599},
          {30, 0.00137189357},
          {33, 0.00031269375},
          {36, 7.78465527e-05},
          {63, 3.06892599e-07}});
  expect(config(RopeKind::llama3, 64, 500000, 32, 8192), 100,
         {{0, 1},
          {14, 0.00321144599},
          {15, 0.00129054793},
          {16, 0.000429556797},
          {18, 1.94616382e-05},
          {31, 9.41830673e-08}});
  const RopeConfig yarn = config(RopeKind::yarn, 128, 1000000, 4, 32768);
  expect(yarn, 100,
         {{0, 1},
          {20, 0.0133352143},
          {24, 0.00537532149},
          {30, 0.00106436098},
          {40, 4.44569853e-05},
          {63, 3.1023444e-07}});
  check_near(build_rope_frequencies(yarn, 100).attention_scale, 1.138629436, 1e-7);
  const RopeConfig dynamic = config(RopeKind::dynamic, 128, 10000, 2, 4096);
  expect(dynamic, 8192, {{0, 1}, {20, 0.0396764617}, {63, 3.84927328e-05}});
  expect(dynamic, 2048, {{20, 0.0562341325}, {63, 0.000115478198}});
  RopeConfig longrope = config(RopeKind::longrope, 64, 10000, 1, 4096);
  longrope.max_position_embeddings = 131072;
  longrope.short_factor.assign(32, 2.0);
  longrope.long_factor.assign(32, 10.0);
  expect(longrope, 4096, {{0, 0.5}, {15, 0.0133352143 / 2}});
  expect(longrope, 4097, {{0, 0.1}, {15, 0.0133352143 / 10}});
  check_near(build_rope_frequencies(longrope, 1).attention_scale, 1.190238071, 1e-7);
}

FILIGREE_TEST(rope_angles_are_cosines_and_sines) {
  const RopeFrequencies f = build_rope_frequencies(config(RopeKind::yarn, 64, 10000, 4, 4096), 100);
  std::vector<float> c(32), s(32);
  for (int64_t position : {int64_t{0}, int64_t{1}, int64_t{4095}, int64_t{131071}}) {
    rope_angles(f, position, c.data(), s.data());
    for (size_t i = 0; i < 32; ++i) {
      const double angle = static_cast<double>(position) * f.inv_freq[i];
      const double bound = angle * 0x1p-23 + 2e-7;
      check_near(c[i], std::cos(angle) * f.attention_scale, bound);
      check_near(s[i], std::sin(angle) * f.attention_scale, bound);
    }
  }
}

FILIGREE_TEST(rope_rejects_configurations_that_make_no_sense) {
  const auto rejects = [](const RopeConfig& c) {
    check_throws<Error>([&] { build_rope_frequencies(c, 100); });
  };
  rejects(config(RopeKind::none, 63, 10000, 1, 0));
  rejects(config(RopeKind::none, 64, 0, 1, 0));
  rejects(config(RopeKind::none, 64, NAN, 1, 0));
  rejects(config(RopeKind::linear, 64, 10000, 0, 0));
  rejects(config(RopeKind::linear, 64, 10000, NAN, 0));
  rejects(config(RopeKind::llama3, 64, 10000, 8, 0));
  rejects(config(RopeKind::yarn, 64, 1, 8, 4096));
  rejects(config(RopeKind::longrope, 64, 10000, 1, 4096));
  RopeConfig c = config(RopeKind::llama3, 64, 10000, 8, 4096);
  c.low_freq_factor = c.high_freq_factor;
  rejects(c);
}

}  // namespace filigree::test
