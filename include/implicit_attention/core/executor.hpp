// Executors: how long loops run. The library starts no thread; it passes its loops to an executor.
//
// The serial one is here; thread_executor.hpp has a pool of std::thread, openmp_executor.hpp OpenMP's. An engine passes its own pool:
//
//     Executor engine = [&pool](Index count, const std::function<void(Index)>& body) { pool.parallel_for(0, count, body); };
#pragma once

#include <algorithm>
#include <functional>

#include <implicit_attention/core/subnormals.hpp>
#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// `parallel_for(count, body)`: calls `body(i)` once for every i in 0..count-1, in any order, on any thread, and returns when all are done.
/// Every body writes only what belongs to its i, so results are bit-identical for any number of workers.
using Executor = std::function<void(Index count, const std::function<void(Index)>& body)>;

/// The default: one after the other on the calling thread.
[[nodiscard]] inline Executor serial_executor() {
  return [](Index count, const std::function<void(Index)>& body) {
    for (Index i = 0; i < count; ++i) body(i);
  };
}

namespace detail {

template <class = void>
void run_loop(const Executor& executor, Index count, const void* body, void (*call)(const void* body, Index index)) {
  const struct {
    const void* body;
    void (*call)(const void* body, Index index);
    void operator()(Index index) const { call(body, index); }
  } erased{body, call};  // two pointers, which a std::function holds without memory of its own
  executor(count, erased);
}

/// executor(count, body), with one kind of std::function for all bodies: compilers have ten functions to make of each kind.
template <class Body>
void run_loop(const Executor& executor, Index count, const Body& body) {
  run_loop(executor, count, &body, [](const void* erased, Index index) { (*static_cast<const Body*>(erased))(index); });
}

/// How many numbers a panel of rows has: one worker's share at a time; what stays in the nearest cache while it is changed in place.
constexpr Index shared_panel = Index(1) << 16, cached_panel = Index(1) << 12;

template <class = void>
void run_row_panels(Index rows, Index columns, const Executor& executor, const void* body,
                    void (*call)(const void* body, Index first, Index count)) {
  const Index high = std::max<Index>(1, shared_panel / std::max<Index>(1, columns)), panels = (rows + high - 1) / high;
  if (panels <= 1) return call(body, Index(0), rows);
  run_loop(executor, panels, [&](Index index) { call(body, index * high, std::min(high, rows - index * high)); });
}

/// Calls body(first, count) for panels of neighbouring rows of a (rows, columns) matrix, of about shared_panel numbers each, through
/// the executor: work that is done number by number or row by row. The cut depends on the sizes alone; a small matrix is one panel.
template <class Body>
void for_row_panels(Index rows, Index columns, const Executor& executor, const Body& body) {
  run_row_panels(rows, columns, executor, &body,
                 [](const void* erased, Index first, Index count) { (*static_cast<const Body*>(erased))(first, count); });
}

/// The executor, with subnormal numbers as zeros in everything that it runs. It looks at the given one, which must outlive it.
template <class = void>
[[nodiscard]] Executor with_subnormals_as_zero(const Executor& executor) {
  return [&executor](Index count, const std::function<void(Index)>& task) {
    executor(count, [&task](Index index) {
      const SubnormalsAsZero there;
      task(index);
    });
  };
}
Executor with_subnormals_as_zero(Executor&&) = delete;
/// Calls body(executor) so that subnormal numbers are zeros there and in everything that it runs through that executor.
template <class Body>
void with_subnormals_as_zero(const Executor& executor, const Body& body) {
  const SubnormalsAsZero here;
  body(with_subnormals_as_zero(executor));
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
