// Relevance through a whole language model (MambaLRP, arXiv 2406.07592): the rules of attribution/relevance.hpp walked from a logit to
// the token embeddings. Conserved: sum of the tokens' relevances + the biases' share == the logit.
#pragma once

#include <type_traits>
#include <utility>
#include <variant>

#include <implicit_attention/attribution/relevance.hpp>
#include <implicit_attention/models/backward.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The walk behind the output projection of a mixer with a gate scale(z) z, and through gate and attention by halves.
template <class Layer, Real Scalar = typename Layer::Scalar>
[[nodiscard]] GatedRelevance<Scalar> relevance_of_gated_mixer(const Layer& layer, const typename Layer::Activations& act,
                                                              const Array<Scalar>& z, const Matrix<Scalar>& scale,
                                                              const Array<Scalar>& output_bias, ConstView<Scalar> grad_out,
                                                              const Executor& executor) {
  const RelevanceStep<Scalar> projection = relevance_through_linear(grad_out, output_projection(layer), output_bias);
  GatedRelevance<Scalar> gated = relevance_through_gated_attention<Scalar>(
      implicit_attention_of(layer, act, Terms::all().without(Term::gate)), *act.x, *z, scale, projection.grad, executor);
  gated.bias_share += projection.bias_share;
  return gated;
}

/// Mamba: SiLU gates by halves; everything else of the mixer is a scale.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_of_mixer(const Mamba<Scalar>& layer, const typename Mamba<Scalar>::Activations& act,
                                                       ConstView<Scalar> grad_out, const Executor& executor) {
  const typename Mamba<Scalar>::Weights& w = layer.weights();
  const Matrix<Scalar> scale = sigmoid(act.z.matrix());
  const GatedRelevance<Scalar> gated = relevance_of_gated_mixer(layer, act, act.z, scale, w.out_proj_bias, grad_out, executor);
  const Index channels = layer.channels();
  Matrix<Scalar> both(act.x.rows(), 2 * channels);
  both << gated.grad_x, gated.grad_z;
  RelevanceStep<Scalar> step = relevance_through_linear<Scalar>(both, w.in_proj_weight, w.in_proj_bias);
  step.bias_share += gated.bias_share;
  return step;
}

/// RWKV-4: receptance and the normalised weights are scales; what is left is the value's way.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_of_mixer(const Rwkv4<Scalar>& layer, const typename Rwkv4<Scalar>::Activations& act,
                                                       ConstView<Scalar> grad_out, const Executor& executor) {
  const typename Rwkv4<Scalar>::Weights& w = layer.weights();
  const RelevanceStep<Scalar> projection = relevance_through_linear(grad_out, w.output_weight);
  const RelevanceStep<Scalar> attention = relevance_through_attention<Scalar>(implicit_attention_of(layer, act), projection.grad, executor);
  RelevanceStep<Scalar> step;
  step.grad = Matrix<Scalar>::Zero(grad_out.rows(), layer.width());
  add_mix_gradient(attention.grad, w.value_weight, w.time_mix_value, step.grad);
  step.bias_share = attention.bias_share;
  return step;
}

/// Griffin's recurrent block: GELU gates by halves.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_of_mixer(const Griffin<Scalar>& layer, const typename Griffin<Scalar>::Activations& act,
                                                       ConstView<Scalar> grad_out, const Executor& executor) {
  const typename Griffin<Scalar>::Weights& w = layer.weights();
  const Matrix<Scalar> scale = gelu_scale(act.gate_input.matrix());
  const GatedRelevance<Scalar> gated = relevance_of_gated_mixer(layer, act, act.gate_input, scale, w.linear_out_bias, grad_out, executor);
  RelevanceStep<Scalar> step = relevance_through_linear<Scalar>(gated.grad_x, w.linear_x_weight, w.linear_x_bias);
  const RelevanceStep<Scalar> gate = relevance_through_linear<Scalar>(gated.grad_z, w.linear_y_weight, w.linear_y_bias);
  step.grad += gate.grad;
  step.bias_share += gated.bias_share + gate.bias_share;
  return step;
}

/// Local attention: its softmax weights are scales. A^T g comes from the layer's own adjoint, which never holds the weights.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_of_mixer(const LocalAttention<Scalar>& layer,
                                                       const typename LocalAttention<Scalar>::Activations& act, ConstView<Scalar> grad_out,
                                                       const Executor& executor) {
  const typename LocalAttention<Scalar>::Weights& w = layer.weights();
  const RelevanceStep<Scalar> projection = relevance_through_linear(grad_out, w.o_proj_weight, w.o_proj_bias);
  const Matrix<Scalar> grad_values = shared_sum(layer, backward_from_y<Scalar>(layer, act, projection.grad, executor).grad_x);
  RelevanceStep<Scalar> step = relevance_through_linear<Scalar>(grad_values, w.v_proj_weight, w.v_proj_bias);
  step.bias_share += projection.bias_share;
  return step;
}

