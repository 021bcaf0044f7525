// A recurrence without its numbers that are not finite: the rows before such a number are computed from that, by the same kernels and to
// the same bits as if the number were another one. Those from it on are walked exactly.
#pragma once

#include <cmath>
#include <limits>
#include <optional>

#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/kernels/head_recurrence.hpp>
#include <implicit_attention/kernels/recurrence.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The same numbers with zeros for those that are not finite, except `allowed`.
template <Real Scalar>
[[nodiscard]] Array<Scalar> finite_part(const Array<Scalar>& array, std::optional<Scalar> allowed = {}) {
  if (array.empty() || all_finite(*array)) return array;
  Matrix<Scalar> numbers = large_matrix(*array);
  for (Index i = 0; i < numbers.size(); ++i)
    if (Scalar& number = numbers.data()[i]; !std::isfinite(number) && number != allowed) number = 0;
  return numbers;
}
template <Real Scalar>
void keep_finite(Matrix<Scalar>& numbers) {
  numbers = numbers.unaryExpr([](Scalar number) { return std::isfinite(number) ? number : Scalar(0); });
}

/// The step that is a decay of zero: steps of a rate go up, those without one down.
template <Real Scalar>
[[nodiscard]] Scalar zero_decay(const DiagonalRecurrence<Scalar>& recurrence) {
  return recurrence.rate.empty() ? -std::numeric_limits<Scalar>::infinity() : std::numeric_limits<Scalar>::infinity();
}

template <Real Scalar>
[[nodiscard]] SurroundedDiagonal<Scalar> finite_part(const SurroundedDiagonal<Scalar>& surrounded) {
  SurroundedDiagonal<Scalar> finite = surrounded;
  DiagonalRecurrence<Scalar>& recurrence = finite.recurrence;
  recurrence.step = finite_part(recurrence.step, std::optional(zero_decay(recurrence)));
  for (Array<Scalar>* array :
       {&recurrence.rate, &recurrence.query, &recurrence.key, &recurrence.query_scale, &recurrence.key_scale, &recurrence.diagonal,
        &finite.gate, &finite.row_weights, &finite.skip, &finite.activation, &finite.taps, &finite.column_weights})
    *array = finite_part(*array);
  return finite;
}

/// One head by itself.
template <Real Scalar>
[[nodiscard]] HeadRecurrence<Scalar> finite_part(const HeadRecurrence<Scalar>& recurrence, Index head) {
  HeadRecurrence<Scalar> finite = recurrence;
  const Index states = recurrence.state, shared = recurrence.group(head) * states, own = head * states,
              decays = recurrence.decay_by_state() ? states : 1;
  finite.heads = finite.groups = 1;
  finite.channels = recurrence.head_channels();
  finite.log_decay =
      finite_part(recurrence.log_decay.middle_columns(head * decays, decays), std::optional(-std::numeric_limits<Scalar>::infinity()));
  finite.query = finite_part(recurrence.query.middle_columns(shared, states));
  finite.key = finite_part(recurrence.key.middle_columns(shared, states));
  finite.removal = finite_part(recurrence.removal.middle_columns(own, states));
  finite.probe = finite_part(recurrence.probe.middle_columns(own, states));
  finite.key_scale = finite_part(recurrence.key_scale.middle_columns(head, 1));
  finite.diagonal = finite_part(recurrence.diagonal.middle_columns(head, 1));
  return finite;
}

/// Whether what a head reads of a token is finite, or a decay of zero.
template <Real Scalar>
[[nodiscard]] bool is_finite_token(const HeadRecurrence<Scalar>& r, Index head, Index token) {
  const auto finite = [token](const Array<Scalar>& array, Index first, Index count) {
    return array.empty() || all_finite(array.row(array.rows() == 1 ? 0 : token) + first, count);
  };
  const Index shared = r.group(head) * r.state, own = head * r.state;
  if (!finite(r.query, shared, r.state) || !finite(r.key, shared, r.state) || !finite(r.key_scale, head, 1) ||
      !finite(r.diagonal, head, 1) || !finite(r.removal, own, r.state) || !finite(r.probe, own, r.state))
    return false;
  const Index decays = r.log_decay.empty() ? 0 : r.decay_by_state() ? r.state : 1;
  for (Index n = 0; n < decays; ++n) {
    const Scalar log = r.log_decay(r.log_decay.rows() == 1 ? 0 : token, head * decays + n);
    if (std::isnan(log) || log == std::numeric_limits<Scalar>::infinity()) return false;
  }
  return true;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
