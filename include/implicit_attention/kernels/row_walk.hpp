// One row of many channels' matrices in linear time: the walk backwards from the row, vectorised over channels.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <type_traits>

#include <implicit_attention/kernels/lanes.hpp>
#include <implicit_attention/kernels/recurrence.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Walks row `row` of `Width` neighbouring channels from `row` down to token 0 and calls `emit(token, entries)` for each token down to the
/// one returned; everything left of it is zero. A state whose decay is below the smallest normal number in all channels is left out.
template <int Width, Real Scalar, class Emit>
IMPLICIT_ATTENTION_FLATTEN Index walk_row(const DressedDiagonal<Scalar>& dressed, Index row, Index channel, const Emit& emit) {
  using Lane = Lanes<Scalar, Width>;
  const DiagonalRecurrence<Scalar>& recurrence = dressed.recurrence;
  const Index width = dressed.width(), first = recurrence.first_visible(row);
  const Scalar smallest = std::log(std::numeric_limits<Scalar>::min());
  const auto part = [&](const Array<Scalar>& array, Index i) { return lanes<Width>(array.row(i) + channel); };

  Index alive = recurrence.state;  // states that are still seen are the first `alive` of `order`
  Eigen::Array<Index, Eigen::Dynamic, 1> order = Eigen::Array<Index, Eigen::Dynamic, 1>::LinSpaced(alive, 0, alive - 1);
  const Index ring = ring_size(width);
  const LaneRows<Scalar, Width> rate = lane_rows<Width>(recurrence.rate, channel), taps = lane_rows<Width>(dressed.taps, channel);
  LaneRows<Scalar, Width> recent(ring, Width);  // the entries before the convolution of the last `width` tokens
  Lane elapsed = Lane::Zero(), scale = Lane::Ones();
  if (!recurrence.query_scale.empty()) scale = part(recurrence.query_scale, row);

  Index finished = 0;  // columns before it see nothing of this row
  for (Index token = row; token >= finished; --token) {
    Lane entries = Lane::Zero();
    if (token < first || alive == 0) {
      finished = std::max(finished, std::max(token - width + 2, Index(0)));
      alive = 0;
      // From here on only the convolution looks back.
      if (width == 1) return token + 1;
    } else if (recurrence.exclusive && token == row) {
      entries = part(recurrence.diagonal, row);
    } else {
      for (Index index = 0; index < alive; ++index) {
        const Index n = order[index];
        const Scalar product = (recurrence.query.empty() ? Scalar(1) : recurrence.query(row, n)) *
                               (recurrence.key.empty() ? Scalar(1) : recurrence.key(token, n));
        if (recurrence.rate.empty())
          entries += product * elapsed.exp();
        else
          entries += product * (rate.row(n) * elapsed).exp();
      }
      entries *= scale;
      if (!recurrence.key_scale.empty()) entries *= part(recurrence.key_scale, token);
      elapsed += part(recurrence.step, token);
      if ((row - token) % 16 == 0) {
        for (Index index = 0; index < alive;) {
          const Index n = order[index];
          const Scalar nearest = recurrence.rate.empty() ? elapsed.maxCoeff() : Scalar((rate.row(n) * elapsed).maxCoeff());
          if (nearest < smallest)
            std::swap(order[index], order[--alive]);
          else
            ++index;
        }
      }
    }
    if (token == row && !dressed.skip.empty()) entries += lanes<Width>(dressed.skip.data() + channel);
    if (!dressed.inner_scale.empty()) entries *= part(dressed.inner_scale, token);
    recent.row(token & (ring - 1)) = entries;

    if (!dressed.taps.empty()) {
      entries.setZero();
      const Index last = std::min(row, dressed.last_reached(token));
      for (Index reached = token; reached <= last; ++reached)
        entries += taps.row(width - 1 - (reached - token)) * recent.row(reached & (ring - 1));
    }
    if (!dressed.row_scale.empty()) entries *= part(dressed.row_scale, row);
    if (!dressed.row_weights.empty()) entries *= part(dressed.row_weights, row);
    if (!dressed.column_scale.empty()) entries *= part(dressed.column_scale, token);
    emit(token, entries);
  }
  return finished;
}

/// A piece of a row of several channels: entries of tokens highest, highest - 1, ..., (count, channels), contiguous.
template <Real Scalar>
struct RowPiece {
  const Scalar* entries;
  Index highest, count, channels;
};

/// Tokens that are handed over at a time.
constexpr Index tokens_in_a_piece = 64;

/// Walks a row of `Width` channels and hands it over in pieces; returns the first token that was handed over, left of which all is zero.
template <int Width, Real Scalar>
Index walk_row_in_pieces(const DressedDiagonal<Scalar>& dressed, Index row, Index channel,
                         const std::function<void(const RowPiece<std::type_identity_t<Scalar>>&)>& take) {
  LaneRows<Scalar, Width> buffer(tokens_in_a_piece, Width);
  Index highest = row, count = 0;
  const Index finished = walk_row<Width>(dressed, row, channel, [&](Index token, const Lanes<Scalar, Width>& entries) {
    if (count == 0) highest = token;
    buffer.row(count++) = entries;
    if (count == tokens_in_a_piece) {
      take({buffer.data(), highest, count, Width});
      count = 0;
    }
  });
  if (count != 0) take({buffer.data(), highest, count, Width});
  return finished;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
