#include "base/cpu_features.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>

#include "base/status.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace filigree {
namespace {

constexpr std::array<std::string_view, 10> kNames = {
    "auto", "scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx", "neon", "neoni8mm"};

std::string list_names() {
  std::string list;
  for (std::string_view name : kNames) list.append(list.empty() ? "" : ", ").append(name);
  return list;
}

// The part of `cpu` that belongs to a (known) name, and whether the name's own instructions are all there.
struct Level {
  CpuFeatures features;
  bool complete;
};

Level level_of(const CpuFeatures& cpu, std::string_view isa) {
  if (isa == "auto") return {cpu, true};
  CpuFeatures cut;
  cut.cpu_name = cpu.cpu_name;
  if (isa == "scalar") return {cut, true};
  if (isa == "neon" || isa == "neoni8mm") {
    cut.neon = cpu.neon;
    if (isa == "neon") return {cut, cut.neon};
    cut.neon_i8mm = cpu.neon_i8mm;
    cut.neon_bf16 = cpu.neon_bf16;
    return {cut, cut.neon && cut.neon_i8mm && cut.neon_bf16};
  }
  cut.avx2 = cpu.avx2;
  if (isa == "avx2") return {cut, cut.avx2};
  if (isa == "avxvnni") {
    cut.avx_vnni = cpu.avx_vnni;
    return {cut, cut.avx2 && cut.avx_vnni};
  }
  cut.avx512 = cpu.avx512;
  bool complete = cut.avx2 && cut.avx512;
  if (isa == "avx512") return {cut, complete};
  cut.avx512_vnni = cpu.avx512_vnni;
  cut.avx512_vbmi = cpu.avx512_vbmi;
  complete = complete && cut.avx512_vnni && cut.avx512_vbmi;
  if (isa == "avx512vnni") return {cut, complete};
  cut.avx512_bf16 = cpu.avx512_bf16;
  complete = complete && cut.avx512_bf16;
  if (isa == "avx512bf16") return {cut, complete};
  cut.amx_int8 = cpu.amx_int8;
  cut.amx_bf16 = cpu.amx_bf16;
  return {cut, complete && cut.amx_int8 && cut.amx_bf16};
}

bool known(std::string_view isa) {
  for (std::string_view name : kNames) {
    if (name == isa) return true;
  }
  return false;
}

#if defined(__x86_64__)

struct Registers {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  Registers r;
  __cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
  return r;
}

bool bit(uint32_t word, int index) { return (word >> index) & 1u; }

uint64_t xcr0() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

bool request_tile_state() {
#if defined(__linux__)
  constexpr long kArchRequestXcompPerm = 0x1023;
  constexpr long kXfeatureTileData = 18;
  return syscall(SYS_arch_prctl, kArchRequestXcompPerm, kXfeatureTileData) == 0;
#else
  return false;
#endif
}

bool is_intel() {
  const Registers r = cpuid(0);
  return r.b == 0x756e6547 && r.d == 0x49656e69 && r.c == 0x6c65746e;  // "Genu" "ineI" "ntel"
}

std::string brand() {
  if (cpuid(0x80000000u).a < 0x80000004u) return "x86-64";
  char text[49] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    Registers r = cpuid(0x80000002u + i);
    std::memcpy(text + 16 * i, &r, 16);
  }
  std::string name(text);
  size_t first = name.find_first_not_of(' ');
  if (first == std::string::npos) return "x86-64";
  return name.substr(first, name.find_last_not_of(' ') - first + 1);
}

