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

IMPLICIT_ATTENTION_NAMESPACE_END
