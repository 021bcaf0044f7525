// One row of many channels' matrices in linear time: the walk backwards from the row, vectorised over channels.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/kernels/channel_groups.hpp>
#include <implicit_attention/kernels/convolution.hpp>
#include <implicit_attention/kernels/finite_parts.hpp>
#include <implicit_attention/kernels/lanes.hpp>
#include <implicit_attention/kernels/recurrence.hpp>
#include <implicit_attention/kernels/transpose.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Tokens of a row that are handed over at a time.
constexpr Index tokens_in_a_piece = 64;

/// Entries begin..end-1 of a row of neighbouring channels. Those before `first` are zero, and only those from it on are there. What takes
/// them is compiled once, for all widths of tiles.
template <Real Scalar>
struct RowPiece {
  ChannelRun run;
  Index begin, first, end;
  const Scalar* numbers;  ///< (run.width, tokens_in_a_piece), from `begin` on
  const Scalar* every;    ///< the (end - first) * run.width entries, in whatever order

  /// Those of one of the channels, from `first` on.
  [[nodiscard]] const Scalar* entries(Index lane) const { return numbers + lane * tokens_in_a_piece + (first - begin); }
  [[nodiscard]] bool all_finite() const { return detail::all_finite(every, (end - first) * run.width); }
};

/// The states of `Width` neighbouring channels that a row still sees as it is walked backwards: one whose decay is below the smallest
/// normal number in all channels is left out, if that hides nothing.
template <int Width, Real Scalar>
class SeenStates {
 public:
  using Lane = Lanes<Scalar, Width>;

  SeenStates(const Array<Scalar>& rate, Index states, Index channel)
      : order_(static_cast<std::size_t>(states)), seen_(states), rate_(rate_rows<Width>(rate, channel)) {
    for (std::size_t n = 0; n < order_.size(); ++n) order_[n] = static_cast<Index>(n);
    elapsed_.setZero();
  }

  [[nodiscard]] bool any() const { return seen_ > 0; }
  void forget() { seen_ = 0; }

  /// entry += sum_n query[n] exp(rate[n] elapsed) key[n]; a null query or key stands for ones.
  EIGEN_ALWAYS_INLINE void add(const Scalar* query, const Scalar* key, Lane& entry) const {
    for (Index index = 0; index < seen_; ++index) {
      const Index n = order_[static_cast<std::size_t>(index)];
      const Scalar product = (query ? query[n] : Scalar(1)) * (key ? key[n] : Scalar(1));
      entry += product * (rate_.row(n) * elapsed_).exp();
    }
  }
  /// Goes on to the token before the one whose step this is.
  template <class Step>
  EIGEN_ALWAYS_INLINE void elapse(const Step& step) {
    elapsed_ += step;
  }
  /// Leaves out the states that have decayed, where `may(last)` says that one, or the last one, may be.
  template <class May>
  void leave_out(const May& may) {
    const Scalar smallest = std::log(std::numeric_limits<Scalar>::min());
    for (Index index = 0; index < seen_;) {
      Index& n = order_[static_cast<std::size_t>(index)];
      const Scalar nearest = largest_lane(Lane(rate_.row(n) * elapsed_));
      if (nearest < smallest && may(seen_ == 1))
        std::swap(n, order_[static_cast<std::size_t>(--seen_)]);
      else
        ++index;
    }
  }

 private:
  std::vector<Index> order_;  // states that are still seen are the first `seen_` of it
  Index seen_;
  LaneRows<Scalar, Width> rate_;
  Lane elapsed_;  // the sum of steps between the row and the token
};

/// Whether what a row would no longer see if it left a decayed state out is finite: zero times what is not finite is not finite either.
template <int Width, Real Scalar>
class LeftOutNumbers {
 public:
  /// Whether a state that has decayed at `token` may be left out of what comes before, back to token `visible`. Only the last state's
  /// leaving hides more than keys. Asked once a row, and of what it would hide alone: a row is walked for longer.
  [[nodiscard]] EIGEN_DONT_INLINE bool may_leave_out(const SurroundedDiagonal<Scalar>& surrounded, const SurroundedRows<Scalar>& rows,
                                                     Index visible, bool last, Index token) {
    const Index count = token - visible + 1, states = surrounded.recurrence.state;
    if (!finite_keys_)
      finite_keys_ = rows.key.empty() || detail::all_finite(ConstView<Scalar>(rows.key.row(visible), count, states, rows.key.stride()));
    if (*finite_keys_ && last && !finite_rest_)
      finite_rest_ = finite_steps(rows.step, visible + 1, token, zero_decay(surrounded.recurrence)) &&
                     finite(rows.key_scale, visible, token) && finite(rows.activation, visible, token) &&
                     finite(rows.column_weights, std::max(visible - surrounded.width() + 1, Index(0)), token);
    return *finite_keys_ && (!last || *finite_rest_);
  }

