// The kernels on recurrences of every kind, also such as no architecture has: the plain row, the row walk, the blocked product form, the
// reductions and both applications, against the recurrence itself run on one unit input after the other.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <kernels/diagonal_cases.hpp>
#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/kernels/attention_rows.hpp>
#include <implicit_attention/kernels/plain.hpp>
#include <implicit_attention/kernels/reduced_rows.hpp>
#include <implicit_attention/kernels/scan.hpp>

namespace {

using namespace implicit_attention;
using diagonal_cases::by_definition;
using diagonal_cases::Kind;
using diagonal_cases::random_kind;
using test_support::Draw;

template <class Scalar>
void check_kind(const Kind<Scalar>& kind) {
  INFO(kind.text);
  const SurroundedDiagonal<Scalar>& surrounded = kind.surrounded;
  surrounded.recurrence.check();
  const Index tokens = surrounded.recurrence.tokens, channels = surrounded.recurrence.channels;
  // Some hundred roundings of ordinary numbers and of exponentials of arguments up to about 10 that are still seen.
  const double relative = sizeof(Scalar) == 4 ? 2e-5 : 1e-13;
  std::vector<Index> every_channel, every_row;
  for (Index e = 0; e < channels; ++e) every_channel.push_back(e);
  for (Index i = 0; i < tokens; ++i) every_row.push_back(i);

  Matrix<Scalar> all(channels * tokens, tokens), alone(channels, tokens), plain(1, tokens);
  attention_rows(surrounded, every_channel, every_row, View<Scalar>(all), serial_executor());
  Draw draw(9);
  const Matrix<Scalar> x = draw.normals<Scalar>(tokens, channels);
  Matrix<Scalar> applied(tokens, channels), transposed(tokens, channels), mean(tokens, tokens), mean_alone(1, tokens);
  ScanInput<Scalar> input;
  input.x = Array<Scalar>::view(x);
  scan<Scalar>(surrounded, input, applied, serial_executor());
  scan_transposed<Scalar>(surrounded, ConstView<Scalar>(x), View<Scalar>(transposed), serial_executor());
  reduced_rows(surrounded, every_channel, every_row, View<Scalar>(mean), serial_executor(), detail::Add{}, Scalar(0));

  std::vector<Matrix<double>> unweighted, expected;
  double largest = 0;
  for (Index e = 0; e < channels; ++e) {
    unweighted.push_back(by_definition(surrounded, e));
    expected.push_back(unweighted.back());
    if (!surrounded.row_weights.empty())
      expected.back().array().colwise() *= surrounded.row_weights.matrix().col(e).template cast<double>().array();
    largest = larger(largest, expected.back().cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  }
  const double allowed = relative * largest;
  Matrix<double> sum = Matrix<double>::Zero(tokens, tokens);
  double worst_block = 0, worst_plain = 0, worst_apply = 0, worst_transposed = 0, size = 0;
  const auto worse = [](double& worst, double difference) {
    if (!(difference <= worst)) worst = difference;
  };
  for (Index e = 0; e < channels; ++e) {
    const Matrix<double>& matrix = unweighted[static_cast<std::size_t>(e)];
    const Matrix<double>& weighted = expected[static_cast<std::size_t>(e)];
    sum += weighted;
    worse(worst_block,
          (all.middleRows(e * tokens, tokens).template cast<double>() - weighted).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    for (Index i = 0; i < tokens; ++i) {
      plain_row(surrounded, e, i, plain.data());
      worse(worst_plain, (plain.template cast<double>() - weighted.row(i)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    }
    const Eigen::VectorXd column = x.col(e).template cast<double>();
    worse(worst_apply, (applied.col(e).template cast<double>() - matrix * column).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    worse(worst_transposed,
          (transposed.col(e).template cast<double>() - matrix.transpose() * column).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    size = std::max(
        {size, (matrix.cwiseAbs() * column.cwiseAbs()).maxCoeff(), (matrix.transpose().cwiseAbs() * column.cwiseAbs()).maxCoeff()});
  }
  CHECK(worst_block <= allowed);
  CHECK(worst_plain <= allowed);
  CHECK(worst_apply <= relative * size);
  CHECK(worst_transposed <= relative * size);
  CHECK((mean.template cast<double>() - sum).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
        relative * largest * static_cast<double>(channels));
  double worst_walk = 0, worst_mean = 0;
  for (const Index row : {Index(0), Index(1), tokens / 2, tokens - 1}) {
    if (row >= tokens) continue;
    attention_rows(surrounded, every_channel, {row}, View<Scalar>(alone), serial_executor());
    for (Index e = 0; e < channels; ++e)
      worse(worst_walk, (alone.row(e).template cast<double>() - expected[static_cast<std::size_t>(e)].row(row))
                            .cwiseAbs()
                            .template maxCoeff<Eigen::PropagateNaN>());
    reduced_rows(surrounded, every_channel, {row}, View<Scalar>(mean_alone), serial_executor(), detail::Add{}, Scalar(0));
    worse(worst_mean, (mean_alone.template cast<double>() - sum.row(row)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  }
  CHECK(worst_walk <= allowed);
  CHECK(worst_mean <= relative * largest * static_cast<double>(channels));
}

}  // namespace

TEMPLATE_TEST_CASE("every kernel is the recurrence it is made of", "[kernels]", double, float) {
  Draw draw(2024);
  std::uint64_t seed = 1;
  for (int repetition = 0; repetition < 60; ++repetition) {
    const auto pick = [&](Index most) { return static_cast<Index>(draw.uniform(0, static_cast<double>(most))); };
    const Index tokens = 1 + pick(repetition % 3 == 0 ? 100 : 40), channels = 1 + pick(7), state = 1 + pick(4),
                width = 1 + pick(repetition % 5 == 0 ? 40 : 5);
    check_kind(random_kind<TestType>(tokens, channels, state, width, static_cast<unsigned>(pick(1 << 15)), seed++));
  }
  constexpr Index block = IMPLICIT_ATTENTION_BLOCK_TOKENS;
  for (const Index tokens :
       {Index(7), Index(8), Index(9), Index(31), block - 1, block, block + 1, 2 * block - 1, 2 * block, 2 * block + 1, 3 * block + 5})
    for (const unsigned parts : {0x7fffu, 0x3d7fu})  // everything at once; one document
      check_kind(random_kind<TestType>(tokens, 3, 2, 4, parts, seed++));
  for (const Index state : {1, 3, 4, 16, 64, 128})
    for (const unsigned parts : {0x3d7fu, 0x3d3eu}) check_kind(random_kind<TestType>(block + 9, 5, state, 4, parts, seed++));
  for (const Index channels : {16, 17, 63, 64, 65, 84}) check_kind(random_kind<TestType>(35, channels, 2, 4, 0x3f3f, seed++));
}

TEST_CASE("what stands in the first step of a document is not read", "[kernels]") {
  for (const bool read_before_update : {false, true}) {
    Kind<double> kind = random_kind<double>(150, 19, 2, 4, read_before_update ? 0x3dffu : 0x3dbfu, 5);
    SurroundedDiagonal<double>& surrounded = kind.surrounded;
    surrounded.recurrence.starts = {0, 3, 70};
    SurroundedDiagonal<double> odd = surrounded;
    Matrix<double> step = surrounded.recurrence.step.matrix();
    for (const Index start : surrounded.recurrence.starts) step.row(start).setConstant(std::numeric_limits<double>::quiet_NaN());
    odd.recurrence.step = step;
    std::vector<Index> channels, rows;
    for (Index e = 0; e < 19; ++e) channels.push_back(e);
    for (Index i = 0; i < 150; ++i) rows.push_back(i);
    Draw draw(6);
    const Matrix<double> x = draw.normals<double>(150, 19);
    ScanInput<double> input;
    input.x = Array<double>::view(x);
    const auto all = [&](const SurroundedDiagonal<double>& which) {
      Matrix<double> maps(19 * 150, 150), single(19 * 2, 150), mean(150, 150), applied(150, 19), transposed(150, 19);
      attention_rows(which, channels, rows, View<double>(maps), serial_executor());
      attention_rows(which, channels, {2, 149}, View<double>(single), serial_executor());
      reduced_rows(which, channels, rows, View<double>(mean), serial_executor(), detail::AddAbsolute{}, 0.0);
      scan<double>(which, input, applied, serial_executor());
      scan_transposed<double>(which, ConstView<double>(x), View<double>(transposed), serial_executor());
      return std::vector<Matrix<double>>{maps, single, mean, applied, transposed};
    };
    const std::vector<Matrix<double>> expected = all(surrounded), found = all(odd);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      INFO("result " << i << (read_before_update ? ", read_before_update" : ""));
      CHECK(found[i].allFinite());
      CHECK((found[i] - expected[i]).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
            1e-13 * expected[i].cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());  // exp(step) * 0 or 1 * 0
    }
  }
}

TEST_CASE("decays that are all or nothing stay numbers", "[kernels]") {
  // Infinite steps and rates of zero are what layers with overflowing parameters come to; neither may meet as 0 * inf.
  for (const double step : {0.0, 1e-300, 1.0, 1e30, 1e300}) {
    SurroundedDiagonal<double> surrounded;
    surrounded.recurrence.tokens = 40;
    surrounded.recurrence.channels = 3;
    surrounded.recurrence.step = Matrix<double>(Matrix<double>::Constant(40, 3, step));
    RowVector<double> rate(3);
    rate << 0, -1e-300, -1e30;
    surrounded.recurrence.rate = rate;
    std::vector<Index> rows;
    for (Index i = 0; i < 40; ++i) rows.push_back(i);
    Matrix<double> all(120, 40), one(3, 40), applied(40, 3), transposed(40, 3);
    const Matrix<double> x = Matrix<double>::Ones(40, 3);
    ScanInput<double> input;
    input.x = x;
    attention_rows(surrounded, {0, 1, 2}, rows, View<double>(all), serial_executor());
    attention_rows(surrounded, {0, 1, 2}, {39}, View<double>(one), serial_executor());
    scan<double>(surrounded, input, applied, serial_executor());
    scan_transposed<double>(surrounded, ConstView<double>(x), View<double>(transposed), serial_executor());
    INFO("step " << step);
    CHECK(all.allFinite());
    CHECK(one.allFinite());
    CHECK((applied - transposed.colwise().reverse()).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <
          1e-12);                               // a sum of 40 numbers up to 1, either way round
    CHECK(one(0, 0) == 1);                      // a rate of 0 forgets nothing
    if (step >= 1) CHECK(one(2, 38) < 1e-300);  // a rate of 1e30 forgets all
  }
}
