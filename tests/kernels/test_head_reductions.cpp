// Channels joined around a matrix a head, against joins of dense matrices.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/kernels/head_reductions.hpp>
#include <implicit_attention/kernels/reducers.hpp>

#include "matrix_cases.hpp"

namespace {

using namespace matrix_cases;

template <class Scalar>
void check_joins(MatrixKind kind, Index tokens, unsigned parts, Index width, std::uint64_t seed) {
  INFO((sizeof(Scalar) == 4 ? "float" : "double"));
  const SurroundedCase<Scalar> made(kind, tokens, parts, width, seed);
  const auto pool = thread_executor(3);
  made.for_choices([&](const std::vector<Index>& channels, const std::vector<Index>& rows, const Matrix<double>& expected) {
    const Index count = static_cast<Index>(rows.size()), chosen = static_cast<Index>(channels.size());
    const auto joined = [&](const auto& reducer, Scalar initial, const char* what, const auto& join) {
      Matrix<double> whole = Matrix<double>::Constant(count, tokens, static_cast<double>(initial));
      for (Index c = 0; c < chosen; ++c)
        for (Index i = 0; i < count; ++i)
          for (Index j = 0; j < tokens; ++j) whole(i, j) = join(whole(i, j), expected(c * count + i, j));
      Matrix<Scalar> reduced = Matrix<Scalar>::Constant(count, tokens, Scalar(7)), other = reduced;
      reduced_rows(made.surrounded, channels, rows, View<Scalar>(reduced), serial_executor(), reducer, initial);
      check_matrix<Scalar>(reduced, whole, what);
      reduced_rows(made.surrounded, channels, rows, View<Scalar>(other), pool, reducer, initial);
      CHECK((reduced.array() == other.array()).all());
    };
    constexpr Scalar infinity = std::numeric_limits<Scalar>::infinity();
    joined(detail::Add{}, Scalar(0), "sum", [](double a, double b) { return a + b; });
    joined(detail::AddAbsolute{}, Scalar(0), "sum of absolute values", [](double a, double b) { return a + std::abs(b); });
    joined(detail::AddPositive{}, Scalar(0), "sum of positive parts", [](double a, double b) { return a + std::max(b, 0.0); });
    joined(detail::Largest{}, -infinity, "largest", [](double a, double b) { return std::max(a, b); });
    joined(detail::Smallest{}, infinity, "smallest", [](double a, double b) { return std::min(a, b); });
  });
}

}  // namespace

TEST_CASE("joins of channels around every matrix are those of the dense products of their factors") {
  for_surroundings([](MatrixKind kind, Index tokens, unsigned parts, Index width, std::uint64_t seed, bool in_float) {
    check_joins<double>(kind, tokens, parts, width, seed);
    if (in_float) check_joins<float>(kind, tokens, parts, width, seed);
  });
}
