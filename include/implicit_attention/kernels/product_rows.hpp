// Rows of HeadRecurrences' matrices where the transition is one number a token: products of queries and keys, which heads of a group share,
// times decays.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <implicit_attention/core/matrix_product.hpp>
#include <implicit_attention/kernels/exponentials.hpp>
#include <implicit_attention/kernels/head_recurrence.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// What a worker keeps between runs of rows: the products of the last group's queries and keys, and factors of rows and columns.
template <Real Scalar>
struct ProductRowsScratch {
  Matrix<Scalar> product, between;
  Index group = -1, begin = 0, end = 0;  ///< the group and the rows that `product` belongs to
  Eigen::Array<Scalar, 1, Eigen::Dynamic> columns, first_to_row;
  Eigen::Array<WideScalar<Scalar>, 1, Eigen::Dynamic> sums;
};

/// R = (Q K^T) o decays. For a run of rows that begins at row b, the decays to columns before b are a factor a row times a factor a column;
/// from column b on there is a factor a pair:
///
///     R[i,j] = S(b-1..i') (query_i . key_j) S(j..b-1) key_scale_j       j < b,      S(j..i) the decay of tokens j + 1 .. i
///     R[i,j] = S(j..i') (query_i . key_j) key_scale_j                   j >= b,     i' = i, or i - 1 where rows read before the update
template <Real Scalar>
class ProductRows {
 public:
  explicit ProductRows(const HeadRecurrence<Scalar>& recurrence) : r_(&recurrence), late_(recurrence.read_before_update ? 1 : 0) {}

  [[nodiscard]] static bool fits(const HeadRecurrence<Scalar>& recurrence) {
    return recurrence.transition == Transition::diagonal && (recurrence.log_decay.empty() || !recurrence.decay_by_state());
  }

  /// Rows begin..end-1 of one document, which begins at `first`. Columns that a row does not see are left as they are.
  void rows(Index head, Index first, Index begin, Index end, View<Scalar> out, ProductRowsScratch<Scalar>& scratch) const {
    multiply(r_->group(head), first, begin, end, scratch);
    column_factors(head, first, begin, end, scratch);
    row_factors(head, begin, end, scratch);
    using Row = Eigen::Array<Scalar, 1, Eigen::Dynamic>;
    for (Index row = begin; row < end; ++row) {
      const Index before = begin - first, own = row + 1 - late_ - begin;
      Eigen::Map<Row> entries(&out(row - begin, first), row + 1 - first);
      const Eigen::Map<const Row> products(&scratch.product(row - begin, 0), row + 1 - first);
      const Eigen::Map<const Row> columns(scratch.columns.data(), row + 1 - first);
      entries.head(before) = products.head(before) * columns.head(before) * scratch.first_to_row[row - begin];
      entries.segment(before, own) = products.segment(before, own) * columns.segment(before, own);
      if (decays()) entries.segment(before, own) *= scratch.between.row(row - begin).head(own).array();
      // With read_before_update no product belongs to the diagonal: it is given.
      if (!r_->diagonal.empty()) entries[row - first] = r_->diagonal(row, head);
    }
  }

 private:
  /// Runs of fewer rows sum the products with so many nearest tokens in double: see exact_product.
  static constexpr Index few_rows = 6, nearest_tokens = 16;

  [[nodiscard]] bool decays() const { return !r_->log_decay.empty(); }
  [[nodiscard]] double log_decay(Index token, Index head) const {
    return static_cast<double>(r_->log_decay(r_->log_decay.rows() == 1 ? 0 : token, head));
  }

  /// Products of the rows' queries with all keys that they see; those of the last call are kept if they are the same.
  void multiply(Index group, Index first, Index begin, Index end, ProductRowsScratch<Scalar>& scratch) const {
    if (scratch.group == group && scratch.begin == begin && scratch.end == end) return;
    const Index states = r_->state, count = end - begin;
    set_product(scratch.product, r_->query.matrix().block(begin, group * states, count, states),
                r_->key.matrix().block(first, group * states, end - first, states), Transposed::right);
    for (Index row = begin; row < end && count < few_rows && std::is_same_v<Scalar, float>; ++row)
      for (Index token = std::max(first, row + 1 - nearest_tokens); token <= row; ++token)
        scratch.product(row - begin, token - first) =
            exact_product(r_->query.row(row) + group * states, r_->key.row(token) + group * states);
    scratch.group = group;
    scratch.begin = begin;
    scratch.end = end;
  }

  /// A row that forgets quickly holds little more than its query times the nearest keys. Where such a product cancels, the rounding error
  /// of its sum is large beside it. Few rows take the nearest tokens' sums in double: it is a small part of their work.
  [[nodiscard]] Scalar exact_product(const Scalar* query, const Scalar* key) const {
    constexpr Index together = 8;  // independent sums
    double sums[static_cast<std::size_t>(together)] = {};
    Index n = 0;
    for (; n + together <= r_->state; n += together)
      for (Index i = 0; i < together; ++i) sums[i] += static_cast<double>(query[n + i]) * static_cast<double>(key[n + i]);
    for (; n < r_->state; ++n) sums[0] += static_cast<double>(query[n]) * static_cast<double>(key[n]);
    return static_cast<Scalar>(((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7])));
  }

  /// Key scales, and decays from each earlier token to the first row.
  void column_factors(Index head, Index first, Index begin, Index end, ProductRowsScratch<Scalar>& scratch) const {
    scratch.columns.setOnes(end - first);
    if (decays()) {
      double sum = 0;
      for (Index token = begin - 1; token >= first; --token) {
        scratch.columns[token - first] = static_cast<Scalar>(sum);
        sum += log_decay(token, head);
      }
      exponentiate(scratch.columns.data(), begin - first);
    }
    if (!r_->key_scale.empty())
      for (Index token = first; token < end; ++token) scratch.columns[token - first] *= r_->key_scale(token, head);
  }

  /// Decays from the first row to each one, and of all pairs of rows: (rows, rows), in logarithms first.
  void row_factors(Index head, Index begin, Index end, ProductRowsScratch<Scalar>& scratch) const {
    const Index count = end - begin;
    scratch.first_to_row.setOnes(count);
    if (!decays()) return;
    scratch.sums.setZero(count);
    scratch.between.setZero(count, count);
    double sum = 0;
    for (Index row = begin; row < end; ++row) {
      const Index own = row + 1 - late_ - begin;  // the tokens of the run that the row reads
      if (own > 0) {
        const double log = log_decay(row - late_, head);
        sum += log;
        scratch.sums.head(own - 1) += log;
        scratch.sums[own - 1] = 0;
        scratch.between.row(row - begin).head(own) = scratch.sums.head(own).matrix().template cast<Scalar>();
        exponentiate(&scratch.between(row - begin, 0), own);
      }
      scratch.first_to_row[row - begin] = static_cast<Scalar>(sum);
    }
    exponentiate(scratch.first_to_row.data(), count);
  }

  const HeadRecurrence<Scalar>* r_;
  Index late_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
