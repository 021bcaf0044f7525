// Low-rank maps beside a full one: x W^T + (x down^T) up^T, as adapters have them.
#pragma once

#include <string>
#include <string_view>

#include <implicit_attention/trace/operations.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The two factors of an adapter; empty where there is none.
template <Real S>
struct LowRank {
  Array<S> down;  ///< (rank, inputs)
  Array<S> up;    ///< (outputs, rank)

  [[nodiscard]] bool empty() const { return down.empty() && up.empty(); }
  /// Fails unless the factors fit each other and a map from `inputs` to `outputs`, or both are empty.
  void check(std::string_view who, std::string_view name, Index outputs, Index inputs) const {
    if (empty()) return;
    check_shape(who, detail::message(name, ", first factor"), down, down.rows(), inputs, "(rank, inputs)");
    check_shape(who, detail::message(name, ", second factor"), up, outputs, down.rows(), "(outputs, rank)");
  }
  /// The rows of some of the outputs.
  [[nodiscard]] LowRank outputs(Index first, Index count) const { return {down, up.middle_rows(first, count)}; }
};

/// x weight^T + bias, plus what the adapter adds. Its factors stay apart: nothing is merged into a copy of the weight.
template <Real S>
[[nodiscard]] Value<S> adapted_linear(const Value<S>& x, const Array<S>& weight, const Array<S>& bias, const LowRank<S>& adapter) {
  const Value<S> out = linear(x, weight, bias);
  return adapter.empty() ? out : add(out, linear(linear(x, adapter.down), adapter.up));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
