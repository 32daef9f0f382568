#include "engine/adapter.h"

#include <memory>

#include "base/file.h"
#include "base/status.h"
#include "formats/pack.h"

namespace filigree {
namespace {

// B times scale.
class ScaledRows final : public RowSource {
 public:
  ScaledRows(std::unique_ptr<RowSource> source, float scale) : source_(std::move(source)), scale_(scale) {}
  uint64_t rows() const override { return source_->rows(); }
  uint64_t cols() const override { return source_->cols(); }
  void read_f32(uint64_t row, uint64_t n, float* out) const override {
    source_->read_f32(row, n, out);
    for (uint64_t i = 0; i < n * cols(); ++i) out[i] *= scale_;
  }

 private:
  std::unique_ptr<RowSource> source_;
  float scale_;
};

// Where a target's rows stand.
struct Place {
  Site site;
  uint32_t in, out, column, panel_stride;
};

Place place_of(Target target, const ModelConfig& c, const LayerWeights& layer) {
  constexpr uint32_t kRun = linear::kPanelRows;
  const uint32_t up_column = layer.interleaved ? kRun : c.intermediate;
  const uint32_t stride = layer.interleaved ? 2 * kRun : kRun;
  switch (target) {
    case Target::q:
      return {Site::qkv, c.hidden, c.q_cols(), 0, kRun};
    case Target::k:
      return {Site::qkv, c.hidden, c.kv_cols(), c.q_cols(), kRun};
    case Target::v:
      return {Site::qkv, c.hidden, c.kv_cols(), c.q_cols() + c.kv_cols(), kRun};
    case Target::o:
      return {Site::output, c.q_cols(), c.hidden, 0, kRun};
    case Target::gate:
      return {Site::gate_up, c.hidden, c.intermediate, 0, stride};
    case Target::up:
      return {Site::gate_up, c.hidden, c.intermediate, up_column, stride};
    case Target::down:
      break;
  }
  return {Site::down, c.intermediate, c.hidden, 0, kRun};
}

class Loader {
 public:
  Loader(const AdapterDescription& description, const ModelConfig& config, const ModelWeights& weights,
         const CpuFeatures& cpu, ThreadPool& pool)
      : description_(description), config_(config), weights_(weights), cpu_(cpu), pool_(pool) {
    for (const std::string& path : description.files) files_.push_back(File::open(path));
  }

  Adapter run() {
    Adapter adapter;
    adapter.layers.resize(config_.layers);
    // [layer][target], so that the parts of a site come in the order of their rows.
    std::vector<std::array<const AdapterPair*, 7>> pairs(config_.layers);
    for (const AdapterPair& pair : description_.pairs) {
      if (pair.layer >= config_.layers) refuse(pair.a, "the model has no such layer");
      const AdapterPair*& slot = pairs[pair.layer][static_cast<size_t>(pair.target)];
      if (slot != nullptr) refuse(pair.a, "its matrix is changed twice");
      slot = &pair;
    }
    for (uint32_t l = 0; l < config_.layers; ++l) {
      for (size_t site = 0; site < kSites; ++site) {
        LowRank& low = adapter.layers[l][site];
        fill(low, pairs[l], l, static_cast<Site>(site));
        if (low.empty()) continue;
        adapter.bytes += low.a.matrix().bytes;
        for (const LowRank::Part& part : low.parts) adapter.bytes += part.b.matrix().bytes;
      }
    }
    return adapter;
  }

 private:
  void fill(LowRank& low, const std::array<const AdapterPair*, 7>& pairs, uint32_t l, Site site) {
    std::vector<std::unique_ptr<RowSource>> stacked;
    uint32_t rank = 0;
    const TensorDesc* first = nullptr;
    for (const AdapterPair* pair : pairs) {
      if (pair == nullptr) continue;
      const Place place = place_of(pair->target, config_, weights_.layers[l]);
      if (place.site != site) continue;
      if (first == nullptr) first = &pair->a;
      std::unique_ptr<RowSource> a = open(pair->a);
      const uint64_t r = a->rows();
      if (r < 1 || r > kMaxRank)
        refuse(pair->a,
               "its rank is " + std::to_string(r) + "; 1 to " + std::to_string(kMaxRank) + " are served");
      if (a->cols() != place.in) refuse(pair->a, "the model wants " + std::to_string(place.in) + " columns");
      auto b = std::make_unique<ScaledRows>(open(pair->b), pair->scale);
      if (b->rows() != place.out || b->cols() != r)
        refuse(pair->b,
               "the model and its A want [" + std::to_string(place.out) + ", " + std::to_string(r) + "]");
      const RowSource* source = b.get();
      LowRank::Part part;
      part.b = packed({&source, 1}, pair->b);
      part.plan = linear::make_plan(part.b.matrix(), cpu_);
      part.first = rank;
      part.column = place.column;
      part.panel_stride = place.panel_stride;
      low.parts.push_back(std::move(part));
      rank += static_cast<uint32_t>(r);
      stacked.push_back(std::move(a));
    }
    if (low.empty()) return;
    std::vector<const RowSource*> sources;
    for (const auto& source : stacked) sources.push_back(source.get());
    low.a = packed(sources, *first);
    low.plan = linear::make_plan(low.a.matrix(), cpu_);
  }

  std::unique_ptr<RowSource> open(const TensorDesc& tensor) const {
    if (tensor.shape.size() != 2) refuse(tensor, "it is no matrix");
    return open_rows(tensor, files_);
  }

  PackedMatrix packed(std::span<const RowSource* const> sources, const TensorDesc& tensor) {
    PackOptions options;
    options.format = linear::Format::f32;
    options.layout = linear::Layout::dense;
    try {
      return pack(sources, options, cpu_, pool_);
    } catch (const Error& error) {
      throw Error(error.code(),
                  "adapter " + description_.name + ", tensor " + tensor.name + ": " + error.what());
    }
  }

  [[noreturn]] void refuse(const TensorDesc& tensor, const std::string& why) const {
    throw Error(ErrorCode::corrupt_data,
                "adapter " + description_.name + ", tensor " + tensor.name + ": " + why);
  }

  const AdapterDescription& description_;
  const ModelConfig& config_;
  const ModelWeights& weights_;
  const CpuFeatures& cpu_;
  ThreadPool& pool_;
  std::vector<File> files_;
};

}  // namespace

Adapter load_adapter(const AdapterDescription& description, const ModelConfig& config,
                     const ModelWeights& weights, const CpuFeatures& cpu, ThreadPool& pool) {
  return Loader(description, config, weights, cpu, pool).run();
}

}  // namespace filigree
