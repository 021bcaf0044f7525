// Strips of tokens of a register of channels, one after the other: what all kernels of whole maps begin with.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include <implicit_attention/kernels/blocks.hpp>
#include <implicit_attention/kernels/strip_walk.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The channels of a register and their numbers of a token: read in place where the channels are neighbours, else collected.
template <Real Scalar>
class ChannelRegister {
 public:
  static constexpr int width = register_lanes<Scalar>;
  using Lane = Lanes<Scalar, width>;
  using Rows = ArrayRows<Scalar>;

  explicit ChannelRegister(const SurroundedDiagonal<Scalar>& surrounded) : surrounded_(&surrounded) {}

  /// Takes up to `width` channels; where there are fewer, the last one fills the remaining places.
  void load(const Index* channels, Index count) {
    count_ = count;
    for (Index c = 0; c < width; ++c) channels_[static_cast<std::size_t>(c)] = channels[std::min(c, count - 1)];
    neighbours_ = count == width;
    for (Index c = 1; c < count; ++c) neighbours_ = neighbours_ && channels[c] == channels[0] + c;
    rows_ = SurroundedRows<Scalar>(*surrounded_, first_column());
  }

  [[nodiscard]] Index count() const { return count_; }
  /// The arrays from the first channel on where the channels are neighbours, else from column 0 on: for part() to read.
  [[nodiscard]] const SurroundedRows<Scalar>& rows() const { return rows_; }
  [[nodiscard]] Rows rows_of(const Array<Scalar>& array) const { return Rows(array, first_column()); }

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
  [[nodiscard]] Lane column_weight(Index column) const {
    return column < 0 || column >= rows_.tokens ? Lane::Zero() : part(rows_.column_weights, column, Scalar(1));
  }
  /// What scales the keys that a token writes.
  [[nodiscard]] Lane key_scale(Index token) const {
    return part(rows_.key_scale, token, Scalar(1)) * part(rows_.activation, token, Scalar(1));
  }
  /// Prefetches a token's numbers, where they stand together.
  void prefetch_token(Index token) const {
    if (neighbours_) rows_.template prefetch_token<width>(token);
  }

 private:
  [[nodiscard]] Index first_column() const { return neighbours_ ? channels_[0] : 0; }

  const SurroundedDiagonal<Scalar>* surrounded_;
  Index count_ = 0;
  std::array<Index, static_cast<std::size_t>(width)> channels_{};
  bool neighbours_ = false;
  SurroundedRows<Scalar> rows_;
};

