#include "binding/kernel_bench.h"

#include <memory>
#include <mutex>

#include "base/cpu_features.h"
#include "base/file.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "binding/js_config.h"
#include "binding/task.h"
#include "engine/backend.h"
#include "formats/pack.h"
#include "kernels/linear/measure.h"
#include "kernels/peak/peak.h"

namespace filigree::js {
namespace {

using linear::Format;
using linear::Layout;

// Work runs on Node's pool: a measurement and close() may meet, and the mutex decides who is first.
struct KernelMatrix {
  std::mutex mutex;
  std::unique_ptr<ThreadPool> threads;
  PackedMatrix packed;  // empty after close()
};

template <typename Enum, size_t N>
Enum one_of(const Field& field, const Enum (&values)[N]) {
  const std::string name = field.string();
  std::string known;
  for (const Enum value : values) {
    if (name == linear::name_of(value)) return value;
    known += (known.empty() ? "" : ", ") + std::string(linear::name_of(value));
  }
  field.fail("one of " + known);
}

Format format_field(const Field& field) {
  return one_of(field, {Format::f32, Format::bf16, Format::i8, Format::i4g32, Format::i4g128});
}

Layout layout_field(const Field& field) {
  return one_of(field, {Layout::dense, Layout::bitmask, Layout::slots16, Layout::slots8, Layout::pairs});
}

const linear::Variant& variant_named(const std::string& name, const linear::Matrix& m) {
  size_t count = 0;
  const linear::Variant* all = linear::variants(&count);
  const CpuFeatures cpu = detect_cpu();
  for (size_t i = 0; i < count; ++i) {
    const linear::Variant& v = all[i];
    if (name == v.name && v.format == m.format && v.layout == m.layout && v.supported(cpu)) return v;
  }
  throw Error(ErrorCode::invalid_argument, "no kernel '" + name + "' for " + linear::name_of(m.format) + " " +
                                               linear::name_of(m.layout) + " runs on this processor");
}

Napi::Value measure(const Napi::CallbackInfo& info, const std::shared_ptr<KernelMatrix>& matrix) {
  const auto tokens = static_cast<uint32_t>(Field(info[1], "tokens").integer(1, 1 << 16));
  const auto rounds = static_cast<int>(Field(info[2], "rounds").integer(1, 10000));
  return Task<double>::run(
      info.Env(),
      [=, name = Field(info[0], "kernel").string()] {
        const std::lock_guard lock(matrix->mutex);
        if (matrix->packed.empty()) throw Error(ErrorCode::invalid_argument, "the matrix was closed");
        const linear::Matrix& m = matrix->packed.matrix();
        const linear::Variant& v = variant_named(name, m);
        if (tokens < v.min_tokens || tokens > v.max_tokens)
          throw Error(ErrorCode::invalid_argument, name + " does not serve that many tokens");
        return linear::measure(m, v, tokens, *matrix->threads, rounds).median;
      },
      [](Napi::Env env, const double& seconds) -> Napi::Value { return Napi::Number::New(env, seconds); });
}

struct Tuned {
  std::vector<GpuLaunch> launches;
  std::string plans;
};

Napi::Value tune(const Napi::CallbackInfo& info, const std::shared_ptr<KernelMatrix>& matrix) {
  return Task<Tuned>::run(
      info.Env(),
      [=, plans = Field(info[0], "plans").string()]() mutable {
        const std::lock_guard lock(matrix->mutex);
        if (matrix->packed.empty()) throw Error(ErrorCode::invalid_argument, "the matrix was closed");
        Tuned tuned;
        tuned.launches = tune_gpu(matrix->packed.matrix(), plans);
        tuned.plans = std::move(plans);
        return tuned;
      },
      [](Napi::Env env, const Tuned& tuned) -> Napi::Value {
        auto launches = Napi::Array::New(env);
        for (const GpuLaunch& l : tuned.launches) {
          auto launch = Napi::Object::New(env);
          launch.Set("tokens", Napi::Number::New(env, l.tokens));
          launch.Set("plannedUs", Napi::Number::New(env, l.planned_us));
          launch.Set("bestUs", Napi::Number::New(env, l.best_us));
          launch.Set("layout", l.layout);
          launches.Set(launches.Length(), launch);
        }
        auto out = Napi::Object::New(env);
        out.Set("launches", launches);
        out.Set("plans", tuned.plans);
        return out;
      });
}

Napi::Value to_js(Napi::Env env, const std::shared_ptr<KernelMatrix>& matrix) {
  const linear::Matrix& m = matrix->packed.matrix();
  const auto number = [&](auto value) { return Napi::Number::New(env, static_cast<double>(value)); };
  auto out = Napi::Object::New(env);
  out.Set("rows", number(m.rows));
  out.Set("cols", number(m.cols));
  out.Set("stored", number(m.stored));
  out.Set("bytes", number(m.bytes));
  out.Set("measure",
          Napi::Function::New(
              env, [matrix](const Napi::CallbackInfo& info) { return measure(info, matrix); }, "measure"));
  out.Set("tune", Napi::Function::New(
                      env, [matrix](const Napi::CallbackInfo& info) { return tune(info, matrix); }, "tune"));
  out.Set("close", Napi::Function::New(
                       env,
                       [matrix](const Napi::CallbackInfo&) {
                         const std::lock_guard lock(matrix->mutex);
                         matrix->packed = {};
                       },
                       "close"));
  return out;
}

Napi::Value pack_kernel_matrix(const Napi::CallbackInfo& info) {
  std::vector<TensorDesc> tensors;
  for (const Field& entry : Field(info[0], "tensors").items()) tensors.push_back(tensor_desc(entry));
  const Field options(info[2], "options");
  PackOptions pack_options;
  pack_options.format = format_field(options["format"]);
  pack_options.layout = layout_field(options["layout"]);
  const auto threads = static_cast<int>(options["threads"].integer(1, 1024));
  return Task<std::shared_ptr<KernelMatrix>>::run(
      info.Env(),
      [=, paths = file_paths(Field(info[1], "files"))] {
        std::vector<File> files;
        for (const std::string& path : paths) files.push_back(File::open(path));
        std::vector<std::unique_ptr<RowSource>> opened;
        std::vector<const RowSource*> parts;
        for (const TensorDesc& tensor : tensors) {
          opened.push_back(open_rows(tensor, files));
          parts.push_back(opened.back().get());
        }
        auto matrix = std::make_shared<KernelMatrix>();
        matrix->threads = std::make_unique<ThreadPool>(threads);
        matrix->packed = pack(parts, pack_options, detect_cpu(), *matrix->threads);
        return matrix;
      },
      [](Napi::Env env, const std::shared_ptr<KernelMatrix>& matrix) { return to_js(env, matrix); });
}

struct Peak {
  double macs = 0;
  std::string instruction;
};

Napi::Value measure_peak_of(const Napi::CallbackInfo& info) {
  const Format format = format_field(Field(info[0], "format"));
  const auto threads = static_cast<int>(Field(info[2], "threads").integer(1, 1024));
  return Task<std::optional<Peak>>::run(
      info.Env(),
      [=, isa = Field(info[1], "isa").string()]() -> std::optional<Peak> {
        const PeakVariant* variant = select_peak(linear::input_kind(format), restrict_to(detect_cpu(), isa));
        if (variant == nullptr) return std::nullopt;
        ThreadPool pool(threads);
        return Peak{measure_peak(*variant, pool, 3), variant->instruction};
      },
      [](Napi::Env env, const std::optional<Peak>& peak) -> Napi::Value {
        if (!peak) return env.Null();
        auto out = Napi::Object::New(env);
        out.Set("macsPerSecond", Napi::Number::New(env, peak->macs));
        out.Set("instruction", Napi::String::New(env, peak->instruction));
        return out;
      });
}

}  // namespace

void define_kernel_bench(Napi::Env env, Napi::Object exports) {
  exports.Set("packKernelMatrix", Napi::Function::New<pack_kernel_matrix>(env, "packKernelMatrix"));
  exports.Set("measurePeak", Napi::Function::New<measure_peak_of>(env, "measurePeak"));
}

}  // namespace filigree::js
