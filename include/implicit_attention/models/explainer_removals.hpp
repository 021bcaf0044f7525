// The explainer's runs with a token taken away: from the states before it where layers carry them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include <implicit_attention/models/explainer_runs.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Texts of at most this many tokens run as whole copies side by side, each without one token: that costs less than going on from the
/// states before each removed token.
inline constexpr Index tokens_of_a_short_text = 64;

/// What is explained when tokens are taken away, each alone. The run and the options must outlive it.
template <Real S>
class TokenRemovals {
 public:
  using Scalar = S;
  /// Fails where a replacement is not a token.
  TokenRemovals(const ExplainedRun<Scalar>& run, const MethodOptions<Scalar>& options) : run_(&run), options_(&options) {
    if (options.removal == Removal::replace) check_index(options.replacement, run.model().vocabulary(), "leave-one-out: replacement token");
  }

  /// Of one token, by a run of its own.
  [[nodiscard]] Scalar value_without(Index token, const Target& target) const;
  /// Of several tokens, in rising order, for several targets, (removed, targets).
  [[nodiscard]] Matrix<Scalar> values_without_each(const std::vector<Index>& removed, const std::vector<Target>& targets) const;

 private:
  /// The same in one run: of one token from the states that the tokens before `start` left, or of several without states, from token 0 on.
  [[nodiscard]] Matrix<Scalar> in_one_run(const std::vector<Index>& removed, const std::vector<Target>& targets, Index start,
                                          const CarriedStates* states, const Executor& executor) const;

  const ExplainedRun<Scalar>* run_;
  const MethodOptions<Scalar>* options_;
};

template <Real S>
S TokenRemovals<S>::value_without(Index token, const Target& target) const {
  check_position("leave-one-out", token, run_->tokens());
  return in_one_run({token}, {target}, 0, nullptr, serial_executor())(0, 0);
}

template <Real S>
Matrix<S> TokenRemovals<S>::values_without_each(const std::vector<Index>& removed, const std::vector<Target>& targets) const {
  Matrix<Scalar> values(static_cast<Index>(removed.size()), static_cast<Index>(targets.size()));
  const auto count = static_cast<Index>(removed.size());
  bool resumes = run_->model().causal() && run_->options().positions.empty();
  Index length = 0;
  for (const Target& target : targets) length = std::max(length, run_->seen_by(target.position));
  const Index together = run_->texts_a_run(length);
  if (together > 1 && count > 1 && (!resumes || length <= tokens_of_a_short_text)) {
    const Index runs = (count + together - 1) / together;
    const auto run = [&](Index index, const Executor& executor) {
      const Index begin = index * count / runs, end = (index + 1) * count / runs;
      values.middleRows(begin, end - begin) = in_one_run({removed.begin() + begin, removed.begin() + end}, targets, 0, nullptr, executor);
    };
    if (runs == 1)
      run(0, run_->options().executor);
    else
      detail::run_loop(run_->options().executor, runs, [&](Index index) { run(index, serial_executor()); });
    return values;
  }
  // The states are those before a block of tokens, so that the tokens of a block can be taken away side by side; each removal runs at
  // most a block more than it must.
  const Index block = std::max<Index>(8, (run_->read() + 31) / 32);
  CarriedStates states;
  Index at = 0;  // the states are those before this token
  for (std::size_t begin = 0; begin < removed.size();) {
    const Index start = removed[begin] / block * block;
    std::size_t end = begin;
    while (end < removed.size() && (!resumes || removed[end] < start + block)) ++end;
    if (resumes && start > at && start < run_->read()) {
      static_cast<void>(run_->model().next_logits_at({}, ConstView<Scalar>(run_->pass().embeddings.matrix().middleRows(at, start - at)),
                                                     states, run_->options().executor));
      at = start;
      resumes = states.refusals().empty();
      if (!resumes) end = removed.size();
    }
    detail::run_loop(run_->options().executor, static_cast<Index>(end - begin), [&](Index index) {
      const std::size_t row = begin + static_cast<std::size_t>(index);
      values.row(static_cast<Index>(row)) =
          in_one_run({removed[row]}, targets, resumes ? at : Index(0), resumes && at > 0 ? &states : nullptr, serial_executor());
    });
    begin = end;
  }
  return values;
}

