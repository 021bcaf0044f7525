// What one run of a language model leaves behind: per layer the residual stream and what ran, so that every layer's attention, and the
// ways back, follow from it.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/models/stack.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// What a run keeps.
enum class Keep {
  logits,      ///< only the logits
  residuals,   ///< also the residual stream before every layer: a layer's activations are recomputed when they are asked for
  activations  ///< also every layer's activations, recorded
};

/// How a language model is run.
struct ForwardOptions {
  Keep keep = Keep::activations;
  Indices logit_positions = Indices::last();  ///< where logits are computed; `Indices::all()`: at every token
  std::vector<Index> positions;               ///< one per token, for models that have positions; empty: 0, 1, 2, ...
  Executor executor = serial_executor();
  /// Whether every layer's numbers are looked through: the first NaN or infinity is an error (ErrorKind::value) that names the layer, the
  /// token and the channel. Costs a few percent.
  bool check_finite = false;
  /// With Keep::residuals: layers' activations are kept as well, recorded, first to last, as long as the activations of all that are kept
  /// take no more than so many bytes; the other layers are run again when they are asked for. 0: none.
  std::size_t memory = 0;
  /// Whether layers so kept can be asked for their token mixers too. Without, they can be walked back alone, in about half of the memory.
  bool keep_mixers = true;
  /// Whether that includes what token mixers give. Without, a layer's maps can be made and weighted, in about three fifths of the memory.
  bool keep_outputs = true;
  /// First tokens of documents that stand one behind the other, ascending from 0, so that short texts share one run; nothing of one reaches
  /// another, and positions count from each start unless they are given. Empty: the sequence is one text. Not every model has it, see
  /// LanguageModel::separates_documents; such a pass can be walked back, and has no attention.
  std::vector<Index> starts = {};
};

/// One sequence through a language model. Cheap to copy, except for the logits.
template <Real Scalar>
struct ForwardPass {
  std::vector<Index> ids;                                     ///< (L), empty where the pass began with embeddings
  std::vector<Index> positions;                               ///< (L), empty where the model has none and it is one text
  std::vector<Index> starts;                                  ///< first tokens of documents; empty: it is one text
  Array<Scalar> embeddings;                                   ///< (L, D): token embeddings, before the model's scale or norm of them
  std::vector<LayerPass<Scalar>> layers;                      ///< as much as was kept; empty with Keep::logits
  std::vector<std::pair<std::string, Array<Scalar>>> shared;  ///< values that layers made for later ones
  Array<Scalar> final_residual;                               ///< (L, D): after the last layer
  std::vector<Index> logit_positions;                         ///< the tokens that logits were computed at
  Matrix<Scalar> logits;                                      ///< (logit positions, vocabulary)

  [[nodiscard]] Index tokens() const { return embeddings.rows(); }
  /// The logits at a token, (vocabulary). Fails if none were computed there.
  [[nodiscard]] ConstView<Scalar> logits_at(Index token) const;
};

template <Real Scalar>
ConstView<Scalar> ForwardPass<Scalar>::logits_at(Index token) const {
  for (std::size_t row = 0; row < logit_positions.size(); ++row)
    if (logit_positions[row] == token) return {logits.data() + static_cast<Index>(row) * logits.cols(), 1, logits.cols()};
  detail::raise(ErrorKind::value, "ForwardPass: no logits were computed at token ", token, " of ", tokens(),
                "; ForwardOptions::logit_positions says where they are (Indices::all(): at every token)");
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
