#include "kernels/simd/select.h"

#include "kernels/gemm/gemm.h"

namespace filigree {

FILIGREE_VARIANTS(FILIGREE_DECLARE_VARIANT, GemmOps, gemm)
#if FILIGREE_HAS_AVX512BF16
GemmTileBf16 gemm_tile_avx512bf16();
#endif

static GemmOps select_float([[maybe_unused]] const CpuFeatures& cpu){
    FILIGREE_VARIANTS(FILIGREE_TAKE_VARIANT, GemmOps, gemm)}

GemmOps select_gemm(const CpuFeatures& cpu) {
  GemmOps ops = select_float(cpu);
#if FILIGREE_HAS_AVX512BF16
  if (cpu.avx512_bf16 && !cpu.slow_bf16) ops.bf16 = gemm_tile_avx512bf16();
#endif
  return ops;
}

}  // namespace filigree
