#include "progress.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <system_error>
#include <utility>

#include <implicit_attention/core/error.hpp>

#include "numbers.hpp"
#include "text.hpp"

namespace implicit_attention::examples {

ProgressBar::ProgressBar(std::string what, Index total)
    : ProgressBar(std::move(what), total, stderr, terminal_of(stderr), std::chrono::milliseconds(800)) {}

ProgressBar::ProgressBar(std::string what, Index total, std::FILE* stream, const Terminal& terminal, Clock::duration first_delay)
    : what_(visible(what)),
      total_(std::max<Index>(total, 0)),
      stream_(stream),
      terminal_(terminal),
      start_(Clock::now()),
      next_(start_ + first_delay) {
  try {
    clock_ = std::thread([this] {
      std::unique_lock<std::mutex> lock(mutex_);
      while (!finish_.wait_until(lock, next_, [this] { return finished_; })) {
        try {
          if (Clock::now() >= next_) show();
        } catch (const std::exception&) {  // no memory for a line: the work goes on without
          return;
        }
      }
    });
  } catch (const std::system_error&) {  // no thread can be started: progress is shown when something advances
  }
}

ProgressBar::~ProgressBar() { finish(); }

void ProgressBar::advance(Index steps) {
  const std::lock_guard<std::mutex> lock(mutex_);
  done_ = std::clamp<Index>(done_ + steps, 0, total_);
  if (!finished_ && Clock::now() >= next_) show();
}

void ProgressBar::count(Index done, Index total) {
  const std::lock_guard<std::mutex> lock(mutex_);
  shown_done_ = done;
  shown_total_ = total;
}

void ProgressBar::describe(std::string what) {
  const std::lock_guard<std::mutex> lock(mutex_);
  what_ = visible(what);
}

void ProgressBar::finish() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (drawn_width_ > 0) {
      std::fprintf(stream_, "\r%*s\r", drawn_width_, "");  // without a string: memory may be what ran out
      std::fflush(stream_);
    }
    drawn_width_ = 0;
    finished_ = true;
  }
  finish_.notify_all();
  if (clock_.joinable()) clock_.join();
}

void ProgressBar::show() {
  const Clock::time_point now = Clock::now();
  if (!terminal_.interactive) {
    next_ = now + std::max<Clock::duration>(std::chrono::seconds(10), now - start_);
    std::fprintf(stream_, "%s\n", line().c_str());
  } else {
    next_ = now + std::chrono::milliseconds(100);
    const std::string shown = bar();
    const int width = display_width(shown);
    std::fprintf(stream_, "\r%s", pad(shown, drawn_width_).c_str());
    drawn_width_ = std::max(drawn_width_, width);
  }
  std::fflush(stream_);
}

std::string ProgressBar::time_left() const {
  if (done_ == 0) return "";
  const double share = static_cast<double>(done_) / static_cast<double>(total_);
  const double left = std::ceil(std::chrono::duration<double>(Clock::now() - start_).count() * (1 - share) / share);
  return (left < 60 ? detail::message(static_cast<int>(left), " s") : duration_text(left)) + " left";
}

std::string ProgressBar::line() const {
  if (total_ == 0) return what_;
  std::string text = what_ + ": " + detail::message(100 * done_ / total_) + " %";
  if (counted_total() > 0) text += ", " + grouped(counted()) + " of " + grouped(counted_total());
  const std::string left = time_left();
  return left.empty() ? text : text + ", " + left;
}

std::string ProgressBar::bar() const {
  if (total_ == 0) return shorten(what_, terminal_.width - 1);
  const double share = static_cast<double>(done_) / static_cast<double>(total_);
  const std::string whole = grouped(counted_total());
  std::string after = " " + pad(detail::message(static_cast<int>(100 * share)), 3, true) + " %";
  if (counted_total() > 0) after += "  " + pad(grouped(counted()), display_width(whole), true) + "/" + whole;
  if (const std::string left = time_left(); !left.empty()) after += "  " + left;
  // One column stays free: a line that fills the terminal would wrap, and could not be erased.
  const std::string before = shorten(what_, std::max(0, terminal_.width - 1 - display_width(after) - 14)) + "  ";
  const int room = std::clamp(terminal_.width - 1 - display_width(before) - display_width(after), 0, 40);
  const int full = static_cast<int>(std::lround(share * room));
  std::string drawn = before;
  for (int k = 0; k < room; ++k) drawn += terminal_.unicode ? (k < full ? "\u2501" : "\u2500") : (k < full ? "#" : ".");
  return shorten(drawn + after, terminal_.width - 1);
}

}  // namespace implicit_attention::examples
