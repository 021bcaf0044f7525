// Long short-term memory (Hochreiter & Schmidhuber 1997), as torch has it.
#pragma once

#include <implicit_attention/layers/recurrent_cell.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// [i | f | g | o] = u weight_ih^T + y_{t-1} weight_hh^T + biases; c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g); y = sigmoid(o) tanh(c):
///
///     x = tanh(g)        R[i,j] = f_i ... f_{j+1} i_j        gate = o tanh(c) / c, with 1 for tanh(c) / c at c = 0
template <Real S>
class Lstm : public RecurrentCell<Lstm<S>, S> {
 public:
  static constexpr std::string_view layer_name = "LSTM";
  static constexpr Index gates = 4;
  static constexpr bool has_cell = true;
  using RecurrentCell<Lstm<S>, S>::RecurrentCell;

  [[nodiscard]] GatedCellPass<S> pass(const Value<S>& input, const Array<S>& hidden, const Array<S>& cell) const {
    return lstm(input, this->weights().weight_hh, this->weights().bias_hh, hidden, cell);
  }
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
