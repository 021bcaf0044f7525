// One strip of tokens of a register of neighbouring channels: what all kernels of whole maps begin with.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include <implicit_attention/kernels/blocks.hpp>
#include <implicit_attention/kernels/transpose.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Walks the near columns of a strip through its tokens, as many channels at a time as a register holds, and leaves
/// - entries: the strip's rows by its near columns first - lead .. first + tokens, complete (all terms and weights),
/// - queries: factors of its rows, row weights included, referred to the strip's start,
/// - keys: factors of its own columns first - lead .. first - lead + strip_tokens, referred to the strip's end,
/// - decays, steps: what the strip leaves of what came before it, and the sum of its steps.
/// The running key of column j at token i, w = decay_i w + taps[lead - (i-j)] key_i, is what token i makes of the column, convolution
/// included; so convolution, activation and weights cost a multiplication where they occur and nothing beyond.
template <Real Scalar>
class ChannelTile {
 public:
  static constexpr int width = register_lanes<Scalar>;
  using Lane = Lanes<Scalar, width>;

  explicit ChannelTile(const BlockPlan<Scalar>& plan)
      : plan_(&plan),
        surrounded_(&plan.surrounded()),
        recurrence_(&surrounded_->recurrence),
        state_(recurrence_->state),
        lead_(plan.lead()),
        token_queries_(state_ * strip_tokens),
        token_keys_(state_ * strip_tokens) {
    Index rows = 0;
    const auto room = [&](Index& first, Index count) {
      first = rows;
      rows += count;
    };
    room(rates_, state_);
    room(taps_, lead_ + 1);
    room(decays_, strip_tokens * state_);
    room(enter_, columns() * entrances());
    room(direct_, columns() * entrances());
    room(weights_, columns());
    room(row_, strip_tokens);
    room(factors_, state_ * factor_rows());
    room(entries_, strip_tokens * entry_stride());
    room(decay_, state_);
    numbers_.resize(rows);
    std::fill_n(numbers(entries_), strip_tokens * entry_stride() * width, Scalar(0));  // behind the near columns nothing else is written
  }

  /// Takes up to `width` channels.
  void load(const Index* channels, Index count) {
    count_ = count;
    for (Index c = 0; c < width; ++c) channels_[static_cast<std::size_t>(c)] = channels[std::min(c, count - 1)];
    neighbours_ = count == width;
    for (Index c = 1; c < count; ++c) neighbours_ = neighbours_ && channels[c] == channels[0] + c;
    const Index column = neighbours_ ? channels_[0] : 0;
    rows_ = SurroundedRows<Scalar>(*surrounded_, column);
    const Rows rates(recurrence_->rate, column), taps(surrounded_->taps, column);
    for (Index n = 0; n < state_; ++n) at(rates_ + n) = part(rates, n, Scalar(1));
    for (Index tap = 0; tap <= lead_; ++tap) at(taps_ + tap) = part(taps, tap, Scalar(1));
    skip_ = part(rows_.skip, 0, Scalar(0));
    next_ = -1;
  }

  [[nodiscard]] Index channels() const { return count_; }
  [[nodiscard]] Index columns() const { return lead_ + strip_tokens; }
  [[nodiscard]] Lane rate(Index n) const { return at(rates_ + n); }
  /// Entry of the strip's row `row` and of column first - lead + `column`; zero right of the row's own token.
  [[nodiscard]] Lane entry(Index row, Index column) const { return at(entries_ + row * entry_stride() + column); }
  /// All of them: (rows of the strip, entry_stride()), zero behind the near columns.
  [[nodiscard]] const Scalar* entries() const { return numbers(entries_); }
  [[nodiscard]] Index entry_stride() const { return (columns() + strip_tokens - 1) / strip_tokens * strip_tokens; }
  [[nodiscard]] const Lane& steps() const { return steps_; }

