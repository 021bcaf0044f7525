// LSTM (Hochreiter & Schmidhuber 1997) and GRU (Cho et al. 2014) as layers: given the gates of this very run they are linear recurrences.
#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include <implicit_attention/layers/layer_descriptor.hpp>
#include <implicit_attention/trace/gated_cells.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The weights of one layer, under torch's names; the gates stand below each other: i, f, g, o of an LSTM, r, z, n of a GRU.
template <Real S>
struct RecurrentCellWeights {
  Array<S> weight_ih;  ///< (4E or 3E, D)
  Array<S> weight_hh;  ///< (4E or 3E, E)
  Array<S> bias_ih;    ///< (4E or 3E), may be absent
  Array<S> bias_hh;    ///< (4E or 3E), may be absent
};

/// What one piece of a sequence hands to the next.
template <Real S>
struct RecurrentCellState {
  Matrix<S> hidden;  ///< (1, E)
  Matrix<S> cell;    ///< (1, E), LSTM only
};

/// One sequence through the layer. The implicit attention needs log_decay, write and, for an LSTM, gate.
template <Real S>
struct RecurrentCellActivations {
  Array<S> x;          ///< (L, E): tanh of the candidate: the linear input
  Array<S> log_decay;  ///< (L, E): log of the forget gate (LSTM) or the update gate (GRU)
  Array<S> write;      ///< (L, E): input gate, or 1 - update gate
  Array<S> gate;       ///< (L, E), LSTM only: o tanh(c) / c
  Array<S> cell;       ///< (L, E), LSTM only: c
  Array<S> y, out;     ///< (L, E): the output; there is no projection
  RecurrentCellState<S> initial, final;
};

/// R[i,j] = decay_i ... decay_{j+1} write_j, and what the initial state gives is the carry (the bias of the golden files). `Derived` says
/// how many gates there are and runs its cell. The initial state comes from a State, or from `h0` (and `c0`) of the run context.
template <class Derived, Real S>
class RecurrentCell : public LayerInterface<Derived> {
 public:
  using Scalar = S;
  using Weights = RecurrentCellWeights<S>;
  using State = RecurrentCellState<S>;
  using Activations = RecurrentCellActivations<S>;

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit RecurrentCell(Weights weights) : weights_(std::move(weights)) {
    const Index rows = Derived::gates * channels();
    if (channels() < 1) detail::raise_shape(Derived::layer_name, "weight_hh_l0", "is empty, expected (gates * channels, channels)");
    check_shape(Derived::layer_name, "weight_hh_l0", weights_.weight_hh, rows, channels(), "(gates * channels, channels)");
    check_shape(Derived::layer_name, "weight_ih_l0", weights_.weight_ih, rows, width(), "(gates * channels, width)");
    detail::check_bias(Derived::layer_name, "bias_ih_l0", weights_.bias_ih, rows, "gates * channels");
    detail::check_bias(Derived::layer_name, "bias_hh_l0", weights_.bias_hh, rows, "gates * channels");
  }
  /// Reads the weights below a prefix, under torch's names of a first layer.
  [[nodiscard, gnu::cold]] static Derived from_tensors(const PrefixedTensors<Scalar>& tensors) {
    Weights w;
    w.weight_ih = tensors.required("weight_ih_l0", 2);
    w.weight_hh = tensors.required("weight_hh_l0", 2);
    w.bias_ih = tensors.optional("bias_ih_l0", 1);
    w.bias_hh = tensors.optional("bias_hh_l0", 1);
    return Derived(std::move(w));
  }

  [[nodiscard]] Index width() const { return weights_.weight_ih.cols(); }
  [[nodiscard]] Index channels() const { return weights_.weight_hh.cols(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }

  /// Runs the layer on u (L, D) within a trace, from `initial` or what the context holds. The initial state is a constant.
  [[nodiscard]] LayerRun<Derived> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const {
    Activations act;
    act.initial = begin(context, initial);
    const Value<S> input = linear(u, weights_.weight_ih, weights_.bias_ih);
    const GatedCellPass<S> pass = self().pass(input, detail::carried(act.initial.hidden), detail::carried(act.initial.cell));
    act.x = pass.x.numbers;
    act.log_decay = pass.log_decay;
    act.write = pass.write;
    act.gate = pass.gate;
    act.cell = pass.cell;
    act.y = act.out = pass.y.numbers;
    act.final.hidden = act.y.matrix().bottomRows(1);
    if (!act.cell.empty()) act.final.cell = act.cell.matrix().bottomRows(1);
    return {std::move(act), pass.x, pass.y, pass.y};
  }

  /// The unified form (formulation: "LSTM and GRU").
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const {
    UnifiedForm<Scalar> form;
    const Index tokens = detail::tokens_of<Scalar>(terms, {{Term::recurrence, &act.log_decay},
                                                           {Term::recurrence, &act.write},
                                                           {Term::gate, &act.gate},
                                                           {Term::gate, &act.cell},
                                                           {Term::recurrence, &act.x}});
    const auto check = [&](const char* name, const Array<S>& array) {
      detail::check_activation(Derived::layer_name, name, array, tokens, channels(), "(tokens, channels)");
    };
    if (terms.has(Term::recurrence)) {
      check("log_decay", act.log_decay);
      check("write", act.write);
      detail::check_initial<Scalar>(Derived::layer_name,
                                    {{"hidden", &act.initial.hidden, Derived::has_cell ? 0 : 1, channels(), "(1, channels)"},
                                     {"cell", &act.initial.cell, Derived::has_cell ? 1 : 0, channels(), "(1, channels)"}});
      DiagonalRecurrence<S> recurrence;
      recurrence.tokens = tokens;
      recurrence.channels = channels();
      recurrence.step = act.log_decay;
      recurrence.key_scale = act.write;
      form.recurrence = std::move(recurrence);
      form.initial_state = detail::carried(Derived::has_cell ? act.initial.cell : act.initial.hidden);
    } else {
      form.recurrence = identity_recurrence<S>(tokens, channels());
    }
    if (Derived::has_cell && terms.has(Term::gate)) {
      check("gate", act.gate);
      form.gate = act.gate;
    }
    return form;
  }

 private:
  [[nodiscard]] const Derived& self() const { return static_cast<const Derived&>(*this); }
  [[nodiscard]] State begin(const RunContext<Scalar>& context, const State* initial) const {
    State state;
    const auto take = [&](const char* name, Matrix<S> State::*member) {
      if (const Value<S>* given = context.find(name)) {
        if (initial != nullptr)
          detail::raise(ErrorKind::value, Derived::layer_name, ": a state was given, and ", name, " too, expected one of them");
        check_shape(Derived::layer_name, name, given->numbers, 1, channels(), "(1, channels)");
        state.*member = **given;
      }
    };
    take("h0", &State::hidden);
    if (Derived::has_cell) take("c0", &State::cell);
    if (initial == nullptr) return state;
    check_shape(Derived::layer_name, "state.hidden", initial->hidden, 1, channels(), "(1, channels)");
    if (Derived::has_cell) check_shape(Derived::layer_name, "state.cell", initial->cell, 1, channels(), "(1, channels)");
    return *initial;
  }

  Weights weights_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
