// Rows as products of queries and keys, where the transition is one number a token.
#include <utility>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/product_rows.hpp>

#include "head_cases.hpp"

namespace {

using namespace head_cases;

}  // namespace

TEST_CASE("rows as products are those of the equation, with products that heads of a group share, and write nothing that is not seen") {
  for (const Decay decay : {Decay::absent, Decay::head, Decay::constant_head})
    for (const bool read_before_update : {false, true}) {
      Plan plan;
      plan.decay = decay;
      plan.tokens = 40;
      plan.heads = 4;
      plan.groups = 2;
      plan.state = 5;
      plan.read_before_update = read_before_update;
      INFO(plan.text());
      HeadRecurrence<double> r = make<double>(plan);
      r.starts = {7};
      REQUIRE(detail::ProductRows<double>::fits(r));
      const detail::ProductRows<double> product_rows(r);
      detail::ProductRowsScratch<double> scratch;  // of all heads: the second of a group takes the first one's products
      for (const auto& [begin, end] : {std::pair<Index, Index>(7, 8), std::pair<Index, Index>(7, 31), std::pair<Index, Index>(20, 40)})
        for (Index head = 0; head < r.heads; ++head) {
          INFO("head " << head << ", rows " << begin << " to " << end);
          Matrix<double> rows = Matrix<double>::Constant(end - begin, r.tokens, 7);
          product_rows.rows(head, 7, begin, end, View<double>(rows), scratch);
          bool untouched = true;
          for (Index i = 0; i < rows.rows(); ++i)
            for (Index j = 0; j < r.tokens; ++j) {
              if (j >= 7 && j <= begin + i) continue;
              untouched = untouched && rows(i, j) == 7;
              rows(i, j) = 0;
            }
          CHECK(untouched);
          check_rows<double>(rows, matrix_by_equation(r, head).middleRows(begin, end - begin), "rows", 0.1);
        }
    }
}

TEST_CASE("rows are products where the transition is one number a token") {
  Plan plan;
  CHECK(detail::ProductRows<double>::fits(make<double>(plan)));
  plan.decay = Decay::state;
  CHECK_FALSE(detail::ProductRows<double>::fits(make<double>(plan)));
  plan.decay = Decay::head;
  plan.transition = Transition::delta;
  CHECK_FALSE(detail::ProductRows<double>::fits(make<double>(plan)));
}
