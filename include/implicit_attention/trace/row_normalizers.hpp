// What linear attentions divide their rows by, as operations: each with its exact way back. Relevance holds a row's normalizer, and so
// never reaches these operations.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include <implicit_attention/trace/clamp.hpp>
#include <implicit_attention/trace/heads.hpp>
#include <implicit_attention/trace/recurrences.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// 1 / (x + eps).
template <Real S>
[[nodiscard]] Value<S> reciprocal(const Value<S>& x, S eps = 0) {
  const Array<S> out = Matrix<S>(((*x).array() + eps).inverse().matrix());
  if (!x.trace->records({&x})) return x.trace->constant(out);
  return x.trace->record(out, [x = x.link(), out](Back<S>& back, Matrix<S>& g) {
    if (!back.exact()) return back.cannot_treat("reciprocal");
    g.array() *= -out.matrix().array().square();
    back.add(x, std::move(g));
  });
}

/// max(|x|, floor), number by number.
template <Real S>
[[nodiscard]] Value<S> magnitude_at_least(const Value<S>& x, const Value<S>& floor) {
  check_shape("magnitude_at_least", "the floor", *floor, x.rows(), x.cols(), "as the first");
  // A NaN of either stays: Eigen's maximum may take the other.
  const auto larger = [](S magnitude, S least) { return magnitude > least || std::isnan(magnitude) ? magnitude : least; };
  Matrix<S> out = large_matrix((*x).cwiseAbs().binaryExpr(*floor, larger));
  if (!x.trace->records({&x, &floor})) return x.trace->constant(std::move(out));
  return x.trace->record(std::move(out), [x, floor](Back<S>& back, const Matrix<S>& g) {
    if (!back.exact()) return back.cannot_treat("magnitude_at_least");
    const Matrix<S> above = ((*x).array().abs() > (*floor).array()).template cast<S>().matrix();
    back.add(x, (g.array() * above.array() * (*x).array().sign()).matrix());
    back.add(floor, (g.array() * (S(1) - above.array())).matrix());
  });
}

/// sum_j R[i,j] of every head, (tokens, heads), in linear time: the recurrence on a column of ones. `carried` (heads * state, 1) is what a
/// carried-in state adds, or empty; the sum's state after the last token goes to `final_state` if it is not null.
template <Real S>
[[nodiscard]] Value<S> row_sums(HeadRecurrence<S> recurrence, const HeadInputs<S>& inputs, const Array<S>& carried = {},
                                Matrix<S>* final_state = nullptr) {
  recurrence.channels = recurrence.heads;
  const Value<S> ones = inputs.query.trace->constant(Matrix<S>(Matrix<S>::Ones(recurrence.tokens, recurrence.heads)));
  return head_recurrence(recurrence, inputs, ones, carried, final_state);
}

/// sum_j |q_i . k_j| exp((i - j) log_decay_h), j <= i, of every head: (tokens, heads), quadratic in tokens. q, k (tokens, heads * state),
/// log_decay (1, heads) constant.
template <Real S>
[[nodiscard]] Value<S> absolute_row_sums(const Value<S>& query, const Value<S>& key, const Array<S>& log_decay) {
  const Index tokens = query.rows(), heads = log_decay.size(), size = query.cols() / heads;
  check_shape("absolute_row_sums", "the keys", *key, tokens, heads * size, "(tokens, heads * state)");
  const auto row = [size, log_decay](ConstView<S> q, ConstView<S> k, Index head, Index i, RowVector<S>& scores, RowVector<S>& decays) {
    scores.noalias() = q.row(i).segment(head * size, size) * k.block(0, head * size, i + 1, size).transpose();
    decays = (RowVector<S>::LinSpaced(i + 1, static_cast<S>(i), S(0)).array() * log_decay(0, head)).exp().matrix();
  };
  Matrix<S> out(tokens, heads);
  RowVector<S> scores, decays;
  for (Index head = 0; head < heads; ++head)
    for (Index i = 0; i < tokens; ++i) {
      row(*query, *key, head, i, scores, decays);
      out(i, head) = scores.cwiseAbs().dot(decays);
    }
  if (!query.trace->records({&query, &key})) return query.trace->constant(std::move(out));
  return query.trace->record(std::move(out), [query, key, row, tokens, heads, size](Back<S>& back, const Matrix<S>& g) {
    if (!back.exact()) return back.cannot_treat("absolute_row_sums");
    Matrix<S> to_query(tokens, heads * size), to_key = Matrix<S>::Zero(tokens, heads * size);
    RowVector<S> slopes, factors;
    for (Index head = 0; head < heads; ++head)
      for (Index i = 0; i < tokens; ++i) {
        row(*query, *key, head, i, slopes, factors);
        slopes = (slopes.array().sign() * factors.array() * g(i, head)).matrix();
        to_query.row(i).segment(head * size, size).noalias() = slopes * (*key).block(0, head * size, i + 1, size);
        to_key.block(0, head * size, i + 1, size).noalias() += slopes.transpose() * (*query).row(i).segment(head * size, size);
      }
    back.add(query, std::move(to_query));
    back.add(key, std::move(to_key));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
