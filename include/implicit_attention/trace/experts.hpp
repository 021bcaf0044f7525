// Mixtures of experts as operations: scores, the choice of experts, their weights, and the sum of what the chosen ones give. The choice
// itself is held: it has no derivative. The weights have one (`WayBack::gradient`) and are scales in relevance.
#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/trace/operations.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// How many experts a token goes to, and among which.
struct ExpertChoice {
  Index chosen = 1;         ///< experts a token
  Index groups = 1;         ///< groups of neighbouring experts, scored by the sum of their two best
  Index chosen_groups = 1;  ///< groups that stay; the experts of the others cannot be chosen
};

namespace detail {

/// The numbers of a choice, in the order in which they are checked.
enum class ChoiceNumber { groups, chosen_groups, chosen };

/// Calls `refuse(number, value, expected)`, which must fail, with the first number of a choice that does not suit so many experts.
template <class Refuse>
void check_choice(const ExpertChoice& choice, Index experts, const Refuse& refuse) {
  if (choice.groups < 1 || experts % choice.groups != 0)
    return refuse(ChoiceNumber::groups, choice.groups, message("a divisor of ", experts));
  if (choice.chosen_groups < 1 || choice.chosen_groups > choice.groups)
    return refuse(ChoiceNumber::chosen_groups, choice.chosen_groups, message("1 to ", choice.groups));
  if (const Index most = experts / choice.groups * choice.chosen_groups; choice.chosen < 1 || choice.chosen > most)
    return refuse(ChoiceNumber::chosen, choice.chosen, message("1 to ", most));
}

}  // namespace detail

/// The experts of every token, (tokens, chosen) merged into one list, best first; of equal ones the first. `scores` (tokens, experts) are
/// what is compared: with a correction bias if there is one.
template <Real Scalar>
[[nodiscard]] std::vector<Index> choose_experts(ConstView<Scalar> scores, const ExpertChoice& choice) {
  constexpr Scalar excluded = -std::numeric_limits<Scalar>::infinity();
  const Index experts = scores.cols(), size = experts / choice.groups;
  std::vector<Index> chosen;
  chosen.reserve(static_cast<std::size_t>(scores.rows() * choice.chosen));
  RowVector<Scalar> row(experts), group_scores(choice.groups);
  std::vector<bool> taken, excluded_experts(static_cast<std::size_t>(experts));
  // The index of the largest number that is not taken yet; marks it as taken. A NaN is never larger than another number.
  const auto take_best = [&taken](const RowVector<Scalar>& numbers) {
    Index best = -1;
    for (Index index = 0; index < numbers.size(); ++index)
      if (!taken[static_cast<std::size_t>(index)] && (best < 0 || numbers[index] > numbers[best])) best = index;
    taken[static_cast<std::size_t>(best)] = true;
    return best;
  };
  for (Index token = 0; token < scores.rows(); ++token) {
    row = scores.row(token);
    if (choice.groups > 1) {
      for (Index group = 0; group < choice.groups; ++group) {
        Scalar first = excluded, second = excluded;
        for (Index index = group * size; index < (group + 1) * size; ++index) {
          second = std::max(second, std::min(first, row[index]));
          first = std::max(first, row[index]);
        }
        group_scores[group] = size > 1 ? first + second : first;
      }
      // Experts of groups that do not stay are left out, rather than scored 0: with a correction bias a score may be below 0.
      std::fill(excluded_experts.begin(), excluded_experts.end(), true);
      taken.assign(static_cast<std::size_t>(choice.groups), false);
      for (Index kept = 0; kept < choice.chosen_groups; ++kept) {
        const auto first = excluded_experts.begin() + static_cast<std::ptrdiff_t>(take_best(group_scores) * size);
        std::fill(first, first + static_cast<std::ptrdiff_t>(size), false);
      }
    }
    taken = excluded_experts;
    for (Index k = 0; k < choice.chosen; ++k) chosen.push_back(take_best(row));
  }
  return chosen;
}

/// Chosen numbers of every row of x (tokens, experts), (tokens, chosen); `indices` as choose_experts gives them.
template <Real S>
[[nodiscard]] Value<S> gather_chosen(const Value<S>& x, const std::vector<Index>& indices) {
  const Index chosen = static_cast<Index>(indices.size()) / x.rows();
  Matrix<S> out(x.rows(), chosen);
  for (Index entry = 0; entry < out.size(); ++entry)
    out.data()[entry] = x.numbers(entry / chosen, indices[static_cast<std::size_t>(entry)]);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x, indices, chosen](Back<S>& back, const Matrix<S>& g) {
    Matrix<S> spread = Matrix<S>::Zero(x.rows(), x.cols());
    for (Index entry = 0; entry < g.size(); ++entry) spread(entry / chosen, indices[static_cast<std::size_t>(entry)]) += g.data()[entry];
    back.add(x, std::move(spread));
  });
}

