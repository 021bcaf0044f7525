// The feed-forward parts beside the token-mixing layers: Griffin's gated GELU and RWKV-4's channel mixing, forwards and backwards.
#pragma once

#include <utility>

#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Griffin's feed-forward part (De et al. 2024, section 2.2): out = down_proj( gelu_tanh(gate_proj(u)) * up_proj(u) ).
template <Real S>
class GatedFeedForward {
 public:
  using Scalar = S;
  struct Weights {
    Array<Scalar> gate_proj_weight;  ///< (M, D)
    Array<Scalar> gate_proj_bias;    ///< (M), may be absent
    Array<Scalar> up_proj_weight;    ///< (M, D)
    Array<Scalar> up_proj_bias;      ///< (M), may be absent
    Array<Scalar> down_proj_weight;  ///< (D, M)
    Array<Scalar> down_proj_bias;    ///< (D), may be absent
  };
  struct Activations {
    Array<Scalar> gate_input;  ///< (L, M): before gelu
    Array<Scalar> up;          ///< (L, M)
    Array<Scalar> out;         ///< (L, D)
  };

  explicit GatedFeedForward(Weights weights);
  /// Reads the weights below a prefix such as `model.layers.0.mlp_block.`.
  [[nodiscard]] static GatedFeedForward from_tensors(const PrefixedTensors<Scalar>& tensors);

  [[nodiscard]] Index width() const { return weights_.gate_proj_weight.cols(); }
  [[nodiscard]] Index inner_width() const { return weights_.gate_proj_weight.rows(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }

  [[nodiscard]] Activations activations(ConstView<Scalar> u) const;

  /// The gradient with respect to u (L, D), given that with respect to out (L, D).
  [[nodiscard]] Matrix<Scalar> backward(const Activations& act, ConstView<Scalar> grad_out) const;

  /// The same for relevance (arXiv 2406.07592): gelu(g) = scale(g) g with the scale held constant, and half to each factor of the product.
  [[nodiscard]] Matrix<Scalar> backward_relevance(const Activations& act, ConstView<Scalar> grad_out) const;

 private:
  [[nodiscard]] Matrix<Scalar> join(const Matrix<Scalar>& grad_up, const Matrix<Scalar>& grad_gate) const;

  Weights weights_;
};

template <Real S>
GatedFeedForward<S>::GatedFeedForward(Weights weights) : weights_(std::move(weights)) {
  const Weights& w = weights_;
  const Index inner = w.gate_proj_weight.rows(), width = w.gate_proj_weight.cols();
  const auto check_bias = [](const char* name, const Array<Scalar>& array, Index size, std::string_view meaning) {
    if (!array.empty()) check_vector("GatedFeedForward", name, array, size, meaning);
  };
  check_bias("gate_proj.bias", w.gate_proj_bias, inner, "inner width");
  check_shape("GatedFeedForward", "up_proj.weight", w.up_proj_weight, inner, width, "(inner width, width)");
  check_bias("up_proj.bias", w.up_proj_bias, inner, "inner width");
  check_shape("GatedFeedForward", "down_proj.weight", w.down_proj_weight, width, inner, "(width, inner width)");
  check_bias("down_proj.bias", w.down_proj_bias, width, "width");
}

template <Real S>
GatedFeedForward<S> GatedFeedForward<S>::from_tensors(const PrefixedTensors<Scalar>& tensors) {
  Weights w;
  w.gate_proj_weight = tensors.required("gate_proj.weight", 2);
  w.gate_proj_bias = tensors.optional("gate_proj.bias", 1);
  w.up_proj_weight = tensors.required("up_proj.weight", 2);
  w.up_proj_bias = tensors.optional("up_proj.bias", 1);
  w.down_proj_weight = tensors.required("down_proj.weight", 2);
  w.down_proj_bias = tensors.optional("down_proj.bias", 1);
  return GatedFeedForward(std::move(w));
}

template <Real S>
typename GatedFeedForward<S>::Activations GatedFeedForward<S>::activations(ConstView<Scalar> u) const {
  const Weights& w = weights_;
  Activations act;
  act.gate_input = detail::project<Scalar>(u, *w.gate_proj_weight, w.gate_proj_bias);
  act.up = detail::project<Scalar>(u, *w.up_proj_weight, w.up_proj_bias);
  const Matrix<Scalar> inner = gelu_scale(act.gate_input.matrix()).cwiseProduct(act.gate_input.matrix()).cwiseProduct(act.up.matrix());
  act.out = detail::project<Scalar>(inner, *w.down_proj_weight, w.down_proj_bias);
  return act;
}

template <Real S>
Matrix<S> GatedFeedForward<S>::backward(const Activations& act, ConstView<Scalar> grad_out) const {
  const Matrix<Scalar> grad_inner = grad_out * weights_.down_proj_weight.matrix(), scale = gelu_scale(act.gate_input.matrix());
  const Matrix<Scalar> slope = act.gate_input.matrix().unaryExpr([](Scalar x) { return gelu_derivative(x); });
  return join(grad_inner.cwiseProduct(scale).cwiseProduct(act.gate_input.matrix()),
              grad_inner.cwiseProduct(act.up.matrix()).cwiseProduct(slope));
}

template <Real S>
Matrix<S> GatedFeedForward<S>::backward_relevance(const Activations& act, ConstView<Scalar> grad_out) const {
  const Matrix<Scalar> scaled =
      Scalar(0.5) * (grad_out * weights_.down_proj_weight.matrix()).cwiseProduct(gelu_scale(act.gate_input.matrix()));
  return join(scaled.cwiseProduct(act.gate_input.matrix()), scaled.cwiseProduct(act.up.matrix()));
}

template <Real S>
Matrix<S> GatedFeedForward<S>::join(const Matrix<Scalar>& grad_up, const Matrix<Scalar>& grad_gate) const {
  Matrix<Scalar> grad_u = grad_up * weights_.up_proj_weight.matrix();
  grad_u.noalias() += grad_gate * weights_.gate_proj_weight.matrix();
  return grad_u;
}

/// RWKV-4's channel mixing (Peng et al. 2023, eq. 17-18): out = sigmoid(receptance) * value( relu(key)^2 ), key and receptance from
/// each token mixed with the one before it.
template <Real S>
class ChannelMixing {
 public:
  using Scalar = S;
  struct Weights {
    Array<Scalar> time_mix_key;         ///< (D)
    Array<Scalar> time_mix_receptance;  ///< (D)
    Array<Scalar> key_weight;           ///< (M, D)
    Array<Scalar> receptance_weight;    ///< (D, D)
    Array<Scalar> value_weight;         ///< (D, M)
  };
  struct Activations {
    Array<Scalar> key;         ///< (L, M): before relu
    Array<Scalar> receptance;  ///< (L, D): before the sigmoid
    Array<Scalar> value;       ///< (L, D): before the receptance
    Array<Scalar> out;         ///< (L, D)
  };

