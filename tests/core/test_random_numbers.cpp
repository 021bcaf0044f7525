// The engine of core/random_numbers.hpp draws what the standard's draws.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>

#include <support/catch.hpp>

#include <implicit_attention/core/random_numbers.hpp>

using namespace implicit_attention;

TEST_CASE("the engine is std::mt19937_64, number for number", "[core]") {
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{5489}, std::numeric_limits<std::uint64_t>::max()}) {
    detail::RandomEngine ours(seed);
    std::mt19937_64 standard(seed);
    std::size_t different = 0;
    for (int i = 0; i < 2000; ++i) different += static_cast<std::size_t>(ours() != standard());  // 312 numbers are made at a time
    CHECK(different == 0);
  }
  detail::RandomEngine ours(std::mt19937_64::default_seed);
  for (int i = 1; i < 10000; ++i) (void)ours();
  CHECK(ours() == 9981545732273789042U);  // [rand.predef]: the 10,000th number of one with the default seed
}

TEST_CASE("uniform numbers are the upper 53 bits of the engine's", "[core]") {
  // What the engine gives, 9981545732273789042, as a fraction of 2^64.
  const auto constant = [](std::uint64_t number) { return [number] { return number; }; };
  auto known = constant(9981545732273789042U), least = constant(0), most = constant(std::numeric_limits<std::uint64_t>::max());
  CHECK(detail::uniform(known) == 4873801627086811 * 0x1p-53);
  CHECK(detail::uniform(least) == 0);
  CHECK(detail::uniform(most) == 1 - 0x1p-53);  // never 1, as rounding all 64 bits would give
  CHECK(detail::uniform_index(known, 1000) == 541);
  CHECK(detail::uniform_index(most, 1000) == 999);
}
