// Where the rows of a reduced map are joined: in the caller's memory where they have room to begin at a cache line, else beside it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include <implicit_attention/kernels/attention_rows.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Where the rows of blocks are joined. Every row of a block with a wanted row is computed, in the caller's memory if possible. There a row
/// is shifted a little: it begins with `lead` columns before token 0, which take what a product's panels have there, and at a cache line,
/// so that the panels, whose columns begin `lead` before a block's, fill whole ones (split lines cost a tenth of the time). Rows that are
/// not wanted, and rows without room for the shift, are computed in memory of its own.
template <Real Scalar>
class JoinTargets {
 public:
  /// `wanted` are places in the caller's list `rows`; `initial` is what an empty join gives.
  JoinTargets(const BlockPlan<Scalar>& plan, const RowsByBlock& wanted, const std::vector<Index>& rows, View<Scalar> out, Scalar initial)
      : plan_(&plan), wanted_(&wanted), rows_(&rows), out_(out.data()), stride_(out.outerStride()), targets_(wanted.places.size()) {
    const Index aside_stride = (lead() + tokens() + 2 * line - 2) / line * line;
    Index aside_rows = 0;
    for (std::size_t b = 0; b < targets_.size(); ++b) {
      if (wanted.places[b].empty()) continue;
      const TokenBlock& block = plan.blocks()[b];
      targets_[b].assign(static_cast<std::size_t>(block.tokens), nullptr);
      for (const Index place : wanted.places[b]) {
        const Index row = row_at(place);
        Scalar *const begin = begin_of(place), *const target = moved(begin);
        if (target + lead() + row < begin + tokens()) targets_[b][static_cast<std::size_t>(row - block.first)] = target;
      }
      aside_rows += std::count(targets_[b].begin(), targets_[b].end(), nullptr);
    }
    aside_.resize(aside_rows * aside_stride);
    for (std::size_t b = 0; b < targets_.size(); ++b)
      for (std::size_t i = 0; i < targets_[b].size(); ++i) {
        Scalar*& row = targets_[b][i];
        if (row == nullptr) row = moved(aside_.data() + --aside_rows * aside_stride);
        std::fill_n(row, lead() + plan.blocks()[b].first + static_cast<Index>(i) + 1, initial);
      }
  }
  JoinTargets(const JoinTargets&) = delete;
  JoinTargets& operator=(const JoinTargets&) = delete;

  [[nodiscard]] Index blocks() const { return static_cast<Index>(targets_.size()); }
  [[nodiscard]] bool wanted(Index block) const { return wanted_->wanted(block); }
  /// Where row `i` of a wanted block begins: token 0 is `lead` behind it.
  [[nodiscard]] Scalar* row(Index block, Index i) const { return rows_of(block)[i]; }
  /// All rows of a wanted block.
  [[nodiscard]] Scalar* const* rows_of(Index block) const { return targets_[static_cast<std::size_t>(block)].data(); }

  /// Moves a block's rows to the caller's places, and writes the zeros behind them.
  void move_to_places(Index block) const {
    for (const bool own : {false, true})  // a row that is wanted twice was joined in one of its places, which is overwritten last
      for (const Index place : wanted_->places[static_cast<std::size_t>(block)]) {
        const Index row = row_at(place);
        const Scalar* target = rows_of(block)[row - plan_->block(block).first];
        Scalar* begin = begin_of(place);
        if (own != (target == moved(begin))) continue;
        std::memmove(begin, target + lead(), static_cast<std::size_t>(row + 1) * sizeof(Scalar));
        std::fill(begin + row + 1, begin + tokens(), Scalar(0));
      }
  }

 private:
  static constexpr Index line = numbers_in_a_line<Scalar>;

  [[nodiscard]] Index tokens() const { return plan_->surrounded().recurrence.tokens; }
  [[nodiscard]] Index row_at(Index place) const { return (*rows_)[static_cast<std::size_t>(place)]; }
  [[nodiscard]] Scalar* begin_of(Index place) const { return out_ + place * stride_; }
  [[nodiscard]] Index lead() const { return plan_->lead(); }
  [[nodiscard]] static Scalar* moved(Scalar* row) { return row + rest_of_line(row); }

  const BlockPlan<Scalar>* plan_;
  const RowsByBlock* wanted_;
  const std::vector<Index>* rows_;
  Scalar* out_;
  Index stride_;                               // from one place to the next
  std::vector<std::vector<Scalar*>> targets_;  // of each block's rows; none where the block is not wanted
  RowVector<Scalar> aside_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
