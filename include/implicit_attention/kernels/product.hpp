// Products of packed query and key factors, joined straight to the rows of a result: the off-diagonal part of every map.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include <implicit_attention/kernels/lanes.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// One vector register of the target machine.
template <class Scalar>
constexpr int register_lanes = std::max(4, EIGEN_MAX_STATIC_ALIGN_BYTES / static_cast<int>(sizeof(Scalar)));

/// Result rows that are kept in registers together.
constexpr int register_rows = 8;

/// A run of neighbouring columns that one register holds.
struct Panel {
  Index first = 0, columns = 0;
};

/// For each of `panels[begin..end)` and each row: out[row, column] = join(out[row, column], sum_n query[row, n] key[column, n]).
/// `queries` are packed as [group of register_rows rows][n][row], `keys` as [panel][n][column], both padded with anything finite.
/// `row(i)` points at column 0 of result row i. `Join` takes and returns whole registers and single numbers.
template <Real Scalar, class Target, class Join>
void product_panels(const Scalar* queries, const Scalar* keys, Index inner, Index rows, const std::vector<Panel>& panels, Index begin, Index end,
                    const Target& row, const Join& join) {
  constexpr int width = register_lanes<Scalar>;
  using Lane = Lanes<Scalar, width>;
  const auto tile = [&](Index index, Index base) {
    const Panel& panel = panels[static_cast<std::size_t>(index)];
    const Scalar* panel_keys = keys + index * inner * width;
    const Scalar* group = queries + base * inner;
    std::array<Lane, register_rows> sums;
    for (Lane& sum : sums) sum.setZero();
    for (Index n = 0; n < inner; ++n) {
      const Lane key = lanes<width>(panel_keys + n * width);
      for (std::size_t r = 0; r < register_rows; ++r) sums[r] += group[n * register_rows + static_cast<Index>(r)] * key;
    }
    const Index valid = std::min<Index>(register_rows, rows - base);
    if (valid == register_rows && panel.columns == width) {
      for (std::size_t r = 0; r < register_rows; ++r) {
        Eigen::Map<Lane> target(row(base + static_cast<Index>(r)) + panel.first);
        target = join(target, sums[r]);
      }
    } else {
      for (Index r = 0; r < valid; ++r) {
        Scalar* target = row(base + r) + panel.first;
        for (Index c = 0; c < panel.columns; ++c) target[c] = join(target[c], sums[static_cast<std::size_t>(r)][c]);
      }
    }
  };
  // Few factors: the result is what costs, so it is written along its rows. Many: a panel's factors stay in the nearest cache.
  if (inner <= 64) {
    for (Index base = 0; base < rows; base += register_rows)
      for (Index index = begin; index < end; ++index) tile(index, base);
  } else {
    for (Index index = begin; index < end; ++index)
      for (Index base = 0; base < rows; base += register_rows) tile(index, base);
  }
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
