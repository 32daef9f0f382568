// filigree_cuda_kernels_bench: the linear kernels on the shapes of Llama-2-7B against cuBLAS in bf16 (the fastest of its layouts and
// proposals). Copies of the weights rotate past the L2; a launch of each is captured in one CUDA graph, with dependent launches,
// and its replays are timed.
//   --zeros 0.7   --tokens 1,2,4,8,16,32   --shapes qkv,o,gate_up,down   --what lanes,tiles,2:4,dense
//   --tune 13 (time so many launch shapes of tiles, the likeliest first, and all of row lanes)   --csv FILE (a line for each of tiles)
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cuda/blas.h"
#include "cuda/linear.h"
#include "cuda/pack.h"
#include "replays.h"

namespace filigree::cuda {
namespace {

constexpr size_t kRotated = size_t{600} << 20;  // bytes, ten times an H200's L2

struct Shape {
  const char* name;
  uint32_t rows, cols;
};
constexpr Shape kShapes[] = {
    {"qkv", 12288, 4096}, {"o", 4096, 4096}, {"gate_up", 22016, 4096}, {"down", 4096, 11008}};

__global__ void random_codes(void* out, Values kind, size_t n, uint32_t zero_below, bool two_four,
                             uint32_t cols) {
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += size_t{gridDim.x} * blockDim.x) {
    uint64_t z = i * 0x9e3779b97f4a7c15ull + 12345;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    bool stored = static_cast<uint32_t>(z >> 32) >= zero_below;
    if (two_four) {
      const uint64_t pick = (i / 4 * 0x9e3779b97f4a7c15ull) >> 33;
      stored = (0x5a3c69u >> (pick % 6 * 4) >> (i % 4)) & 1;
    }
    const int sum = static_cast<int>((z & 255) + (z >> 8 & 255) + (z >> 16 & 255) + (z >> 24 & 255)) - 510;
    if (kind == Values::bf16) {
      static_cast<__nv_bfloat16*>(out)[i] = __float2bfloat16(stored ? (sum + 0.5f) * 1.35e-4f : 0.0f);
    } else {
      const int most = kind == Values::i8 ? 127 : 7;
      int code = sum * most / 510;
      code = code == 0 ? 1 : code;
      static_cast<int8_t*>(out)[i] = static_cast<int8_t>(stored ? code : 0);
    }
  }
}
__global__ void random_input(void* x, bool i8, size_t n) {
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += size_t{gridDim.x} * blockDim.x) {
    const uint32_t h = static_cast<uint32_t>(i * 2654435761u) >> 8;
    if (i8) {
      static_cast<int8_t*>(x)[i] = static_cast<int8_t>(h % 255 - 127);
    } else {
      static_cast<__nv_bfloat16*>(x)[i] = __float2bfloat16(static_cast<float>(h % 2001) * 0.001f - 1.0f);
    }
  }
}
__global__ void fill_floats(float* x, size_t n, float v) {
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += size_t{gridDim.x} * blockDim.x)
    x[i] = v;
}
__global__ void fill_halves(__half* x, size_t n, float v) {
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += size_t{gridDim.x} * blockDim.x)
    x[i] = __float2half(v);
}

// What becomes of one token on its way into row lanes.
enum class Way { plain, i8, normed, normed_i8 };

struct Bench {
  cudaStream_t stream;
  DeviceBuffer x, x8, hidden, scales, out, partials, row_scales, unit_scales;
  std::unique_ptr<Blas> blas;
  size_t tune = 0;
  FILE* csv = nullptr;
  std::map<std::string, std::vector<double>> ratios;  // "format tokens" -> one a shape

