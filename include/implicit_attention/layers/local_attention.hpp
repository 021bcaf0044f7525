// Local (sliding-window) multi-query softmax attention with rotary positions, as in Griffin (De et al. 2024, arXiv 2402.19427,
// section 2.3), names as in RecurrentGemma. Its attention matrices are its own: softmax weights, one matrix a head.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With model width D, H query heads, K key/value heads (K divides H; 1 in Griffin) of size P each, E = H P:
///
///     q = rotary(q_proj(u))    k = rotary(k_proj(u))    v = v_proj(u)         query head h reads key/value head h K / H
///     R_h[i,j] = softmax_j( q_i . k_j / sqrt(P) )  over  i - window <= j <= i
///     x = v, repeated for every query head          y_h = R_h x_h             out = o_proj(y)
///
/// There are no other terms: the softmax is part of the recurrence. The number of heads, the window and the rotation cannot be read
/// off the weights, and are options.
template <Real S>
class LocalAttention : public LayerInterface<LocalAttention<S>> {
 public:
  using Scalar = S;

  struct Weights {
    Array<Scalar> q_proj_weight;  ///< (E, D)
    Array<Scalar> q_proj_bias;    ///< (E), may be absent
    Array<Scalar> k_proj_weight;  ///< (K P, D)
    Array<Scalar> k_proj_bias;    ///< (K P), may be absent
    Array<Scalar> v_proj_weight;  ///< (K P, D)
    Array<Scalar> v_proj_bias;    ///< (K P), may be absent
    Array<Scalar> o_proj_weight;  ///< (D, E)
    Array<Scalar> o_proj_bias;    ///< (D), may be absent
  };

  struct Options {
    Index heads = 1;             ///< H
    Index window = 2048;         ///< token i sees token j where i - window <= j <= i
    double rotary_part = 0.5;    ///< the share of each head that is rotated, its first part
    double rotary_base = 10000;  ///< theta: pair n of r rotated numbers turns by position * theta^(-2n/r)
  };

  /// What one piece of a sequence hands to the next: rotated keys and values of the last `window` tokens.
  struct State {
    Matrix<Scalar> key;    ///< (up to window, K P)
    Matrix<Scalar> value;  ///< (up to window, K P)
    Index position = 0;    ///< of the next token
  };

  /// One sequence through the layer. An engine that has run the layer itself views its query and key here, both after the rotation.
  struct Activations {
    Array<Scalar> x;               ///< (L, E): values, repeated for every query head: the linear input
    Array<Scalar> query;           ///< (L, E): rotated, not yet divided by sqrt(P)
    Array<Scalar> key;             ///< (L, K P): rotated
    std::vector<Index> positions;  ///< (L): what was rotated by
    Array<Scalar> y;               ///< (L, E): output before the output projection
    Array<Scalar> out;             ///< (L, D)
    State initial;                 ///< the state carried in; empty matrices if none
    State final;                   ///< the state after the last token
  };

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor or the option.
  LocalAttention(Weights weights, Options options);

  /// Reads the weights below a prefix such as `model.layers.2.temporal_block.`, under their public names.
  [[nodiscard]] static LocalAttention from_tensors(const PrefixedTensors<Scalar>& tensors, Options options);

  [[nodiscard]] Index width() const { return width_; }
  [[nodiscard]] Index channels() const { return channels_; }
  [[nodiscard]] Index heads() const { return options_.heads; }
  [[nodiscard]] Index head_size() const { return head_size_; }
  /// Key/value heads K.
  [[nodiscard]] Index key_heads() const { return shared_ / head_size_; }
  [[nodiscard]] Index window() const { return options_.window; }
  [[nodiscard]] const Weights& weights() const { return weights_; }
  [[nodiscard]] const Options& options() const { return options_; }

  /// Runs the layer on u (L, D), at positions 0, 1, ... or on from `initial`.
  [[nodiscard]] Activations activations(ConstView<Scalar> u, const State* initial = nullptr,
                                        const Executor& executor = serial_executor()) const;

