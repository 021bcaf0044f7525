// Memory of large results: alignment, ownership, and an error that says what is too large.
#include <cstdint>
#include <type_traits>
#include <utility>

#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/operator/attention_matrix.hpp>
#include <implicit_attention/streaming/growing_rows.hpp>

#include <support/catch.hpp>
#include <support/sanitizers.hpp>

using namespace implicit_attention;

#if defined(TEST_ADDRESS_SANITIZER)
// The address sanitizer ends the program at sizes beyond an address space, unless it is told to fail as the system does.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }
#endif

namespace {
std::uintptr_t remainder_of(const void* memory, std::uintptr_t alignment) { return reinterpret_cast<std::uintptr_t>(memory) % alignment; }
}  // namespace

TEST_CASE("Large results begin at a huge page, small ones at a cache line") {
  for (const Index rows : {1, 3, 255, 1023, 1024, 1025, 3000}) {
    INFO(rows << " rows of 1024 floats");
    LargeMemory<float> memory(rows, 1024);
    CHECK(remainder_of(memory.data(), rows >= 1024 ? detail::huge_page_bytes : 64) == 0);
    for (Index i = 0; i < rows * 1024; ++i) memory.data()[i] = static_cast<float>(i % 1000);  // all of it can be written
    CHECK(memory.data()[rows * 1024 - 1] == static_cast<float>((rows * 1024 - 1) % 1000));
  }
  const LargeMemory<double> nothing(0, 1024);
  CHECK(nothing.data() == nullptr);
  CHECK(nothing.cols() == 1024);
}

TEST_CASE("Large results are moved without a copy, and copied whole") {
  static_assert(std::is_nothrow_move_constructible_v<AttentionMatrix<float>>);
  LargeMemory<float> memory(2000, 1024);
  for (Index i = 0; i < 2000 * 1024; ++i) memory.data()[i] = static_cast<float>(i % 777);
  const float* place = memory.data();
  const LargeMemory<float> copy = memory;
  CHECK(copy.data() != place);
  CHECK(std::equal(place, place + 2000 * 1024, copy.data()));
  LargeMemory<float> moved = std::move(memory);
  CHECK(moved.data() == place);
  CHECK(memory.data() == nullptr);  // NOLINT(bugprone-use-after-move): that it is empty is promised
  CHECK(memory.rows() == 0);
  moved = LargeMemory<float>(1, 2);
  CHECK(moved.rows() == 1);
  CHECK(moved.cols() == 2);

  AttentionMatrix<double> attention({4, 2}, {0, 1, 2}, 5);
  attention.stacked().setConstant(3);
  attention.stacked()(4, 1) = 7;
  const AttentionMatrix<double> twin = attention;
  const double* numbers = attention.data();
  const AttentionMatrix<double> owner = std::move(attention);
  CHECK(owner.data() == numbers);
  CHECK(twin.data() != numbers);
  CHECK(twin(1, 1, 1) == 7);
  CHECK(twin.channel(1)(1, 1) == 7);
  CHECK(twin.channel(0)(2, 4) == 3);
}

TEST_CASE("Memory that the system does not give is an error that says so") {
  const Index huge = Index(1) << 24;
  const auto fails = [](const auto& allocate) {
    try {
      allocate();
      FAIL("it was allocated");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::limit);
      CHECK_THAT(error.what(), contains_text("MiB, which the system could not allocate; ask for fewer channels"));
    }
  };
  fails([&] { LargeMemory<float>(huge, huge); });                       // 2^50 bytes: more than an address space has
  fails([&] { LargeMemory<double>(Index(1) << 40, Index(1) << 40); });  // more than can be counted
  fails([&] { LargeMemory<double>((Index(1) << 60) - 1, 1); });         // more than can be counted, once rounded up
  fails([&] { static_cast<void>(large_matrix<float>(huge, huge)); });
  fails([&] { static_cast<void>(large_matrix<double>(Index(1) << 40, Index(1) << 40)); });
  CHECK_THROWS_WITH((AttentionMatrix<float>({0}, std::vector<Index>(1 << 20), Index(1) << 30)),
                    contains_text("attention of 1048576 x 1073741824 numbers"));
  CHECK_THROWS_WITH((LargeMemory<float>((Index(1) << 38) + 300000, 1024)),
                    "a result of 274878206944 x 1024 numbers takes 1073742996 MiB, which the system could not allocate; ask for fewer "
                    "channels, fewer rows, or a reduction over channels");  // 1073742995.875
  detail::GrowingRows<float> history;
  const float none = 0;
  CHECK_THROWS_WITH(
      history.append(ConstView<float>(&none, huge, huge), 0),
      "the history of a stream of 33554432 x 16777216 numbers takes 2147483648 MiB, which the system could not allocate; keep "
      "fewer tokens (StreamingOptions::window)");
}

TEST_CASE("A large matrix is an ordinary matrix") {
  Matrix<float> matrix = large_matrix<float>(1500, 1024);
  CHECK(matrix.rows() == 1500);
  CHECK(matrix.cols() == 1024);
  matrix.setConstant(2);
  CHECK(matrix.sum() == 2 * 1500 * 1024);
  CHECK(large_matrix<double>(0, 5).size() == 0);
  CHECK(large_matrix<double>(2, 3).size() == 6);
}
