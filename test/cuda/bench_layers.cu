// filigree_cuda_layers_bench: what a step does between its linear layers, on the shape of Llama-2-7B: attention over a paged cache, of decoding
// (GB/s are of keys and values) and of prompts (TFLOP/s are of what is not masked), norms, and digests of logits. Layers' caches rotate past
// the L2; all launches stand in one CUDA graph, those of decoding dependent on each other as in a step.
//   --context 576   --rows 1,16   --kv f16,fp8   --kv-heads 8   --split 64 (at most so many positions; else what decode_split() says)
//   --what decoding,prompts,digests
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "attention_problem.h"
#include "cuda/digest.h"
#include "cuda/layers.h"
#include "cuda/memory.h"
#include "replays.h"

namespace filigree::cuda {
namespace {

constexpr uint32_t kHeads = 32, kDim = 128, kHidden = kHeads * kDim, kLayers = 16;

// Once outside the graph, then in it.
double each_us(cudaStream_t stream, int launches, const std::function<void(int)>& launch) {
  const auto all = [&] {
    for (int i = 0; i < launches; ++i) launch(i);
    return true;
  };
  all();
  check(cudaStreamSynchronize(stream), "launches");
  return test::replay_us(stream, 9, all) / launches;
}

// Rows of random numbers all over a cache, 64 blocks of a head again and again.
void fill(const DeviceBuffer& cache, KvElement element) {
  constexpr uint32_t kHeadBlocks = 64;
  const size_t head_bytes = kv_head_bytes(element, kDim);
  std::vector<uint8_t> some(kHeadBlocks * head_bytes);
  test::Random random{7};
  std::vector<float> row(kDim);
  for (uint32_t i = 0; i < kHeadBlocks * kBlockTokens; ++i) {
    uint8_t* const head = &some[i / kBlockTokens * head_bytes];
    const uint32_t slot = i % kBlockTokens, row_bytes = kDim * kv_element_bytes(element);
    float scale = 0;
    for (float& v : row) v = random.normal();
    test::store_row(element, row.data(), kDim, head + slot * row_bytes, &scale);
    if (kv_element_bytes(element) == 1) std::memcpy(head + kBlockTokens * row_bytes + slot * 4, &scale, 4);
  }
  for (size_t at = 0; at < cache.size(); at += some.size())
    check(cudaMemcpy(cache.as<uint8_t>() + at, some.data(), std::min(some.size(), cache.size() - at),
                     cudaMemcpyHostToDevice),
          "filling a cache");
}

struct Load {
  uint32_t context = 576, split = 0, kv_heads = kHeads;
};

void measure(KvElement element, const char* name, uint32_t rows, const Load& load) {
  const uint32_t context = load.context, kv_heads = load.kv_heads,
                 qkv_stride = (kHeads + 2 * kv_heads) * kDim;
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  const uint32_t blocks = (context + kBlockTokens - 1) / kBlockTokens;
  const size_t layer_bytes = size_t{rows} * blocks * kv_heads * kv_head_bytes(element, kDim);
  const DeviceBuffer keys(layer_bytes * kLayers), values(layer_bytes * kLayers);
  fill(keys, element), fill(values, element);
  std::vector<int32_t> tables(size_t{rows} * blocks), positions(rows, static_cast<int32_t>(context) - 1),
      ids(rows);
  for (size_t i = 0; i < tables.size(); ++i) tables[i] = static_cast<int32_t>(i * 7 % tables.size());
  for (uint32_t r = 0; r < rows; ++r) ids[r] = static_cast<int32_t>(r);
  DeviceBuffer d_tables(tables.size() * 4), d_positions(rows * 4), d_ids(rows * 4);
  d_tables.upload(tables.data(), tables.size() * 4), d_positions.upload(positions.data(), rows * 4);
  d_ids.upload(ids.data(), rows * 4);
  const StepRows step{d_ids.as<int32_t>(), d_positions.as<int32_t>(), d_ids.as<int32_t>(),
                      d_tables.as<int32_t>(), blocks};
  const AttentionShape shape{kHeads, 0.0883883f, 0, 256};
  int multiprocessors = 0;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0), "device");
  const uint32_t split =
      load.split ? load.split : decode_split(rows, kv_heads, context, static_cast<uint32_t>(multiprocessors));
  const uint32_t splits = (context + split - 1) / split;
  DeviceBuffer qkv(size_t{rows} * qkv_stride * 4), angles(kDim * 2);
  const DeviceBuffer hidden(size_t{rows} * kHidden * 4), weight(kHidden * 4),
      partials(attention_floats(shape, kDim, rows * splits) * 4), arrivals(size_t{rows} * kHeads * 4),
      attended(size_t{rows} * kHidden * 2), normed(size_t{rows} * kHidden * 2);
  std::vector<float> projected(size_t{rows} * qkv_stride), frequencies(kDim / 2);
  test::Random random{9};
  for (float& v : projected) v = random.normal();
  for (uint32_t i = 0; i < kDim / 2; ++i)
    frequencies[i] = static_cast<float>(std::pow(10000.0, -2.0 * i / kDim));
  qkv.upload(projected.data(), projected.size() * 4),
      angles.upload(frequencies.data(), frequencies.size() * 4);
  const auto attention = [&](int l) {
    const KvPages pages{element, kv_heads, kDim, keys.as<uint8_t>() + static_cast<size_t>(l) * layer_bytes,
                        values.as<uint8_t>() + static_cast<size_t>(l) * layer_bytes};
    check(decode_attend(step, rows, shape, {qkv.as<float>(), qkv_stride, angles.as<float>(), 1, split}, pages,
                        splits, partials.as<float>(), arrivals.as<uint32_t>(), attended.data(), kHidden, true,
                        stream),
          "attention");
  };
  const auto norm = [&] {
    check(rms_norm(hidden.as<float>(), nullptr, rows, weight.as<float>(), 1e-5f, kHidden, normed.data(),
                   kHidden, nullptr, true, stream),
          "norm");
  };
  const double us = each_us(stream, kLayers, attention),
               with_norm = each_us(stream, kLayers, [&](int l) { attention(l), norm(); }),
               norms = each_us(stream, 64, [&](int) { norm(); });
  const double bytes = 2.0 * rows * context * kv_heads * kv_head_bytes(element, kDim) / kBlockTokens;
  std::printf(
      "%-4s cache, %2u sequences of %u, splits of %u: attention %6.2f us, %5.0f GB/s; with a norm after it "
      "%6.2f us; norm %5.2f us\n",
      name, rows, context, split, us, bytes / us * 1e-3, with_norm, norms);
  cudaStreamDestroy(stream);
}