  Bench()
      : x(32 * 12288 * 2),
        x8(32 * 12288),
        hidden(12288 * 4),
        scales(64 * 4),
        out(size_t{64} * 32768 * 4),
        partials(size_t{512} << 20),
        row_scales(32768 * 4),
        unit_scales(size_t{32768} * 128 * 2) {
    check(cudaStreamCreate(&stream), "stream");
    random_input<<<256, 256>>>(x.data(), false, 32 * 12288);
    random_input<<<256, 256>>>(x8.data(), true, 32 * 12288);
    fill_floats<<<64, 256>>>(scales.as<float>(), 64, 0.01f);
    fill_floats<<<64, 256>>>(hidden.as<float>(), 12288, 0.5f);
    fill_floats<<<64, 256>>>(row_scales.as<float>(), 32768, 0.001f);
    fill_halves<<<256, 256>>>(unit_scales.as<__half>(), size_t{32768} * 128, 0.01f);
    std::string why;
    blas = Blas::open(&why);
    if (!blas) std::printf("%s\n", why.c_str());
  }

  // Microseconds of one launch: launches(i) is enqueued for every copy i. Infinite if a launch fails.
  double time(int copies, const std::function<bool(int)>& launch, int replays = 7) {
    for (int i = 0; i < 2 && i < copies; ++i) {
      if (!launch(i)) return INFINITY;
    }
    if (cudaStreamSynchronize(stream) != cudaSuccess) {
      std::printf("  failed: %s\n", cudaGetErrorString(cudaGetLastError()));
      return INFINITY;
    }
    return test::replay_us(stream, replays,
                           [&] {
                             bool ok = true;
                             for (int i = 0; i < copies; ++i) ok = ok && launch(i);
                             return ok;
                           }) /
           copies;
  }

  static int copies_of(size_t bytes) {
    return static_cast<int>(std::clamp<size_t>(kRotated / bytes + 1, 4, 160));
  }

  std::map<uint32_t, double> dense(const Shape& s, const std::vector<uint32_t>& tokens) {
    std::map<uint32_t, double> best;
    const size_t bytes = size_t{s.rows} * s.cols * 2;
    const int n = copies_of(bytes);
    std::vector<DeviceBuffer> w;
    for (int i = 0; i < n; ++i) {
      w.emplace_back(bytes);
      random_codes<<<1024, 256>>>(w.back().data(), Values::bf16, bytes / 2, 0, false, s.cols);
    }
    cudaDeviceSynchronize();
    for (const uint32_t m : tokens) {
      best[m] = INFINITY;
      int which = -1;
      for (int layout = 0; layout < 3 && blas; ++layout) {
        for (int choice = 0; choice < 8; ++choice) {
          const double us = time(
              n,
              [&](int i) {
                if (layout == 2)  // y^T = w x^T
                  return blas->multiply(s.rows, m, s.cols, w[static_cast<size_t>(i)].data(), s.cols, x.data(),
                                        false, out.data(), m, false, false, choice, stream);
                return blas->multiply(m, s.rows, s.cols, x.data(), s.cols, w[static_cast<size_t>(i)].data(),
                                      layout == 1, out.data(), s.rows, false, false, choice, stream);
              },
              5);
          if (us < best[m]) best[m] = us, which = layout * 10 + choice;
        }
      }
      std::printf("cuBLAS bf16 %-8s %2u tokens: %7.2f us  %5.0f GB/s  (layout %d, proposal %d)\n", s.name, m,
                  best[m], static_cast<double>(bytes) / best[m] * 1e-3, which / 10, which % 10);
    }
    return best;
  }

  void report(const char* format, const Shape& s, uint32_t tokens, double planned, double best, double base,
              size_t bytes, const char* launch) {
    std::printf("%-16s %-8s %2u tokens: %7.2f us planned", format, s.name, tokens, planned);
    if (tune) std::printf(", %7.2f best of those timed", best);
    std::printf("  %5.0f GB/s  %.3f B/weight  x cuBLAS %.2f", static_cast<double>(bytes) / planned * 1e-3,
                static_cast<double>(bytes) / (static_cast<double>(s.rows) * s.cols), base / planned);
    if (tune) std::printf(" / %.2f  [%s]", base / best, launch);
    std::printf("\n");
    std::fflush(stdout);
    ratios[std::string(format) + ", " + std::to_string(tokens) + " tokens"].push_back(base / planned);
    if (tune)
      ratios[std::string(format) + ", " + std::to_string(tokens) + " tokens, best launch"].push_back(base /
                                                                                                     best);
  }

