// A language model: embeddings, a stack of layers, a norm and a head. Families differ in the parts alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/models/forward_pass.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
/// Some rows of a matrix, one below the other.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> chosen_rows(ConstView<Scalar> all, const std::vector<Index>& rows) {
  Matrix<Scalar> chosen(static_cast<Index>(rows.size()), all.cols());
  for (std::size_t row = 0; row < rows.size(); ++row) chosen.row(static_cast<Index>(row)) = all.row(rows[row]);
  return chosen;
}
}  // namespace detail

/// A public language model, run forwards; models/backward.hpp runs it backwards. Cheap to copy: weights are shared or viewed.
template <Real S>
class LanguageModel {
 public:
  using Scalar = S;

  /// Checks that the parts fit each other; fails (ErrorKind::shape) naming the part.
  explicit LanguageModel(LanguageModelParts<Scalar> parts);

  [[nodiscard]] const std::string& name() const { return parts_.name; }
  [[nodiscard]] const LanguageModelParts<Scalar>& parts() const { return parts_; }
  /// Rows of the embedding, with their padding.
  [[nodiscard]] Index vocabulary() const { return parts_.embedding.rows(); }
  [[nodiscard]] Index width() const { return parts_.embedding.cols(); }
  [[nodiscard]] Index layer_count() const { return static_cast<Index>(parts_.blocks.size()); }
  [[nodiscard]] const Block<Scalar>& block(Index layer) const { return parts_.blocks[checked_layer(layer)]; }
  /// A layer's inner width E: columns of its x and y.
  [[nodiscard]] Index channels(Index layer) const;

  /// The embeddings of tokens (L), (L, D). Fails on an id beyond the vocabulary, and where there are no tokens.
  [[nodiscard]] Matrix<Scalar> embed(const std::vector<Index>& ids) const;

  /// What looks at a layer while the model runs, as soon as the layer has run.
  using Visitor = std::function<void(Index layer, const LayerPass<Scalar>& pass)>;

  /// Runs the model on token ids (L). `visit`, if given, is called for each layer, first to last.
  [[nodiscard]] ForwardPass<Scalar> forward(const std::vector<Index>& ids, const ForwardOptions& options = {},
                                            const Visitor& visit = {}) const;
  /// Runs the model on embeddings (L, D) in place of tokens': what `embed` gives, or anything else.
  [[nodiscard]] ForwardPass<Scalar> forward_embeddings(ConstView<Scalar> embeddings, const ForwardOptions& options = {}) const;

  /// The logits (1, vocabulary) after the last of `ids` (L), the next tokens of a sequence whose earlier tokens left `states`; what these
  /// tokens leave replaces it. A call with one token costs what a recurrence costs; softmax attention keeps its keys and values. Equal to
  /// the last row of a run over the whole sequence, to rounding. Fails (value) where the model looks at later tokens, and where an earlier
  /// piece met a part that returns no state (`states.refusals()`): such a model must read the sequence again.
  [[nodiscard]] Matrix<Scalar> next_logits(const std::vector<Index>& ids, CarriedStates& states,
                                           const Executor& executor = serial_executor()) const;
  /// The same from embeddings (L, D), with the logits (rows, vocabulary) at any rows of this piece; none if states alone are wanted.
  [[nodiscard]] Matrix<Scalar> next_logits_at(const std::vector<Index>& rows, ConstView<Scalar> embeddings, CarriedStates& states,
                                              const Executor& executor = serial_executor()) const;

  /// Runs one layer on the residual stream before it (L, D), recorded or not. `positions` as for `forward`.
  [[nodiscard]] LayerPass<Scalar> run_layer(Index layer, const Array<Scalar>& residual, const std::vector<Index>& positions = {},
                                            const Executor& executor = serial_executor(), bool recorded = true) const;

  /// A layer of a pass with its activations: as kept, where that is enough for what is read, or recomputed from the residual stream. Fails
  /// where the pass kept neither.
  [[nodiscard]] LayerPass<Scalar> layer_pass(const ForwardPass<Scalar>& pass, Index layer, const Executor& executor = serial_executor(),
                                             bool recorded = true, LayerReads reads = LayerReads::all) const;

  /// One layer of a run on token ids (L): layers after it are not run. Of the options the positions and the executor are read.
  [[nodiscard]] LayerPass<Scalar> run_to_layer(const std::vector<Index>& ids, Index layer, const ForwardOptions& options = {}) const;

