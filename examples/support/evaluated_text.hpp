// A text in a model, run as a whole, without some of its words, under noise, or in another model.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/metrics/infidelity.hpp>
#include <implicit_attention/metrics/scores.hpp>

#include "labelled_text.hpp"

namespace implicit_attention::examples {

inline constexpr double noise_radius = 0.02;  // captum's default for sensitivity

/// What the model says about a text or a part of it.
struct Output {
  double difference = 0;   ///< what is explained
  double probability = 0;  ///< of the predicted class among the classes
  Index best = 0;          ///< the likeliest class
};

/// One text in one model.
///
/// The model is given the few rows of its vocabulary that the text needs, under new ids: the classes are 0, 1, ... in the head, and the
/// text's tokens are 0, 1, ... in the embedding, position by position, so that each can have noise of its own; one more row is what
/// stands for a removed token. The results are those of the whole vocabulary, at the cost of a small one.
class EvaluatedText {
 public:
  EvaluatedText(std::vector<Index> ids, Index first, Index words, const Classes& classes, Removal removal, std::optional<Index> unknown)
      : ids_(std::move(ids)), first_(first), words_(words), class_tokens_(classes.tokens), removal_(removal), unknown_(unknown) {}

  [[nodiscard]] Index tokens() const { return static_cast<Index>(ids_.size()); }
  [[nodiscard]] Index words() const { return words_; }

  /// The model over this text's own vocabulary; `noise_seed`, if given, perturbs the text's embeddings.
  [[nodiscard]] LanguageModel<float> own_model(const LanguageModel<float>& model,
                                               std::optional<std::uint64_t> noise_seed = std::nullopt) const {
    const Index size = std::max(tokens() + 1, static_cast<Index>(class_tokens_.size()));
    Matrix<float> embedding = Matrix<float>::Zero(size, model.width()), head = Matrix<float>::Zero(size, model.width());
    embedding.topRows(tokens()) = model.embed(ids_);
    if (noise_seed)
      embedding.topRows(tokens()) =
          perturbed_within<float>(Matrix<float>(embedding.topRows(tokens())), static_cast<float>(noise_radius), *noise_seed);
    if (removal_ == Removal::replace) embedding.row(tokens()) = detail::row_of(model.parts().embedding, *unknown_);
    for (std::size_t c = 0; c < class_tokens_.size(); ++c)
      head.row(static_cast<Index>(c)) = detail::row_of(model.parts().head, class_tokens_[c]);
    LanguageModelParts<float> parts = model.parts();
    if (!parts.head_bias.empty()) {
      Matrix<float> bias = Matrix<float>::Zero(1, size);
      for (std::size_t c = 0; c < class_tokens_.size(); ++c) bias(0, static_cast<Index>(c)) = parts.head_bias(0, class_tokens_[c]);
      parts.head_bias = std::move(bias);
    }
    parts.embedding = std::move(embedding);
    parts.head = std::move(head);
    return LanguageModel<float>(std::move(parts));
  }

  /// Ids in the own vocabulary, without the words that are gone.
  [[nodiscard]] std::vector<Index> own_ids(const KeptTokens& kept) const {
    std::vector<Index> ids;
    for (Index token = 0; token < tokens(); ++token) {
      const bool word = token >= first_ && token < first_ + words_;
      if (!word || kept[static_cast<std::size_t>(token - first_)])
        ids.push_back(token);
      else if (removal_ != Removal::drop)
        ids.push_back(tokens());
    }
    return ids;
  }

  /// The classes' logits. With no token left there are none, and zeros stand for them.
  [[nodiscard]] RowVector<double> logits(const LanguageModel<float>& own, const KeptTokens& kept,
                                         const Executor& executor = serial_executor()) const {
    const auto count = static_cast<Index>(class_tokens_.size());
    const std::vector<Index> ids = own_ids(kept);
    if (ids.empty()) return RowVector<double>::Zero(count);
    ForwardOptions forward;
    forward.keep = Keep::logits;
    forward.executor = executor;
    return own.forward(ids, forward).logits.row(0).head(count).cast<double>();
  }

  /// What is explained: the class predicted from the whole text against the next likeliest. The logits are finite.
  void choose_target(const RowVector<double>& whole) {
    Index best = 0, next = -1;
    whole.maxCoeff(&best);
    for (Index c = 0; c < whole.size(); ++c)
      if (c != best && (next < 0 || whole[c] > whole[next])) next = c;
    target_ = {tokens() - 1, best, next};
  }
  [[nodiscard]] const Target& target() const { return target_; }

  [[nodiscard]] Output output(const RowVector<double>& logits) const {
    Output output;
    output.difference = logits[target_.token] - logits[*target_.contrast];
    const double largest = logits.maxCoeff(&output.best);
    output.probability = std::exp(logits[target_.token] - largest) / (logits.array() - largest).exp().sum();
    return output;
  }

  /// The methods' options. Integrated gradients begin at the embedding of a removed token, unless the caller says otherwise.
  [[nodiscard]] MethodOptions<float> method_options(const LanguageModel<float>& own, Terms terms, ReductionKind reduction,
                                                    std::uint64_t seed) const {
    MethodOptions<float> options;
    options.baseline = detail::row_of(own.parts().embedding, tokens());
    options.terms = terms;
    options.reduction = reduction;
    options.removal = removal_;
    options.replacement = tokens();
    options.seed = seed;
    return options;
  }
  /// All tokens, in the own vocabulary.
  [[nodiscard]] std::vector<Index> whole_ids() const { return own_ids(KeptTokens(static_cast<std::size_t>(words_), true)); }
  /// The words' part of scores of all tokens.
  [[nodiscard]] Scores words_of(const RowVector<float>& scores) const { return Scores(scores.segment(first_, words_)); }

 private:
  std::vector<Index> ids_;
  Index first_, words_;
  std::vector<Index> class_tokens_;
  Removal removal_;
  std::optional<Index> unknown_;
  Target target_;
};

}  // namespace implicit_attention::examples
