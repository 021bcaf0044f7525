// Tokens by channels to channels by tokens.
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/transpose.hpp>

namespace {

template <int Columns, class Scalar>
implicit_attention::Index wrong_after_transpose(implicit_attention::Index stride, implicit_attention::Index rows) {
  using implicit_attention::Index;
  const Index room = rows + 3;  // with guards behind every column
  std::vector<Scalar> from(static_cast<std::size_t>(stride * rows + Columns)), to(static_cast<std::size_t>(Columns * room), Scalar(-1));
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<Scalar>(i);
  implicit_attention::detail::transpose<Columns>(from.data(), stride, rows, [&](Index c) { return to.data() + c * room; });
  Index wrong = 0;
  for (Index c = 0; c < Columns; ++c)
    for (Index k = 0; k < room; ++k)
      wrong += to[static_cast<std::size_t>(c * room + k)] != (k < rows ? static_cast<Scalar>(k * stride + c) : Scalar(-1));
  return wrong;
}

}  // namespace

TEMPLATE_TEST_CASE("a transposed block has every number at its place, and nothing behind it", "[kernels]", double, float) {
  using implicit_attention::Index;
  constexpr int width = implicit_attention::detail::register_lanes<TestType>;
  for (Index rows = 0; rows <= 2 * width + 3; ++rows)
    for (const Index more : {0, 1, 5}) {
      INFO(rows << " rows, " << more << " numbers between them");
      CHECK(wrong_after_transpose<1, TestType>(1 + more, rows) == 0);
      CHECK(wrong_after_transpose<3, TestType>(3 + more, rows) == 0);
      CHECK(wrong_after_transpose<width, TestType>(width + more, rows) == 0);
      CHECK(wrong_after_transpose<2 * width, TestType>(2 * width + more, rows) == 0);
    }
}
