// Mamba's selective state space layer S6 (Gu & Dao 2023, arXiv 2312.00752), its implicit attention as in arXiv 2403.01590 eq. 12
// and arXiv 2405.16504, with every term: nothing of the layer is left out.
#pragma once

#include <cmath>
#include <utility>

#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With model width D, E channels, state N, convolution width W and dt rank R:
///
///     [x | z] = u in_proj^T      c = Conv x + conv_bias      a = silu(c)
///     [d | B | C] = a x_proj^T   dt = softplus(d dt_proj^T + dt_bias)   A = -exp(A_log)
///     R_e[i,j] = sum_n C[i,n] B[j,n] dt[j,e] exp( A[e,n] sum_{t=j+1..i} dt[t,e] )
///     y = silu(z) (R + D) a      out = y out_proj^T
///
/// All sizes are read off the weights. They are owned or viewed (Array::view), and named as in the public checkpoints.
template <Real S>
class Mamba : public LayerInterface<Mamba<S>> {
 public:
  using Scalar = S;

  struct Weights {
    Array<Scalar> in_proj_weight;   ///< (2E, D)
    Array<Scalar> in_proj_bias;     ///< (2E), may be absent
    Array<Scalar> conv1d_weight;    ///< (E, W)
    Array<Scalar> conv1d_bias;      ///< (E), may be absent
    Array<Scalar> x_proj_weight;    ///< (R + 2N, E)
    Array<Scalar> dt_proj_weight;   ///< (E, R)
    Array<Scalar> dt_proj_bias;     ///< (E), may be absent
    Array<Scalar> A_log;            ///< (E, N)
    Array<Scalar> D;                ///< (E)
    Array<Scalar> out_proj_weight;  ///< (D, E)
    Array<Scalar> out_proj_bias;    ///< (D), may be absent
  };

  /// What one piece of a sequence hands to the next.
  struct State {
    Matrix<Scalar> convolution_tail;  ///< (W - 1, E): the last linear inputs, oldest first
    Matrix<Scalar> recurrent;         ///< (N, E)
  };

  /// One sequence through the layer. An engine that has run the layer itself views its own buffers here: z, dt, B, C and
  /// c (or x, from which c is recomputed) are what the implicit attention needs.
  struct Activations {
    Array<Scalar> x;    ///< (L, E): linear input, before convolution and activation
    Array<Scalar> z;    ///< (L, E): gate branch, before silu
    Array<Scalar> c;    ///< (L, E): after the convolution, with its bias
    Array<Scalar> a;    ///< (L, E): silu(c)
    Array<Scalar> dt;   ///< (L, E): after softplus
    Array<Scalar> B;    ///< (L, N)
    Array<Scalar> C;    ///< (L, N)
    Array<Scalar> y;    ///< (L, E): output before the output projection
    Array<Scalar> out;  ///< (L, D)
    State initial;      ///< the state carried in; empty matrices if none
    State final;        ///< the state after the last token
  };

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit Mamba(Weights weights);

  /// Reads the weights below a prefix such as `backbone.layers.0.mixer.`, under their public names.
  [[nodiscard]] static Mamba from_tensors(const PrefixedTensors<Scalar>& tensors);

