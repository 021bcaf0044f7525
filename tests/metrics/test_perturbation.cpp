// Metrics that take tokens away: by hand on two and three tokens, against plain loops over all of it, and at the edges.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/metrics/metrics.hpp>

namespace {

using namespace implicit_attention;
using test_support::Draw;

/// Sums of a few products of flags: what tests call a model.
struct Toy {
  std::vector<double> weights;
  double pair = 0;  // times first kept and last kept
  double base = 0;
  double operator()(const KeptTokens& kept) const {
    double sum = base + (kept.front() && kept.back() ? pair : 0);
    for (std::size_t i = 0; i < kept.size(); ++i)
      if (kept[i]) sum += weights[i];
    return sum;
  }
};

std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// Plain loops, written from the definitions. Tokens one by one, no orders: "is i before j" is asked for every pair.
bool before(const std::vector<double>& scores, std::size_t i, std::size_t j, char order) {
  const double a = order == 'a' ? std::abs(scores[i]) : scores[i], b = order == 'a' ? std::abs(scores[j]) : scores[j];
  if (a != b) return order == 'm' ? a > b : a < b;
  return i < j;
}
KeptTokens taken(const std::vector<double>& scores, char order, std::size_t count, bool keep) {
  KeptTokens kept(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    std::size_t place = 0;
    for (std::size_t j = 0; j < scores.size(); ++j)
      if (j != i && before(scores, j, i, order)) ++place;
    kept[i] = (place < count) == keep;
  }
  return kept;
}
double plain_area(const std::vector<double>& values, bool trapezoid) {
  double sum = 0;
  for (const double value : values) sum += value;
  if (!trapezoid) return sum / static_cast<double>(values.size());
  return (sum - (values.front() + values.back()) / 2) / static_cast<double>(values.size() - 1);
}

}  // namespace

TEST_CASE("areas by both rules, by hand") {
  const Curve curve{{0.1, 0.2, 0.5}, {1, 3, 5}};
  // 0.1 * 2 + 0.3 * 4 = 1.4 over a width of 0.4
  CHECK(area(curve) == Approx(3.5));
  CHECK(area(curve, AreaRule::mean) == Approx(3));
  CHECK(area({{0.3}, {7}}) == 7);
  CHECK_THAT(message_of([] { (void)area({}); }), contains_text("at least one"));
  CHECK_THAT(message_of([] { (void)area({{0, 1}, {1}}); }), contains_text("2 fractions and 1 values"));
}

TEST_CASE("steps: each token, and shares rounded to the nearest token") {
  const auto each = Steps::each_token().of(4);
  REQUIRE(each.size() == 5);
  for (std::size_t k = 0; k < 5; ++k) {
    CHECK(each[k].first == Approx(0.25 * static_cast<double>(k)));
    CHECK(each[k].second == static_cast<Index>(k));
  }
  std::vector<Index> counts;
  for (const auto& [fraction, count] : Steps::tenths().of(15)) counts.push_back(count);
  CHECK(counts == std::vector<Index>{2, 3, 5, 6, 8, 9, 11, 12, 14});  // 1.5 3 4.5 6 7.5 9 10.5 12 13.5
  counts.clear();
  for (const auto& [fraction, count] : Steps::tenths().of(1)) counts.push_back(count);
  CHECK(counts == std::vector<Index>{0, 0, 0, 0, 1, 1, 1, 1, 1});
  CHECK(Steps::at({0.29}).of(50).front().second == 15);  // in binary, 14.499999999999998
  CHECK_THAT(message_of([] { (void)Steps::at({}); }), contains_text("no fractions"));
  CHECK_THAT(message_of([] { (void)Steps::at({0.5, 0.5}); }), contains_text("rising"));
  CHECK_THAT(message_of([] { (void)Steps::at({std::nan("")}); }), contains_text("rising"));
  CHECK_THAT(message_of([] { (void)Steps::at({0.5, 1.1}); }), contains_text("1.1"));
}

