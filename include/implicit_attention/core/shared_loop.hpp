// One loop that several workers share: what the executors with threads have in common.
#pragma once

#include <atomic>
#include <functional>

#include <implicit_attention/core/types.hpp>
#if IMPLICIT_ATTENTION_EXCEPTIONS
#include <exception>
#endif

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The indices of a loop, taken one by one by its workers. The first exception of a body ends the loop (indices not yet begun are left out)
/// and is kept for the caller; it must not leave a worker's thread.
class SharedLoop {
 public:
  SharedLoop(Index count, const std::function<void(Index)>& body) : count_(count), body_(&body) {}

  /// Runs indices until none is left. May be called by any number of threads at once.
  void work() noexcept {
    for (Index i = next_.fetch_add(1, std::memory_order_relaxed); i < count_; i = next_.fetch_add(1, std::memory_order_relaxed)) run(i);
  }
  /// Runs one index.
  void run(Index i) noexcept {
#if IMPLICIT_ATTENTION_EXCEPTIONS
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      (*body_)(i);
    } catch (...) {
      if (!failed_.exchange(true)) exception_ = std::current_exception();
    }
#else
    (*body_)(i);
#endif
  }
  [[nodiscard]] Index count() const { return count_; }
  /// Once all workers are done: throws what a body threw.
  void finish() const {
#if IMPLICIT_ATTENTION_EXCEPTIONS
    if (exception_) std::rethrow_exception(exception_);
#endif
  }

 private:
  Index count_;
  const std::function<void(Index)>* body_;
  std::atomic<Index> next_{0};
#if IMPLICIT_ATTENTION_EXCEPTIONS
  std::atomic<bool> failed_{false};
  std::exception_ptr exception_;
#endif
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
