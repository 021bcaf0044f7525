// The explainer's run of the model: how much of the text it reads, what is taken meanwhile, which logits are there, and what is explained.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/models/contribution_rollout.hpp>
#include <implicit_attention/models/explanation_plan.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// With so many tokens a run's products are about as fast as those of a long text: short texts run side by side up to this number.
inline constexpr Index tokens_of_a_full_run = 256;

/// One text in one model, run as far as what is explained depends on it.
template <Real S>
class ExplainedRun {
 public:
  using Scalar = S;

  ExplainedRun(LanguageModel<Scalar> model, std::vector<Index> ids, ForwardOptions options, ExplanationPlan<Scalar> plan)
      : model_(std::move(model)),
        ids_(std::move(ids)),
        options_(std::move(options)),
        plan_(std::move(plan)),
        mixing_(model_.mixing_layers()),
        positions_(ids_.empty() ? std::vector<Index>() : options_.logit_positions.resolve(tokens(), "logit position")) {
    if (!options_.starts.empty())
      raise(ErrorKind::value, "Explainer: ForwardOptions::starts has ", static_cast<Index>(options_.starts.size()),
            " entries, expected none: an Explainer explains one text, make one for each document");
    const auto any = [&](const auto& asks) { return std::any_of(plan_.methods.begin(), plan_.methods.end(), asks); };
    run(plan_.whole || any([&](Method method) { return reads_whole(method, plan_.options); }),
        plan_.methods.empty() || any([&](Method method) { return needs_layers(method); }));
  }

  [[nodiscard]] const LanguageModel<Scalar>& model() const { return model_; }
  [[nodiscard]] const ForwardOptions& options() const { return options_; }
  [[nodiscard]] const ExplanationPlan<Scalar>& plan() const { return plan_; }
  [[nodiscard]] const ForwardPass<Scalar>& pass() const { return pass_; }
  /// Tokens of the text, and those that the model was run on.
  [[nodiscard]] Index tokens() const { return static_cast<Index>(ids_.size()); }
  [[nodiscard]] Index read() const { return pass_.tokens(); }

  /// Runs the model again if the existing run lacks what is needed now: all tokens (`whole`), or the layers. Returns whether it did.
  bool need(bool whole, bool layers) {
    whole = whole || read() == tokens();
    if (!(read() < (whole ? tokens() : read()) || (layers && pass_.layers.empty()))) return false;
    run(whole, layers || !pass_.layers.empty());
    return true;
  }
  /// Computes the logits at positions that the run has none of yet.
  void need_logits(const std::vector<Index>& positions);
  /// Calls `use` with the logits at a position, (1, vocabulary), and returns its result. Fails on a position that was not read.
  template <class Use>
  auto use_logits(Index position, const Use& use) const {
    if (position >= read())
      raise(ErrorKind::value, "Explainer: position ", position, " cannot be explained: of ", tokens(), " tokens the model read ", read(),
            ", which is what ForwardOptions::logit_positions asked for");
    if (has_logits(position)) return use(pass_.logits_at(position));
    return use(ConstView<Scalar>(model_.logits_of(ConstView<Scalar>(pass_.final_residual.matrix().middleRows(position, 1)))));
  }

  void check(const Target& target) const;
  /// The number explained. Fails on a position or token that is not there, and on NaN.
  [[nodiscard]] Scalar value(const Target& target) const;
  [[nodiscard]] static Scalar value_of(ConstView<Scalar> logits, const Target& target);
  [[nodiscard]] static bool same(const Target& a, const Target& b) {
    return a.position == b.position && a.token == b.token && a.contrast == b.contrast;
  }
  /// Whether two sets of options ask for the same maps.
  [[nodiscard]] static bool same_way(const MethodOptions<Scalar>& a, const MethodOptions<Scalar>& b) {
    return a.terms == b.terms && a.reduction == b.reduction && a.layer == b.layer && a.heads == b.heads &&
           a.rollout.start_layer == b.rollout.start_layer;
  }

