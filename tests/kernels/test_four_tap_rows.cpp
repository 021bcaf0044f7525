// Rows of a channel for four taps in registers, against sums over the taps.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/kernels/four_tap_rows.hpp>

#include "matrix_cases.hpp"

namespace {

using namespace matrix_cases;

}  // namespace

TEMPLATE_TEST_CASE("four taps of a row are summed with the skip on its diagonal, and what is behind its entries is zero", "", float,
                   double) {
  using Scalar = TestType;
  using Rows = detail::FourTapRows<Scalar>;
  if constexpr (Rows::available) {
    const Index tokens = 64, channel = 2;
    SurroundedCase<Scalar> made(MatrixKind::diagonal, tokens, 0b0001110u, 4, 3);
    const bool negative = GENERATE(false, true);  // sums behind the entries: 0 of both signs, or -0 everywhere
    if (negative) {
      made.surrounded.activation = Matrix<Scalar>(-made.surrounded.activation.matrix().cwiseAbs());
      made.surrounded.taps = Matrix<Scalar>(made.surrounded.taps.matrix().cwiseAbs());
    }
    const Surrounded<SharedMatrix<Scalar>>& s = made.surrounded;
    detail::HeadColumns<Scalar> columns(s, tokens, false, true);
    const std::vector<Index> channels{1, 2};
    columns.choose(channels);
    columns.prepare(0, tokens);
    REQUIRE(columns.by_taps());
    Rows four_taps;
    four_taps.choose(columns, 1);
    Draw draw(9);
    for (const Index row : {Index(0), Index(3), Index(30), tokens - 1}) {
      INFO("row " << row);
      const Index count = row + 1, made_columns = std::min((count + Rows::lane - 1) / Rows::lane * Rows::lane, tokens);
      std::vector<Scalar> entries(static_cast<std::size_t>(tokens + 4 * Rows::lane), Scalar(0)), numbers(entries.size(), Scalar(7));
      const Matrix<Scalar> random = draw.normals<Scalar>(1, count);
      std::copy_n(random.data(), count, entries.begin());
      const Scalar scale = Scalar(0.75);
      CHECK(four_taps.takes(scale));
      four_taps.write(entries.data(), scale, row, count, 0, 0, made_columns, numbers.data(), nullptr);
      double worst = 0;
      for (Index j = 0; j < made_columns; ++j) {
        double sum = 0;
        for (Index d = 0; d < 4 && j + d <= row; ++d)
          sum += (static_cast<double>(random(0, j + d)) + (j + d == row ? static_cast<double>(s.skip(0, channel)) : 0.0)) *
                 static_cast<double>(s.taps(3 - d, channel)) * static_cast<double>(s.activation(j + d, channel));
        worst = larger(worst, std::abs(static_cast<double>(numbers[static_cast<std::size_t>(j)]) - sum * static_cast<double>(scale)));
      }
      CHECK(worst < (sizeof(Scalar) == 4 ? 1e-5 : 1e-14));
      bool positive = true;
      for (Index j = count; j < made_columns; ++j) positive = positive && !std::signbit(numbers[static_cast<std::size_t>(j)]);
      CHECK(positive);
      // Whole lines straight to the result, the same bits as by way of memory of its own.
      constexpr Index line = detail::numbers_in_a_line<Scalar>;
      const Index stop = std::max(line, made_columns / line * line);
      if (stop > made_columns || made_columns <= line) continue;
      LargeMemory<Scalar> result(1, tokens);
      std::fill_n(result.data(), tokens, Scalar(7));
      std::vector<Scalar> rest(numbers.size(), Scalar(7));
      four_taps.write(entries.data(), scale, row, count, line, stop, made_columns, rest.data(), result.data());
      Index wrong = 0;
      for (Index j = 0; j < tokens; ++j) {
        const std::size_t place = static_cast<std::size_t>(j);
        const bool straight = j >= line && j < stop;
        wrong += result.data()[j] != (straight ? numbers[place] : Scalar(7));
        if (j < made_columns) wrong += rest[place] != (straight ? Scalar(7) : numbers[place]);
      }
      CHECK(wrong == 0);
    }
    CHECK(four_taps.takes(Scalar(0)));
    CHECK_FALSE(four_taps.takes(std::numeric_limits<Scalar>::infinity()));
    // The least tap alone would lose digits.
    const Matrix<Scalar> sizes = s.taps.matrix().col(channel).cwiseAbs();
    REQUIRE(sizes.maxCoeff() > 2 * sizes.minCoeff());
    CHECK_FALSE(four_taps.takes(std::numeric_limits<Scalar>::min() / (sizes.minCoeff() * Scalar(1.5))));
  }
}