  /// Takes the strip of `count` tokens from `first` on, of the document that begins at `document`. Strips that follow each other cost
  /// least.
  IMPLICIT_ATTENTION_FLATTEN void compute(Index first, Index count, Index document) {
    if (first == document)
      for (Index n = 0; n < state_; ++n) std::fill_n(running_keys(n), lead_ * width, Scalar(0));
    else if (first == next_)
      for (Index n = 0; n < state_; ++n)
        for (Index column = 0; column < lead_; ++column)
          lanes<width>(running_keys(n) + column * width) = Lane(lanes<width>(running_keys(n) + (column + strip_tokens) * width));
    else
      walk_up_to(first, document);
    next_ = first + strip_tokens;

    prepare(first, count, document);
    if (recurrence_->read_before_update)
      walk_strip<true>();
    else
      walk_strip<false>();
  }

  /// Hands the factors over, as channels `place` ...: queries and decays at strip `place_strip`.
  void store(Factors<Scalar>& factors, Index place, Index block, Index strip, Index place_strip, bool with_queries) {
    Scalar* const transposed = transposed_.data();
    for (Index n = 0; n < state_; ++n) {
      transpose<width>(numbers(factors_ + n * factor_rows()), width, 2 * strip_tokens,
                       [&](Index c) { return transposed + c * 2 * strip_tokens; });
      for (Index c = 0; c < width; ++c) {
        const Scalar *const queries = transposed + c * 2 * strip_tokens, *const keys = queries + strip_tokens;
        constexpr int part = std::min(width, register_rows);
        for (Index column = 0; column < strip_tokens; column += part)
          lanes<part>(factors.keys(place + c, block, strip) + column / width * factors.panel_stride() + n * width) =
              lanes<part>(keys + column);
        if (with_queries) lanes<register_rows>(factors.queries(place + c, place_strip) + n * strip_tokens) = lanes<register_rows>(queries);
      }
    }
    transpose<width>(numbers(decay_), width, state_, [&](Index c) { return factors.decays(place + c, place_strip); });
  }

 private:
  using Rows = ArrayRows<Scalar>;

  [[nodiscard]] Scalar* numbers(Index row) { return numbers_.data() + row * width; }
  [[nodiscard]] const Scalar* numbers(Index row) const { return numbers_.data() + row * width; }
  /// A state's running keys, one row for each near column; the strip's queries stand before them.
  [[nodiscard]] Scalar* running_keys(Index n) { return numbers(factors_ + n * factor_rows() + strip_tokens); }
  [[nodiscard]] Index factor_rows() const { return strip_tokens + columns(); }
  [[nodiscard]] LanesAt<Scalar, width> at(Index row) { return lanes<width>(numbers(row)); }
  [[nodiscard]] LanesAt<const Scalar, width> at(Index row) const { return lanes<width>(numbers(row)); }

  /// The channels' numbers of one row; `otherwise` where the array is empty.
  [[nodiscard]] Lane part(const Rows& array, Index row, Scalar otherwise) const {
    if (array.empty()) return Lane::Constant(otherwise);
    const Scalar* numbers = array.row(row);
    if (neighbours_) return lanes<width>(numbers);
    Lane out;
    for (Index c = 0; c < width; ++c) out[c] = numbers[channels_[static_cast<std::size_t>(c)]];
    return out;
  }

  /// A step; at a document's first token nothing is left to decay, whatever stands there.
  [[nodiscard]] Lane step(Index token, Index document) const {
    return token == document ? Lane::Zero() : part(rows_.step, token, Scalar(0));
  }

  /// What token `token` takes from the column lead - k before it: tap and column weight.
  [[nodiscard]] Lane entering(Index token, Index k, const Lane& weight) const {
    if (!plan_->reaches(token - lead_ + k, token)) return Lane::Zero();
    return at(taps_ + k) * weight;
  }
  [[nodiscard]] Lane column_weight(Index column) const {
    return column < 0 || column >= recurrence_->tokens ? Lane::Zero() : part(rows_.column_weights, column, Scalar(1));
  }
  [[nodiscard]] Lane near_scale(Index token) const {
    return part(rows_.key_scale, token, Scalar(1)) * part(rows_.activation, token, Scalar(1));
  }

