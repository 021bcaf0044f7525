// The mLSTM layer of xLSTM's blocks (Beck et al. 2024, arXiv 2405.04517): projections up and down, a convolution, a learnable skip.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/layers/mlstm_cell.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With H heads of E/H keys and values; cell and norm as in MlstmCell:
///
///     [m | z] = u proj_up^T        a = silu(Conv m + conv_bias)        q, k = blocks of a, v = blocks of m
///     input = igate [q|k|v]        log f = logsigmoid(fgate [q|k|v])   x = v - mean_h(v)
///     y = silu(z) (norm(cell(x)) + learnable_skip a)                   out = y proj_down^T
///
/// Two operators on two inputs: the cell's on x, and the skip's, diag(gate skip) diag(act) Conv, on m. `outnorm.weight` is stored less 1.
template <Real S>
class Mlstm : public LayerInterface<Mlstm<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "mLSTM block";

  struct Weights {
    Array<Scalar> proj_up_weight;                               ///< (2E, D)
    Array<Scalar> proj_up_bias;                                 ///< (2E), may be absent
    Array<Scalar> conv1d_weight;                                ///< (E, W)
    Array<Scalar> conv1d_bias;                                  ///< (E), may be absent
    Array<Scalar> q_proj_weight, k_proj_weight, v_proj_weight;  ///< (E, b): out[n, o] = sum_i in[n, i] W[n, o, i], blocks of b
    Array<Scalar> q_proj_bias, k_proj_bias, v_proj_bias;        ///< (E), may be absent
    Array<Scalar> igate_weight, fgate_weight;                   ///< (H, 3E)
    Array<Scalar> igate_bias, fgate_bias;                       ///< (H)
    Array<Scalar> outnorm_weight;                               ///< (E): less 1
    Array<Scalar> learnable_skip;                               ///< (E)
    Array<Scalar> proj_down_weight;                             ///< (D, E)
    Array<Scalar> proj_down_bias;                               ///< (D), may be absent
  };
  struct Options {
    double cell_eps = 1e-6;  ///< added to what rows are divided by
    double norm_eps = 1e-5;  ///< of the norm over each head
  };
  [[nodiscard]] static Options options(const Configuration& configuration) {
    Options made;
    made.cell_eps = configuration.positive_number({"cell_eps"}).value_or(made.cell_eps);
    made.norm_eps = configuration.positive_number({"norm_eps"}).value_or(made.norm_eps);
    return made;
  }

  /// What one piece of a sequence hands to the next.
  struct State : MlstmCellState<Scalar> {
    Matrix<Scalar> convolution_tail;  ///< (W - 1, E): the last inputs of the convolution, oldest first
  };
  /// One sequence through the layer. The implicit attention needs what MlstmCellActivations hold, m, c and z.
  struct Activations : MlstmCellActivations<Scalar> {
    Array<Scalar> x;               ///< (L, E): values less their mean over each head: the linear input
    Array<Scalar> value;           ///< (L, E): values
    Array<Scalar> m;               ///< (L, E): what goes into the convolution: the skip's linear input
    Array<Scalar> c;               ///< (L, E): after the convolution, with its bias
    Array<Scalar> z;               ///< (L, E): gate branch, before silu
    Array<Scalar> input_gate;      ///< (L, H): without its bias
    Array<Scalar> y;               ///< (L, E): output before the output projection
    Array<Scalar> out;             ///< (L, D)
    State initial;                 ///< the state carried in; empty matrices if none
    State final;                   ///< the state after the last token
    MadeFrom<Scalar> c_from = {};  ///< what run() made c from
  };

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit Mlstm(Weights weights, Options options = {});
  /// Reads the weights below a prefix such as `blocks.0.xlstm.`, under their public names.
  [[nodiscard, gnu::cold]] static Mlstm from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  [[nodiscard]] Index width() const { return weights_.proj_up_weight.cols(); }
  [[nodiscard]] Index channels() const { return weights_.learnable_skip.size(); }
  [[nodiscard]] Index heads() const { return weights_.igate_weight.rows(); }
  [[nodiscard]] Index convolution_width() const { return weights_.conv1d_weight.cols(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }

  /// Runs the layer on u (L, D) within a trace, from `initial` if a state was carried in.
  [[nodiscard]] LayerRun<Mlstm> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;
  /// The unified form (formulation: "mLSTM"), with the skip as its second path while that term is on. With the normalization off,
  /// rows of R are exp(-maximum) times themselves.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, E) and bias of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.proj_down_weight; }
  [[nodiscard]] const Array<Scalar>& output_bias() const { return weights_.proj_down_bias; }

 private:
  Weights weights_;  // the blocks of q, k, v as block_linear takes them: (block, in, out)
  MlstmCell<Scalar> cell_;
};