  /// Runs the layer on u (L, D) with positions (L). They turn queries and keys and nothing else: as in the public port, attention
  /// looks across the border between packed documents.
  [[nodiscard]] Activations activations(ConstView<Scalar> u, const std::vector<Index>& positions, const State* initial = nullptr,
                                        const Executor& executor = serial_executor()) const;

  /// The unified form: the softmax weights, (heads * L, L). Needs query and key. Fails (ErrorKind::limit) where they would take more
  /// than the default byte limit.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// What a token sees: `past` tokens of the carried-in state (its last ones), then `own` tokens of this piece from `first` on.
  struct Reach {
    Index past = 0, first = 0, own = 0;
  };

  /// The softmax weights of one token in one head, `past + own` numbers into `out`, which has room for window + 1.
  Reach softmax_row(const Activations& act, Index head, Index token, Scalar* out) const;

  /// Turns the first part of every head by its position, forwards (direction 1) or back (-1), in place; (L, any number of heads * P).
  void rotate(Matrix<Scalar>& numbers, const std::vector<Index>& positions, int direction) const;

  /// The first column of the key/value head that a query head reads.
  [[nodiscard]] Index key_column(Index head) const { return head / (heads() / key_heads()) * head_size_; }

 private:
  [[nodiscard]] Matrix<Scalar> repeated(const Matrix<Scalar>& value) const;

  [[nodiscard]] State next_state(const Matrix<Scalar>& key, const Matrix<Scalar>& value, const State& initial, Index position) const;

  Weights weights_;
  Options options_;
  Index width_ = 0, channels_ = 0, head_size_ = 0, shared_ = 0, rotated_ = 0;
};

template <Real S>
LocalAttention<S>::LocalAttention(Weights weights, Options options) : weights_(std::move(weights)), options_(options) {
  const Weights& w = weights_;
  width_ = w.q_proj_weight.cols();
  channels_ = w.q_proj_weight.rows();
  if (w.q_proj_weight.empty()) raise(ErrorKind::shape, "LocalAttention: q_proj.weight is empty, expected (heads * head size, width)");
  if (options.heads < 1 || channels_ % options.heads != 0)
    raise(ErrorKind::shape, message("LocalAttention: q_proj.weight is ", shape_text({channels_, width_}),
                                    ", expected (heads * head size, width) with ", options.heads, " heads"));
  head_size_ = channels_ / options.heads;
  shared_ = w.k_proj_weight.rows();
  if (shared_ == 0 || shared_ % head_size_ != 0 || options.heads % (shared_ / head_size_) != 0)
    raise(ErrorKind::shape, message("LocalAttention: k_proj.weight is ", shape_text({shared_, w.k_proj_weight.cols()}),
                                    ", expected (key heads * head size, width) with head size ", head_size_, " and key heads that divide ",
                                    options.heads, " heads"));
  const auto check_bias = [](const char* name, const Array<Scalar>& array, Index size, std::string_view meaning) {
    if (!array.empty()) check_vector("LocalAttention", name, array, size, meaning);
  };
  check_bias("q_proj.bias", w.q_proj_bias, channels_, "heads * head size");
  check_shape("LocalAttention", "k_proj.weight", w.k_proj_weight, shared_, width_, "(key heads * head size, width)");
  check_bias("k_proj.bias", w.k_proj_bias, shared_, "key heads * head size");
  check_shape("LocalAttention", "v_proj.weight", w.v_proj_weight, shared_, width_, "(key heads * head size, width)");
  check_bias("v_proj.bias", w.v_proj_bias, shared_, "key heads * head size");
  check_shape("LocalAttention", "o_proj.weight", w.o_proj_weight, width_, channels_, "(width, heads * head size)");
  check_bias("o_proj.bias", w.o_proj_bias, width_, "width");
  if (options.window < 0) raise(ErrorKind::value, message("LocalAttention: window is ", options.window, ", expected at least 0"));
  if (!(options.rotary_part >= 0 && options.rotary_part <= 1))
    raise(ErrorKind::value, message("LocalAttention: rotary_part is ", options.rotary_part, ", expected 0 to 1"));
  if (!(options.rotary_base > 0))
    raise(ErrorKind::value, message("LocalAttention: rotary_base is ", options.rotary_base, ", expected above 0"));
  rotated_ = static_cast<Index>(options.rotary_part * static_cast<double>(head_size_));
  if (rotated_ % 2 != 0)
    raise(ErrorKind::value, message("LocalAttention: rotary_part ", options.rotary_part, " of head size ", head_size_, " rotates ",
                                    rotated_, " numbers, expected an even number"));
}

