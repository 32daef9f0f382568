#include "binding/tools.h"

#include "base/bandwidth.h"
#include "base/cpu_features.h"
#include "base/cpu_limits.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "binding/js_config.h"
#include "binding/task.h"
#include "engine/backend.h"
#include "kernels/linear/linear.h"

namespace filigree::js {
namespace {

Napi::Value cpu_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const CpuFeatures cpu = detect_cpu();
  auto features = Napi::Object::New(env);
  for (const auto& [name, has] :
       std::initializer_list<std::pair<const char*, bool>>{{"avx2", cpu.avx2},
                                                           {"avx_vnni", cpu.avx_vnni},
                                                           {"avx512", cpu.avx512},
                                                           {"avx512_vnni", cpu.avx512_vnni},
                                                           {"avx512_vbmi", cpu.avx512_vbmi},
                                                           {"avx512_bf16", cpu.avx512_bf16},
                                                           {"amx_int8", cpu.amx_int8},
                                                           {"amx_bf16", cpu.amx_bf16},
                                                           {"neon", cpu.neon},
                                                           {"neon_i8mm", cpu.neon_i8mm},
                                                           {"neon_bf16", cpu.neon_bf16}}) {
    features.Set(name, Napi::Boolean::New(env, has));
  }
  auto isas = Napi::Array::New(env);
  for (const std::string_view name : isa_names()) {
    if (supports_isa(cpu, name)) isas.Set(isas.Length(), Napi::String::New(env, std::string(name)));
  }
  auto kernels = Napi::Array::New(env);
  size_t count = 0;
  const linear::Variant* variants = linear::variants(&count);
  for (size_t i = 0; i < count; ++i) {
    const linear::Variant& v = variants[i];
    auto kernel = Napi::Object::New(env);
    kernel.Set("name", v.name);
    kernel.Set("isa", v.isa);
    kernel.Set("format", linear::name_of(v.format));
    kernel.Set("layout", linear::name_of(v.layout));
    kernel.Set("minTokens", Napi::Number::New(env, v.min_tokens));
    kernel.Set("maxTokens", Napi::Number::New(env, v.max_tokens));
    kernel.Set("supported", Napi::Boolean::New(env, v.supported(cpu)));
    kernels.Set(kernels.Length(), kernel);
  }
  auto out = Napi::Object::New(env);
  out.Set("kernels", kernels);
  const std::string obstacle = cuda_obstacle();
  out.Set("cudaObstacle", obstacle.empty() ? env.Null() : Napi::String::New(env, obstacle));
  out.Set("cpu", Napi::String::New(env, cpu.cpu_name));
  out.Set("features", features);
  out.Set("isas", isas);
  out.Set("bestIsa", Napi::String::New(env, std::string(best_isa(cpu))));
  out.Set("affinityCpus", Napi::Number::New(env, affinity_cpus()));
  out.Set("defaultThreads", Napi::Number::New(env, ThreadPool::default_threads()));
  return out;
}

Napi::Value gpus(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto number = [&](uint64_t n) { return Napi::Number::New(env, static_cast<double>(n)); };
  auto all = Napi::Array::New(env);
  for (const Gpu& gpu : usable_gpus()) {
    auto one = Napi::Object::New(env);
    one.Set("name", gpu.name);
    one.Set("computeCapability", std::to_string(gpu.major) + "." + std::to_string(gpu.minor));
    one.Set("totalBytes", number(gpu.total_bytes));
    one.Set("freeBytes", number(gpu.free_bytes));
    one.Set("usableBytes", number(gpu.usable_bytes));
    all.Set(all.Length(), one);
  }
  auto out = Napi::Object::New(env);
  out.Set("gpus", all);
  const std::string obstacle = nccl_obstacle();
  out.Set("ncclObstacle", obstacle.empty() ? env.Null() : Napi::String::New(env, obstacle));
  return out;
}

Napi::Value read_bandwidth(const Napi::CallbackInfo& info) {
  const auto threads = static_cast<int>(Field(info[0], "threads").integer(1, 1024));
  const auto bytes = static_cast<size_t>(
      Field(info[1], "bytesPerThread").integer_or(int64_t{256} << 20, 1 << 20, int64_t{1} << 34));
  const auto rounds = static_cast<int>(Field(info[2], "rounds").integer_or(5, 1, 1000));
  return Task<double>::run(
      info.Env(), [=] { return measure_read_bandwidth(threads, bytes, rounds) / 1e9; },
      [](Napi::Env env, const double& gbps) -> Napi::Value { return Napi::Number::New(env, gbps); });
}

// A tensor and the files it lies in, opened.
struct OpenTensor {
  std::vector<File> files;
  std::unique_ptr<RowSource> rows;
};

OpenTensor open_tensor(const TensorDesc& desc, const std::vector<std::string>& paths) {
  OpenTensor open;
  for (const std::string& path : paths) open.files.push_back(File::open(path));
  open.rows = open_rows(desc, open.files);
  return open;
}

struct ZeroCount {
  double zeros = 0, total = 0;
};

Napi::Value count_zeros(const Napi::CallbackInfo& info) {
  return Task<ZeroCount>::run(
      info.Env(),
      [desc = tensor_desc(Field(info[0], "tensor")), paths = file_paths(Field(info[1], "files"))] {
        const OpenTensor open = open_tensor(desc, paths);
        const RowSource& source = *open.rows;
        std::vector<float> row(source.cols());
        uint64_t zeros = 0;
        for (uint64_t r = 0; r < source.rows(); ++r) {
          source.read_f32(r, 1, row.data());
          for (const float value : row) zeros += value == 0.0f;
        }
        return ZeroCount{static_cast<double>(zeros),
                         static_cast<double>(source.rows()) * static_cast<double>(source.cols())};
      },
      [](Napi::Env env, const ZeroCount& count) -> Napi::Value {
        auto out = Napi::Object::New(env);
        out.Set("zeros", Napi::Number::New(env, count.zeros));
        out.Set("total", Napi::Number::New(env, count.total));
        return out;
      });
}

Napi::Value read_rows(const Napi::CallbackInfo& info) {
  const auto row = static_cast<uint64_t>(Field(info[2], "row").integer(0, int64_t{1} << 40));
  const auto count = static_cast<uint64_t>(Field(info[3], "count").integer(1, 1 << 20));
  return Task<std::vector<float>>::run(
      info.Env(),
      [=, desc = tensor_desc(Field(info[0], "tensor")), paths = file_paths(Field(info[1], "files"))] {
        const OpenTensor open = open_tensor(desc, paths);
        if (row > open.rows->rows() || count > open.rows->rows() - row) {
          throw Error(ErrorCode::invalid_argument,
                      "tensor " + desc.name + " has only " + std::to_string(open.rows->rows()) + " rows");
        }
        std::vector<float> out(count * open.rows->cols());
        open.rows->read_f32(row, count, out.data());
        return out;
      },
      [](Napi::Env env, const std::vector<float>& values) -> Napi::Value { return to_float32(env, values); });
}

}  // namespace

void define_tools(Napi::Env env, Napi::Object exports) {
  exports.Set("cpuInfo", Napi::Function::New<cpu_info>(env, "cpuInfo"));
  exports.Set("gpus", Napi::Function::New<gpus>(env, "gpus"));
  exports.Set("measureReadBandwidth", Napi::Function::New<read_bandwidth>(env, "measureReadBandwidth"));
  exports.Set("countZeros", Napi::Function::New<count_zeros>(env, "countZeros"));
  exports.Set("readRows", Napi::Function::New<read_rows>(env, "readRows"));
}

}  // namespace filigree::js
