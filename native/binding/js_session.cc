#include "binding/js_session.h"

#include "binding/js_config.h"

namespace filigree::js {
namespace {

constexpr int64_t kSafe = int64_t{1} << 53;

FloatType float_type(const Field& field) {
  const std::string name = field.string();
  if (name == "f32") return FloatType::f32;
  if (name == "f16") return FloatType::f16;
  if (name == "bf16") return FloatType::bf16;
  field.fail("one of f32, f16, bf16");
}

Solver solver(const Field& field) {
  const std::string name = field.string();
  if (name == "none") return Solver::none;
  if (name == "magnitude") return Solver::magnitude;
  if (name == "wanda") return Solver::wanda;
  if (name == "sparsegpt") return Solver::sparsegpt;
  if (name == "alps") return Solver::alps;
  field.fail("one of none, magnitude, wanda, sparsegpt, alps");
}

Rounding rounding(const Field& field) {
  const std::string name = field.string();
  if (name == "gptq") return Rounding::gptq;
  if (name == "nearest") return Rounding::nearest;
  if (name == "search") return Rounding::search;
  field.fail("one of gptq, nearest, search");
}

int bits(const Field& field) {
  const int64_t bits = field.integer(0, 8);
  if (bits != 0 && bits != 4 && bits != 8) field.fail("0, 4 or 8");
  return static_cast<int>(bits);
}

PassPrecision pass_precision(const Field& field) {
  const std::string name = field.string();
  if (name == "f32") return PassPrecision::f32;
  if (name == "bf16") return PassPrecision::bf16;
  if (name == "i16") return PassPrecision::i16;
  field.fail("one of f32, bf16, i16");
}

TokenWindows windows(const Field& field) {
  TokenWindows out;
  if (field.absent()) return out;
  out.length = static_cast<uint32_t>(field["length"].integer(1, 1 << 20));
  const std::span<const int32_t> ids = field["ids"].int32_array();
  if (ids.size() % out.length != 0) field.fail("ids of whole windows");
  out.ids.assign(ids.begin(), ids.end());
  return out;
}

// One value for each of a layer's matrices.
template <class Value, class Read>
void each_matrix(const Field& field, std::array<Value, kLayerMatrices>& out, Read read) {
  const std::vector<Field> items = field.items();
  if (items.size() != kLayerMatrices) field.fail("seven values: q, k, v, o, gate, up, down");
  for (size_t i = 0; i < kLayerMatrices; ++i) out[i] = read(items[i]);
}

}  // namespace

SessionOptions session_options(const Field& options) {
  SessionOptions out;
  out.threads = static_cast<int>(options["threads"].integer_or(0, 0, 1024));
  out.isa = options["isa"].string_or("auto");
  out.precision = pass_precision(options["precision"]);
  out.memory = static_cast<uint64_t>(options["memory"].integer_or(0, 0, kSafe));
  out.spill_folder = options["spillFolder"].string_or("");
  out.calibration = windows(options["calibration"]);
  out.held_out = windows(options["heldOut"]);
  out.judge_original = options["judgeOriginal"].boolean_or(true);
  if (!options["mask"].absent()) out.mask = model_description(options["mask"]);
  return out;
}

VocabularyRounding vocabulary_options(const Field& options) {
  VocabularyRounding out;
  out.bits = bits(options["bits"]);
  out.group = static_cast<uint32_t>(options["group"].integer(1, 1 << 20));
  out.rule = scale_rule(rounding(options["rounding"]));
  out.type = float_type(options["dtype"]);
  return out;
}

LayerOptions layer_options(const Field& options) {
  LayerOptions out;
  SolveOptions& s = out.solve;
  s.solver = solver(options["solver"]);
  s.pattern.keep = static_cast<uint32_t>(options["keep"].integer_or(0, 0, 64));
  s.pattern.of = static_cast<uint32_t>(options["of"].integer_or(0, 0, 64));
  s.pattern.block = static_cast<uint32_t>(options["block"].integer_or(1, 1, 64));
  s.keep_mask = options["keepMask"].boolean_or(false);
  s.damping = options["damping"].number_or(0.01);
  s.bits = bits(options["bits"]);
  s.group = static_cast<uint32_t>(options["group"].integer(1, 1 << 20));
  s.rounding = rounding(options["rounding"]);
  out.smooth = options["smooth"].number_or(0);
  out.type = float_type(options["dtype"]);
  each_matrix(options["sparsity"], out.sparsity, [](const Field& f) {
    const double share = f.number();
    if (!(share >= 0 && share < 1)) f.fail("a share of zeros from 0 to below 1");
    return share;
  });
  each_matrix(options["skip"], out.skip, [](const Field& f) { return f.boolean(); });
  return out;
}

Napi::Value to_js(Napi::Env env, const std::vector<EncodedTensor>& tensors) {
  auto out = Napi::Array::New(env);
  for (const EncodedTensor& tensor : tensors) {
    auto shape = Napi::Array::New(env);
    for (const uint64_t d : tensor.shape)
      shape.Set(shape.Length(), Napi::Number::New(env, static_cast<double>(d)));
    auto item = Napi::Object::New(env);
    item.Set("name", tensor.name);
    item.Set("dtype", tensor.dtype);
    item.Set("shape", shape);
    item.Set("data", Napi::Buffer<uint8_t>::Copy(env, reinterpret_cast<const uint8_t*>(tensor.bytes.data()),
                                                 tensor.bytes.size()));
    out.Set(out.Length(), item);
  }
  return out;
}

Napi::Value to_js(Napi::Env env, const LayerResult& result) {
  auto reports = Napi::Array::New(env);
  for (const SolveReport& r : result.reports) {
    const auto number = [&](auto value) { return Napi::Number::New(env, static_cast<double>(value)); };
    auto item = Napi::Object::New(env);
    item.Set("name", r.name);
    item.Set("rows", number(r.rows));
    item.Set("cols", number(r.cols));
    item.Set("zeros", number(r.zeros));
    item.Set("errorPruned", r.error_pruned < 0 ? env.Null() : number(r.error_pruned).As<Napi::Value>());
    item.Set("error", r.error < 0 ? env.Null() : number(r.error).As<Napi::Value>());
    item.Set("damping", number(r.damping));
    item.Set("dead", number(r.dead));
    item.Set("iterations", number(r.iterations));
    item.Set("seconds", number(r.seconds));
    reports.Set(reports.Length(), item);
  }
  auto out = Napi::Object::New(env);
  out.Set("reports", reports);
  out.Set("tensors", to_js(env, result.tensors));
  return out;
}

Napi::Value numbers(Napi::Env env, const std::array<double, kLayerMatrices>& values) {
  auto out = Napi::Array::New(env);
  for (const double value : values) out.Set(out.Length(), Napi::Number::New(env, value));
  return out;
}

}  // namespace filigree::js
