// Rows by whole blocks of tokens: which blocks they are led over, and what they are, whoever prepares the blocks.
#include <limits>
#include <utility>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/blocked_rows.hpp>

#include "head_cases.hpp"

namespace {

using namespace head_cases;

}  // namespace

TEST_CASE("rows by blocks that are prepared in any order are those of the equation, wherever they begin and end") {
  for (const Transition transition : {Transition::diagonal, Transition::delta, Transition::rank_one})
    for (const Decay decay : {Decay::absent, Decay::head, Decay::state}) {
      Plan plan;
      plan.transition = transition;
      plan.decay = decay;
      plan.tokens = 210;
      plan.state = 4;
      INFO(plan.text());
      const HeadRecurrence<double> r = make<double>(plan);
      const Index head = 1;
      detail::RowBlocks<double> blocks(r, head, detail::token_ranges(r, detail::map_block_tokens));
      blocks.prepare(2, 4);
      blocks.prepare(0, 2);
      blocks.prepare_untouched();
      const Matrix<double> expected = matrix_by_equation(r, head);
      detail::BlockedRowsScratch<double> scratch;
      for (const auto& [begin, end] :
           {std::pair<Index, Index>(0, 210), std::pair<Index, Index>(60, 130), std::pair<Index, Index>(209, 210)}) {
        Matrix<double> rows = Matrix<double>::Zero(end - begin, r.tokens);
        detail::blocked_rows(r, head, blocks, 0, begin, end, View<double>(rows), scratch);
        for (Index i = begin; i < end; ++i) rows.row(i - begin).tail(r.tokens - 1 - i).setZero();
        check_rows<double>(rows, expected.middleRows(begin, end - begin), "rows", 0.1);
      }
    }
}

TEST_CASE("rows are not led over a block that holds a NaN, and its rows before the NaN are prepared as without it") {
  Plan plan;
  plan.transition = Transition::delta;
  plan.tokens = 192;
  const HeadRecurrence<double> clean = make<double>(plan);
  HeadRecurrence<double> r = clean;
  Matrix<double> key = r.key.matrix();
  key.row(100).setConstant(std::numeric_limits<double>::quiet_NaN());
  r.key = key;
  const auto prepared = [](const HeadRecurrence<double>& of) {
    detail::RowBlocks<double> blocks(of, 0, detail::token_ranges(of, detail::map_block_tokens));
    blocks.prepare(0, 3);
    blocks.prepare_untouched();
    return blocks;
  };
  const detail::RowBlocks<double> blocks = prepared(r), clean_blocks = prepared(clean);
  CHECK(blocks.index_of(63) == 0);
  CHECK(blocks.index_of(64) == 1);
  CHECK(blocks.leads_on(0));
  CHECK_FALSE(blocks.leads_on(1));
  CHECK(blocks.leads_on(2));
  CHECK(blocks.untouched_end(0) == 64);
  CHECK(blocks.untouched_end(1) == 100);
  CHECK(blocks.untouched_end(2) == 192);
  CHECK(blocks.readers(64, 100) == clean_blocks.readers(64, 100));
}