 private:
  [[nodiscard]] static bool finite(const ArrayRows<Scalar>& rows, Index first, Index last) {
    Lanes<Scalar, Width> zeros = Lanes<Scalar, Width>::Zero();
    for (Index token = rows.empty() ? last + 1 : first; token <= last; ++token) zeros += lanes<Width>(rows.row(token)) * Scalar(0);
    return all_lanes(zeros, Width, [](Scalar zero) { return zero == Scalar(0); });
  }
  /// Steps may be decays of zero. That of the first token is not read.
  [[nodiscard]] static bool finite_steps(const ArrayRows<Scalar>& steps, Index first, Index last, Scalar zero) {
    if (finite(steps, first, last)) return true;
    for (Index token = first; token <= last; ++token)
      if (!all_lanes(Lanes<Scalar, Width>(lanes<Width>(steps.row(token))), Width,
                     [zero](Scalar step) { return std::isfinite(step) || step == zero; }))
        return false;
    return true;
  }

  std::optional<bool> finite_keys_, finite_rest_;  // what has been found
};

/// A row of `Width` neighbouring channels from its diagonal to token 0, one piece after the other.
template <int Width, Real Scalar>
class RowTile {
 public:
  using Lane = Lanes<Scalar, Width>;

  RowTile(const SurroundedDiagonal<Scalar>& surrounded, Index row, const ChannelRun& run)
      : surrounded_(&surrounded),
        row_(row),
        run_(run),
        visible_(surrounded.recurrence.first_visible(row)),
        states_(surrounded.recurrence.rate, surrounded.recurrence.state, run.channel),
        rows_(surrounded, run.channel),
        convolution_(surrounded, run.channel, true),
        left_(tokens_in_a_piece + surrounded.width() - 1),
        convolved_(tokens_in_a_piece),
        transposed_(Width, tokens_in_a_piece) {
    scale_.setOnes();
    for (const ArrayRows<Scalar>* scale : {&rows_.gate, &rows_.row_weights})
      if (!scale->empty()) scale_ *= lanes<Width>(scale->row(row));
    query_ = scale_;
    if (!rows_.query_scale.empty()) query_ *= lanes<Width>(rows_.query_scale.row(row));
  }

  /// Entries begin..end-1, those before the last ones, at most tokens_in_a_piece.
  IMPLICIT_ATTENTION_FLATTEN RowPiece<Scalar> walk(Index begin, Index end) {
    const SurroundedDiagonal<Scalar>& surrounded = *surrounded_;
    const SurroundedRows<Scalar>& rows = rows_;
    const bool read_before_update = surrounded.recurrence.read_before_update;
    const Index row = row_, lead = surrounded.width() - 1;
    const auto part = [&](const ArrayRows<Scalar>& array, Index i) { return lanes<Width>(array.row(i)); };
    const Scalar* const query = rows.query.empty() ? nullptr : rows.query.row(row);
    Scalar* const left = left_.data();

    if (end != row + 1) carry_rows<Width>(left, 0, end - begin, lead);
    Index token = end - 1;
    for (; token >= std::max(begin, finished_); --token) {
      if (token >= tokens_in_a_piece)
        for (const ArrayRows<Scalar>* array : {&rows.step, &rows.key_scale, &rows.activation, &rows.column_weights})
          prefetch<Width>(*array, token - tokens_in_a_piece);
      Lane entry = Lane::Zero();
      if (token < visible_ || !states_.any()) {
        states_.forget();  // from here on only the convolution looks back
        finished_ = std::max(finished_, std::max(token - lead + 1, Index(0)));
        if (lead == 0) break;
      } else if (!read_before_update || token != row) {
        states_.add(query, rows.key.empty() ? nullptr : rows.key.row(token), entry);
        entry *= query_;
        states_.elapse(part(rows.step, token));
        if ((row - token) % 16 == 0)
          states_.leave_out([&](bool last) { return left_out_.may_leave_out(surrounded, rows, visible_, last, token); });
      }
      lanes<Width>(left + (token - begin) * Width) = entry;
    }

    const Index first = token + 1;
    Scalar* const made = left + (first - begin) * Width;
    Index scaled = end;
    if (end == row + 1) {
      auto diagonal = lanes<Width>(left + (row - begin) * Width);
      if (read_before_update)
        diagonal = part(rows.diagonal, row) * scale_;
      else if (!rows.key_scale.empty())
        diagonal *= part(rows.key_scale, row);
      if (!rows.skip.empty()) diagonal += part(rows.skip, 0) * scale_;
      if (!rows.activation.empty()) diagonal *= part(rows.activation, row);
      --scaled;
    }
    Scalar* entries = made;
    if (end - first == tokens_in_a_piece && scaled == end && surrounded.taps.rows() == 4 && !rows.key_scale.empty() &&
        rows.column_weights.empty() && convolution_.reaches_whole(first, end, row)) {
      if (rows.activation.empty())
        finish_in_registers<false>(end - 1);
      else
        finish_in_registers<true>(end - 1);
      return {run_, begin, first, end, transposed_.data(), transposed_.data()};
    }
    scale_rows<Width>(rows.key_scale, rows.activation, first, scaled, made);
    if (!surrounded.taps.empty()) {
      entries = convolved_.data();
      convolution_.apply_transposed(first, end, row, made, entries);
    }
    scale_rows<Width>(rows.column_weights, first, end, entries);
    transpose<Width>(entries, Width, end - first,
                     [&](Index lane) { return transposed_.data() + lane * tokens_in_a_piece + (first - begin); });
    return {run_, begin, first, end, transposed_.data(), entries};
  }

