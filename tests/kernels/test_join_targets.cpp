// Where the rows of a reduced map are joined, whatever the caller's memory is like: what is written there arrives in the caller's rows.
#include <cstdint>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/join_targets.hpp>

#include <kernels/diagonal_cases.hpp>

namespace {

using namespace implicit_attention;

constexpr Index tokens_joined = 150;

double entry_to_move(Index row, Index column) { return static_cast<double>(1000 * row + column); }

/// Joins nothing, but writes entry_to_move(row, column) where a row is to be joined. `stride` and `offset` place the caller's rows.
void check_join_targets(Index width, const std::vector<Index>& rows, Index stride, Index offset) {
  INFO("convolution " << width << ", rows " << stride << " apart, from number " << offset);
  const auto kind = diagonal_cases::random_kind<double>(tokens_joined, 1, 1, width, width > 1 ? 1u << 8 : 0, 3);
  const detail::BlockPlan<double> plan(kind.surrounded);
  const detail::RowsByBlock wanted(plan, rows);
  REQUIRE(wanted.single.empty());
  const Index count = static_cast<Index>(rows.size());
  const double untouched = -1, initial = -2;
  std::vector<double> memory(static_cast<std::size_t>(offset + count * stride + 8), untouched);
  const detail::JoinTargets<double> targets(plan, wanted, rows, View<double>(memory.data() + offset, count, tokens_joined, stride),
                                            initial);
  for (Index block = 0; block < targets.blocks(); ++block) {
    if (!targets.wanted(block)) continue;
    const detail::TokenBlock& of = plan.block(block);
    for (Index i = 0; i < of.tokens; ++i) {
      double* const row = targets.row(block, i);
      CHECK(reinterpret_cast<std::uintptr_t>(row) % detail::line_bytes == 0);
      for (Index column = 0; column <= of.first + i; ++column) {
        if (row[plan.lead() + column] != initial) FAIL_CHECK("row " << of.first + i << ", column " << column << " is not empty");
        row[plan.lead() + column] = entry_to_move(of.first + i, column);
      }
    }
  }
  for (Index block = 0; block < targets.blocks(); ++block) targets.move_to_places(block);
  for (Index place = 0; place < count; ++place)
    for (Index column = 0; column < stride; ++column) {
      const Index row = rows[static_cast<std::size_t>(place)];
      const double expected = column <= row ? entry_to_move(row, column) : column < tokens_joined ? 0 : untouched;
      if (memory[static_cast<std::size_t>(offset + place * stride + column)] != expected)
        FAIL_CHECK("place " << place << ", column " << column);
    }
  for (Index i = 0; i < offset; ++i) CHECK(memory[static_cast<std::size_t>(i)] == untouched);
}

}  // namespace

TEST_CASE("rows that are joined arrive at their places, and nothing else of the caller's memory changes", "[kernels]") {
  std::vector<Index> all, some = {149, 5, 140, 9, 5, 148, 7, 147, 149, 6};  // out of order, and two of them twice
  for (Index row = 0; row < tokens_joined; ++row) all.push_back(row);
  for (const Index width : {1, 4})
    for (const auto& rows : {all, some})
      for (const Index stride : {tokens_joined, tokens_joined + 3, Index(160)})
        for (const Index offset : {0, 1, 5}) check_join_targets(width, rows, stride, offset);
}
