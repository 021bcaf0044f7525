// Recurrences that are matrices by themselves: softmax attention, a convolution as long as the sequence, and a matrix given entry by entry.
// One matrix a head. The first two compute rows when they are asked for and never hold the whole matrix.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/matrix_product.hpp>
#include <implicit_attention/kernels/head_rows.hpp>
#include <implicit_attention/kernels/head_scan.hpp>
#include <implicit_attention/kernels/softmax_rows.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A causal convolution of any length, one kernel a channel: R_e[i,j] = kernel[e, i - j].
template <Real Scalar>
struct ToeplitzRecurrence {
  using ScalarType = Scalar;
  Index tokens = 0, channels = 0;
  Index heads = 0;       ///< as many as channels: every channel has a matrix of its own
  Array<Scalar> kernel;  ///< (channels, length); what is beyond the tokens is not read

  [[nodiscard]] Index head_channels() const { return 1; }
  [[nodiscard]] Index head(Index channel) const { return channel; }
  [[nodiscard]] Index last_seen(Index row) const { return row; }
  [[nodiscard]] Index first_visible(Index row) const { return std::max(row + 1 - kernel.cols(), Index(0)); }
  void check() const {
    check_size("ToeplitzRecurrence", "tokens", tokens, 0);
    check_size("ToeplitzRecurrence", "channels", channels, 1);
    static_cast<void>(size_product("ToeplitzRecurrence", "tokens * channels", tokens, channels));
    static_cast<void>(size_product("ToeplitzRecurrence", "tokens * tokens", tokens, tokens));  // no array here has a row a token
    check_shape("ToeplitzRecurrence", "kernel", kernel, channels, std::max(kernel.cols(), Index(1)), "(channels, length)");
    if (heads != channels) detail::raise(ErrorKind::shape, "ToeplitzRecurrence: heads is ", heads, ", expected ", channels, " = channels");
  }
};

/// A recurrence given entry by entry: channel `e` of head `h` has R = the rows of head `h`.
template <Real Scalar>
struct ExplicitRecurrence {
  using ScalarType = Scalar;
  Index tokens = 0, channels = 0, heads = 1;
  Array<Scalar> weights;  ///< (heads * tokens, tokens); where causal, zero right of the diagonal
  bool causal = true;
  bool mixed = false;  ///< the matrices hold other terms of a channel as well, so they are not R of a head

  [[nodiscard]] Index head_channels() const { return channels / heads; }
  [[nodiscard]] Index head(Index channel) const { return channel / head_channels(); }
  [[nodiscard]] Index last_seen(Index row) const { return causal ? row : tokens - 1; }
  [[nodiscard]] Index first_visible(Index) const { return 0; }
  void check() const {
    check_size("ExplicitRecurrence", "tokens", tokens, 0);
    check_divides("ExplicitRecurrence", channels, "channels", heads, "heads");
    check_shape("ExplicitRecurrence", "weights", weights, size_product("ExplicitRecurrence", "heads * tokens", heads, tokens), tokens,
                "(heads * tokens, tokens)");
    if (!causal) return;
    for (Index head_index = 0; head_index < heads; ++head_index)
      for (Index row = 0; row < tokens; ++row)
        for (Index token = row + 1; token < tokens; ++token)
          if (weights(head_index * tokens + row, token) != Scalar(0))
            detail::raise(ErrorKind::value, "ExplicitRecurrence: weights of head ", head_index, " are not zero at (", row, ", ", token,
                          "), right of the diagonal, expected a causal matrix (or causal = false)");
  }
};

/// A recurrence whose channels share one matrix a head, made row by row.
template <class Recurrence>
concept MatrixRecurrence = requires(const Recurrence& recurrence, Index index) {
  recurrence.heads;
  recurrence.head_channels();
  recurrence.head(index);
};

/// Rows begin..end-1 of one head's matrix, (end - begin, tokens), zeros where nothing is seen.
template <Real Scalar>
void matrix_rows(const HeadRecurrence<Scalar>& recurrence, Index head, Index begin, Index end, View<Scalar> out) {
  detail::HeadRowsScratch<Scalar> scratch;
  detail::HeadRows<Scalar>(recurrence, head, 1, end - begin, end, serial_executor()).rows(head, begin, end, out, scratch);
}

