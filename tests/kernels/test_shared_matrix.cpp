// Rows of a matrix that a head's channels share: the runs and batches in which they are asked for.
#include <algorithm>
#include <cmath>
#include <vector>

#include <support/catch.hpp>
#include <support/executors.hpp>

#include <implicit_attention/kernels/shared_matrix.hpp>

#include "head_cases.hpp"

TEST_CASE("wanted rows are cut into runs of neighbours, none of which crosses a multiple", "[kernels]") {
  using implicit_attention::Index;
  const std::vector<Index> rows = {3, 4, 5, 6, 7, 8, 9, 2, 2, 12, 13, 15};
  std::vector<Index> joined;
  for (const implicit_attention::detail::RowRun& run : implicit_attention::detail::row_runs(rows, 4)) {
    CHECK(run.count() >= 1);
    CHECK(run.begin / 4 == (run.end - 1) / 4);
    CHECK(run.place == static_cast<Index>(joined.size()));
    for (Index row = run.begin; row < run.end; ++row) joined.push_back(row);
  }
  CHECK(joined == rows);
  CHECK(implicit_attention::detail::row_runs(rows, 4).size() == 7);
}

TEST_CASE("every head's rows come once, as the equation has them, with zeros in the columns behind them", "[kernels]") {
  using namespace implicit_attention;
  head_cases::Plan plan;
  plan.tokens = 40;
  plan.heads = 4;
  plan.groups = 2;
  const HeadRecurrence<double> r = head_cases::make<double>(plan);
  const SharedMatrix<double> matrix(r);
  const std::vector<Index> heads = {0, 1, 3};
  const Executor serial = serial_executor(), backwards = test_support::backwards_executor();
  for (const std::vector<Index>& rows : {std::vector<Index>{39}, {5, 6, 7, 20}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 30, 31}})
    for (const bool by_rows : {false, true})
      for (const Executor* executor : {&serial, &backwards}) {
        INFO(rows.size() << " rows" << (by_rows ? ", by rows" : ""));
        Matrix<double> seen = Matrix<double>::Zero(r.heads, r.tokens);
        double worst = 0;
        bool right = true;
        detail::each_row_run(matrix, heads, rows, 4, by_rows, 8, *executor, [&] {
          return [&](Index head, const detail::RowRun& run, View<double> got) {
            const Matrix<double> expected = head_cases::matrix_by_equation(r, head);
            right = right && got.cols() == detail::padded<double>(r.tokens, 4) && got.rows() == run.count();
            for (Index i = 0; i < run.count(); ++i) {
              seen(head, run.begin + i) += 1;
              right = right && rows[static_cast<std::size_t>(run.place + i)] == run.begin + i;
              for (Index j = 0; j < got.cols(); ++j)
                worst = larger(worst, std::abs(got(i, j) - (j < r.tokens ? expected(run.begin + i, j) : 0.0)));
            }
          };
        });
        CHECK(right);
        CHECK(worst <= 1e-12);
        bool once = true;
        for (Index head = 0; head < r.heads; ++head)
          for (Index row = 0; row < r.tokens; ++row) {
            const bool wanted = head != 2 && std::find(rows.begin(), rows.end(), row) != rows.end();
            once = once && seen(head, row) == (wanted ? 1 : 0);
          }
        CHECK(once);
      }
}
