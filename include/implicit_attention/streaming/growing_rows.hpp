// Rows that grow by some at a time: what a stream keeps of every array.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/core/large_memory.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The last rows of a sequence, contiguous. Memory doubles as it fills; behind a window it stays at twice the window, and the rows move to
/// its front once a window: both cost a copy a row on average, and no allocation a row.
template <Real Scalar>
class GrowingRows {
 public:
  [[nodiscard]] Index rows() const { return count_; }
  [[nodiscard]] Index cols() const { return columns_; }
  /// Whether all numbers are finite, known without looking at them again: false as long as any row of a piece that had others is kept.
  [[nodiscard]] bool finite() const { return spoilt_ == 0; }
  [[nodiscard]] std::size_t bytes() const {
    return memory_ ? static_cast<std::size_t>(memory_->rows() * memory_->cols()) * sizeof(Scalar) : 0;
  }

  /// Appends, and drops the oldest beyond `window` (0: none). Rows that would leave at once take no memory.
  void append(ConstView<Scalar> added, Index window) {
    columns_ = added.cols();
    if (added.rows() == 0 || columns_ == 0) return;
    const Index first = window > 0 ? std::max(added.rows() - window, Index(0)) : 0, taken = added.rows() - first;
    const Index leaving = window > 0 ? std::max(count_ + taken - window, Index(0)) : 0;
    begin_ += leaving;
    count_ -= leaving;
    spoilt_ = std::max(spoilt_ - leaving, Index(0));
    make_room(taken);
    for (Index row = 0; row < taken; ++row)
      std::copy_n(&added.coeffRef(first + row, 0), columns_, memory_->data() + (begin_ + count_ + row) * columns_);
    count_ += taken;
    if (!all_finite(ConstView<Scalar>(memory_->data() + (begin_ + count_ - taken) * columns_, taken, columns_))) spoilt_ = count_;
  }

  /// Adds to the newest row.
  void add_to_newest(const Array<Scalar>& row) {
    if (count_ == 0) return;
    View<Scalar> newest(memory_->data() + (begin_ + count_ - 1) * columns_, 1, columns_);
    newest += row.matrix();
    if (!all_finite(newest)) spoilt_ = count_;
  }
  /// Multiplies every row by (1, columns); what is multiplied by 1 is not touched.
  void multiply_columns(const RowVector<Scalar>& factors) {
    for (Index column = 0; column < (count_ == 0 ? 0 : columns_); ++column)
      if (factors[column] != Scalar(1))
        for (Index row = begin_; row < begin_ + count_; ++row) memory_->data()[row * columns_ + column] *= factors[column];
    if (!all_finite(factors)) spoilt_ = count_;
  }

  /// What is kept, as a view that keeps its memory alive; appending may move the numbers in it.
  [[nodiscard]] Array<Scalar> view() const {
    if (count_ == 0 || columns_ == 0) return {};
    return Array<Scalar>::view(ConstView<Scalar>(memory_->data() + begin_ * columns_, count_, columns_), memory_);
  }

 private:
  void make_room(Index added) {
    const Index capacity = memory_ ? memory_->rows() : 0;
    if (begin_ + count_ + added <= capacity) return;
    if (2 * (count_ + added) <= capacity) {
      std::memmove(memory_->data(), memory_->data() + begin_ * columns_, static_cast<std::size_t>(count_ * columns_) * sizeof(Scalar));
    } else {
      auto larger = std::make_shared<LargeMemory<Scalar>>(std::max<Index>(2 * (count_ + added), 16), columns_, "the history of a stream",
                                                          "keep fewer tokens (StreamingOptions::window)");
      if (count_ > 0) std::copy_n(memory_->data() + begin_ * columns_, count_ * columns_, larger->data());
      memory_ = std::move(larger);
    }
    begin_ = 0;
  }

  std::shared_ptr<LargeMemory<Scalar>> memory_;
  Index begin_ = 0, count_ = 0, columns_ = 0;
  Index spoilt_ = 0;  // the first rows, up to the end of the last piece with a number that is not finite
};

/// Fails (ErrorKind::shape) where a term comes or goes.
template <class = void>
void check_term(std::string_view name, bool there, bool was_there) {
  if (there != was_there)
    raise(ErrorKind::shape, "StreamingAttention: ", name, " is ", there ? "there" : "empty",
          ", expected it as in the earlier pieces: the terms of a stream do not change");
}

/// One array of a form through a stream: absent, one row for all tokens, or a row a token. It is what the first piece said, and an array
/// of one row becomes rows when a later piece's differs.
template <Real Scalar>
class StreamedArray {
 public:
  [[nodiscard]] std::size_t bytes() const { return rows_.bytes(); }
  [[nodiscard]] bool empty() const { return kind_ == Kind::absent; }
  /// Of an array of a row a token.
  [[nodiscard]] bool finite() const { return rows_.finite(); }

  /// Fails (ErrorKind::shape) where an array does not fit the pieces before, of which `held` tokens are kept.
  void check(std::string_view name, const Array<Scalar>& added, Index held) const {
    if (held > 0) check_term(name, !added.empty(), kind_ != Kind::absent);
    if (held > 0 && !added.empty() && added.cols() != columns())
      raise(ErrorKind::shape, "StreamingAttention: ", name, " has ", added.cols(), " columns, expected ", columns(),
            " as in the earlier pieces");
  }

  /// Takes the array of a piece of `tokens` tokens, checked already. `may_be_one_row` where one row can stand for all tokens.
  void append(const Array<Scalar>& added, Index tokens, Index held, Index window, bool may_be_one_row = false) {
    if (added.empty()) return;
    if (may_be_one_row && added.rows() == 1 && (held == 0 || (kind_ == Kind::one_row && *added == *one_row_))) {
      if (held == 0) one_row_ = Matrix<Scalar>(*added);
      kind_ = Kind::one_row;
      return;
    }
    if (kind_ == Kind::one_row) rows_.append(Matrix<Scalar>(one_row_.matrix().replicate(held, 1)), window);
    kind_ = Kind::rows;
    if (added.rows() == tokens)
      rows_.append(*added, window);
    else  // one row of a longer piece, behind rows
      rows_.append(Matrix<Scalar>(added.matrix().replicate(tokens, 1)), window);
  }

  /// Of an array of a row a token.
  void add_to_newest(const Array<Scalar>& row) { rows_.add_to_newest(row); }
  void multiply_columns(const RowVector<Scalar>& factors) { rows_.multiply_columns(factors); }

  [[nodiscard]] Array<Scalar> view() const { return kind_ == Kind::rows ? rows_.view() : one_row_; }

 private:
  enum class Kind { absent, one_row, rows };
  [[nodiscard]] Index columns() const { return kind_ == Kind::rows ? rows_.cols() : one_row_.cols(); }

  Kind kind_ = Kind::absent;
  Array<Scalar> one_row_;  // (1, columns)
  GrowingRows<Scalar> rows_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