template <Real S>
Mlstm<S>::Mlstm(Weights weights, Options options) : weights_(std::move(weights)) {
  Weights& w = weights_;
  const Index count = channels();
  if (heads() < 1 || count < 1 || count % heads() != 0)
    detail::raise_shape(layer_name, "learnable_skip", "has ", count, " channels, expected a multiple of ", heads(), " heads");
  const auto check = [](const char* name, const Array<Scalar>& array, Index rows, Index columns, const char* meaning) {
    check_shape(layer_name, name, array, rows, columns, meaning);
  };
  const auto check_bias = [](const char* name, const Array<Scalar>& array, Index size, const char* meaning) {
    detail::check_bias(layer_name, name, array, size, meaning);
  };
  check("proj_up.weight", w.proj_up_weight, 2 * count, width(), "(2*channels, width)");
  check_bias("proj_up.bias", w.proj_up_bias, 2 * count, "2*channels");
  check("conv1d.conv.weight", w.conv1d_weight, count, std::max(w.conv1d_weight.cols(), Index(1)), "(channels, convolution width)");
  check_bias("conv1d.conv.bias", w.conv1d_bias, count, "channels");
  for (const auto& [name, weight, bias] :
       {std::tuple("q_proj", &w.q_proj_weight, &w.q_proj_bias), std::tuple("k_proj", &w.k_proj_weight, &w.k_proj_bias),
        std::tuple("v_proj", &w.v_proj_weight, &w.v_proj_bias)}) {
    const Index size = weight->cols();
    check_shape(layer_name, std::string(name) + ".weight", *weight, count, size, "(blocks * block size, block size)");
    if (size < 1 || count % size != 0)
      detail::raise_shape(layer_name, detail::message(name, ".weight"), "has blocks of ", size, ", expected a divisor of ", count,
                          " channels");
    detail::check_bias(layer_name, std::string(name) + ".bias", *bias, count, "channels");
    Matrix<S> transposed(count, size);
    for (Index block = 0; block < count; block += size)
      transposed.middleRows(block, size) = weight->matrix().middleRows(block, size).transpose();
    *weight = std::move(transposed);
    if (!bias->empty()) *bias = Matrix<S>(Eigen::Map<const Matrix<S>>(bias->data(), count / size, size));
  }
  check("mlstm_cell.igate.weight", w.igate_weight, heads(), 3 * count, "(heads, 3*channels)");
  check("mlstm_cell.fgate.weight", w.fgate_weight, heads(), 3 * count, "(heads, 3*channels)");
  check_vector(layer_name, "mlstm_cell.igate.bias", w.igate_bias, heads(), "heads");
  check_vector(layer_name, "mlstm_cell.fgate.bias", w.fgate_bias, heads(), "heads");
  check_vector(layer_name, "mlstm_cell.outnorm.weight", w.outnorm_weight, count, "channels");
  check("proj_down.weight", w.proj_down_weight, width(), count, "(width, channels)");
  check_bias("proj_down.bias", w.proj_down_bias, width(), "width");
  cell_ = {
      heads(),   count / heads(), count, static_cast<S>(options.cell_eps), Norm<S>::rms(w.outnorm_weight, options.norm_eps, true, heads()),
      Array<S>()};
}

template <Real S>
Mlstm<S> Mlstm<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  w.proj_up_weight = tensors.required("proj_up.weight", 2);
  w.proj_up_bias = tensors.optional("proj_up.bias", 1);
  w.conv1d_weight = tensors.required_convolution("conv1d.conv.weight");
  w.conv1d_bias = tensors.optional("conv1d.conv.bias", 1);
  w.q_proj_weight = tensors.required("q_proj.weight", 3);
  w.q_proj_bias = tensors.optional("q_proj.bias", 1);
  w.k_proj_weight = tensors.required("k_proj.weight", 3);
  w.k_proj_bias = tensors.optional("k_proj.bias", 1);
  w.v_proj_weight = tensors.required("v_proj.weight", 3);
  w.v_proj_bias = tensors.optional("v_proj.bias", 1);
  w.igate_weight = tensors.required("mlstm_cell.igate.weight", 2);
  w.igate_bias = tensors.required("mlstm_cell.igate.bias", 1);
  w.fgate_weight = tensors.required("mlstm_cell.fgate.weight", 2);
  w.fgate_bias = tensors.required("mlstm_cell.fgate.bias", 1);
  w.outnorm_weight = tensors.required("mlstm_cell.outnorm.weight", 1);
  w.learnable_skip = tensors.required("learnable_skip", 1);
  w.proj_down_weight = tensors.required("proj_down.weight", 2);
  w.proj_down_bias = tensors.optional("proj_down.bias", 1);
  return Mlstm(std::move(w), options);
}

