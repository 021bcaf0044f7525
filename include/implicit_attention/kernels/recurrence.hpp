// A gated linear recurrence with a diagonal transition, as all kernels take it. No kernel knows what architecture it came from.
//
// The words of the kernels:
//
// | word    | meaning                                                                                                                   |
// |---------|---------------------------------------------------------------------------------------------------------------------------|
// | lane    | one of the numbers in a vector register: `Lanes` holds one number of each of several neighbouring channels                |
// | tile    | what is computed together: a register of channels (ChannelTile), IMPLICIT_ATTENTION_TILE_CHANNELS of them in walks and    |
// |         | scans, or rows times columns of a product (Tile)                                                                          |
// | strip   | `strip_tokens` neighbouring rows, that is output tokens, of a block                                                       |
// | panel   | neighbouring columns of a product: a register of keys, or the share of one worker                                         |
// | block   | IMPLICIT_ATTENTION_BLOCK_TOKENS neighbouring tokens of one document; exponents refer to the boundaries between blocks     |
// | chunk   | tokens that an application of a head's recurrence takes at a time                                                         |
// | near    | entries of a strip whose columns lie within it, convolution included: walked token by token                               |
// | far     | entries of a strip whose columns lie before it: products of query factors and key factors                                 |
// | run     | neighbouring things of a list (tokens, rows, channels, strips) that are handled as one range                              |
// | walk    | a loop from token to token: forwards in a scan, backwards along a row                                                     |
// | reducer | how a value is added to what is already there: sum, sum of absolute values, of positive parts, largest, smallest          |
// | taps    | the weights of the short convolution, (width, channels), the oldest token's first                                         |
// | lead    | width - 1: how many tokens later the convolution still sees a token                                                       |
#pragma once

#include <algorithm>
#include <iterator>
#include <limits>
#include <string_view>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/kernels/lanes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Fails unless `starts` are tokens in ascending order.
template <class = void>
void check_ascending(std::string_view who, std::string_view name, const std::vector<Index>& starts, Index tokens) {
  Index before = -1;
  for (const Index start : starts) {
    if (start <= before || start >= tokens)
      detail::raise(ErrorKind::value, who, ": ", name, " has ", start, before < 0 ? "" : detail::message(" after ", before),
                    ", expected tokens in ascending order, below ", tokens);
    before = start;
  }
}

/// For each channel `e`, with `N` states:
///
///     h_t[n] = exp(rate[n,e] * step[t,e]) h_{t-1}[n] + key[t,n] key_scale[t,e] a_t        (rate * step <= 0)
///     y_t    = query_scale[t,e] sum_n query[t,n] h_t[n]                                   (inclusive)
///     y_t    = query_scale[t,e] sum_n query[t,n] h_{t-1}[n] + diagonal[t,e] a_t           (read_before_update: RWKV)
///
/// so that y = R a. At the tokens in `starts` a new document begins: nothing before them is seen from them on.
/// An empty array stands for ones.
template <Real Scalar>
struct DiagonalRecurrence {
  using ScalarType = Scalar;
  Index tokens = 0, channels = 0, state = 1;
  Array<Scalar> step;         ///< (tokens, channels)
  Array<Scalar> rate;         ///< (state, channels), or empty
  Array<Scalar> query;        ///< (tokens, state), or empty
  Array<Scalar> key;          ///< (tokens, state), or empty
  Array<Scalar> query_scale;  ///< (tokens, channels), or empty
  Array<Scalar> key_scale;    ///< (tokens, channels), or empty
  bool read_before_update = false;
  Array<Scalar> diagonal;     ///< (tokens, channels), read_before_update only
  std::vector<Index> starts;  ///< first tokens of documents, ascending; a carried-in state is not seen from the first of them on

  /// The first token that token `row` can see; 0 may also see the carried-in state.
  [[nodiscard]] Index first_visible(Index row) const {
    const auto next = std::upper_bound(starts.begin(), starts.end(), row);
    return next == starts.begin() ? 0 : *std::prev(next);
  }

  void check() const;
};

