// Executors that change the order of work: none may change a bit of a result.
#pragma once

#include <functional>
#include <thread>

#include <implicit_attention/core/executor.hpp>

namespace test_support {

using implicit_attention::Executor;
using implicit_attention::Index;

/// The last piece first.
inline Executor backwards_executor() {
  return [](Index count, const std::function<void(Index)>& body) {
    for (Index i = count - 1; i >= 0; --i) body(i);
  };
}
/// Every other piece on a thread of its own.
inline Executor two_threads() {
  return [](Index count, const std::function<void(Index)>& body) {
    std::thread other([&] {
      for (Index i = 1; i < count; i += 2) body(i);
    });
    for (Index i = 0; i < count; i += 2) body(i);
    other.join();
  };
}

}  // namespace test_support
