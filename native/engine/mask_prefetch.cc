#include "engine/mask_prefetch.h"

#include <exception>

namespace filigree {

MaskPrefetch::~MaskPrefetch() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void MaskPrefetch::start(std::span<grammar::Matcher* const> matchers) {
  if (matchers.empty()) return;
  if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
  {
    const std::lock_guard lock(mutex_);
    matchers_.assign(matchers.begin(), matchers.end());
    busy_ = true;
  }
  changed_.notify_all();
}

void MaskPrefetch::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !busy_; });
}

void MaskPrefetch::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return busy_ || stopping_; });
    if (stopping_) return;
    lock.unlock();
    for (grammar::Matcher* matcher : matchers_) {
      try {
        matcher->mask();
      } catch (const std::exception&) {
        // Whoever needs the mask meets the same failure, and can say whose it is.
      }
    }
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

}  // namespace filigree