template <Real S>
LocalAttention<S> LocalAttention<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  w.q_proj_weight = tensors.required("q_proj.weight", 2);
  w.q_proj_bias = tensors.optional("q_proj.bias", 1);
  w.k_proj_weight = tensors.required("k_proj.weight", 2);
  w.k_proj_bias = tensors.optional("k_proj.bias", 1);
  w.v_proj_weight = tensors.required("v_proj.weight", 2);
  w.v_proj_bias = tensors.optional("v_proj.bias", 1);
  w.o_proj_weight = tensors.required("o_proj.weight", 2);
  w.o_proj_bias = tensors.optional("o_proj.bias", 1);
  return LocalAttention(std::move(w), options);
}

template <Real S>
typename LocalAttention<S>::Activations LocalAttention<S>::activations(ConstView<Scalar> u, const State* initial,
                                                                       const Executor& executor) const {
  std::vector<Index> positions(static_cast<std::size_t>(u.rows()));
  for (std::size_t token = 0; token < positions.size(); ++token)
    positions[token] = static_cast<Index>(token) + (initial ? initial->position : 0);
  return activations(u, positions, initial, executor);
}

template <Real S>
typename LocalAttention<S>::Activations LocalAttention<S>::activations(ConstView<Scalar> u, const std::vector<Index>& positions,
                                                                       const State* initial, const Executor& executor) const {
  detail::check_input("LocalAttention", u, width_);
  if (static_cast<Index>(positions.size()) != u.rows())
    raise(ErrorKind::shape,
          message("LocalAttention: positions are (", static_cast<Index>(positions.size()), "), expected (", u.rows(), ") = (tokens)"));
  const Weights& w = weights_;
  Activations act;
  if (initial) {
    check_shape("LocalAttention", "state.key", initial->key, initial->key.rows(), shared_, "(tokens, key heads * head size)");
    check_shape("LocalAttention", "state.value", initial->value, initial->key.rows(), shared_, "(tokens, key heads * head size)");
    act.initial = *initial;
  }
  act.positions = positions;
  Matrix<Scalar> query = detail::project<Scalar>(u, *w.q_proj_weight, w.q_proj_bias);
  Matrix<Scalar> key = detail::project<Scalar>(u, *w.k_proj_weight, w.k_proj_bias);
  const Matrix<Scalar> value = detail::project<Scalar>(u, *w.v_proj_weight, w.v_proj_bias);
  rotate(query, positions, 1);
  rotate(key, positions, 1);
  act.final = next_state(key, value, act.initial, positions.back() + 1);
  act.query = std::move(query);
  act.key = std::move(key);
  act.x = repeated(value);

  Matrix<Scalar> y(u.rows(), channels_);
  executor(heads(), [&](Index head) {
    RowVector<Scalar> weights(options_.window + 1);
    for (Index token = 0; token < y.rows(); ++token) {
      const Reach reach = softmax_row(act, head, token, weights.data());
      y.row(token).segment(head * head_size_, head_size_).noalias() =
          weights.segment(reach.past, reach.own) * act.x.matrix().block(reach.first, head * head_size_, reach.own, head_size_);
      if (reach.past > 0)
        y.row(token).segment(head * head_size_, head_size_).noalias() +=
            weights.head(reach.past) *
            act.initial.value.block(act.initial.value.rows() - reach.past, key_column(head), reach.past, head_size_);
    }
  });
  act.y = std::move(y);
  act.out = detail::project<Scalar>(*act.y, *w.o_proj_weight, w.o_proj_bias);
  return act;
}

