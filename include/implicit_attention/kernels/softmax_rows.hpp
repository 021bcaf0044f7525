// Softmax attention's matrices, row by row.
#pragma once

#include <algorithm>
#include <limits>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/core/matrix_product.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/kernels/lanes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Softmax attention: R[i,j] = softmax_j( cap(scale q_i . k_j) ) over the tokens that i sees, cap(s) = soft_cap tanh(s / soft_cap).
/// Query head h reads key head h / (heads / key_heads): neighbours share.
template <Real Scalar>
struct SoftmaxRecurrence {
  using ScalarType = Scalar;
  Index tokens = 0, channels = 0, heads = 1, key_heads = 1;
  Array<Scalar> query;  ///< (tokens, heads * size)
  Array<Scalar> key;    ///< (tokens, key_heads * size)
  Scalar scale = 1;
  Scalar soft_cap = 0;  ///< 0: none
  bool causal = true;
  Index window = -1;         ///< token i sees token j where i - window <= j; -1: all
  Array<Scalar> past_key;    ///< (past tokens, key_heads * size): carried in, the last `window` of them at most
  Array<Scalar> past_value;  ///< (past tokens, key_heads * channels / heads): what they hold, a constant

  [[nodiscard]] Index head_channels() const { return channels / heads; }
  [[nodiscard]] Index head(Index channel) const { return channel / head_channels(); }
  [[nodiscard]] Index head_size() const { return query.cols() / heads; }
  [[nodiscard]] Index key_head(Index head_index) const { return head_index / (heads / key_heads); }
  [[nodiscard]] Index last_seen(Index row) const { return causal ? row : tokens - 1; }
  [[nodiscard]] Index first_visible(Index row) const { return window < 0 || window >= row ? 0 : row - window; }
  /// How many carried-in tokens a row sees: the last ones.
  [[nodiscard]] Index past_seen(Index row) const {
    return window < 0 ? past_key.rows() : std::clamp(window - row, Index(0), past_key.rows());
  }
  void check() const {
    check_size("SoftmaxRecurrence", "tokens", tokens, 0);
    check_divides("SoftmaxRecurrence", channels, "channels", heads, "heads");
    check_divides("SoftmaxRecurrence", query.cols(), "columns of query", heads, "heads");
    check_divides("SoftmaxRecurrence", heads, "heads", key_heads, "key heads");
    check_shape("SoftmaxRecurrence", "query", query, tokens, query.cols(), "(tokens, heads * size)");
    check_shape("SoftmaxRecurrence", "key", key, tokens, key_heads * head_size(), "(tokens, key heads * size)");
    if (past_key.rows() > 0) {
      check_shape("SoftmaxRecurrence", "past_key", past_key, past_key.rows(), key_heads * head_size(), "(past tokens, key heads * size)");
      check_shape("SoftmaxRecurrence", "past_value", past_value, past_key.rows(), key_heads * head_channels(),
                  "(past tokens, key heads * value size)");
    }
  }
};

