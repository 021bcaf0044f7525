// The walk through one strip of tokens, against the recurrence of every channel and column by itself.
#include <algorithm>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/kernels/strip_walk.hpp>

namespace strip_walk_cases {

using namespace implicit_attention;
using detail::strip_tokens;
using test_support::Draw;

/// What a strip's walk reads, every number by itself, in double.
struct Strip {
  Index state, lead, width;
  std::vector<double> decays, enter, direct, scales, begun, queries, keys;

  Strip(Index states, Index convolution_lead, Index lanes, Draw& draw) : state(states), lead(convolution_lead), width(lanes) {
    const auto drawn = [&](Index count, double from, double to) {
      std::vector<double> numbers(static_cast<std::size_t>(count));
      for (double& number : numbers) number = static_cast<double>(static_cast<float>(draw.uniform(from, to)));
      return numbers;
    };
    decays = drawn(state * strip_tokens * width, 0.2, 1);
    enter = drawn(strip_tokens * (lead + 1) * width, -1, 1);
    direct = drawn(strip_tokens * (lead + 1) * width, -1, 1);
    scales = drawn(strip_tokens * width, -1, 1);
    begun = drawn(state * lead * width, -1, 1);
    queries = drawn(state * strip_tokens, -1, 1);
    keys = drawn(state * strip_tokens, -1, 1);
  }
  [[nodiscard]] double decay(Index n, Index r, Index c) const { return at(decays, (n * strip_tokens + r) * width + c); }
  /// What token r takes from column r + k.
  [[nodiscard]] double entering(Index r, Index k, Index c) const { return at(enter, (r * (lead + 1) + k) * width + c); }
  [[nodiscard]] double passing(Index r, Index k, Index c) const { return at(direct, (r * (lead + 1) + k) * width + c); }
  [[nodiscard]] double scale(Index r, Index c) const { return at(scales, r * width + c); }
  /// The key of column `column` that tokens before the strip have made.
  [[nodiscard]] double key_before(Index n, Index column, Index c) const { return at(begun, (n * lead + column) * width + c); }
  [[nodiscard]] double query(Index n, Index r) const { return at(queries, n * strip_tokens + r); }
  [[nodiscard]] double key(Index n, Index r) const { return at(keys, n * strip_tokens + r); }

