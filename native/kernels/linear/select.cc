#include <algorithm>
#include <string>

#include "base/cpu_features.h"
#include "base/status.h"
#include "kernels/linear/linear.h"

namespace filigree::linear {

#define FILIGREE_LINEAR_VARIANT(run, isa, format, layout, min_tokens, max_tokens, workspace) \
  void run(const Matrix&, const Input&, uint32_t, uint32_t, float*, size_t, std::byte*);     \
  size_t workspace(const MatrixSpec&, uint32_t);
#include "kernels/linear/variants.inc"
#undef FILIGREE_LINEAR_VARIANT

namespace {

using Cpu = CpuFeatures;
bool has_scalar(const Cpu&) { return true; }
[[maybe_unused]] bool has_avx2(const Cpu& cpu) { return cpu.avx2; }
[[maybe_unused]] bool has_avxvnni(const Cpu& cpu) { return cpu.avx2 && cpu.avx_vnni; }
[[maybe_unused]] bool has_avx512(const Cpu& cpu) { return cpu.avx2 && cpu.avx512; }
[[maybe_unused]] bool has_avx512vnni(const Cpu& cpu) {
  return has_avx512(cpu) && cpu.avx512_vnni && cpu.avx512_vbmi;
}
[[maybe_unused]] bool has_avx512bf16(const Cpu& cpu) {
  return has_avx512vnni(cpu) && cpu.avx512_bf16 && !cpu.slow_bf16;
}
[[maybe_unused]] bool has_amx(const Cpu& cpu) {
  return has_avx512vnni(cpu) && cpu.avx512_bf16 && cpu.amx_int8 && cpu.amx_bf16;
}
[[maybe_unused]] bool has_neon(const Cpu& cpu) { return cpu.neon; }
[[maybe_unused]] bool has_neoni8mm(const Cpu& cpu) { return cpu.neon && cpu.neon_i8mm && cpu.neon_bf16; }

constexpr Variant kVariants[] = {
#define FILIGREE_LINEAR_VARIANT(run, isa, format, layout, min_tokens, max_tokens, workspace) \
  {#run, #isa, Format::format, Layout::layout, min_tokens, max_tokens, has_##isa, run, workspace},
#include "kernels/linear/variants.inc"
#undef FILIGREE_LINEAR_VARIANT
};

const Variant* first_fit(const MatrixSpec& spec, const CpuFeatures& cpu, uint32_t tokens) {
  for (const Variant& v : kVariants) {
    if (v.format == spec.format && v.layout == spec.layout && v.min_tokens <= tokens &&
        tokens <= v.max_tokens && v.supported(cpu)) {
      return &v;
    }
  }
  return nullptr;
}

}  // namespace

const Variant* variants(size_t* count) {
  *count = std::size(kVariants);
  return kVariants;
}

const Variant& Plan::pick(uint32_t tokens) const {
  int i = 0;
  while (i + 1 < steps && limit[i] < tokens) ++i;
  return *step[i];
}

size_t Plan::workspace_bytes(uint32_t max_tokens) const {
  size_t most = 0;
  uint32_t first = 1;
  for (int i = 0; i < steps && first <= max_tokens; ++i) {
    // Workspaces grow with the tokens, so the last number each kernel serves decides.
    most = std::max(most, step[i]->workspace(spec, std::min(limit[i], max_tokens)));
    first = limit[i] + 1;
  }
  return (most + 63) / 64 * 64;
}

Plan make_plan(const MatrixSpec& spec, const CpuFeatures& cpu) {
  Plan plan;
  plan.spec = spec;
  for (uint64_t tokens = 1; tokens <= UINT32_MAX;) {
    const Variant* best = first_fit(spec, cpu, static_cast<uint32_t>(tokens));
    if (best == nullptr) {
      throw Error(ErrorCode::unsupported,
                  std::string("no kernel for a ") + name_of(spec.format) + " matrix in " +
                      name_of(spec.layout) +
                      " layout on this instruction set; pack the weights again for it");
    }
    // The choice can only change where some row begins or ends.
    uint64_t next = uint64_t{best->max_tokens} + 1;
    for (const Variant& v : kVariants) {
      if (v.min_tokens > tokens && v.min_tokens < next && first_fit(spec, cpu, v.min_tokens) != best)
        next = v.min_tokens;
    }
    if (plan.steps == Plan::kMaxSteps)
      throw Error(ErrorCode::internal, "more kernels for one matrix than a plan holds");
    plan.step[plan.steps] = best;
    plan.limit[plan.steps++] = static_cast<uint32_t>(next - 1);
    tokens = next;
  }
  return plan;
}

Layout choose_layout(Format format, double zeros, const CpuFeatures& cpu) {
  if (!is_sparse(zeros)) return Layout::dense;
  // Where expanding a mask takes shuffles, multiplying only nonzeros wins, and plain i4 wins over its bitmask. Slots that mostly
  // stay empty are more bytes than a dense i4 matrix: groups of few columns are short of nonzeros sooner.
  const bool shuffles = cpu.avx2 && !has_avx512vnni(cpu);
  if (format == Format::i8 && zeros >= 0.45 && shuffles) return Layout::slots8;
  if (is_i4(format) && shuffles)
    return zeros >= (format == Format::i4g128 ? 0.62 : 0.78) ? Layout::slots8 : Layout::dense;
  // Two panels expanded at once for more bytes: worth it where zeros are so many that bytes are not the bound.
  if (is_i4(format) && has_avx512vnni(cpu) && zeros >= 0.65) return Layout::pairs;
  return Layout::bitmask;
}

const char* name_of(Format format) {
  switch (format) {
    case Format::f32:
      return "f32";
    case Format::bf16:
      return "bf16";
    case Format::i8:
      return "i8";
    case Format::i4g32:
      return "i4g32";
    case Format::i4g128:
      return "i4g128";
  }
  return "?";
}

const char* name_of(Layout layout) {
  switch (layout) {
    case Layout::dense:
      return "dense";
    case Layout::bitmask:
      return "bitmask";
    case Layout::slots16:
      return "slots16";
    case Layout::slots8:
      return "slots8";
    case Layout::pairs:
      return "pairs";
  }
  return "?";
}

}  // namespace filigree::linear
