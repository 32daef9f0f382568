#include "base/cpu_features.h"
#include "kernels/gemm/gemm.h"

namespace filigree {

#define FILIGREE_VARIANT(isa, available) GemmOps gemm_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT
#if FILIGREE_HAS_AVX512BF16
GemmTileBf16 gemm_tile_avx512bf16();
#endif

static GemmOps select_float(const CpuFeatures& cpu) {
#define FILIGREE_VARIANT(isa, available) \
  if (available) return gemm_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT
}

GemmOps select_gemm([[maybe_unused]] const CpuFeatures& cpu) {
  GemmOps ops = select_float(cpu);
#if FILIGREE_HAS_AVX512BF16
  if (cpu.avx512_bf16) ops.bf16 = gemm_tile_avx512bf16();
#endif
  return ops;
}

}  // namespace filigree