// Rows of prompts, `tokens` of each from position `from` on; single: as --deterministic decodes a token of each.
struct PromptLoad {
  uint32_t prompts, tokens, from;
  bool single = false;
};

void measure_prompts(KvElement element, const char* name, uint32_t kv_heads, const PromptLoad& load) {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  const uint32_t context = load.from + load.tokens, blocks = (context + kBlockTokens - 1) / kBlockTokens,
                 rows = load.prompts * load.tokens;
  const size_t layer_bytes = size_t{load.prompts} * blocks * kv_heads * kv_head_bytes(element, kDim);
  const DeviceBuffer keys(layer_bytes * kLayers), values(layer_bytes * kLayers);
  fill(keys, element), fill(values, element);
  std::vector<int32_t> block_tables(size_t{load.prompts} * blocks), positions, tables;
  for (size_t i = 0; i < block_tables.size(); ++i)
    block_tables[i] = static_cast<int32_t>(i * 7 % block_tables.size());
  std::vector<AttentionRun> runs;
  double seen = 0;
  for (uint32_t p = 0; p < load.prompts; ++p) {
    runs.push_back({p * load.tokens, load.tokens, load.from});
    for (uint32_t at = load.from; at < context; ++at)
      positions.push_back(static_cast<int32_t>(at)), tables.push_back(static_cast<int32_t>(p)),
          seen += at + 1;
  }
  const AttentionShape shape{kHeads, 0.0883883f, 0, 512};
  int multiprocessors = 0;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0), "device");
  AttentionPlan plan;
  if (load.single) {
    plan_single_rows(positions.data(), rows, (context + 511) / 512, &plan);
  } else {
    plan_attention(
        runs, {kHeads / kv_heads, kv_heads, shape.split_positions, 0, static_cast<uint32_t>(multiprocessors)},
        &plan);
  }
  std::vector<float> queries(size_t{rows} * kHidden);
  test::Random random{9};
  for (float& v : queries) v = random.normal();
  DeviceBuffer d_block_tables(block_tables.size() * 4), d_positions(rows * 4), d_tables(rows * 4),
      d_tiles(plan.tiles.size() * sizeof(AttentionTile)), q(queries.size() * 4);
  d_block_tables.upload(block_tables.data(), block_tables.size() * 4);
  d_positions.upload(positions.data(), rows * 4), d_tables.upload(tables.data(), rows * 4);
  d_tiles.upload(plan.tiles.data(), plan.tiles.size() * sizeof(AttentionTile));
  q.upload(queries.data(), queries.size() * 4);
  const DeviceBuffer partials(attention_floats(shape, kDim, plan.slots) * 4),
      arrivals(plan.tiles.size() * kv_heads * 4), attended(size_t{rows} * kHidden * 2);
  const StepRows step{nullptr, d_positions.as<int32_t>(), d_tables.as<int32_t>(),
                      d_block_tables.as<int32_t>(), blocks};
  const auto pages = [&](int l) {
    const size_t at = static_cast<size_t>(l) * layer_bytes;
    return KvPages{element, kv_heads, kDim, keys.as<uint8_t>() + at, values.as<uint8_t>() + at};
  };
  const double us = each_us(stream, kLayers, [&](int l) {
    check(attend(step, {d_tiles.as<AttentionTile>(), static_cast<uint32_t>(plan.tiles.size()), plan.splits},
                 shape, q.as<float>(), pages(l), partials.as<float>(), arrivals.as<uint32_t>(),
                 attended.data(), kHidden, load.single, stream),
          "attention");
  });
  const double flop = 4.0 * kDim * kHeads * seen;
  std::printf("%-4s cache, %2u KV heads, %2u x %4u rows from %4u%s: %8.2f us, %6.1f TFLOP/s%s\n", name,
              kv_heads, load.prompts, load.tokens, load.from, load.single ? ", single" : "", us,
              flop / us * 1e-6, plan.splits > 1 ? ", divided" : "");
  cudaStreamDestroy(stream);
}

