// The ways back through a whole language model, from d logits to every layer and the token embeddings: the exact gradient, and relevance
// (MambaLRP, arXiv 2406.07592). Both walk the record of each layer's forward pass; nothing here knows any layer.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/result.hpp>
#include <implicit_attention/models/language_model.hpp>
#include <implicit_attention/trace/walk_back.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The gradient of one number with respect to what one layer takes and gives. All are total derivatives: through everything that depends
/// on the thing in this layer and the later ones. Empty where the layer mixes no tokens. Cheap to copy: the numbers are shared.
template <Real Scalar>
struct LayerBackward {
  Array<Scalar> residual;                         ///< (L, D): with respect to the residual stream before the layer
  Array<Scalar> u;                                ///< (L, D): the mixer's input
  Array<Scalar> x;                                ///< (L, E): its linear input
  Array<Scalar> y;                                ///< (L, E): its output before the output projection
  Array<Scalar> out;                              ///< (L, D): its output
  std::vector<Array<Scalar>> mixers_x, mixers_y;  ///< x and y of every mixer of the layer, in order
};

/// The gradient of one number with respect to everything on the way from the embeddings to the logits.
template <Real Scalar>
struct BackwardPass {
  Array<Scalar> embeddings;                   ///< (L, D): token embeddings, as ForwardPass::embeddings
  std::vector<LayerBackward<Scalar>> layers;  ///< empty unless kept
  Array<Scalar> final_residual;               ///< (L, D): the residual stream after the last layer
  Scalar bias_share = 0;                      ///< relevance: what biases and other constants take
  std::vector<std::string> untreated;         ///< relevance: operations without a rule that it reached, by name
};

/// How a language model is run backwards.
template <Real Scalar>
struct BackwardOptions {
  /// Whether every layer's gradients are kept. Without, only one layer's exist at a time, and `visit` is where they can be read.
  bool keep_layers = true;
  /// Called for each layer, last to first, with its index, its activations (kept by the pass, or recomputed for the occasion), and its
  /// gradients.
  std::function<void(Index layer, const LayerPass<Scalar>& pass, const LayerBackward<Scalar>& gradients)> visit;
  Executor executor = serial_executor();
  WayBack way = WayBack::gradient;
  /// What `visit` and `detours` read of the passes. With less than all, a layer that was kept for that alone is not run again, and `visit`
  /// is given the gradients that maps are made with: of the residual stream, and of the x and y of mixers.
  LayerReads reads = LayerReads::all;
  /// Where a layer's walk leaves the record (methods that put another operator in place of a mixer's); none unless given.
  std::function<std::vector<Detour<Scalar>>(Index layer, const LayerPass<Scalar>& pass)> detours;
};

namespace detail {

/// The forward pass must be one of this model that can be run backwards, and d_logits must fit it.
template <Real Scalar>
void check_backward(const LanguageModel<Scalar>& model, const ForwardPass<Scalar>& pass, ConstView<Scalar> d_logits) {
  if (static_cast<Index>(pass.layers.size()) != model.layer_count())
    raise(ErrorKind::value, "backward: the pass kept ", static_cast<Index>(pass.layers.size()), " layers, expected ", model.layer_count(),
          "; run ", model.name(), " with Keep::residuals or Keep::activations");
  check_shape("backward", "d_logits", d_logits, pass.logits.rows(), pass.logits.cols(), "(logit positions, vocabulary)");
}

/// d logits (logit positions, vocabulary) to d of the residual stream after the last layer (L, D): tokens without logits get zero.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> walk_head(const LanguageModel<Scalar>& model, const ForwardPass<Scalar>& pass, ConstView<Scalar> d_logits,
                                       WayBack way, BackwardPass<Scalar>& account, const Executor& executor) {
  std::vector<Index> rows, positions;  // of what is explained: rows without a gradient give nothing, and the head is large
  for (Index row = 0; row < d_logits.rows(); ++row) {
    if (!(d_logits.row(row).array() != Scalar(0)).any()) continue;
    rows.push_back(row);
    positions.push_back(pass.logit_positions[static_cast<std::size_t>(row)]);
    check_position("backward", positions.back(), pass.tokens());
  }
  Matrix<Scalar> all = Matrix<Scalar>::Zero(pass.tokens(), model.width());
  if (rows.empty()) return all;
  const Matrix<Scalar> logits = chosen_rows<Scalar>(pass.logits, rows);
  Trace<Scalar> trace(true, executor);
  const Value<Scalar> residual = trace.input(chosen_rows(*pass.final_residual, positions));
  const WalkResult<Scalar> walked =
      trace.walk_back(way, {{model.leave(residual, &logits), chosen_rows<Scalar>(d_logits, rows)}}, {residual});
  account.bias_share += walked.bias_share;
  append_new(account.untreated, walked.untreated);
  for (std::size_t row = 0; row < rows.size(); ++row) all.row(positions[row]) += walked.gradients.front().row(static_cast<Index>(row));
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
    check_index(id, d.cols(), what, " token");
    d(row, id) += amount;
  };
  add("target", token, Scalar(1));
  if (contrast) add("contrast", *contrast, Scalar(-1));
  return d;
}