  RowCodes codes(const Shape& s, Values kind, double zeros, bool two_four, DeviceBuffer& memory) {
    const size_t n = size_t{s.rows} * s.cols;
    memory = DeviceBuffer(n * (kind == Values::bf16 ? 2 : 1));
    random_codes<<<1024, 256>>>(memory.data(), kind, n, static_cast<uint32_t>(zeros * 4294967295.0), two_four,
                                s.cols);
    check(cudaDeviceSynchronize(), "weights");
    return {kind, s.rows, s.cols, memory.data()};
  }

  static DeviceBuffer clone(const DeviceBuffer& b) {
    DeviceBuffer c(b.size());
    if (b.size()) check(cudaMemcpy(c.data(), b.data(), b.size(), cudaMemcpyDeviceToDevice), "clone");
    return c;
  }

  void row_lanes(const Shape& s, Values kind, double zeros, const std::vector<uint32_t>& tokens,
                 const std::map<uint32_t, double>& base) {
    DeviceBuffer memory;
    const RowCodes source = codes(s, kind, zeros, false, memory);
    const DeviceLimits limits;
    struct Best {
      double planned = INFINITY, best = INFINITY;
      std::string launch;
      size_t bytes = 0;
    };
    std::map<std::pair<uint32_t, Way>, Best> results;
    for (const uint32_t warps : {16u, 32u}) {
      if (!tune && warps != row_lanes_warps(s.rows, s.cols, limits)) continue;
      const PackedRowLanes packed = pack_row_lanes(source, unit_cols_for(s.cols, warps), 128);
      const int n = copies_of(packed.stored_bytes);
      std::vector<PackedRowLanes> copies;
      for (int i = 0; i < n; ++i) {
        PackedRowLanes c;
        c.view = packed.view;
        c.values = clone(packed.values), c.distances = clone(packed.distances),
        c.counts = clone(packed.counts);
        c.offsets = clone(packed.offsets);
        c.view.values = c.values.as<uint8_t>(), c.view.distances = c.distances.as<uint32_t>();
        c.view.counts = c.counts.as<uint8_t>(), c.view.offsets = c.offsets.as<uint32_t>();
        if (kind == Values::i8) c.view.row_scales = row_scales.as<float>();
        if (kind == Values::i4) c.view.unit_scales = unit_scales.as<uint16_t>();
        copies.push_back(std::move(c));
      }
      for (const uint32_t m : tokens) {
        if (m > 4) continue;
        for (const Way way : {Way::plain, Way::i8, Way::normed, Way::normed_i8}) {
          const bool i8 = way == Way::i8 || way == Way::normed_i8;
          if (way != Way::plain && m > 1) continue;
          if (i8 && kind == Values::bf16) continue;
          const RowLanesPlan chosen = plan_row_lanes(packed.view, m, i8, limits);
          for (uint32_t in_flight = 2; in_flight <= 4; ++in_flight) {
            for (uint32_t shape = 2; shape < 10; ++shape) {
              const uint32_t per_sm = shape / 2;
              const bool wide = shape % 2;
              const RowLanesPlan plan{chosen.tokens, warps, in_flight, per_sm, wide};
              const bool is_chosen = chosen.warps == warps && chosen.in_flight == in_flight &&
                                     chosen.per_sm == per_sm && chosen.wide == wide;
              if (!tune && !is_chosen) continue;
              Input input{m, 12288, x.data()};
              if (way == Way::i8) input.data = x8.data(), input.scales = scales.as<float>();
              if (way == Way::normed || way == Way::normed_i8)
                input.hidden = hidden.as<float>(), input.norm = hidden.as<float>();
              input.quantize = way == Way::normed_i8;
              const double us = time(n, [&](int i) {
                return run_row_lanes(copies[static_cast<size_t>(i)].view, input,
                                     {Store::bf16, out.data(), s.rows, nullptr}, plan, true,
                                     stream) == cudaSuccess;
              });
              cudaGetLastError();
              Best& b = results[{m, way}];
              if (is_chosen) b.planned = us;
              if (us < b.best) {
                b.best = us, b.bytes = packed.stored_bytes;
                b.launch = std::to_string(warps) + " warps, " + std::to_string(in_flight) + " in flight, " +
                           std::to_string(per_sm) + (wide ? " a multiprocessor, f32" : " a multiprocessor");
              }
            }
          }
        }
      }
    }
    if (kind == Values::bf16 || tune) expansion(s, source, kind);
    for (const auto& [key, b] : results) {
      const std::string name = std::string(kind == Values::bf16 ? "bf16"
                                           : kind == Values::i8 ? "i8"
                                                                : "i4g128") +
                               (key.second == Way::i8          ? " x i8"
                                : key.second == Way::normed    ? ", norm inside"
                                : key.second == Way::normed_i8 ? " x i8, norm and rounding inside"
                                                               : "");
      report(name.c_str(), s, key.first, b.planned, b.best, base.at(key.first), b.bytes, b.launch.c_str());
    }
  }

