// The tile kernels of the GPU, compiled as C++ and run on an emulated device (emulated/device.h), against float64: what a
// machine without a GPU can say about them. test/cuda/test_kernels.cu is the same on a GPU, with every launch.
#define run_tiles run_emulated_tiles  // beside the real one, where it is linked
#include <vector>

#include "../../native/cuda/tiles.cu"
#include "../cuda/problem.h"
#include "cuda/host_pack.h"
#include "emulated/end.h"
#include "harness.h"

namespace filigree::test {
namespace {

using namespace cuda;
using cuda::test::from_bf16;
using cuda::test::make_problem;
using cuda::test::Problem;
using cuda::test::to_bf16;
using cuda::test::Zeros;

// The product with each block of a token's columns rounded to i8 by a scale of its own.
std::vector<double> rounded_product(const Problem& p, uint32_t block) {
  std::vector<double> out(size_t{p.tokens} * p.rows), x(p.cols);
  for (uint32_t t = 0; t < p.tokens; ++t) {
    const uint16_t* const row = &p.x[size_t{t} * p.cols];
    for (uint32_t first = 0; first < p.cols; first += block) {
      const uint32_t end = std::min(first + block, p.cols);
      float most = 0;
      for (uint32_t c = first; c < end; ++c) most = std::max(most, std::abs(from_bf16(row[c])));
      for (uint32_t c = first; c < end; ++c)
        x[c] = std::nearbyint(from_bf16(row[c]) * (127.0f / most)) * double{most / 127.0f};
    }
    for (uint32_t r = 0; r < p.rows; ++r) {
      for (uint32_t c = 0; c < p.cols; ++c) out[size_t{t} * p.rows + r] += p.weight(r, c) * x[c];
    }
  }
  return out;
}

// 16-byte aligned, as device memory is.
struct Sums {
  std::vector<float4> memory;
  explicit Sums(size_t floats) : memory(floats / 4 + 2, float4{3, 3, 3, 3}) {}
  float* data() { return &memory[0].x; }
};

struct Launch {
  const TileMatrix& m;
  const Problem& p;
  const std::vector<double>& want;  // [tokens][rows], before the bias
  uint32_t tokens;
  const TilePlan& plan;
  bool rounds;  // activations inside
  Store store;
};

struct RoundedRows {
  std::vector<int8_t> codes;
  std::vector<float> scales;  // [tokens][stride / block]
};

RoundedRows round_rows(const std::vector<uint16_t>& x, uint32_t tokens, uint32_t stride, uint32_t block) {
  RoundedRows out{std::vector<int8_t>(size_t{tokens} * stride), {}};
  for (size_t first = 0; first < out.codes.size(); first += block) {
    float most = 0;
    for (size_t i = first; i < first + block; ++i) most = std::max(most, std::abs(from_bf16(x[i])));
    for (size_t i = first; i < first + block && most > 0; ++i)
      out.codes[i] = static_cast<int8_t>(std::nearbyint(from_bf16(x[i]) * (127.0f / most)));
    out.scales.push_back(most / 127.0f);
  }
  return out;
}

void check_launch(const Launch& l) {
  const Problem& p = l.p;
  const bool i8 = p.kind == Values::i8;
  const uint32_t stride = round_up(p.cols, kInputPadding), rows = p.rows;
  std::vector<uint16_t> x(size_t{l.tokens} * stride);
  std::vector<int8_t> x8(x.size());
  for (uint32_t t = 0; t < l.tokens; ++t) {
    std::copy_n(&p.x[size_t{t} * p.cols], p.cols, &x[size_t{t} * stride]);
    std::copy_n(&p.x8[size_t{t} * p.cols], p.cols, &x8[size_t{t} * stride]);
  }
  const bool codes = i8 && !l.rounds;
  const Input input{l.tokens, stride, codes ? static_cast<const void*>(x8.data()) : x.data(),
                    codes ? p.x_scales.data() : nullptr};
  const uint32_t columns = l.store == Store::swiglu ? rows / 2 : rows;
  Sums partials(partial_floats(l.m, l.tokens, l.plan)), out(size_t{l.tokens} * rows), bias(rows);
  for (uint32_t r = 0; r < rows; ++r) bias.data()[r] = 0.01f * static_cast<float>(r);
  check(run_emulated_tiles(l.m, input, {l.store, out.data(), columns, bias.data()}, l.plan, partials.data(),
                           true, nullptr) == cudaSuccess);
  if (l.rounds) {  // the same bits from activations that the norm has rounded
    const RoundedRows r = round_rows(x, l.tokens, stride, l.m.block_cols());
    Sums again(size_t{l.tokens} * rows);
    check(run_emulated_tiles(l.m, {l.tokens, stride, r.codes.data(), r.scales.data(), l.m.block_cols()},
                             {l.store, again.data(), columns, bias.data()}, l.plan, partials.data(), true,
                             nullptr) == cudaSuccess);
    check(std::memcmp(again.data(), out.data(), size_t{l.tokens} * rows * sizeof(float)) == 0,
          "rounded before and inside differ");
  }
  double error = 0, norm = 0;
  for (uint32_t t = 0; t < l.tokens; ++t) {
    const auto biased = [&](uint32_t r) { return l.want[size_t{t} * rows + r] + bias.data()[r]; };
    for (uint32_t c = 0; c < columns; ++c) {
      double want = biased(c), got;
      const size_t at = size_t{t} * columns + c;
      if (l.store == Store::swiglu) {
        const double gate = biased(c / 16 * 32 + c % 16);
        want = gate / (1 + std::exp(-gate)) * biased(c / 16 * 32 + 16 + c % 16);
      }
      if (l.store == Store::bf16 || l.store == Store::swiglu) {
        uint16_t half;
        std::memcpy(&half, reinterpret_cast<const uint8_t*>(out.data()) + at * 2, 2);
        got = from_bf16(half);
      } else {
        got = out.data()[at] - (l.store == Store::add ? 3.0 : 0.0);
      }
      error += (got - want) * (got - want), norm += want * want;
    }
  }
  const double bound = l.store == Store::f32 || l.store == Store::add ? 2e-5 : 6e-3;
  check(std::sqrt(error) <= bound * std::sqrt(norm) + 1e-6,
        "tokens " + std::to_string(l.tokens) + ", warps " + std::to_string(l.plan.warps) + ", slices " +
            std::to_string(l.plan.slices) + ", parts " + std::to_string(l.plan.parts));
}

FILIGREE_TEST(cuda_tiles_emulated) {
  struct Shape {
    uint32_t rows, cols;
  };
  uint32_t seen = 0;
  for (const Shape s : {Shape{37, 100}, Shape{96, 1030}, Shape{160, 4096}}) {
    for (const Values kind : {Values::bf16, Values::i8}) {
      for (const Tiles tiles : {Tiles::bitmask, Tiles::two_four, Tiles::dense}) {
        for (const double zeros : {0.0, 0.5, 0.7, 0.97}) {
          if (tiles != Tiles::bitmask && zeros != 0.5) continue;
          if (s.cols == 4096 && zeros != 0.5 && zeros != 0.7) continue;
          const Zeros pattern = tiles == Tiles::two_four ? Zeros::two_four
                                : zeros == 0.97          ? Zeros::rows
                                                         : Zeros::random;
          const Problem p = make_problem(kind, s.rows, s.cols, 128, zeros, pattern, 32, s.rows + s.cols);
          const HostTiles host = host_pack_tiles(p.source(), tiles);
          check(host.fits);
          TileMatrix m = host.view;
          if (kind == Values::i8) m.row_scales = p.row_scales.data();
          const std::vector<double> want = p.product(kind == Values::i8),
                                    rounded = kind == Values::i8 ? rounded_product(p, m.block_cols()) : want;
          for (const uint32_t tokens : {5u, 16u, 32u}) {
            const std::vector<TilePlan> plans = tile_plans(m, tokens, {12, 227 << 10});
            for (size_t i = 0; i < plans.size(); ++i) {
              if (++seen % 41 != 0) continue;
              Store store = static_cast<Store>(seen / 41 % 4);
              if (store == Store::swiglu && s.rows % 32 != 0) store = Store::f32;
              const bool rounds = kind == Values::i8 && seen / 41 % 3 == 0;
              check_launch({m, p, rounds ? rounded : want, tokens, plans[i], rounds, store});
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace filigree::test
