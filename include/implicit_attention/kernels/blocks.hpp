// The cut of a sequence into blocks and strips, and the factors from which a map's entries are made.
//
// With S the sum of steps, an inclusive recurrence has R[i,j] = sum_n q_i[n] exp(rate[n] (S_i - S_j)) k_j[n]. Between a row's strip and an
// earlier run of columns lies a token boundary, and the exponential splits there into a query factor and a key factor, neither of which
// exceeds 1: products of matrices. Only products within a block and sums over whole blocks occur, each taken in the direction in which it
// is needed, so that precision does not depend on length.
//
// A row sees a column through the convolution, too: column j enters with the tokens j .. j + lead, lead = width - 1. So a strip's columns
// are those whose convolution ends in it, `lead` to the left of its tokens: their keys are whole when it ends, and every entry is either
// far, a product of factors, or near, walked token by token.
#pragma once

#include <algorithm>
#include <vector>

#include <implicit_attention/kernels/product.hpp>
#include <implicit_attention/kernels/recurrence.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Tokens whose rows are made together.
constexpr Index strip_tokens = register_rows;
constexpr Index block_strips = IMPLICIT_ATTENTION_BLOCK_TOKENS / strip_tokens;
static_assert(IMPLICIT_ATTENTION_BLOCK_TOKENS >= 16 && (IMPLICIT_ATTENTION_BLOCK_TOKENS & (IMPLICIT_ATTENTION_BLOCK_TOKENS - 1)) == 0,
              "IMPLICIT_ATTENTION_BLOCK_TOKENS is a power of two, 16 or more");

/// A run of tokens of one document, IMPLICIT_ATTENTION_BLOCK_TOKENS of them unless the document ends.
struct TokenBlock {
  Index first = 0, tokens = 0;
  Index document = 0;        ///< index of the first block of the same document
  Index document_first = 0;  ///< first token of the document
  [[nodiscard]] Index end() const { return first + tokens; }
  [[nodiscard]] Index strips() const { return (tokens + strip_tokens - 1) / strip_tokens; }
};

/// What all channels share.
template <Real Scalar>
class BlockPlan {
 public:
  explicit BlockPlan(const SurroundedDiagonal<Scalar>& surrounded) : surrounded_(&surrounded) {
    const std::vector<Index>& starts = surrounded.recurrence.starts;
    const Index tokens = surrounded.recurrence.tokens;
    auto start = starts.begin();
    Index document = 0, document_first = 0;
    for (Index token = 0; token < tokens; token = blocks_.back().end()) {
      for (; start != starts.end() && *start <= token; ++start) {
        document = static_cast<Index>(blocks_.size());
        document_first = token;
      }
      Index end = std::min(token + IMPLICIT_ATTENTION_BLOCK_TOKENS, tokens);
      if (start != starts.end()) end = std::min(end, *start);
      blocks_.push_back({token, end - token, document, document_first});
    }
    if (surrounded.convolution_starts.empty()) return;
    for (Index token = 0; token < tokens; ++token) reach_.push_back(surrounded.last_reached(token));
  }

  [[nodiscard]] const SurroundedDiagonal<Scalar>& surrounded() const { return *surrounded_; }
  [[nodiscard]] const std::vector<TokenBlock>& blocks() const { return blocks_; }
  [[nodiscard]] const TokenBlock& block(Index index) const { return blocks_[static_cast<std::size_t>(index)]; }
  /// The block that holds a token.
  [[nodiscard]] Index block_of(Index token) const {
    const auto after =
        std::upper_bound(blocks_.begin(), blocks_.end(), token, [](Index wanted, const TokenBlock& block) { return wanted < block.first; });
    return static_cast<Index>(after - blocks_.begin()) - 1;
  }
  [[nodiscard]] Index lead() const { return surrounded_->width() - 1; }
  /// Whether the convolution carries `column` to `token`, which is at most `lead` later.
  [[nodiscard]] bool reaches(Index column, Index token) const {
    return reach_.empty() || column < 0 || token <= reach_[static_cast<std::size_t>(column)];
  }

 private:
  const SurroundedDiagonal<Scalar>* surrounded_;
  std::vector<TokenBlock> blocks_;
  std::vector<Index> reach_;
};

/// Calls `body(first, count)` for the runs of earlier strips of the block that strip `strip` sees, nearest first: the powers of two that
/// add up to `strip`. Each is one product.
template <class Body>
void for_earlier_strips(Index strip, const Body& body) {
  for (Index end = strip; end > 0;) {
    const Index count = end & -end;
    end -= count;
    body(end, count);
  }
}