  /// The implicit attention of one layer of a pass: of its first token mixer. Fails where the layer has none.
  [[nodiscard]] ImplicitAttention<Scalar> implicit_attention(const ForwardPass<Scalar>& pass, Index layer,
                                                             Terms terms = Terms::all()) const;
  /// The same of a layer that has been run by itself.
  [[nodiscard]] ImplicitAttention<Scalar> implicit_attention(const LayerPass<Scalar>& pass, Index layer, Terms terms = Terms::all()) const;

  /// Layers that mix tokens, in order: the others are feed-forward parts alone.
  [[nodiscard]] std::vector<Index> mixing_layers() const;
  /// Whether logits depend on no later token, as they do in every public family; a model with a layer of two directions is not.
  [[nodiscard]] bool causal() const;
  /// Whether several documents can stand in one sequence (`ForwardOptions::starts`): all parts keep them apart.
  [[nodiscard]] bool separates_documents() const;

  /// What enters the first layer, (L, D): embeddings scaled and normalised as the model has it, within a trace.
  [[nodiscard]] Value<Scalar> enter(const Value<Scalar>& embeddings) const;

  /// The logits (rows, vocabulary) of rows (rows, D) of the residual stream after the last layer, within a trace. `known`: the logits,
  /// where they have been computed before and their way back alone is wanted.
  [[nodiscard]] Value<Scalar> leave(const Value<Scalar>& final_residual, const Matrix<Scalar>* known = nullptr) const;

  /// The same as numbers.
  [[nodiscard]] Matrix<Scalar> logits_of(ConstView<Scalar> final_residual, const Executor& executor = serial_executor()) const;

 private:
  [[nodiscard]] std::size_t checked_layer(Index layer) const;

  [[nodiscard]] ForwardPass<Scalar> run(Array<Scalar> embeddings, const ForwardOptions& options, const Visitor& visit) const;

  [[nodiscard]] std::vector<Index> checked_positions(const std::vector<Index>& positions, Index tokens) const;
  void check_starts(const std::vector<Index>& starts, Index tokens) const;

  LanguageModelParts<Scalar> parts_;
};

template <Real S>
LanguageModel<S>::LanguageModel(LanguageModelParts<Scalar> parts) : parts_(std::move(parts)) {
  const LanguageModelParts<Scalar>& p = parts_;
  if (p.embedding.empty()) detail::raise(ErrorKind::shape, p.name, ": the embedding is empty, expected (vocabulary, width)");
  if (p.blocks.empty()) detail::raise(ErrorKind::shape, p.name, ": there is no layer");
  const auto check_width = [&](const std::string& what, Index came) {
    if (came != width())
      detail::raise(ErrorKind::shape, p.name, ": ", what, " is ", came, " wide, expected ", width(), " as the embedding is");
  };
  if (!p.embedding_norm.empty()) check_width("the norm of the embeddings", p.embedding_norm.width());
  for (std::size_t n = 0; n < p.blocks.size(); ++n) {
    const std::string layer = detail::message("layer ", static_cast<Index>(n));
    for (const Sublayer<Scalar>& sublayer : p.blocks[n].sublayers) {
      if (sublayer.branches.empty()) detail::raise(ErrorKind::shape, p.name, ": ", layer, " has a sublayer without a part");
      if (!sublayer.norm.empty()) check_width(layer + "'s norm", sublayer.norm.width());
      if (!sublayer.norm_after.empty()) check_width(layer + "'s norm after a part", sublayer.norm_after.width());
      for (const Branch<Scalar>& branch : sublayer.branches) {
        if (branch.part == nullptr) detail::raise(ErrorKind::shape, p.name, ": ", layer, " has an empty part");
        check_width(detail::message(layer, "'s ", branch.part->name()), branch.part->width());
      }
    }
  }
  check_width("the final norm", p.final_norm.width());
  check_shape(p.name, "head", p.head, vocabulary(), width(), "(vocabulary, width)");
  if (!p.head_bias.empty()) check_vector(p.name, "head_bias", p.head_bias, vocabulary(), "vocabulary");
}

template <Real S>
Index LanguageModel<S>::channels(Index layer) const {
  return block(layer).channels();
}

template <Real S>
Matrix<S> LanguageModel<S>::embed(const std::vector<Index>& ids) const {
  if (ids.empty()) detail::raise(ErrorKind::value, name(), ": there are no token ids, expected at least one");
  for (std::size_t token = 0; token < ids.size(); ++token)
    if (ids[token] < 0 || ids[token] >= vocabulary())
      detail::raise(ErrorKind::value, name(), ": token id ", ids[token], " at position ", static_cast<Index>(token),
                    " is out of range, expected 0 to ", vocabulary() - 1);
  Matrix<Scalar> rows(static_cast<Index>(ids.size()), width());
  for (Index token = 0; token < rows.rows(); ++token)
    detail::copy_row(parts_.embedding, ids[static_cast<std::size_t>(token)], rows.row(token).data());
  return rows;
}

