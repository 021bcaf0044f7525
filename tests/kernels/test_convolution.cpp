// The short convolution and its transpose.
#include <cmath>

#include <support/catch.hpp>
#include <support/finite_differences.hpp>
#include <support/random.hpp>

#include <implicit_attention/kernels/convolution.hpp>

using namespace implicit_attention;
using test_support::dot;
using test_support::Draw;

TEST_CASE("the transposed convolution is the transpose", "[gradient]") {
  Draw draw(7);
  const Index channels = 45;  // tiles of every width
  for (const Index width : {1, 2, 4, 6})
    for (const Index tokens : {1, 2, 3, 8, 9, 40})
      for (const bool documents : {false, true}) {
        Surrounded<DiagonalRecurrence<double>> surrounded;
        surrounded.recurrence.tokens = tokens;
        surrounded.recurrence.channels = channels;
        const Matrix<double> taps = draw.normals<double>(width, channels), x = draw.normals<double>(tokens, channels),
                             g = draw.normals<double>(tokens, channels);
        surrounded.taps = taps;
        if (documents) surrounded.convolution_starts = {0, tokens / 2, tokens / 2 + 1};
        ScanInput<double> input;
        input.x = x;
        Matrix<double> forwards(tokens, channels), backwards(tokens, channels);
        convolve(surrounded, input, View<double>(forwards), serial_executor());
        convolve_transposed<double>(taps, surrounded.convolution_starts, g, backwards);
        INFO("width " << width << ", tokens " << tokens << ", documents " << documents);
        CHECK(std::abs(dot(forwards, g) - dot(x, backwards)) <= 1e-13 * forwards.norm() * g.norm() + 1e-300);  // rounding of sums
      }
}
