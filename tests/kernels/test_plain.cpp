// The plain row, to which the fast kernels are held, against the recurrence run on one unit input after the other.
#include <limits>

#include <kernels/diagonal_cases.hpp>
#include <support/catch.hpp>

#include <implicit_attention/kernels/plain.hpp>

using namespace implicit_attention;

TEST_CASE("a plain row is the recurrence's, and states its first token", "[kernels]") {
  for (const unsigned parts : {0x7fffu, 0x7fbfu, 0x003fu, 0x0000u, 0x7fbeu}) {
    const diagonal_cases::Kind<double> kind = diagonal_cases::random_kind<double>(75, 2, 3, 4, parts, 71);
    INFO(kind.text);
    const SurroundedDiagonal<double>& surrounded = kind.surrounded;
    Matrix<double> row = Matrix<double>::Constant(1, 75, std::numeric_limits<double>::quiet_NaN());
    for (Index e = 0; e < 2; ++e) {
      Matrix<double> expected = diagonal_cases::by_definition(surrounded, e);
      if (!surrounded.row_weights.empty()) expected.array().colwise() *= surrounded.row_weights.matrix().col(e).array();
      for (Index i = 0; i < 75; ++i) {
        plain_row(surrounded, e, i, row.data());
        CHECK((row - expected.row(i)).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() <= 1e-13 * expected.cwiseAbs().maxCoeff());
        row.setConstant(std::numeric_limits<double>::quiet_NaN());
        CHECK(plain_recurrence_row(surrounded.recurrence, e, i, row.data()) == surrounded.recurrence.first_visible(i));
      }
    }
  }
}
