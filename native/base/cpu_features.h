#pragma once

#include <span>
#include <string>
#include <string_view>

namespace filigree {

// What the processor has and the operating system saves (XCR0 on x86, HWCAP on ARM). Plain data: kernel selection is a pure
// function of it, so that every choice can be tested on any machine.
struct CpuFeatures {
  bool avx2 = false;         // with fma, f16c, bmi1, bmi2, lzcnt, popcnt
  bool avx_vnni = false;     // VEX-encoded vpdpbusd
  bool avx512 = false;       // f, bw, vl, dq
  bool avx512_vnni = false;  // vpdpbusd on zmm
  bool avx512_vbmi = false;  // vbmi and vbmi2
  bool avx512_bf16 = false;
  bool slow_bf16 = false;  // vdpbf16ps at half the rate of two fma that do the same
  bool amx_int8 = false;
  bool amx_bf16 = false;
  bool neon = false;  // with dotprod and fp16 arithmetic
  bool neon_i8mm = false;
  bool neon_bf16 = false;
  std::string cpu_name;
};

// Reads CPUID and XCR0 or getauxval. On Linux x86 it also asks the kernel for the AMX tile state, without which a tile
// instruction is fatal; amx_* are true only if that was granted.
CpuFeatures detect_cpu();

// The names restrict_to() knows: "auto", "scalar", then from the plainest to the richest of each family.
std::span<const std::string_view> isa_names();

// The features of `cpu` cut down to the instruction set `isa`. "auto" returns them unchanged.
// Throws invalid_argument for an unknown name and unsupported for one this processor lacks; both list the names.
CpuFeatures restrict_to(const CpuFeatures& cpu, std::string_view isa);

// Whether restrict_to(cpu, isa) would succeed.
bool supports_isa(const CpuFeatures& cpu, std::string_view isa);

// The richest name that restrict_to accepts for these features.
std::string_view best_isa(const CpuFeatures& cpu);

}  // namespace filigree
