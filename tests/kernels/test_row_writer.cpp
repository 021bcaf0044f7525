// Rows written past the caches or through them: the numbers that were asked for, and nothing beside them.
#include <algorithm>
#include <cstddef>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/row_writer.hpp>

namespace {

using namespace implicit_attention;

/// Memory that begins with a cache line, a line of guards before and behind the numbers to be written.
template <class Scalar>
class GuardedLines {
 public:
  static constexpr Index line = detail::numbers_in_a_line<Scalar>;
  static constexpr Scalar guard = Scalar(-77);

  explicit GuardedLines(Index lines) : count_((lines + 3) * line), memory_(static_cast<std::size_t>(count_ + line), guard) {}

  [[nodiscard]] Scalar* at(Index offset) { return begin() + line + offset; }
  /// How many numbers are not as they must be: `expected(i)` for the `count` from `offset` on, guards elsewhere.
  template <class Expected>
  [[nodiscard]] Index wrong(Index offset, Index count, const Expected& expected) {
    Index wrong = 0;
    for (Index i = 0; i < count_; ++i) {
      const Index k = i - line - offset;
      wrong += begin()[i] != (k >= 0 && k < count ? expected(k) : guard);
    }
    return wrong;
  }
  void reset() { std::fill(memory_.begin(), memory_.end(), guard); }

 private:
  [[nodiscard]] Scalar* begin() { return memory_.data() + detail::rest_of_line(memory_.data()); }

  Index count_;
  std::vector<Scalar> memory_;
};

}  // namespace

TEMPLATE_TEST_CASE("a row writer writes what it is given at any place and length, and nothing beside it", "[kernels]", double, float) {
  using Scalar = TestType;
  using Writer = detail::RowWriter<Scalar>;
  constexpr Index line = Writer::line, lines = 5;
  GuardedLines<Scalar> memory(lines + 1), source(lines + 1);
  for (Index i = 0; i < (lines + 2) * line; ++i) source.at(0)[i] = static_cast<Scalar>(i + 1);
  for (const std::size_t bytes : {std::size_t(0), detail::streamed_from_bytes}) {
    const Writer writer(static_cast<Index>(bytes / sizeof(Scalar)));
#if defined(__SSE2__)
    CHECK(writer.streams(memory.at(0)) == (bytes > 0));
#endif
    for (Index offset = 0; offset < line; ++offset)
      for (Index from_offset : {Index(0), Index(1), offset})
        for (Index count = 0; count <= lines * line; ++count) {
          const Scalar* const from = source.at(from_offset);
          const auto copied = [&](Index k) { return from[k]; };
          const auto zero = [](Index) { return Scalar(0); };
          const auto wrong = [&](const auto& write, const auto& expected) {
            memory.reset();
            write(memory.at(offset));
            writer.finish();
            return memory.wrong(offset, count, expected);
          };
          const Index copy = wrong([&](Scalar*to) { writer.copy(from, count, to); }, copied),
                      copy_to_end = wrong([&](Scalar*to) { writer.copy_to_end(from, count, to); }, copied),
                      zeros = wrong([&](Scalar*to) { writer.zeros(count, to); }, zero),
                      zeros_to_end = wrong([&](Scalar*to) { writer.zeros_to_end(count, to); }, zero);
          if (copy + copy_to_end + zeros + zeros_to_end == 0) continue;
          INFO((bytes > 0 ? "streamed, " : "through the caches, ")
               << count << " numbers at " << offset << " of a line, from " << from_offset);
          CHECK(copy == 0);
          CHECK(copy_to_end == 0);
          CHECK(zeros == 0);
          CHECK(zeros_to_end == 0);
        }
    memory.reset();
    writer.copy(source.at(0), -1, memory.at(0));
    writer.copy_to_end(source.at(0), -1, memory.at(0));
    writer.zeros(-1, memory.at(0));
    writer.zeros_to_end(-1, memory.at(0));
    CHECK(memory.wrong(0, 0, [](Index) { return Scalar(0); }) == 0);
  }
}

TEMPLATE_TEST_CASE("a row writer streams registers as they are computed", "[kernels]", double, float) {
  using Scalar = TestType;
  constexpr int width = detail::register_lanes<Scalar>;
  constexpr Index line = detail::numbers_in_a_line<Scalar>;
  GuardedLines<Scalar> memory(2);
  const detail::RowWriter<Scalar> writer(static_cast<Index>(detail::streamed_from_bytes / sizeof(Scalar)));
  for (Index first = 0; first < 2 * line; first += width) {
    Lanes<Scalar, width> numbers;
    for (int i = 0; i < width; ++i) numbers[i] = static_cast<Scalar>(first + i + 1);
    writer.stream(memory.at(first), numbers);
  }
  writer.ask_for_last(memory.at(2 * line));  // reads nothing that is seen
  writer.finish();
  CHECK(memory.wrong(0, 2 * line, [](Index k) { return static_cast<Scalar>(k + 1); }) == 0);
}