TEST_CASE("orders: ties stay in the order of the text") {
  const Scores scores{0.5, -2, 0.5, 2, -0.5};
  CHECK(order_of(scores, RemovalOrder::most) == std::vector<Index>{3, 0, 2, 4, 1});
  CHECK(order_of(scores, RemovalOrder::least) == std::vector<Index>{1, 4, 0, 2, 3});
  CHECK(order_of(scores, RemovalOrder::least_absolute) == std::vector<Index>{0, 2, 4, 1, 3});
  for (const RemovalOrder first : {RemovalOrder::most, RemovalOrder::least, RemovalOrder::least_absolute})
    CHECK(order_of({1, 1, 1}, first) == std::vector<Index>{0, 1, 2});
  CHECK(average_ranks(scores) == std::vector<double>{3.5, 1, 3.5, 5, 2});
  CHECK(average_ranks({4}) == std::vector<double>{1});
}

TEST_CASE("scores come from rows and columns of float and double, and must be finite") {
  const RowVector<float> row = RowVector<float>::LinSpaced(3, 0, 1);
  CHECK(Scores(row).numbers() == std::vector<double>{0, 0.5, 1});
  CHECK(Scores(Eigen::VectorXd::Constant(2, 3.0)).numbers() == std::vector<double>{3, 3});
  CHECK(Scores(RowVector<double>(2.0 * RowVector<double>::Ones(2)).head(1)).numbers() == std::vector<double>{2});
  CHECK(Scores{-1, 2}.absolute().numbers() == std::vector<double>{1, 2});
  CHECK_THAT(message_of([] { Scores(Matrix<float>::Zero(2, 2)); }), contains_text("(2, 2), expected (tokens)"));
  CHECK_THAT(message_of([] { Scores(RowVector<double>()); }), contains_text("no scores"));
  CHECK_THAT(message_of([] { Scores(std::vector<double>()); }), contains_text("no scores"));
  CHECK_THAT(message_of([] { Scores{1, std::nan("")}; }), contains_text("token 1 is NaN"));
  CHECK_THAT(message_of([] { Scores{std::numeric_limits<double>::infinity(), 1}; }), contains_text("token 0 is an infinity"));
}

TEST_CASE("two tokens by hand: every area") {
  // f: none 1, first alone 3, second alone 2, both 4 + 6 = 10
  const Toy model{{2, 1}, 6, 1};
  const Scores scores{3, -1};  // the first is the more relevant
  // Curves at 0, 1/2, 1: taking the first away 10, 2, 1; the second 10, 3, 1.
  CHECK(positive_perturbation(scores, model, Steps::each_token()) == Approx((10 / 2.0 + 2 + 1 / 2.0) / 2));
  CHECK(positive_perturbation(scores, model, Steps::each_token(), AreaRule::mean) == Approx(13 / 3.0));
  CHECK(negative_perturbation(scores, model, Steps::each_token()) == Approx((10 / 2.0 + 3 + 1 / 2.0) / 2));
  // The grid of tenths: none gone below a quarter, one up to 0.7, both from 0.75 on (0.8 * 2 = 1.6).
  CHECK(positive_perturbation(scores, model, Steps::tenths(), AreaRule::mean) == Approx((2 * 10 + 5 * 2 + 2 * 1) / 9.0));
  // Inserting the first: 1, 3, 10.
  CHECK(activation(scores, model) == Approx((1 / 2.0 + 3 + 10 / 2.0) / 2));
  // Least absolute first: the second. (10 - f)^2 = 0, 49, 81.
  CHECK(pruning(scores, model) == Approx((49 + 81 / 2.0) / 2));
  CHECK(pruning(scores, model, Steps::each_token(), AreaRule::mean) == Approx(130 / 3.0));
  CHECK(flipping_difference(scores, model) == Approx(0.5));
  CHECK(insertion_difference(scores, model) == Approx(0.5));
  // Every threshold takes one token: without the first 2, the first alone 3.
  const Rationale rationale = comprehensiveness_and_sufficiency(scores, model);
  CHECK(rationale.comprehensiveness == Approx(8));
  // 0.07 * 100 is 7.000000000000001, and yet 7 tokens; of 101 tokens it is 8.
  for (const std::size_t tokens : {100U, 101U}) {
    const Scores equal(std::vector<double>(tokens, 1.0));
    const auto kept_tokens = [](const KeptTokens& kept) { return std::count(kept.begin(), kept.end(), true); };
    CHECK(comprehensiveness_and_sufficiency(equal, kept_tokens, {0.07}).comprehensiveness == (tokens == 100 ? 7 : 8));
  }
  CHECK(rationale.sufficiency == Approx(7));
}

