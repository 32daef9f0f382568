// filigree_cuda_kernels_test: every linear kernel in every shape of launch against float64, over tails, empty and full rows, 1 to 32
// tokens, all stores; and that the device packs the bytes that the host packs. Needs a GPU. --quick: a small part, for
// compute-sanitizer.
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "cuda/host_pack.h"
#include "cuda/linear.h"
#include "cuda/pack.h"
#include "problem.h"

namespace filigree::cuda::test {
namespace {

int failures = 0, checks = 0;

void expect(bool ok, const char* what, const char* where) {
  ++checks;
  if (!ok && ++failures <= 40) std::printf("FAIL %s: %s\n", where, what);
}

template <class T>
DeviceBuffer to_device(const std::vector<T>& values) {
  DeviceBuffer out(values.size() * sizeof(T) + 256);
  out.upload(values.data(), values.size() * sizeof(T));
  return out;
}

// Rows on the device as the kernels want them: padded to kInputPadding.
template <class T>
DeviceBuffer padded_rows(const std::vector<T>& values, uint32_t rows, uint32_t cols, uint32_t* stride) {
  *stride = round_up(cols, kInputPadding);
  std::vector<T> wide(size_t{rows} * *stride, T{});
  for (uint32_t r = 0; r < rows; ++r)
    std::memcpy(&wide[size_t{r} * *stride], &values[size_t{r} * cols], cols * sizeof(T));
  return to_device(wide);
}

double relative(const std::vector<float>& got, const double* want, size_t n) {
  double error = 0, norm = 1e-30;
  for (size_t i = 0; i < n; ++i) {
    if (!std::isfinite(got[i])) return 1e9;
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(error / norm);
}

struct OnDevice {
  DeviceBuffer codes, row_scales, unit_scales, x, x8, x_scales;
  uint32_t stride = 0;
  explicit OnDevice(const Problem& p) {
    codes = p.kind == Values::bf16 ? to_device(p.bf16) : to_device(p.codes);
    row_scales = to_device(p.row_scales);
    std::vector<uint16_t> units(size_t{round_up(p.rows, kLanes)} * p.groups(), 0);
    for (uint32_t r = 0; r < p.rows; ++r) {
      for (uint32_t g = 0; g < p.groups(); ++g)
        units[(size_t{r / kLanes} * p.groups() + g) * kLanes + r % kLanes] =
            __half_as_ushort(__float2half(p.group_scales[size_t{r} * p.groups() + g]));
    }
    unit_scales = to_device(units);
    x = padded_rows(p.x, p.tokens, p.cols, &stride);
    x8 = padded_rows(p.x8, p.tokens, p.cols, &stride);
    x_scales = to_device(p.x_scales);
  }
  RowCodes source(const Problem& p) const { return {p.kind, p.rows, p.cols, codes.data()}; }
  Input input(bool i8, uint32_t tokens) const {
    return {tokens, stride, i8 ? x8.data() : x.data(), i8 ? x_scales.as<float>() : nullptr};
  }
};

// Runs `product` into poisoned f32 and compares.
template <class Product>
void compare(const Problem& p, const std::vector<double>& want, uint32_t tokens, double allowed,
             const char* what, Product product) {
  const size_t n = size_t{tokens} * p.rows;
  std::vector<float> got(n, NAN);
  DeviceBuffer out = to_device(got);
  const cudaError_t error = product(Output{Store::f32, out.data(), p.rows, nullptr});
  const cudaError_t ran = error == cudaSuccess ? cudaDeviceSynchronize() : error;
  if (ran != cudaSuccess) {
    expect(false, cudaGetErrorString(ran), what);
    return;
  }
  out.download(got.data(), n * sizeof(float));
  const double error_norm = relative(got, want.data(), n);
  char text[80];
  std::snprintf(text, sizeof text, "relative error %.2e, allowed %.1e", error_norm, allowed);
  expect(error_norm <= allowed, text, what);
}

// The weights as a dense bf16 matrix.
void test_expansion(const Problem& p, const RowLanes& m, const char* name) {
  const size_t n = size_t{p.rows} * p.cols;
  DeviceBuffer dense = to_device(std::vector<uint16_t>(n, 0x7fff));
  expect(expand_row_lanes(m, dense.data(), 0) == cudaSuccess, "expanding", name);
  std::vector<uint16_t> got(n);
  dense.download(got.data(), n * 2);
  bool same = true;
  for (size_t at = 0; at < n; ++at) {
    const uint32_t row = static_cast<uint32_t>(at / p.cols), col = static_cast<uint32_t>(at % p.cols);
    const float scale = p.kind == Values::i8   ? p.row_scales[row]
                        : p.kind == Values::i4 ? p.group_scales[size_t{row} * p.groups() + col / p.group]
                                               : 1.0f;
    const uint16_t want =
        p.kind == Values::bf16 ? p.bf16[at] : to_bf16(static_cast<float>(p.codes[at]) * scale);
    same = same && (got[at] & 0x7fff ? got[at] : 0) == (want & 0x7fff ? want : 0);
  }
  expect(same, "expanded weights differ", name);
}

// One token of the residual stream, normalized (and rounded to i8) by the product itself.
void test_normed(const Problem& p, const OnDevice& d, const RowLanes& m, const char* name) {
  Random random{p.cols + 17u};
  std::vector<float> hidden(p.cols), norm(p.cols);
  double squares = 0;
  for (uint32_t c = 0; c < p.cols; ++c) {
    hidden[c] = random.normal() * (c % 97 == 3 ? 20.0f : 1.5f);
    norm[c] = 0.5f + random.uniform();
    squares += double{hidden[c]} * hidden[c];
  }
  const float eps = 1e-5f;
  const double scale = 1 / std::sqrt(squares / p.cols + eps);
  std::vector<double> want(p.rows), plain(p.rows);
  for (uint32_t r = 0; r < p.rows; ++r) {
    for (uint32_t c = 0; c < p.cols; ++c) {
      want[r] += p.weight(r, c) * hidden[c] * norm[c] * scale;
      plain[r] += p.weight(r, c) * from_bf16(p.x[c]);
    }
  }
  const DeviceBuffer hidden_device = to_device(hidden), norm_device = to_device(norm);
  for (const bool quantize : {false, true}) {
    if (quantize && p.kind == Values::bf16) continue;
    const RowLanesPlan plan = plan_row_lanes(m, 1, quantize, DeviceLimits{});
    Input x = d.input(false, 1);
    x.quantize = quantize;
    char what[160];
    if (quantize) {
      std::snprintf(what, sizeof what, "%s row lanes, rounded to i8 inside", name);
      compare(p, plain, 1, 2e-2, what,
              [&](const Output& out) { return run_row_lanes(m, x, out, plan, true, 0); });
    }
    x.hidden = hidden_device.as<float>(), x.norm = norm_device.as<float>(), x.norm_eps = eps;
    std::snprintf(what, sizeof what, "%s row lanes, normalized inside%s", name, quantize ? ", i8" : "");
    compare(p, want, 1,
            quantize    ? 5e-2
            : plan.wide ? 2e-5
                        : 5e-3,
            what, [&](const Output& out) { return run_row_lanes(m, x, out, plan, true, 0); });
  }
}

void test_row_lanes(const Problem& p, const char* name, bool every_plan) {
  const OnDevice d(p);
  const std::vector<double> want = p.product(false), want8 = p.product(true);
  for (const uint32_t warps : {16u, 32u}) {
    const uint32_t unit_cols = unit_cols_for(p.cols, warps);
    PackedRowLanes packed = pack_row_lanes(d.source(p), unit_cols, p.group);
    RowLanes m = packed.view;
    if (p.kind == Values::i8) m.row_scales = d.row_scales.as<float>();
    if (p.kind == Values::i4) m.unit_scales = d.unit_scales.as<uint16_t>();
    if (p.cols % 8 == 0) test_expansion(p, m, name);
    if (p.cols % 8 == 0 && row_lanes_warps(p.rows, p.cols, DeviceLimits{}) == warps)
      test_normed(p, d, m, name);
    if (warps == 16) {  // the same bytes as on the host
      const HostRowLanes host = host_pack_row_lanes(p.source(), unit_cols, p.group);
      std::vector<uint8_t> counts(host.counts.size());
      packed.counts.download(counts.data(), counts.size());
      expect(counts == host.counts, "counts differ from the host's", name);
      bool same = true;
      std::vector<uint8_t> values(packed.values.size());
      packed.values.download(values.data(), values.size());
      std::vector<uint32_t> offsets(m.units());
      if (!m.stride) packed.offsets.download(offsets.data(), offsets.size() * 4);
      for (size_t unit = 0; unit < m.units() && counts == host.counts; ++unit) {
        const size_t first = m.stride ? unit * m.stride : offsets[unit];
        const size_t end =
            unit + 1 < m.units() ? host.offsets[unit + 1] : host.values.size() / m.chunk_bytes();
        const size_t bytes = (end - host.offsets[unit]) * m.chunk_bytes();
        same = same && std::memcmp(&values[first * m.chunk_bytes()],
                                   &host.values[size_t{host.offsets[unit]} * m.chunk_bytes()], bytes) == 0;
      }
      expect(same, "values differ from the host's", name);
    }
    for (uint32_t tokens = 1; tokens <= 4; ++tokens) {
      for (const bool i8 : {false, true}) {
        if (i8 && (tokens > 1 || p.kind == Values::bf16)) continue;
        std::vector<RowLanesPlan> plans;
        for (const uint32_t in_flight : {2u, 3u, 4u}) {
          for (uint32_t per_sm = 1; per_sm <= 4; ++per_sm)
            for (const bool wide : {false, true})
              plans.push_back({tokens == 3 ? 4 : tokens, warps, in_flight, per_sm, wide});
        }
        for (const RowLanesPlan& plan : plans) {
          if (!every_plan && plan.in_flight == 2) continue;
          char what[160];
          std::snprintf(what, sizeof what,
                        "%s row lanes, %u tokens, %s, %u warps, %u in flight, %u a multiprocessor", name,
                        tokens, i8 ? "i8 input" : "bf16 input", warps, plan.in_flight, plan.per_sm);
          bool exists = true;
          const auto product = [&](const Output& out) {
            const cudaError_t e = run_row_lanes(m, d.input(i8, tokens), out, plan, plan.in_flight == 4, 0);
            exists = e != cudaErrorInvalidConfiguration;
            return e;
          };
          DeviceBuffer probe(size_t{tokens} * p.rows * 4 + 256);
          product(Output{Store::f32, probe.data(), p.rows, nullptr});
          cudaDeviceSynchronize();
          if (exists) compare(p, i8 ? want8 : want, tokens, 2e-5, what, product);
        }
      }
    }
  }
}

// Gives blocks of columns different amplitudes, and the product with each rounded to i8 by a scale of its own.
std::vector<double> rounded_product(Problem& p, uint32_t block) {
  std::vector<double> out(size_t{p.tokens} * p.rows), x(p.cols);
  for (uint32_t t = 0; t < p.tokens; ++t) {
    uint16_t* const row = &p.x[size_t{t} * p.cols];
    for (uint32_t first = 0; first < p.cols; first += block) {
      const uint32_t end = std::min(first + block, p.cols);
      const float amplitude = static_cast<float>(1 + (t * 5 + first / block * 7) % 11);
      float most = 0;
      for (uint32_t c = first; c < end; ++c) {
        row[c] = to_bf16(from_bf16(row[c]) * amplitude);
        most = std::max(most, std::abs(from_bf16(row[c])));
      }
      for (uint32_t c = first; c < end; ++c)
        x[c] = std::nearbyint(from_bf16(row[c]) * (127.0f / most)) * double{most / 127.0f};
    }
    for (uint32_t r = 0; r < p.rows; ++r) {
      double sum = 0;
      for (uint32_t c = 0; c < p.cols; ++c) sum += p.weight(r, c) * x[c];
      out[size_t{t} * p.rows + r] = sum;
    }
  }
  return out;
}

void test_tiles(const Problem& p, Tiles tiles, const char* name, bool every_plan) {
  const OnDevice d(p);
  const bool i8 = p.kind == Values::i8;
  const std::vector<double> want = p.product(i8);
  Problem q = p;
  const std::vector<double> rounded =
      i8 ? rounded_product(q, tile_cols(p.kind, tiles)) : std::vector<double>();
  uint32_t stride = 0;
  const DeviceBuffer wide_x = padded_rows(q.x, q.tokens, q.cols, &stride);
  PackedTiles packed = pack_tiles(d.source(p), tiles);
  TileMatrix m = packed.view;
  if (i8) m.row_scales = d.row_scales.as<float>();
  const HostTiles host = host_pack_tiles(p.source(), tiles);
  std::vector<uint8_t> data(host.data.size());
  packed.data.download(data.data(), data.size());
  expect(data == host.data, "bytes differ from the host's", name);
  for (const uint32_t tokens : {1u, 5u, 8u, 11u, 16u, 17u, 32u}) {
    if (tokens > p.tokens) continue;
    const std::vector<TilePlan> plans = tile_plans(m, tokens, DeviceLimits{});
    expect(!plans.empty(), "no plan", name);
    for (size_t i = 0; i < plans.size(); ++i) {
      if (i > 2 && (!every_plan || i % 11 != 0)) continue;
      const TilePlan& plan = plans[i];
      DeviceBuffer partials(partial_floats(m, tokens, plan) * 4);
      char what[160];
      std::snprintf(what, sizeof what, "%s tiles, %u tokens, %u warps, %u stages, %u slices, %u parts", name,
                    tokens, plan.warps, plan.stages, plan.slices, plan.parts);
      compare(p, want, tokens, i8 ? 2e-6 : 2e-5, what, [&](const Output& out) {
        return run_tiles(m, d.input(i8, tokens), out, plan, partials.as<float>(), i % 2 == 0, 0);
      });
      if (!i8) continue;
      std::snprintf(what, sizeof what,
                    "%s tiles, %u tokens rounded inside, %u warps, %u stages, %u slices, %u parts", name,
                    tokens, plan.warps, plan.stages, plan.slices, plan.parts);
      compare(p, rounded, tokens, 2e-5, what, [&](const Output& out) {
        return run_tiles(m, {tokens, d.stride, wide_x.data()}, out, plan, partials.as<float>(), i % 2 == 0,
                         0);
      });
    }
  }
}

// The other stores against Store::f32 of the same kernel.
void test_stores() {
  const Problem p = make_problem(Values::bf16, 128, 512, 128, 0.7, Zeros::random, 8, 99);
  const OnDevice d(p);
  const std::vector<double> want = p.product(false);
  std::vector<float> bias(p.rows);
  for (uint32_t r = 0; r < p.rows; ++r) bias[r] = 0.01f * static_cast<float>(r);
  const DeviceBuffer bias_device = to_device(bias);
  PackedRowLanes lanes = pack_row_lanes(d.source(p), unit_cols_for(p.cols, 16), 0);
  PackedTiles tiles = pack_tiles(d.source(p), Tiles::bitmask);
  const std::vector<TilePlan> plans = tile_plans(tiles.view, 8, DeviceLimits{});
  DeviceBuffer partials(partial_floats(tiles.view, 8, plans.back()) * 64);
  for (int kernel = 0; kernel < 3; ++kernel) {
    const uint32_t tokens = kernel == 0 ? 4 : 8;
    TilePlan plan = plans.front();
    for (const TilePlan& other : plans) {
      if (kernel == 2 ? other.slices == 1 : other.slices > 1) plan = other;
    }
    const auto run = [&](const Output& out) {
      return kernel == 0
                 ? run_row_lanes(lanes.view, d.input(false, tokens), out, {4, 16, 3, 2}, false, 0)
                 : run_tiles(tiles.view, d.input(false, tokens), out, plan, partials.as<float>(), false, 0);
    };
    const char* name = kernel == 0   ? "stores of row lanes"
                       : kernel == 1 ? "stores of tiles, joined"
                                     : "stores of tiles";
    const size_t n = size_t{tokens} * p.rows;
    std::vector<uint16_t> half(n);
    DeviceBuffer out(n * 4);
    expect(run({Store::bf16, out.data(), p.rows, bias_device.as<float>()}) == cudaSuccess, "bf16", name);
    out.download(half.data(), n * 2);
    bool ok = true;
    for (size_t i = 0; i < n; ++i)
      ok = ok && std::abs(from_bf16(half[i]) - (want[i] + bias[i % p.rows])) <=
                     0.005 * (std::abs(want[i]) + bias[i % p.rows]) + 1e-4;
    expect(ok, "bf16 with bias", name);
    std::vector<float> sums(n, 3.0f);
    out.upload(sums.data(), n * 4);
    expect(run({Store::add, out.data(), p.rows, nullptr}) == cudaSuccess, "add", name);
    out.download(sums.data(), n * 4);
    ok = true;
    for (size_t i = 0; i < n; ++i) ok = ok && std::abs(sums[i] - 3.0 - want[i]) <= 1e-4;
    expect(ok, "add", name);
    expect(run({Store::swiglu, out.data(), p.rows / 2, nullptr}) == cudaSuccess, "swiglu", name);
    out.download(half.data(), n);
    ok = true;
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t c = 0; c < p.rows / 2; ++c) {
        const double gate = want[size_t{t} * p.rows + c / 16 * 32 + c % 16],
                     up = want[size_t{t} * p.rows + c / 16 * 32 + 16 + c % 16];
        const double expected = gate / (1 + std::exp(-gate)) * up;
        ok = ok && std::abs(from_bf16(half[size_t{t} * p.rows / 2 + c]) - expected) <=
                       0.006 * std::abs(expected) + 1e-5;
      }
    }
    expect(ok, "swiglu", name);
  }
}

// quick: few shapes and launches, for tools that slow every access down.
int run(bool quick) {
  struct Shape {
    uint32_t rows, cols;
  };
  // Tails of every kind: rows off 16 and 32, columns off 8, 256, 512, fewer than a unit; and one real width.
  for (const Shape shape : {Shape{16, 8}, Shape{32, 256}, Shape{37, 100}, Shape{100, 576}, Shape{64, 1030},
                            Shape{176, 4096}, Shape{48, 11008}}) {
    for (const Values kind : {Values::bf16, Values::i8, Values::i4}) {
      for (const double zeros : {0.0, 0.5, 0.7, 0.97}) {
        const Zeros pattern = zeros == 0.97 || shape.rows == 100 ? Zeros::rows : Zeros::random;
        if (shape.cols == 11008 && zeros != 0.7) continue;
        if (quick && (shape.cols > 600 || (zeros != 0.7 && zeros != 0.97))) continue;
        for (const uint32_t group : {128u, 32u}) {
          if (kind != Values::i4 && group == 32) continue;
          const Problem p = make_problem(kind, shape.rows, shape.cols, group, zeros, pattern, 32,
                                         shape.rows * 131 + shape.cols);
          char name[80];
          std::snprintf(name, sizeof name, "%s%s %ux%u, %.0f %% zeros",
                        kind == Values::bf16 ? "bf16"
                        : kind == Values::i8 ? "i8"
                                             : "i4g",
                        kind != Values::i4 ? ""
                        : group == 32      ? "32"
                                           : "128",
                        shape.rows, shape.cols, zeros * 100);
          const bool every = !quick && (shape.rows == 176 || shape.rows == 100);
          try {
            test_row_lanes(p, name, every);
            if (kind != Values::i4) {
              test_tiles(p, Tiles::bitmask, name, every);
              if (zeros == 0.0 || zeros == 0.7)
                test_tiles(p, Tiles::dense, (std::string(name) + ", dense").c_str(), every);
              if (zeros == 0.0 || zeros == 0.5 || quick) {
                const Problem q =
                    make_problem(kind, shape.rows, shape.cols, group, zeros, Zeros::two_four, 32, 7);
                test_tiles(q, Tiles::two_four, (std::string(name) + ", 2:4").c_str(), every);
              }
            }
          } catch (const std::exception& error) {
            expect(false, error.what(), name);
          }
        }
      }
    }
  }
  test_stores();
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace filigree::cuda::test

int main(int argc, char** argv) {
  return filigree::cuda::test::run_tests(argc, argv, filigree::cuda::test::run);
}
