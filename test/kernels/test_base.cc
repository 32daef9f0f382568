#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/cpu_features.h"
#include "base/cpu_limits.h"
#include "base/file.h"
#include "base/half.h"
#include "base/status.h"
#include "harness.h"

namespace filigree::test {
namespace {

struct TemporaryFolder {
  std::string path;
  TemporaryFolder() {
    char text[] = "/tmp/filigree-test-XXXXXX";
    if (!mkdtemp(text)) skip("no temporary folder");
    path = text;
  }
  ~TemporaryFolder() { [[maybe_unused]] int rc = std::system(("rm -rf '" + path + "'").c_str()); }
  void write(const std::string& name, const std::string& text) const {
    for (size_t at = name.find('/'); at != std::string::npos; at = name.find('/', at + 1)) {
      mkdir((path + "/" + name.substr(0, at)).c_str(), 0755);
    }
    std::ofstream(path + "/" + name) << text;
  }
};

// The nearest of all finite f16 values (ties to even), by search: slow and obviously right.
uint16_t nearest_f16(float x) {
  if (std::isinf(x) || std::fabs(x) >= 65520.0f) return std::signbit(x) ? 0xfc00 : 0x7c00;
  const float a = std::fabs(x);
  uint32_t low = 0, high = 0x7bff;
  while (low < high) {  // the largest value not above a
    const uint32_t middle = (low + high + 1) / 2;
    if (f16_to_f32(static_cast<uint16_t>(middle)) <= a) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  double below = f16_to_f32(static_cast<uint16_t>(low));
  double above = low == 0x7bff ? 65536.0 : f16_to_f32(static_cast<uint16_t>(low + 1));
  const double down = a - below, up = above - a;
  const uint32_t q = down < up || (down == up && low % 2 == 0) ? low : low + 1;
  return static_cast<uint16_t>(q | (std::signbit(x) ? 0x8000u : 0u));
}

}  // namespace

FILIGREE_TEST(half_f16_round_trips_and_rounds_to_even) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float f = f16_to_f32(static_cast<uint16_t>(h));
    if (std::isnan(f)) {
      check(std::isnan(f16_to_f32(f32_to_f16(f))));
    } else {
      check_equal(f32_to_f16(f), h);
    }
  }
  check_equal(f16_to_f32(0x3c00), 1.0f);
  check_equal(f16_to_f32(0x0001), 0x1p-24f);
  Random random(2);
  for (int i = 0; i < 300000; ++i) {
    const float f = std::bit_cast<float>(static_cast<uint32_t>(random.bits()));
    if (!std::isnan(f)) check_equal(f32_to_f16(f), nearest_f16(f));
    const float g = std::ldexp(random.uniform(-1, 1), static_cast<int>(random.below(46)) - 28);
    check_equal(f32_to_f16(g), nearest_f16(g));
  }
}

FILIGREE_TEST(half_bf16_rounds_to_even_and_keeps_nan) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float f = bf16_to_f32(static_cast<uint16_t>(h));
    if (std::isnan(f)) {
      check(std::isnan(bf16_to_f32(f32_to_bf16(f))));
    } else {
      check_equal(f32_to_bf16(f), h);
    }
  }
  check_equal(f32_to_bf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  check_equal(f32_to_bf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  check_equal(f32_to_bf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  check_equal(f32_to_bf16(std::bit_cast<float>(0x7f7fffffu)), 0x7f80);
  check(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001u)))));
}

FILIGREE_TEST(cpu_features_restrict_to) {
  CpuFeatures all;
  all.avx2 = all.avx_vnni = all.avx512 = all.avx512_vnni = all.avx512_vbmi = all.avx512_bf16 = true;
  all.amx_int8 = all.amx_bf16 = true;
  check_equal(best_isa(all), std::string_view("amx"));
  for (std::string_view name : isa_names()) {
    if (name.substr(0, 4) == "neon") {
      check_throws<Error>([&] { restrict_to(all, name); });
      continue;
    }
    const CpuFeatures cut = restrict_to(all, name);
    if (name != "auto") check_equal(best_isa(cut), name);
    check_equal(cut.avx2, name != "scalar");
    check_equal(cut.amx_int8, name == "amx" || name == "auto");
  }
  check(!restrict_to(all, "avx512").avx512_vnni);
  check(restrict_to(all, "avx512vnni").avx512_vbmi);
  check(!restrict_to(all, "avx2").avx_vnni);
  try {
    restrict_to(all, "sse9");
    check(false, "unknown name accepted");
  } catch (const Error& error) {
    check(error.code() == ErrorCode::invalid_argument);
    check(std::string(error.what()).find("avx512vnni") != std::string::npos);
  }
  check_throws<Error>([] { restrict_to(CpuFeatures{}, "avx2"); });
  check(supports_isa(detect_cpu(), "scalar"));
}

