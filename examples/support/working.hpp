// Work that shows its progress: threads whose bar moves as its loops go.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include <implicit_attention/core/thread_executor.hpp>

#include "terminal.hpp"

namespace implicit_attention::examples {

/// A bar over pieces of work of about the same size, each made of the library's own loops.
class Work {
 public:
  Work(std::string what, Index pieces) : bar_(std::move(what), pieces * steps) {}

  /// The next piece begins: whatever came before it is done.
  void begin_piece() {
    if (begun_) bar_.advance(steps - done_);
    begun_ = true;
    done_ = 0;
  }
  /// Runs loops on all of the machine's cores. The bar moves through the piece with the loop that is furthest; it comes to the end of a
  /// piece only when the next one begins.
  [[nodiscard]] Executor executor() {
    return [this](Index count, const std::function<void(Index)>& body) {
      const std::thread::id caller = std::this_thread::get_id();
      std::atomic<Index> finished{0};
      pool_.parallel_for(count, [&](Index i) {
        body(i);
        const Index now = ++finished;
        if (std::this_thread::get_id() != caller) return;  // the caller works too, and it alone draws
        const Index reached = std::max(done_, now * (steps - 1) / count);
        bar_.advance(reached - done_);
        done_ = reached;
      });
    };
  }

 private:
  static constexpr Index steps = 1000;
  ThreadPool pool_;
  ProgressBar bar_;
  Index done_ = 0;
  bool begun_ = false;
};

}  // namespace implicit_attention::examples
