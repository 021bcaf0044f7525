// How far a long run is: a bar in a terminal, a line now and then in a pipe or a file.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <string>
#include <thread>

#include <implicit_attention/core/types.hpp>

#include "terminal.hpp"

namespace implicit_attention::examples {

/// A run's progress on stderr, once it has taken most of a second, whether anything has been done by then or not. In a terminal a bar,
/// drawn at most ten times a second and erased at the end; elsewhere a line, the next one when the run has become twice as long, but ten
/// seconds later at the earliest. Threads may share one.
class ProgressBar {
 public:
  using Clock = std::chrono::steady_clock;
  /// `total` steps; 0 where nobody can tell how many there are: then the words alone are shown.
  ProgressBar(std::string what, Index total);
  /// For tests: any stream, terminal and first delay.
  ProgressBar(std::string what, Index total, std::FILE* stream, const Terminal& terminal, Clock::duration first_delay);
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar();

  /// `steps` more of `total` are done.
  void advance(Index steps = 1);
  /// What is shown as done and as the whole, in the place of steps: steps may weigh pieces of work that people count. A `total` of 0:
  /// neither.
  void count(Index done, Index total);
  /// Changes the words in front of the bar.
  void describe(std::string what);
  /// Erases the bar; nothing is shown afterwards.
  void finish();

 private:
  void show();
  [[nodiscard]] Index counted() const { return shown_total_ < 0 ? done_ : shown_done_; }
  [[nodiscard]] Index counted_total() const { return shown_total_ < 0 ? total_ : shown_total_; }
  [[nodiscard]] std::string time_left() const;
  [[nodiscard]] std::string bar() const;
  [[nodiscard]] std::string line() const;

  std::string what_;
  Index total_ = 0, done_ = 0;
  Index shown_done_ = -1, shown_total_ = -1;  // below 0: the steps
  std::FILE* stream_;
  Terminal terminal_;
  Clock::time_point start_, next_;
  int drawn_width_ = 0;  // columns to erase
  bool finished_ = false;
  std::mutex mutex_;  // of everything above
  std::condition_variable finish_;
  std::thread clock_;  // shows what is there when nothing advances
};

}  // namespace implicit_attention::examples
