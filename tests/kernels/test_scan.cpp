// Applications in linear time.
#include <vector>

#include <kernels/diagonal_cases.hpp>
#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/kernels/scan.hpp>

namespace {

using namespace implicit_attention;
using diagonal_cases::Kind;
using diagonal_cases::random_kind;
using test_support::Draw;

}  // namespace

TEST_CASE("a scan that is carried on is the whole scan", "[kernels]") {
  // The convolution's tail reaches over several of the runs a scan goes by, and ends before the next one begins.
  for (const Index width : {Index(1), Index(4), Index(11)})
    for (const Index cut : {Index(11), Index(16), Index(29)}) {
      const Index tokens = 45, channels = 41, lead = width - 1;
      Kind<double> kind = random_kind<double>(tokens, channels, 2, width, 0x3d3f, 33);
      Draw draw(34);
      const Matrix<double> x = draw.normals<double>(tokens, channels);
      const auto part = [&](const Array<double>& array, Index first, Index count) {
        return array.empty() ? Array<double>() : Array<double>(Matrix<double>(array.matrix().middleRows(first, count)));
      };
      const auto run = [&](Index first, Index count, const Array<double>& tail, const Array<double>& before, View<double> out,
                           View<double>* after) {
        SurroundedDiagonal<double> some = kind.surrounded;
        some.recurrence.tokens = count;
        for (Array<double>* array : {&some.recurrence.step, &some.recurrence.query, &some.recurrence.key, &some.recurrence.query_scale,
                                     &some.recurrence.key_scale, &some.gate, &some.activation, &some.column_weights})
          *array = part(*array, first, count);
        ScanInput<double> input;
        input.x = Matrix<double>(x.middleRows(first, count));
        input.convolution_tail = tail;
        input.initial_state = before;
        scan<double>(some, input, out, serial_executor(), after);
      };
      Matrix<double> whole(tokens, channels), early(cut, channels), late(tokens - cut, channels), state(2, channels);
      View<double> carried(state);
      run(0, tokens, {}, {}, View<double>(whole), nullptr);
      run(0, cut, {}, {}, View<double>(early), &carried);
      Array<double> tail;
      if (lead != 0) {
        Matrix<double> entered = x.middleRows(cut - lead, lead);
        if (!kind.surrounded.column_weights.empty())
          entered.array() *= kind.surrounded.column_weights.matrix().middleRows(cut - lead, lead).array();
        tail = entered;
      }
      run(cut, tokens - cut, tail, Array<double>(state), View<double>(late), nullptr);
      INFO("width " << width << ", cut before token " << cut);
      CHECK((early - whole.topRows(cut)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
            1e-13 * whole.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
      CHECK((late - whole.bottomRows(tokens - cut)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
            1e-13 * whole.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    }
}

TEST_CASE("a gate that is made where it is read is the gate", "[kernels]") {
  const NumberChange<double> by = [](detail::Numbers<double> numbers) { numbers = numbers * numbers + 1.0; };
  for (const Index channels : {Index(1), Index(41)}) {
    Kind<double> kind = random_kind<double>(21, channels, 2, 4, 0x3d3f, 35);
    Draw draw(36);
    ScanInput<double> input;
    input.x = draw.normals<double>(21, channels);
    const Matrix<double> before = draw.normals<double>(21, channels), gates = (before.array().square() + 1).matrix();
    Matrix<double> expected(21, channels), found(21, channels);
    kind.surrounded.gate = gates;
    scan<double>(kind.surrounded, input, expected, serial_executor());
    kind.surrounded.gate = before;
    scan<double>(kind.surrounded, input, found, serial_executor(), nullptr, by);
    INFO(kind.text << ", channels " << channels);
    CHECK((found - expected).cwiseAbs().maxCoeff() <= 1e-13 * expected.cwiseAbs().maxCoeff());
  }
}
