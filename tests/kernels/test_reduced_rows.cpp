// Reductions over channels against joined plain rows, into the caller's memory.
#include <limits>
#include <tuple>
#include <vector>

#include <kernels/diagonal_cases.hpp>
#include <support/catch.hpp>

#include <implicit_attention/kernels/plain.hpp>
#include <implicit_attention/kernels/reduced_rows.hpp>

namespace {

using namespace implicit_attention;
using diagonal_cases::Kind;
using diagonal_cases::random_kind;

}  // namespace

TEMPLATE_TEST_CASE("reductions of whole blocks go into any memory, and touch nothing beside it", "[kernels]", double, float) {
  // Rows are joined in the caller's memory before they are moved to their place: whatever they begin at and whatever stands between them.
  const Index tokens = 150;
  std::vector<Index> rows = {149, 5, 148, 5};
  for (Index i = 0; i < tokens; ++i)
    if (i != 20) rows.push_back(i);
  const Index count = static_cast<Index>(rows.size());
  const TestType infinite = std::numeric_limits<TestType>::infinity();
  for (const auto& [channels, state, parts] : {std::tuple(Index(150), Index(1), 0x3d7fu), std::tuple(Index(37), Index(3), 0x3c3fu)}) {
    const Kind<TestType> kind = random_kind<TestType>(tokens, channels, state, 4, parts, 41);
    std::vector<Index> every;
    for (Index e = 0; e < channels; ++e) every.push_back(e);
    Matrix<TestType> plain(channels * tokens, tokens);
    for (Index place = 0; place < channels * tokens; ++place) plain_row(kind.surrounded, place / tokens, place % tokens, &plain(place, 0));
    const auto check = [&](const char* name, const auto& join, TestType initial) {
      Matrix<TestType> expected = Matrix<TestType>::Zero(tokens, tokens);
      for (Index i = 0; i < tokens; ++i) {
        expected.row(i).head(i + 1).setConstant(initial);
        for (const Index e : every)
          for (Index j = 0; j <= i; ++j) expected(i, j) = join(expected(i, j), plain(e * tokens + i, j));
      }
      for (const Index stride : {tokens, tokens + 7, tokens + 10})
        for (const Index offset : {0, 1, 13}) {
          std::vector<TestType> memory(static_cast<std::size_t>(count * stride + 64), TestType(-77));
          const View<TestType> out(memory.data() + offset, count, tokens, stride);
          reduced_rows(kind.surrounded, every, rows, out, serial_executor(), join, initial);
          INFO(kind.text << ", " << name << ", stride " << stride << ", offset " << offset);
          double worst = 0;
          for (Index place = 0; place < count; ++place) {
            const auto difference = (out.row(place) - expected.row(rows[static_cast<std::size_t>(place)])).cwiseAbs();
            worst = larger(worst, static_cast<double>(difference.template maxCoeff<Eigen::PropagateNaN>()));
          }
          // Sums of up to 150 numbers in another order.
          CHECK(worst <=
                (sizeof(TestType) == 4 ? 2e-5 : 1e-13) * static_cast<double>(expected.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
          Index written = 0;
          for (const TestType number : memory) written += number != TestType(-77) ? 1 : 0;
          CHECK(written == count * tokens);
        }
    };
    check("sum", detail::Add{}, TestType(0));
    check("sum of absolute values", detail::AddAbsolute{}, TestType(0));
    check("sum of positive parts", detail::AddPositive{}, TestType(0));
    check("largest", detail::Largest{}, -infinite);
    check("smallest", detail::Smallest{}, infinite);
  }
}