namespace detail {

/// Scores of one row become softmax weights, in place: those of the carried-in tokens that it sees, `past`, and of the sequence's, `own`.
template <Real Scalar>
void softmax(const SoftmaxRecurrence<Scalar>& r, Index head, Index row, Scalar* past, Scalar* own) {
  using Weights = Eigen::Map<Eigen::Array<Scalar, 1, Eigen::Dynamic>>;
  const Index first = r.first_visible(row), own_count = r.last_seen(row) + 1 - first, past_count = r.past_seen(row);
  // A score of minus infinity is a weight of 0, and a cap makes every score finite: neither may hide a query or a key that is not finite.
  const auto spoil_hidden = [&](Scalar* scores, Index count, const Array<Scalar>& key, Index first_key) {
    if (all_finite(scores, count)) return;
    const Index size = r.head_size(), column = r.key_head(head) * size;
    const bool finite_query = all_finite(r.query.row(row) + head * size, size);
    for (Index token = 0; token < count; ++token)
      if (!finite_query || !all_finite(key.row(first_key + token) + column, size)) scores[token] = std::numeric_limits<Scalar>::quiet_NaN();
  };
  spoil_hidden(own, own_count, r.key, first);
  spoil_hidden(past, past_count, r.past_key, r.past_key.rows() - past_count);
  Weights weights(own, own_count), past_weights(past, past_count);
  Scalar scale = r.scale;
  if (r.soft_cap > Scalar(0)) {
    weights = r.soft_cap * (weights * (scale / r.soft_cap)).tanh();
    past_weights = r.soft_cap * (past_weights * (scale / r.soft_cap)).tanh();
    scale = Scalar(1);
  }
  Scalar largest = weights.maxCoeff();
  if (past_count > 0) largest = std::max(largest, past_weights.maxCoeff());
  weights = ((weights - largest) * scale).exp();
  past_weights = ((past_weights - largest) * scale).exp();
  const Scalar sum = weights.sum() + past_weights.sum();
  weights /= sum;
  past_weights /= sum;
}

/// The softmax weights of one row: carried-in tokens first into `past` (past tokens seen), then those of the sequence into `own`
/// (tokens), from first_visible on.
template <Real Scalar>
void softmax_row(const SoftmaxRecurrence<Scalar>& r, Index head, Index row, RowVector<Scalar>& past, Scalar* own) {
  const Index size = r.head_size(), column = r.key_head(head) * size, first = r.first_visible(row), count = r.last_seen(row) + 1 - first,
              seen = r.past_seen(row);
  const ConstView<Scalar> query(r.query.row(row) + head * size, 1, size);
  set_product(View<Scalar>(own + first, 1, count), query, r.key.matrix().block(first, column, count, size), Transposed::right);
  past.resize(seen);
  if (seen > 0) set_product(past, query, r.past_key.matrix().block(r.past_key.rows() - seen, column, seen, size), Transposed::right);
  softmax(r, head, row, past.data(), own + first);
}

/// Query times key for one row and several heads, from token `first` on, a row of `out` each. Register after register of tokens for all
/// heads: memory gives whole tokens at up to twice the rate of one head's part of every token.
template <Real Scalar>
EIGEN_DONT_INLINE void softmax_scores(const SoftmaxRecurrence<Scalar>& r, const Index* heads, Index head_count, Index row, Index first,
                                      Index count, View<Scalar> out) {
  const Index size = r.head_size();
  Index done = 0;
#if IMPLICIT_ATTENTION_SHUFFLES
  using Register = typename VectorRegister<Scalar>::type;
  constexpr int lanes = vector_register_bytes / static_cast<int>(sizeof(Scalar));
  const auto at = [](const Scalar* from) { return *reinterpret_cast<const Register*>(from); };
  for (; done + lanes <= count; done += lanes)
    for (Index h = 0; h < head_count; ++h) {
      const Scalar *const query = r.query.row(row) + heads[h] * size, *const key = r.key.row(first + done) + r.key_head(heads[h]) * size;
      const Index stride = r.key.row_stride();
      Register sums[static_cast<std::size_t>(lanes)] = {};
      Index n = 0;
      for (; n + lanes <= size; n += lanes) {
        const Register numbers = at(query + n);
        IMPLICIT_ATTENTION_UNROLL
        for (int t = 0; t < lanes; ++t) sums[t] += numbers * at(key + t * stride + n);
      }
      transpose_registers<1, lanes, Scalar>(sums);
      Register sum = sums[0];
      IMPLICIT_ATTENTION_UNROLL
      for (int t = 1; t < lanes; ++t) sum += sums[t];
      Scalar* const to = &out(h, first + done);
      *reinterpret_cast<Register*>(to) = sum;
      for (; n < size; ++n)
        for (int t = 0; t < lanes; ++t) to[t] += query[n] * key[t * stride + n];
    }
#endif
  if (done == count) return;
  for (Index h = 0; h < head_count; ++h)
    set_product(View<Scalar>(&out(h, first + done), 1, count - done), ConstView<Scalar>(r.query.row(row) + heads[h] * size, 1, size),
                r.key.matrix().block(first + done, r.key_head(heads[h]) * size, count - done, size), Transposed::right);
}

/// One row of several heads, a row of `out` each.
template <Real Scalar>
void softmax_heads(const SoftmaxRecurrence<Scalar>& r, const Index* heads, Index head_count, Index row, View<Scalar> out) {
  const Index size = r.head_size(), first = r.first_visible(row), count = r.last_seen(row) + 1 - first, seen = r.past_seen(row);
  softmax_scores(r, heads, head_count, row, first, count, out);
  RowVector<Scalar> past(seen);
  for (Index h = 0; h < head_count; ++h) {
    if (seen > 0)
      set_product(past, ConstView<Scalar>(r.query.row(row) + heads[h] * size, 1, size),
                  r.past_key.matrix().block(r.past_key.rows() - seen, r.key_head(heads[h]) * size, seen, size), Transposed::right);
    softmax(r, heads[h], row, past.data(), &out(h, first));
    out.row(h).head(first).setZero();
    out.row(h).tail(r.tokens - first - count).setZero();
  }
}

}  // namespace detail

/// The scores of all rows are one product with the keys that any of them sees.
template <Real Scalar>
void matrix_rows(const SoftmaxRecurrence<Scalar>& r, Index head, Index begin, Index end, View<Scalar> out) {
  if (end == begin) return;
  if (end == begin + 1) return detail::softmax_heads(r, &head, 1, begin, out);
  const Index size = r.head_size(), column = r.key_head(head) * size, first = r.first_visible(begin), last = r.last_seen(end - 1),
              count = end - begin, past_seen = r.past_seen(begin);
  const ConstView<Scalar> queries(r.query.row(begin) + head * size, count, size, r.query.row_stride());
  Matrix<Scalar> past(count, past_seen);
  detail::set_product(out.middleCols(first, last + 1 - first), queries, r.key.matrix().block(first, column, last + 1 - first, size),
                      detail::Transposed::right);
  if (past_seen > 0)
    detail::set_product(past, queries, r.past_key.matrix().block(r.past_key.rows() - past_seen, column, past_seen, size),
                        detail::Transposed::right);
  for (Index row = begin; row < end; ++row) {
    const Index seen_first = r.first_visible(row), seen_count = r.last_seen(row) + 1 - seen_first, seen_past = r.past_seen(row);
    Scalar* entries = &out(row - begin, 0);
    detail::softmax(r, head, row, past.data() + (row - begin + 1) * past_seen - seen_past, entries + seen_first);
    std::fill(entries, entries + seen_first, Scalar(0));
    std::fill(entries + seen_first + seen_count, entries + r.tokens, Scalar(0));
  }
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
