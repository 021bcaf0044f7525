// One strip after the other of a register of channels: near entries, and the factors of what lies before them, against plain rows.
#include <algorithm>
#include <cmath>
#include <vector>

#include <kernels/diagonal_cases.hpp>
#include <support/catch.hpp>

#include <implicit_attention/kernels/channel_tile.hpp>
#include <implicit_attention/kernels/plain.hpp>

namespace {

using namespace implicit_attention;
using diagonal_cases::Kind;
using diagonal_cases::random_kind;

/// The rows of a list of channels by the plain walk, and the largest entry.
template <class Scalar>
struct PlainMaps {
  PlainMaps(const SurroundedDiagonal<Scalar>& surrounded, const std::vector<Index>& channels) {
    const Index tokens = surrounded.recurrence.tokens;
    for (const Index e : channels) {
      maps.emplace_back(tokens, tokens);
      for (Index i = 0; i < tokens; ++i) plain_row(surrounded, e, i, &maps.back()(i, 0));
      largest = std::max(largest, maps.back().cwiseAbs().maxCoeff());
    }
  }
  std::vector<Matrix<Scalar>> maps;
  Scalar largest = 0;
};

}  // namespace

TEMPLATE_TEST_CASE("strips of a channel tile are the plain rows: entries, and products of their factors", "[kernels]", double, float) {
  using Scalar = TestType;
  using Tile = detail::ChannelTile<Scalar>;
  constexpr Index width = Tile::width, strip_tokens = detail::strip_tokens;
  const Scalar tolerance = sizeof(Scalar) == 4 ? Scalar(1e-5) : Scalar(1e-13);
  for (const Index taps : {1, 4, 12})                                  // no convolution, one shorter than a strip, one longer
    for (const unsigned parts : {0x7fbfu, 0x7fffu, 0x0100u, 0x7d3fu})  // all terms, after and before the update; few; one document
      for (const bool neighbours : {true, false}) {
        const Kind<Scalar> kind = random_kind<Scalar>(77, 2 * width, 3, taps, parts, 51);
        INFO(kind.text << (neighbours ? ", neighbouring channels" : ", channels apart"));
        const SurroundedDiagonal<Scalar>& surrounded = kind.surrounded;
        const detail::BlockPlan<Scalar> plan(surrounded);
        std::vector<Index> channels;
        for (Index c = 0; c < width; ++c) channels.push_back(neighbours ? c + 1 : 2 * c);
        const PlainMaps<Scalar> plain(surrounded, channels);
        const Index lead = surrounded.width() - 1;
        Tile in_order(plan), alone(plan);
        in_order.load(channels.data(), width);
        REQUIRE(in_order.columns() == lead + strip_tokens);
        Index wrong_entries = 0, wrong_alone = 0, wrong_products = 0, wrong_decays = 0, products = 0;
        for (Index b = 0; b < static_cast<Index>(plan.blocks().size()); ++b) {
          const detail::TokenBlock& block = plan.block(b);
          detail::Factors<Scalar> factors(1, 1, width, surrounded.recurrence.state, false);
          for (Index strip = 0; strip < block.strips(); ++strip) {
            const Index first = block.first + strip * strip_tokens, count = std::min(strip_tokens, block.end() - first);
            in_order.compute(first, count, block.document_first);
            alone.load(channels.data(), width);
            alone.compute(first, count, block.document_first);
            const auto right = [&](Scalar found, Index c, Index row, Index column) {
              const Scalar expected =
                  column < 0 || row >= surrounded.recurrence.tokens ? Scalar(0) : plain.maps[static_cast<std::size_t>(c)](row, column);
              return std::abs(found - expected) <= tolerance * plain.largest;
            };
            for (Index r = 0; r < count; ++r)
              for (Index column = 0; column < in_order.columns(); ++column)
                for (Index c = 0; c < width; ++c) {
                  const Index at = first - lead + column;
                  const Scalar found = in_order.entry(r, column)[c];
                  wrong_entries += at < surrounded.recurrence.tokens ? !right(found, c, first + r, at) : found != 0;
                  if (at > first + r) wrong_entries += found != 0;
                  wrong_alone += std::abs(alone.entry(r, column)[c] - found) > tolerance * plain.largest;
                }
            // Rows of this strip by the columns that the strip before owns: queries of one times keys of the other.
            in_order.store(factors, 0, 0, strip, strip, true);
            for (Index c = 0; c < width; ++c) {
              for (Index n = 0; n < surrounded.recurrence.state; ++n)
                wrong_decays += !(std::abs(factors.decays(c, strip)[n] - std::exp(in_order.rate(n)[c] * in_order.steps()[c])) <= tolerance);
              for (Index r = 0; strip > 0 && r < count; ++r)
                for (Index k = 0; k < strip_tokens; ++k) {
                  Scalar sum = 0;
                  for (Index n = 0; n < surrounded.recurrence.state; ++n)
                    sum += factors.queries(c, strip)[n * strip_tokens + r] *
                           factors.keys(c, 0, strip - 1)[k / width * factors.panel_stride() + n * width + k % width];
                  wrong_products += !right(sum, c, first + r, first - strip_tokens - lead + k);
                  ++products;
                }
            }
          }
        }
        CHECK(wrong_entries == 0);
        CHECK(wrong_alone == 0);
        CHECK(wrong_decays == 0);
        CHECK(wrong_products == 0);
        CHECK(products > 0);
      }
}

TEST_CASE("the rows of a strip's memory do not overlap, and fill it", "[kernels]") {
  for (const Index state : {1, 3, 16})
    for (const Index lead : {0, 3, 7, 8, 11}) {
      const detail::StripRows rows(state, lead);
      INFO("state " << state << ", lead " << lead);
      std::vector<int> used(static_cast<std::size_t>(rows.count), 0);
      const auto use = [&](Index first, Index count) {
        for (Index i = first; i < first + count; ++i) ++used.at(static_cast<std::size_t>(i));
      };
      use(rows.rates, state);
      use(rows.taps, lead + 1);
      use(rows.decays, detail::strip_tokens * state);
      use(rows.weights, rows.columns);
      use(rows.scales, detail::strip_tokens);
      for (Index n = 0; n < state; ++n) {
        use(rows.queries(n), detail::strip_tokens);
        use(rows.running_keys(n), rows.columns);
      }
      use(rows.entries, detail::strip_tokens * rows.entry_stride);
      use(rows.left, state);
      use(rows.enter, rows.columns * rows.entrances);
      use(rows.direct, rows.columns * rows.entrances);
      CHECK(std::all_of(used.begin(), used.end(), [](int times) { return times == 1; }));
      std::vector<int> entered(static_cast<std::size_t>(rows.columns * rows.entrances), 0);
      for (Index r = 0; r < detail::strip_tokens; ++r)
        for (Index k = 0; k <= lead; ++k) {
          ++entered.at(static_cast<std::size_t>(rows.entrance(r, k)));
          CHECK(rows.entrance(r, k) / rows.entrances == r + k);
        }
      CHECK(std::all_of(entered.begin(), entered.end(), [](int times) { return times <= 1; }));
    }
}
