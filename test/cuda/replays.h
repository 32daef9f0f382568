#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "cuda/memory.h"

namespace filigree::cuda::test {

// Microseconds that what `launches` enqueues on the stream takes, captured in one graph: the median of so many replays, after two that do not
// count. Infinite where it returns false.
inline double replay_us(cudaStream_t stream, int replays, const std::function<bool()>& launches) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  const bool ok = launches();
  check(cudaStreamEndCapture(stream, &graph), "capture");
  if (!ok) return INFINITY;
  check(cudaGraphInstantiate(&exec, graph, 0), "graph");
  cudaEvent_t begin, end;
  cudaEventCreate(&begin), cudaEventCreate(&end);
  std::vector<float> times;
  for (int r = 0; r < replays + 2; ++r) {
    cudaEventRecord(begin, stream);
    cudaGraphLaunch(exec, stream);
    cudaEventRecord(end, stream);
    check(cudaEventSynchronize(end), "replay");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (r >= 2) times.push_back(ms * 1e3f);
  }
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  cudaEventDestroy(begin), cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace filigree::cuda::test
