// The cut of a sequence into blocks and strips.
#include <algorithm>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/blocks.hpp>

using namespace implicit_attention;

TEST_CASE("blocks cover a sequence, one document each", "[kernels]") {
  constexpr Index most = IMPLICIT_ATTENTION_BLOCK_TOKENS;
  for (const Index tokens : {Index(1), most - 1, most, most + 1, 5 * most + 3})
    for (const std::vector<Index>& given : {std::vector<Index>{}, {0}, {3}, {0, 1, 2}, {most}, {most - 1, most, 3 * most + 1}}) {
      SurroundedDiagonal<double> surrounded;
      surrounded.recurrence.tokens = tokens;
      for (const Index start : given)
        if (start < tokens) surrounded.recurrence.starts.push_back(start);
      const detail::BlockPlan<double> plan(surrounded);
      INFO(tokens << " tokens, " << surrounded.recurrence.starts.size() << " starts");
      Index end = 0;
      for (Index b = 0; b < static_cast<Index>(plan.blocks().size()); ++b) {
        const detail::TokenBlock& block = plan.block(b);
        CHECK(block.first == end);
        CHECK((block.tokens >= 1 && block.tokens <= most));
        CHECK(block.strips() * detail::strip_tokens >= block.tokens);
        CHECK((block.strips() - 1) * detail::strip_tokens < block.tokens);
        CHECK(block.document_first == surrounded.recurrence.first_visible(block.first));
        CHECK(plan.block(block.document).first == block.document_first);
        for (Index token = block.first; token < block.end(); ++token) {
          CHECK(plan.block_of(token) == b);
          CHECK(surrounded.recurrence.first_visible(token) == block.document_first);
        }
        end = block.end();
      }
      CHECK(end == tokens);
    }
}

TEST_CASE("the plan of blocks knows how far the convolution reaches", "[kernels]") {
  SurroundedDiagonal<double> surrounded;
  surrounded.recurrence.tokens = 20;
  surrounded.recurrence.channels = 1;
  surrounded.taps = Matrix<double>(Matrix<double>::Ones(4, 1));
  for (const std::vector<Index>& starts : {std::vector<Index>{}, {0, 5, 6}}) {
    surrounded.convolution_starts = starts;
    const detail::BlockPlan<double> plan(surrounded);
    CHECK(plan.lead() == 3);
    for (Index column = -3; column < 20; ++column)
      for (Index token = std::max(column, Index(0)); token < std::min(column + 4, Index(20)); ++token) {
        INFO("column " << column << ", token " << token << ", " << starts.size() << " starts");
        const bool apart = std::any_of(starts.begin(), starts.end(), [&](Index start) { return column < start && start <= token; });
        CHECK(plan.reaches(column, token) == (!apart || column < 0));  // what comes before the sequence has no numbers of its own
      }
  }
}

TEST_CASE("the earlier strips of a block are joined in powers of two, nearest first", "[kernels]") {
  for (Index strip = 0; strip < 32; ++strip) {
    INFO("strip " << strip);
    Index end = strip, last = 0;
    detail::for_earlier_strips(strip, [&](Index first, Index count) {
      CHECK(first + count == end);
      CHECK((count & (count - 1)) == 0);
      CHECK(first % count == 0);
      CHECK(count > last);
      last = count;
      end = first;
    });
    CHECK(end == 0);
  }
}