template <Real S>
LayerRun<Mlstm<S>> Mlstm<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  Activations act;
  if (initial) {
    cell_.check_state(layer_name, *initial);
    check_shape(layer_name, "state.convolution_tail", initial->convolution_tail, convolution_width() - 1, channels(),
                "(convolution width - 1, channels)");
    act.initial = *initial;
  }
  const Weights& w = weights_;
  const Array<S> tail = detail::carried(act.initial.convolution_tail);
  const Value<S> up = linear(u, w.proj_up_weight, w.proj_up_bias);
  const Value<S> m = columns(up, 0, channels()), z = columns(up, channels(), channels());
  const Value<S> c = convolution(m, w.conv1d_weight, w.conv1d_bias, tail), a = silu(c);
  const Value<S> q = block_linear(a, w.q_proj_weight, w.q_proj_bias), k = block_linear(a, w.k_proj_weight, w.k_proj_bias);
  const Value<S> value = block_linear(m, w.v_proj_weight, w.v_proj_bias), x = centre(value, heads());
  const Value<S> qkv = join<S>({q, k, value});
  const Value<S> input_gate = linear(qkv, w.igate_weight);
  const Value<S> log_forget = apply_function(Function::log_sigmoid, linear(qkv, w.fgate_weight, w.fgate_bias));
  act.x = x.numbers;
  act.value = value.numbers;
  act.m = m.numbers;
  act.c = c.numbers;
  act.c_from = {act.c, {{"m", &act.m}}};
  act.z = z.numbers;
  act.input_gate = input_gate.numbers;
  act.final.convolution_tail = next_tail<S>(*m, tail, convolution_width());
  const Value<S> cell = cell_.run(q, k, x, input_gate, log_forget, w.igate_bias, act, act.initial, act.final);
  const Value<S> y = gate(silu(z), add(cell, times_row(a, w.learnable_skip)));
  const Value<S> out = linear(y, w.proj_down_weight, w.proj_down_bias);
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out, m};
}

template <Real S>
UnifiedForm<S> Mlstm<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens =
      cell_.tokens(act, terms, {{Term::gate, &act.z}, {Term::skip, &act.m}, {Term::activation, &act.c}, {Term::recurrence, &act.x}});
  const auto check = [&](const char* name, const Array<Scalar>& array) {
    detail::check_activation(layer_name, name, array, tokens, channels(), "(tokens, channels)");
  };
  const bool skips = terms.has(Term::skip);
  cell_.check_initial(
      layer_name, act.initial, terms,
      {{"convolution_tail", &act.initial.convolution_tail, skips && terms.has(Term::convolution) ? convolution_width() - 1 : 0, channels(),
        "(convolution width - 1, channels)"}});
  cell_.lower(layer_name, act, tokens, act.initial, terms, form);
  if (terms.has(Term::gate)) {
    check("z", act.z);
    form.gate = silu(act.z.matrix());
  }
  if (!skips) return form;
  check("m", act.m);
  SecondPath<S> skip;
  skip.input = act.m;
  skip.form.recurrence = identity_recurrence<S>(tokens, channels());
  skip.form.gate = form.gate;
  skip.form.normalization = Matrix<S>(weights_.learnable_skip.matrix().replicate(tokens, 1));
  if (terms.has(Term::activation)) {
    check("c", act.c);
    act.c_from.check(layer_name, "c", act.c, {{"m", &act.m}});
    skip.form.activation = silu_scale(act.c.matrix());
  }
  if (terms.has(Term::convolution)) {
    skip.form.convolution = weights_.conv1d_weight;
    skip.form.convolution_tail = detail::carried(act.initial.convolution_tail);
  }
  skip.form.convolution_bias = if_on(terms, Term::bias, weights_.conv1d_bias);
  form.second = std::make_shared<const SecondPath<S>>(std::move(skip));
  return form;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