template <Real Scalar>
void matrix_rows(const ToeplitzRecurrence<Scalar>& recurrence, Index head, Index begin, Index end, View<Scalar> out) {
  for (Index row = begin; row < end; ++row) {
    out.row(row - begin).setZero();
    for (Index token = recurrence.first_visible(row); token <= row; ++token) out(row - begin, token) = recurrence.kernel(head, row - token);
  }
}

template <Real Scalar>
void matrix_rows(const ExplicitRecurrence<Scalar>& recurrence, Index head, Index begin, Index end, View<Scalar> out) {
  out = recurrence.weights.matrix().middleRows(head * recurrence.tokens + begin, end - begin);
}

/// Writes R[row, .] of one channel into `out` and returns the first token it sees: the plain form of every matrix.
template <MatrixRecurrence Recurrence>
Index plain_recurrence_row(const Recurrence& recurrence, Index channel, Index row, typename Recurrence::ScalarType* out) {
  matrix_rows(recurrence, recurrence.head(channel), row, row + 1, View<typename Recurrence::ScalarType>(out, 1, recurrence.tokens));
  return recurrence.first_visible(row);
}

/// Rows of a matrix that exist at a time where it is applied.
constexpr Index rows_at_once = 64;

/// out = R x (tokens, channels), all heads, by rows: quadratic in tokens. `initial_state` (tokens, channels) is what the past gives.
template <MatrixRecurrence Recurrence>
void matrix_apply(const Recurrence& recurrence, const Array<typename Recurrence::ScalarType>& x,
                  const Array<typename Recurrence::ScalarType>& initial_state, View<typename Recurrence::ScalarType> out,
                  const Executor& executor, View<typename Recurrence::ScalarType>* = nullptr) {
  using Scalar = typename Recurrence::ScalarType;
  const Index values = recurrence.head_channels(), tokens = recurrence.tokens;
  detail::run_loop(executor, recurrence.heads, [&](Index head) {
    Matrix<Scalar> rows(std::min(rows_at_once, tokens), tokens);
    for (Index begin = 0; begin < tokens; begin += rows_at_once) {
      const Index end = std::min(begin + rows_at_once, tokens), first = recurrence.first_visible(begin),
                  count = recurrence.last_seen(end - 1) + 1 - first;
      if (x.empty()) {
        out.block(begin, head * values, end - begin, values).setZero();
        continue;
      }
      matrix_rows(recurrence, head, begin, end, View<Scalar>(rows.data(), end - begin, tokens));
      View<Scalar> part(&out(begin, head * values), end - begin, values, out.outerStride());
      detail::set_product(part, rows.block(0, first, end - begin, count), x.matrix().block(first, head * values, count, values));
      if (detail::all_finite(part)) continue;
      // What a row does not see must not reach it: 0 times NaN.
      Matrix<Scalar> finite = x.matrix().block(first, head * values, count, values);
      detail::keep_finite(finite);
      detail::set_product(part, rows.block(0, first, end - begin, count), finite);
      for (Index row = begin; row < end; ++row) {
        const Index seen = recurrence.first_visible(row), of_row = recurrence.last_seen(row) + 1 - seen;
        if (detail::all_finite(rows.block(row - begin, seen, 1, of_row)) &&
            detail::all_finite(x.matrix().block(seen, head * values, of_row, values)))
          continue;
        detail::set_product(part.middleRows(row - begin, 1), rows.block(row - begin, seen, 1, of_row),
                            x.matrix().block(seen, head * values, of_row, values));
      }
    }
  });
  if (!initial_state.empty()) out += initial_state.matrix();
}

template <Real Scalar>
void matrix_apply(const HeadRecurrence<Scalar>& recurrence, const Array<Scalar>& x, const Array<Scalar>& initial_state, View<Scalar> out,
                  const Executor& executor, View<Scalar>* final_state = nullptr) {
  head_scan(recurrence, x, initial_state, out, executor, final_state);
}