template <Real S>
Matrix<S> TokenRemovals<S>::in_one_run(const std::vector<Index>& removed, const std::vector<Target>& targets, Index start,
                                       const CarriedStates* states, const Executor& executor) const {
  const bool drop = options_->removal == Removal::drop;
  const auto place = [&](Index token, const Target& target) {  // of the answer, in the new text
    return drop && token <= target.position ? target.position - 1 : target.position;
  };
  const auto matters = [&](Index token, const Target& target) { return token < run_->seen_by(target.position); };
  Index last = 0;  // of the text as it is
  for (const Target& target : targets) last = std::max(last, target.position);
  // The length of the piece from `start` on; 0 where the piece lies behind every position that is asked for.
  const Index length = std::max<Index>(run_->seen_by(last) - start, 0), kept = drop ? std::max<Index>(length - 1, 0) : length;
  ForwardOptions forward = run_->prefix_options(last);
  const std::vector<Index> positions = std::move(forward.positions);
  forward.positions.clear();

  // One copy of the text, or of its piece, for each removed token that an answer depends on, without that token; one after the other.
  Matrix<Scalar> embeddings(static_cast<Index>(removed.size()) * kept, run_->model().width());
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
    const ConstView<Scalar> all = run_->pass().embeddings.matrix().middleRows(start, length);
    embeddings.middleRows(end, before) = all.topRows(before);
    embeddings.middleRows(end + kept - after, after) = all.bottomRows(after);
    if (options_->removal == Removal::replace)
      embeddings.row(end + before) = run_->model().embed({options_->replacement});
    else if (!drop)
      embeddings.row(end + before).setZero();
    forward.positions.insert(forward.positions.end(), positions.begin(), positions.end());
    if (drop && !positions.empty())
      forward.positions.erase(forward.positions.end() - static_cast<std::ptrdiff_t>(positions.size()) + token);
    if (removed.size() > 1) forward.starts.push_back(end);
    end += kept;
  }
  Matrix<Scalar> logits;
  if (states != nullptr && !rows.empty()) {
    CarriedStates own_states = *states;
    logits = run_->model().next_logits_at(rows, ConstView<Scalar>(embeddings.topRows(end)), own_states, executor);
  } else if (!rows.empty()) {
    forward.logit_positions = Indices(rows);
    forward.executor = executor;
    logits = run_->model().forward_embeddings(ConstView<Scalar>(embeddings.topRows(end)), forward).logits;
  }

  Matrix<Scalar> values = Matrix<Scalar>::Zero(static_cast<Index>(removed.size()), static_cast<Index>(targets.size()));
  for (Index column = 0; column < values.cols(); ++column) {
    const Target& target = targets[static_cast<std::size_t>(column)];
    std::optional<Scalar> whole;  // with all tokens
    for (Index row = 0; row < values.rows(); ++row) {
      const Index token = removed[static_cast<std::size_t>(row)], answer = place(token, target);
      if (!matters(token, target)) {
        if (!whole) whole = run_->value(target);
        values(row, column) = *whole;
      } else if (answer >= start) {
        const auto found =
            std::lower_bound(rows.begin(), rows.end(), begins[static_cast<std::size_t>(row)] + answer - start) - rows.begin();
        values(row, column) = ExplainedRun<Scalar>::value_of(ConstView<Scalar>(logits.row(static_cast<Index>(found))), target);
      } else if (answer >= 0) {  // the token before the piece, which is as it was
        values(row, column) = ExplainedRun<Scalar>::value_of(
            run_->model().logits_of(ConstView<Scalar>(run_->pass().final_residual.matrix().middleRows(answer, 1))), target);
      }
    }
  }
  return values;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
