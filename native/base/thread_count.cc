#include "base/thread_count.h"

#include <algorithm>
#include <limits>

namespace filigree {
namespace {

constexpr int64_t kTrying = std::numeric_limits<int64_t>::max();

}  // namespace

int ThreadCount::at(int64_t now) {
  if (now_ < most_ && now >= until_) {
    ++now_;
    until_ = kTrying;
    begin_window();
  }
  return now_;
}

void ThreadCount::ran(int threads, int64_t longest, int64_t others, int64_t now) {
  if (threads != now_ || threads < 2) return;
  longest_ += longest;
  others_ += others;
  if (longest_ < kWindow) return;
  // 0.95: what a run needs to begin and end is no reason to have fewer.
  const double worth = 0.95 * static_cast<double>(longest_) * (threads - 1) / threads;
  if (now_ > least_ && static_cast<double>(others_) < worth) {
    --now_;
    until_ = now + while_;
    while_ = std::min(2 * while_, kLongestWhile);
  } else {
    if (until_ == kTrying) until_ = now;  // the next one at once
    if (now_ == most_) while_ = std::max(while_ / 2, kFirstWhile);
  }
  begin_window();
}

}  // namespace filigree