template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_of_feed_forward(const GatedFeedForward<Scalar>& part,
                                                              const typename GatedFeedForward<Scalar>::Activations& act,
                                                              ConstView<Scalar> grad_out) {
  const typename GatedFeedForward<Scalar>::Weights& w = part.weights();
  const RelevanceStep<Scalar> down = relevance_through_linear(grad_out, w.down_proj_weight, w.down_proj_bias);
  const Matrix<Scalar> half = Scalar(0.5) * down.grad.cwiseProduct(gelu_scale(act.gate_input.matrix()));
  RelevanceStep<Scalar> step =
      relevance_through_linear<Scalar>(Matrix<Scalar>(half.cwiseProduct(act.gate_input.matrix())), w.up_proj_weight, w.up_proj_bias);
  const RelevanceStep<Scalar> gate =
      relevance_through_linear<Scalar>(Matrix<Scalar>(half.cwiseProduct(act.up.matrix())), w.gate_proj_weight, w.gate_proj_bias);
  step.grad += gate.grad;
  step.bias_share += down.bias_share + gate.bias_share;
  return step;
}
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_of_feed_forward(const ChannelMixing<Scalar>& part,
                                                              const typename ChannelMixing<Scalar>::Activations& act,
                                                              ConstView<Scalar> grad_out) {
  return {part.backward_relevance(act, grad_out), Scalar(0)};  // it has no biases
}

/// A norm whose statistics are scales; a LayerNorm's mean is subtracted, which is linear.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_of_norm(const Norm<Scalar>& norm, const typename Norm<Scalar>::Statistics& statistics,
                                                      ConstView<Scalar> g) {
  return {norm.backward_scale_constant(statistics, g), norm.centred() ? g.colwise().sum().dot(norm.bias()) : Scalar(0)};
}

}  // namespace detail

/// One layer: from the walk's gradient with respect to the residual stream after it (tokens, width) to that before it.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_through_layer(const LanguageModel<Scalar>& model, Index layer, const LayerPass<Scalar>& pass,
                                                            std::type_identity_t<ConstView<Scalar>> grad_output,
                                                            const Executor& executor = serial_executor()) {
  const Block<Scalar>& block = model.block(layer);
  check_shape("relevance", "grad_output", grad_output, pass.residual.rows(), model.width(), "(tokens, width)");
  RelevanceStep<Scalar> step;
  step.grad = grad_output;
  std::visit(
      [&](const auto& part) {
        using Part = std::decay_t<decltype(part)>;
        if constexpr (!std::is_same_v<Part, std::monostate>) {
          const RelevanceStep<Scalar> inner =
              detail::relevance_of_feed_forward<Scalar>(part, std::get<typename Part::Activations>(pass.feed_forward), step.grad);
          const RelevanceStep<Scalar> norm = detail::relevance_of_norm<Scalar>(block.feed_forward_norm, pass.feed_forward_norm, inner.grad);
          step.grad += norm.grad;
          step.bias_share += inner.bias_share + norm.bias_share;
        }
      },
      block.feed_forward);
  const RelevanceStep<Scalar> mixer = model.with_mixer(
      layer, pass, [&](const auto& mix, const auto& act) { return detail::relevance_of_mixer<Scalar>(mix, act, step.grad, executor); });
  const RelevanceStep<Scalar> norm = detail::relevance_of_norm<Scalar>(block.norm, pass.norm, mixer.grad);
  step.grad += norm.grad;
  step.bias_share += mixer.bias_share + norm.bias_share;
  return step;
}

/// The relevance of every token for sum(d_logits * logits), a logit or the difference of two (`logit_gradient` gives d_logits):
/// scores[j] = sum over width of embedding[j] * walk[j]; positive speaks for it. sum(scores) + bias_share == explained, to rounding: what
/// the biases of the model take is reported, not spread. `position` is where d_logits is not zero, for the record. Needs a pass with
/// Keep::activations, or Keep::residuals (each layer is then run again when its turn comes, and one layer's activations exist at a time).
template <Real Scalar>
[[nodiscard]] Attribution<Scalar> relevance(const LanguageModel<Scalar>& model, const ForwardPass<Scalar>& pass,
                                            std::type_identity_t<ConstView<Scalar>> d_logits, Index position,
                                            const Executor& executor = serial_executor()) {
  detail::check_backward(model, pass, d_logits);
  detail::check_position("relevance", position, pass.tokens());
  detail::check_finite("relevance", "the logits", pass.logits);
  const LanguageModelParts<Scalar>& parts = model.parts();
  Attribution<Scalar> result;
  result.position = position;
  result.explained = pass.logits.cwiseProduct(d_logits).sum();
  RelevanceStep<Scalar> step = detail::relevance_of_norm<Scalar>(
      parts.final_norm, parts.final_norm.statistics(*pass.final_residual),
      detail::scattered(pass.logit_positions, detail::backward_head(model, pass, d_logits, true), pass.tokens()));
  result.bias_share = step.bias_share;
  for (Index layer = model.layer_count() - 1; layer >= 0; --layer) {
    step = relevance_through_layer(model, layer, model.layer_pass(pass, layer, executor), step.grad, executor);
    result.bias_share += step.bias_share;
  }
  if (!parts.embedding_norm.empty()) {
    step = detail::relevance_of_norm<Scalar>(parts.embedding_norm, pass.embedding_norm, step.grad);
    result.bias_share += step.bias_share;
  } else {
    step.grad *= parts.embedding_scale;
  }
  result.scores = token_relevance<Scalar>(*pass.embeddings, step.grad);
  detail::check_finite("relevance", "the result", result.scores);
  return result;
}

IMPLICIT_ATTENTION_NAMESPACE_END
