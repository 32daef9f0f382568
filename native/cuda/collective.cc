#include "cuda/collective.h"

#include <atomic>

#include "base/status.h"
#include "cuda/library.h"

namespace filigree::cuda {
namespace {

// The part of nccl.h that is used; its layout is fixed by the library's ABI.
using Communicator = struct NcclCommunicator*;
constexpr int kSuccess = 0, kFloat32 = 7, kSum = 0;

struct Library {
  int (*open_all)(Communicator*, int count, const int* devices);
  int (*all_reduce)(const void*, void*, size_t, int type, int operation, Communicator, cudaStream_t);
  int (*destroy)(Communicator);
  int (*abort)(Communicator);
  const char* (*message)(int);
};

// Null, and why, if there is none.
const Library* library(std::string* why) {
  static std::string obstacle;
  static const Library* const found = []() -> const Library* {
    RuntimeLibrary nccl{"libnccl.so.2"};
    if (!nccl.opened()) {
      obstacle = "libnccl.so.2 was not found (LD_LIBRARY_PATH names its folder)";
      return nullptr;
    }
    static Library lib{};
    nccl.find(lib.open_all, "ncclCommInitAll");
    nccl.find(lib.all_reduce, "ncclAllReduce");
    nccl.find(lib.destroy, "ncclCommDestroy");
    nccl.find(lib.abort, "ncclCommAbort");
    nccl.find(lib.message, "ncclGetErrorString");
    if (!nccl.complete()) obstacle = "libnccl.so.2 cannot be used: functions are missing";
    return nccl.complete() ? &lib : nullptr;
  }();
  if (why) *why = obstacle;
  return found;
}

void check_nccl(const Library& lib, int result, const char* what) {
  if (result != kSuccess)
    throw Error(ErrorCode::internal, std::string("NCCL: ") + what + ": " + lib.message(result));
}

class Nccl final : public Collective {
 public:
  Nccl(const Library& lib, Communicator communicator, uint32_t rank,
       std::shared_ptr<std::atomic<bool>> cancelled)
      : lib_(lib), communicator_(communicator), rank_(rank), cancelled_(std::move(cancelled)) {}
  ~Nccl() override {
    if (communicator_) lib_.destroy(communicator_);
  }

  uint32_t rank() const override { return rank_; }

  void add(const float* from, float* to, size_t count, cudaStream_t stream) override {
    if (!communicator_ || *cancelled_)
      throw Error(ErrorCode::internal, "NCCL: another GPU of this model has failed");
    check_nccl(lib_, lib_.all_reduce(from, to, count, kFloat32, kSum, communicator_, stream), "all-reduce");
  }

  void cancel() override { *cancelled_ = true; }
  bool cancelled() const override { return *cancelled_; }
  void abort() override {
    if (communicator_) lib_.abort(communicator_);
    communicator_ = nullptr;
  }

 private:
  const Library& lib_;
  Communicator communicator_;
  uint32_t rank_;
  std::shared_ptr<std::atomic<bool>> cancelled_;  // of all ends
};

}  // namespace

std::string Collective::obstacle() {
  std::string why;
  library(&why);
  return why;
}

std::vector<std::unique_ptr<Collective>> Collective::open(uint32_t ranks) {
  std::string why;
  const Library* const lib = library(&why);
  if (!lib) throw Error(ErrorCode::unsupported, "several GPUs add their sums through NCCL: " + why);
  std::vector<int> devices;
  for (uint32_t rank = 0; rank < ranks; ++rank) devices.push_back(static_cast<int>(rank));
  std::vector<Communicator> communicators(ranks);
  check_nccl(*lib, lib->open_all(communicators.data(), static_cast<int>(ranks), devices.data()), "starting");
  std::vector<std::unique_ptr<Collective>> ends;
  const auto cancelled = std::make_shared<std::atomic<bool>>(false);
  for (uint32_t rank = 0; rank < ranks; ++rank)
    ends.push_back(std::make_unique<Nccl>(*lib, communicators[rank], rank, cancelled));
  return ends;
}

}  // namespace filigree::cuda
