// The library's loops on OpenMP's threads. For programs that are compiled with OpenMP (-fopenmp).
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/shared_loop.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

#ifdef _OPENMP

/// Runs loops on `workers` OpenMP threads (0: as many as OpenMP would take), each taking the next index when it has done one.
/// A body's exception reaches the caller; the rest of the loop is then left out. Within a parallel region OpenMP gives one thread unless
/// told otherwise (omp_set_max_active_levels), so that nested loops run one after the other.
template <class = void>
[[nodiscard]] Executor openmp_executor(int workers = 0) {
  return [workers](Index count, const std::function<void(Index)>& body) {
    if (count <= 1 || workers == 1) {
      for (Index i = 0; i < count; ++i) body(i);
      return;
    }
    detail::SharedLoop loop(count, body);
    const int threads = workers > 0 ? workers : omp_get_max_threads();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (Index i = 0; i < count; ++i) loop.run(i);
    loop.finish();
  };
}

#else

/// Without OpenMP: an error that says so.
template <class Workers = int>
[[nodiscard]] Executor openmp_executor(Workers = 0) {
  static_assert(sizeof(Workers) == 0, "implicit_attention: openmp_executor needs OpenMP; compile with -fopenmp, or use thread_executor");
  return serial_executor();
}

#endif

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