// As after the head: the logits lie in the L2.
void measure_digests(uint32_t rows, uint32_t vocabulary) {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  std::vector<float> values(size_t{rows} * vocabulary);
  uint32_t seed = 1;
  for (float& v : values) v = static_cast<float>((seed = seed * 1664525 + 1013904223) >> 8) * 0x1p-21f;
  DeviceBuffer logits(values.size() * sizeof(float));
  logits.upload(values.data(), values.size() * sizeof(float));
  const PinnedBuffer wanted(rows * sizeof(DigestWanted)), digests(rows * sizeof(LogitDigest));
  std::printf("digests of %u rows of %u logits:", rows, vocabulary);
  for (const auto& [name, digest] : {std::pair{"greedy", DigestWanted{1, 0, -1}},
                                     {"temperature", DigestWanted{1, 1, 0.5}},
                                     {"top_k 64", DigestWanted{64, 0, -1}},
                                     {"top_p", DigestWanted{kMostLargest, 1, -1}}}) {
    std::fill_n(wanted.as<DigestWanted>(), rows, digest);
    const double us = each_us(stream, 16, [&](int) {
      check(digest_logits(logits.as<float>(), rows, vocabulary, wanted.as<DigestWanted>(),
                          digests.as<LogitDigest>(), true, stream),
            "digests");
    });
    std::printf(" %s %.2f us", name, us);
  }
  std::printf("\n");
  cudaStreamDestroy(stream);
}

bool names(const std::string& list, const char* one) {
  return ("," + list + ",").find("," + std::string(one) + ",") != std::string::npos;
}

int run(int argc, char** argv) {
  std::string rows = "1,16,32", kv = "f16,fp8", what = "decoding,prompts,digests";
  Load load;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i];
    if (key == "--context") {
      load.context = static_cast<uint32_t>(std::max(1, std::atoi(argv[i + 1])));
    } else if (key == "--rows") {
      rows = argv[i + 1];
    } else if (key == "--split") {
      load.split = static_cast<uint32_t>(std::atoi(argv[i + 1]));
    } else if (key == "--kv-heads") {
      load.kv_heads = static_cast<uint32_t>(std::max(1, std::atoi(argv[i + 1])));
    } else if (key == "--kv") {
      kv = argv[i + 1];
    } else if (key == "--what") {
      what = argv[i + 1];
    } else {
      std::fprintf(stderr, "unknown option %s\n", key.c_str());
      return 2;
    }
  }
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0), "device");
  std::printf("%s\n", device.name);
  for (const auto& [name, element] : {std::pair{"f16", KvElement::f16},
                                      {"bf16", KvElement::bf16},
                                      {"i8", KvElement::i8},
                                      {"fp8", KvElement::e4m3}}) {
    if (!names(kv, name)) continue;
    for (const char* at = rows.c_str(); *at && names(what, "decoding");) {
      char* end;
      measure(element, name, static_cast<uint32_t>(std::strtoul(at, &end, 10)), load);
      at = *end ? end + 1 : end;
    }
    if (!names(what, "prompts")) continue;
    for (const uint32_t kv_heads : {32u, 8u}) {
      for (const PromptLoad& prompts : {PromptLoad{1, 512, 0},
                                        {8, 512, 0},
                                        {1, 4096, 0},
                                        {1, 64, 4032},
                                        {1, 1, 575, true},
                                        {16, 1, 575, true}})
        measure_prompts(element, name, kv_heads, prompts);
    }
  }
  for (const uint32_t vocabulary : {49152u, 151936u}) {
    if (names(what, "digests")) measure_digests(16, vocabulary);
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
