// How the explainer runs the model, forwards and back: how much of the text, what is taken meanwhile, and which logits are there.
// explainer.hpp includes this header.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include <implicit_attention/models/explainer.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
void Explainer<S>::run(bool whole, bool layers) {
  ForwardOptions options = options_;
  if (!layers) options.keep = Keep::logits;
  const bool mixers = plan_.methods.empty() || std::any_of(plan_.methods.begin(), plan_.methods.end(), [&](Method method) {
                        return method_info(method).from_attention && needs_layers(method);
                      });
  options.keep_mixers = options.keep_mixers && mixers;
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
  backward_.reset();
  walked_target_.reset();
}

template <Real S>
void Explainer<S>::take_rows(Index layer, const LayerPass<Scalar>& pass) {
  if (plan_.options.layer ? *plan_.options.layer != layer : pass.mixers.empty()) return;
  for (auto& [method, rows] : rows_) {
    if (method == Method::contribution_norms) {
      detail::add_contribution_norms(LayerContributions<Scalar>(model_, pass, layer, plan_.options.terms), positions_, rows,
                                     options_.executor);
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
std::optional<Matrix<S>> Explainer<S>::taken_rows(Method method, const std::vector<Index>& positions,
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
  detail::check_finite(method == Method::raw ? "raw attention" : "contribution norms", "the row of a position", rows);
  return rows;
}

template <Real S>
void Explainer<S>::need_logits(const std::vector<Index>& positions) {
  std::vector<Index> missing;
  for (const Index position : positions)
    if (position >= 0 && position < read() && !has_logits(position) && std::find(missing.begin(), missing.end(), position) == missing.end())
      missing.push_back(position);
  if (missing.empty()) return;
  const Matrix<Scalar> logits = model_.logits_of(detail::chosen_rows(*pass_.final_residual, missing), options_.executor);
  pass_.logits.conservativeResize(pass_.logits.rows() + logits.rows(), model_.vocabulary());
  pass_.logits.bottomRows(logits.rows()) = logits;
  pass_.logit_positions.insert(pass_.logit_positions.end(), missing.begin(), missing.end());
}

template <Real S>
void Explainer<S>::check(const Target& target) const {
  detail::check_position("target", target.position, tokens());
  check_index(target.token, model_.vocabulary(), "target token");
  if (target.contrast) check_index(*target.contrast, model_.vocabulary(), "contrast token");
  use_logits(target.position, [&](ConstView<Scalar> logits) {
    if (logits.allFinite()) return;
    ForwardOptions searching = options_;  // once more, for the name of the layer, token and channel where it began
    searching.keep = Keep::logits;
    searching.check_finite = true;
    static_cast<void>(model_.forward(ids_, searching));
    detail::check_finite("target", "the logits", logits);
  });
}

template <Real S>
ForwardOptions Explainer<S>::prefix_options(Index position) const {
  ForwardOptions run;
  run.keep = Keep::logits;
  run.logit_positions = Indices({position});
  run.positions = prefix(options_.positions, position);
  return run;
}

template <Real S>
const BackwardPass<S>& Explainer<S>::gradients(const Target& target) {
  need_logits({target.position});
  check(target);
  need(false, true);
  if (!backward_ || !same(*backward_target_, target)) {
    BackwardOptions<Scalar> backward_options;
    backward_options.executor = options_.executor;
    backward_ = backward(model_, pass_, logit_gradient(pass_, target.position, target.token, target.contrast), backward_options);
    backward_target_ = target;
  }
  return *backward_;
}

template <Real S>
bool Explainer<S>::same(const Target& a, const Target& b) {
  return a.position == b.position && a.token == b.token && a.contrast == b.contrast;
}

template <Real S>
S Explainer<S>::value_of(ConstView<Scalar> logits, const Target& target) {
  const Scalar value = logits(0, target.token) - (target.contrast ? logits(0, *target.contrast) : Scalar(0));
  if (!std::isfinite(value))
    detail::raise(ErrorKind::value, "target: the logit of token ", target.token, " at position ", target.position,
                  " is not finite; are there NaN in the weights, or factors in the configuration that are too large?");
  return value;
}

template <Real S>
Attribution<S> Explainer<S>::at(Attribution<Scalar> whole, Index position) {
  whole.position = position;
  whole.scores = whole.map.row(position);
  return whole;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
