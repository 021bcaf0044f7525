// The plain row walk: one row of one channel's matrix, straight from the equation. The reference the fast kernels are held to.
#pragma once

#include <cmath>

#include <implicit_attention/kernels/recurrence.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
/// An entry of an array that stands for `absent` where it is empty.
template <Real Scalar>
[[nodiscard]] Scalar entry(const Array<Scalar>& array, Index i, Index j, Scalar absent = Scalar(1)) {
  return array.empty() ? absent : array(i, j);
}
}  // namespace detail

/// Writes R[row, first..row] of one channel into `out[first..row]` and returns `first`, the first token the row can see:
/// R[i,j] = sum_n q[i,n] k[j,n] exp(rate[n] (step[j+1] + ... + step[i])), the sum taken backwards from the row.
template <Real Scalar>
Index plain_recurrence_row(const DiagonalRecurrence<Scalar>& recurrence, Index channel, Index row, Scalar* out) {
  using detail::entry;
  const Index first = recurrence.first_visible(row);
  Scalar elapsed = 0;  // step[j+1] + ... + step[row], or up to step[row-1] where the state is read before its update
  for (Index token = row; token >= first; --token) {
    if (recurrence.read_before_update && token == row) {
      out[row] = recurrence.diagonal(row, channel);
      continue;
    }
    Scalar sum = 0;
    for (Index n = 0; n < recurrence.state; ++n)
      sum += entry(recurrence.query, row, n) * entry(recurrence.key, token, n) * std::exp(entry(recurrence.rate, n, channel) * elapsed);
    out[token] = entry(recurrence.query_scale, row, channel) * sum * entry(recurrence.key_scale, token, channel);
    elapsed += recurrence.step(token, channel);
  }
  return first;
}

/// Writes row `row` of channel `channel`'s whole matrix into `out[0..tokens-1]`, zeros right of the diagonal.
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
    for (Index reached = token; reached <= last; ++reached)
      sum += entry(surrounded.taps, width - 1 - (reached - token), channel) * out[reached];
    out[token] = entry(surrounded.gate, row, channel) * entry(surrounded.row_weights, row, channel) * sum *
                 entry(surrounded.column_weights, token, channel);
  }
}

IMPLICIT_ATTENTION_NAMESPACE_END
