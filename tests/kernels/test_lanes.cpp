// Rows of neighbouring channels: where they stand, shifted, and scaled by rows of arrays.
#include <algorithm>
#include <cstdint>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/kernels/lanes.hpp>

namespace {

using namespace implicit_attention;

/// Numbers that differ from expected ones after rows of `Width` channels are scaled by none, one or two arrays.
template <int Width, class Scalar>
Index wrong_after_scaling(bool has_one, bool has_other) {
  const Index first = 2, end = 5, column = 3;
  test_support::Draw draw(Width);
  Array<Scalar> one, other;
  if (has_one) one = draw.normals<Scalar>(end, column + Width);
  if (has_other) other = draw.normals<Scalar>(end, column + Width);
  const Matrix<Scalar> before = draw.normals<Scalar>(end - first + 1, Width);
  Matrix<Scalar> rows = before, by_one = before;
  scale_rows<Width>(detail::ArrayRows<Scalar>(one, column), detail::ArrayRows<Scalar>(other, column), first, end, rows.data());
  scale_rows<Width>(detail::ArrayRows<Scalar>(one, column), first, end, by_one.data());
  Index wrong = 0;
  for (Index i = 0; i < rows.rows(); ++i)
    for (Index c = 0; c < Width; ++c) {
      const bool scaled = i < end - first;  // the row behind the last stays
      const Scalar a = scaled && has_one ? one(first + i, column + c) : Scalar(1);
      const Scalar b = scaled && has_other ? other(first + i, column + c) : Scalar(1);
      wrong += rows(i, c) != before(i, c) * (a * b);
      wrong += by_one(i, c) != before(i, c) * a;
    }
  return wrong;
}

template <int Width, class Scalar>
void expect_channel_rows() {
  INFO(Width << " channels");
  for (const bool has_one : {false, true})
    for (const bool has_other : {false, true}) CHECK(wrong_after_scaling<Width, Scalar>(has_one, has_other) == 0);

  const Matrix<Scalar> numbers = test_support::Draw(5).normals<Scalar>(6, Width + 9);
  const Array<Scalar> part = Array<Scalar>::view(numbers).middle_columns(1, Width + 7);  // whose rows are further apart than they are long
  const LaneRows<Scalar, Width> taken = lane_rows<Width>(part, 2);
  REQUIRE(taken.rows() == 6);
  Index wrong = 0;
  for (Index i = 0; i < 6; ++i)
    for (Index c = 0; c < Width; ++c) wrong += taken.data()[i * Width + c] != numbers(i, c + 3) || taken.row(i)[c] != numbers(i, c + 3);
  CHECK(wrong == 0);

  LaneRows<Scalar, Width> ones = LaneRows<Scalar, Width>::Ones(3);
  const LaneRows<Scalar, Width> zeros = LaneRows<Scalar, Width>::Zero(3);
  CHECK((ones.rows() == 3 && zeros.rows() == 3));
  CHECK(std::count(ones.data(), ones.data() + 3 * Width, Scalar(1)) == 3 * Width);
  CHECK(std::count(zeros.data(), zeros.data() + 3 * Width, Scalar(0)) == 3 * Width);
  ones.resize(5);
  CHECK(ones.rows() == 5);
}

/// Numbers that are wrong in two registers, shifted by `By` numbers.
template <int By, class Scalar>
Index wrong_after_shift() {
  constexpr int count = detail::computed_lanes<Scalar>;
  using Register = detail::LaneRegister<Scalar, count>;
  std::vector<Scalar> both(2 * count), found(count);
  for (std::size_t i = 0; i < both.size(); ++i) both[i] = static_cast<Scalar>(i);
  Register::store(found.data(), detail::shifted<By, Scalar, count>(Register::load(both.data()), Register::load(both.data() + count)));
  Index wrong = 0;
  for (std::size_t i = 0; i < found.size(); ++i) wrong += found[i] != static_cast<Scalar>(i + By);
  return wrong;
}

}  // namespace

TEMPLATE_TEST_CASE("rows of neighbouring channels are those of their arrays, and are scaled by them", "[kernels]", double, float) {
  expect_channel_rows<1, TestType>();
  expect_channel_rows<8, TestType>();
  expect_channel_rows<16, TestType>();
  expect_channel_rows<32, TestType>();
}

TEMPLATE_TEST_CASE("two registers that are shifted are the numbers from there on", "[kernels]", double, float) {
  constexpr int count = detail::computed_lanes<TestType>;
  CHECK(wrong_after_shift<0, TestType>() == 0);
  CHECK(wrong_after_shift<1, TestType>() == 0);
  CHECK(wrong_after_shift<count / 2, TestType>() == 0);
  CHECK(wrong_after_shift<count - 1, TestType>() == 0);
}

TEMPLATE_TEST_CASE("the rest of a cache line ends where the next one begins", "[kernels]", double, float) {
  constexpr Index line = detail::numbers_in_a_line<TestType>;
  CHECK(line * static_cast<Index>(sizeof(TestType)) == 64);
  std::vector<TestType> numbers(static_cast<std::size_t>(3 * line));
  for (Index i = 0; i < 2 * line; ++i) {
    const TestType* const from = numbers.data() + i;
    const Index rest = detail::rest_of_line(from);
    CHECK((rest >= 0 && rest < line));
    CHECK(reinterpret_cast<std::uintptr_t>(from + rest) % 64 == 0);
  }
}

TEST_CASE("rows of an empty array are none, those of another are found by its stride", "[kernels]") {
  CHECK(detail::ArrayRows<double>().empty());
  CHECK(detail::ArrayRows<double>(Array<double>(), 4).empty());
  const Array<double> array = Matrix<double>(Matrix<double>::Ones(3, 7));
  const detail::ArrayRows<double> rows(array.middle_columns(2, 4), 1);
  CHECK_FALSE(rows.empty());
  CHECK(rows.stride() == 7);
  CHECK(rows.row(2) == array.data() + 2 * 7 + 3);
}
