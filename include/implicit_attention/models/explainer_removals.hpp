// The explainer's runs with a token taken away: from the states before it where layers carry them. explainer.hpp includes this header.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <implicit_attention/models/explainer.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
S Explainer<S>::value_without(Index token, const Target& target, const MethodOptions<Scalar>& options) const {
  check(target);
  check_removal(options);
  detail::check_position("leave-one-out", token, tokens());
  return values_without_one(token, {target}, options, 0, nullptr)[0];
}

template <Real S>
RowVector<S> Explainer<S>::values_without(const std::vector<Index>& removed, const Target& target,
                                          const MethodOptions<Scalar>& options) const {
  check(target);
  check_removal(options);
  for (const Index token : removed) detail::check_position("leave-one-out", token, tokens());
  if (!std::is_sorted(removed.begin(), removed.end())) raise(ErrorKind::value, "leave-one-out: the tokens are not in rising order");
  return values_without_each(removed, {target}, options).col(0).transpose();
}

template <Real S>
Matrix<S> Explainer<S>::values_without_each(const std::vector<Index>& removed, const std::vector<Target>& targets,
                                            const MethodOptions<Scalar>& options) const {
  Matrix<Scalar> values(static_cast<Index>(removed.size()), static_cast<Index>(targets.size()));
  // The states are those before a block of tokens, so that the tokens of a block can be taken away side by side; each removal runs at
  // most a block more than it must.
  const Index block = std::max<Index>(8, (read() + 31) / 32);
  bool resumes = model_.causal() && options_.positions.empty();
  CarriedStates states;
  Index at = 0;  // the states are those before this token
  for (std::size_t begin = 0; begin < removed.size();) {
    const Index start = removed[begin] / block * block;
    std::size_t end = begin;
    while (end < removed.size() && (!resumes || removed[end] < start + block)) ++end;
    if (resumes && start > at && start < read()) {
      static_cast<void>(
          model_.next_logits_at({}, ConstView<Scalar>(pass_.embeddings.matrix().middleRows(at, start - at)), states, options_.executor));
      at = start;
      resumes = states.refusals().empty();
      if (!resumes) end = removed.size();
    }
    options_.executor(static_cast<Index>(end - begin), [&](Index index) {
      const std::size_t row = begin + static_cast<std::size_t>(index);
      values.row(static_cast<Index>(row)) =
          values_without_one(removed[row], targets, options, resumes ? at : Index(0), resumes && at > 0 ? &states : nullptr);
    });
    begin = end;
  }
  return values;
}

template <Real S>
RowVector<S> Explainer<S>::values_without_one(Index token, const std::vector<Target>& targets, const MethodOptions<Scalar>& options,
                                              Index start, const CarriedStates* states) const {
  const bool drop = options.removal == Removal::drop;
  const auto place = [&](const Target& target) {  // of the answer, in the new text
    return drop && token <= target.position ? target.position - 1 : target.position;
  };
  const auto matters = [&](const Target& target) { return token < seen_by(target.position); };
  std::vector<Index> places;  // in the piece that is run
  Index last = 0;             // of the text as it is
  for (const Target& target : targets) {
    last = std::max(last, target.position);
    if (matters(target) && place(target) >= start) places.push_back(place(target) - start);
  }
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());

  Matrix<Scalar> logits;
  if (!places.empty()) {
    const Index length = seen_by(last) - start, own = token - start;
    Matrix<Scalar> embeddings = pass_.embeddings.matrix().middleRows(start, length);
    ForwardOptions run = prefix_options(last);
    if (drop) {
      embeddings.middleRows(own, length - 1 - own) = pass_.embeddings.matrix().middleRows(token + 1, length - 1 - own);
      embeddings.conservativeResize(length - 1, Eigen::NoChange);
      if (!run.positions.empty()) run.positions.erase(run.positions.begin() + static_cast<std::ptrdiff_t>(token));
    } else if (options.removal == Removal::replace) {
      embeddings.row(own) = model_.embed({options.replacement});
    } else {
      embeddings.row(own).setZero();
    }
    if (states != nullptr) {
      CarriedStates own_states = *states;
      logits = model_.next_logits_at(places, embeddings, own_states);
    } else {
      run.logit_positions = Indices(places);
      logits = model_.forward_embeddings(embeddings, run).logits;
    }
  }
  RowVector<Scalar> values = RowVector<Scalar>::Zero(static_cast<Index>(targets.size()));
  for (Index row = 0; row < values.size(); ++row) {
    const Target& target = targets[static_cast<std::size_t>(row)];
    if (!matters(target)) {
      values[row] = value(target);
    } else if (place(target) >= start) {
      const auto found = std::lower_bound(places.begin(), places.end(), place(target) - start) - places.begin();
      values[row] = value_of(ConstView<Scalar>(logits.row(static_cast<Index>(found))), target);
    } else if (place(target) >= 0) {  // the token before the piece, which is as it was
      values[row] = value_of(model_.logits_of(ConstView<Scalar>(pass_.final_residual.matrix().middleRows(place(target), 1))), target);
    }
  }
  return values;
}

template <Real S>
void Explainer<S>::check_removal(const MethodOptions<Scalar>& options) const {
  if (options.removal == Removal::replace && (options.replacement < 0 || options.replacement >= model_.vocabulary()))
    raise(ErrorKind::value,
          message("leave-one-out: replacement token ", options.replacement, " is out of range, expected 0 to ", model_.vocabulary() - 1));
}

IMPLICIT_ATTENTION_NAMESPACE_END
