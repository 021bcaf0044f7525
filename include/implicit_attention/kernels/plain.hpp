// The plain row walk: one row of one channel's matrix, straight from the equation. The reference the fast kernels are held to.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include <implicit_attention/kernels/finite_parts.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
/// An entry of an array that stands for `absent` where it is empty.
template <Real Scalar>
[[nodiscard]] Scalar entry(const Array<Scalar>& array, Index i, Index j, Scalar absent = Scalar(1)) {
  return array.empty() ? absent : array(i, j);
}
}  // namespace detail

/// Writes R[row, first..row] of one channel into `out[first..row]` and returns `first`, the first token the row can see:
/// R[i,j] = sum_n q[i,n] k[j,n] exp(rate[n] (step[j+1] + ... + step[i])), the sum taken backwards from the row. A decay below the smallest
/// normal number is zero, and still multiplied: zero times a NaN is none.
template <Real Scalar>
Index plain_recurrence_row(const DiagonalRecurrence<Scalar>& recurrence, Index channel, Index row, Scalar* out) {
  using detail::entry;
  const Index first = recurrence.first_visible(row);
  const Scalar smallest = std::log(std::numeric_limits<Scalar>::min());
  Scalar elapsed = 0;  // step[j+1] + ... + step[row], or up to step[row-1] where the state is read before its update
  for (Index token = row; token >= first; --token) {
    if (recurrence.read_before_update && token == row) {
      out[row] = recurrence.diagonal(row, channel);
      continue;
    }
    Scalar sum = 0;
    for (Index n = 0; n < recurrence.state; ++n) {
      const Scalar exponent = entry(recurrence.rate, n, channel) * elapsed, decay = exponent < smallest ? Scalar(0) : std::exp(exponent);
      sum += entry(recurrence.query, row, n) * (entry(recurrence.key, token, n) * decay);
    }
    out[token] = entry(recurrence.query_scale, row, channel) * sum * entry(recurrence.key_scale, token, channel);
    elapsed += recurrence.step(token, channel);
  }
  return first;
}

/// Writes row `row` of channel `channel`'s whole matrix into `out[0..tokens-1]`, zeros right of the diagonal. A number that is not finite
/// spoils the entries that depend on it, and no other: nothing is multiplied with a zero of the matrix.
template <class Recurrence>
void plain_row(const Surrounded<Recurrence>& surrounded, Index channel, Index row, typename Recurrence::ScalarType* out) {
  using Scalar = typename Recurrence::ScalarType;
  using detail::entry;
  std::fill(out, out + surrounded.recurrence.tokens, Scalar(0));
  const Index first = plain_recurrence_row(surrounded.recurrence, channel, row, out);
  out[row] += entry(surrounded.skip, 0, channel, Scalar(0));
  for (Index token = first; token <= row; ++token) out[token] *= entry(surrounded.activation, token, channel);
  const Index width = surrounded.width();
  for (Index token = std::max(first - width + 1, Index(0)); token <= row; ++token) {
    Scalar sum = 0;
    const Index last = std::min(row, surrounded.last_reached(token));
    for (Index reached = std::max(token, first); reached <= last; ++reached)
      sum += entry(surrounded.taps, width - 1 - (reached - token), channel) * out[reached];
    out[token] = last < first ? Scalar(0)
                              : entry(surrounded.gate, row, channel) * entry(surrounded.row_weights, row, channel) * sum *
                                    entry(surrounded.column_weights, token, channel);
  }
}

namespace detail {

/// The first token of each channel in the list that has a number among its terms that is not finite; the number of tokens where there is
/// none, and nothing where no channel has one. An infinite step is a decay of zero, and counts as finite. The fast kernels multiply zeros
/// of a matrix with what does not belong to them: rows before the first such token are made from the finite part, and plain_row makes these
/// channels' rows from it on.
template <Real Scalar>
[[nodiscard]] std::vector<Index> first_spoilt_tokens(const SurroundedDiagonal<Scalar>& surrounded, const std::vector<Index>& channels) {
  const DiagonalRecurrence<Scalar>& recurrence = surrounded.recurrence;
  const std::array<const Array<Scalar>*, 10> finite{
      &recurrence.rate,        &recurrence.query_scale, &recurrence.key_scale,  &recurrence.diagonal, &surrounded.gate,
      &surrounded.row_weights, &surrounded.skip,        &surrounded.activation, &surrounded.taps,     &surrounded.column_weights};
  const std::array<const Array<Scalar>*, 2> shared{&recurrence.query, &recurrence.key};
  // Nearly always all numbers are finite. That is checked first: it costs a fraction of finding out which are not.
  const auto are_finite = [](const Array<Scalar>* array) { return all_finite(**array); };
  if (are_finite(&recurrence.step) && std::all_of(finite.begin(), finite.end(), are_finite) &&
      std::all_of(shared.begin(), shared.end(), are_finite))
    return {};
  // The first such token of every channel. A number that belongs to no single token counts from the first one on.
  std::vector<Index> firsts(static_cast<std::size_t>(recurrence.channels), recurrence.tokens);
  const auto look = [&](const Array<Scalar>& array, const Scalar* allowed) {
    const bool of_tokens = array.rows() == recurrence.tokens && &array != &recurrence.rate && &array != &surrounded.taps;
    for (Index row = 0; row < array.rows(); ++row) {
      const Scalar* const numbers = array.row(row);
      const Index token = of_tokens ? row : 0;
      for (std::size_t channel = 0; channel < firsts.size(); ++channel)
        if (!std::isfinite(numbers[channel]) && (allowed == nullptr || numbers[channel] != *allowed))
          firsts[channel] = std::min(firsts[channel], token);
    }
  };
  for (const Array<Scalar>* array : finite) look(*array, nullptr);
  const Scalar zero = zero_decay(recurrence);
  look(recurrence.step, &zero);
  Index first_of_all = recurrence.tokens;
  for (const Array<Scalar>* array : shared)
    if (const auto place = first_not_finite(**array)) first_of_all = std::min(first_of_all, place->first);
  std::vector<Index> spoilt(channels.size(), recurrence.tokens);
  bool any = false;
  for (std::size_t place = 0; place < channels.size(); ++place) {
    spoilt[place] = std::min(first_of_all, firsts[static_cast<std::size_t>(channels[place])]);
    any = any || spoilt[place] < recurrence.tokens;
  }
  if (!any) spoilt.clear();
  return spoilt;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
