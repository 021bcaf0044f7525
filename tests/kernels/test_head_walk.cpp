// Walks back over the tokens: single rows of one head and of several.
#include <limits>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/kernels/surrounded_matrix.hpp>

#include "head_cases.hpp"

namespace {

using namespace head_cases;

}  // namespace

TEST_CASE("a walk over one head's tokens writes what the row sees, and nothing else") {
  std::uint64_t seed = 900;
  for (const Index tokens : {1, 2, 5, 38})  // pairs of tokens, and an odd one at the end
    for (const Index state : {1, 7, 40})    // less than a register, and more than two with some numbers left
      for (const Plan& plan : plans(tokens, state, 2, seed += 50)) {
        INFO(plan.text());
        const HeadRecurrence<double> r = make<double>(plan);
        if (detail::ProductRows<double>::fits(r)) continue;  // their rows are not walked
        const Index head = r.heads - 1;
        const Matrix<double> expected = matrix_by_equation(r, head);
        Matrix<double> rows = Matrix<double>::Constant(tokens, tokens, 7);
        bool beyond = false;
        for (Index row = 0; row < tokens; ++row) {
          const Index first = detail::walk_heads(r, &head, 1, row, View<double>(&rows(row, 0), 1, tokens));
          CHECK(first == r.first_visible(row));
          for (Index j = 0; j < tokens; ++j) {
            if (j >= first && j <= row) continue;
            beyond = beyond || rows(row, j) != 7;
            rows(row, j) = 0;
          }
        }
        CHECK(!beyond);
        check_rows<double>(rows, expected, "rows", 0.1);
      }
}

TEST_CASE("a row of many heads is each head's, whatever the batches and the workers") {
  for (const Transition transition : {Transition::delta, Transition::rank_one, Transition::diagonal}) {
    Plan plan;
    plan.transition = transition;
    plan.decay = Decay::state;
    plan.tokens = 21;
    plan.state = 19;
    plan.heads = 35;
    plan.groups = 5;
    const HeadRecurrence<float> r = make<float>(plan);
    std::vector<Index> heads;
    for (Index head = 34; head >= 0; head -= head == 20 ? 3 : 1) heads.push_back(head);
    const Index count = static_cast<Index>(heads.size());
    for (const Executor& executor : {serial_executor(), thread_executor(3)}) {
      Matrix<float> rows = Matrix<float>::Constant(count, r.tokens, 7), alone = rows;
      head_rows(SharedMatrix<float>(r), heads, {17}, View<float>(rows), executor);
      for (Index i = 0; i < count; ++i) matrix_rows(r, heads[static_cast<std::size_t>(i)], 17, 18, View<float>(&alone(i, 0), 1, r.tokens));
      CHECK(rows == alone);
    }
  }
}