/// Runs a language model backwards. `pass` is a forward pass with Keep::activations, or with Keep::residuals: then each layer's
/// activations are computed again when its turn comes, and no more than one layer's are held. `d_logits` is (logit positions, vocabulary),
/// as pass.logits. Linear in tokens, in time and memory, except softmax attention, which takes time tokens * window.
template <Real Scalar>
[[nodiscard]] BackwardPass<Scalar> backward(const LanguageModel<Scalar>& model, const ForwardPass<Scalar>& pass,
                                            std::type_identity_t<ConstView<Scalar>> d_logits, const BackwardOptions<Scalar>& options = {}) {
  detail::check_backward(model, pass, d_logits);
  BackwardPass<Scalar> result;
  const bool wanted = options.keep_layers || options.visit;
  const LayerReads reads = options.keep_layers ? LayerReads::all : wanted || options.detours ? options.reads : LayerReads::walk;
  const bool outputs = reads == LayerReads::all;
  Matrix<Scalar> d = detail::walk_head(model, pass, d_logits, options.way, result, options.executor);
  if (wanted) result.final_residual = d;
  if (options.keep_layers) result.layers.resize(pass.layers.size());
  detail::SharedGradients<Scalar> shared;
  for (Index layer = model.layer_count() - 1; layer >= 0; --layer) {
    const LayerPass<Scalar> layer_pass = model.layer_pass(pass, layer, options.executor, true, reads);
    std::vector<Value<Scalar>> values;
    if (wanted && outputs) values.push_back(layer_pass.u_value);
    for (const MixerRun<Scalar>& mixer : layer_pass.mixers) {
      if (wanted) values.insert(values.end(), {mixer.x, mixer.y});
      if (wanted && outputs) values.push_back(mixer.out);
    }
    WalkResult<Scalar> walked = detail::walk_block(layer_pass, options.way, std::move(d), values, shared,
                                                   options.detours ? options.detours(layer, layer_pass) : std::vector<Detour<Scalar>>());
    result.bias_share += walked.bias_share;
    detail::append_new(result.untreated, walked.untreated);
    d = std::move(walked.gradients[0]);
    if (!wanted) continue;
    LayerBackward<Scalar> gradients;
    gradients.residual = d;
    auto next = walked.gradients.begin() + 1;
    if (outputs) gradients.u = std::move(*next++);
    for (const MixerRun<Scalar>& mixer : layer_pass.mixers) {
      gradients.mixers_x.emplace_back(std::move(*next++));
      if (next->size() == 0)
        *next = Matrix<Scalar>::Zero(mixer.x.rows(), mixer.x.cols());  // nothing reached a y whose numbers were not kept
      gradients.mixers_y.emplace_back(std::move(*next++));
      if (!outputs) continue;
      if (gradients.out.empty()) gradients.out = std::move(*next);
      ++next;
    }
    if (!layer_pass.mixers.empty()) {
      gradients.x = gradients.mixers_x.front();
      gradients.y = gradients.mixers_y.front();
    }
    if (options.visit) options.visit(layer, layer_pass, gradients);
    if (options.keep_layers) result.layers[static_cast<std::size_t>(layer)] = std::move(gradients);
  }
  if (const Matrix<Scalar> first = shared.take("embeddings"); first.size() != 0) d += first;
  Trace<Scalar> trace(true, options.executor);
  const Value<Scalar> embeddings = trace.input(pass.embeddings);
  WalkResult<Scalar> walked = trace.walk_back(options.way, {{model.enter(embeddings), std::move(d)}}, {embeddings});
  result.bias_share += walked.bias_share;
  detail::append_new(result.untreated, walked.untreated);
  result.embeddings = std::move(walked.gradients.front());
  return result;
}

