#include "cuda/tune.h"

#include <algorithm>
#include <cmath>

namespace filigree::cuda {
namespace {

// Bytes of copies of a matrix, so that none of a launch's weights is in the L2.
constexpr size_t kRotated = size_t{400} << 20;
// Of the shapes that fit, best first by the estimate, so many are timed; a lead below this share is noise.
constexpr size_t kMostTried = 64;
constexpr double kNoise = 0.02;
constexpr int kReplays = 5;

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "an event"); }
  ~Event() { cudaEventDestroy(event_); }
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

struct Copy {
  TileMatrix view;
  DeviceBuffer data, offsets;
};

DeviceBuffer clone(const DeviceBuffer& from) {
  DeviceBuffer to(from.size(), "a copy to be timed");
  check(cudaMemcpy(to.data(), from.data(), from.size(), cudaMemcpyDeviceToDevice), "a copy to be timed");
  return to;
}

// Median microseconds of a launch, all of them in one captured graph as a step has them; infinite where one fails.
template <class Launch>
double time(size_t launches, cudaStream_t stream, const Launch& launch) {
  const auto all = [&] {
    bool ok = true;
    for (size_t i = 0; i < launches && ok; ++i) ok = launch(i) == cudaSuccess;
    return ok;
  };
  // Once outside: kernels are loaded before anything is captured.
  if (launch(0) != cudaSuccess) {
    cudaGetLastError();
    return INFINITY;
  }
  check(cudaStreamSynchronize(stream), "a launch");
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
  const bool ok = all();
  const cudaError_t captured = cudaStreamEndCapture(stream, &graph);
  cudaGraphExec_t exec = nullptr;
  if (!ok || captured != cudaSuccess || cudaGraphInstantiate(&exec, graph, 0) != cudaSuccess) {
    cudaGetLastError();
    if (graph) cudaGraphDestroy(graph);
    return INFINITY;
  }
  cudaGraphDestroy(graph);
  const Event begin, end;
  std::vector<float> times;
  cudaError_t error = cudaSuccess;
  for (int r = 0; r <= kReplays && error == cudaSuccess; ++r) {
    cudaEventRecord(begin, stream);
    cudaGraphLaunch(exec, stream);
    cudaEventRecord(end, stream);
    error = cudaEventSynchronize(end);
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (r > 0) times.push_back(ms * 1e3f / static_cast<float>(launches));
  }
  cudaGraphExecDestroy(exec);
  check(error, "timing a launch");
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace

std::vector<TunedLaunch> tune_tiles(const linear::Matrix& matrix, const MatrixOptions& options,
                                    GpuPlans& found) {
  MatrixOptions untuned = options;
  untuned.device.tuned = nullptr;
  const DeviceMatrix packed(matrix, untuned);
  std::vector<TunedLaunch> results;
  const PackedTiles& tiles = packed.tiles();
  if (!packed.sparse() || tiles.data.size() == 0) return results;

  std::vector<Copy> copies(std::clamp<size_t>(kRotated / tiles.stored_bytes + 1, 4, 96));
  for (Copy& copy : copies) {
    copy.view = tiles.view;
    copy.data = clone(tiles.data), copy.offsets = clone(tiles.offsets);
    copy.view.data = copy.data.as<uint8_t>(), copy.view.offsets = copy.offsets.as<uint32_t>();
  }
  constexpr uint32_t kMost = 32;
  const uint32_t stride = round_up(matrix.cols, kInputPadding);
  DeviceBuffer x(size_t{kMost} * stride * 2, "activations");
  const DeviceBuffer out(size_t{kMost} * round_up(matrix.rows, 32u) * 4, "results");
  std::vector<uint16_t> some(size_t{kMost} * stride);  // bf16 between 1/8 and 1/2, and as much below zero
  for (size_t i = 0; i < some.size(); ++i) some[i] = 0x3e00 | (i * 40503 >> 3 & 0x80ff);
  x.upload(some.data(), x.size());
  const Stream stream;
  for (const uint32_t tokens : {8u, 16u, kMost}) {
    const std::vector<TilePlan> plans = tile_plans(tiles.view, tokens, untuned.device);
    if (plans.empty()) continue;
    size_t partials = 1;
    const size_t tried = std::min(plans.size(), kMostTried);
    for (size_t i = 0; i < tried; ++i)
      partials = std::max(partials, partial_floats(tiles.view, tokens, plans[i]));
    const DeviceBuffer sums(partials * sizeof(float), "partial sums");
    TunedLaunch result;
    result.tokens = tokens;
    result.layout =
        (tiles.view.kind == Values::bf16 ? "bf16 " : "i8 ") + std::string(tiles_name(tiles.view.tiles));
    const TilePlan* best = &plans[0];
    for (size_t i = 0; i < tried; ++i) {
      const double us = time(copies.size(), stream, [&](size_t copy) {
        return run_tiles(copies[copy].view, {tokens, stride, x.data()},
                         {Store::f32, out.data(), matrix.rows, nullptr}, plans[i], sums.as<float>(), true,
                         stream);
      });
      if (i == 0) result.planned_us = result.best_us = us;
      if (us < result.best_us) result.best_us = us, best = &plans[i];
    }
    if (result.best_us < result.planned_us * (1 - kNoise)) found.put(tiles.view, *best);
    results.push_back(result);
  }
  return results;
}

}  // namespace filigree::cuda
