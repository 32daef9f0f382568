#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "cuda/collective.h"
#include "cuda/device.h"
#include "cuda/digest.h"
#include "cuda/layers.h"
#include "cuda/matrix.h"

namespace filigree::cuda {

// A decoder on the device, or one device's part of it: weights, cache, workspaces, and the launches of a step. What the model is
// called and where it came from is the caller's.
struct DecoderShape {
  uint32_t hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  uint32_t ffn_cols = 0;  // input of the down projection
  float norm_eps = 0;
  uint32_t sliding_window = 0;
  std::vector<float> inv_freq;
  float attention_scale = 1;  // of cosines and sines
  uint32_t max_rows = 0, max_logit_rows = 0, max_positions = 0, blocks = 0;
  KvElement kv = KvElement::f16;
  bool dependent_launch = true;  // compute capability 9.0 and newer
  bool deterministic = false;    // a row's results do not depend on the rows beside it, bit for bit
  uint32_t multiprocessors = 132;
};

// Matrices that share an input and write side by side.
struct DeviceProjection {
  struct Part {
    DeviceMatrix matrix;
    uint32_t column = 0;
  };
  std::vector<Part> parts;
  uint32_t out = 0;
  DeviceBuffer bias;
  bool interleaved = false;  // gate and up, in runs of 16 rows
};

struct DeviceLayer {
  DeviceBuffer attention_norm, ffn_norm;
  DeviceProjection qkv, output, gate_up, down;
};

// A run of consecutive tokens of one sequence.
struct RowRun {
  std::span<const int32_t> tokens;
  int32_t position = 0;
  const int32_t* blocks = nullptr;
};

// Used by one thread, whose current device is its own. collective: null, or the device's end among those that share a model; their
// steps are the same, and what their output and down projections add to the residual stream is summed over all.
class Runner {
 public:
  Runner(DecoderShape shape, DeviceBuffer embedding, DeviceBuffer final_norm, DeviceProjection head,
         std::vector<DeviceLayer> layers, std::unique_ptr<Blas> blas, std::unique_ptr<Collective> collective);
  ~Runner();

  void copy_block(int32_t from, int32_t to);
  void forward(std::span<const RowRun> runs);
  // The digests wanted of rows, of logit_columns() each; where none is (largest 0), copies all logits to row i of `out`, pinned
  // memory of the host, rows `stride` apart.
  void logits(std::span<const uint32_t> rows, std::span<const DigestWanted> wanted, float* out,
              size_t stride);
  const LogitDigest& digest(uint32_t i) const { return digests_.as<LogitDigest>()[i]; }
  // Copies some of the rows of the last logits() after all.
  void fetch_logits(std::span<const uint32_t> rows, float* out, size_t stride);
  uint32_t logit_columns() const { return head_.out; }
  void final_state(uint32_t row, float* out);
  // From any thread: this device has failed, the others need not wait for it.
  void cancel() {
    if (collective_) collective_->cancel();
  }

  uint64_t kv_bytes() const { return keys_.size() + values_.size(); }
  uint64_t workspace_bytes() const { return workspace_bytes_; }
  static uint64_t kv_bytes_per_block(KvElement element, uint32_t layers, uint32_t kv_heads,
                                     uint32_t head_dim) {
    return uint64_t{2} * layers * kv_heads * kv_head_bytes(element, head_dim);
  }

 private:
  KvPages pages(uint32_t layer) const;
  AttentionGrid attention_grid() const;
  // decode_positions: of a split, where each row is a sequence's next, out of host_step_; 0: rows of prompts, or attended like those, by
  // plan_, out of step_.
  void enqueue(uint32_t rows, uint32_t splits, uint32_t decode_positions, bool dependent);
  // What a projection makes of the residual stream, or of its rows `from` if given: the norm, inside the product or rounded to i8 where
  // that can be, then the product. first_dependent: of the first launch, whose predecessor may be none of ours.
  void project_normed(const DeviceProjection& p, uint32_t rows, const int32_t* from, const DeviceBuffer& norm,
                      Store store, void* out, uint32_t out_stride, bool first_dependent, bool dependent);
  void project(const DeviceProjection& p, const Input& x, Store store, void* out, uint32_t out_stride,
               bool dependent);
  // hidden_ += the projection, of all devices.
  void project_residual(const DeviceProjection& p, const Input& x, bool dependent);
  void enqueue_head(uint32_t rows, bool dependent);
  void copy_logits(uint32_t first, uint32_t count, float* out, size_t stride);
  // Replays, or first captures, what `enqueue` launches.
  template <class Enqueue>
  void replay(uint64_t key, const Enqueue& enqueue);
  DeviceBuffer workspace(size_t bytes);
  void wait(const char* what);
  void drop_graphs();

  DecoderShape shape_;
  DeviceBuffer embedding_, final_norm_, inv_freq_;
  DeviceProjection head_;
  std::vector<DeviceLayer> layers_;
  std::unique_ptr<Blas> blas_;
  std::unique_ptr<Collective> collective_;
  AttentionShape attention_;
  uint32_t x_stride_, attended_stride_, ffn_stride_, table_stride_, most_tables_, most_splits_;
  bool decode_attention_ = false;  // or else rows of decoding are attended as those of prompts
  uint64_t workspace_bytes_ = 0;

  DeviceBuffer keys_, values_;
  DeviceBuffer step_;  // tokens, positions, tables, tiles of attention [max_rows] each, then block tables
  DeviceBuffer hidden_, normed_, norm_codes_, norm_scales_, qkv_, q_, attended_, ffn_, wide_, partials_,
      attention_partials_, expanded_, logits_, state_, arrivals_, sums_;
  PinnedBuffer host_step_;  // as step_
  PinnedBuffer logit_rows_, digests_wanted_,
      digests_;  // [max_logit_rows]; the device reads and writes them where they are
  cudaStream_t stream_ = nullptr;
  WritableStepRows rows_, host_rows_;  // in step_ and host_step_
  size_t tables_at_ = 0;               // there
  const AttentionTile* tiles_ = nullptr;
  std::vector<AttentionRun> runs_;
  AttentionPlan plan_;
  DeviceMatrix::Workspace workspace_;
  std::map<uint64_t, cudaGraphExec_t> graphs_;
};

}  // namespace filigree::cuda
