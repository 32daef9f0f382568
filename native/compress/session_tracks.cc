#include <algorithm>
#include <cmath>

#include "base/status.h"
#include "compress/round.h"
#include "compress/rows.h"
#include "compress/session_state.h"
#include "kernels/norm/norm.h"
#include "kernels/sample/sample.h"

// The token side of a session: from ids to hidden states, through layers, to likelihoods.

namespace filigree {
namespace {

constexpr uint64_t kEmbedRows = 1024;
constexpr uint32_t kHeadRows = 4096, kHeadTokens = 512;

// Rows of the embedding or the head as they will be read back from the output.
void round_vocabulary(DenseMatrix& rows, const VocabularyRounding& r, ThreadPool& pool) {
  if (r.bits == 0) return round_to_float_type(r.type, rows.data(), rows.size());
  apply_codes(round_nearest(rows, r.bits, r.group, r.rule, pool), rows, pool);
}

void require_finite(const DenseMatrix& rows) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!std::isfinite(rows.data()[i]))
      throw Error(ErrorCode::corrupt_data,
                  "tensor " + rows.name + " holds a value that is not finite; the checkpoint is damaged");
  }
}

}  // namespace

std::vector<EncodedTensor> Session::compress_vocabulary(const std::string& name,
                                                        const VocabularyRounding& rounding) {
  const std::unique_ptr<RowSource> source = model().open(name);
  const uint32_t rows = static_cast<uint32_t>(source->rows()), cols = static_cast<uint32_t>(source->cols());
  if (rows != model_.config.vocabulary || cols != model_.config.hidden)
    throw Error(ErrorCode::corrupt_data,
                "tensor " + name + " has another shape than the configuration wants");
  (name == "lm_head.weight" ? head_ : embedding_) = rounding;
  std::vector<EncodedTensor> out;
  DenseMatrix shape;  // only what encode_codes reads of it: a vocabulary is never expanded whole
  shape.name = name;
  shape.rows = rows, shape.cols = cols;
  Codes codes;
  codes.bits = rounding.bits;
  codes.group = rounding.bits == 4 ? rounding.group : 0;
  for (uint32_t first = 0; first < rows; first += kHeadRows) {
    DenseMatrix part(name, std::min(kHeadRows, rows - first), cols);
    source->read_f32(first, part.rows, part.data());
    require_finite(part);
    if (rounding.bits == 0) {
      std::vector<EncodedTensor> piece;
      encode_dense(part, rounding.type, piece);
      if (out.empty()) {
        out = std::move(piece);
        out[0].shape = {rows, cols};
      } else {
        out[0].bytes.insert(out[0].bytes.end(), piece[0].bytes.begin(), piece[0].bytes.end());
      }
      continue;
    }
    const Codes piece = round_nearest(part, rounding.bits, rounding.group, rounding.rule, pool_);
    codes.values.insert(codes.values.end(), piece.values.begin(), piece.values.end());
    codes.scales.insert(codes.scales.end(), piece.scales.begin(), piece.scales.end());
  }
  if (rounding.bits != 0) encode_codes(shape, codes, out);
  return out;
}

void Session::embed(Track& track, const TokenWindows& windows, bool compressed) {
  const std::unique_ptr<RowSource> source = model().open("model.embed_tokens.weight");
  const uint32_t hidden = model_.config.hidden;
  for (uint64_t first = 0; first < windows.ids.size(); first += kEmbedRows) {
    const uint64_t n = std::min<uint64_t>(kEmbedRows, windows.ids.size() - first);
    DenseMatrix rows("model.embed_tokens.weight", static_cast<uint32_t>(n), hidden);
    share_rows(pool_, rows.rows, [&](uint32_t begin, uint32_t end) {
      for (uint32_t r = begin; r < end; ++r)
        source->read_f32(static_cast<uint64_t>(windows.ids[first + r]), 1, rows.row(r));
    });
    require_finite(rows);
    if (compressed) round_vocabulary(rows, embedding_, pool_);
    std::copy(rows.data(), rows.data() + rows.size(), track.states.load(first, n));
    track.states.store();
  }
}

void Session::begin_tracks() {
  if (calibration_) return;
  static const TokenWindows kNone;
  const uint32_t hidden = model_.config.hidden;
  const uint64_t row = uint64_t{hidden} * sizeof(float);
  const uint64_t held_out = options_.held_out.ids.size() * row * 2;
  spilled_ = options_.memory > 0 &&
             layer_bytes_ + held_out + options_.calibration.ids.size() * row > options_.memory;
  calibration_ =
      std::make_unique<Track>(options_.calibration, hidden, spilled_ ? options_.spill_folder : std::string());
  const TokenWindows& original = options_.judge_original ? options_.held_out : kNone;
  dense_ = std::make_unique<Track>(original, hidden, std::string());
  sparse_ = std::make_unique<Track>(options_.held_out, hidden, std::string());
  embed(*calibration_, options_.calibration, true);
  embed(*dense_, original, false);
  embed(*sparse_, options_.held_out, true);
}