FILIGREE_TEST(aligned_buffer_is_aligned_zeroed_and_movable) {
  for (size_t bytes : {size_t{1}, size_t{63}, size_t{4097}, size_t{2} << 20, (size_t{5} << 20) + 3}) {
    AlignedBuffer buffer(bytes);
    check_equal(buffer.size(), bytes);
    check_equal(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    bool zero = true;
    for (size_t i = 0; i < bytes; i += 61) zero = zero && buffer.data()[i] == std::byte{0};
    check(zero);
    std::memset(buffer.data(), 0xff, bytes);
    std::byte* at = buffer.data();
    AlignedBuffer moved(std::move(buffer));
    check(moved.data() == at && buffer.data() == nullptr && buffer.size() == 0);
    AlignedBuffer other(128);
    other = std::move(moved);
    check(other.data() == at && other.size() == bytes);
  }
  check(AlignedBuffer(0).data() == nullptr);
  try {
    AlignedBuffer impossible(SIZE_MAX - 4096);
    check(false, "allocated the address space");
  } catch (const Error& error) {
    check(error.code() == ErrorCode::out_of_memory);
  }
}

FILIGREE_TEST(file_reads_and_reports) {
  TemporaryFolder folder;
  folder.write("a", "0123456789");
  File file = File::open(folder.path + "/a");
  check_equal(file.size(), 10u);
  char text[11] = {};
  file.read_at(3, text, 7);
  check(std::string(text) == "3456789");
  file.read_at(10, text, 0);
  check_throws<Error>([&] { file.read_at(4, text, 7); });
  check_throws<Error>([&] { file.read_at(UINT64_MAX, text, 2); });
  check_throws<Error>([&] { File::open(folder.path + "/missing"); });
  check_throws<Error>([&] { File::open(folder.path); });
  mkfifo((folder.path + "/pipe").c_str(), 0600);
  check_throws<Error>([&] { File::open(folder.path + "/pipe"); });
  check(truncate((folder.path + "/a").c_str(), 5) == 0);
  check_throws<Error>([&] { file.read_at(3, text, 7); }, "truncated after opening");
  File moved = std::move(file);
  moved.read_at(0, text, 5);
}

FILIGREE_TEST(cgroup_limits) {
  TemporaryFolder folder;
  const std::string root = folder.path;
  check_equal(cgroup_cpus("", root), 0.0);
  folder.write("a/b/cpu.max", "350000 100000\n");
  folder.write("a/cpu.max", "max 100000\n");
  check_equal(cgroup_cpus("0::/a/b\n", root), 3.5);
  folder.write("a/cpu.max", "150000 100000\n");
  check_equal(cgroup_cpus("0::/a/b\n", root), 1.5, "a parent's limit binds");
  check_equal(cgroup_cpus("0::/elsewhere/x\n", root), 0.0);
  folder.write("cpu.max", "200000 100000\n");
  check_equal(cgroup_cpus("0::/elsewhere/x\n", root), 2.0, "inside a container only the mount is seen");
  check_equal(cgroup_cpus("0::/\n", root), 2.0);
  TemporaryFolder old;
  old.write("cpu,cpuacct/docker/cpu.cfs_quota_us", "250000\n");
  old.write("cpu,cpuacct/docker/cpu.cfs_period_us", "100000\n");
  old.write("cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  old.write("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  check_equal(cgroup_cpus("9:memory:/docker\n4:cpu,cpuacct:/docker\n", old.path), 2.5);
  check_equal(cgroup_cpus("4:cpu,cpuacct:/\n", old.path), 0.0);
  check_equal(cgroup_cpus("4:cpu,cpuacct:/../etc\nnonsense\n::\n", old.path), 0.0);
  old.write("cpu,cpuacct/docker/cpu.cfs_quota_us", "garbage");
  check_equal(cgroup_cpus("4:cpu,cpuacct:/docker\n", old.path), 0.0);
}

}  // namespace filigree::test
