// Ceilings: Shapley values against all coalitions counted out, greedy searches against the best of all orders on models small enough for
// it.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/metrics/metrics.hpp>
#include <models/models.hpp>

namespace {

using namespace implicit_attention;
using models_test::error_of;
using test_support::Draw;

/// Any function of sets: a number drawn for each.
struct AnySet {
  std::vector<double> values;
  AnySet(std::size_t tokens, std::uint64_t seed) {
    Draw draw(seed);
    for (std::size_t set = 0; set < (std::size_t{1} << tokens); ++set) values.push_back(draw.normal());
  }
  static std::size_t number_of(const KeptTokens& kept) {
    std::size_t number = 0;
    for (std::size_t token = 0; token < kept.size(); ++token) number |= kept[token] ? std::size_t{1} << token : 0;
    return number;
  }
  double operator()(const KeptTokens& kept) const { return values[number_of(kept)]; }
};

/// Shapley's formula: sum over coalitions S without j of |S|! (n - |S| - 1)! / n! (f(S + j) - f(S)).
template <class Model>
std::vector<double> exact_shapley(std::size_t tokens, const Model& model) {
  const auto factorial = [](std::size_t n) { return std::tgamma(static_cast<double>(n) + 1); };
  std::vector<double> values(tokens, 0.0);
  for (std::size_t set = 0; set < (std::size_t{1} << tokens); ++set) {
    KeptTokens kept(tokens);
    for (std::size_t token = 0; token < tokens; ++token) kept[token] = (set >> token & 1) != 0;
    const auto size = static_cast<std::size_t>(std::count(kept.begin(), kept.end(), true));
    for (std::size_t token = 0; token < tokens; ++token) {
      if (kept[token]) continue;
      KeptTokens with = kept;
      with[token] = true;
      values[token] += factorial(size) * factorial(tokens - size - 1) / factorial(tokens) * (model(with) - model(kept));
    }
  }
  return values;
}

/// The model f = a trained one's difference of two logits, tokens replaced by <unk>.
struct TrainedModel {
  LanguageModel<double> model;
  std::vector<Index> ids;
  double operator()(const KeptTokens& kept) const {
    std::vector<Index> some = ids;
    for (std::size_t token = 0; token < kept.size(); ++token)
      if (!kept[token]) some[token] = 1;
    const ForwardPass<double> pass = model.forward(some);
    return pass.logits(pass.logits.rows() - 1, 4) - pass.logits(pass.logits.rows() - 1, 3);
  }
};

TrainedModel trained(const std::string& name, Index tokens) {
  const std::filesystem::path folder = std::filesystem::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "examples" / "models" / name;
  TrainedModel trained{load_language_model(SafetensorsSource<double>(folder), read_configuration(folder)), {}};
  for (Index token = 0; token < tokens; ++token) trained.ids.push_back(20 + (token * token * 37 + 11 * token) % 900);
  trained.ids.back() = 2;  // <cls>
  return trained;
}

}  // namespace

TEST_CASE("Shapley values by permutations come to the exact ones, and add up at any number of them") {
  for (const std::size_t tokens : {2U, 5U, 7U}) {
    INFO(tokens << " tokens");
    const AnySet model(tokens, 40 + tokens);
    const std::vector<double> exact = exact_shapley(tokens, model);
    const auto count = static_cast<Index>(tokens);
    for (const Index permutations : {Index{1}, Index{2}, Index{9}}) {
      const Scores few = shapley_values(count, model, permutations, 3);
      double sum = 0;
      for (const double value : few.numbers()) sum += value;
      CHECK(sum == Approx(model.values.back() - model.values.front()).margin(1e-12));
    }
    // The standard error falls with the root of the permutations: of terms whose variance is about 2, 5 of them at 40,000 are 0.035.
    const Scores many = shapley_values(count, model, 40000, 3);
    for (std::size_t token = 0; token < tokens; ++token)
      CHECK(many[static_cast<Index>(token)] == Approx(exact[token]).margin(5 * std::sqrt(2.0 / 40000)));
    const Scores again = shapley_values(count, model, 40, 3), other = shapley_values(count, model, 40, 4);
    CHECK(again.numbers() == shapley_values(count, model, 40, 3).numbers());
    if (tokens > 2) CHECK(again.numbers() != other.numbers());
  }
}

TEST_CASE("a model that adds tokens up, and pairs of them, needs two permutations for its exact Shapley values") {
  const auto model = [](const KeptTokens& kept) {
    double sum = 1;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      sum += kept[i] ? static_cast<double>(i * i) - 2 : 0;
      for (std::size_t j = 0; j < i; ++j) sum += kept[i] && kept[j] ? 0.1 * static_cast<double>(3 * i - j) : 0;
    }
    return sum;
  };
  const std::vector<double> exact = exact_shapley(6, model);
  const Scores sampled = shapley_values(6, model, 2, 1);  // an order and its opposite: half of each pair to either token
  for (std::size_t token = 0; token < 6; ++token) CHECK(sampled[static_cast<Index>(token)] == Approx(exact[token]).margin(1e-12));
}

