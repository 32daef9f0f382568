#pragma once
// The variants of the operations that are written once over 16 lanes (norm, rope, activation, quantize, codes, attention, sample, gemm). Each
// instruction set's file of an operation defines operation_ISA(); FILIGREE_SELECT(Ops, operation) defines select_operation(cpu), which
// calls the richest of them whose need of the processor is met.
#include "base/cpu_features.h"

#if FILIGREE_HAS_AVX512
#define FILIGREE_AVX512_VARIANT(DO, Ops, operation) DO(Ops, operation, avx512, cpu.avx512)
#else
#define FILIGREE_AVX512_VARIANT(DO, Ops, operation)
#endif
#if FILIGREE_HAS_AVX2
#define FILIGREE_AVX2_VARIANT(DO, Ops, operation) DO(Ops, operation, avx2, cpu.avx2)
#else
#define FILIGREE_AVX2_VARIANT(DO, Ops, operation)
#endif
#if FILIGREE_HAS_NEON
#define FILIGREE_NEON_VARIANT(DO, Ops, operation) DO(Ops, operation, neon, cpu.neon)
#else
#define FILIGREE_NEON_VARIANT(DO, Ops, operation)
#endif
#define FILIGREE_VARIANTS(DO, Ops, operation) \
  FILIGREE_AVX512_VARIANT(DO, Ops, operation) \
  FILIGREE_AVX2_VARIANT(DO, Ops, operation)   \
  FILIGREE_NEON_VARIANT(DO, Ops, operation)   \
  DO(Ops, operation, scalar, true)

#define FILIGREE_DECLARE_VARIANT(Ops, operation, isa, available) Ops operation##_##isa();
#define FILIGREE_TAKE_VARIANT(Ops, operation, isa, available) \
  if (available) return operation##_##isa();

#define FILIGREE_SELECT(Ops, operation)                             \
  FILIGREE_VARIANTS(FILIGREE_DECLARE_VARIANT, Ops, operation)       \
  Ops select_##operation([[maybe_unused]] const CpuFeatures& cpu) { \
    FILIGREE_VARIANTS(FILIGREE_TAKE_VARIANT, Ops, operation)        \
  }