template <Real S>
ForwardPass<S> LanguageModel<S>::forward(const std::vector<Index>& ids, const ForwardOptions& options, const Visitor& visit) const {
  ForwardPass<Scalar> pass = run(Array<Scalar>(embed(ids)), options, visit);
  pass.ids = ids;
  return pass;
}

template <Real S>
ForwardPass<S> LanguageModel<S>::forward_embeddings(ConstView<Scalar> embeddings, const ForwardOptions& options) const {
  if (embeddings.rows() == 0) detail::raise(ErrorKind::shape, name(), ": there are no embeddings, expected at least one token's");
  if (embeddings.cols() != width())
    detail::raise(ErrorKind::shape, name(), ": the embeddings are ", shape_text({embeddings.rows(), embeddings.cols()}),
                  ", expected (tokens, ", width(), ")");
  return run(Array<Scalar>(Matrix<Scalar>(embeddings)), options, {});
}

template <Real S>
Matrix<S> LanguageModel<S>::next_logits(const std::vector<Index>& ids, CarriedStates& states, const Executor& executor) const {
  const Matrix<Scalar> embeddings = embed(ids);
  return next_logits_at({embeddings.rows() - 1}, embeddings, states, executor);
}

template <Real S>
Matrix<S> LanguageModel<S>::next_logits_at(const std::vector<Index>& rows, ConstView<Scalar> embeddings, CarriedStates& states,
                                           const Executor& executor) const {
  detail::check_input(name(), embeddings, width());
  for (const Index row : rows) check_index(row, embeddings.rows(), name(), ": row");
  if (!causal()) detail::raise(ErrorKind::value, name(), ": a layer looks at later tokens, so there is no next one");
  if (states.begun() && !states.refusals().empty())
    detail::raise(ErrorKind::value, name(), ": ", states.refusals().front(), " returns no state; the whole sequence must be run again");
  Trace<Scalar> trace(false, executor);
  Array<Scalar> residual = enter(trace.input(Array<Scalar>(Matrix<Scalar>(embeddings)))).numbers;
  std::vector<std::pair<std::string, Array<Scalar>>> shared;
  if (parts_.shares_embeddings) shared.emplace_back("embeddings", residual);
  CarriedStates next = states;  // an error leaves the caller's as they were; the numbers are shared
  next.begin_piece();
  for (Index layer = 0; layer < layer_count(); ++layer)
    residual = detail::run_block(block(layer), layer, residual, {}, shared, false, executor, &next, {}, LayerReads::all, false).output;
  next.end_piece();
  Matrix<Scalar> logits(0, vocabulary());
  if (!rows.empty()) logits = logits_of(detail::chosen_rows(*residual, rows), executor);
  states = std::move(next);
  return logits;
}

template <Real S>
LayerPass<S> LanguageModel<S>::run_layer(Index layer, const Array<Scalar>& residual, const std::vector<Index>& positions,
                                         const Executor& executor, bool recorded) const {
  static_cast<void>(checked_layer(layer));
  detail::check_input(name(), *residual, width());
  std::vector<std::pair<std::string, Array<Scalar>>> shared;
  return detail::run_block(block(layer), layer, residual, positions, shared, recorded, executor);
}

template <Real S>
LayerPass<S> LanguageModel<S>::layer_pass(const ForwardPass<Scalar>& pass, Index layer, const Executor& executor, bool recorded,
                                          LayerReads reads) const {
  const std::size_t index = checked_layer(layer);
  if (pass.layers.size() != parts_.blocks.size())
    detail::raise(ErrorKind::value, name(), ": the pass kept ", static_cast<Index>(pass.layers.size()), " layers of ", layer_count(),
                  "; run it with Keep::residuals or Keep::activations");
  if (pass.layers[index].serves(reads)) return pass.layers[index];
  std::vector<std::pair<std::string, Array<Scalar>>> shared = pass.layers[index].shared_before;
  return detail::run_block(block(layer), layer, pass.layers[index].residual, pass.positions, shared, recorded, executor, nullptr,
                           pass.starts, reads);
}