  /// Whether a method reads the whole text, whatever is explained: for its map, because it rescales maps by their largest entry, or because
  /// it discards a share of all entries.
  [[nodiscard]] static bool reads_whole(Method method, const MethodOptions<Scalar>& options) {
    return method == Method::gradient_maximum || (method == Method::rollout && options.rollout.discard_ratio != Scalar(0)) ||
           (options.with_map && method_info(method).has_map);
  }
  /// Whether the layer asked for, if one is, mixes tokens.
  [[nodiscard]] bool mixes(const std::optional<Index>& layer) const {
    return !layer || std::find(mixing_.begin(), mixing_.end(), *layer) != mixing_.end();
  }
  /// The layers that are explained: the one asked for, or all that mix tokens.
  [[nodiscard]] std::vector<Index> layers_of(const MethodOptions<Scalar>& options) const {
    if (options.layer) return {*options.layer};
    return mixing_;
  }
  /// The same; fails where the one asked for mixes no tokens, and where heads are asked for, and no layer.
  [[nodiscard]] std::vector<Index> mixing_layers_of(Method method, const MethodOptions<Scalar>& options) const {
    if (!mixes(options.layer))
      raise(ErrorKind::value, method_info(method).name, ": layer ", *options.layer, " of ", model_.name(),
            " is out of range or mixes no tokens, expected one of ", shape_text(mixing_));
    if (!options.heads.empty() && !options.layer && method_info(method).by_head)
      raise(ErrorKind::value, method_info(method).name, ": heads are those of one layer, expected MethodOptions::layer beside them");
    return layers_of(options);
  }
  [[nodiscard]] const std::vector<Index>& mixing() const { return mixing_; }
  [[nodiscard]] Index mixing_count() const { return static_cast<Index>(mixing_.size()); }
  /// The implicit attention of the `index`-th layer that mixes tokens: methods from attention skip feed-forward layers.
  [[nodiscard]] ImplicitAttention<Scalar> attention_of_mixing(Index index, Terms terms) const {
    return attention_of_layer(mixing_[static_cast<std::size_t>(index)], terms);
  }
  [[nodiscard]] ImplicitAttention<Scalar> attention_of_layer(Index layer, Terms terms) const {
    return model_.implicit_attention(model_.layer_pass(pass_, layer, options_.executor, false, LayerReads::maps), layer, terms);
  }

  /// How many tokens a position's logits depend on: later ones cannot matter to a causal model.
  [[nodiscard]] Index seen_by(Index position) const { return model_.causal() ? position + 1 : tokens(); }
  /// The options of a run for one position: of the tokens that the position sees, with no logits but its own.
  [[nodiscard]] ForwardOptions prefix_options(Index position) const;
  /// How many texts of `length` tokens run side by side, as documents of one sequence.
  [[nodiscard]] Index texts_a_run(Index length) const {
    return model_.causal() && model_.separates_documents() ? std::max<Index>(1, tokens_of_a_full_run / length) : 1;
  }

  /// The rows taken during the run, of these positions; nothing where they were not, or with other options.
  [[nodiscard]] std::optional<Matrix<Scalar>> taken_rows(Method method, const std::vector<Index>& positions,
                                                         const MethodOptions<Scalar>& options) const;

 private:
  /// Runs the model: on the whole text, or on what the positions depend on; with its layers for later, or without.
  void run(bool whole, bool layers);
  [[nodiscard]] bool has_logits(Index position) const {
    return std::find(pass_.logit_positions.begin(), pass_.logit_positions.end(), position) != pass_.logit_positions.end();
  }
  template <class Element>
  [[nodiscard]] std::vector<Element> prefix(const std::vector<Element>& all, Index position) const {
    return {all.begin(), all.begin() + std::min(static_cast<std::ptrdiff_t>(all.size()), static_cast<std::ptrdiff_t>(seen_by(position)))};
  }
  /// Whether a method reads the layers of the run once it has ended.
  [[nodiscard]] bool needs_layers(Method method) const { return method_info(method).reads_layers && !takes_rows(method); }
  /// Whether the rows that a method is the mean of are taken while the layers run: of few positions only, since they cost a row each.
  [[nodiscard]] bool takes_rows(Method method) const {
    return method_info(method).is_mean_row() && plan_.has(method) && !plan_.options.with_map && positions_.size() <= 64 &&
           mixes(plan_.options.layer);
  }
  /// Adds the rows of a layer that has just run to those taken before.
  void take_rows(Index layer, const LayerPass<Scalar>& pass);

  LanguageModel<Scalar> model_;
  std::vector<Index> ids_;
  ForwardOptions options_;
  ExplanationPlan<Scalar> plan_;
  std::vector<Index> mixing_, positions_;
  ForwardPass<Scalar> pass_;
  std::vector<std::pair<Method, Matrix<Scalar>>> rows_;  // those taken during the run: (positions, tokens read), summed over layers
};

template <Real S>
void ExplainedRun<S>::run(bool whole, bool layers) {
  ForwardOptions options = options_;
  if (!layers) options.keep = Keep::logits;
  const bool mixers = plan_.methods.empty() || std::any_of(plan_.methods.begin(), plan_.methods.end(), [&](Method method) {
                        return method_info(method).from_attention && needs_layers(method);
                      });
  options.keep_mixers = options.keep_mixers && mixers;
  options.keep_outputs =
      options.keep_outputs && (plan_.methods.empty() || std::any_of(plan_.methods.begin(), plan_.methods.end(), [&](Method method) {
                                 return method_info(method).from_vectors && needs_layers(method);
                               }));
  std::vector<Index> ids = ids_;
  // Positions of a wrong count are for the run of the whole text to refuse.
  if (!whole && !positions_.empty() && (options_.positions.empty() || static_cast<Index>(options_.positions.size()) == tokens())) {
    static_cast<void>(model_.embed(ids_));  // later ids must be tokens, too
    const Index last = *std::max_element(positions_.begin(), positions_.end());
    ids = prefix(ids_, last);
    options.positions = prefix(options_.positions, last);
  }
  std::vector<Index> asked = positions_;  // and what has been asked for since
  for (const Index position : pass_.logit_positions)
    if (std::find(asked.begin(), asked.end(), position) == asked.end()) asked.push_back(position);
  if (!ids.empty()) options.logit_positions = Indices(std::move(asked));
  typename LanguageModel<Scalar>::Visitor visit;
  if (rows_.empty()) {
    for (const MethodName& named : method_names)
      if (takes_rows(named.method))
        rows_.emplace_back(named.method, Matrix<Scalar>::Zero(static_cast<Index>(positions_.size()), static_cast<Index>(ids.size())));
    if (!rows_.empty()) visit = [&](Index layer, const LayerPass<Scalar>& pass) { take_rows(layer, pass); };
  }
  pass_ = model_.forward(ids, options, visit);
}

