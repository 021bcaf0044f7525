// The mLSTM layer of the released xLSTM models (Beck et al. 2025, arXiv 2503.13427).
#pragma once

#include <string>
#include <utility>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/layers/mlstm_cell.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With H heads; cell and norm as in MlstmCell:
///
///     q, k, v = projections of u        input = cap(igate_preact u)        log f = logsigmoid(cap(fgate_preact u))        cap(t) = c tanh(t / c)
///     x = v - mean_h(v)                 y = sigmoid(ogate_preact u) norm(cell(x))        out = y out_proj^T
template <Real S>
class MlstmLarge : public LayerInterface<MlstmLarge<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "mLSTM";

  struct Weights {
    Array<Scalar> q_weight, k_weight;         ///< (H K, D)
    Array<Scalar> v_weight;                   ///< (E, D)
    Array<Scalar> ogate_preact_weight;        ///< (E, D)
    Array<Scalar> igate_preact_weight;        ///< (H, D)
    Array<Scalar> fgate_preact_weight;        ///< (H, D)
    Array<Scalar> multihead_norm_weight;      ///< (E)
    Array<Scalar> out_proj_weight;            ///< (D, E)
    Array<Scalar> q_bias, k_bias;             ///< (H K), may be absent
    Array<Scalar> v_bias, ogate_preact_bias;  ///< (E), may be absent
    Array<Scalar> igate_preact_bias;          ///< (H), may be absent
    Array<Scalar> fgate_preact_bias;          ///< (H), may be absent
    Array<Scalar> multihead_norm_bias;        ///< (E), may be absent
    Array<Scalar> out_proj_bias;              ///< (D), may be absent
  };
  struct Options {
    double gate_soft_cap = 15;  ///< 0: none
    double cell_eps = 1e-6;     ///< added to what rows are divided by
    double norm_eps = 1e-6;     ///< of the norm over each head: 1e-6 in the released models, not 1e-5
  };
  [[nodiscard]] static Options options(const Configuration& configuration) {
    Options made;
    made.gate_soft_cap = configuration.number({"gate_soft_cap"}).value_or(made.gate_soft_cap);
    made.cell_eps = configuration.positive_number({"cell_eps", "eps"}).value_or(made.cell_eps);
    // transformers reads norm_eps alone and NX-AI's own code cell_norm_eps: where both are there, they must agree.
    made.norm_eps = configuration.positive_number({"cell_norm_eps", "norm_eps"}).value_or(made.norm_eps);
    return made;
  }

  using State = MlstmCellState<Scalar>;
  /// One sequence through the layer. The implicit attention needs what MlstmCellActivations hold, and gate_input.
  struct Activations : MlstmCellActivations<Scalar> {
    Array<Scalar> x;           ///< (L, E): values less their mean over each head: the linear input
    Array<Scalar> value;       ///< (L, E): values
    Array<Scalar> input_gate;  ///< (L, H): capped
    Array<Scalar> gate_input;  ///< (L, E): before the sigmoid
    Array<Scalar> y;           ///< (L, E): output before the output projection
    Array<Scalar> out;         ///< (L, D)
    State initial;             ///< the state carried in; empty matrices if none
    State final;               ///< the state after the last token
  };

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit MlstmLarge(Weights weights, Options options = {});
  /// Reads the weights below a prefix such as `backbone.blocks.0.mlstm_layer.`, under their public names.
  [[nodiscard, gnu::cold]] static MlstmLarge from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  [[nodiscard]] Index width() const { return weights_.v_weight.cols(); }
  [[nodiscard]] Index channels() const { return weights_.v_weight.rows(); }
  [[nodiscard]] Index heads() const { return weights_.igate_preact_weight.rows(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }

  /// Runs the layer on u (L, D) within a trace, from `initial` if a state was carried in.
  [[nodiscard]] LayerRun<MlstmLarge> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;
  /// The unified form (formulation: "mLSTM"). With the normalization off, rows of R are exp(-maximum) times themselves.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, E) and bias of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.out_proj_weight; }
  [[nodiscard]] const Array<Scalar>& output_bias() const { return weights_.out_proj_bias; }

 private:
  Weights weights_;
  Options options_;
  MlstmCell<Scalar> cell_;
};

