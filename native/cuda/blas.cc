#include "cuda/blas.h"

#include <library_types.h>

#include <map>
#include <tuple>
#include <vector>

#include "cuda/library.h"
#include "cuda/memory.h"

namespace filigree::cuda {
namespace {

// The part of cublasLt.h that is used; its layout is fixed by the library's ABI.
using Handle = struct Opaque*;
struct Algorithm {
  uint64_t data[8];
};
struct Proposal {
  Algorithm algorithm;
  size_t workspace;
  int status;
  float waves;
  int reserved[4];
};
constexpr int kCompute32f = 68, kTransA = 3, kMaxWorkspace = 1;
constexpr size_t kWorkspace = size_t{32} << 20;
constexpr int kProposals = 8;

struct Library {
  int (*create)(Handle*);
  int (*destroy)(Handle);
  int (*describe)(void**, int compute, int scale);
  int (*describe_set)(void*, int attribute, const void*, size_t);
  int (*describe_destroy)(void*);
  int (*layout)(void**, int type, uint64_t rows, uint64_t cols, int64_t ld);
  int (*layout_destroy)(void*);
  int (*preference)(void**);
  int (*preference_set)(void*, int attribute, const void*, size_t);
  int (*preference_destroy)(void*);
  int (*propose)(Handle, void*, void*, void*, void*, void*, void*, int, Proposal*, int*);
  int (*matmul)(Handle, void*, const void*, const void*, void*, const void*, void*, const void*, const void*,
                void*, void*, void*, const Algorithm*, void*, size_t, cudaStream_t);
};

struct Problem {
  void *description = nullptr, *a = nullptr, *b = nullptr, *c = nullptr;
  std::vector<Proposal> proposals;
};

class BlasLt final : public Blas {
 public:
  BlasLt(const Library& library, Handle handle)
      : lib_(library), handle_(handle), workspace_(kWorkspace, "cuBLAS") {}
  ~BlasLt() override {
    for (auto& [key, p] : problems_) {
      lib_.describe_destroy(p.description);
      for (void* layout : {p.a, p.b, p.c}) lib_.layout_destroy(layout);
    }
    lib_.destroy(handle_);
  }

  bool multiply(uint32_t m, uint32_t n, uint32_t k, const void* a, uint32_t lda, const void* b,
                bool b_k_major, void* c, uint32_t ldc, bool c_is_f32, bool add, int choice,
                cudaStream_t stream) override {
    const Key key{m, n, k, lda, ldc, b_k_major, c_is_f32};
    auto found = problems_.find(key);
    if (found == problems_.end()) found = problems_.emplace(key, describe(key)).first;
    const Problem& p = found->second;
    if (choice >= static_cast<int>(p.proposals.size())) return false;
    const Proposal& proposal = p.proposals[static_cast<size_t>(choice)];
    const float alpha = 1, beta = add ? 1 : 0;
    // Column-major: c^T [n x m] = b^T-or-b * a^T.
    return lib_.matmul(handle_, p.description, &alpha, b, p.b, a, p.a, &beta, c, p.c, c, p.c,
                       &proposal.algorithm, workspace_.data(), kWorkspace, stream) == 0;
  }

 private:
  using Key = std::tuple<uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, bool, bool>;

  Problem describe(const Key& key) {
    const auto [m, n, k, lda, ldc, b_k_major, c_is_f32] = key;
    Problem p;
    const int yes = 1;
    bool ok = lib_.describe(&p.description, kCompute32f, CUDA_R_32F) == 0;
    if (ok && !b_k_major) ok = lib_.describe_set(p.description, kTransA, &yes, sizeof yes) == 0;
    ok = ok &&
         (b_k_major ? lib_.layout(&p.b, CUDA_R_16BF, n, k, n) : lib_.layout(&p.b, CUDA_R_16BF, k, n, k)) == 0;
    ok = ok && lib_.layout(&p.a, CUDA_R_16BF, k, m, lda) == 0;
    ok = ok && lib_.layout(&p.c, c_is_f32 ? CUDA_R_32F : CUDA_R_16BF, n, m, ldc) == 0;
    void* preference = nullptr;
    ok = ok && lib_.preference(&preference) == 0 &&
         lib_.preference_set(preference, kMaxWorkspace, &kWorkspace, sizeof kWorkspace) == 0;
    if (ok) {
      p.proposals.resize(kProposals);
      int count = 0;
      if (lib_.propose(handle_, p.description, p.b, p.a, p.c, p.c, preference, kProposals, p.proposals.data(),
                       &count) != 0)
        count = 0;
      p.proposals.resize(static_cast<size_t>(count));
    }
    if (preference) lib_.preference_destroy(preference);
    return p;
  }

  Library lib_;
  Handle handle_;
  DeviceBuffer workspace_;
  std::map<Key, Problem> problems_;
};

}  // namespace

std::unique_ptr<Blas> Blas::open(std::string* why) {
  RuntimeLibrary library{"libcublasLt.so.13", "libcublasLt.so.12"};
  if (!library.opened()) {
    *why = "libcublasLt was not found: prompts use slower kernels of our own";
    return nullptr;
  }
  Library lib{};
  library.find(lib.create, "cublasLtCreate");
  library.find(lib.destroy, "cublasLtDestroy");
  library.find(lib.describe, "cublasLtMatmulDescCreate");
  library.find(lib.describe_set, "cublasLtMatmulDescSetAttribute");
  library.find(lib.describe_destroy, "cublasLtMatmulDescDestroy");
  library.find(lib.layout, "cublasLtMatrixLayoutCreate");
  library.find(lib.layout_destroy, "cublasLtMatrixLayoutDestroy");
  library.find(lib.preference, "cublasLtMatmulPreferenceCreate");
  library.find(lib.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  library.find(lib.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  library.find(lib.propose, "cublasLtMatmulAlgoGetHeuristic");
  library.find(lib.matmul, "cublasLtMatmul");
  Handle handle = nullptr;
  if (!library.complete() || lib.create(&handle) != 0) {
    *why = "libcublasLt cannot be used: prompts use slower kernels of our own";
    return nullptr;
  }
  return std::make_unique<BlasLt>(lib, handle);
}

}  // namespace filigree::cuda
