// One strip of tokens of a register of neighbouring channels: what all kernels of whole maps begin with.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include <implicit_attention/kernels/blocks.hpp>

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
      : plan_(&plan), dressed_(&plan.dressed()), recurrence_(&dressed_->recurrence), state_(recurrence_->state), lead_(plan.lead()) {
    Index rows = 0;
    const auto room = [&](Index& first, Index count) {
      first = rows;
      rows += count;
    };
    room(rates_, state_);
    room(taps_, lead_ + 1);
    room(decays_, strip_tokens * state_);
    room(enter_, strip_tokens * (lead_ + 1));
    room(direct_, strip_tokens * (lead_ + 1));
    room(weights_, columns());
    room(row_, strip_tokens);
    room(walk_, state_ * columns());
    room(entries_, strip_tokens * columns());
    room(queries_, state_ * strip_tokens);
    room(decay_, state_);
    numbers_.setZero(rows, width);
    zeros_.assign(static_cast<std::size_t>(state_), Scalar(0));
    ones_.assign(static_cast<std::size_t>(state_), Scalar(1));
  }

  /// Takes up to `width` channels.
  void load(const Index* channels, Index count) {
    count_ = count;
    for (Index c = 0; c < width; ++c) channels_[static_cast<std::size_t>(c)] = channels[std::min(c, count - 1)];
    neighbours_ = count == width;
    for (Index c = 1; c < count; ++c) neighbours_ = neighbours_ && channels[c] == channels[0] + c;
    for (Index n = 0; n < state_; ++n) at(rates_ + n) = part(recurrence_->rate, n, Scalar(1));
    for (Index tap = 0; tap <= lead_; ++tap) at(taps_ + tap) = part(dressed_->taps, tap, Scalar(1));
    skip_ = part(dressed_->skip, 0, Scalar(0));
    next_ = -1;
  }

  [[nodiscard]] Index channels() const { return count_; }
  [[nodiscard]] Index columns() const { return lead_ + strip_tokens; }
  [[nodiscard]] Index lead() const { return lead_; }
  [[nodiscard]] Lane rate(Index n) const { return at(rates_ + n); }
  /// Entry of the strip's row `row` and of column first - lead + `column`; zero right of the row's own token.
  [[nodiscard]] Lane entry(Index row, Index column) const { return at(entries_ + row * columns() + column); }
  [[nodiscard]] const Scalar* entries() const { return numbers(entries_); }
  [[nodiscard]] const Lane& steps() const { return steps_; }

  /// Takes the strip of `count` tokens from `first` on, of the document that begins at `document`. Strips that follow each other cost
  /// least.
  IMPLICIT_ATTENTION_FLATTEN void compute(Index first, Index count, Index document) {
    if (first == document)
      for (Index n = 0; n < state_; ++n) std::fill_n(numbers(walk_ + n * columns()), lead_ * width, Scalar(0));
    else if (first == next_)
      for (Index n = 0; n < state_; ++n)
        std::copy_n(numbers(walk_ + n * columns() + strip_tokens), lead_ * width, numbers(walk_ + n * columns()));
    else
      walk_up_to(first, document);
    next_ = first + strip_tokens;

    prepare(first, count, document);
    if (recurrence_->exclusive)
      walk_columns<true>();
    else
      walk_columns<false>();
    for (Index n = 0; n < state_; ++n) {
      Lane elapsed = Lane::Ones();
      for (Index r = 0; r < strip_tokens; ++r) {
        if (!recurrence_->exclusive) elapsed *= at(decays_ + r * state_ + n);
        at(queries_ + n * strip_tokens + r) = (query_[static_cast<std::size_t>(r)][n] * at(row_ + r)) * elapsed;
        if (recurrence_->exclusive) elapsed *= at(decays_ + r * state_ + n);
      }
      at(decay_ + n) = elapsed;
    }
  }

  /// Hands the factors over, as channels `place` ...: queries and decays at strip `place_strip`.
  void store(Factors<Scalar>& factors, Index place, Index block, Index strip, Index place_strip, bool with_queries) const {
    constexpr int part = std::min(width, register_rows);
    for (Index n = 0; n < state_; ++n) {
      for (Index column = 0; column < strip_tokens; column += part)
        scatter<part>(numbers(walk_ + n * columns() + column),
                      [&](Index c) { return factors.keys(place + c, block, strip) + column / width * factors.panel_stride() + n * width; });
      if (with_queries)
        scatter<register_rows>(numbers(queries_ + n * strip_tokens),
                               [&](Index c) { return factors.queries(place + c, place_strip) + n * strip_tokens; });
      scatter<1>(numbers(decay_ + n), [&](Index c) { return factors.decays(place + c, place_strip) + n; });
    }
  }

  /// `Count` lanes, turned: each channel's numbers to target(channel).
  template <int Count, class Target>
  void scatter(const Scalar* from, const Target& target) const {
    for (Index c = 0; c < count_; ++c) {
      Scalar* to = target(c);
      for (Index k = 0; k < Count; ++k) to[k] = from[k * width + c];
    }
  }

 private:
  [[nodiscard]] Scalar* numbers(Index row) { return numbers_.data() + row * width; }
  [[nodiscard]] const Scalar* numbers(Index row) const { return numbers_.data() + row * width; }
  [[nodiscard]] Eigen::Map<Lane> at(Index row) { return lanes<width>(numbers(row)); }
  [[nodiscard]] Eigen::Map<const Lane> at(Index row) const { return lanes<width>(numbers(row)); }

  /// The channels' numbers of one row; `otherwise` where the array is empty.
  [[nodiscard]] Lane part(const Array<Scalar>& array, Index row, Scalar otherwise) const {
    if (array.empty()) return Lane::Constant(otherwise);
    const Scalar* numbers = array.row(row);
    if (neighbours_) return lanes<width>(numbers + channels_[0]);
    Lane out;
    for (Index c = 0; c < width; ++c) out[c] = numbers[channels_[static_cast<std::size_t>(c)]];
    return out;
  }

  /// A step; at a document's first token nothing is left to decay, whatever stands there.
  [[nodiscard]] Lane step(Index token, Index document) const {
    return token == document ? Lane(Lane::Zero()) : part(recurrence_->step, token, Scalar(0));
  }

  /// What token `token` takes from the column lead - k before it: tap and column weight.
  [[nodiscard]] Lane entering(Index token, Index k, const Lane& weight) const {
    if (!plan_->reaches(token - lead_ + k, token)) return Lane::Zero();
    return at(taps_ + k) * weight;
  }
  [[nodiscard]] Lane column_weight(Index column) const {
    return column < 0 || column >= recurrence_->tokens ? Lane(Lane::Zero()) : part(dressed_->column_scale, column, Scalar(1));
  }
  [[nodiscard]] Lane near_scale(Index token) const {
    return part(recurrence_->key_scale, token, Scalar(1)) * part(dressed_->inner_scale, token, Scalar(1));
  }

  /// The running keys of the `lead` columns before `first`, from the tokens they enter with.
  void walk_up_to(Index first, Index document) {
    for (Index n = 0; n < state_; ++n) std::fill_n(numbers(walk_ + n * columns()), lead_ * width, Scalar(0));
    for (Index token = std::max(first - lead_, document); token < first; ++token) {
      const Lane elapsed = step(token, document), scale = near_scale(token);
      for (Index n = 0; n < state_; ++n) {
        const Lane decay = (rate(n) * elapsed).exp();
        const Scalar key = recurrence_->key.empty() ? Scalar(1) : recurrence_->key(token, n);
        for (Index column = 0; column <= token - (first - lead_); ++column) {
          Eigen::Map<Lane> walk = at(walk_ + n * columns() + column);
          walk = walk * decay + key * (entering(token, first - token + column, column_weight(first - lead_ + column)) * scale);
        }
      }
    }
  }

  IMPLICIT_ATTENTION_FLATTEN void prepare(Index first, Index count, Index document) {
    steps_.setZero();
    for (Index column = 0; column < columns(); ++column) at(weights_ + column) = column_weight(first - lead_ + column);
    for (Index r = 0; r < strip_tokens; ++r) {
      const std::size_t row = static_cast<std::size_t>(r);
      const Index token = first + r;
      if (neighbours_) prefetch_token<width>(*dressed_, token + strip_tokens, channels_[0]);  // a fifth of all terms' time, if not
      if (r >= count) {  // a row that is not there: nothing decays, enters or asks
        query_[row] = key_[row] = zeros_.data();
        std::fill_n(numbers(decays_ + r * state_), state_ * width, Scalar(0));
        std::fill_n(numbers(enter_ + r * (lead_ + 1)), (lead_ + 1) * width, Scalar(0));
        std::fill_n(numbers(direct_ + r * (lead_ + 1)), (lead_ + 1) * width, Scalar(0));
        at(row_ + r).setZero();
        continue;
      }
      query_[row] = recurrence_->query.empty() ? ones_.data() : recurrence_->query.row(token);
      key_[row] = recurrence_->key.empty() ? ones_.data() : recurrence_->key.row(token);
      const Lane elapsed = step(token, document), inner = part(dressed_->inner_scale, token, Scalar(1)), scale = near_scale(token);
      steps_ += elapsed;
      for (Index n = 0; n < state_; ++n) at(decays_ + r * state_ + n) = rate(n) * elapsed;
      Lane weight = part(dressed_->row_scale, token, Scalar(1));
      if (!dressed_->row_weights.empty()) weight *= part(dressed_->row_weights, token, Scalar(1));
      at(row_ + r) = weight * part(recurrence_->query_scale, token, Scalar(1));
      Lane past = skip_;  // what goes past the recurrence
      if (recurrence_->exclusive) past += part(recurrence_->diagonal, token, Scalar(0));
      past *= inner * weight;
      for (Index k = 0; k <= lead_; ++k) {
        const Lane enter = entering(token, k, at(weights_ + r + k));
        at(enter_ + r * (lead_ + 1) + k) = enter * scale;
        at(direct_ + r * (lead_ + 1) + k) = enter * past;
      }
    }
    Eigen::Map<Eigen::Array<Scalar, 1, Eigen::Dynamic>> decays(numbers(decays_), strip_tokens * state_ * width);
    decays = decays.exp();
  }

  template <bool Exclusive>
  void walk_columns() {
    for (Index column = 0; column < columns(); ++column) {
      const Index first_row = std::max(column - lead_, Index(0));
      [&]<std::size_t... r>(std::index_sequence<r...>) {
        ((static_cast<Index>(r) == first_row ? walk_column<Exclusive, static_cast<int>(r)>(column) : void()), ...);
      }
      (std::make_index_sequence<register_rows>());
    }
  }

  /// One column from the row in which it, or its block, begins, down the strip's rows.
  template <bool Exclusive, int First>
  IMPLICIT_ATTENTION_FLATTEN void walk_column(Index column) {
    Tile<Scalar, width> sums;
    each_row([&](std::size_t r) { sums[r].setZero(); });
    for (Index n = 0; n < state_; ++n) {
      Eigen::Map<Lane> kept = at(walk_ + n * columns() + column);
      Lane walk = Lane::Zero();
      if (column < lead_) walk = kept;
      [&]<std::size_t... r>(std::index_sequence<r...>) { (step_down<Exclusive, First + static_cast<int>(r)>(column, n, walk, sums), ...); }
      (std::make_index_sequence<static_cast<std::size_t>(register_rows - First)>());
      kept = walk;
    }
    for (Index r = 0; r < strip_tokens; ++r) {
      Eigen::Map<Lane> entry = at(entries_ + r * columns() + column);
      if (r < First) {  // right of the row's token
        entry.setZero();
        continue;
      }
      entry = sums[static_cast<std::size_t>(r)] * at(row_ + r);
      if (r <= column) entry += at(direct_ + r * (lead_ + 1) + column - r);
    }
  }

  template <bool Exclusive, int R>
  EIGEN_ALWAYS_INLINE void step_down(Index column, Index n, Lane& walk, Tile<Scalar, width>& sums) const {
    const Scalar query = query_[R][n];
    if constexpr (Exclusive) sums[R] += query * walk;
    walk *= at(decays_ + R * state_ + n);
    if (R <= column) walk += key_[R][n] * at(enter_ + R * (lead_ + 1) + column - R);
    if constexpr (!Exclusive) sums[R] += query * walk;
  }

  const BlockPlan<Scalar>* plan_;
  const DressedDiagonal<Scalar>* dressed_;
  const DiagonalRecurrence<Scalar>* recurrence_;
  Index state_, lead_, count_ = 0;
  std::array<Index, static_cast<std::size_t>(width)> channels_{};
  bool neighbours_ = false;
  Index next_ = -1;  // the token after the last strip
  Lane skip_, steps_;
  std::array<const Scalar*, register_rows> query_{}, key_{};  // (state) each
  std::vector<Scalar> zeros_, ones_;                          // (state)
  LaneRows<Scalar, width> numbers_;                           // one piece of memory: where these begin in it
  Index rates_, taps_;                                        // (state), (lead + 1)
  Index decays_;                                              // (strip, state)
  Index enter_, direct_;   // (strip, lead + 1): what a token takes from a column into the recurrence, and past it
  Index weights_;          // (columns)
  Index row_;              // (strip): what multiplies a row's queries
  Index walk_;             // (state, columns): running keys
  Index entries_;          // (strip, columns)
  Index queries_, decay_;  // (state, strip), (state)
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