/// Factors of several channels, for the columns of all blocks (keys) and the rows of some (queries).
///
/// Keys are (panels, channels, state, columns of a panel), referred first to the end of their strip, at last to that of their block;
/// queries are (strips, channels, state, rows of a strip), referred to the start of their strip, at last of their block; decays are
/// (strips, channels, state), what a strip, or a run of strips, leaves of what came before it.
template <Real Scalar>
class Factors {
 public:
  static constexpr Index width = register_lanes<Scalar>;
  static constexpr Index block_panels = IMPLICIT_ATTENTION_BLOCK_TOKENS / width;

  /// `together`: what a product over all channels reads stands together; otherwise each channel's keys do.
  Factors(Index blocks_with_keys, Index blocks_with_queries, Index channels, Index state, bool together) : state_(state) {
    const Index panels = blocks_with_keys * block_panels, key = state * width;
    key_channel_ = together ? key : panels * key + width;  // not a power of two: channels that are written side by side share no cache set
    key_panel_ = together ? channels * key : key;
    query_strip_ = channels * state * strip_tokens;
    decay_strip_ = channels * state;
    keys_.resize(std::max(channels * key_channel_, panels * key_panel_));
    queries_.resize(blocks_with_queries * block_strips * query_strip_);
    decays_.resize(blocks_with_queries * block_strips * decay_strip_);
  }

  /// The keys of a strip of a block, each state's register_lanes apart; of the panel that begins there, where one does.
  [[nodiscard]] Scalar* keys(Index channel, Index block, Index strip) {
    const Index column = strip * strip_tokens;
    return keys_.data() + channel * key_channel_ + (block * block_panels + column / width) * key_panel_ + column % width;
  }
  /// From one panel to the next.
  [[nodiscard]] Index panel_stride() const { return key_panel_; }
  [[nodiscard]] Scalar* queries(Index channel, Index strip) {
    return queries_.data() + strip * query_strip_ + channel * state_ * strip_tokens;
  }
  [[nodiscard]] Scalar* decays(Index channel, Index strip) { return decays_.data() + strip * decay_strip_ + channel * state_; }

  /// After strip `strip` of block `block`, whose first strip has its queries and decays at `place`: keys of earlier strips that it makes up
  /// a power of two with are referred to its end. Of `channels` neighbours, which are more than one only where their keys stand together.
  void join_strips(Index channel, Index channels, Index block, Index place, Index strip) {
    const Index factors = channels * state_;
    Index newer = strip;
    for (Index count = 1; (strip & count) != 0; count *= 2) {
      const Scalar* decay = decays(channel, place + newer);
      const Index older = newer - count;
      scale_keys(keys(channel, block, 0), older, newer, factors, decay);
      Numbers<Scalar>(decays(channel, place + older), factors) *= ConstNumbers<Scalar>(decay, factors);
      newer = older;
    }
  }

  /// queries *= factor[n], from one reference to an earlier one.
  static void scale_queries(const Scalar* from, const Scalar* factor, Index factor_stride, Index state, Scalar* to) {
    scale<strip_tokens>(from, factor, factor_stride, state, to);
  }
  /// `Count` factors of each state times factor[n].
  template <int Count>
  static void scale(const Scalar* from, const Scalar* factor, Index factor_stride, Index state, Scalar* to) {
    for (Index n = 0; n < state; ++n) lanes<Count>(to + n * Count) = factor[n * factor_stride] * lanes<Count>(from + n * Count);
  }

 private:
  using Row = Eigen::Array<Scalar, 1, Eigen::Dynamic, Eigen::RowMajor>;

  /// Keys of a block's strips older .. newer - 1, a panel at a time where they fill it; `keys` are those of its first strip.
  void scale_keys(Scalar* keys, Index older, Index newer, Index factors, const Scalar* factor) const {
    constexpr int part = static_cast<int>(std::min(width, strip_tokens));
    for (Index column = older * strip_tokens; column < newer * strip_tokens;) {
      Scalar* const panel = keys + column / width * key_panel_ + column % width;
      if (column % width == 0 && column + width <= newer * strip_tokens) {
        for (Index n = 0; n < factors; ++n) lanes<width>(panel + n * width) *= factor[n];
        column += width;
      } else {
        for (Index n = 0; n < factors; ++n) lanes<part>(panel + n * width) *= factor[n];
        column += part;
      }
    }
  }

  Index state_, key_channel_, key_panel_, query_strip_, decay_strip_;
  Row keys_, queries_, decays_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