 private:
  [[nodiscard]] static double at(const std::vector<double>& numbers, Index place) { return numbers[static_cast<std::size_t>(place)]; }
};

template <class S>
detail::StripWalk<S> filled(const Strip& strip) {
  detail::StripWalk<S> walk(strip.state, strip.lead);
  const detail::StripRows& rows = walk.rows();
  for (Index c = 0; c < strip.width; ++c) {
    for (Index n = 0; n < strip.state; ++n)
      for (Index column = 0; column < strip.lead; ++column) walk.running_key(n, column)[c] = static_cast<S>(strip.key_before(n, column, c));
    for (Index r = 0; r < strip_tokens; ++r) {
      walk.at(rows.scales + r)[c] = static_cast<S>(strip.scale(r, c));
      for (Index n = 0; n < strip.state; ++n) {
        walk.at(rows.decays + n * strip_tokens + r)[c] = static_cast<S>(strip.decay(n, r, c));
        walk.token_query(n, r) = static_cast<S>(strip.query(n, r));
        walk.token_key(n, r) = static_cast<S>(strip.key(n, r));
      }
      for (Index k = 0; k <= strip.lead; ++k) {
        walk.at(rows.enter + rows.entrance(r, k))[c] = static_cast<S>(strip.entering(r, k, c));
        walk.at(rows.direct + rows.entrance(r, k))[c] = static_cast<S>(strip.passing(r, k, c));
      }
    }
  }
  return walk;
}

/// The largest difference of what a walk leaves from the recurrence, token by token.
template <class S, bool ReadsBefore>
double largest_difference(const Strip& strip, detail::StripWalk<S>& walk) {
  walk.template walk<ReadsBefore>();
  const detail::StripRows& rows = walk.rows();
  double largest = 0;
  const auto compare = [&](S found, double expected) { largest = larger(largest, std::abs(static_cast<double>(found) - expected)); };
  for (Index c = 0; c < strip.width; ++c) {
    for (Index column = 0; column < rows.columns; ++column) {
      std::vector<double> state(static_cast<std::size_t>(strip.state), 0);
      for (Index n = 0; n < strip.state && column < strip.lead; ++n) state[static_cast<std::size_t>(n)] = strip.key_before(n, column, c);
      for (Index r = 0; r < strip_tokens; ++r) {
        const Index k = column - r;  // taps between the column and the token; right of the row's token beyond lead
        const bool enters = k >= 0 && k <= strip.lead;
        double read = 0;
        for (Index n = 0; n < strip.state; ++n) {
          double& number = state[static_cast<std::size_t>(n)];
          const double before = number;
          number = strip.decay(n, r, c) * number + (enters ? strip.key(n, r) * strip.entering(r, k, c) : 0);
          read += strip.query(n, r) * (ReadsBefore ? before : number);
        }
        const double expected = k > strip.lead ? 0 : read * strip.scale(r, c) + (enters ? strip.passing(r, k, c) : 0);
        compare(walk.at(rows.entries + r * rows.entry_stride + column)[c], expected);
      }
      for (Index n = 0; n < strip.state; ++n) compare(walk.running_key(n, column)[c], state[static_cast<std::size_t>(n)]);
    }
    for (Index r = 0; r < strip_tokens; ++r)
      for (Index column = rows.columns; column < rows.entry_stride; ++column)
        compare(walk.at(rows.entries + r * rows.entry_stride + column)[c], 0);
    for (Index n = 0; n < strip.state; ++n) {
      double elapsed = 1;
      for (Index r = 0; r < strip_tokens; ++r) {
        const double after = elapsed * strip.decay(n, r, c);
        compare(walk.at(rows.queries(n) + r)[c], strip.query(n, r) * strip.scale(r, c) * (ReadsBefore ? elapsed : after));
        elapsed = after;
      }
      compare(walk.at(rows.left + n)[c], elapsed);
    }
  }
  return largest;
}

TEMPLATE_TEST_CASE("a strip's near entries, factors and keys are those of the recurrence", "[kernels]", double, float) {
  // Sums of at most eight decayed products of numbers up to 1, a state at a time.
  const double tolerance = std::is_same_v<TestType, double> ? 1e-14 : 1e-5;
  std::uint64_t seed = 40;
  for (const Index state : {1, 2, 5})
    for (const Index lead : {Index(0), Index(1), Index(3), strip_tokens - 1, strip_tokens, strip_tokens + 3}) {
      INFO(state << " states, a convolution of width " << lead + 1);
      Draw draw(++seed);
      const Strip strip(state, lead, detail::register_lanes<TestType>, draw);
      auto after = filled<TestType>(strip), before = filled<TestType>(strip);
      CHECK(largest_difference<TestType, false>(strip, after) < tolerance);
      CHECK(largest_difference<TestType, true>(strip, before) < tolerance);
    }
}

TEST_CASE("no two numbers of a strip share a place", "[kernels]") {
  for (const Index state : {1, 3})
    for (const Index lead : {Index(0), Index(3), strip_tokens + 5}) {
      INFO(state << " states, a convolution of width " << lead + 1);
      const detail::StripRows rows(state, lead);
      std::vector<int> used(static_cast<std::size_t>(rows.count));
      const auto use = [&](Index first, Index count) {
        REQUIRE(first >= 0);
        REQUIRE(first + count <= rows.count);
        for (Index row = first; row < first + count; ++row) ++used[static_cast<std::size_t>(row)];
      };
      use(rows.rates, state);
      use(rows.taps, lead + 1);
      use(rows.decays, state * strip_tokens);
      for (Index r = 0; r < strip_tokens; ++r)
        for (Index k = 0; k <= lead; ++k) {
          use(rows.enter + rows.entrance(r, k), 1);
          use(rows.direct + rows.entrance(r, k), 1);
        }
      use(rows.weights, rows.columns);
      use(rows.scales, strip_tokens);
      for (Index n = 0; n < state; ++n) {
        use(rows.queries(n), strip_tokens);
        use(rows.running_keys(n), rows.columns);
      }
      use(rows.entries, strip_tokens * rows.entry_stride);
      use(rows.left, state);
      CHECK(*std::max_element(used.begin(), used.end()) == 1);
    }
}

TEMPLATE_TEST_CASE("the next strip begins with the columns that the last one began, or with none", "[kernels]", double, float) {
  for (const Index lead : {Index(0), Index(3), strip_tokens, 2 * strip_tokens + 1}) {
    INFO("a convolution of width " << lead + 1);
    Draw draw(7);
    const Index state = 3;
    auto walk = filled<TestType>(Strip(state, lead, detail::register_lanes<TestType>, draw));
    walk.template walk<false>();
    const detail::StripRows& rows = walk.rows();
    constexpr Index width = detail::register_lanes<TestType>;
    for (Index n = 0; n < state; ++n)
      for (Index column = 0; column < rows.columns; ++column)
        std::fill_n(walk.numbers(rows.running_keys(n) + column), width, static_cast<TestType>(100 * n + column));
    /// Keys that are not 100 times their state plus their column plus `offset`, or 0 where `forgotten`, among the columns from `first` on.
    const auto wrong = [&](Index first, Index end, Index offset, bool forgotten) {
      Index count = 0;
      for (Index n = 0; n < state; ++n)
        for (Index column = first; column < end; ++column)
          for (Index c = 0; c < width; ++c)
            count += walk.running_key(n, column)[c] != static_cast<TestType>(forgotten ? 0 : 100 * n + column + offset);
      return count;
    };
    walk.carry_columns();
    CHECK(wrong(0, lead, strip_tokens, false) == 0);
    CHECK(wrong(lead, rows.columns, 0, false) == 0);
    walk.forget_columns();
    CHECK(wrong(0, lead, 0, true) == 0);
    CHECK(wrong(lead, rows.columns, 0, false) == 0);
  }
}

TEMPLATE_TEST_CASE("a strip's factors stand where products read them", "[kernels]", double, float) {
  using S = TestType;
  constexpr Index width = detail::register_lanes<S>;
  const Index state = 3, lead = 3, channels = 2 * width, block = 1;
  Draw draw(11);
  auto walk = filled<S>(Strip(state, lead, width, draw));
  walk.template walk<false>();
  const detail::StripRows& rows = walk.rows();
  for (const bool together : {false, true})
    for (const Index strip : {Index(0), Index(1), detail::block_strips - 1})
      for (const bool with_queries : {true, false}) {
        INFO("strip " << strip << (together ? ", channels together" : "") << (with_queries ? ", with queries" : ""));
        detail::Factors<S> factors(2, 1, channels, state, together);
        for (Index c = 0; c < channels; ++c) std::fill_n(factors.queries(c, strip), state * strip_tokens, S(7));
        const Index place = width;
        walk.store(factors, place, block, strip, strip, with_queries);
        bool same = true;
        for (Index c = 0; c < width; ++c)
          for (Index n = 0; n < state; ++n) {
            for (Index r = 0; r < strip_tokens; ++r) {
              // A column's key by its place in the block: panels of a register's columns, a state after the other.
              const Index column = strip * strip_tokens + r;
              const S key =
                  factors.keys(place + c, block, column / strip_tokens)[r / width * factors.panel_stride() + n * width + r % width];
              const S query = factors.queries(place + c, strip)[n * strip_tokens + r];
              same = same && key == walk.at(rows.running_keys(n) + r)[c];
              same = same && query == (with_queries ? walk.at(rows.queries(n) + r)[c] : S(7));
            }
            same = same && factors.decays(place + c, strip)[n] == walk.at(rows.left + n)[c];
          }
        CHECK(same);
        bool others = true;  // nor has it written to the channels before its own
        for (Index c = 0; c < place; ++c)
          for (Index i = 0; i < state * strip_tokens; ++i) others = others && factors.queries(c, strip)[i] == S(7);
        CHECK(others);
      }
}

}  // namespace strip_walk_cases
