// A materialised attention: one matrix per chosen channel.
#pragma once

#include <utility>
#include <vector>

#include <implicit_attention/core/large_memory.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// (channels, rows, tokens), contiguous, in huge pages where they pay. `channel(c)` is the matrix of the c-th chosen channel.
/// Fails (ErrorKind::limit) if the system has no memory for it; its numbers are not initialised.
template <Real Scalar>
class AttentionMatrix {
 public:
  AttentionMatrix(std::vector<Index> channels, std::vector<Index> rows, Index tokens)
      : channels_(std::move(channels)),
        rows_(std::move(rows)),
        tokens_(tokens),
        numbers_(static_cast<Index>(channels_.size() * rows_.size()), tokens, "attention") {}

  [[nodiscard]] Index channels() const { return static_cast<Index>(channels_.size()); }
  [[nodiscard]] Index rows() const { return static_cast<Index>(rows_.size()); }
  [[nodiscard]] Index tokens() const { return tokens_; }
  /// Which channel of the layer, and which token, the c-th matrix and r-th row are.
  [[nodiscard]] const std::vector<Index>& channel_indices() const { return channels_; }
  [[nodiscard]] const std::vector<Index>& row_indices() const { return rows_; }

  [[nodiscard]] ConstView<Scalar> channel(Index c) const { return {numbers_.data() + c * rows() * tokens_, rows(), tokens_}; }
  [[nodiscard]] Scalar operator()(Index c, Index r, Index token) const { return numbers_.data()[(c * rows() + r) * tokens_ + token]; }
  [[nodiscard]] const Scalar* data() const { return numbers_.data(); }
  /// All matrices one below the other, (channels * rows, tokens).
  [[nodiscard]] View<Scalar> stacked() { return {numbers_.data(), numbers_.rows(), tokens_}; }
  [[nodiscard]] ConstView<Scalar> stacked() const { return {numbers_.data(), numbers_.rows(), tokens_}; }

 private:
  std::vector<Index> channels_, rows_;
  Index tokens_;
  LargeMemory<Scalar> numbers_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