TEST_CASE("pruning goes by absolute values, perturbation by signed ones") {
  const Toy model{{1, 10, 100}, 0, 0};
  const Scores scores{-5, 0.5, 2};
  const Curve pruned = pruning_curve(scores, Steps::each_token(), model);
  CHECK(pruned.values == std::vector<double>{0, 100, 110 * 110, 111 * 111});
  const Curve flipped = perturbation_curve(scores, RemovalOrder::least, Steps::each_token(), model);
  CHECK(flipped.values == std::vector<double>{111, 110, 100, 0});
}

TEST_CASE("one token: documented results") {
  const Toy model{{3}, 0, 1};  // none 1, all 4
  const Scores scores{-7};
  CHECK(positive_perturbation(scores, model, Steps::tenths(), AreaRule::mean) == Approx((4 * 4 + 5 * 1) / 9.0));
  CHECK(activation(scores, model) == Approx(2.5));
  CHECK(pruning(scores, model) == Approx(4.5));
  CHECK(pruning(scores, model, Steps::each_token(), AreaRule::mean) == Approx(4.5));
  CHECK(flipping_difference(scores, model) == 0);
  CHECK(insertion_difference(scores, model) == 0);
  CHECK(comprehensiveness_and_sufficiency(scores, model).comprehensiveness == 3);
  CHECK(comprehensiveness_and_sufficiency(scores, model).sufficiency == 0);
}

TEST_CASE("a constant map gets no credit for differences") {
  const Toy model{{1, -4, 2, 8}, 3, 0};
  const Scores scores{2, 2, 2, 2};
  CHECK(flipping_difference(scores, model) == 0);
  CHECK(insertion_difference(scores, model) == 0);
  CHECK(positive_perturbation(scores, model) == negative_perturbation(scores, model));
}

TEST_CASE("against plain loops, random scores with ties and models with interactions") {
  Draw draw(5);
  for (int round = 0; round < 50; ++round) {
    const auto tokens = static_cast<std::size_t>(2 + round % 17);
    Toy model{{}, draw.normal(), draw.normal()};
    std::vector<double> scores;
    for (std::size_t i = 0; i < tokens; ++i) {
      model.weights.push_back(draw.normal());
      scores.push_back(std::round(2 * draw.normal()) / 2);  // halves: some are tied
    }
    const double whole = model(KeptTokens(tokens, true));
    std::vector<double> most, least, absolute, inserted, inserted_least;
    for (std::size_t k = 0; k <= tokens; ++k) {
      most.push_back(model(taken(scores, 'm', k, false)));
      least.push_back(model(taken(scores, 'l', k, false)));
      absolute.push_back(std::pow(whole - model(taken(scores, 'a', k, false)), 2));
      inserted.push_back(model(taken(scores, 'm', k, true)));
      inserted_least.push_back(model(taken(scores, 'l', k, true)));
    }
    INFO("round " << round);
    for (const bool trapezoid : {true, false}) {
      const AreaRule rule = trapezoid ? AreaRule::trapezoid : AreaRule::mean;
      const Steps each = Steps::each_token();
      // 1e-12: sums of a few dozen numbers around 1 in double
      const auto near = [](double value) { return Approx(value).epsilon(1e-12).margin(1e-12); };
      CHECK(positive_perturbation(scores, model, each, rule) == near(plain_area(most, trapezoid)));
      CHECK(negative_perturbation(scores, model, each, rule) == near(plain_area(least, trapezoid)));
      CHECK(activation(scores, model, each, rule) == near(plain_area(inserted, trapezoid)));
      CHECK(pruning(scores, model, each, rule) == near(plain_area(absolute, trapezoid)));
      CHECK(flipping_difference(scores, model, each, rule) == near(plain_area(least, trapezoid) - plain_area(most, trapezoid)));
      CHECK(insertion_difference(scores, model, each, rule) ==
            near(plain_area(inserted, trapezoid) - plain_area(inserted_least, trapezoid)));
    }
    double comprehensiveness = 0, sufficiency = 0;
    for (const int percent : {1, 5, 10, 20, 50}) {
      const std::size_t count = (static_cast<std::size_t>(percent) * tokens + 99) / 100;
      comprehensiveness += (whole - model(taken(scores, 'm', count, false))) / 5;
      sufficiency += (whole - model(taken(scores, 'm', count, true))) / 5;
    }
    const Rationale rationale = comprehensiveness_and_sufficiency(scores, model);
    CHECK(rationale.comprehensiveness == Approx(comprehensiveness).margin(1e-12));
    CHECK(rationale.sufficiency == Approx(sufficiency).margin(1e-12));
  }
}

