// Softmax attention as a matrix a head: single rows of several heads, what was carried in, and gradients.
#include <algorithm>
#include <cmath>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/kernels/matrix_recurrence.hpp>

#include "matrix_cases.hpp"

namespace {

using namespace matrix_cases;

}  // namespace

TEMPLATE_TEST_CASE("single rows of softmax attention are the same bits whatever heads are asked for with them, of every head size", "",
                   double, float) {
  using Scalar = TestType;
  constexpr Index tokens = 41;
  for (const MatrixKind kind : {MatrixKind::softmax, MatrixKind::softmax_window, MatrixKind::softmax_both_ways})
    for (const Index size : {1, 3, 4, 16, 19, 37}) {  // less than a register, some of them, and numbers that are left
      SoftmaxRecurrence<Scalar> r = make_softmax<Scalar>(kind, tokens, 7);
      Draw draw(static_cast<std::uint64_t>(size));
      r.query = draw.normals<Scalar>(tokens, 4 * size);
      r.key = draw.normals<Scalar>(tokens, 2 * size);
      r.past_key = draw.normals<Scalar>(5, 2 * size);
      r.past_value = draw.normals<Scalar>(5, 2 * 5);
      r.check();
      std::vector<Matrix<double>> expected;
      for (Index head = 0; head < 4; ++head) expected.push_back(softmax_by_equation(r, head));
      for (Index row = 0; row < tokens; ++row) {
        INFO("kind " << static_cast<int>(kind) << ", size " << size << ", row " << row);
        Matrix<Scalar> all(4, tokens), some(3, tokens), alone(1, tokens);
        head_rows(SharedMatrix<Scalar>(r), {0, 1, 2, 3}, {row}, View<Scalar>(all), serial_executor());
        head_rows(SharedMatrix<Scalar>(r), {1, 2, 3}, {row}, View<Scalar>(some), thread_executor(2));  // 1 and 2: of two key heads
        Index differ = 0;
        double error = 0;
        for (Index head = 0; head < 4; ++head) {
          head_rows(SharedMatrix<Scalar>(r), {head}, {row}, View<Scalar>(alone), serial_executor());
          differ += alone.row(0) != all.row(head);
          if (head > 0) differ += some.row(head - 1) != all.row(head);
          const Matrix<double> own = expected[static_cast<std::size_t>(head)].row(row).tail(tokens);
          error = std::max(error, (alone.template cast<double>() - own).cwiseAbs().maxCoeff());
        }
        CHECK(differ == 0);
        CHECK(error < (sizeof(Scalar) == 4 ? 2e-5 : 1e-14));
      }
    }
}

TEST_CASE("softmax attention takes in what was carried in, and its gradient is that of finite differences") {
  for (const MatrixKind kind : {MatrixKind::softmax, MatrixKind::softmax_window, MatrixKind::softmax_both_ways})
    for (const std::uint64_t seed : {1u, 2u}) {
      const Index tokens = 9;
      const Case<double> made = make_case<double>(kind, tokens, seed);
      const SoftmaxRecurrence<double> r = make_softmax<double>(kind, tokens, seed);
      Draw draw(seed);
      const Matrix<double> x = draw.normals<double>(tokens, r.channels), g = draw.normals<double>(tokens, r.channels);
      const auto output = [&](const SoftmaxRecurrence<double>& moved) {
        const Index values = moved.channels / moved.heads, past = moved.past_key.rows();
        Matrix<double> out(tokens, moved.channels);
        for (Index h = 0; h < moved.heads; ++h) {
          const Matrix<double> weights = softmax_by_equation(moved, h);
          out.middleCols(h * values, values) = weights.rightCols(tokens) * x.middleCols(h * values, values);
          if (past > 0)
            out.middleCols(h * values, values) +=
                weights.leftCols(past) * moved.past_value.matrix().middleCols(h / (moved.heads / moved.key_heads) * values, values);
        }
        return out;
      };
      Matrix<double> out(tokens, r.channels);
      matrix_apply(made.matrix, Array<double>::view(x), Array<double>(), View<double>(out), serial_executor());
      out += softmax_carry(r, serial_executor());
      CHECK((out - output(r)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-13);
      const SoftmaxGradient<double> gradient = softmax_gradient(r, ConstView<double>(x), ConstView<double>(g), serial_executor());
      const auto difference = [&](Array<double> SoftmaxRecurrence<double>::*member, const Matrix<double>& found) {
        const Matrix<double> numbers = (r.*member).matrix();
        double worst = 0;
        for (Index i = 0; i < numbers.size(); ++i) {
          SoftmaxRecurrence<double> moved = r;
          Matrix<double> up = numbers, down = numbers;
          up.data()[i] += 1e-5;
          down.data()[i] -= 1e-5;
          moved.*member = up;
          const double above = output(moved).cwiseProduct(g).sum();
          moved.*member = down;
          worst = larger(worst, std::abs((above - output(moved).cwiseProduct(g).sum()) / 2e-5 - found.data()[i]));
        }
        return worst;
      };
      CHECK(difference(&SoftmaxRecurrence<double>::query, gradient.query) < 1e-8);
      CHECK(difference(&SoftmaxRecurrence<double>::key, gradient.key) < 1e-8);
    }
}