/// out = R^T g (tokens, channels), all heads.
template <MatrixRecurrence Recurrence>
void matrix_apply_transposed(const Recurrence& recurrence, ConstView<typename Recurrence::ScalarType> g,
                             View<typename Recurrence::ScalarType> out, const Executor& executor) {
  using Scalar = typename Recurrence::ScalarType;
  const Index values = recurrence.head_channels(), tokens = recurrence.tokens;
  out.setZero();
  detail::run_loop(executor, recurrence.heads, [&](Index head) {
    Matrix<Scalar> rows(std::min(rows_at_once, tokens), tokens), part;
    for (Index begin = 0; begin < tokens; begin += rows_at_once) {
      const Index end = std::min(begin + rows_at_once, tokens), first = recurrence.first_visible(begin),
                  count = recurrence.last_seen(end - 1) + 1 - first;
      matrix_rows(recurrence, head, begin, end, View<Scalar>(rows.data(), end - begin, tokens));
      detail::set_product(part, rows.block(0, first, end - begin, count), g.block(begin, head * values, end - begin, values),
                          detail::Transposed::left);
      if (detail::all_finite(part)) {
        out.block(first, head * values, count, values) += part;
        continue;
      }
      // What a row does not see takes nothing from it: 0 times NaN.
      Matrix<Scalar> finite_rows = rows.block(0, first, end - begin, count), finite_g = g.block(begin, head * values, end - begin, values);
      detail::keep_finite(finite_rows);
      detail::keep_finite(finite_g);
      detail::set_product(part, finite_rows, finite_g, detail::Transposed::left);
      std::vector<bool> spoilt(static_cast<std::size_t>(count));
      for (const bool look : {true, false})
        for (Index row = begin; row < end; ++row) {
          const auto weights = g.block(row, head * values, 1, values);
          const bool all = !detail::all_finite(weights);
          for (Index token = recurrence.first_visible(row); token <= recurrence.last_seen(row); ++token) {
            const Scalar entry = rows(row - begin, token);
            if (look && (all || !std::isfinite(entry))) spoilt[static_cast<std::size_t>(token - first)] = true;
            if (!look && spoilt[static_cast<std::size_t>(token - first)]) out.block(token, head * values, 1, values) += entry * weights;
          }
        }
      for (Index token = 0; token < count; ++token)
        if (!spoilt[static_cast<std::size_t>(token)]) out.block(first + token, head * values, 1, values) += part.row(token);
    }
  });
}

template <Real Scalar>
void matrix_apply_transposed(const HeadRecurrence<Scalar>& recurrence, ConstView<Scalar> g, View<Scalar> out, const Executor& executor) {
  head_scan_transposed(recurrence, g, out, executor);
}

/// What carried-in tokens give through softmax attention, (tokens, channels): sum over them of weight times value.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> softmax_carry(const SoftmaxRecurrence<Scalar>& recurrence, const Executor& executor) {
  Matrix<Scalar> carried = Matrix<Scalar>::Zero(recurrence.tokens, recurrence.channels);
  if (recurrence.past_key.rows() == 0) return carried;
  const Index values = recurrence.head_channels();
  detail::run_loop(executor, recurrence.heads, [&](Index head) {
    RowVector<Scalar> past, own(recurrence.tokens);
    for (Index row = 0; row < recurrence.tokens; ++row) {
      const Index seen = recurrence.past_seen(row);
      if (seen == 0) continue;
      detail::softmax_row(recurrence, head, row, past, own.data());
      detail::set_product(
          carried.block(row, head * values, 1, values), past,
          recurrence.past_value.matrix().block(recurrence.past_value.rows() - seen, recurrence.key_head(head) * values, seen, values));
    }
  });
  return carried;
}

/// Gradients of softmax attention with respect to x, query and key; what is carried in is a constant.
template <Real Scalar>
struct SoftmaxGradient {
  Matrix<Scalar> input;  ///< (tokens, channels): R^T g
  Matrix<Scalar> query;  ///< (tokens, heads * size)
  Matrix<Scalar> key;    ///< (tokens, key_heads * size)
};