/// The softmax of every row. Relevance has no rule for it: its results are scales.
template <Real S>
[[nodiscard]] Value<S> softmax_rows(const Value<S>& x) {
  Matrix<S> p = *x;
  for (Index row = 0; row < p.rows(); ++row) {
    detail::Numbers<S> numbers = detail::numbers_in<S>(p, row, 1);
    numbers = (numbers - *std::max_element(numbers.data(), numbers.data() + numbers.size())).exp();
    numbers /= numbers.sum();
  }
  const Array<S> out(std::move(p));
  if (!x.trace->records({&x})) return x.trace->constant(out);
  return x.trace->record(out, [x = x.link(), out](Back<S>& back, Matrix<S>& g) {
    if (!back.exact()) return back.cannot_treat("softmax_rows");
    for (Index row = 0; row < g.rows(); ++row) {
      detail::Numbers<S> numbers = detail::numbers_in<S>(g, row, 1);
      const detail::ConstNumbers<S> weights(out.row(row), g.cols());
      numbers = (numbers - (numbers * weights).sum()) * weights;
    }
    back.add(x, std::move(g));
  });
}

/// Every row divided by its sum + eps. Relevance has no rule for it: its results are scales.
template <Real S>
[[nodiscard]] Value<S> divide_by_row_sum(const Value<S>& x, S eps = 0) {
  Matrix<S> quotients = *x;
  std::vector<S> sums;
  sums.reserve(static_cast<std::size_t>(x.rows()));
  for (Index row = 0; row < quotients.rows(); ++row) {
    detail::Numbers<S> numbers = detail::numbers_in<S>(quotients, row, 1);
    sums.push_back(numbers.sum() + eps);
    numbers /= sums.back();
  }
  const Array<S> out(std::move(quotients));
  if (!x.trace->records({&x})) return x.trace->constant(out);
  return x.trace->record(out, [x = x.link(), out, sums](Back<S>& back, Matrix<S>& g) {
    if (!back.exact()) return back.cannot_treat("divide_by_row_sum");
    for (Index row = 0; row < g.rows(); ++row) {
      detail::Numbers<S> numbers = detail::numbers_in<S>(g, row, 1);
      const S along = (numbers * detail::ConstNumbers<S>(out.row(row), g.cols())).sum();
      numbers = (numbers - along) / sums[static_cast<std::size_t>(row)];
    }
    back.add(x, std::move(g));
  });
}

/// Chosen rows of x, in the order of `rows`.
template <Real S>
[[nodiscard]] Value<S> gather_rows(const Value<S>& x, const std::vector<Index>& rows) {
  Matrix<S> out = large_matrix<S>(static_cast<Index>(rows.size()), x.cols(), "an activation");
  for (Index row = 0; row < out.rows(); ++row) out.row(row) = (*x).row(rows[static_cast<std::size_t>(row)]);
  if (!x.trace->records({&x})) return x.trace->constant(std::move(out));
  const Index tokens = x.rows();
  return x.trace->record(std::move(out), [x = x.link(), rows, tokens](Back<S>& back, const Matrix<S>& g) {
    Matrix<S> spread = Matrix<S>::Zero(tokens, g.cols());
    for (Index row = 0; row < g.rows(); ++row) spread.row(rows[static_cast<std::size_t>(row)]) += g.row(row);
    back.add(x, std::move(spread));
  });
}

/// The output of one expert for the tokens that chose it.
template <Real S>
struct ExpertOutput {
  Value<S> numbers;           ///< (its tokens, width)
  std::vector<Index> tokens;  ///< which they are
  std::vector<Index> places;  ///< the column of `weights` that each of them has for this expert
};

/// The sum over experts of weight * output, (tokens, width), by rows; `weights` (tokens, chosen) are scales. `outputs` is not empty.
template <Real S>
[[nodiscard]] Value<S> combine_experts(const Value<S>& weights, std::vector<ExpertOutput<S>> outputs) {
  Trace<S>& trace = *weights.trace;
  Matrix<S> out = Matrix<S>::Zero(weights.rows(), outputs.front().numbers.cols());
  const auto weight = [weights](const ExpertOutput<S>& expert, Index row) {
    const std::size_t place = static_cast<std::size_t>(row);
    return weights.numbers(expert.tokens[place], expert.places[place]);
  };
  bool records = trace.records({&weights});
  for (const ExpertOutput<S>& expert : outputs) {
    records = records || trace.records({&expert.numbers});
    for (Index row = 0; row < expert.numbers.rows(); ++row)
      out.row(expert.tokens[static_cast<std::size_t>(row)]) += weight(expert, row) * (*expert.numbers).row(row);
  }
  if (!records) return trace.constant(std::move(out));
  return trace.record(std::move(out), [weights, weight, outputs = std::move(outputs)](Back<S>& back, const Matrix<S>& g) {
    Matrix<S> to_weights = Matrix<S>::Zero(weights.rows(), weights.cols());
    for (const ExpertOutput<S>& expert : outputs) {
      Matrix<S> gradient = large_matrix<S>(expert.numbers.rows(), g.cols(), "a gradient");
      for (Index row = 0; row < gradient.rows(); ++row) {
        const Index token = expert.tokens[static_cast<std::size_t>(row)];
        gradient.row(row) = weight(expert, row) * g.row(token);
        to_weights(token, expert.places[static_cast<std::size_t>(row)]) = g.row(token).dot((*expert.numbers).row(row));
      }
      back.add(expert.numbers, std::move(gradient));
    }
    if (back.exact()) back.add(weights, std::move(to_weights));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
