// Scores against a known cause: by hand, against double loops over pairs, at the edges; intervals over groups.
#include <cmath>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/random.hpp>

#include <implicit_attention/metrics/metrics.hpp>

namespace {

using namespace implicit_attention;
using test_support::Draw;
using test_support::what_of;

// Every pair, from scratch.
double plain_area(const std::vector<double>& scores, const MarkedTokens& marked, const MarkedTokens& against) {
  double won = 0, pairs = 0;
  for (std::size_t i = 0; i < scores.size(); ++i)
    for (std::size_t j = 0; j < scores.size(); ++j) {
      if (!marked[i] || !against[j]) continue;
      pairs += 1;
      won += scores[i] > scores[j] ? 1 : scores[i] == scores[j] ? 0.5 : 0;
    }
  return won / pairs;
}

// The mean over every order of the tokens that are tied: with one draw among the tied the chance is the share of the marked.
double plain_top(const std::vector<double>& scores, const MarkedTokens& marked, const MarkedTokens& against) {
  double tied = 0, hits = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (!marked[i] && !against[i]) continue;
    bool highest = true;
    for (std::size_t j = 0; j < scores.size(); ++j)
      if ((marked[j] || against[j]) && scores[j] > scores[i]) highest = false;
    if (!highest) continue;
    tied += 1;
    hits += marked[i] ? 1 : 0;
  }
  return hits / tied;
}

// Precision at every marked token, counted from scratch: of all tokens that score as high or higher, the share that is marked.
double plain_average_precision(const std::vector<double>& scores, const MarkedTokens& marked, const MarkedTokens& against) {
  double sum = 0, count = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (!marked[i]) continue;
    double above = 0, hits = 0;
    for (std::size_t j = 0; j < scores.size(); ++j)
      if ((marked[j] || against[j]) && scores[j] >= scores[i]) {
        above += 1;
        hits += marked[j] ? 1 : 0;
      }
    sum += hits / above;
    count += 1;
  }
  return sum / count;
}

}  // namespace

TEST_CASE("a known cause, by hand") {
  const Scores scores{3, 1, 2, 2, -1};
  const MarkedTokens cause{false, false, true, false, false};
  CHECK(all_others(cause) == MarkedTokens{true, true, false, true, true});
  // Token 2 beats 1 and 4, ties with 3, loses to 0.
  CHECK(area_under_roc(scores, cause, all_others(cause)) == 2.5 / 4);
  CHECK(top_one(scores, cause, all_others(cause)) == 0);
  CHECK(average_precision(scores, cause, all_others(cause)) == Approx(1.0 / 3));  // third of the tokens at or above it
  // Token 0 in neither set takes no part.
  const MarkedTokens negatives{false, true, false, true, true};
  CHECK(area_under_roc(scores, cause, negatives) == 2.5 / 3);
  CHECK(top_one(scores, cause, negatives) == 0.5);
  CHECK(average_precision(scores, cause, negatives) == 0.5);
  // A constant map says nothing.
  const Scores constant{1, 1, 1, 1, 1};
  CHECK(area_under_roc(constant, cause, all_others(cause)) == 0.5);
  CHECK(top_one(constant, cause, all_others(cause)) == 0.2);
  CHECK(average_precision(constant, cause, all_others(cause)) == 0.2);
  const Scores best{0, 0, 9, 8, 0};
  CHECK(area_under_roc(best, cause, all_others(cause)) == 1);
  CHECK(top_one(best, cause, all_others(cause)) == 1);
  CHECK(average_precision(best, cause, all_others(cause)) == 1);
}

TEST_CASE("known causes against double loops, with ties and several causes") {
  Draw draw(7);
  for (int round = 0; round < 300; ++round) {
    const auto tokens = static_cast<std::size_t>(draw.uniform(2, 20));
    std::vector<double> scores;
    MarkedTokens marked, against;
    for (std::size_t i = 0; i < tokens; ++i) {
      scores.push_back(std::floor(draw.uniform(-3, 4)));  // many ties
      const double side = draw.uniform(0, 3);
      marked.push_back(side < 1);
      against.push_back(side >= 1 && side < 2);
    }
    marked[0] = true;
    against[0] = false;
    marked[1] = false;
    against[1] = true;
    INFO("round " << round);
    // Halves and quotients of small integers.
    CHECK(area_under_roc(scores, marked, against) == Approx(plain_area(scores, marked, against)).epsilon(1e-14));
    CHECK(top_one(scores, marked, against) == Approx(plain_top(scores, marked, against)).epsilon(1e-14));
    CHECK(average_precision(scores, marked, against) == Approx(plain_average_precision(scores, marked, against)).epsilon(1e-14));
  }
}

TEST_CASE("known causes at the edges") {
  const Scores scores{1, 2, 3};
  const MarkedTokens none(3, false), first{true, false, false}, last{false, false, true};
  for (const auto& metric : {area_under_roc, top_one}) {
    CHECK(std::isnan(metric(scores, none, last)));
    CHECK(std::isnan(metric(scores, first, none)));
    CHECK_THAT(what_of([&] { (void)metric(scores, first, first); }), contains_text("token 0 is marked and compared against"));
    CHECK_THAT(what_of([&] { (void)metric(scores, MarkedTokens(2, true), none); }), contains_text("the marks are 2, expected 3"));
    CHECK_THAT(what_of([&] { (void)metric(scores, first, MarkedTokens(4, false)); }),
               contains_text("the tokens compared against are 4, expected 3"));
  }
  CHECK(std::isnan(average_precision(scores, none, last)));
  CHECK(std::isnan(average_precision(scores, first, none)));
}

TEST_CASE("bootstrap intervals over groups") {
  // Groups of equal numbers: as wide as the means of the groups alone, not narrowed by counting every number.
  Draw draw(14);
  std::vector<double> numbers, means;
  std::vector<Index> groups;
  for (Index group = 0; group < 60; ++group) {
    means.push_back(draw.normal());
    for (int i = 0; i < 5; ++i) {
      numbers.push_back(means.back());
      groups.push_back(100 - group);
    }
  }
  const MeanInterval grouped = bootstrap_mean_by_group(numbers, groups, 3), alone = bootstrap_mean(means, 3);
  CHECK(grouped.count == 300);
  CHECK(grouped.mean == Approx(alone.mean));
  CHECK(grouped.low == Approx(alone.low));
  CHECK(grouped.high == Approx(alone.high));
  CHECK(grouped.high - grouped.low > 1.5 * (bootstrap_mean(numbers, 3).high - bootstrap_mean(numbers, 3).low));

  // A mean over numbers, not over groups; NaN take no part, nor do groups of nothing else.
  const double nan = std::nan("");
  const MeanInterval uneven = bootstrap_mean_by_group({1, 1, 1, 5, nan, nan}, {0, 0, 0, 1, 1, 2}, 1);
  CHECK(uneven.mean == 2);
  CHECK(uneven.count == 4);
  CHECK(uneven.low == 1);
  CHECK(uneven.high == 5);
  const MeanInterval one = bootstrap_mean_by_group({1, 2}, {4, 4}, 1);
  CHECK(one.low == 1.5);
  CHECK(one.high == 1.5);
  CHECK(bootstrap_mean_by_group({}, {}, 1).count == 0);
  CHECK_THAT(what_of([] { (void)bootstrap_mean_by_group({1, 2}, {1}, 1); }), contains_text("1 groups, expected 2"));
}
