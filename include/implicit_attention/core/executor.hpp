// Executors: how long loops run. The library starts no thread; it passes its loops to an executor.
//
// The serial one is here; thread_executor.hpp has a pool of std::thread, openmp_executor.hpp OpenMP's. An engine passes its own pool:
//
//     Executor engine = [&pool](Index count, const std::function<void(Index)>& body) { pool.parallel_for(0, count, body); };
#pragma once

#include <algorithm>
#include <functional>

#include <implicit_attention/core/types.hpp>

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

/// Numbers of a panel of rows: as one worker takes them at a time, and as they stay in the nearest cache while they are changed in place.
constexpr Index shared_panel = Index(1) << 16, cached_panel = Index(1) << 12;

/// Calls body(first, count) for neighbouring rows, about `numbers` of (rows, columns) numbers, through the executor: work that is done
/// number by number or row by row. The cut depends on the sizes alone; few numbers are done at once.
template <class Body>
void for_row_panels(Index rows, Index columns, const Executor& executor, const Body& body, Index numbers = shared_panel) {
  const Index high = std::max<Index>(1, numbers / std::max<Index>(1, columns)), panels = (rows + high - 1) / high;
  if (panels <= 1) return body(Index(0), rows);
  executor(panels, [&](Index index) { body(index * high, std::min(high, rows - index * high)); });
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
