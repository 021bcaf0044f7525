// What softmax attention carries from one piece of a sequence to the next.
#pragma once

#include <algorithm>

#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Rotated keys and values, of the last `window` tokens where there is a window, and the position to go on from.
template <Real Scalar>
struct KeyValueState {
  Matrix<Scalar> key;    ///< (up to window, key heads * key size)
  Matrix<Scalar> value;  ///< (up to window, key heads * value size)
  Index position = 0;    ///< of the next token
};

namespace detail {

/// Fails unless the keys and values that a form begins with are of one length and as wide as the layer's.
template <Real Scalar>
void check_initial_keys(std::string_view who, const KeyValueState<Scalar>& initial, Index key_columns, Index value_columns) {
  const Index past = initial.key.rows() != 0 ? initial.key.rows() : initial.value.rows();
  check_initial<Scalar>(who, {{"key", &initial.key, past, key_columns, "(past tokens, key heads * key size)"},
                              {"value", &initial.value, past, value_columns,
                               "(past tokens, key heads * value size), as many tokens as activations.initial.key has"}});
}

}  // namespace detail

/// The state after a piece: the last `window` rows of (what was carried in, this piece's own).
template <Real Scalar>
[[nodiscard]] KeyValueState<Scalar> next_key_value_state(ConstView<Scalar> key, ConstView<Scalar> value,
                                                         const KeyValueState<Scalar>& initial, Index window, Index position) {
  KeyValueState<Scalar> state;
  const Index most = std::min(window, initial.key.rows() + key.rows());
  const Index own = std::min(key.rows(), most), past = std::min(most - own, initial.key.rows());
  state.key.resize(past + own, key.cols());
  state.value.resize(past + own, value.cols());
  if (past > 0) {
    state.key.topRows(past) = initial.key.bottomRows(past);
    state.value.topRows(past) = initial.value.bottomRows(past);
  }
  state.key.bottomRows(own) = key.bottomRows(own);
  state.value.bottomRows(own) = value.bottomRows(own);
  state.position = position;
  return state;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
