// Many rows of HeadRecurrences' matrices: what full maps and reductions are made of (formulation: "Full map").
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/kernels/blocked_rows.hpp>
#include <implicit_attention/kernels/product_rows.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// With fewer rows than this, each is walked by itself.
constexpr Index rows_worth_preparing = 8;

/// What a worker keeps between runs of rows.
template <Real Scalar>
struct HeadRowsScratch {
  ProductRowsScratch<Scalar> product;
  BlockedRowsScratch<Scalar> blocked;
};

/// Rows of a few neighbouring heads, in the cheapest way: as products of queries and keys where the transition is one number a token, else
/// by blocks, or by walks over tokens where the rows are too few for the preparation of blocks to pay.
template <Real Scalar>
class HeadRows {
 public:
  /// Prepares for `row_count` rows in total, all before token `end`.
  HeadRows(const HeadRecurrence<Scalar>& recurrence, Index first_head, Index head_count, Index row_count, Index end,
           const Executor& executor)
      : r_(&recurrence), first_head_(first_head), products_(recurrence), as_products_(ProductRows<Scalar>::fits(recurrence)) {
    if (as_products_ || row_count < rows_worth_preparing) return;
    std::vector<TokenRange> ranges = token_ranges(recurrence, map_block_tokens);
    while (ranges.back().first >= end) ranges.pop_back();
    blocks_.reserve(static_cast<std::size_t>(head_count));
    for (Index head = 0; head < head_count; ++head) blocks_.emplace_back(recurrence, first_head + head, ranges);
    const Index count = static_cast<Index>(ranges.size()), slices = (count + blocks_of_a_slice - 1) / blocks_of_a_slice;
    detail::run_loop(executor, head_count * slices, [&](Index item) {
      const Index begin = item % slices * blocks_of_a_slice, stop = std::min(begin + blocks_of_a_slice, count);
      blocks_[static_cast<std::size_t>(item / slices)].prepare(static_cast<std::size_t>(begin), static_cast<std::size_t>(stop));
    });
    detail::run_loop(executor, head_count, [&](Index head) { blocks_[static_cast<std::size_t>(head)].prepare_untouched(); });
  }

  /// Rows begin..end-1 of a head, (end - begin, tokens), zeros where nothing is seen.
  void rows(Index head, Index begin, Index end, View<Scalar> out, HeadRowsScratch<Scalar>& scratch) const {
    for (Index row = begin; row < end;) {
      const Index first = r_->first_visible(row);
      Index stop = row + 1;
      while (stop < end && !r_->starts_at(stop)) ++stop;  // rows of one document
      View<Scalar> part(&out(row - begin, 0), stop - row, r_->tokens, out.outerStride());
      if (as_products_)
        products_.rows(head, first, row, stop, part, scratch.product);
      else if (blocks_.empty())
        walk_rows(*r_, head, row, stop, part);
      else
        blocked_rows(*r_, head, blocks_[static_cast<std::size_t>(head - first_head_)], first, row, stop, part, scratch.blocked);
      for (Index i = row; i < stop; ++i) {
        part.row(i - row).head(first).setZero();
        part.row(i - row).tail(r_->tokens - 1 - i).setZero();
      }
      row = stop;
    }
  }

  /// How many heads to compute single rows of together, when `row_count` rows are wanted.
  [[nodiscard]] static Index heads_at_once(const HeadRecurrence<Scalar>& recurrence, Index row_count) {
    return ProductRows<Scalar>::fits(recurrence) || row_count >= rows_worth_preparing ? 1 : heads_walked_together;
  }
  /// One row of `count` heads, a row of `out` each; where heads_at_once is more than 1.
  void row(const Index* heads, Index count, Index row, View<Scalar> out) const {
    const Index first = walk_heads(*r_, heads, count, row, out);
    out.leftCols(first).setZero();
    out.rightCols(r_->tokens - 1 - row).setZero();
  }

 private:
  static constexpr Index blocks_of_a_slice = 8;

  const HeadRecurrence<Scalar>* r_;
  Index first_head_;
  ProductRows<Scalar> products_;
  bool as_products_;
  std::vector<RowBlocks<Scalar>> blocks_;  // of heads; empty where rows are walked
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