  /// The running keys of the `lead` columns before `first`, from the tokens they enter with.
  void walk_up_to(Index first, Index document) {
    for (Index n = 0; n < state_; ++n) std::fill_n(running_keys(n), lead_ * width, Scalar(0));
    for (Index token = std::max(first - lead_, document); token < first; ++token) {
      const Lane elapsed = step(token, document), scale = near_scale(token);
      for (Index n = 0; n < state_; ++n) {
        const Lane decay = (rate(n) * elapsed).exp();
        const Scalar key = recurrence_->key.empty() ? Scalar(1) : recurrence_->key(token, n);
        for (Index column = 0; column <= token - (first - lead_); ++column) {
          LanesAt<Scalar, width> kept = lanes<width>(running_keys(n) + column * width);
          kept = kept * decay + key * (entering(token, first - token + column, column_weight(first - lead_ + column)) * scale);
        }
      }
    }
  }

  IMPLICIT_ATTENTION_FLATTEN void prepare(Index first, Index count, Index document) {
    steps_.setZero();
    for (Index column = 0; column < columns(); ++column) at(weights_ + column) = column_weight(first - lead_ + column);
    for (Index r = 0; r < strip_tokens; ++r) {
      const Index token = first + r;
      if (neighbours_) rows_.template prefetch_token<width>(token + strip_tokens);  // a fifth of all terms' time, if not
      if (r >= count) {  // a row that is not there: nothing decays, enters or asks
        for (Index n = 0; n < state_; ++n) {
          token_queries_[n * strip_tokens + r] = token_keys_[n * strip_tokens + r] = Scalar(0);
          at(decays_ + n * strip_tokens + r).setZero();
        }
        for (Index k = 0; k <= lead_; ++k) {
          at(enter_ + entrance(r, k)).setZero();
          at(direct_ + entrance(r, k)).setZero();
        }
        at(row_ + r).setZero();
        continue;
      }
      const Lane elapsed = step(token, document), inner = part(rows_.activation, token, Scalar(1)), scale = near_scale(token);
      steps_ += elapsed;
      const Scalar* query = rows_.query.empty() ? nullptr : rows_.query.row(token);
      const Scalar* key = rows_.key.empty() ? nullptr : rows_.key.row(token);
      for (Index n = 0; n < state_; ++n) {
        token_queries_[n * strip_tokens + r] = query ? query[n] : Scalar(1);
        token_keys_[n * strip_tokens + r] = key ? key[n] : Scalar(1);
        at(decays_ + n * strip_tokens + r) = rate(n) * elapsed;
      }
      Lane weight = part(rows_.gate, token, Scalar(1));
      if (!rows_.row_weights.empty()) weight *= part(rows_.row_weights, token, Scalar(1));
      at(row_ + r) = weight * part(rows_.query_scale, token, Scalar(1));
      Lane past = skip_;  // what goes past the recurrence
      if (recurrence_->read_before_update) past += part(rows_.diagonal, token, Scalar(0));
      past *= inner * weight;
      for (Index k = 0; k <= lead_; ++k) {
        const Lane enter = entering(token, k, at(weights_ + r + k));
        at(enter_ + entrance(r, k)) = enter * scale;
        at(direct_ + entrance(r, k)) = enter * past;
      }
    }
    Numbers<Scalar> decays(numbers(decays_), strip_tokens * state_ * width);
    decays = decays.exp();
  }

  /// Where it stands what the strip's token `r` takes from column r + k: each column's tokens are neighbours.
  [[nodiscard]] Index entrance(Index r, Index k) const { return (r + k) * entrances() + std::min(lead_ - k, r); }
  [[nodiscard]] Index entrances() const { return std::min(lead_ + 1, strip_tokens); }

  template <bool Exclusive>
  EIGEN_ALWAYS_INLINE void walk_strip() {
    for (Index column = 0; column < columns(); ++column) {
      const Index first_row = std::max(column - lead_, Index(0));
      [&]<std::size_t... r>(std::index_sequence<r...>) {
        ((static_cast<Index>(r) == first_row ? walk_column<Exclusive, static_cast<int>(r)>(column) : void()), ...);
      }
      (std::make_index_sequence<register_rows>());
    }
    refer_queries<Exclusive>();
  }

