// Products of query factors and key factors of several channels, joined to the rows of one map.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

#include <implicit_attention/kernels/blocks.hpp>
#include <implicit_attention/kernels/reducers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Joins a strip of rows with the products of its queries (channels, state, rows of a strip) and panels of keys (channels, state, columns
/// of a panel). Where entries are added up as they are, all channels' factors are one product; otherwise each channel's entries are joined.
template <Real Scalar, class Reducer>
class ProductJoin {
 public:
  static constexpr int width = register_lanes<Scalar>;
  /// Whether two panels of columns are joined at a time: where a machine has registers for the sums of both (AVX-512 has 32).
  static constexpr bool pairs_panels =
      vector_register_bytes == 64 && IMPLICIT_ATTENTION_BLOCK_TOKENS >= 2 * width && !std::is_same_v<Reducer, Add>;
  /// Columns that are best joined at a time.
  static constexpr Index columns_together = std::max<Index>(width, strip_tokens) * (pairs_panels ? 2 : 1);

  /// Panels of keys begin `panel_stride` numbers apart.
  ProductJoin(const Reducer& join, Index state, Index panel_stride) : join_(join), state_(state), panel_stride_(panel_stride) {}

  void take_channels(Index count) { count_ = count; }

  /// Joins columns first .. first + columns of `rows` of a strip's rows, which begin at to[0], to[1], ...; columns below 0 are not there.
  void join(const Scalar* queries, const Scalar* keys, Index columns, Index first, Scalar* const* to, Index rows) const {
    if constexpr (pairs_panels)
      if (columns == Index(2) * width && first >= 0 && rows == strip_tokens)
        return join_two_panels(queries, keys, rows_at(to, rows, first));
    each_panel<Scalar>(columns, [&]<int Columns>(Index column) {
      const Scalar* panel = keys + column / width * panel_stride_;
      const Index at = first + column, hidden = std::max(-at, Index(0));  // columns before the first token
      if (hidden >= Columns) return;
      const Rows row = rows_at(to, rows, at + hidden);
      if (rows == strip_tokens && hidden == 0) return join_panel<Columns>(queries, panel, row);
      // Rows and columns that are not there are joined beside the map.
      std::array<Scalar, static_cast<std::size_t>(register_rows * Columns)> beside{};
      Rows row_beside{};
      for (Index r = 0; r < strip_tokens; ++r) row_beside[static_cast<std::size_t>(r)] = beside.data() + r * Columns;
      for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) std::copy_n(row[r], Columns - hidden, row_beside[r] + hidden);
      join_panel<Columns>(queries, panel, row_beside);
      for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) std::copy_n(row_beside[r] + hidden, Columns - hidden, row[r]);
    });
  }

 private:
  using Lane = Lanes<Scalar, width>;
  using Rows = std::array<Scalar*, register_rows>;

  [[nodiscard]] static Rows rows_at(Scalar* const* to, Index rows, Index column) {
    Rows at{};
    for (Index r = 0; r < rows; ++r) at[static_cast<std::size_t>(r)] = to[r] + column;
    return at;
  }

  /// One panel, whose first column `row` points at in each row. In a function of its own, so that sums stay in registers.
  template <int Columns>
  EIGEN_DONT_INLINE void join_panel(const Scalar* queries, const Scalar* keys, const Rows& row) const {
    each_row([&](std::size_t r) { prefetch<Columns>(row[r]); });  // needed last: by then a long map's rows have left the nearer caches
    Tile<Scalar, Columns> tile;
    if constexpr (std::is_same_v<Reducer, Add>) {
      multiply<false, Columns>(queries, keys, state_, tile);
      for (Index c = 1; c < count_; ++c)
        multiply<true, Columns>(queries + c * state_ * strip_tokens, keys + c * state_ * width, state_, tile);
      each_row([&](std::size_t r) { lanes<Columns>(row[r]) += tile[r]; });
    } else {
      Tile<Scalar, Columns> joined;
      each_row([&](std::size_t r) { joined[r] = lanes<Columns>(row[r]); });
      for (Index c = 0; c < count_; ++c) {
        multiply<false, Columns>(queries + c * state_ * strip_tokens, keys + c * state_ * width, state_, tile);
        each_row([&](std::size_t r) { joined[r] = join_(joined[r], tile[r]); });
      }
      each_row([&](std::size_t r) { lanes<Columns>(row[r]) = joined[r]; });
    }
  }

  /// The same for two panels side by side, whose columns are all there: a query that is read once serves both, and twice as many sums hide
  /// how long each takes.
  EIGEN_DONT_INLINE void join_two_panels(const Scalar* queries, const Scalar* keys, const Rows& row) const {
    const Index stride = panel_stride_;
    each_row([&](std::size_t r) { prefetch<2 * width>(row[r]); });
    for (Index c = 0; c < count_; ++c) {
      Tile<Scalar, width> left, right;
      const Scalar *query = queries + c * state_ * strip_tokens, *key = keys + c * state_ * width;
      const Lane first = lanes<width>(key), second = lanes<width>(key + stride);
      each_row([&](std::size_t r) {
        left[r] = query[r] * first;
        right[r] = query[r] * second;
      });
      for (Index n = 1; n < state_; ++n) {
        query += strip_tokens;
        key += width;
        const Lane near_key = lanes<width>(key), next_key = lanes<width>(key + stride);
        each_row([&](std::size_t r) {
          left[r] += query[r] * near_key;
          right[r] += query[r] * next_key;
        });
      }
      each_row([&](std::size_t r) {
        lanes<width>(row[r]) = join_(Lane(lanes<width>(row[r])), left[r]);
        lanes<width>(row[r] + width) = join_(Lane(lanes<width>(row[r] + width)), right[r]);
      });
    }
  }

  Reducer join_;
  Index state_, panel_stride_, count_ = 0;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
