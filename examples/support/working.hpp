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
    loop_ = steps / std::max<Index>(loops, 1);
  }
  /// Runs loops on the pool. A loop moves the bar by its share of the piece, and never beyond the piece.
  [[nodiscard]] Executor executor() {
    return [this](Index count, const std::function<void(Index)>& body) {
      const std::thread::id caller = std::this_thread::get_id();
      const Index begin = done_;
      std::atomic<Index> finished{0};
      pool_.parallel_for(count, [&](Index i) {
        body(i);
        const Index now = ++finished;
        if (std::this_thread::get_id() != caller) return;  // the caller works too, and it alone draws
        const Index reached = std::max(done_, std::min(begin + now * loop_ / count, end_));
        bar_.advance(reached - done_);
        done_ = reached;
      });
    };
  }

 private:
  static constexpr Index steps = 100000;
  ThreadPool pool_;
  ProgressBar bar_;
  Index done_ = 0, end_ = 0, loop_ = steps;
};

}  // namespace implicit_attention::examples