TEST_CASE("flipping and insertion are one number without ties") {
  Draw draw(6);
  for (int round = 0; round < 10; ++round) {
    Toy model{{}, draw.normal(), 0};
    std::vector<double> scores;
    for (int i = 0; i < 9; ++i) {
      model.weights.push_back(draw.normal());
      scores.push_back(draw.normal());
    }
    CHECK(flipping_difference(scores, model) == Approx(insertion_difference(scores, model)).margin(1e-12));
  }
}

TEST_CASE("exact effects of an additive model win against any other order") {
  const std::vector<double> effects{0.3, -1, 2, 0.7, -0.2, 1.1};
  const Toy model{effects, 0, 0};
  Draw draw(7);
  const double best = flipping_difference(effects, model);
  CHECK(best > 0);
  for (int round = 0; round < 20; ++round) {
    std::vector<double> other;
    for (std::size_t i = 0; i < effects.size(); ++i) other.push_back(draw.normal());
    CHECK(flipping_difference(other, model) <= best + 1e-12);
    CHECK(positive_perturbation(other, model) >= positive_perturbation(effects, model) - 1e-12);
    CHECK(negative_perturbation(other, model) <= negative_perturbation(effects, model) + 1e-12);
    CHECK(comprehensiveness_and_sufficiency(other, model).comprehensiveness <=
          comprehensiveness_and_sufficiency(effects, model).comprehensiveness + 1e-12);
  }
}

TEST_CASE("a model that gives NaN, and thresholds out of range, are errors that say so") {
  const auto broken = [](const KeptTokens& kept) { return kept[0] ? 1.0 : std::nan(""); };
  CHECK_THAT(message_of([&] {
               (void)activation({1, 2}, broken);
             }),
             contains_text("insertion: the model gives NaN with 0 of 2 tokens kept"));
  CHECK_THAT(message_of([&] { (void)positive_perturbation({2, 1}, broken); }), contains_text("1 of 2 tokens kept"));
  CHECK_THAT(message_of([&] { (void)pruning({1, 2}, broken); }), contains_text("NaN"));
  CHECK_THAT(message_of([&] { (void)comprehensiveness_and_sufficiency({2, 1}, broken); }), contains_text("comprehensiveness"));
  const auto fine = [](const KeptTokens&) { return 1.0; };
  CHECK_THAT(message_of([&] { (void)comprehensiveness_and_sufficiency({2, 1}, fine, {}); }), contains_text("no thresholds"));
  CHECK_THAT(message_of([&] { (void)comprehensiveness_and_sufficiency({2, 1}, fine, {0}); }), contains_text("threshold 0"));
  CHECK_THAT(message_of([&] { (void)comprehensiveness_and_sufficiency({2, 1}, fine, {1.5}); }), contains_text("threshold 1.5"));
  CHECK_THAT(message_of([&] { (void)positive_perturbation(std::vector<double>{}, fine); }), contains_text("no scores"));
}

TEST_CASE("a remembered model is run once for each set") {
  int runs = 0;
  CachedModel model([&](const KeptTokens& kept) {
    ++runs;
    return std::pair<double, double>(Toy{{1, 2, 3}, 0, 0}(kept), 0.5);
  });
  const auto value = [&](const KeptTokens& kept) { return model(kept).first; };
  const Scores scores{1, 2, 3};
  const double difference = flipping_difference(scores, value);
  CHECK(runs == 6);  // all, none, and two of the two orders each
  CHECK(model.runs() == 6);
  CHECK(insertion_difference(scores, value) == Approx(difference));
  CHECK(activation(scores, [&](const KeptTokens& kept) { return model(kept).second; }) == 0.5);
  CHECK(runs == 6);
  CHECK(difference == Approx(flipping_difference(scores, Toy{{1, 2, 3}, 0, 0})));
}
