// Rows of chosen channels: many of a block or single ones, large and small results, into the caller's memory.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <kernels/diagonal_cases.hpp>
#include <support/catch.hpp>

#include <implicit_attention/kernels/attention_rows.hpp>
#include <implicit_attention/kernels/plain.hpp>
#include <implicit_attention/kernels/reduced_rows.hpp>

namespace {

using namespace implicit_attention;
using diagonal_cases::Kind;
using diagonal_cases::random_kind;

}  // namespace

TEMPLATE_TEST_CASE("large results, written past the caches in pieces, are the plain rows", "[kernels]", double, float) {
  // More columns than a piece has, more numbers than the caches take; rows that begin anywhere, and numbers of the caller's between them.
  const Index tokens = 700, channels = 3;
  Kind<TestType> kind = random_kind<TestType>(tokens, channels, 2, 4, 0x3c7e, 77);
  kind.surrounded.recurrence.step =
      Matrix<TestType>(kind.surrounded.recurrence.step.matrix() / TestType(2000));  // so that far columns are seen
  std::vector<Index> rows;
  for (Index i = 0; i < tokens; ++i) rows.push_back(i);
  for (const Index stride : {Index(0), Index(1), Index(5)}) {
    const TestType mark = TestType(12345);
    Matrix<TestType> memory = Matrix<TestType>::Constant(channels * tokens, tokens + stride, mark);
    attention_rows(kind.surrounded, {0, 1, 2}, rows, View<TestType>(memory.data() + stride, channels * tokens, tokens, tokens + stride),
                   serial_executor());
    Matrix<TestType> plain(1, tokens);
    double worst = 0, largest = 0;
    for (Index e = 0; e < channels; ++e)
      for (Index i = 0; i < tokens; ++i) {
        plain_row(kind.surrounded, e, i, plain.data());
        const TestType* made = &memory(e * tokens + i, stride);
        for (Index j = 0; j < tokens; ++j) {
          worst = larger(worst, static_cast<double>(std::abs(made[j] - plain(0, j))));
          if (j > i && made[j] != 0) worst = 1e300;
        }
        largest = larger(largest, static_cast<double>(plain.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
      }
    INFO(kind.text << ", rows " << tokens + stride << " numbers apart");
    CHECK(worst <= (sizeof(TestType) == 4 ? 5e-6 : 1e-14) * largest);
    if (stride != 0) CHECK((memory.leftCols(stride).array() == mark).all());
  }
}

TEMPLATE_TEST_CASE("large single rows, written past the caches, are the plain rows", "[kernels]", double, float) {
  // Channels that forget soon beside ones that do not; tokens before, in and after the row; rows that begin anywhere.
  const Index tokens = 30001, channels = 41;
  // With every scale and without some: pieces are then finished in registers. And with documents that the convolution does not look beyond.
  for (const unsigned parts : {0x7d3eu, 0x5d3eu, 0x4f3eu}) {
    Kind<TestType> kind = random_kind<TestType>(tokens, channels, 2, 4, parts, 78);
    if (!kind.surrounded.convolution_starts.empty())
      kind.surrounded.convolution_starts.insert(kind.surrounded.convolution_starts.end(), {20100, 29990});
    Matrix<TestType> step = kind.surrounded.recurrence.step.matrix();
    for (Index e = 0; e < channels; ++e) step.col(e) /= TestType(e < 32 ? 1000 : 100000);
    kind.surrounded.recurrence.step = step;
    kind.surrounded.recurrence.starts = {100};
    std::vector<Index> every;
    for (Index e = 0; e < channels; ++e) every.push_back(e);
    for (const Index row : {tokens - 1, Index(20000), Index(101)}) {
      Matrix<TestType> expected(channels, tokens);
      for (Index e = 0; e < channels; ++e) plain_row(kind.surrounded, e, row, &expected(e, 0));
      for (const Index stride : {Index(0), Index(5)}) {
        const TestType mark = TestType(12345);
        Matrix<TestType> memory = Matrix<TestType>::Constant(channels, tokens + stride, mark);
        attention_rows(kind.surrounded, every, {row}, View<TestType>(memory.data() + stride, channels, tokens, tokens + stride),
                       serial_executor());
        double worst = 0, largest = 0;
        Matrix<TestType> highest = Matrix<TestType>::Constant(1, tokens, std::numeric_limits<TestType>::lowest()), joined(1, tokens);
        for (Index e = 0; e < channels; ++e) {
          const Eigen::Ref<const Matrix<TestType>> plain = expected.row(e);
          highest = highest.cwiseMax(plain);
          worst =
              larger(worst, static_cast<double>((memory.row(e).tail(tokens) - plain).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
          largest = larger(largest, static_cast<double>(plain.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
          CHECK((memory.row(e).tail(tokens - 1 - row).array() == TestType(0)).all());
        }
        INFO(kind.text << ", row " << row << ", rows " << tokens + stride << " numbers apart");
        CHECK(worst <= (sizeof(TestType) == 4 ? 5e-6 : 1e-14) * largest);
        if (stride != 0) {
          CHECK((memory.leftCols(stride).array() == mark).all());
          continue;
        }
        // What is forgotten counts as zero among what is not.
        reduced_rows(kind.surrounded, every, {row}, View<TestType>(joined), serial_executor(), detail::Largest{},
                     std::numeric_limits<TestType>::lowest());
        CHECK(static_cast<double>((joined - highest).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()) <=
              (sizeof(TestType) == 4 ? 5e-6 : 1e-14) * largest);
      }
    }
  }
}

TEST_CASE("single rows of any list of channels are those of the whole layer", "[kernels]") {
  const Index tokens = 50, channels = 80;
  const Kind<double> kind = random_kind<double>(tokens, channels, 2, 4, 0x3d7f, 31);
  std::vector<Index> every;
  for (Index e = 0; e < channels; ++e) every.push_back(e);
  Matrix<double> whole(channels, tokens);
  attention_rows(kind.surrounded, every, {tokens - 1}, View<double>(whole), serial_executor());
  std::vector<Index> mixed = {79, 3, 3};  // alone, twice; then neighbours of every width, and backwards
  for (Index e = 10; e < 60; ++e) mixed.push_back(e);
  for (Index e = 9; e > 4; --e) mixed.push_back(e);
  Matrix<double> rows(static_cast<Index>(mixed.size()), tokens), mean(1, tokens);
  attention_rows(kind.surrounded, mixed, {tokens - 1}, View<double>(rows), serial_executor());
  reduced_rows(kind.surrounded, mixed, {tokens - 1}, View<double>(mean), serial_executor(), detail::Add{}, 0.0);
  RowVector<double> sum = RowVector<double>::Zero(tokens);
  for (std::size_t i = 0; i < mixed.size(); ++i) {
    INFO("channel " << mixed[i] << " at place " << i);
    CHECK((rows.row(static_cast<Index>(i)) - whole.row(mixed[i])).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
          1e-14 * whole.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    sum += whole.row(mixed[i]);
  }
  CHECK((mean - sum).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
        1e-13 * whole.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());  // some sixty numbers, in another order
}

TEST_CASE("rows that are asked for twice are there twice", "[kernels]") {
  const Index tokens = 70, channels = 3;
  const Kind<double> kind = random_kind<double>(tokens, channels, 2, 4, 0x3d7f, 32);
  std::vector<Index> rows = {69, 5, 5};
  for (Index i = 0; i < tokens; ++i) rows.push_back(i);
  const Index count = static_cast<Index>(rows.size());
  Matrix<double> made(channels * count, tokens), plain(1, tokens);
  attention_rows(kind.surrounded, {0, 1, 2}, rows, View<double>(made), serial_executor());
  for (Index e = 0; e < channels; ++e)
    for (Index place = 0; place < count; ++place) {
      plain_row(kind.surrounded, e, rows[static_cast<std::size_t>(place)], plain.data());
      CHECK((made.row(e * count + place) - plain).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
            1e-12 * std::max(1.0, plain.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
    }
}
