// What one run of a language model leaves behind: per layer the residual stream and the layer's activations, so that every layer's
// attention, and the gradients, can be had after it.
#pragma once

#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/local_attention.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv4.hpp>
#include <implicit_attention/models/feed_forward.hpp>
#include <implicit_attention/models/norms.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The token-mixing layers that the language models are made of.
template <Real Scalar>
using Mixer = std::variant<Mamba<Scalar>, Rwkv4<Scalar>, Griffin<Scalar>, LocalAttention<Scalar>>;
/// What each of them keeps; std::monostate where nothing was kept.
template <Real Scalar>
using MixerActivations = std::variant<std::monostate, typename Mamba<Scalar>::Activations, typename Rwkv4<Scalar>::Activations,
                                      typename Griffin<Scalar>::Activations, typename LocalAttention<Scalar>::Activations>;

/// The feed-forward part after a mixer; std::monostate where there is none (Mamba).
template <Real Scalar>
using FeedForward = std::variant<std::monostate, GatedFeedForward<Scalar>, ChannelMixing<Scalar>>;
template <Real Scalar>
using FeedForwardActivations =
    std::variant<std::monostate, typename GatedFeedForward<Scalar>::Activations, typename ChannelMixing<Scalar>::Activations>;

/// One layer of a language model: r' = r + mixer(norm(r)), then r'' = r' + feed_forward(feed_forward_norm(r')) where there is one.
template <Real Scalar>
struct Block {
  Norm<Scalar> norm;
  Mixer<Scalar> mixer;
  Norm<Scalar> feed_forward_norm;
  FeedForward<Scalar> feed_forward;
};

/// One sequence through one layer. Cheap to copy: the numbers are shared.
template <Real Scalar>
struct LayerPass {
  Array<Scalar> residual;                               ///< (L, D): the residual stream before the layer
  typename Norm<Scalar>::Statistics norm;               ///< of its norm
  Array<Scalar> u;                                      ///< (L, D): norm(residual), the mixer's input
  MixerActivations<Scalar> mixer;                       ///< what the mixer kept
  Array<Scalar> middle;                                 ///< (L, D): residual + mixer's out
  typename Norm<Scalar>::Statistics feed_forward_norm;  ///< as the rest: where there is a feed-forward part
  Array<Scalar> feed_forward_u;                         ///< (L, D): its input
  FeedForwardActivations<Scalar> feed_forward;          ///< what it kept
  Array<Scalar> output;                                 ///< (L, D): the residual stream after the layer

  [[nodiscard]] bool kept() const { return mixer.index() != 0; }
  /// The mixer's linear input x (L, E), its output y (L, E) before the output projection, and out (L, D) after it.
  [[nodiscard]] const Array<Scalar>& x() const;
  [[nodiscard]] const Array<Scalar>& y() const;
  [[nodiscard]] const Array<Scalar>& out() const;

 private:
  template <class Get>
  [[nodiscard]] const Array<Scalar>& of_mixer(Get get) const {
    return std::visit(
        [&](const auto& act) -> const Array<Scalar>& {
          if constexpr (std::is_same_v<std::decay_t<decltype(act)>, std::monostate>)
            raise(ErrorKind::value, "LayerPass: this layer's activations were not kept; run it again with LanguageModel::layer_pass");
          else
            return get(act);
        },
        mixer);
  }
};

template <Real Scalar>
const Array<Scalar>& LayerPass<Scalar>::x() const {
  return of_mixer([](const auto& act) -> const Array<Scalar>& { return act.x; });
}

template <Real Scalar>
const Array<Scalar>& LayerPass<Scalar>::y() const {
  return of_mixer([](const auto& act) -> const Array<Scalar>& { return act.y; });
}

template <Real Scalar>
const Array<Scalar>& LayerPass<Scalar>::out() const {
  return of_mixer([](const auto& act) -> const Array<Scalar>& { return act.out; });
}

/// What a run keeps.
enum class Keep {
  logits,      ///< the logits alone
  residuals,   ///< and the residual stream before every layer: a layer's activations are recomputed where they are asked for
  activations  ///< and every layer's activations
};

/// How a language model is run.
struct ForwardOptions {
  Keep keep = Keep::activations;
  Indices logit_positions;       ///< where logits are computed: all tokens unless told otherwise
  std::vector<Index> positions;  ///< one per token, for models that have positions (Griffin); empty: 0, 1, 2, ...
  Executor executor = serial_executor();
};

/// One sequence through a language model. Cheap to copy but for the logits.
template <Real Scalar>
struct ForwardPass {
  std::vector<Index> ids;                            ///< (L), empty where the pass began with embeddings
  std::vector<Index> positions;                      ///< (L), empty where the model has none
  Array<Scalar> embeddings;                          ///< (L, D): token embeddings, before the model's scale or norm of them
  typename Norm<Scalar>::Statistics embedding_norm;  ///< RWKV's norm of the embeddings
  std::vector<LayerPass<Scalar>> layers;             ///< as much as was kept; empty with Keep::logits
  Array<Scalar> final_residual;                      ///< (L, D): after the last layer
  std::vector<Index> logit_positions;                ///< the tokens that logits were computed at
  Matrix<Scalar> logits;                             ///< (logit positions, vocabulary)

  [[nodiscard]] Index tokens() const { return embeddings.rows(); }
  /// The logits at a token, (vocabulary). Fails if none were computed there.
  [[nodiscard]] ConstView<Scalar> logits_at(Index token) const;
};

template <Real Scalar>
ConstView<Scalar> ForwardPass<Scalar>::logits_at(Index token) const {
  for (std::size_t row = 0; row < logit_positions.size(); ++row)
    if (logit_positions[row] == token) return {logits.data() + static_cast<Index>(row) * logits.cols(), 1, logits.cols()};
  raise(ErrorKind::value, message("ForwardPass: no logits were computed at token ", token, " of ", tokens()));
}

IMPLICIT_ATTENTION_NAMESPACE_END