/// How a model is walked back with every mixer's matrix, gate and norms' statistics held (vector rollout, relevance-attention, edge maps):
/// what reaches a mixer's y passes to its x through the transposed matrix of these terms. With all terms that is WayBack::attention itself;
/// with fewer the walk leaves the record there.
template <Real Scalar>
[[nodiscard]] BackwardOptions<Scalar> held_attention_walk(Terms terms, const Executor& executor = serial_executor()) {
  BackwardOptions<Scalar> walk;
  walk.way = WayBack::attention;
  walk.executor = executor;
  if (!(terms == Terms::all()))
    walk.detours = [terms, executor](Index, const LayerPass<Scalar>& layer) {
      std::vector<Detour<Scalar>> detours;
      const auto leave = [&](const Value<Scalar>& y, const Value<Scalar>& x, ImplicitAttention<Scalar> attention) {
        detours.push_back({y, x, [attention = std::move(attention), executor](const Matrix<Scalar>& gradient) {
                             return attention.apply_transpose(gradient, executor);
                           }});
      };
      for (const MixerRun<Scalar>& mixer : layer.mixers) {
        const ImplicitAttention<Scalar> attention = mixer.attention(terms);
        leave(mixer.y, mixer.x, attention);
        if (!attention.has_second()) continue;
        if (mixer.second_x.empty())
          detail::raise(ErrorKind::value,
                        "the walk with held attention: a layer has a second path, and its run does not give the input of it "
                        "(LayerRun::second_x)");
        leave(mixer.y, mixer.second_x, attention.second());
      }
      return detours;
    };
  return walk;
}

/// The relevance of every token for sum(d_logits * logits), a logit or the difference of two (`logit_gradient` gives d_logits):
/// scores[j] = sum over width of embedding[j] * walk[j]; positive speaks for it. sum(scores) + bias_share == explained, to rounding: what
/// the biases of the model take is reported, not spread; operations that relevance has no rule for are named in `untreated`, and what
/// reached them is missing from the sum. `position` is where d_logits is not zero, for the record. Needs a pass with Keep::activations, or
/// Keep::residuals (each layer is then run again when its turn comes, and one layer's activations exist at a time).
template <Real Scalar>
[[nodiscard]] Attribution<Scalar> relevance(const LanguageModel<Scalar>& model, const ForwardPass<Scalar>& pass,
                                            std::type_identity_t<ConstView<Scalar>> d_logits, Index position,
                                            const Executor& executor = serial_executor()) {
  detail::check_backward(model, pass, d_logits);
  detail::check_position("relevance", position, pass.tokens());
  detail::check_finite("relevance", "the logits", pass.logits);
  BackwardOptions<Scalar> options;
  options.way = WayBack::relevance;
  options.keep_layers = false;
  options.executor = executor;
  const BackwardPass<Scalar> walked = backward(model, pass, d_logits, options);
  Attribution<Scalar> result;
  result.position = position;
  result.explained = pass.logits.cwiseProduct(d_logits).sum();
  result.scores = (*pass.embeddings).cwiseProduct(*walked.embeddings).rowwise().sum().transpose();
  result.bias_share = walked.bias_share;
  result.untreated = walked.untreated;
  detail::check_finite("relevance", "the result", result.scores);
  return result;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