template <Real S>
void ExplainedRun<S>::take_rows(Index layer, const LayerPass<Scalar>& pass) {
  if (plan_.options.layer ? *plan_.options.layer != layer : pass.mixers.empty()) return;
  for (auto& [method, rows] : rows_) {
    if (method == Method::contribution_norms) {
      add_contribution_norms(LayerContributions<Scalar>(model_, pass, layer, plan_.options.terms), positions_, rows, options_.executor);
      continue;
    }
    Reduction<Scalar> reduction;
    reduction.kind = plan_.options.reduction;
    Selection selection;
    selection.rows = Indices(positions_);
    selection.executor = options_.executor;
    rows += pass.mixer().attention(plan_.options.terms).reduce(reduction, selection);
  }
}

template <Real S>
std::optional<Matrix<S>> ExplainedRun<S>::taken_rows(Method method, const std::vector<Index>& positions,
                                                     const MethodOptions<Scalar>& options) const {
  const auto taken = std::find_if(rows_.begin(), rows_.end(), [&](const auto& one) { return one.first == method; });
  if (taken == rows_.end() || options.with_map || !same_way(options, plan_.options)) return std::nullopt;
  Matrix<Scalar> rows = Matrix<Scalar>::Zero(static_cast<Index>(positions.size()), tokens());
  const auto layers = options.layer ? Scalar(1) : static_cast<Scalar>(mixing_count());
  for (std::size_t row = 0; row < positions.size(); ++row) {
    const auto found = std::find(positions_.begin(), positions_.end(), positions[row]);
    if (found == positions_.end()) return std::nullopt;
    rows.row(static_cast<Index>(row)).head(taken->second.cols()) =
        taken->second.row(static_cast<Index>(found - positions_.begin())) / layers;
  }
  check_finite(method == Method::raw ? "raw attention" : "contribution norms", "the row of a position", rows);
  return rows;
}

template <Real S>
void ExplainedRun<S>::need_logits(const std::vector<Index>& positions) {
  std::vector<Index> missing;
  for (const Index position : positions)
    if (position >= 0 && position < read() && !has_logits(position) && std::find(missing.begin(), missing.end(), position) == missing.end())
      missing.push_back(position);
  if (missing.empty()) return;
  const Matrix<Scalar> logits = model_.logits_of(chosen_rows(*pass_.final_residual, missing), options_.executor);
  pass_.logits.conservativeResize(pass_.logits.rows() + logits.rows(), model_.vocabulary());
  pass_.logits.bottomRows(logits.rows()) = logits;
  pass_.logit_positions.insert(pass_.logit_positions.end(), missing.begin(), missing.end());
}

template <Real S>
void ExplainedRun<S>::check(const Target& target) const {
  check_position("target", target.position, tokens());
  check_index(target.token, model_.vocabulary(), "target token");
  if (target.contrast) check_index(*target.contrast, model_.vocabulary(), "contrast token");
  use_logits(target.position, [&](ConstView<Scalar> logits) {
    if (all_finite(logits)) return;
    ForwardOptions searching = options_;  // once more, for the name of the layer, token and channel where it began
    searching.keep = Keep::logits;
    searching.check_finite = true;
    static_cast<void>(model_.forward(ids_, searching));
    check_finite("target", "the logits", logits);
  });
}

template <Real S>
S ExplainedRun<S>::value(const Target& target) const {
  check(target);
  return use_logits(target.position, [&](ConstView<Scalar> logits) { return value_of(logits, target); });
}

template <Real S>
S ExplainedRun<S>::value_of(ConstView<Scalar> logits, const Target& target) {
  const Scalar value = logits(0, target.token) - (target.contrast ? logits(0, *target.contrast) : Scalar(0));
  if (!std::isfinite(value))
    raise(ErrorKind::value, "target: the logit of token ", target.token, " at position ", target.position,
          " is not finite; are there NaN in the weights, or factors in the configuration that are too large?");
  return value;
}

template <Real S>
ForwardOptions ExplainedRun<S>::prefix_options(Index position) const {
  ForwardOptions run;
  run.keep = Keep::logits;
  run.logit_positions = Indices({position});
  run.positions = prefix(options_.positions, position);
  return run;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
