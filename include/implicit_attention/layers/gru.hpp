// The gated recurrent unit (Cho et al. 2014, arXiv 1406.1078), as torch has it: the reset gate stands behind the product with the output.
#pragma once

#include <implicit_attention/layers/recurrent_cell.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// r, z = sigmoid(.), n = tanh(u W_in^T + b_in + r (y_{t-1} W_hn^T + b_hn)); y_t = z y_{t-1} + (1 - z) n:
///
///     x = n        R[i,j] = z_i ... z_{j+1} (1 - z_j)
template <Real S>
class Gru : public RecurrentCell<Gru<S>, S> {
 public:
  static constexpr std::string_view layer_name = "GRU";
  static constexpr Index gates = 3;
  static constexpr bool has_cell = false;
  using RecurrentCell<Gru<S>, S>::RecurrentCell;

  [[nodiscard]] GatedCellPass<S> pass(const Value<S>& input, const Array<S>& hidden, const Array<S>&) const {
    return gru(input, this->weights().weight_hh, this->weights().bias_hh, hidden);
  }
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
