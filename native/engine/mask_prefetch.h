#pragma once

#include <condition_variable>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "grammar/grammar.h"

namespace filigree {

// Computes the masks of constrained rows while the layers run, on a thread of its own that starts with the first of them.
class MaskPrefetch {
 public:
  MaskPrefetch() = default;
  ~MaskPrefetch();
  MaskPrefetch(const MaskPrefetch&) = delete;
  MaskPrefetch& operator=(const MaskPrefetch&) = delete;

  // The matchers must not be touched before wait() has returned.
  void start(std::span<grammar::Matcher* const> matchers);
  void wait();

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<grammar::Matcher*> matchers_;
  bool busy_ = false, stopping_ = false;
  std::thread thread_;
};

}  // namespace filigree
