// Exact reverse mode of a whole language model: from d logits to every layer's output, linear input and input, the residual stream and
// the token embeddings. Layer after layer, last to first, by the adjoints that stand beside the layers.
#pragma once

#include <cmath>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/layers/griffin_gradient.hpp>
#include <implicit_attention/layers/local_attention_gradient.hpp>
#include <implicit_attention/layers/mamba_gradient.hpp>
#include <implicit_attention/layers/rwkv4_gradient.hpp>
#include <implicit_attention/models/language_model.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The gradient of one number with respect to what one layer takes and gives. All are total derivatives: through everything that depends
/// on the thing in this layer and the later ones. Cheap to copy: the numbers are shared.
template <Real Scalar>
struct LayerBackward {
  Array<Scalar> residual;  ///< (L, D): with respect to the residual stream before the layer
  Array<Scalar> u;         ///< (L, D): the mixer's input
  Array<Scalar> x;         ///< (L, E): its linear input
  Array<Scalar> y;         ///< (L, E): its output before the output projection
  Array<Scalar> out;       ///< (L, D): its output, which is added to the residual stream
};

/// The gradient of one number with respect to everything on the way from the embeddings to the logits.
template <Real Scalar>
struct BackwardPass {
  Array<Scalar> embeddings;                   ///< (L, D): token embeddings, as ForwardPass::embeddings
  std::vector<LayerBackward<Scalar>> layers;  ///< empty unless kept
  Array<Scalar> final_residual;               ///< (L, D): the residual stream after the last layer
};

/// How a language model is run backwards.
template <Real Scalar>
struct BackwardOptions {
  /// Whether every layer's gradients are kept. Without, only one layer's exist at a time, and `visit` is where they can be had.
  bool keep_layers = true;
  /// Called for each layer, last to first, with its index, its activations (kept by the pass, or recomputed for the occasion), and its
  /// gradients.
  std::function<void(Index layer, const LayerPass<Scalar>& pass, const LayerBackward<Scalar>& gradients)> visit;
  Executor executor = serial_executor();
};

namespace detail {

/// The forward pass must be one of this model that can be run backwards, and d_logits must fit it.
template <Real Scalar>
void check_backward(const LanguageModel<Scalar>& model, const ForwardPass<Scalar>& pass, ConstView<Scalar> d_logits) {
  if (static_cast<Index>(pass.layers.size()) != model.layer_count())
    raise(ErrorKind::value, message("backward: the pass kept ", static_cast<Index>(pass.layers.size()), " layers, expected ",
                                    model.layer_count(), "; run ", model.name(), " with Keep::residuals or Keep::activations"));
  check_shape("backward", "d_logits", d_logits, pass.logits.rows(), pass.logits.cols(), "(logit positions, vocabulary)");
}

/// d logits (logit positions, vocabulary) to d of the normalised final residual stream, (logit positions, D).
/// `scale_constant`: the soft cap's tanh(x)/x is held constant instead of being differentiated.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> backward_head(const LanguageModel<Scalar>& model, const ForwardPass<Scalar>& pass, ConstView<Scalar> d_logits,
                                           bool scale_constant) {
  const Scalar cap = model.parts().soft_cap;
  Matrix<Scalar> d = d_logits;
  if (cap > Scalar(0)) {
    const Matrix<Scalar> tanh = pass.logits / cap;
    if (scale_constant) {  // the scale is t / artanh(t), 1 at 0
      d = d.binaryExpr(tanh, [](Scalar g, Scalar t) { return t == Scalar(0) ? g : g * t / std::atanh(t); });
    } else {
      d.array() *= Scalar(1) - tanh.array().square();
    }
  }
  return d * model.parts().head.matrix();
}

/// Sums rows (logit positions, D) into their tokens' rows of (L, D).
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> scattered(const std::vector<Index>& positions, const Matrix<Scalar>& rows, Index tokens) {
  Matrix<Scalar> all = Matrix<Scalar>::Zero(tokens, rows.cols());
  for (std::size_t row = 0; row < positions.size(); ++row) all.row(positions[row]) += rows.row(static_cast<Index>(row));
  return all;
}

}  // namespace detail

