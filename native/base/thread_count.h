#pragma once

#include <cstdint>

namespace filigree {

// How many of a pool's threads work while other programs want the same processors.
//
// A thread whose processor another program took for a time slice of milliseconds makes all others of its run wait, and runs take
// microseconds to a few milliseconds: with one busy program too many, n threads may be slower than n - 1 that have a processor each. So
// runs are timed, and where, over kWindow, the threads that were not last worked for less than (n - 1) / n of the time, one thread fewer
// is used for a while, after which n are tried again. The while doubles as often as that fails. Of more than four threads only one is
// left out: among many, shares of unequal size look the same as a processor taken away. Times are nanoseconds; not thread-safe.
class ThreadCount {
 public:
  static constexpr int64_t kWindow = 20'000'000, kFirstWhile = 40'000'000, kLongestWhile = 640'000'000;

  explicit ThreadCount(int most) : most_(most), least_(most > 4 ? most - 1 : 1), now_(most) {}

  // For a run that begins now.
  int at(int64_t now);
  // A run on `threads` took `longest` until its last thread had ended, and the others `others` on average, and ended at `now`. Runs of
  // fewer threads than at() said tell nothing.
  void ran(int threads, int64_t longest, int64_t others, int64_t now);

 private:
  void begin_window() { longest_ = others_ = 0; }

  int most_, least_, now_;
  int64_t longest_ = 0, others_ = 0;  // sums of the window
  int64_t until_ = 0;                 // when more are tried again
  int64_t while_ = kFirstWhile;
};

}  // namespace filigree