 private:
  /// A whole piece, up to token `last`, scaled, convolved with four taps and transposed in one pass: three took a tenth of a row's time.
  template <bool InnerScale>
  EIGEN_ALWAYS_INLINE void finish_in_registers(Index last) {
    constexpr int width = std::min(Width, register_lanes<Scalar>);
    const ArrayRows<Scalar>&keys = rows_.key_scale, &inners = rows_.activation;
    Scalar *const left = left_.data(), *const transposed = transposed_.data();
    for (int c = 0; c < Width; c += width) {
      const Scalar* key = keys.row(last) + c;
      const Scalar* inner = InnerScale ? inners.row(last) + c : nullptr;
      FourTaps<width, Scalar> convolution(convolution_.taps() + c, left + tokens_in_a_piece * Width + c, Width);
      for (Index first = tokens_in_a_piece - width; first >= 0; first -= width) {
        Eigen::Matrix<Scalar, width, width, Eigen::RowMajor> block;
        IMPLICIT_ATTENTION_UNROLL
        for (int i = width - 1; i >= 0; --i) {
          Lanes<Scalar, width> entry = lanes<width>(left + (first + i) * Width + c) * lanes<width>(key);
          key -= keys.stride();
          if constexpr (InnerScale) {
            entry *= lanes<width>(inner);
            inner -= inners.stride();
          }
          lanes<width>(block.data() + i * width) = convolution.take(entry);
        }
        store_transposed(block, [&](int i) { return transposed + (c + i) * tokens_in_a_piece + first; });
      }
      convolution.store_rows(left + c, Width);  // what the convolution of the tokens before looks at
    }
  }

  const SurroundedDiagonal<Scalar>* surrounded_;
  Index row_;
  ChannelRun run_;
  Index visible_, finished_ = 0;  // the first token that the row sees; entries before finished_ are zero, as far as is known
  SeenStates<Width, Scalar> states_;
  SurroundedRows<Scalar> rows_;
  LeftOutNumbers<Width, Scalar> left_out_;
  TileConvolution<Width, DiagonalRecurrence<Scalar>> convolution_;
  LaneRows<Scalar, Width> left_;       // (a piece and what the convolution reaches): the entries before the convolution
  LaneRows<Scalar, Width> convolved_;  // (a piece): after it
  Matrix<Scalar> transposed_;          // (Width, a piece)
  Lane scale_, query_;                 // scale_: what scales the row; query_: the query's scale with it
};

/// Hands row `row` of a group's channels to `take(piece)`: the last tokens of all of its tiles, the tokens before them, and so on.
template <Real Scalar, class Take>
void walk_row(const SurroundedDiagonal<Scalar>& surrounded, Index row, const ChannelGroups& groups, Index group, const Take& take) {
  auto tiles = groups.tiles(group, [&]<int Width>(const ChannelRun& run) { return RowTile<Width, Scalar>(surrounded, row, run); });
  for (Index end = row + 1, begin; end > 0; end = begin) {
    begin = (end - 1) / tokens_in_a_piece * tokens_in_a_piece;  // whole cache lines, except the last tokens
    tiles.each([&](auto& tile) { take(tile.walk(begin, end)); });
  }
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
