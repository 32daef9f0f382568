#include "binding/js_config.h"

#include <limits>

#include "base/status.h"

namespace filigree::js {
namespace {

constexpr int64_t kSafe = int64_t{1} << 53;
constexpr int64_t kInt32 = std::numeric_limits<int32_t>::max();

uint32_t u32(const Field& field, int64_t low = 1) {
  return static_cast<uint32_t>(field.integer(low, kInt32));
}

int32_t i32(const Field& field) { return static_cast<int32_t>(field.integer(1, kInt32)); }

template <typename T>
T one_of(const Field& field, std::initializer_list<std::pair<const char*, T>> names) {
  const std::string text = field.string();
  std::string known;
  for (const auto& [name, value] : names) {
    if (text == name) return value;
    known += known.empty() ? name : std::string(", ") + name;
  }
  field.fail("one of " + known);
}

std::vector<uint64_t> shape(const Field& field) {
  std::vector<uint64_t> out;
  for (const Field& item : field.items()) out.push_back(static_cast<uint64_t>(item.integer(0, kSafe)));
  return out;
}

RopeConfig rope_config(const Field& config) {
  const Field scaling = config["ropeScaling"];
  RopeConfig rope;
  rope.kind = one_of<RopeKind>(scaling["kind"], {{"none", RopeKind::none},
                                                 {"linear", RopeKind::linear},
                                                 {"dynamic", RopeKind::dynamic},
                                                 {"llama3", RopeKind::llama3},
                                                 {"yarn", RopeKind::yarn},
                                                 {"longrope", RopeKind::longrope}});
  rope.head_dim = static_cast<int>(config["headDim"].integer(1, 1 << 20));
  rope.theta = config["ropeTheta"].number();
  rope.max_position_embeddings = config["maxPositionEmbeddings"].integer(1, kSafe);
  rope.factor = scaling["factor"].number_or(1);
  rope.low_freq_factor = scaling["lowFreqFactor"].number_or(rope.low_freq_factor);
  rope.high_freq_factor = scaling["highFreqFactor"].number_or(rope.high_freq_factor);
  rope.original_max_position = scaling["originalMaxPosition"].integer_or(0, 0, kSafe);
  rope.attention_factor = scaling["attentionFactor"].number_or(0);
  rope.beta_fast = scaling["betaFast"].number_or(0);
  rope.beta_slow = scaling["betaSlow"].number_or(0);
  rope.short_factor = scaling["shortFactor"].numbers_or_empty();
  rope.long_factor = scaling["longFactor"].numbers_or_empty();
  return rope;
}

}  // namespace

TensorDesc tensor_desc(const Field& entry) {
  TensorDesc desc;
  desc.name = entry["name"].string();
  desc.shape = shape(entry["shape"]);
  desc.encoding = entry["encoding"].string();
  const Field parts = entry["parts"];
  for (const std::string& key : parts.keys()) {
    const Field part = parts[key.c_str()];
    desc.parts[key] = {static_cast<int>(part["file"].integer(0, kInt32)),
                       static_cast<uint64_t>(part["offset"].integer(0, kSafe)),
                       static_cast<uint64_t>(part["bytes"].integer(0, kSafe)), part["dtype"].string(),
                       shape(part["shape"])};
  }
  desc.group_size = static_cast<int>(entry["groupSize"].integer_or(0, 0, kInt32));
  desc.symmetric = entry["symmetric"].boolean_or(true);
  desc.bits = static_cast<int>(entry["bits"].integer_or(0, 0, 64));
  desc.permuted_heads = static_cast<int>(entry["permutedHeads"].integer_or(0, 0, kInt32));
  if (const Field random = entry["random"]; !random.absent()) {
    desc.seed = static_cast<uint64_t>(random["seed"].integer(0, kSafe));
    desc.zeros = random["zeros"].number();
  }
  return desc;
}

std::vector<std::string> file_paths(const Field& files) {
  std::vector<std::string> paths;
  for (const Field& file : files.items()) paths.push_back(file.string());
  return paths;
}

ModelDescription model_description(const Field& manifest) {
  const Field config = manifest["config"];
  ModelDescription model;
  ModelConfig& c = model.config;
  c.hidden = u32(config["hiddenSize"]);
  c.intermediate = u32(config["intermediateSize"]);
  c.layers = u32(config["numLayers"]);
  c.heads = u32(config["numHeads"]);
  c.kv_heads = u32(config["numKvHeads"]);
  c.head_dim = u32(config["headDim"]);
  c.vocabulary = u32(config["vocabSize"]);
  c.norm_eps = static_cast<float>(config["rmsNormEps"].number());
  c.sliding_window = static_cast<uint32_t>(config["slidingWindow"].integer_or(0, 0, kInt32));
  c.tied_head = config["tieWordEmbeddings"].boolean();
  c.qkv_bias = config["qkvBias"].boolean();
  c.rope = rope_config(config);
  for (const Field& file : manifest["files"].items()) model.files.push_back(file["path"].string());
  for (const Field& entry : manifest["tensors"].items()) model.tensors.push_back(tensor_desc(entry));
  model.source_key = manifest["sourceKey"].string();
  return model;
}

namespace {

AdapterDescription adapter_description(const Field& adapter) {
  AdapterDescription out;
  out.name = adapter["name"].string();
  out.files = file_paths(adapter["files"]);
  for (const Field& pair : adapter["pairs"].items()) {
    const auto target = one_of<Target>(pair["target"], {{"q_proj", Target::q},
                                                        {"k_proj", Target::k},
                                                        {"v_proj", Target::v},
                                                        {"o_proj", Target::o},
                                                        {"gate_proj", Target::gate},
                                                        {"up_proj", Target::up},
                                                        {"down_proj", Target::down}});
    out.pairs.push_back({u32(pair["layer"], 0), target, static_cast<float>(pair["scale"].number()),
                         tensor_desc(pair["a"]), tensor_desc(pair["b"])});
  }
  return out;
}

}  // namespace

EngineOptions engine_options(const Field& options) {
  const auto weights = [](const Field& field) {
    return field.absent() ? WeightChoice::automatic
                          : one_of<WeightChoice>(field, {{"auto", WeightChoice::automatic},
                                                         {"f32", WeightChoice::f32},
                                                         {"bf16", WeightChoice::bf16},
                                                         {"i8", WeightChoice::i8},
                                                         {"i4", WeightChoice::i4}});
  };
  EngineOptions out;
  if (const Field device = options["device"]; !device.absent()) {
    out.device =
        one_of<Device>(device, {{"auto", Device::automatic}, {"cpu", Device::cpu}, {"cuda", Device::cuda}});
  }
  out.weights.matrices = weights(options["weights"]);
  const Field head = options["head"];
  // Four bits cost a head and an embedding far more accuracy than memory: by default they stay at eight.
  const WeightChoice same =
      out.weights.matrices == WeightChoice::i4 ? WeightChoice::i8 : out.weights.matrices;
  out.weights.head = head.absent() ? same : weights(head);
  out.weights.dense = options["dense"].boolean_or(false);
  out.weights.cache_folder = options["cacheFolder"].string_or("");
  out.kv = one_of<KvType>(options["kv"], {{"f32", KvType::f32},
                                          {"f16", KvType::f16},
                                          {"bf16", KvType::bf16},
                                          {"i8", KvType::i8},
                                          {"fp8", KvType::fp8}});
  out.threads = static_cast<int>(options["threads"].integer_or(0, 0, 1024));
  out.isa = options["isa"].string_or("auto");
  out.deterministic = options["deterministic"].boolean_or(false);
  if (!options["lookAhead"].absent()) out.look_ahead = options["lookAhead"].boolean_or(false);
  out.max_model_len = i32(options["maxModelLen"]);
  out.max_slots = i32(options["maxSlots"]);
  out.max_batched_tokens = i32(options["maxBatchedTokens"]);
  out.kv_bytes = static_cast<uint64_t>(options["kvBytes"].integer(1, kSafe));
  out.kv_at_most = options["kvAtMost"].boolean_or(false);
  out.gpu_plans = options["gpuPlans"].string_or("");
  out.tensor_parallel = static_cast<uint32_t>(options["tensorParallel"].integer_or(1, 1, 64));
  if (const Field adapters = options["adapters"]; !adapters.absent()) {
    for (const Field& adapter : adapters.items()) out.adapters.push_back(adapter_description(adapter));
  }
  return out;
}

SamplingParams sampling_params(const Field& params, int64_t vocabulary) {
  SamplingParams out;
  out.temperature = static_cast<float>(params["temperature"].number());
  out.top_k = static_cast<int32_t>(params["topK"].integer(-1, kInt32));
  out.top_p = static_cast<float>(params["topP"].number());
  out.min_p = static_cast<float>(params["minP"].number());
  out.repetition_penalty = static_cast<float>(params["repetitionPenalty"].number());
  out.frequency_penalty = static_cast<float>(params["frequencyPenalty"].number());
  out.presence_penalty = static_cast<float>(params["presencePenalty"].number());
  for (const Field& pair : params["logitBias"].items()) {
    const std::vector<Field> both = pair.items();
    if (both.size() != 2) pair.fail("a pair [id, bias]");
    out.logit_bias.emplace_back(static_cast<int32_t>(both[0].integer(0, vocabulary - 1)),
                                static_cast<float>(both[1].number()));
  }
  out.seed = params["seed"].bigint();
  out.logprobs = static_cast<int32_t>(params["logprobs"].integer(-1, 4096));
  out.prompt_logprobs = static_cast<int32_t>(params["promptLogprobs"].integer(-1, 4096));
  out.prompt_logprobs_from = static_cast<int32_t>(params["promptLogprobsFrom"].integer_or(1, 1, kInt32));
  out.pooling = one_of<Pooling>(params["pooling"],
                                {{"none", Pooling::none}, {"mean", Pooling::mean}, {"last", Pooling::last}});
  out.min_tokens = static_cast<int32_t>(params["minTokens"].integer(0, kInt32));
  out.suppressed_until_min = params["suppressedUntilMin"].ids(vocabulary);
  if (const Field allowed = params["allowedTokenIds"]; !allowed.absent())
    out.allowed_token_ids = allowed.ids(vocabulary);
  for (const Field& word : params["badWords"].items()) out.bad_words.push_back(word.ids(vocabulary));
  return out;
}

}  // namespace filigree::js
