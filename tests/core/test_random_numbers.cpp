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
  detail::RandomEngine of_number(std::mt19937_64::default_seed);
  for (int i = 1; i < 10000; ++i) (void)of_number();
  detail::RandomEngine of_index = of_number;
  // 9981545732273789042 as a fraction of 2^64.
  CHECK(detail::uniform(of_number) == 4873801627086811 * 0x1p-53);
  CHECK(detail::uniform_index(of_index, 1000) == 541);
}