template <Real S>
MlstmLarge<S>::MlstmLarge(Weights weights, Options options) : weights_(std::move(weights)), options_(options) {
  const Weights& w = weights_;
  const Index keys = w.q_weight.rows();
  if (heads() < 1 || channels() < 1 || keys < 1 || channels() % heads() != 0 || keys % heads() != 0)
    detail::raise_shape(layer_name, "v.weight", "and q.weight have ", channels(), " and ", keys, " rows, expected multiples of ", heads(),
                        " heads, the rows of igate_preact.weight");
  const auto check = [&](const char* name, const Array<Scalar>& weight, const Array<Scalar>& bias, Index rows, Index columns,
                         const char* meaning, const char* size) {
    check_shape(layer_name, std::string(name) + ".weight", weight, rows, columns, meaning);
    detail::check_bias(layer_name, std::string(name) + ".bias", bias, rows, size);
  };
  check("q", w.q_weight, w.q_bias, keys, width(), "(heads * keys, width)", "heads * keys");
  check("k", w.k_weight, w.k_bias, keys, width(), "(heads * keys, width)", "heads * keys");
  check("v", w.v_weight, w.v_bias, channels(), width(), "(channels, width)", "channels");
  check("ogate_preact", w.ogate_preact_weight, w.ogate_preact_bias, channels(), width(), "(channels, width)", "channels");
  check("igate_preact", w.igate_preact_weight, w.igate_preact_bias, heads(), width(), "(heads, width)", "heads");
  check("fgate_preact", w.fgate_preact_weight, w.fgate_preact_bias, heads(), width(), "(heads, width)", "heads");
  check("out_proj", w.out_proj_weight, w.out_proj_bias, width(), channels(), "(width, channels)", "width");
  check_vector(layer_name, "multihead_norm.weight", w.multihead_norm_weight, channels(), "channels");
  detail::check_bias(layer_name, "multihead_norm.bias", w.multihead_norm_bias, channels(), "channels");
  cell_ = {heads(),
           keys / heads(),
           channels(),
           static_cast<S>(options.cell_eps),
           Norm<S>::rms(w.multihead_norm_weight, options.norm_eps, false, heads()),
           w.multihead_norm_bias};
}

template <Real S>
MlstmLarge<S> MlstmLarge<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  const auto read = [&](const std::string& name, Array<Scalar>& weight, Array<Scalar>& bias) {
    weight = tensors.required(name + ".weight", 2);
    bias = tensors.optional(name + ".bias", 1);
  };
  read("q", w.q_weight, w.q_bias);
  read("k", w.k_weight, w.k_bias);
  read("v", w.v_weight, w.v_bias);
  read("ogate_preact", w.ogate_preact_weight, w.ogate_preact_bias);
  read("igate_preact", w.igate_preact_weight, w.igate_preact_bias);
  read("fgate_preact", w.fgate_preact_weight, w.fgate_preact_bias);
  read("out_proj", w.out_proj_weight, w.out_proj_bias);
  w.multihead_norm_weight = tensors.required("multihead_norm.weight", 1);
  w.multihead_norm_bias = tensors.optional("multihead_norm.bias", 1);
  return MlstmLarge(std::move(w), options);
}

template <Real S>
LayerRun<MlstmLarge<S>> MlstmLarge<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  Activations act;
  if (initial) {
    cell_.check_state(layer_name, *initial);
    act.initial = *initial;
  }
  const Weights& w = weights_;
  const auto capped = [&](const Value<Scalar>& gate) {
    return options_.gate_soft_cap > 0 ? soft_cap(gate, static_cast<S>(options_.gate_soft_cap)) : gate;
  };
  const Value<S> value = linear(u, w.v_weight, w.v_bias), x = centre(value, heads());
  const Value<S> input_gate = capped(linear(u, w.igate_preact_weight, w.igate_preact_bias));
  const Value<S> log_forget = apply_function(Function::log_sigmoid, capped(linear(u, w.fgate_preact_weight, w.fgate_preact_bias)));
  const Value<S> gate_input = linear(u, w.ogate_preact_weight, w.ogate_preact_bias);
  act.x = x.numbers;
  act.value = value.numbers;
  act.input_gate = input_gate.numbers;
  act.gate_input = gate_input.numbers;
  const Value<S> cell = cell_.run(linear(u, w.q_weight, w.q_bias), linear(u, w.k_weight, w.k_bias), x, input_gate, log_forget, Array<S>(),
                                  act, act.initial, act.final);
  const Value<S> y = scale(sigmoid(gate_input), cell);
  const Value<S> out = linear(y, w.out_proj_weight, w.out_proj_bias);
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

template <Real S>
UnifiedForm<S> MlstmLarge<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens = cell_.tokens(act, terms, {{Term::gate, &act.gate_input}, {Term::recurrence, &act.x}});
  cell_.check_initial(layer_name, act.initial, terms);
  cell_.lower(layer_name, act, tokens, act.initial, terms, form);
  if (terms.has(Term::gate)) {
    detail::check_activation(layer_name, "gate_input", act.gate_input, tokens, channels(), "(tokens, channels)");
    form.gate = sigmoid(act.gate_input.matrix());
  }
  return form;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