TEST_CASE("Shapley values of trained models: permutations against every coalition") {
  const std::string name = GENERATE("mamba", "rwkv4", "griffin");
  INFO(name);
  CachedModel model(trained(name, 8));
  const auto value = [&](const KeptTokens& kept) { return model(kept); };
  const std::vector<double> exact = exact_shapley(8, value);
  CHECK(model.runs() == 256);
  const Scores sampled = shapley_values(8, value, 4000, 2);
  double largest = 0, error = 0;
  for (std::size_t token = 0; token < 8; ++token) {
    largest = larger(largest, std::abs(exact[token]));
    error = larger(error, std::abs(sampled[static_cast<Index>(token)] - exact[token]));
  }
  REQUIRE(largest > 0.1);
  CHECK(error < 0.05 * largest);
  CHECK(model.runs() == 256);  // nothing was run twice
}

TEST_CASE("permutations: every order is one, opposite orders follow each other") {
  const auto orders = opposite_permutations(5, 7, 1);
  REQUIRE(orders.size() == 7);
  for (const std::vector<Index>& order : orders) CHECK(std::set<Index>(order.begin(), order.end()).size() == 5);
  for (std::size_t pair = 0; pair + 1 < orders.size(); pair += 2)
    CHECK(orders[pair + 1] == std::vector<Index>(orders[pair].rbegin(), orders[pair].rend()));
  // All 24 orders of four come up about as often: 2,000 draws, standard deviation 9 at 83.
  std::map<std::vector<Index>, int> counts;
  for (const std::vector<Index>& order : opposite_permutations(4, 2000, 9)) ++counts[order];
  CHECK(counts.size() == 24);
  for (const auto& [order, count] : counts) CHECK(std::abs(count - 2000 / 24) < 50);
}

TEST_CASE("greedy searches: by hand, and never below what any map reaches on a model that adds up") {
  const std::vector<double> effects{0.3, -1, 2, 0.7, -0.2, 1.1};
  const auto additive = [&](const KeptTokens& kept) {
    double sum = 0;
    for (std::size_t i = 0; i < kept.size(); ++i) sum += kept[i] ? effects[i] : 0;
    return sum;
  };
  CHECK(greedy_flipping_difference(6, additive) == Approx(flipping_difference(effects, additive)));
  const Curve lowest = greedy_curve(6, SearchGoal::lowest, additive);
  CHECK(lowest.fractions.front() == 0);
  CHECK(lowest.fractions.back() == 1);
  CHECK(lowest.values[1] == Approx(2.9 - 2));
  CHECK(lowest.values[2] == Approx(2.9 - 2 - 1.1));
  CHECK(lowest.values.back() == Approx(0).margin(1e-12));
  CHECK(greedy_curve(6, SearchGoal::highest, additive).values[1] == Approx(2.9 + 1));
  // (2.9 - f)^2: first -0.2, then 0.3 for a sum of 0.1, and so on: never above the order by absolute effects.
  CHECK(greedy_pruning(6, additive) <= pruning(effects, additive) + 1e-12);
  CHECK(greedy_flipping_difference(1, [](const KeptTokens& kept) { return kept[0] ? 3.0 : 1.0; }) == 0);
  CHECK(greedy_pruning(1, [](const KeptTokens& kept) { return kept[0] ? 4.0 : 1.0; }) == Approx(4.5));
}

TEST_CASE("greedy searches of trained models lie between the best map of all orders and the best order for each curve") {
  const std::string name = GENERATE("mamba", "rwkv4", "griffin");
  INFO(name);
  const Index tokens = 6;
  CachedModel model(trained(name, tokens));
  const auto value = [&](const KeptTokens& kept) { return model(kept); };
  std::vector<double> ranks(static_cast<std::size_t>(tokens));
  std::iota(ranks.begin(), ranks.end(), 1.0);
  double best_map = -1e300, highest = -1e300, lowest = 1e300, best_pruning = 1e300;
  do {
    best_map = std::max(best_map, flipping_difference(ranks, value));
    highest = std::max(highest, negative_perturbation(ranks, value));
    lowest = std::min(lowest, positive_perturbation(ranks, value));
    best_pruning = std::min(best_pruning, pruning(ranks, value));
  } while (std::next_permutation(ranks.begin(), ranks.end()));
  const double searched = greedy_flipping_difference(tokens, value);
  CHECK(searched <= highest - lowest + 1e-12);
  CHECK(searched > 0.9 * best_map);
  CHECK(greedy_pruning(tokens, value) >= best_pruning - 1e-12);
  CHECK(model.runs() <= 64);
}

TEST_CASE("ceilings: what is out of range, and models that give NaN") {
  const auto fine = [](const KeptTokens&) { return 1.0; };
  CHECK_THAT(error_of([&] { (void)shapley_values(0, fine, 3, 1); }), contains_text("there are no tokens"));
  CHECK_THAT(error_of([&] { (void)shapley_values(3, fine, 0, 1); }), contains_text("0 of them, expected at least one"));
  CHECK_THAT(error_of([&] { (void)greedy_curve(0, SearchGoal::lowest, fine); }), contains_text("there are no tokens"));
  CHECK_THAT(error_of([&] { (void)greedy_pruning(0, fine); }), contains_text("there are no tokens"));
  const auto broken = [](const KeptTokens& kept) { return kept[1] ? 1.0 : std::nan(""); };
  CHECK_THAT(error_of([&] { (void)shapley_values(3, broken, 2, 1); }), contains_text("Shapley values: the model gives NaN with 0 of 3"));
  CHECK_THAT(error_of([&] { (void)greedy_flipping_difference(3, broken); }), contains_text("greedy search: the model gives NaN"));
}
