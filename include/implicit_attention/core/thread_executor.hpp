// The library's loops on a small pool of threads, for programs that have no pool of their own.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/shared_loop.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Cores that this process may use: those that its CPU affinity allows (`taskset -c 0`: one) where the system tells, else all.
[[nodiscard]] inline int available_cores() {
#if defined(__linux__) && defined(CPU_COUNT)
  cpu_set_t cores;
  if (::sched_getaffinity(0, sizeof cores, &cores) == 0 && CPU_COUNT(&cores) > 0) return CPU_COUNT(&cores);
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// Threads that wait for loops. `workers` counts the calling thread, which works too: a pool of 4 starts 3 threads and keeps them.
///
///     ThreadPool pool(4);
///     Selection selection;
///     selection.executor = pool.executor();   // the pool must outlive it
///
/// A body's exception reaches the caller; the rest of the loop is then left out. No more than `workers` threads ever work: a loop that is
/// begun within a loop of this or another pool runs on the thread that begins it, and loops from several threads take turns.
class ThreadPool {
 public:
  /// `workers` 0: as many as the process may run at once, see `available_cores`. Where the system does not give so many threads, or no
  /// memory for them, the pool goes on with those that it gave: no result depends on their number. Built without exceptions it aborts.
  explicit ThreadPool(int workers = 0) {
    if (workers <= 0) workers = available_cores();
    for (int thread = 1; thread < workers && starts_one(); ++thread) {
    }
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() = default;  // the threads are told to stop, and joined

  [[nodiscard]] int workers() const { return static_cast<int>(threads_.size()) + 1; }

  /// Calls `body(i)` for every i in 0..count-1 and returns when all are done.
  void parallel_for(Index count, const std::function<void(Index)>& body) {
    if (count <= 1 || threads_.empty() || within_loop()) {
      for (Index i = 0; i < count; ++i) body(i);
      return;
    }
    const std::lock_guard<std::mutex> turn(turn_);
    detail::SharedLoop loop(count, body);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      loop_ = &loop;
      begun_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    within_loop() = true;
    loop.work();
    within_loop() = false;
    {
      // Threads that are still asleep are not waited for: they will find no loop.
      std::unique_lock<std::mutex> lock(mutex_);
      loop_ = nullptr;
      done_.wait(lock, [&] { return working_ == 0; });
    }
    loop.finish();
  }

  /// An executor on this pool, which must outlive it.
  [[nodiscard]] Executor executor() {
    return [this](Index count, const std::function<void(Index)>& body) { parallel_for(count, body); };
  }

 private:
  /// Whether one more thread could be started.
  bool starts_one() {
#if IMPLICIT_ATTENTION_EXCEPTIONS
    try {
      threads_.emplace_back(&ThreadPool::serve, this);
    } catch (const std::system_error&) {
      return false;
    } catch (const std::bad_alloc&) {
      return false;
    }
#else
    threads_.emplace_back(&ThreadPool::serve, this);
#endif
    return true;
  }

  void serve() {
    within_loop() = true;
    unsigned seen = 0;
    for (;;) {
      // The next loop often follows within microseconds; going to sleep would take longer.
      const auto asleep = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
      while (begun_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < asleep) std::this_thread::yield();
      detail::SharedLoop* loop = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || begun_.load(std::memory_order_relaxed) != seen; });
        if (stopping_) return;
        seen = begun_.load(std::memory_order_relaxed);
        if (loop_ == nullptr) continue;
        loop = loop_;
        ++working_;
      }
      loop->work();
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        --working_;
      }
      done_.notify_one();
    }
  }

  void stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  /// Whether this thread is running a body of some pool.
  [[nodiscard]] static bool& within_loop() {
    thread_local bool within = false;
    return within;
  }

  std::mutex turn_;   // held by the thread whose loop runs
  std::mutex mutex_;  // guards loop_, working_ and stopping_
  std::condition_variable wake_, done_;
  detail::SharedLoop* loop_ = nullptr;
  int working_ = 0;
  bool stopping_ = false;
  std::atomic<unsigned> begun_{0};
  std::vector<std::thread> threads_;
  struct Joined {  // joins as std::jthread does, which is slow to compile; also where the constructor fails
    ThreadPool& pool;
    ~Joined() { pool.stop(); }
  } joined_{*this};  // last: destroyed first
};

/// An executor with its own pool, which lives as long as any copy of the executor. `workers` as in ThreadPool.
[[nodiscard]] inline Executor thread_executor(int workers = 0) {
  return [pool = std::make_shared<ThreadPool>(workers)](Index count, const std::function<void(Index)>& body) {
    pool->parallel_for(count, body);
  };
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