template <Real Scalar>
void DiagonalRecurrence<Scalar>::check() const {
  const auto per_token = [&](const char* name, const Array<Scalar>& array, Index columns, const char* meaning) {
    if (array.rows() != 0) check_shape("DiagonalRecurrence", name, array, tokens, columns, meaning);
  };
  check_size("DiagonalRecurrence", "tokens", tokens, 0);
  check_size("DiagonalRecurrence", "channels", channels, 0);
  check_size("DiagonalRecurrence", "state", state, 1);
  check_shape("DiagonalRecurrence", "step", step, tokens, channels, "(tokens, channels)");
  if (rate.rows() != 0 || state != 1) check_shape("DiagonalRecurrence", "rate", rate, state, channels, "(state, channels)");
  per_token("query", query, state, "(tokens, state)");
  per_token("key", key, state, "(tokens, state)");
  per_token("query_scale", query_scale, channels, "(tokens, channels)");
  per_token("key_scale", key_scale, channels, "(tokens, channels)");
  if (read_before_update) check_shape("DiagonalRecurrence", "diagonal", diagonal, tokens, channels, "(tokens, channels)");
  check_ascending("DiagonalRecurrence", "starts", starts, tokens);
}

/// A recurrence between a causal depthwise convolution and a scale of its rows: for each channel `e`
///
///     A = diag(gate) (R + diag(skip)) diag(activation) Conv diag(column_weights),     Conv[i, i-W+1+t] = taps[t]
///
/// An empty array stands for the identity (for `skip`: zero).
template <class Recurrence>
struct Surrounded {
  using Scalar = typename Recurrence::ScalarType;
  Recurrence recurrence;
  Array<Scalar> gate;                     ///< (tokens, channels)
  Array<Scalar> row_weights;              ///< (tokens, channels), a reduction's: they scale rows, too, and applications have none
  Array<Scalar> skip;                     ///< (1, channels)
  Array<Scalar> activation;               ///< (tokens, channels)
  Array<Scalar> taps;                     ///< (width, channels): transposed, so that a tap is contiguous over channels
  std::vector<Index> convolution_starts;  ///< documents that the convolution does not look beyond, ascending
  Array<Scalar> column_weights;           ///< (tokens, channels)

  [[nodiscard]] Index width() const { return taps.empty() ? 1 : taps.rows(); }
  /// The last token that the convolution carries token `token` to.
  [[nodiscard]] Index last_reached(Index token) const { return std::min(token + width(), next_convolution_start(token)) - 1; }
  /// The start of the next document after `token`'s, or the end of the sequence.
  [[nodiscard]] Index next_convolution_start(Index token) const {
    const auto next = std::upper_bound(convolution_starts.begin(), convolution_starts.end(), token);
    return next == convolution_starts.end() ? recurrence.tokens : *next;
  }
  /// The start of the document `token` is in; where none has started yet, a number below that of any token, carried in or not.
  [[nodiscard]] Index convolution_start(Index token) const {
    const auto next = std::upper_bound(convolution_starts.begin(), convolution_starts.end(), token);
    return next == convolution_starts.begin() ? std::numeric_limits<Index>::min() : *std::prev(next);
  }
};

template <Real Scalar>
using SurroundedDiagonal = Surrounded<DiagonalRecurrence<Scalar>>;

/// The names of both before version 0.2.
template <class Recurrence>
using Dressed [[deprecated("renamed: Surrounded")]] = Surrounded<Recurrence>;
template <Real Scalar>
using DressedDiagonal [[deprecated("renamed: SurroundedDiagonal")]] = SurroundedDiagonal<Scalar>;

namespace detail {

/// The arrays of a surrounded recurrence from one channel on, as walks of neighbouring channels read them. Queries and keys, which have a
/// column a state, begin with the first one.
template <Real Scalar>
struct SurroundedRows {
  using Rows = ArrayRows<Scalar>;
  SurroundedRows() = default;
  EIGEN_DONT_INLINE SurroundedRows(const SurroundedDiagonal<Scalar>& surrounded, Index channel)
      : tokens(surrounded.recurrence.tokens),
        query(surrounded.recurrence.query),
        key(surrounded.recurrence.key),
        step(surrounded.recurrence.step, channel),
        query_scale(surrounded.recurrence.query_scale, channel),
        key_scale(surrounded.recurrence.key_scale, channel),
        diagonal(surrounded.recurrence.diagonal, channel),
        gate(surrounded.gate, channel),
        row_weights(surrounded.row_weights, channel),
        skip(surrounded.skip, channel),
        activation(surrounded.activation, channel),
        column_weights(surrounded.column_weights, channel) {}

  /// Prefetches what a walk reads of a token, if there is such a token.
  template <int Width>
  EIGEN_ALWAYS_INLINE void prefetch_token(Index token) const {
    if (token < 0 || token >= tokens) return;
    for (const Rows* rows : {&step, &query_scale, &key_scale, &diagonal, &activation, &gate, &row_weights, &column_weights})
      prefetch<Width>(*rows, token);
  }

  Index tokens = 0;
  Rows query, key, step, query_scale, key_scale, diagonal, gate, row_weights, skip, activation, column_weights;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