  /// One column from the row in which it, or its block, begins, down the strip's rows.
  template <bool Exclusive, int First>
  IMPLICIT_ATTENTION_FLATTEN void walk_column(Index column) {
    // Nothing that is stored to is reached through `this` below: compilers would read everything anew after each store.
    const Index states = state_, kept_stride = factor_rows() * width, entry_stride = this->entry_stride() * width;
    const bool begun = column < lead_;
    const int entering = static_cast<int>(std::min<Index>(column + 1, register_rows));  // the row in which nothing enters any more
    const Scalar *decays = numbers(decays_), *queries = token_queries_.data(), *keys = token_keys_.data();
    const Scalar *const enter = numbers(enter_ + column * entrances()), *const direct = numbers(direct_ + column * entrances());
    const Scalar* const row = numbers(row_);
    Scalar *kept = running_keys(0) + column * width, *entry = numbers(entries_ + column);
    Tile<Scalar, width> sums;
    each_row([&](std::size_t r) { sums[r].setZero(); });
    for (Index n = 0; n < states; ++n) {
      Lane walk = Lane::Zero();
      if (begun) walk = lanes<width>(kept);
      each_row([&](std::size_t r) {
        if (static_cast<int>(r) < First) return;
        if constexpr (Exclusive) sums[r] += queries[r] * walk;
        walk *= lanes<width>(decays + r * width);
        if (static_cast<int>(r) < entering) walk += keys[r] * lanes<width>(enter + (r - First) * width);
        if constexpr (!Exclusive) sums[r] += queries[r] * walk;
      });
      lanes<width>(kept) = walk;
      kept += kept_stride;
      decays += strip_tokens * width;
      queries += strip_tokens;
      keys += strip_tokens;
    }
    each_row([&](std::size_t r) {
      LanesAt<Scalar, width> sum = lanes<width>(entry + static_cast<Index>(r) * entry_stride);
      if (static_cast<int>(r) < First)
        sum.setZero();  // right of the row's token
      else if (static_cast<int>(r) < entering)
        sum = sums[r] * lanes<width>(row + r * width) + lanes<width>(direct + (r - First) * width);
      else
        sum = sums[r] * lanes<width>(row + r * width);
    });
  }

  /// The rows' queries as they are at the strip's start, and what the strip leaves.
  template <bool Exclusive>
  EIGEN_ALWAYS_INLINE void refer_queries() {
    const Index states = state_, to_stride = factor_rows() * width;
    const Scalar *decays = numbers(decays_), *from = token_queries_.data();
    const Scalar* const row = numbers(row_);
    Scalar *to = numbers(factors_), *left = numbers(decay_);
    for (Index n = 0; n < states; ++n) {
      Lane elapsed = Lane::Ones();
      each_row([&](std::size_t r) {
        const Lane decay = lanes<width>(decays + r * width);
        if constexpr (!Exclusive) elapsed *= decay;
        lanes<width>(to + r * width) = (from[r] * lanes<width>(row + r * width)) * elapsed;
        if constexpr (Exclusive) elapsed *= decay;
      });
      lanes<width>(left) = elapsed;
      left += width;
      to += to_stride;
      decays += strip_tokens * width;
      from += strip_tokens;
    }
  }

  const BlockPlan<Scalar>* plan_;
  const SurroundedDiagonal<Scalar>* surrounded_;
  const DiagonalRecurrence<Scalar>* recurrence_;
  Index state_, lead_, count_ = 0;
  std::array<Index, static_cast<std::size_t>(width)> channels_{};
  bool neighbours_ = false;
  SurroundedRows<Scalar> rows_;  // from the first channel on, where they are neighbours; else from column 0 on
  Index next_ = -1;              // the token after the last strip
  Lane skip_, steps_;
  RowVector<Scalar> token_queries_, token_keys_;  // (state, strip)
  LaneRows<Scalar, width> numbers_;               // one piece of memory: where these begin in it
  Index rates_, taps_;                            // (state), (lead + 1)
  Index decays_;                                  // (state, strip)
  Index enter_, direct_;                          // (columns, entrances): what tokens take from a column into the recurrence, and past it
  Index weights_;                                 // (columns)
  Index row_;                                     // (strip): what multiplies a row's queries
  Index factors_;                                 // (state, strip and columns): queries and running keys
  Index entries_;                                 // (strip, entry_stride)
  Index decay_;                                   // (state): what the strip leaves
  Eigen::Array<Scalar, width, 2 * strip_tokens, Eigen::RowMajor> transposed_;  // a state's queries and keys, channel by channel
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
