// Products of packed query and key factors, joined straight to the rows of a result: the off-diagonal part of every map.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include <implicit_attention/kernels/lanes.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// One vector register of the target machine.
template <class Scalar>
constexpr int register_lanes = std::max(4, EIGEN_MAX_STATIC_ALIGN_BYTES / static_cast<int>(sizeof(Scalar)));

/// Result rows that are kept in registers together.
constexpr int register_rows = 8;

/// Calls `body(r)` for the rows 0 .. register_rows - 1, unrolled whatever the optimisation level, so that rows stay in registers.
template <class Body>
EIGEN_STRONG_INLINE void each_row(const Body& body) {
  [&]<std::size_t... r>(std::index_sequence<r...>) { (body(r), ...); }(std::make_index_sequence<register_rows>());
}

/// A run of neighbouring columns that one register holds.
struct Panel {
  Index first = 0, columns = 0;
};

/// Packed factors: queries as [group of register_rows rows][n][row], keys as [panel][n][column], both padded with anything finite, where
/// n runs over `inner` places, of which each of `channels` takes `state`.
template <Real Scalar>
struct PackedFactors {
  const Scalar* queries;
  const Scalar* keys;
  Index inner, channels, state;
};

/// For each of `panels[begin..end)`, each row and each channel:
/// out[row, column] = join(out[row, column], sum_n query[row, n] key[column, n]), n over the channel's state.
/// `row(i)` points at column 0 of result row i. `Join` takes and returns whole registers and single numbers.
template <Real Scalar, class Target, class Join>
void product_panels(const PackedFactors<Scalar>& factors, Index rows, const std::vector<Panel>& panels, Index begin, Index end, const Target& row,
                    const Join& join) {
  constexpr int width = register_lanes<Scalar>;
  using Lane = Lanes<Scalar, width>;
  const auto tile = [&](Index index, Index base, const std::array<Scalar*, register_rows>& targets, Index valid) {
    const Panel& panel = panels[static_cast<std::size_t>(index)];
    for (Index channel = 0; channel < factors.channels; ++channel) {
      const Scalar* keys = factors.keys + (index * factors.inner + channel * factors.state) * width;
      const Scalar* group = factors.queries + base * factors.inner + channel * factors.state * register_rows;
      std::array<Lane, register_rows> sums;
      const Lane first = lanes<width>(keys);
      each_row([&](std::size_t r) { sums[r] = group[r] * first; });
      for (Index n = 1; n < factors.state; ++n) {
        const Lane key = lanes<width>(keys + n * width);
        const Scalar* query = group + n * register_rows;
        each_row([&](std::size_t r) { sums[r] += query[r] * key; });
      }
      if (valid == register_rows && panel.columns == width) {
        each_row([&](std::size_t r) {
          Eigen::Map<Lane> target(targets[r] + panel.first);
          target = join(target, sums[r]);
        });
      } else {
        for (std::size_t r = 0; r < static_cast<std::size_t>(valid); ++r)
          for (Index c = 0; c < panel.columns; ++c) targets[r][panel.first + c] = join(targets[r][panel.first + c], sums[r][c]);
      }
    }
  };
  const auto group_at = [&](Index base, std::array<Scalar*, register_rows>& targets) {
    const Index valid = std::min<Index>(register_rows, rows - base);
    for (Index r = 0; r < valid; ++r) targets[static_cast<std::size_t>(r)] = row(base + r);
    return valid;
  };
  std::array<Scalar*, register_rows> targets{};
  // Few factors: the result is what costs, so it is written along its rows. Many: a panel's factors stay in the nearest cache.
  if (factors.channels * factors.state <= 64) {
    for (Index base = 0; base < rows; base += register_rows) {
      const Index valid = group_at(base, targets);
      for (Index index = begin; index < end; ++index) tile(index, base, targets, valid);
    }
  } else {
    for (Index index = begin; index < end; ++index)
      for (Index base = 0; base < rows; base += register_rows) {
        const Index valid = group_at(base, targets);
        tile(index, base, targets, valid);
      }
  }
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