  explicit ChannelMixing(Weights weights);
  /// Reads the weights below a prefix such as `rwkv.blocks.0.feed_forward.` or `blocks.0.ffn.`.
  [[nodiscard]] static ChannelMixing from_tensors(const PrefixedTensors<Scalar>& tensors);

  [[nodiscard]] Index width() const { return weights_.key_weight.cols(); }
  [[nodiscard]] Index inner_width() const { return weights_.key_weight.rows(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }

  [[nodiscard]] Activations activations(ConstView<Scalar> u) const;

  /// The gradient with respect to u (L, D), given that with respect to out (L, D).
  [[nodiscard]] Matrix<Scalar> backward(const Activations& act, ConstView<Scalar> grad_out) const;

  /// The same for relevance (arXiv 2406.07592): the receptance is a scale and takes none; half to each factor of relu(key) relu(key).
  [[nodiscard]] Matrix<Scalar> backward_relevance(const Activations& act, ConstView<Scalar> grad_out) const;

 private:
  [[nodiscard]] static Matrix<Scalar> positive(const Array<Scalar>& key);

  /// The transpose of `mixed`: g_t reaches u_t through m and u_{t-1} through 1 - m.
  static void add_mixed_transpose(const Matrix<Scalar>& g, const Array<Scalar>& weight, Matrix<Scalar>& grad_u);

  /// m u_t + (1 - m) u_{t-1}, u_{-1} = 0
  [[nodiscard]] static Matrix<Scalar> mixed(ConstView<Scalar> u, const Array<Scalar>& weight);

  Weights weights_;
};

template <Real S>
ChannelMixing<S>::ChannelMixing(Weights weights) : weights_(std::move(weights)) {
  const Weights& w = weights_;
  const Index width = w.key_weight.cols(), inner = w.key_weight.rows();
  check_vector("ChannelMixing", "time_mix_key", w.time_mix_key, width, "width");
  check_vector("ChannelMixing", "time_mix_receptance", w.time_mix_receptance, width, "width");
  check_shape("ChannelMixing", "receptance.weight", w.receptance_weight, width, width, "(width, width)");
  check_shape("ChannelMixing", "value.weight", w.value_weight, width, inner, "(width, inner width)");
}

template <Real S>
ChannelMixing<S> ChannelMixing<S>::from_tensors(const PrefixedTensors<Scalar>& tensors) {
  Weights w;
  w.time_mix_key = tensors.required(tensors.has("time_mix_k") ? "time_mix_k" : "time_mix_key");
  w.time_mix_receptance = tensors.required(tensors.has("time_mix_r") ? "time_mix_r" : "time_mix_receptance");
  w.key_weight = tensors.required("key.weight", 2);
  w.receptance_weight = tensors.required("receptance.weight", 2);
  w.value_weight = tensors.required("value.weight", 2);
  return ChannelMixing(std::move(w));
}

template <Real S>
typename ChannelMixing<S>::Activations ChannelMixing<S>::activations(ConstView<Scalar> u) const {
  const Weights& w = weights_;
  Activations act;
  act.key = detail::project<Scalar>(mixed(u, w.time_mix_key), *w.key_weight);
  act.receptance = detail::project<Scalar>(mixed(u, w.time_mix_receptance), *w.receptance_weight);
  const Matrix<Scalar> inner = act.key.matrix().cwiseMax(Scalar(0)).cwiseAbs2();
  act.value = detail::project<Scalar>(inner, *w.value_weight);
  act.out = Matrix<Scalar>(sigmoid(act.receptance.matrix()).cwiseProduct(act.value.matrix()));
  return act;
}

template <Real S>
Matrix<S> ChannelMixing<S>::backward(const Activations& act, ConstView<Scalar> grad_out) const {
  const Weights& w = weights_;
  const Matrix<Scalar> receptance = sigmoid(act.receptance.matrix());
  const Matrix<Scalar> grad_key = Scalar(2) * (grad_out.cwiseProduct(receptance) * w.value_weight.matrix()).cwiseProduct(positive(act.key));
  const Matrix<Scalar> grad_receptance =
      (grad_out.array() * act.value.matrix().array() * receptance.array() * (Scalar(1) - receptance.array())).matrix();
  Matrix<Scalar> grad_u = Matrix<Scalar>::Zero(grad_out.rows(), width());
  add_mixed_transpose(grad_key * w.key_weight.matrix(), w.time_mix_key, grad_u);
  add_mixed_transpose(grad_receptance * w.receptance_weight.matrix(), w.time_mix_receptance, grad_u);
  return grad_u;
}

template <Real S>
Matrix<S> ChannelMixing<S>::backward_relevance(const Activations& act, ConstView<Scalar> grad_out) const {
  const Weights& w = weights_;
  const Matrix<Scalar> grad_value = grad_out.cwiseProduct(sigmoid(act.receptance.matrix()));
  const Matrix<Scalar> grad_key = (grad_value * w.value_weight.matrix()).cwiseProduct(positive(act.key));
  Matrix<Scalar> grad_u = Matrix<Scalar>::Zero(grad_out.rows(), width());
  add_mixed_transpose(grad_key * w.key_weight.matrix(), w.time_mix_key, grad_u);
  return grad_u;
}

template <Real S>
Matrix<S> ChannelMixing<S>::positive(const Array<Scalar>& key) {
  return key.matrix().cwiseMax(Scalar(0));
}

template <Real S>
void ChannelMixing<S>::add_mixed_transpose(const Matrix<Scalar>& g, const Array<Scalar>& weight, Matrix<Scalar>& grad_u) {
  const Eigen::Array<Scalar, 1, Eigen::Dynamic, Eigen::RowMajor> m = weight.matrix().row(0).array();
  grad_u.array() += g.array().rowwise() * m;
  grad_u.topRows(g.rows() - 1).array() += g.bottomRows(g.rows() - 1).array().rowwise() * (Scalar(1) - m);
}

template <Real S>
Matrix<S> ChannelMixing<S>::mixed(ConstView<Scalar> u, const Array<Scalar>& weight) {
  const Eigen::Array<Scalar, 1, Eigen::Dynamic, Eigen::RowMajor> m = weight.matrix().row(0).array();
  Matrix<Scalar> out = (u.array().rowwise() * m).matrix();
  out.bottomRows(u.rows() - 1).array() += u.topRows(u.rows() - 1).array().rowwise() * (Scalar(1) - m);
  return out;
}

IMPLICIT_ATTENTION_NAMESPACE_END
