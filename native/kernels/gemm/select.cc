#include "kernels/simd/select.h"

#include "kernels/gemm/gemm.h"

namespace filigree {

FILIGREE_VARIANTS(FILIGREE_DECLARE_VARIANT, GemmOps, gemm)
#if FILIGREE_HAS_AVX512BF16
GemmTileBf16 gemm_tile_avx512bf16();
#endif
#if FILIGREE_HAS_AVX2
FixedGemm fixed_gemm_avx2();
FixedGemm fixed_gemm_avxvnni();
FixedGemm fixed_gemm_avx512vnni();
#endif
FixedGemm fixed_gemm_scalar();

static GemmOps select_float([[maybe_unused]] const CpuFeatures& cpu) {
  FILIGREE_VARIANTS(FILIGREE_TAKE_VARIANT, GemmOps, gemm)
}

static FixedGemm select_fixed([[maybe_unused]] const CpuFeatures& cpu) {
#if FILIGREE_HAS_AVX2
  if (cpu.avx512 && cpu.avx512_vnni && cpu.avx512_vbmi) return fixed_gemm_avx512vnni();
  if (cpu.avx2 && cpu.avx_vnni) return fixed_gemm_avxvnni();
  if (cpu.avx2) return fixed_gemm_avx2();
#endif
  return fixed_gemm_scalar();
}

GemmOps select_gemm(const CpuFeatures& cpu) {
  GemmOps ops = select_float(cpu);
  ops.fixed = select_fixed(cpu);
#if FILIGREE_HAS_AVX512BF16
  if (cpu.avx512_bf16 && !cpu.slow_bf16) ops.bf16 = gemm_tile_avx512bf16();
#endif
  return ops;
}

}  // namespace filigree