void Session::advance(Track& track, const LayerTap* tap, const Progress& progress, const char* stage) {
  const auto go_on = [](TapPoint, const float*, size_t, uint32_t) { return true; };
  const LayerTap passing(go_on);
  for (uint32_t first = 0; first < track.count; first += runner_->batch()) {
    const uint32_t n = std::min(runner_->batch(), track.count - first);
    float* states = track.states.load(uint64_t{first} * track.length, uint64_t{n} * track.length);
    runner_->run(states, n, track.length, tap != nullptr ? *tap : passing);
    if (tap == nullptr) track.states.store();
    if (progress) progress(stage, static_cast<double>(first + n) / track.count);
  }
}

void Session::collect(std::array<SolveInput, 4>& inputs, const Progress& progress) {
  const ModelConfig& c = model_.config;
  const uint32_t widths[4] = {c.hidden, c.q_cols(), c.hidden, c.intermediate};
  for (size_t i = 0; i < 4; ++i)
    inputs[i] = SolveInput(std::make_unique<Statistics>(widths[i]), i % 2 == 0);  // q k v; gate up
  const auto gather = [&](TapPoint point, const float* x, size_t stride, uint32_t rows) {
    inputs[static_cast<size_t>(point)].statistics->add(pool_, ops_, x, stride, rows, options_.precision);
    return point != TapPoint::down;  // the dense layer's output is nobody's input
  };
  const LayerTap tap(gather);
  advance(*calibration_, &tap, progress, "statistics");
  for (const SolveInput& input : inputs) input.statistics->finish();
}

// Mean over windows of the mean negative log-likelihood of a window's tokens but the first.
double Session::negative_log_likelihood(Track& track, const TokenWindows& windows, bool compressed) {
  const ModelConfig& c = model_.config;
  const std::string name = c.tied_head ? "model.embed_tokens.weight" : "lm_head.weight";
  const VocabularyRounding& rounding = c.tied_head ? embedding_ : head_;
  const std::unique_ptr<RowSource> head = model().open(name);
  const std::vector<float> weight = model().vector("model.norm.weight");
  const NormOps norm = select_norm(cpu_);
  const VocabularyOps vocabulary = select_vocabulary(cpu_);
  const uint32_t tokens = static_cast<uint32_t>(windows.ids.size());
  float* states = track.states.load(0, tokens);
  share_rows(pool_, tokens, [&](uint32_t begin, uint32_t end) {
    for (uint32_t t = begin; t < end; ++t) {
      float* x = states + size_t{t} * c.hidden;
      norm.rms_norm(x, weight.data(), c.norm_eps, c.hidden, x);
    }
  });
  std::vector<double> log_sums(tokens, -HUGE_VAL), targets(tokens);
  std::vector<float> logits(size_t{kHeadTokens} * kHeadRows);
  for (uint32_t first = 0; first < c.vocabulary; first += kHeadRows) {
    DenseMatrix rows(name, std::min(kHeadRows, c.vocabulary - first), c.hidden);
    head->read_f32(first, rows.rows, rows.data());
    if (compressed) round_vocabulary(rows, rounding, pool_);
    for (uint32_t t0 = 0; t0 < tokens; t0 += kHeadTokens) {
      const uint32_t n = std::min(kHeadTokens, tokens - t0);
      multiply<float>(pool_, ops_, n, rows.rows, c.hidden, 1.0f,
                      {states + size_t{t0} * c.hidden, c.hidden, 1}, {rows.data(), 1, c.hidden}, 0.0f,
                      logits.data(), rows.rows);
      share_rows(pool_, n, [&](uint32_t begin, uint32_t end) {
        for (uint32_t i = begin; i < end; ++i) {
          const float* line = logits.data() + size_t{i} * rows.rows;
          const double part = log_sum_exp(vocabulary, line, rows.rows);
          double& sum = log_sums[t0 + i];
          const double most = std::max(sum, part);
          sum = most + std::log(std::exp(sum - most) + std::exp(part - most));
          if ((t0 + i + 1) % windows.length == 0) continue;
          const int32_t next = windows.ids[t0 + i + 1];
          if (next >= static_cast<int32_t>(first) && next < static_cast<int32_t>(first + rows.rows))
            targets[t0 + i] = line[static_cast<uint32_t>(next) - first];
        }
      });
    }
  }
  double total = 0;
  for (uint32_t w = 0; w < windows.count(); ++w) {
    double window = 0;
    for (uint32_t i = 0; i + 1 < windows.length; ++i)
      window += log_sums[w * windows.length + i] - targets[w * windows.length + i];
    total += window / (windows.length - 1);
  }
  return total / windows.count();
}

Perplexity Session::perplexity() {
  const TokenWindows& windows = options_.held_out;
  if (windows.count() == 0 || windows.length < 2 || next_layer_ != model_.config.layers) return {};
  Perplexity out;
  if (options_.judge_original) out.before = std::exp(negative_log_likelihood(*dense_, windows, false));
  out.after = std::exp(negative_log_likelihood(*sparse_, windows, true));
  out.tokens = uint64_t{windows.count()} * (windows.length - 1);
  return out;
}

}  // namespace filigree