CpuFeatures detect() {
  CpuFeatures f;
  f.cpu_name = brand();
  const uint32_t max_leaf = cpuid(0).a;
  const Registers l1 = cpuid(1);
  const bool osxsave = bit(l1.c, 27);
  if (max_leaf < 7 || !osxsave) return f;
  const uint64_t saved = xcr0();
  const bool ymm_saved = (saved & 0x6) == 0x6;
  const bool zmm_saved = (saved & 0xE6) == 0xE6;
  const bool tiles_saved = (saved & 0x60000) == 0x60000;

  const Registers l7 = cpuid(7, 0);
  const Registers l71 = l7.a >= 1 ? cpuid(7, 1) : Registers{};
  const Registers ext = cpuid(0x80000000u).a >= 0x80000001u ? cpuid(0x80000001u) : Registers{};
  const bool fma = bit(l1.c, 12), popcnt = bit(l1.c, 23), avx = bit(l1.c, 28), f16c = bit(l1.c, 29);
  const bool bmi1 = bit(l7.b, 3), avx2 = bit(l7.b, 5), bmi2 = bit(l7.b, 8), lzcnt = bit(ext.c, 5);
  f.avx2 = ymm_saved && avx && avx2 && fma && f16c && bmi1 && bmi2 && lzcnt && popcnt;
  f.avx_vnni = f.avx2 && bit(l71.a, 4);
  f.avx512 = f.avx2 && zmm_saved && bit(l7.b, 16) && bit(l7.b, 17) && bit(l7.b, 30) && bit(l7.b, 31);
  f.avx512_vbmi = f.avx512 && bit(l7.c, 1) && bit(l7.c, 6);
  f.avx512_vnni = f.avx512 && bit(l7.c, 11);
  f.avx512_bf16 = f.avx512 && bit(l71.a, 5);
  // Sapphire and Emerald Rapids start one vdpbf16ps in two cycles (measured) and two fma in one; AMD's cores one and one.
  f.slow_bf16 = f.avx512_bf16 && is_intel();
  const bool amx = f.avx512 && tiles_saved && bit(l7.d, 24) && request_tile_state();
  f.amx_bf16 = amx && bit(l7.d, 22);
  f.amx_int8 = amx && bit(l7.d, 25);
  return f;
}

#elif defined(__aarch64__) && defined(__linux__)

CpuFeatures detect() {
  // Numbers of the kernel's <asm/hwcap.h>, spelled out because older headers lack the newer ones.
  constexpr unsigned long kAsimd = 1ul << 1, kFphp = 1ul << 9, kAsimdhp = 1ul << 10, kAsimddp = 1ul << 20;
  constexpr unsigned long kI8mm = 1ul << 13, kBf16 = 1ul << 14;
  const unsigned long caps = getauxval(AT_HWCAP), caps2 = getauxval(AT_HWCAP2);
  CpuFeatures f;
  f.neon = (caps & kAsimd) && (caps & kFphp) && (caps & kAsimdhp) && (caps & kAsimddp);
  f.neon_i8mm = f.neon && (caps2 & kI8mm);
  f.neon_bf16 = f.neon && (caps2 & kBf16);
  f.cpu_name = "AArch64";
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos) {
      f.cpu_name = line.substr(line.find(": ") + 2);
      break;
    }
  }
  return f;
}

#else

CpuFeatures detect() {
  CpuFeatures f;
  f.cpu_name = "unknown";
  return f;
}

#endif

}  // namespace

CpuFeatures detect_cpu() { return detect(); }

std::span<const std::string_view> isa_names() { return kNames; }

bool supports_isa(const CpuFeatures& cpu, std::string_view isa) {
  return known(isa) && level_of(cpu, isa).complete;
}

CpuFeatures restrict_to(const CpuFeatures& cpu, std::string_view isa) {
  if (!known(isa)) {
    throw Error(ErrorCode::invalid_argument,
                "unknown instruction set \"" + std::string(isa) + "\"; choose one of: " + list_names());
  }
  Level level = level_of(cpu, isa);
  if (!level.complete) {
    throw Error(ErrorCode::unsupported,
                "this processor (" + cpu.cpu_name + ") cannot run instruction set \"" + std::string(isa) +
                    "\"; the best it has is \"" + std::string(best_isa(cpu)) + "\" of: " + list_names());
  }
  return level.features;
}

std::string_view best_isa(const CpuFeatures& cpu) {
  std::string_view best = "scalar";
  for (std::string_view name : kNames) {
    if (name == "auto" || !level_of(cpu, name).complete) continue;
    best = name;
  }
  return best;
}

}  // namespace filigree
