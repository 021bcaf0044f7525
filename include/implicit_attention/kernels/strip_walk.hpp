// The walk through one strip of tokens for a register of channels: from what every token decays, writes and reads to the strip's near
// entries and factors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include <implicit_attention/kernels/blocks.hpp>
#include <implicit_attention/kernels/transpose.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Which row of a strip's memory holds what. A row is one number of every channel of the register; `columns` are the near columns
/// first - lead .. first + strip_tokens, and a column takes from at most `entrances` tokens of the strip.
struct StripRows {
  StripRows(Index states, Index convolution_lead)
      : state(states),
        lead(convolution_lead),
        columns(lead + strip_tokens),
        entrances(std::min(lead + 1, strip_tokens)),
        entry_stride((columns + strip_tokens - 1) / strip_tokens * strip_tokens),
        factor_stride(strip_tokens + columns),
        taps(rates + state),
        decays(taps + lead + 1),
        enter(decays + strip_tokens * state),
        direct(enter + columns * entrances),
        weights(direct + columns * entrances),
        scales(weights + columns),
        factors(scales + strip_tokens),
        entries(factors + state * factor_stride),
        left(entries + strip_tokens * entry_stride),
        count(left + state) {}

  Index state, lead;
  Index columns, entrances;
  Index entry_stride;   ///< from an entry to the one in the next row of the strip
  Index factor_stride;  ///< from a state's factors to the next state's

  Index rates = 0;      ///< (state)
  Index taps;           ///< (lead + 1)
  Index decays;         ///< (state, strip): of each token
  Index enter, direct;  ///< (columns, entrances): what tokens take from a column into the recurrence, and past it
  Index weights;        ///< (columns): the weights of columns
  Index scales;         ///< (strip): what multiplies a row's queries
  Index factors;        ///< (state, strip and columns): queries, and behind them the running keys
  Index entries;        ///< (strip, entry_stride): the rows of the map; zero behind the near columns
  Index left;           ///< (state): what the strip leaves of what came before it
  Index count;          ///< of all rows

  [[nodiscard]] Index queries(Index n) const { return factors + n * factor_stride; }
  [[nodiscard]] Index running_keys(Index n) const { return queries(n) + strip_tokens; }
  /// What the strip's token `r` takes from column r + k: each column's tokens are neighbours.
  [[nodiscard]] Index entrance(Index r, Index k) const { return (r + k) * entrances + std::min(lead - k, r); }
};

/// A strip's memory and the walk through it. Before walk() come each token's decays, queries and keys, what it takes from its columns, and
/// the running keys of the columns that began before the strip; it leaves the entries, the queries as they are at the strip's start, the
/// keys as they are at its end, and what the strip leaves of what came before it.
template <Real Scalar>
class StripWalk {
 public:
  static constexpr int width = register_lanes<Scalar>;
  using Lane = Lanes<Scalar, width>;

  StripWalk(Index state, Index lead)
      : rows_(state, lead), numbers_(rows_.count), token_queries_(state * strip_tokens), token_keys_(state * strip_tokens) {
    std::fill_n(numbers(rows_.entries), strip_tokens * rows_.entry_stride * width, Scalar(0));  // behind the near columns they stay so
  }

  [[nodiscard]] const StripRows& rows() const { return rows_; }
  [[nodiscard]] Scalar* numbers(Index row) { return numbers_.data() + row * width; }
  [[nodiscard]] const Scalar* numbers(Index row) const { return numbers_.data() + row * width; }
  [[nodiscard]] LanesAt<Scalar, width> at(Index row) { return lanes<width>(numbers(row)); }
  [[nodiscard]] LanesAt<const Scalar, width> at(Index row) const { return lanes<width>(numbers(row)); }
  /// What all channels share of token `r`: its query and its key of state `n`.
  [[nodiscard]] Scalar& token_query(Index n, Index r) { return token_queries_[n * strip_tokens + r]; }
  [[nodiscard]] Scalar& token_key(Index n, Index r) { return token_keys_[n * strip_tokens + r]; }

  /// The key of a state that the tokens so far have made from a near column.
  [[nodiscard]] LanesAt<Scalar, width> running_key(Index n, Index column) { return at(rows_.running_keys(n) + column); }
  /// Makes the columns before the strip invisible.
  void forget_columns() {
    for (Index n = 0; n < rows_.state; ++n) std::fill_n(numbers(rows_.running_keys(n)), rows_.lead * width, Scalar(0));
  }
  /// The strip is the one after the last: its first near columns are the last one's.
  void carry_columns() {
    for (Index n = 0; n < rows_.state; ++n)
      for (Index column = 0; column < rows_.lead; ++column) running_key(n, column) = Lane(running_key(n, column + strip_tokens));
  }

  /// Walks every near column down the strip's rows. `ReadsBefore`: a row reads the state before its own token's update.
  template <bool ReadsBefore>
  EIGEN_ALWAYS_INLINE void walk() {
    for (Index column = 0; column < rows_.columns; ++column) {
      const Index first_row = std::max(column - rows_.lead, Index(0));
      [&]<std::size_t... r>(std::index_sequence<r...>) {
        ((static_cast<Index>(r) == first_row ? walk_column<ReadsBefore, static_cast<int>(r)>(column) : void()), ...);
      }
      (std::make_index_sequence<register_rows>());
    }
    refer_queries<ReadsBefore>();
  }