/// Prepares strips of tokens of a register of channels, has their near columns walked, and leaves
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
      : plan_(&plan), recurrence_(&plan.surrounded().recurrence), channels_(plan.surrounded()), strip_(recurrence_->state, plan.lead()) {}

  /// Takes up to `width` channels.
  void load(const Index* channels, Index count) {
    channels_.load(channels, count);
    const ArrayRows<Scalar> rates = channels_.rows_of(recurrence_->rate), taps = channels_.rows_of(plan_->surrounded().taps);
    for (Index n = 0; n < at().state; ++n) strip_.at(at().rates + n) = channels_.part(rates, n, Scalar(1));
    for (Index tap = 0; tap <= at().lead; ++tap) strip_.at(at().taps + tap) = channels_.part(taps, tap, Scalar(1));
    skip_ = channels_.part(channels_.rows().skip, 0, Scalar(0));
    next_ = -1;
  }

  [[nodiscard]] Index channels() const { return channels_.count(); }
  [[nodiscard]] Index columns() const { return at().columns; }
  [[nodiscard]] Lane rate(Index n) const { return strip_.at(at().rates + n); }
  /// Entry of the strip's row `row` and of column first - lead + `column`; zero right of the row's own token.
  [[nodiscard]] Lane entry(Index row, Index column) const { return strip_.at(at().entries + row * at().entry_stride + column); }
  /// All of them: (rows of the strip, entry_stride()), zero behind the near columns.
  [[nodiscard]] const Scalar* entries() const { return strip_.numbers(at().entries); }
  [[nodiscard]] Index entry_stride() const { return at().entry_stride; }
  [[nodiscard]] const Lane& steps() const { return steps_; }

  /// Takes the strip of `count` tokens from `first` on, of the document that begins at `document`. Strips that follow each other cost
  /// least.
  IMPLICIT_ATTENTION_FLATTEN void compute(Index first, Index count, Index document) {
    if (first == document)
      strip_.forget_columns();
    else if (first == next_)
      strip_.carry_columns();
    else
      walk_up_to(first, document);
    next_ = first + strip_tokens;

    prepare(first, count, document);
    if (recurrence_->read_before_update)
      strip_.template walk<true>();
    else
      strip_.template walk<false>();
  }

  /// Hands the factors over, as channels `place` ...: queries and decays at strip `place_strip`.
  void store(Factors<Scalar>& factors, Index place, Index block, Index strip, Index place_strip, bool with_queries) {
    strip_.store(factors, place, block, strip, place_strip, with_queries);
  }

 private:
  /// Where the strip's numbers stand.
  [[nodiscard]] const StripRows& at() const { return strip_.rows(); }

  /// What token `token` takes from the column lead - k before it: tap and column weight.
  [[nodiscard]] Lane entering(Index token, Index k, const Lane& weight) const {
    if (!plan_->reaches(token - at().lead + k, token)) return Lane::Zero();
    return strip_.at(at().taps + k) * weight;
  }

  /// The running keys of the `lead` columns before `first`, from the tokens they enter with.
  void walk_up_to(Index first, Index document) {
    strip_.forget_columns();
    const Index begin = first - at().lead;
    for (Index token = std::max(begin, document); token < first; ++token) {
      const Lane elapsed = channels_.step(token, document), scale = channels_.key_scale(token);
      for (Index n = 0; n < at().state; ++n) {
        const Lane decay = (rate(n) * elapsed).exp();
        const Scalar key = recurrence_->key.empty() ? Scalar(1) : recurrence_->key(token, n);
        for (Index column = 0; column <= token - begin; ++column) {
          LanesAt<Scalar, width> kept = strip_.running_key(n, column);
          kept = kept * decay + key * (entering(token, first - token + column, channels_.column_weight(begin + column)) * scale);
        }
      }
    }
  }

  /// Reads what the strip's tokens decay, write and read.
  IMPLICIT_ATTENTION_FLATTEN void prepare(Index first, Index count, Index document) {
    const StripRows& at = strip_.rows();
    const SurroundedRows<Scalar>& rows = channels_.rows();
    const auto part = [&](const ArrayRows<Scalar>& array, Index token, Scalar otherwise) {
      return channels_.part(array, token, otherwise);
    };
    steps_.setZero();
    for (Index column = 0; column < at.columns; ++column)
      strip_.at(at.weights + column) = channels_.column_weight(first - at.lead + column);
    for (Index r = 0; r < strip_tokens; ++r) {
      const Index token = first + r;
      channels_.prefetch_token(token + strip_tokens);  // saves a fifth of the time with all terms on
      if (r >= count) {
        prepare_missing(r);
        continue;
      }
      const Lane elapsed = channels_.step(token, document), inner = part(rows.activation, token, Scalar(1)),
                 scale = channels_.key_scale(token);
      steps_ += elapsed;
      const Scalar* query = rows.query.empty() ? nullptr : rows.query.row(token);
      const Scalar* key = rows.key.empty() ? nullptr : rows.key.row(token);
      for (Index n = 0; n < at.state; ++n) {
        strip_.token_query(n, r) = query ? query[n] : Scalar(1);
        strip_.token_key(n, r) = key ? key[n] : Scalar(1);
        strip_.at(at.decays + n * strip_tokens + r) = rate(n) * elapsed;
      }
      Lane weight = part(rows.gate, token, Scalar(1));
      if (!rows.row_weights.empty()) weight *= part(rows.row_weights, token, Scalar(1));
      strip_.at(at.scales + r) = weight * part(rows.query_scale, token, Scalar(1));
      Lane past = skip_;  // what goes past the recurrence
      if (recurrence_->read_before_update) past += part(rows.diagonal, token, Scalar(0));
      past *= inner * weight;
      for (Index k = 0; k <= at.lead; ++k) {
        const Lane enter = entering(token, k, strip_.at(at.weights + r + k));
        strip_.at(at.enter + at.entrance(r, k)) = enter * scale;
        strip_.at(at.direct + at.entrance(r, k)) = enter * past;
      }
    }
    Numbers<Scalar> decays(strip_.numbers(at.decays), strip_tokens * at.state * width);
    decays = decays.exp();
  }

  /// A missing row: its decays are 1, and its query, its key and what enters are 0.
  void prepare_missing(Index r) {
    for (Index n = 0; n < at().state; ++n) {
      strip_.token_query(n, r) = strip_.token_key(n, r) = Scalar(0);
      strip_.at(at().decays + n * strip_tokens + r).setZero();
    }
    for (Index k = 0; k <= at().lead; ++k) {
      strip_.at(at().enter + at().entrance(r, k)).setZero();
      strip_.at(at().direct + at().entrance(r, k)).setZero();
    }
    strip_.at(at().scales + r).setZero();
  }

  const BlockPlan<Scalar>* plan_;
  const DiagonalRecurrence<Scalar>* recurrence_;
  ChannelRegister<Scalar> channels_;
  StripWalk<Scalar> strip_;
  Index next_ = -1;  // the token after the last strip
  Lane skip_, steps_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
