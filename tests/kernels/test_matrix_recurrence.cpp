// Recurrences that are matrices by themselves: rows and applications of every kind, and the gradient of a convolution's kernel.
#include <cmath>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/matrix_recurrence.hpp>

#include "matrix_cases.hpp"

namespace {

using namespace matrix_cases;

}  // namespace

TEST_CASE("rows and applications of every kind of recurrence are those of its heads' matrices") {
  for (const MatrixKind kind : kinds)
    for (const Index tokens : {1, 9, 70}) {
      INFO("kind " << static_cast<int>(kind) << ", tokens " << tokens);
      const Case<double> made = make_case<double>(kind, tokens, 4);
      const Index values = made.matrix.head_channels();
      Draw draw(6);
      const Matrix<double> x = draw.normals<double>(tokens, made.matrix.channels);
      Matrix<double> out(tokens, made.matrix.channels), transposed = out, rows(tokens, tokens), expected = out, expected_transposed = out;
      for (Index head = 0; head < made.matrix.heads; ++head) {
        const Matrix<double>& matrix = made.heads[static_cast<std::size_t>(head)];
        matrix_rows(made.matrix, head, 0, tokens, View<double>(rows));
        check_matrix<double>(rows, matrix, "rows");
        expected.middleCols(head * values, values) = matrix * x.middleCols(head * values, values);
        expected_transposed.middleCols(head * values, values) = matrix.transpose() * x.middleCols(head * values, values);
      }
      matrix_apply(made.matrix, Array<double>::view(x), Array<double>(), View<double>(out), serial_executor());
      check_matrix<double>(out, expected, "application");
      matrix_apply_transposed(made.matrix, ConstView<double>(x), View<double>(transposed), serial_executor());
      check_matrix<double>(transposed, expected_transposed, "transpose");
    }
}

TEST_CASE("the gradient of a convolution's kernel is the double loop over its lags, the last one too") {
  for (const Index length : {1, 4, 9, 12}) {
    Draw draw(static_cast<std::uint64_t>(length));
    ToeplitzRecurrence<double> r;
    r.tokens = 9;
    r.channels = r.heads = 3;
    r.kernel = draw.normals<double>(3, length);
    const Matrix<double> x = draw.normals<double>(r.tokens, r.channels), g = draw.normals<double>(r.tokens, r.channels);
    const Matrix<double> gradient = toeplitz_kernel_gradient<double>(r, x, g);
    REQUIRE(gradient.rows() == 3);
    REQUIRE(gradient.cols() == length);
    for (Index e = 0; e < 3; ++e)
      for (Index lag = 0; lag < length; ++lag) {
        double sum = 0;  // of y[i] = sum_lag kernel[lag] x[i - lag]
        for (Index i = lag; i < r.tokens; ++i) sum += g(i, e) * x(i - lag, e);
        CHECK(std::abs(gradient(e, lag) - sum) < 1e-13);
      }
  }
}