template <Real S>
UnifiedForm<S> LocalAttention<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens = act.query.rows();
  if (!terms.has(Term::recurrence)) {
    form.recurrence = identity_recurrence<Scalar>(tokens, channels_);
    return form;
  }
  check_byte_limit("local attention", {heads(), tokens, tokens}, sizeof(Scalar), IMPLICIT_ATTENTION_DEFAULT_BYTE_LIMIT);
  Matrix<Scalar> weights = Matrix<Scalar>::Zero(heads() * tokens, tokens), carried;
  if (act.initial.key.rows() > 0) carried = Matrix<Scalar>::Zero(tokens, channels_);
  RowVector<Scalar> row(options_.window + 1);
  for (Index head = 0; head < heads(); ++head)
    for (Index token = 0; token < tokens; ++token) {
      const Reach reach = softmax_row(act, head, token, row.data());
      weights.row(head * tokens + token).segment(reach.first, reach.own) = row.segment(reach.past, reach.own);
      if (reach.past > 0)
        carried.row(token).segment(head * head_size_, head_size_).noalias() =
            row.head(reach.past) * act.initial.value.block(act.initial.value.rows() - reach.past, key_column(head), reach.past, head_size_);
    }
  if (carried.size() != 0) form.initial_state = std::move(carried);
  ExplicitRecurrence<Scalar> recurrence;
  recurrence.tokens = tokens;
  recurrence.channels = channels_;
  recurrence.heads = heads();
  recurrence.weights = std::move(weights);
  form.recurrence = std::move(recurrence);
  return form;
}

template <Real S>
typename LocalAttention<S>::Reach LocalAttention<S>::softmax_row(const Activations& act, Index head, Index token, Scalar* out) const {
  Reach reach;
  reach.first = std::max(token - options_.window, Index(0));
  reach.own = token + 1 - reach.first;
  reach.past = std::clamp(options_.window - token, Index(0), act.initial.key.rows());
  const Index column = key_column(head);
  Eigen::Map<RowVector<Scalar>> weights(out, reach.past + reach.own);
  const Eigen::Map<const RowVector<Scalar>> query(act.query.row(token) + head * head_size_, head_size_);
  weights.tail(reach.own).noalias() = query * act.key.matrix().block(reach.first, column, reach.own, head_size_).transpose();
  if (reach.past > 0)
    weights.head(reach.past).noalias() =
        query * act.initial.key.block(act.initial.key.rows() - reach.past, column, reach.past, head_size_).transpose();
  const Scalar largest = weights.maxCoeff(), scale = Scalar(1) / std::sqrt(static_cast<Scalar>(head_size_));
  weights.array() = ((weights.array() - largest) * scale).exp();
  weights /= weights.sum();
  return reach;
}

template <Real S>
void LocalAttention<S>::rotate(Matrix<Scalar>& numbers, const std::vector<Index>& positions, int direction) const {
  const Index half = rotated_ / 2;
  for (Index pair = 0; pair < half; ++pair) {
    const double frequency = std::pow(options_.rotary_base, -2.0 * static_cast<double>(pair) / static_cast<double>(rotated_));
    for (Index token = 0; token < numbers.rows(); ++token) {
      const double angle = static_cast<double>(positions[static_cast<std::size_t>(token)]) * frequency;
      const Scalar cosine = static_cast<Scalar>(std::cos(angle)), sine = static_cast<Scalar>(direction * std::sin(angle));
      for (Index column = pair; column < numbers.cols(); column += head_size_) {
        const Scalar first = numbers(token, column), second = numbers(token, column + half);
        numbers(token, column) = first * cosine - second * sine;
        numbers(token, column + half) = second * cosine + first * sine;
      }
    }
  }
}

template <Real S>
Matrix<S> LocalAttention<S>::repeated(const Matrix<Scalar>& value) const {
  Matrix<Scalar> x(value.rows(), channels_);
  for (Index head = 0; head < heads(); ++head) x.middleCols(head * head_size_, head_size_) = value.middleCols(key_column(head), head_size_);
  return x;
}

template <Real S>
typename LocalAttention<S>::State LocalAttention<S>::next_state(const Matrix<Scalar>& key, const Matrix<Scalar>& value,
                                                                const State& initial, Index position) const {
  State state;
  const Index own = std::min(key.rows(), options_.window), past = std::min(options_.window - own, initial.key.rows());
  state.key.resize(past + own, shared_);
  state.value.resize(past + own, shared_);
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