template <Real S>
LayerPass<S> LanguageModel<S>::run_to_layer(const std::vector<Index>& ids, Index layer, const ForwardOptions& options) const {
  static_cast<void>(checked_layer(layer));
  if (!options.starts.empty())
    detail::raise(ErrorKind::value, name(),
                  ": run_to_layer runs one text, but ForwardOptions::starts has entries; run each document by itself");
  const std::vector<Index> positions = checked_positions(options.positions, static_cast<Index>(ids.size()));
  Trace<Scalar> trace(false, options.executor);
  Array<Scalar> residual = enter(trace.input(Array<Scalar>(embed(ids)))).numbers;
  std::vector<std::pair<std::string, Array<Scalar>>> shared;
  if (parts_.shares_embeddings) shared.emplace_back("embeddings", residual);
  for (Index before = 0; before < layer; ++before)
    residual = detail::run_block(block(before), before, residual, positions, shared, false, options.executor).output;
  return detail::run_block(block(layer), layer, residual, positions, shared, false, options.executor);
}

template <Real S>
ImplicitAttention<S> LanguageModel<S>::implicit_attention(const ForwardPass<Scalar>& pass, Index layer, Terms terms) const {
  return implicit_attention(layer_pass(pass, layer, serial_executor(), false, LayerReads::maps), layer, terms);
}

template <Real S>
ImplicitAttention<S> LanguageModel<S>::implicit_attention(const LayerPass<Scalar>& pass, Index layer, Terms terms) const {
  static_cast<void>(checked_layer(layer));
  if (pass.serves(LayerReads::maps) && pass.mixers.empty())
    detail::raise(ErrorKind::value, name(), ": layer ", layer, " is a feed-forward part and mixes no tokens, so it has no attention");
  return pass.mixer().attention(terms);
}

template <Real S>
std::vector<Index> LanguageModel<S>::mixing_layers() const {
  std::vector<Index> layers;
  for (Index layer = 0; layer < layer_count(); ++layer)
    if (channels(layer) != 0) layers.push_back(layer);
  return layers;
}

template <Real S>
bool LanguageModel<S>::causal() const {
  for (Index layer = 0; layer < layer_count(); ++layer)
    if (!block(layer).causal()) return false;
  return true;
}

template <Real S>
bool LanguageModel<S>::separates_documents() const {
  return std::all_of(parts_.blocks.begin(), parts_.blocks.end(),
                     [](const Block<Scalar>& block) { return block.first_that_joins_documents() == nullptr; });
}

template <Real S>
Value<S> LanguageModel<S>::enter(const Value<Scalar>& embeddings) const {
  if (!parts_.embedding_norm.empty()) return normalize(parts_.embedding_norm, embeddings);
  return times(embeddings, parts_.embedding_scale);
}

template <Real S>
Value<S> LanguageModel<S>::leave(const Value<Scalar>& final_residual, const Matrix<Scalar>* known) const {
  const Array<Scalar> numbers = known != nullptr ? Array<Scalar>::view(*known) : Array<Scalar>();
  const Array<Scalar>* const given = known != nullptr ? &numbers : nullptr;
  Value<Scalar> logits = linear(normalize(parts_.final_norm, final_residual), parts_.head, parts_.head_bias, given);
  if (parts_.logit_scale != Scalar(1)) logits = times(std::move(logits), parts_.logit_scale);
  if (parts_.soft_cap > Scalar(0)) logits = soft_cap(std::move(logits), parts_.soft_cap, given);
  return logits;
}

template <Real S>
Matrix<S> LanguageModel<S>::logits_of(ConstView<Scalar> final_residual, const Executor& executor) const {
  Trace<Scalar> trace(false, executor);
  Value<Scalar> logits = leave(trace.input(Array<Scalar>::view(final_residual)));
  Matrix<Scalar>* const own = logits.numbers.sole_owner();
  return own != nullptr ? std::move(*own) : Matrix<Scalar>(*logits);
}

template <Real S>
std::size_t LanguageModel<S>::checked_layer(Index layer) const {
  check_index(layer, layer_count(), name(), ": layer");
  return static_cast<std::size_t>(layer);
}

