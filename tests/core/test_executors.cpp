// The serial executor, the pool of threads, and a host's own.
#include <chrono>
#include <functional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#endif

#include <implicit_attention/core/thread_executor.hpp>

#include <core/executor_checks.hpp>

using namespace implicit_attention;

TEST_CASE("Executors call each body once, carry exceptions and nest") {
  executor_checks::calls_each_once(serial_executor());
  executor_checks::carries_exceptions(serial_executor());
  for (const int workers : {0, 1, 2, 3, 7}) {
    INFO(workers << " workers");
    const Executor executor = thread_executor(workers);
    executor_checks::calls_each_once(executor);
    executor_checks::carries_exceptions(executor);
    executor_checks::nests(executor);
  }
}

TEST_CASE("A loop whose body fails begins no other body") {
  std::vector<Index> begun;
  const auto body = [&](Index i) {
    begun.push_back(i);
    if (i >= 5) throw std::length_error("body " + std::to_string(i));
  };
  const std::function<void(Index)> function = body;
  detail::SharedLoop loop(50, function);
  loop.work();
  loop.work();  // a second worker, that comes later
  CHECK(begun == std::vector<Index>{0, 1, 2, 3, 4, 5});
  CHECK_THROWS_WITH(loop.finish(), "body 5");
  begun.clear();
  CHECK_THROWS_WITH(thread_executor(1)(50, body), "body 5");
  CHECK(begun.size() == 6);
}

TEST_CASE("Results are the same to the last bit for any number of workers") {
  executor_checks::same_bits_as_serial(serial_executor());
  for (const int workers : {1, 2, 3, 7}) {
    INFO(workers << " workers");
    executor_checks::same_bits_as_serial(thread_executor(workers));
  }
  // A host may run bodies in any order.
  executor_checks::same_bits_as_serial([](Index count, const std::function<void(Index)>& body) {
    for (Index i = count - 1; i >= 0; --i) body(i);
  });
}

#if defined(__GLIBC__)
TEST_CASE("A pool goes on with the threads that the system gives") {
  pthread_attr_t before, too_large;
  REQUIRE(::pthread_getattr_default_np(&before) == 0);
  REQUIRE(::pthread_getattr_default_np(&too_large) == 0);
  REQUIRE(::pthread_attr_setstacksize(&too_large, std::size_t{1} << 50) == 0);  // more than an address space has
  REQUIRE(::pthread_setattr_default_np(&too_large) == 0);
  const Executor executor = thread_executor(4);
  CHECK(ThreadPool(4).workers() == 1);
  CHECK(::pthread_setattr_default_np(&before) == 0);
  executor_checks::calls_each_once(executor);
  executor_checks::carries_exceptions(executor);
  CHECK(ThreadPool(4).workers() == 4);
  ::pthread_attr_destroy(&before);
  ::pthread_attr_destroy(&too_large);
}
#endif

TEST_CASE("A pool never has more threads at work than workers, nested loops and several callers included") {
  ThreadPool pool(3), other(2);
  CHECK(pool.workers() == 3);
  CHECK(ThreadPool(1).workers() == 1);
  CHECK(ThreadPool().workers() >= 1);
  std::atomic<int> at_work{0}, most{0};
  const auto body = [&](Index) {
    const int now = at_work.fetch_add(1) + 1;
    int before = most.load();
    while (before < now && !most.compare_exchange_weak(before, now)) {
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    at_work.fetch_sub(1);
  };
  pool.parallel_for(60, body);
  CHECK(most.load() <= 3);
  CHECK(most.load() >= 2);  // 60 bodies of 200 us: a second thread wakes up in time

  std::atomic<int> strangers{0};
  pool.parallel_for(20, [&](Index) {
    const std::thread::id here = std::this_thread::get_id();
    const auto inner = [&](Index) { strangers.fetch_add(std::this_thread::get_id() != here); };
    pool.parallel_for(10, inner);
    other.parallel_for(10, inner);
  });
  CHECK(strangers.load() == 0);

  most = 0;
  std::thread first([&] { pool.parallel_for(30, body); }), second([&] { pool.parallel_for(30, body); });
  first.join();
  second.join();
  CHECK(most.load() <= 3);
}

TEST_CASE("A pool's threads survive many short loops, and end with it") {
  std::atomic<Index> sum{0};
  for (int round = 0; round < 30; ++round) {
    ThreadPool pool(4);
    for (int loop = 0; loop < 100; ++loop) pool.parallel_for(5, [&](Index i) { sum.fetch_add(i); });
  }
  CHECK(sum.load() == 30 * 100 * 10);
  ThreadPool idle(2);  // never used
}
