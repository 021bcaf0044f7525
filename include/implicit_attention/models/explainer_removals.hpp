// The explainer's runs with a token taken away: from the states before it where layers carry them. explainer.hpp includes this header.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <vector>

#include <implicit_attention/models/explainer.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
S Explainer<S>::value_without(Index token, const Target& target, const MethodOptions<Scalar>& options) const {
  check(target);
  check_removal(options);
  detail::check_position("leave-one-out", token, tokens());
  return values_without_in_one_run({token}, {target}, options, 0, nullptr, serial_executor())(0, 0);
}

template <Real S>
RowVector<S> Explainer<S>::values_without(const std::vector<Index>& removed, const Target& target,
                                          const MethodOptions<Scalar>& options) const {
  check(target);
  check_removal(options);
  for (const Index token : removed) detail::check_position("leave-one-out", token, tokens());
  if (!std::is_sorted(removed.begin(), removed.end())) detail::raise(ErrorKind::value, "leave-one-out: the tokens are not in rising order");
  return values_without_each(removed, {target}, options).col(0).transpose();
}

template <Real S>
Matrix<S> Explainer<S>::values_without_each(const std::vector<Index>& removed, const std::vector<Target>& targets,
                                            const MethodOptions<Scalar>& options) const {
  Matrix<Scalar> values(static_cast<Index>(removed.size()), static_cast<Index>(targets.size()));
  const auto count = static_cast<Index>(removed.size());
  bool resumes = model_.causal() && options_.positions.empty();
  Index length = 0;
  for (const Target& target : targets) length = std::max(length, seen_by(target.position));
  const Index together = texts_a_run(length);
  if (together > 1 && count > 1 && (!resumes || length <= detail::tokens_of_a_short_text)) {
    const Index runs = (count + together - 1) / together;
    const auto run = [&](Index index, const Executor& executor) {
      const Index begin = index * count / runs, end = (index + 1) * count / runs;
      values.middleRows(begin, end - begin) =
          values_without_in_one_run({removed.begin() + begin, removed.begin() + end}, targets, options, 0, nullptr, executor);
    };
    if (runs == 1)
      run(0, options_.executor);
    else
      options_.executor(runs, [&](Index index) { run(index, serial_executor()); });
    return values;
  }
  // The states are those before a block of tokens, so that the tokens of a block can be taken away side by side; each removal runs at
  // most a block more than it must.
  const Index block = std::max<Index>(8, (read() + 31) / 32);
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
      values.row(static_cast<Index>(row)) = values_without_in_one_run({removed[row]}, targets, options, resumes ? at : Index(0),
                                                                      resumes && at > 0 ? &states : nullptr, serial_executor());
    });
    begin = end;
  }
  return values;
}

template <Real S>
Matrix<S> Explainer<S>::values_without_in_one_run(const std::vector<Index>& removed, const std::vector<Target>& targets,
                                                  const MethodOptions<Scalar>& options, Index start, const CarriedStates* states,
                                                  const Executor& executor) const {
  const bool drop = options.removal == Removal::drop;
  const auto place = [&](Index token, const Target& target) {  // of the answer, in the new text
    return drop && token <= target.position ? target.position - 1 : target.position;
  };
  const auto matters = [&](Index token, const Target& target) { return token < seen_by(target.position); };
  Index last = 0;  // of the text as it is
  for (const Target& target : targets) last = std::max(last, target.position);
  // Of the piece from `start` on; none where it lies behind all that is asked for.
  const Index length = std::max<Index>(seen_by(last) - start, 0), kept = drop ? std::max<Index>(length - 1, 0) : length;
  ForwardOptions run = prefix_options(last);
  const std::vector<Index> positions = std::move(run.positions);
  run.positions.clear();

  // The text, or the piece of it, without each of the tokens that anything depends on, one behind the other.
  Matrix<Scalar> embeddings(static_cast<Index>(removed.size()) * kept, model_.width());
  std::vector<Index> begins, rows;  // of each removed token's text; of all answers, ascending
  Index end = 0;
  for (const Index token : removed) {
    const std::size_t known = rows.size();
    for (const Target& target : targets)
      if (matters(token, target) && place(token, target) >= start) rows.push_back(end + place(token, target) - start);
    std::sort(rows.begin() + static_cast<std::ptrdiff_t>(known), rows.end());
    rows.erase(std::unique(rows.begin() + static_cast<std::ptrdiff_t>(known), rows.end()), rows.end());
    begins.push_back(end);
    if (rows.size() == known) continue;
    const Index before = token - start, after = length - 1 - before;
    const ConstView<Scalar> all = pass_.embeddings.matrix().middleRows(start, length);
    embeddings.middleRows(end, before) = all.topRows(before);
    embeddings.middleRows(end + kept - after, after) = all.bottomRows(after);
    if (options.removal == Removal::replace)
      embeddings.row(end + before) = model_.embed({options.replacement});
    else if (!drop)
      embeddings.row(end + before).setZero();
    run.positions.insert(run.positions.end(), positions.begin(), positions.end());
    if (drop && !positions.empty()) run.positions.erase(run.positions.end() - static_cast<std::ptrdiff_t>(positions.size()) + token);
    if (removed.size() > 1) run.starts.push_back(end);
    end += kept;
  }
  Matrix<Scalar> logits;
  if (states != nullptr && !rows.empty()) {
    CarriedStates own_states = *states;
    logits = model_.next_logits_at(rows, ConstView<Scalar>(embeddings.topRows(end)), own_states, executor);
  } else if (!rows.empty()) {
    run.logit_positions = Indices(rows);
    run.executor = executor;
    logits = model_.forward_embeddings(ConstView<Scalar>(embeddings.topRows(end)), run).logits;
  }

  Matrix<Scalar> values = Matrix<Scalar>::Zero(static_cast<Index>(removed.size()), static_cast<Index>(targets.size()));
  for (Index column = 0; column < values.cols(); ++column) {
    const Target& target = targets[static_cast<std::size_t>(column)];
    std::optional<Scalar> whole;  // with all tokens
    for (Index row = 0; row < values.rows(); ++row) {
      const Index token = removed[static_cast<std::size_t>(row)], answer = place(token, target);
      if (!matters(token, target)) {
        if (!whole) whole = value(target);
        values(row, column) = *whole;
      } else if (answer >= start) {
        const auto found =
            std::lower_bound(rows.begin(), rows.end(), begins[static_cast<std::size_t>(row)] + answer - start) - rows.begin();
        values(row, column) = value_of(ConstView<Scalar>(logits.row(static_cast<Index>(found))), target);
      } else if (answer >= 0) {  // the token before the piece, which is as it was
        values(row, column) = value_of(model_.logits_of(ConstView<Scalar>(pass_.final_residual.matrix().middleRows(answer, 1))), target);
      }
    }
  }
  return values;
}

template <Real S>
void Explainer<S>::check_removal(const MethodOptions<Scalar>& options) const {
  if (options.removal == Removal::replace) check_index(options.replacement, model_.vocabulary(), "leave-one-out: replacement token");
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