  /// Hands the factors over, as channels `place` ...: queries and decays at strip `place_strip`.
  void store(Factors<Scalar>& factors, Index place, Index block, Index strip, Index place_strip, bool with_queries) {
    Scalar* const transposed = transposed_.data();
    for (Index n = 0; n < rows_.state; ++n) {
      transpose<width>(numbers(rows_.queries(n)), width, 2 * strip_tokens, [&](Index c) { return transposed + c * 2 * strip_tokens; });
      for (Index c = 0; c < width; ++c) {
        const Scalar *const queries = transposed + c * 2 * strip_tokens, *const keys = queries + strip_tokens;
        constexpr int part = std::min(width, register_rows);
        for (Index column = 0; column < strip_tokens; column += part)
          lanes<part>(factors.keys(place + c, block, strip) + column / width * factors.panel_stride() + n * width) =
              lanes<part>(keys + column);
        if (with_queries) lanes<register_rows>(factors.queries(place + c, place_strip) + n * strip_tokens) = lanes<register_rows>(queries);
      }
    }
    transpose<width>(numbers(rows_.left), width, rows_.state, [&](Index c) { return factors.decays(place + c, place_strip); });
  }

 private:
  /// One column from the row in which it, or its block, begins, down the strip's rows.
  template <bool ReadsBefore, int First>
  IMPLICIT_ATTENTION_FLATTEN void walk_column(Index column) {
    // Nothing that is stored to is reached through `this` below: compilers would read everything anew after each store.
    const Index states = rows_.state, kept_stride = rows_.factor_stride * width, entry_stride = rows_.entry_stride * width;
    const bool begun = column < rows_.lead;
    const int entering = static_cast<int>(std::min<Index>(column + 1, register_rows));  // the first row in which nothing enters any more
    const Scalar *decays = numbers(rows_.decays), *queries = token_queries_.data(), *keys = token_keys_.data();
    const Scalar *const enter = numbers(rows_.enter + column * rows_.entrances), *const direct =
                                                                                     numbers(rows_.direct + column * rows_.entrances);
    const Scalar* const scales = numbers(rows_.scales);
    Scalar *kept = numbers(rows_.running_keys(0) + column), *entry = numbers(rows_.entries + column);
    Tile<Scalar, width> sums;
    each_row<First>([&](std::size_t r) { sums[r].setZero(); });
    for (Index n = 0; n < states; ++n) {
      Lane walk = Lane::Zero();
      if (begun) walk = lanes<width>(kept);
      each_row<First>([&](std::size_t r) {
        if constexpr (ReadsBefore) sums[r] += queries[r] * walk;
        walk *= lanes<width>(decays + r * width);
        if (static_cast<int>(r) < entering) walk += keys[r] * lanes<width>(enter + (r - First) * width);
        if constexpr (!ReadsBefore) sums[r] += queries[r] * walk;
      });
      lanes<width>(kept) = walk;
      kept += kept_stride;
      decays += strip_tokens * width;
      queries += strip_tokens;
      keys += strip_tokens;
    }
    IMPLICIT_ATTENTION_UNROLL
    for (int r = 0; r < First; ++r) lanes<width>(entry + r * entry_stride).setZero();  // right of the row's token
    each_row<First>([&](std::size_t r) {
      LanesAt<Scalar, width> sum = lanes<width>(entry + static_cast<Index>(r) * entry_stride);
      if (static_cast<int>(r) < entering)
        sum = sums[r] * lanes<width>(scales + r * width) + lanes<width>(direct + (r - First) * width);
      else
        sum = sums[r] * lanes<width>(scales + r * width);
    });
  }

  /// The rows' queries as they are at the strip's start, and what the strip leaves.
  template <bool ReadsBefore>
  EIGEN_ALWAYS_INLINE void refer_queries() {
    const Index states = rows_.state, to_stride = rows_.factor_stride * width;
    const Scalar *decays = numbers(rows_.decays), *from = token_queries_.data();
    const Scalar* const scales = numbers(rows_.scales);
    Scalar *to = numbers(rows_.queries(0)), *left = numbers(rows_.left);
    for (Index n = 0; n < states; ++n) {
      Lane elapsed = Lane::Ones();
      each_row([&](std::size_t r) {
        const Lane decay = lanes<width>(decays + r * width);
        if constexpr (!ReadsBefore) elapsed *= decay;
        lanes<width>(to + r * width) = (from[r] * lanes<width>(scales + r * width)) * elapsed;
        if constexpr (ReadsBefore) elapsed *= decay;
      });
      lanes<width>(left) = elapsed;
      left += width;
      to += to_stride;
      decays += strip_tokens * width;
      from += strip_tokens;
    }
  }

  StripRows rows_;
  LaneRows<Scalar, width> numbers_;
  RowVector<Scalar> token_queries_, token_keys_;                               // (state, strip)
  Eigen::Array<Scalar, width, 2 * strip_tokens, Eigen::RowMajor> transposed_;  // a state's queries and keys, channel by channel
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