template <Real S>
ForwardPass<S> LanguageModel<S>::run(Array<Scalar> embeddings, const ForwardOptions& options, const Visitor& visit) const {
  ForwardPass<Scalar> pass;
  pass.logit_positions = options.logit_positions.resolve(embeddings.rows(), "logit position");
  pass.positions = checked_positions(options.positions, embeddings.rows());
  check_starts(options.starts, embeddings.rows());
  pass.starts = options.starts;
  if (pass.positions.empty() && !pass.starts.empty())
    for (std::size_t document = 0; document < pass.starts.size(); ++document) {
      const Index end = document + 1 < pass.starts.size() ? pass.starts[document + 1] : embeddings.rows();
      for (Index token = pass.starts[document]; token < end; ++token) pass.positions.push_back(token - pass.starts[document]);
    }
  detail::expect_activations();
  pass.embeddings = std::move(embeddings);
  Trace<Scalar> trace(false, options.executor);
  Array<Scalar> residual = enter(trace.input(pass.embeddings)).numbers;
  if (options.check_finite) detail::check_finite_activation(name(), "the embeddings", *residual);
  if (parts_.shares_embeddings) pass.shared.emplace_back("embeddings", residual);
  // Residual streams are kept in any case; what a layer adds to them is known once one has run.
  const std::size_t residuals = static_cast<std::size_t>(residual.size() * (layer_count() + 1)) * sizeof(Scalar);
  const LayerReads kept_for = !options.keep_mixers ? LayerReads::walk : options.keep_outputs ? LayerReads::all : LayerReads::maps;
  const bool mixers_read = options.keep == Keep::activations || (options.keep == Keep::residuals && kept_for != LayerReads::walk) ||
                           visit || options.check_finite;
  std::size_t left = options.keep == Keep::residuals && options.memory > residuals ? options.memory - residuals : 0, layer_bytes = 0;
  for (Index layer = 0; layer < layer_count(); ++layer) {
    LayerPass<Scalar> before;
    before.residual = residual;
    before.shared_before = pass.shared;
    const bool may_keep = left > 0 && layer_bytes <= left;
    LayerPass<Scalar> run =
        detail::run_block(block(layer), layer, residual, pass.positions, pass.shared, options.keep == Keep::activations || may_keep,
                          options.executor, nullptr, pass.starts, LayerReads::all, mixers_read);
    run.shared_before = before.shared_before;
    if (visit) visit(layer, run);
    if (options.check_finite) {
      const std::string who = detail::message(name(), ", layer ", layer);
      for (const MixerRun<Scalar>& mixer : run.mixers) {
        const std::string of = mixer.kind.empty() ? "" : detail::message(mixer.kind, "'s ");
        detail::check_finite_activation(who, detail::message(of, "linear input x"), *mixer.x);
        detail::check_finite_activation(who, detail::message(of, "output y"), *mixer.y);
        detail::check_finite_activation(who, detail::message(of, "output after its projection"), *mixer.out);
      }
      detail::check_finite_activation(who, "the residual stream after it", *run.output);
    }
    residual = run.output;
    if (options.keep == Keep::activations)
      pass.layers.push_back(std::move(run));
    else if (options.keep == Keep::residuals) {
      if (may_keep) {
        run.keep_for(kept_for);
        layer_bytes = run.held_bytes() - static_cast<std::size_t>(run.residual.size()) * sizeof(Scalar);
        if (layer_bytes <= left) before = std::move(run);
        left -= std::min(left, layer_bytes);
      }
      pass.layers.push_back(std::move(before));
    }
  }
  pass.final_residual = std::move(residual);
  pass.logits = logits_of(detail::chosen_rows(*pass.final_residual, pass.logit_positions), options.executor);
  return pass;
}

template <Real S>
std::vector<Index> LanguageModel<S>::checked_positions(const std::vector<Index>& positions, Index tokens) const {
  if (positions.empty()) return {};
  if (!parts_.has_positions) detail::raise(ErrorKind::value, name(), ": positions were given, but this model has none");
  detail::check_positions(name(), positions, tokens);
  for (std::size_t token = 0; token < positions.size(); ++token)
    if (positions[token] < 0)
      detail::raise(ErrorKind::value, name(), ": position ", positions[token], " of token ", static_cast<Index>(token), " is negative");
  return positions;
}

template <Real S>
void LanguageModel<S>::check_starts(const std::vector<Index>& starts, Index tokens) const {
  if (starts.empty()) return;
  if (starts.front() != 0) detail::raise(ErrorKind::value, name(), ": the first document starts at token ", starts.front(), ", expected 0");
  check_ascending(name(), "starts", starts, tokens);
  for (Index layer = 0; layer < layer_count(); ++layer)
    if (const Part<Scalar>* const part = block(layer).first_that_joins_documents())
      detail::raise(ErrorKind::value, name(), ": layer ", layer, "'s ", part->name(),
                    " does not keep documents apart; run each text by itself (without ForwardOptions::starts)");
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
