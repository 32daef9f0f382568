// Tensor parallelism without a GPU: slices of packed matrices against the whole, and a small decoder computed by two and three
// threads that each hold a part of the model against one that holds all of it.
#include <barrier>
#include <cmath>
#include <thread>

#include "base/status.h"
#include "base/thread_pool.h"
#include "engine/partition.h"
#include "formats/slice.h"
#include "linear_fixture.h"

namespace filigree::test {
namespace {

using linear::Format;
using linear::Layout;

constexpr Format kFormats[] = {Format::f32, Format::bf16, Format::i8, Format::i4g32, Format::i4g128};

std::vector<float> unpacked(const linear::Matrix& m) {
  std::vector<float> out(size_t{m.rows} * m.cols);
  unpack_rows(m, 0, m.rows, out.data());
  return out;
}

void check_slice(const PackedMatrix& whole, const std::vector<Range>& rows, Range columns, const char* what) {
  const linear::Matrix& m = whole.matrix();
  const PackedMatrix part = slice(m, rows, columns);
  view_of(part.blob(), true);
  const std::vector<float> all = unpacked(m), some = unpacked(part.matrix());
  bool same = true;
  size_t row = 0;
  for (const Range& r : rows) {
    for (uint32_t source = r.begin; source < r.end; ++source, ++row) {
      for (uint32_t k = 0; k < columns.size(); ++k)
        same = same && some[row * columns.size() + k] == all[size_t{source} * m.cols + columns.begin + k];
    }
  }
  check(same && row == part.matrix().rows, what);
  if (m.format != Format::i8) return;
  for (uint32_t r = 0; r < part.matrix().rows; ++r) {
    float sum = 0;
    for (uint32_t k = 0; k < columns.size(); ++k)
      sum += std::round(some[size_t{r} * columns.size() + k] / std::max(part.matrix().row_scales[r], 1e-30f));
    check_equal(static_cast<float>(part.matrix().code_sums[r]), sum, "sums of codes");
  }
}

FILIGREE_TEST(slices_hold_the_rows_and_columns_they_were_cut_from) {
  Random random(31);
  for (const Format format : kFormats) {
    for (const bool minimum : {false, true}) {
      if (minimum && !linear::is_i4(format)) continue;
      MemoryRows rows = random_rows(random, 150, 600, 0.5);
      if (minimum)
        rows.randomize_codes(random, {4, static_cast<int>(linear::group_size(format)), true}, 0.3, false);
      const PackedMatrix whole = pack_rows(rows, format, Layout::dense);
      const uint32_t unit = column_unit(whole.matrix());
      const char* name = linear::name_of(format);
      check_slice(whole, {{0, 150}}, {0, 600}, name);
      check_slice(whole, {{32, 96}}, {0, 600}, name);
      check_slice(whole, {{7, 41}, {100, 149}, {149, 150}}, {0, 600}, name);
      check_slice(whole, {{64, 150}}, {unit, 3 * unit}, name);
      check_slice(whole, {{0, 17}, {16, 48}}, {600 / unit / 2 * unit, 600}, name);
    }
  }
}

FILIGREE_TEST(slices_refuse_what_cannot_be_cut) {
  Random random(32);
  const MemoryRows rows = random_rows(random, 64, 256, 0.5);
  const PackedMatrix i4 = pack_rows(rows, Format::i4g128, Layout::dense);
  const PackedMatrix sparse = pack_rows(rows, Format::i8, Layout::bitmask);
  const std::vector<Range> all = {{0, 64}}, beyond = {{0, 65}}, none = {};
  check_throws<Error>([&] { slice(i4.matrix(), all, {64, 256}); }, "within a group");
  check_throws<Error>([&] { slice(i4.matrix(), all, {0, 64}); }, "within a group");
  check_throws<Error>([&] { slice(i4.matrix(), all, {128, 128}); }, "no columns");
  check_throws<Error>([&] { slice(i4.matrix(), beyond, {0, 256}); }, "rows beyond the matrix");
  check_throws<Error>([&] { slice(i4.matrix(), none, {0, 256}); }, "no rows");
  check_throws<Error>([&] { slice(sparse.matrix(), all, {0, 256}); }, "a sparse layout");
}

FILIGREE_TEST(partial_sums_of_integers_are_the_whole_sum) {
  Random random(33);
  MemoryRows rows(70, 512);
  rows.randomize_codes(random, {8, 0, false}, 0.5, false);
  for (float& scale : rows.scale) scale = 1;
  for (size_t i = 0; i < rows.values.size(); ++i) rows.values[i] = rows.code[i];
  const PackedMatrix whole = pack_rows(rows, Format::i8, Layout::dense);
  const CpuFeatures cpu = detect_cpu();
  constexpr uint32_t kTokens = 3, kCut = 212;
  std::vector<int8_t> x(kTokens * 1024);
  for (int8_t& v : x) v = static_cast<int8_t>(random.below(255) - 127);
  const std::vector<float> ones(kTokens, 1.0f);
  const auto product = [&](const linear::Matrix& m, uint32_t first) {
    std::vector<int8_t> input(kTokens * 1024);  // zero beyond the columns
    for (uint32_t t = 0; t < kTokens; ++t)
      std::copy_n(x.begin() + t * 1024 + first, m.cols, input.begin() + t * 1024);
    linear::Input in;
    in.tokens = kTokens, in.stride = 1024, in.i8 = input.data(), in.scales = ones.data();
    return run_variant(linear::make_plan(m, cpu).pick(kTokens), m, in);
  };
  const std::vector<Range> all = {{0, 70}};
  const PackedMatrix low = slice(whole.matrix(), all, {0, kCut}),
                     high = slice(whole.matrix(), all, {kCut, 512});
  const std::vector<float> want = product(whole.matrix(), 0), a = product(low.matrix(), 0),
                           b = product(high.matrix(), kCut);
  bool same = true;
  for (size_t i = 0; i < want.size(); ++i) same = same && a[i] + b[i] == want[i];
  check(same, "i8, bit for bit");
}

// A model of random values: every tensor is drawn from a seed of its own.
ModelDescription random_model(const ModelConfig& config) {
  ModelDescription model;
  model.config = config;
  const auto add = [&](std::string name, std::vector<uint64_t> shape) {
    TensorDesc t;
    t.name = std::move(name), t.shape = std::move(shape), t.encoding = "random";
    t.seed = model.tensors.size() + 1;
    t.zeros = t.shape.size() == 2 ? 0.5 : 0;
    model.tensors.push_back(std::move(t));
  };
  const ModelConfig& c = config;
  add("model.embed_tokens.weight", {c.vocabulary, c.hidden});
  if (!c.tied_head) add("lm_head.weight", {c.vocabulary, c.hidden});
  add("model.norm.weight", {c.hidden});
  for (uint32_t l = 0; l < c.layers; ++l) {
    const std::string layer = "model.layers." + std::to_string(l) + ".", self = layer + "self_attn.";
    add(layer + "input_layernorm.weight", {c.hidden});
    add(layer + "post_attention_layernorm.weight", {c.hidden});
    const std::pair<const char*, uint32_t> projections[] = {
        {"q", c.q_cols()}, {"k", c.kv_cols()}, {"v", c.kv_cols()}};
    for (const auto& [name, rows] : projections) {
      add(self + name + "_proj.weight", {rows, c.hidden});
      if (c.qkv_bias) add(self + name + "_proj.bias", {rows});
    }
    add(self + "o_proj.weight", {c.hidden, c.q_cols()});
    add(layer + "mlp.gate_proj.weight", {c.intermediate, c.hidden});
    add(layer + "mlp.up_proj.weight", {c.intermediate, c.hidden});
    add(layer + "mlp.down_proj.weight", {c.hidden, c.intermediate});
  }
  return model;
}

using Rows = std::vector<std::vector<double>>;  // [token][column]

Rows project(const Projection& p, const Rows& x) {
  Rows out(x.size());
  for (size_t t = 0; t < x.size(); ++t) {
    for (const Projection::Part& part : p.parts) {
      const linear::Matrix& m = part.packed.matrix();
      const std::vector<float> weights = unpacked(m);
      for (uint32_t r = 0; r < m.rows; ++r) {
        double sum = p.bias.empty() ? 0 : double{p.bias[part.column + r]};
        for (uint32_t k = 0; k < m.cols; ++k) sum += double{weights[size_t{r} * m.cols + k]} * x[t][k];
        out[t].push_back(sum);
      }
    }
  }
  return out;
}

Rows normed(const Rows& h, const std::vector<float>& weight) {
  Rows out = h;
  for (std::vector<double>& row : out) {
    double squares = 0;
    for (const double v : row) squares += v * v;
    for (size_t i = 0; i < row.size(); ++i)
      row[i] *= double{weight[i]} / std::sqrt(squares / static_cast<double>(row.size()) + 1e-6);
  }
  return out;
}

// Causal, without rotary embedding: that knows nothing of other heads.
Rows attend(const Rows& qkv, uint32_t heads, uint32_t kv_heads, uint32_t dim) {
  Rows out(qkv.size(), std::vector<double>(heads * dim));
  for (size_t t = 0; t < qkv.size(); ++t) {
    for (uint32_t h = 0; h < heads; ++h) {
      const uint32_t key = heads * dim + h / (heads / kv_heads) * dim, value = key + kv_heads * dim;
      std::vector<double> scores(t + 1);
      double total = 0;
      for (size_t p = 0; p <= t; ++p) {
        for (uint32_t d = 0; d < dim; ++d) scores[p] += qkv[t][h * dim + d] * qkv[p][key + d];
        total += scores[p] = std::exp(scores[p]);
      }
      for (size_t p = 0; p <= t; ++p) {
        for (uint32_t d = 0; d < dim; ++d) out[t][h * dim + d] += scores[p] / total * qkv[p][value + d];
      }
    }
  }
  return out;
}

// The logits of some tokens as `ranks` threads compute them, meeting where a device would all-reduce.
Rows decode(const ModelConfig& c, const ModelWeights& weights, uint32_t ranks) {
  const Partition partition(c, weights, ranks);
  const CpuFeatures cpu = detect_cpu();
  const std::vector<float> table = unpacked(weights.embedding_matrix());
  Rows tokens;
  for (const size_t id : {3, 17, 80, 17, 5})
    tokens.emplace_back(table.begin() + static_cast<ptrdiff_t>(id * c.hidden),
                        table.begin() + static_cast<ptrdiff_t>((id + 1) * c.hidden));
  std::vector<Rows> partial(ranks), logits(ranks);
  std::barrier meet(static_cast<ptrdiff_t>(ranks));
  const auto run = [&](uint32_t rank) {
    Rows h = tokens;
    const auto add_all = [&](Rows mine) {
      partial[rank] = std::move(mine);
      meet.arrive_and_wait();
      for (const Rows& of : partial) {
        for (size_t t = 0; t < h.size(); ++t) {
          for (size_t i = 0; i < h[t].size(); ++i) h[t][i] += of[t][i];
        }
      }
      meet.arrive_and_wait();
    };
    for (const LayerWeights& whole : weights.layers) {
      const LayerWeights layer = partition.layer(whole, rank, cpu);
      const Rows qkv = project(layer.qkv, normed(h, layer.attention_norm));
      add_all(project(layer.output, attend(qkv, partition.heads(rank).size(), partition.kv_heads(rank).size(),
                                           c.head_dim)));
      Rows gate_up = project(layer.gate_up, normed(h, layer.ffn_norm)), ffn(gate_up.size());
      const uint32_t columns = partition.ffn(rank).size();
      for (size_t t = 0; t < ffn.size(); ++t) {
        for (uint32_t i = 0; i < columns; ++i) {
          const double gate = gate_up[t][layer.interleaved ? i / 16 * 32 + i % 16 : i];
          const double up = gate_up[t][layer.interleaved ? i / 16 * 32 + 16 + i % 16 : columns + i];
          ffn[t].push_back(gate / (1 + std::exp(-gate)) * up);
        }
      }
      add_all(project(layer.down, ffn));
    }
    const Projection head = partition.head(weights.head, rank, cpu);
    check_equal(head.out, partition.vocabulary(rank).size());
    logits[rank] = project(head, normed(h, weights.final_norm));
  };
  std::vector<std::thread> threads;
  for (uint32_t rank = 0; rank < ranks; ++rank) threads.emplace_back(run, rank);
  for (std::thread& thread : threads) thread.join();
  Rows all(tokens.size());
  for (const Rows& of : logits) {
    for (size_t t = 0; t < all.size(); ++t) all[t].insert(all[t].end(), of[t].begin(), of[t].end());
  }
  return all;
}

ModelConfig small_config() {
  ModelConfig c;
  c.hidden = 64, c.layers = 2, c.heads = 12, c.kv_heads = 6, c.head_dim = 32, c.vocabulary = 101;
  c.intermediate = 392;  // no multiple of 16, 32 or 128: the last share is ragged
  c.qkv_bias = true;
  return c;
}

ModelWeights dense_weights(const ModelDescription& model, WeightChoice choice) {
  WeightOptions options;
  options.matrices = choice;
  options.head = choice == WeightChoice::i4 ? WeightChoice::i8 : choice;
  options.dense = true;
  ThreadPool pool(1);
  return load_weights(model, options, detect_cpu(), pool, {});
}

FILIGREE_TEST(a_divided_model_computes_what_the_whole_one_does) {
  ModelConfig config = small_config();
  for (const WeightChoice choice :
       {WeightChoice::f32, WeightChoice::bf16, WeightChoice::i8, WeightChoice::i4}) {
    config.tied_head = choice == WeightChoice::bf16;
    const ModelWeights weights = dense_weights(random_model(config), choice);
    const Rows whole = decode(config, weights, 1);
    check_equal(whole[0].size(), size_t{config.vocabulary});
    for (const uint32_t ranks : {2u, 3u}) {
      // i4 comes in groups of 128, and the output projection has 384 columns.
      if (choice == WeightChoice::i4 && ranks == 2) continue;
      const Rows divided = decode(config, weights, ranks);
      double worst = 0, size = 0;
      for (size_t t = 0; t < whole.size(); ++t) {
        for (size_t i = 0; i < whole[t].size(); ++i) {
          worst = std::max(worst, std::abs(whole[t][i] - divided[t][i]));
          size = std::max(size, std::abs(whole[t][i]));
        }
      }
      // Sums in double, in another order.
      check(worst < 1e-12 * std::max(size, 1.0), std::to_string(ranks) + " ranks");
    }
  }
}

FILIGREE_TEST(one_device_takes_columns_of_any_number) {
  ModelConfig config = small_config();
  config.heads = 9, config.kv_heads = 3;  // 288 columns: no whole groups of 128
  const ModelWeights weights = dense_weights(random_model(config), WeightChoice::i4);
  const Partition whole(config, weights, 1);
  check_equal(whole.heads(0).size(), 9u);
  check_throws<Error>([&] { Partition(config, weights, 3); }, "groups of the output projection");
}

FILIGREE_TEST(what_does_not_divide_is_refused) {
  const ModelConfig config = small_config();
  const ModelDescription model = random_model(config);
  const ModelWeights bf16 = dense_weights(model, WeightChoice::bf16),
                     i4 = dense_weights(model, WeightChoice::i4);
  check_throws<Error>([&] { Partition(config, bf16, 5); }, "heads");
  check_throws<Error>([&] { Partition(config, bf16, 4); }, "KV heads");
  check_throws<Error>([&] { Partition(config, i4, 2); }, "groups of the output projection");
  check_throws<Error>([&] { Partition(config, i4, 6); }, "groups of the feed-forward layer");
}

}  // namespace
}  // namespace filigree::test