/// d logits for the logit of one token at one position, less that of another (`contrast`) if one is given: as the pass's logits, zero
/// but for ones. Fails where the pass has no logits there or the vocabulary no such token.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> logit_gradient(const ForwardPass<Scalar>& pass, Index position, Index token,
                                            std::optional<Index> contrast = std::nullopt) {
  static_cast<void>(pass.logits_at(position));
  Matrix<Scalar> d = Matrix<Scalar>::Zero(pass.logits.rows(), pass.logits.cols());
  Index row = 0;
  while (pass.logit_positions[static_cast<std::size_t>(row)] != position) ++row;
  const auto add = [&](const char* what, Index id, Scalar amount) {
    if (id < 0 || id >= d.cols()) raise(ErrorKind::value, message(what, " token ", id, " is out of range, expected 0 to ", d.cols() - 1));
    d(row, id) += amount;
  };
  add("target", token, Scalar(1));
  if (contrast) add("contrast", *contrast, Scalar(-1));
  return d;
}

/// Runs one layer backwards, from the gradient with respect to the residual stream after it (L, D).
template <Real Scalar>
[[nodiscard]] LayerBackward<Scalar> backward_layer(const LanguageModel<Scalar>& model, Index layer, const LayerPass<Scalar>& pass,
                                                   const Array<Scalar>& d_output, const Executor& executor = serial_executor()) {
  const Block<Scalar>& block = model.block(layer);
  check_shape("backward", "d_output", d_output, pass.residual.rows(), model.width(), "(tokens, width)");
  LayerBackward<Scalar> d;
  d.out = d_output;  // the residual stream between mixer and feed-forward part, and so the mixer's out
  std::visit(
      [&](const auto& part) {
        using Part = std::decay_t<decltype(part)>;
        if constexpr (!std::is_same_v<Part, std::monostate>) {
          const Matrix<Scalar> d_u = part.backward(std::get<typename Part::Activations>(pass.feed_forward), *d_output);
          d.out = Matrix<Scalar>(d_output.matrix() + block.feed_forward_norm.backward(*pass.middle, pass.feed_forward_norm, d_u));
        }
      },
      block.feed_forward);
  LayerGradients<Scalar> mixer =
      model.with_mixer(layer, pass, [&](const auto& mix, const auto& act) { return backward(mix, act, *d.out, executor); });
  d.y = std::move(mixer.grad_y);
  d.x = std::move(mixer.grad_x);
  d.u = std::move(mixer.grad_u);
  d.residual = Matrix<Scalar>(d.out.matrix() + block.norm.backward(*pass.residual, pass.norm, *d.u));
  return d;
}

/// Runs a language model backwards. `pass` is a forward pass with Keep::activations, or with Keep::residuals: then each layer's
/// activations are computed again when its turn comes, and no more than one layer's are held. `d_logits` is (logit positions, vocabulary),
/// as pass.logits. Linear in tokens, in time and memory, but for local attention, which takes time tokens * window.
template <Real Scalar>
[[nodiscard]] BackwardPass<Scalar> backward(const LanguageModel<Scalar>& model, const ForwardPass<Scalar>& pass,
                                            std::type_identity_t<ConstView<Scalar>> d_logits, const BackwardOptions<Scalar>& options = {}) {
  detail::check_backward(model, pass, d_logits);
  BackwardPass<Scalar> result;
  const Norm<Scalar>& final_norm = model.parts().final_norm;
  // Every token has its own statistics, and those without logits a gradient of zero.
  const Matrix<Scalar> d_normed =
      detail::scattered(pass.logit_positions, detail::backward_head(model, pass, d_logits, false), pass.tokens());
  result.final_residual = final_norm.backward(*pass.final_residual, final_norm.statistics(*pass.final_residual), d_normed);
  if (options.keep_layers) result.layers.resize(pass.layers.size());
  Array<Scalar> d = result.final_residual;
  for (Index layer = model.layer_count() - 1; layer >= 0; --layer) {
    const LayerPass<Scalar> layer_pass = model.layer_pass(pass, layer, options.executor);
    LayerBackward<Scalar> gradients = backward_layer(model, layer, layer_pass, d, options.executor);
    d = gradients.residual;
    if (options.visit) options.visit(layer, layer_pass, gradients);
    if (options.keep_layers) result.layers[static_cast<std::size_t>(layer)] = std::move(gradients);
  }
  const LanguageModelParts<Scalar>& parts = model.parts();
  if (!parts.embedding_norm.empty())
    result.embeddings = parts.embedding_norm.backward(*pass.embeddings, pass.embedding_norm, *d);
  else
    result.embeddings = Matrix<Scalar>(d.matrix() * parts.embedding_scale);
  return result;
}

IMPLICIT_ATTENTION_NAMESPACE_END
