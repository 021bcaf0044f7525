// Work on threads: with a progress bar that follows the loops of the library, or in pieces that do not depend on each other.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include <implicit_attention/core/thread_executor.hpp>

#include "memory.hpp"
#include "progress.hpp"

namespace implicit_attention::examples {

/// Does `work(piece, executor)` for pieces 0 to count - 1, which do not depend on each other: as many at a time as the pool has threads,
/// each with its loops on its own thread; where there are fewer pieces than threads, one after the other, each with its loops on all of
/// them.
template <class PieceOfWork>
void for_each_piece(ThreadPool& pool, Index count, const PieceOfWork& work) {
  if (count >= pool.workers()) return pool.parallel_for(count, [&](Index piece) { work(piece, serial_executor()); });
  for (Index piece = 0; piece < count; ++piece) work(piece, pool.executor());
}

/// A bar over pieces of work of about the same size, each made of the library's loops.
class Work {
 public:
  /// `threads` as ThreadPool's workers.
  Work(std::string what, Index pieces, int threads = 0) : pool_(threads), bar_(std::move(what), pieces * steps) {
    bar_.count(0, 0);
    keep_freed_memory();
  }

  /// Begins the next piece; those before it are done. `loops`: how many loops the piece has, roughly.
  void begin_piece(Index loops = 1) {
    bar_.advance(end_ - done_);
    done_ = end_;
    end_ += steps;
    loops_left_ = std::max<Index>(loops, 1);
    loops_run_ = bodies_ = 0;
  }
  /// Runs loops on the pool. A loop moves the bar by its share of what is left of the piece; where there are more loops than were expected,
  /// by a quarter of that: the bar never stands still, and never goes beyond the piece. A late loop that is larger than all before it
  /// together, as that of all logits is, has most of what is left.
  [[nodiscard]] Executor executor() {
    return [this](Index count, const std::function<void(Index)>& body) {
      const std::thread::id caller = std::this_thread::get_id();
      const bool largest = loops_run_ >= 8 && count > bodies_;
      const Index begin = done_, left = end_ - done_,
                  loop = largest ? left - left / 10 : left / std::max(loops_left_, loops_expected_least);
      loops_left_ = std::max<Index>(loops_left_ - 1, 1);
      ++loops_run_;
      bodies_ += count;
      std::atomic<Index> finished{0};
      pool_.parallel_for(count, [&](Index i) {
        body(i);
        const Index now = ++finished;
        if (std::this_thread::get_id() != caller) return;  // the caller works too, and it alone draws
        const Index reached = std::max(done_, std::min(begin + now * loop / count, end_));
        bar_.advance(reached - done_);
        done_ = reached;
      });
    };
  }

 private:
  static constexpr Index steps = 100000;
  static constexpr Index loops_expected_least = 4;
  ThreadPool pool_;
  ProgressBar bar_;
  Index done_ = 0, end_ = 0;
  Index loops_left_ = 1;              // of the piece, roughly
  Index loops_run_ = 0, bodies_ = 0;  // in the piece, and how often their bodies were called
};

}  // namespace implicit_attention::examples
