// filigree_kernel_bench: every linear kernel this processor supports on one shape, against the bandwidth measured beside it.
//   --rows N --cols N --zeros F --tokens N[,N...] --threads N --rounds N --best 1 --format NAME --layout NAME --isa NAME
//   --kernel TEXT (only kernels with it in their names)
// The default matrix exceeds any last-level cache of a small server, so that decode reads memory.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "base/bandwidth.h"
#include "base/cpu_features.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "formats/pack.h"
#include "kernels/linear/measure.h"
#include "kernels/peak/peak.h"

namespace filigree {
namespace {

using linear::Format;
using linear::Layout;

// Random weights made row by row: small integer codes with a mask, so that no format has to search for scales.
class BenchRows : public RowSource {
 public:
  BenchRows(uint64_t rows, uint64_t cols, double zeros, Format format)
      : rows_(rows), cols_(cols), below_(static_cast<uint32_t>(zeros * 4294967295.0)), format_(format) {}
  uint64_t rows() const override { return rows_; }
  uint64_t cols() const override { return cols_; }
  void read_f32(uint64_t row, uint64_t n, float* out) const override {
    for (uint64_t i = 0; i < n * cols_; ++i) out[i] = static_cast<float>(code(row * cols_ + i)) * 0.01f;
  }
  std::optional<SourceCodes> codes() const override {
    if (format_ == Format::i8) return SourceCodes{8, 0, false};
    if (linear::is_i4(format_)) return SourceCodes{4, static_cast<int>(linear::group_size(format_)), false};
    return std::nullopt;
  }
  void read_codes(uint64_t row, uint64_t n, int8_t* codes, float* scales, float*) const override {
    for (uint64_t i = 0; i < n * cols_; ++i) codes[i] = static_cast<int8_t>(code(row * cols_ + i));
    const uint64_t group = linear::group_size(format_);
    const uint64_t groups = group == 0 ? 1 : (cols_ + group - 1) / group;
    for (uint64_t i = 0; i < n * groups; ++i) scales[i] = 0.01f;
  }

 private:
  int code(uint64_t i) const {
    uint64_t x = (i + 1) * 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x ^= x >> 31;
    if (static_cast<uint32_t>(x >> 32) < below_) return 0;
    // As trained weights: the sum of four bytes is nearly normal, its largest deviation 3.45 times its standard one.
    const int sum = static_cast<int>((x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24 & 255)) - 510;
    const int code = sum * (linear::is_i4(format_) ? 7 : 127) / 510;
    return code != 0 ? code : 1;
  }
  uint64_t rows_, cols_;
  uint32_t below_;
  Format format_;
};

int run(int argc, char** argv) {
  uint32_t rows = 32768, cols = 4096;
  double zeros = 0.7;
  bool best = false;  // the fastest round instead of the median: for a machine shared with others
  int threads = ThreadPool::default_threads(), rounds = 9;
  std::string format_filter, layout_filter, kernel_filter, isa = "auto", tokens_list = "1,4,16,512";
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i], value = argv[i + 1];
    if (key == "--rows")
      rows = static_cast<uint32_t>(std::atoi(value.c_str()));
    else if (key == "--cols")
      cols = static_cast<uint32_t>(std::atoi(value.c_str()));
    else if (key == "--zeros")
      zeros = std::atof(value.c_str());
    else if (key == "--tokens")
      tokens_list = value;
    else if (key == "--threads")
      threads = std::atoi(value.c_str());
    else if (key == "--rounds")
      rounds = std::atoi(value.c_str());
    else if (key == "--format")
      format_filter = value;
    else if (key == "--layout")
      layout_filter = value;
    else if (key == "--kernel")
      kernel_filter = value;
    else if (key == "--best")
      best = value != "0";
    else if (key == "--isa")
      isa = value;
    else
      throw Error(ErrorCode::invalid_argument, "unknown option " + key);
  }
  std::vector<uint32_t> tokens;
  std::stringstream list(tokens_list);
  for (std::string item; std::getline(list, item, ',');)
    tokens.push_back(static_cast<uint32_t>(std::atoi(item.c_str())));
  const CpuFeatures cpu = restrict_to(detect_cpu(), isa);
  ThreadPool pool(threads);
  const double bandwidth = measure_read_bandwidth(pool.size(), size_t{256} << 20, rounds);
  std::printf("%s, %d threads, read %.1f GB/s, %u x %u, %.0f %% zeros in bitmask layouts\n",
              cpu.cpu_name.c_str(), pool.size(), bandwidth * 1e-9, rows, cols, zeros * 100);
  std::printf("%-34s %-7s %-8s %6s %10s %8s %7s %9s %9s %7s\n", "kernel", "format", "layout", "tokens", "ms",
              "bits/w", "GB/s", "Gweight/s", "GMAC/s", "of peak");
  size_t count;
  const linear::Variant* all = linear::variants(&count);
  PackedMatrix packed;
  for (Format format : {Format::f32, Format::bf16, Format::i8, Format::i4g32, Format::i4g128}) {
    if (!format_filter.empty() && format_filter != linear::name_of(format)) continue;
    for (Layout layout : {Layout::dense, Layout::bitmask, Layout::slots16, Layout::slots8, Layout::pairs}) {
      if (!layout_filter.empty() && layout_filter != linear::name_of(layout)) continue;
      packed = {};
      for (size_t i = 0; i < count; ++i) {
        const linear::Variant& v = all[i];
        if (v.format != format || v.layout != layout || !v.supported(cpu) ||
            (std::strcmp(v.isa, "scalar") == 0 && isa != "scalar") ||
            std::strstr(v.name, kernel_filter.c_str()) == nullptr)
          continue;
        const PeakVariant* peak = select_peak(linear::input_kind(format), restrict_to(cpu, v.isa));
        const double most = peak == nullptr ? 0 : measure_peak(*peak, pool, 3);
        for (uint32_t t : tokens) {
          if (t < v.min_tokens || t > v.max_tokens) continue;
          if (packed.empty()) {
            const BenchRows source(rows, cols, layout == Layout::dense ? 0.0 : zeros, format);
            const RowSource* parts[] = {&source};
            PackOptions options;
            options.format = format;
            options.layout = layout;
            packed = pack(parts, options, cpu, pool);
          }
          const linear::Matrix& m = packed.matrix();
          const linear::Timing timing = linear::measure(m, v, t, pool, rounds);
          const double seconds = best ? timing.best : timing.median,
                       weights = static_cast<double>(rows) * cols;
          std::printf("%-34s %-7s %-8s %6u %10.3f %8.2f %7.1f %9.1f %9.1f %6.0f%%\n", v.name, name_of(format),
                      name_of(layout), t, seconds * 1e3, static_cast<double>(m.bytes) * 8 / weights,
                      static_cast<double>(m.bytes) / seconds * 1e-9, weights / seconds * 1e-9,
                      weights * t / seconds * 1e-9, most == 0 ? 0 : 100 * weights * t / seconds / most);
          std::fflush(stdout);
        }
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace filigree

int main(int argc, char** argv) {
  try {
    return filigree::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
