// How channels are cut into tiles.
#include <algorithm>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/channel_groups.hpp>

namespace {

using namespace implicit_attention;

}  // namespace

TEST_CASE("tiles cover every channel once", "[kernels]") {
  for (Index channels = 1; channels <= 200; ++channels) {
    std::vector<int> covered(static_cast<std::size_t>(channels), 0);
    for_channel_tiles(channels, serial_executor(), [&]<int Width>(Index first, Index) {
      for (Index e = first; e < first + Width; ++e) ++covered.at(static_cast<std::size_t>(e));
    });
    INFO(channels << " channels");
    CHECK(std::all_of(covered.begin(), covered.end(), [](int times) { return times == 1; }));
  }
}
