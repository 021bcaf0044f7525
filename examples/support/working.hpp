// Work that shows its progress: an executor whose bar moves as its loops go.
#pragma once

#include <utility>

#include <implicit_attention/core/executor.hpp>

#include "terminal.hpp"

namespace implicit_attention::examples {

/// A bar over pieces of work of about the same size, each made of the library's own loops.
class Work {
 public:
  Work(std::string what, Index pieces) : bar_(std::move(what), pieces * steps) {}

  void describe(std::string what) { bar_.describe(std::move(what)); }
  /// Runs loops one after the other; while the last of a piece runs, the bar moves through that piece.
  [[nodiscard]] Executor executor() {
    return [this](Index count, const std::function<void(Index)>& body) {
      for (Index i = 0; i < count; ++i) {
        body(i);
        // A piece is several loops of unknown lengths: only the longest of them so far moves the bar, and never to the end.
        const Index reached = (i + 1) * (steps - 1) / count;
        bar_.advance(count >= longest_ && reached > done_ ? reached - done_ : 0);
        if (count >= longest_) done_ = std::max(done_, reached);
      }
      longest_ = std::max(longest_, count);
    };
  }
  /// A piece is done.
  void next() {
    bar_.advance(steps - done_);
    done_ = 0;
  }

 private:
  static constexpr Index steps = 1000;
  ProgressBar bar_;
  Index done_ = 0, longest_ = 0;
};

}  // namespace implicit_attention::examples