/// From g = d (R x + carry): d s_j = p_j (g . x_j - sum_j p_j g . x_j). Rows are computed again; memory is linear in tokens.
template <Real Scalar>
[[nodiscard]] SoftmaxGradient<Scalar> softmax_gradient(const SoftmaxRecurrence<Scalar>& r, ConstView<Scalar> x, ConstView<Scalar> g,
                                                       const Executor& executor) {
  const Index tokens = r.tokens, size = r.head_size(), values = r.head_channels();
  SoftmaxGradient<Scalar> gradient;
  gradient.input = Matrix<Scalar>::Zero(tokens, r.channels);
  gradient.query.resize(tokens, r.heads * size);
  Matrix<Scalar> key_by_head = Matrix<Scalar>::Zero(tokens, r.heads * size);
  detail::run_loop(executor, r.heads, [&](Index head) {
    const Index column = r.key_head(head) * size;
    RowVector<Scalar> past, own(tokens), slopes(tokens), past_slopes;
    for (Index row = 0; row < tokens; ++row) {
      const Index first = r.first_visible(row), count = r.last_seen(row) + 1 - first, seen = r.past_seen(row);
      detail::softmax_row(r, head, row, past, own.data());
      const RowVector<Scalar> weight = g.row(row).segment(head * values, values),
                              query = r.query.matrix().row(row).segment(head * size, size);
      detail::set_product(View<Scalar>(slopes.data() + first, 1, count), weight, x.block(first, head * values, count, values),
                          detail::Transposed::right);
      Scalar mean = slopes.segment(first, count).dot(own.segment(first, count));
      past_slopes.resize(seen);
      if (seen > 0) {
        detail::set_product(past_slopes, weight,
                            r.past_value.matrix().block(r.past_value.rows() - seen, r.key_head(head) * values, seen, values),
                            detail::Transposed::right);
        mean += past_slopes.dot(past);
      }
      slopes.segment(first, count).array() = own.segment(first, count).array() * (slopes.segment(first, count).array() - mean) * r.scale;
      past_slopes.array() = past.array() * (past_slopes.array() - mean) * r.scale;
      if (r.soft_cap > Scalar(0)) {
        const auto capped = [&](const auto& keys, auto&& slope) {
          RowVector<Scalar> scores(slope.size());
          detail::set_product(scores, query, keys, detail::Transposed::right);
          slope.array() *= Scalar(1) - (scores.array() * (r.scale / r.soft_cap)).tanh().square();
        };
        capped(r.key.matrix().block(first, column, count, size), slopes.segment(first, count));
        if (seen > 0) capped(r.past_key.matrix().block(r.past_key.rows() - seen, column, seen, size), past_slopes);
      }
      const ConstView<Scalar> seen_slopes(slopes.data() + first, 1, count), seen_weights(own.data() + first, 1, count);
      View<Scalar> query_gradient(&gradient.query(row, head * size), 1, size);
      detail::set_product(query_gradient, seen_slopes, r.key.matrix().block(first, column, count, size));
      if (seen > 0)
        detail::add_product(query_gradient, past_slopes, r.past_key.matrix().block(r.past_key.rows() - seen, column, seen, size));
      detail::add_product(key_by_head.block(first, head * size, count, size), seen_slopes, query, detail::Transposed::left);
      detail::add_product(gradient.input.block(first, head * values, count, values), seen_weights, weight, detail::Transposed::left);
    }
  });
  gradient.key = Matrix<Scalar>::Zero(tokens, r.key_heads * size);
  for (Index head = 0; head < r.heads; ++head)
    gradient.key.middleCols(r.key_head(head) * size, size) += key_by_head.middleCols(head * size, size);
  return gradient;
}

/// d kernel of y_e[i] = sum_j kernel[e, i - j] x_e[j], (channels, length). Quadratic in tokens, as the convolution.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> toeplitz_kernel_gradient(const ToeplitzRecurrence<Scalar>& r, ConstView<Scalar> x, ConstView<Scalar> g) {
  Matrix<Scalar> gradient = Matrix<Scalar>::Zero(r.kernel.rows(), r.kernel.cols());
  for (Index lag = 0; lag < std::min(r.kernel.cols(), r.tokens); ++lag)
    gradient.col(lag) = g.bottomRows(r.tokens - lag).cwiseProduct(x.topRows(r.tokens - lag)).colwise().sum().transpose();
  return gradient;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