  [[nodiscard]] Index width() const { return width_; }
  [[nodiscard]] Index channels() const { return channels_; }
  [[nodiscard]] Index state() const { return state_; }
  [[nodiscard]] Index convolution_width() const { return weights_.conv1d_weight.cols(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }
  /// A = -exp(A_log), transposed: (N, E).
  [[nodiscard]] const Array<Scalar>& rate() const { return rate_; }

  /// Runs the layer on u (L, D), from `initial` if a state was carried in.
  [[nodiscard]] Activations activations(ConstView<Scalar> u, const State* initial = nullptr,
                                        const Executor& executor = serial_executor()) const;

  /// The unified form (formulation: Mamba). Needs z, dt, B, C, and c or x.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

 private:
  [[nodiscard]] Matrix<Scalar> project_half(ConstView<Scalar> u, Index first) const;

  [[nodiscard]] Array<Scalar> convolved(const Array<Scalar>& x, const State& initial, const Executor& executor) const {
    return detail::convolution_of(x, weights_.conv1d_weight, weights_.conv1d_bias, initial.convolution_tail, {}, executor);
  }

  [[nodiscard]] DiagonalRecurrence<Scalar> recurrence(const Activations& act) const;

  Weights weights_;
  Array<Scalar> rate_, skip_;
  Index width_ = 0, channels_ = 0, state_ = 0;
};

template <Real S>
Mamba<S>::Mamba(Weights weights) : weights_(std::move(weights)) {
  const Weights& w = weights_;
  channels_ = w.A_log.rows();
  state_ = w.A_log.cols();
  width_ = w.in_proj_weight.cols();
  const auto check = [](const char* name, const Array<Scalar>& array, Index rows, Index columns, std::string_view meaning,
                        std::string_view hint = {}) { check_shape("Mamba", name, array, rows, columns, meaning, hint); };
  const auto check_bias = [](const char* name, const Array<Scalar>& array, Index size, std::string_view meaning) {
    if (!array.empty()) check_vector("Mamba", name, array, size, meaning);
  };
  if (w.A_log.empty()) raise(ErrorKind::shape, "Mamba: A_log is empty, expected (channels, state)");
  check("in_proj.weight", w.in_proj_weight, 2 * channels_, width_, "(2*channels, width)");
  check_bias("in_proj.bias", w.in_proj_bias, 2 * channels_, "2*channels");
  check("conv1d.weight", w.conv1d_weight, channels_, std::max(w.conv1d_weight.cols(), Index(1)), "(channels, convolution width)");
  check_bias("conv1d.bias", w.conv1d_bias, channels_, "channels");
  const Index rank = w.dt_proj_weight.cols();
  check("dt_proj.weight", w.dt_proj_weight, channels_, rank, "(channels, dt_rank)");
  check("x_proj.weight", w.x_proj_weight, rank + 2 * state_, channels_, "(dt_rank + 2*state, channels)",
        message("is dt_rank ", rank, " and state ", state_, "?"));
  check_bias("dt_proj.bias", w.dt_proj_bias, channels_, "channels");
  check_vector("Mamba", "D", w.D, channels_, "channels");
  check("out_proj.weight", w.out_proj_weight, width_, channels_, "(width, channels)");
  check_bias("out_proj.bias", w.out_proj_bias, width_, "width");
  // Infinite rates would make NaN of a step of zero; a decay beyond exp(-1e30) per unit of dt is none the smaller for being larger.
  rate_ = Matrix<Scalar>((-w.A_log.matrix().array().exp().min(Scalar(1e30))).matrix().transpose());
  skip_ = w.D;
}

template <Real S>
Mamba<S> Mamba<S>::from_tensors(const PrefixedTensors<Scalar>& tensors) {
  Weights w;
  w.in_proj_weight = tensors.required("in_proj.weight", 2);
  w.in_proj_bias = tensors.optional("in_proj.bias", 1);
  w.conv1d_weight = tensors.required("conv1d.weight", 3);
  w.conv1d_bias = tensors.optional("conv1d.bias", 1);
  w.x_proj_weight = tensors.required("x_proj.weight", 2);
  w.dt_proj_weight = tensors.required("dt_proj.weight", 2);
  w.dt_proj_bias = tensors.optional("dt_proj.bias", 1);
  w.A_log = tensors.required("A_log", 2);
  w.D = tensors.required("D", 1);
  w.out_proj_weight = tensors.required("out_proj.weight", 2);
  w.out_proj_bias = tensors.optional("out_proj.bias", 1);
  return Mamba(std::move(w));
}

template <Real S>
typename Mamba<S>::Activations Mamba<S>::activations(ConstView<Scalar> u, const State* initial, const Executor& executor) const {
  detail::check_input("Mamba", u, width_);
  Activations act;
  if (initial) {
    check_shape("Mamba", "state.convolution_tail", initial->convolution_tail, convolution_width() - 1, channels_,
                "(convolution width - 1, channels)");
    check_shape("Mamba", "state.recurrent", initial->recurrent, state_, channels_, "(state, channels)");
    act.initial = *initial;
  }
  const Weights& w = weights_;
  const Index rank = w.dt_proj_weight.cols();
  act.x = project_half(u, 0);
  act.z = project_half(u, channels_);
  act.c = convolved(act.x, act.initial, executor);
  act.a = silu(act.c.matrix());
  const Matrix<Scalar> selected = detail::project<Scalar>(*act.a, *w.x_proj_weight);
  act.B = Matrix<Scalar>(selected.middleCols(rank, state_));
  act.C = Matrix<Scalar>(selected.rightCols(state_));
  act.dt = softplus(detail::project<Scalar>(ConstView<Scalar>(selected.leftCols(rank)), *w.dt_proj_weight, w.dt_proj_bias));

  SurroundedDiagonal<Scalar> surrounded;
  surrounded.recurrence = recurrence(act);
  surrounded.skip = skip_;
  surrounded.gate = silu(act.z.matrix());
  ScanInput<Scalar> input;
  input.x = act.a;
  if (initial) input.initial_state = Array<Scalar>::view(act.initial.recurrent);
  Matrix<Scalar> y = large_matrix<Scalar>(u.rows(), channels_, "an output");
  act.final.recurrent.resize(state_, channels_);
  View<Scalar> final_state(act.final.recurrent);
  scan<Scalar>(surrounded, input, y, executor, &final_state);
  act.final.convolution_tail = detail::next_tail<Scalar>(*act.x, Array<Scalar>::view(act.initial.convolution_tail), convolution_width());
  act.y = std::move(y);
  act.out = detail::project<Scalar>(*act.y, *w.out_proj_weight, w.out_proj_bias);
  return act;
}

template <Real S>
UnifiedForm<S> Mamba<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens = act.dt.rows();
  if (terms.has(Term::recurrence)) {
    form.recurrence = recurrence(act);
    if (act.initial.recurrent.size() != 0) form.initial_state = act.initial.recurrent;
  } else {
    form.recurrence = identity_recurrence<Scalar>(tokens, channels_);
  }
  if (terms.has(Term::gate)) form.gate = silu(act.z.matrix());
  if (terms.has(Term::activation))
    form.activation = sigmoid((act.c.empty() ? convolved(act.x, act.initial, serial_executor()) : act.c).matrix());
  form.skip = if_on(terms, Term::skip, skip_);
  if (terms.has(Term::convolution)) {
    form.convolution = weights_.conv1d_weight;
    if (act.initial.convolution_tail.size() != 0) form.convolution_tail = act.initial.convolution_tail;
  }
  form.convolution_bias = if_on(terms, Term::bias, weights_.conv1d_bias);
  return form;
}

template <Real S>
Matrix<S> Mamba<S>::project_half(ConstView<Scalar> u, Index first) const {
  const ConstView<Scalar> weight(weights_.in_proj_weight.row(first), channels_, width_, weights_.in_proj_weight.row_stride());
  Matrix<Scalar> out = detail::project<Scalar>(u, weight);
  if (!weights_.in_proj_bias.empty()) out.rowwise() += weights_.in_proj_bias.matrix().row(0).segment(first, channels_);
  return out;
}

template <Real S>
DiagonalRecurrence<S> Mamba<S>::recurrence(const Activations& act) const {
  DiagonalRecurrence<Scalar> recurrence;
  recurrence.tokens = act.dt.rows();
  recurrence.channels = channels_;
  recurrence.state = state_;
  recurrence.step = act.dt;
  recurrence.rate = rate_;
  recurrence.query = act.C;
  recurrence.key = act.B;
  recurrence.key_scale = act.dt;
  return recurrence;
}

IMPLICIT_ATTENTION_NAMESPACE_END