  // Into a dense matrix, as prompts want it.
  void expansion(const Shape& s, const RowCodes& source, Values kind) {
    const DeviceLimits limits;
    PackedRowLanes packed =
        pack_row_lanes(source, unit_cols_for(s.cols, row_lanes_warps(s.rows, s.cols, limits)), 128);
    packed.view.row_scales = row_scales.as<float>(), packed.view.unit_scales = unit_scales.as<uint16_t>();
    std::vector<DeviceBuffer> to;
    const size_t bytes = size_t{s.rows} * s.cols * 2;
    for (int i = 0; i < 4; ++i) to.emplace_back(bytes);
    const double us = time(4, [&](int i) {
      return expand_row_lanes(packed.view, to[static_cast<size_t>(i)].data(), stream) == cudaSuccess;
    });
    std::printf("expanding %-8s %7.2f us, %.0f GB/s written\n", s.name, us,
                static_cast<double>(bytes) / us * 1e-3);
  }

  void tiles(const Shape& s, Values kind, Tiles layout, double zeros, const std::vector<uint32_t>& tokens,
             const std::map<uint32_t, double>& base) {
    DeviceBuffer memory;
    const RowCodes source = codes(s, kind, zeros, layout == Tiles::two_four, memory);
    const PackedTiles packed = pack_tiles(source, layout);
    const int n = copies_of(packed.stored_bytes);
    std::vector<PackedTiles> copies;
    for (int i = 0; i < n; ++i) {
      PackedTiles c;
      c.view = packed.view;
      c.data = clone(packed.data), c.offsets = clone(packed.offsets);
      c.view.data = c.data.as<uint8_t>(), c.view.offsets = c.offsets.as<uint32_t>();
      if (kind == Values::i8) c.view.row_scales = row_scales.as<float>();
      copies.push_back(std::move(c));
    }
    const bool i8 = kind == Values::i8;
    // Activations rounded before, or, as the engine has it, by the product.
    for (const bool inside : {false, true}) {
      if (inside && !i8) continue;
      for (const uint32_t m : tokens) {
        const std::vector<TilePlan> plans = tile_plans(packed.view, m, DeviceLimits{});
        double planned = INFINITY, best = INFINITY;
        std::string launch;
        for (size_t p = 0; p < plans.size() && p < std::max<size_t>(tune, 1); ++p) {
          if (partial_floats(packed.view, m, plans[p]) * 4 > partials.size()) continue;
          const Input input{m, 12288, i8 && !inside ? x8.data() : x.data(),
                            i8 && !inside ? scales.as<float>() : nullptr};
          const double us = time(n, [&](int i) {
            return run_tiles(copies[static_cast<size_t>(i)].view, input,
                             {Store::bf16, out.data(), s.rows, nullptr}, plans[p], partials.as<float>(), true,
                             stream) == cudaSuccess;
          });
          cudaGetLastError();
          if (csv)
            std::fprintf(csv, "%s,%s,%u,%u,%u,%d,%u,%u,%u,%u,%u,%u,%.3f\n", i8 ? "i8" : "bf16",
                         tiles_name(layout), s.rows, s.cols, m, inside, plans[p].warps, plans[p].stages,
                         plans[p].slice_blocks, plans[p].slices, plans[p].parts, plans[p].blocks_per_slice,
                         us);
          if (p == 0) planned = us;
          if (us < best) {
            best = us;
            launch = std::to_string(plans[p].warps) + " warps, " + std::to_string(plans[p].stages) +
                     " stages, " + std::to_string(plans[p].slice_blocks) + " blocks a slice, choice " +
                     std::to_string(p);
          }
        }
        const std::string name = (layout == Tiles::bitmask ? "" : tiles_name(layout) + std::string(" ")) +
                                 (inside ? "i8 x i8 tiles, rounding inside"
                                  : i8   ? "i8 x i8 tiles"
                                         : "bf16 tiles");
        if (std::isfinite(best))
          report(name.c_str(), s, m, planned, best, base.at(m), packed.stored_bytes, launch.c_str());
      }
    }
  }
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

int run(int argc, char** argv) {
  double zeros = 0.7;
  std::string shapes = "qkv,o,gate_up,down", token_list = "1,2,4,8,16,32", what = "lanes,tiles,2:4,dense";
  Bench bench;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i], value = argv[i + 1];
    if (key == "--zeros")
      zeros = std::atof(value.c_str());
    else if (key == "--tune")
      bench.tune = std::strtoul(value.c_str(), nullptr, 10);
    else if (key == "--csv")
      bench.csv = std::fopen(value.c_str(), "w");
    else if (key == "--shapes")
      shapes = value;
    else if (key == "--tokens")
      token_list = value;
    else if (key == "--what")
      what = value;
    else {
      std::fprintf(stderr, "unknown option %s\n", key.c_str());
      return 2;
    }
  }
  std::vector<uint32_t> tokens, few, many;
  for (const std::string& t : split(token_list))
    tokens.push_back(static_cast<uint32_t>(std::atoi(t.c_str())));
  for (const uint32_t t : tokens) (t <= 4 ? few : many).push_back(t);
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0), "device");
  std::printf("%s, %d multiprocessors, L2 %d MiB; %.0f %% zeros\n", device.name, device.multiProcessorCount,
              device.l2CacheSize >> 20, zeros * 100);
  const auto wanted = [&](const char* part) { return what.find(part) != std::string::npos; };
  for (const Shape& s : kShapes) {
    if (shapes.find(s.name) == std::string::npos) continue;
    const std::map<uint32_t, double> base = bench.dense(s, tokens);
    for (const Values kind : {Values::bf16, Values::i8, Values::i4}) {
      if (wanted("lanes")) bench.row_lanes(s, kind, zeros, few, base);
      if (kind == Values::i4) continue;
      if (wanted("tiles")) bench.tiles(s, kind, Tiles::bitmask, zeros, many, base);
      if (wanted("2:4")) bench.tiles(s, kind, Tiles::two_four, zeros, tokens, base);
      if (wanted("dense")) bench.tiles(s, kind, Tiles::dense, 0, many, base);
    }
  }
  std::printf("\ngeometric means over the shapes, x cuBLAS bf16, %.0f %% zeros\n", zeros * 100);
  for (const auto& [name, values] : bench.ratios) {
    double sum = 0;
    for (const double v : values) sum += std::log(v);
    std::printf("  %-40s %.2f  (%zu shapes)\n", name.c_str(),
                std::exp(sum / static_cast<double>(values.size())), values.size());
  }
  return 0;
}

}  // namespace
}  // namespace filigree::cuda

int main(int argc, char** argv) {
  try {
    return filigree::cuda::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
