// The executor on OpenMP's threads, where the compiler has OpenMP.
#define EIGEN_DONT_PARALLELIZE  // Eigen's own code stays the same as in the other sources of this program
#include <implicit_attention/instantiations/kernels.hpp>

#include <core/executor_checks.hpp>
#include <support/sanitizers.hpp>

#ifdef _OPENMP
#include <implicit_attention/core/openmp_executor.hpp>

using namespace implicit_attention;

#if defined(TEST_ADDRESS_SANITIZER)
// clang++'s OpenMP library keeps its threads' memory to the end.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libomp"; }
#endif

TEST_CASE("The OpenMP executor calls each body once, carries exceptions, nests, and changes no bit") {
  for (const int workers : {0, 1, 2, 3, 7}) {
    INFO(workers << " workers");
    const Executor executor = openmp_executor(workers);
    if (workers < 7) {  // OpenMP's threads spin while they wait: many on few cores take long
      executor_checks::calls_each_once(executor);
      executor_checks::carries_exceptions(executor);
      executor_checks::nests(executor);
    }
    executor_checks::same_bits_as_serial(executor);
  }
}

TEST_CASE("The OpenMP executor takes as many threads as it is told") {
  std::atomic<int> highest{0};
  openmp_executor(3)(50, [&](Index) {
    int before = highest.load();
    while (before < omp_get_num_threads() && !highest.compare_exchange_weak(before, omp_get_num_threads())) {
    }
  });
  CHECK(highest.load() <= 3);
  CHECK(highest.load() >= 1);
}
#else
TEST_CASE("The OpenMP executor") { WARN("skipped: compiled without OpenMP"); }
#endif
