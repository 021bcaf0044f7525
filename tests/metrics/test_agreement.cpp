// Correlations, precision and recall, infidelity, sensitivity, the randomised-model check and bootstrap intervals: by hand, against
// plain loops, at the edges.
#include <algorithm>
#include <cmath>
#include <limits>
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

// Rank: one, and as many as are below, and half of the others that are the same.
std::vector<double> plain_ranks(const std::vector<double>& scores) {
  std::vector<double> ranks;
  for (const double score : scores) {
    double below = 0, same = -1;
    for (const double other : scores) {
      below += other < score ? 1 : 0;
      same += other == score ? 1 : 0;
    }
    ranks.push_back(1 + below + same / 2);
  }
  return ranks;
}

double plain_spearman(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> x = plain_ranks(a), y = plain_ranks(b);
  const auto n = static_cast<double>(a.size());
  double sx = 0, sy = 0, sxx = 0, syy = 0, sxy = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sx += x[i];
    sy += y[i];
    sxx += x[i] * x[i];
    syy += y[i] * y[i];
    sxy += x[i] * y[i];
  }
  return (n * sxy - sx * sy) / std::sqrt((n * sxx - sx * sx) * (n * syy - sy * sy));
}

// Every distinct score as a threshold, each counted from scratch.
void plain_precision_recall(const std::vector<double>& scores, const MarkedTokens& marked, double& trapezoid, double& steps) {
  std::vector<double> thresholds = scores;
  std::sort(thresholds.rbegin(), thresholds.rend());
  double last_precision = 1, last_recall = 0;
  trapezoid = steps = 0;
  for (const double threshold : thresholds) {
    double hits = 0, chosen = 0, all = 0;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      all += marked[i] ? 1 : 0;
      chosen += scores[i] >= threshold ? 1 : 0;
      hits += marked[i] && scores[i] >= threshold ? 1 : 0;
    }
    const double precision = hits / chosen, recall = hits / all;
    trapezoid += (recall - last_recall) * (precision + last_precision) / 2;
    steps += (recall - last_recall) * precision;
    last_precision = precision;
    last_recall = recall;
  }
}

}  // namespace

TEST_CASE("Spearman's correlation") {
  CHECK(spearman({1, 2, 3}, {10, 20, 1000}) == 1);
  CHECK(spearman({1, 2, 3}, {3, 2, 1}) == -1);
  // Ranks 1 2.5 2.5 4 and 1 2 3 4: 4.5 / sqrt(4.5 * 5)
  CHECK(spearman({1, 5, 5, 9}, {1, 2, 3, 4}) == Approx(std::sqrt(0.9)));
  CHECK(spearman({5, 5, 1}, {5, 1, 5}) == Approx(-0.5));
  CHECK(std::isnan(spearman({3}, {4})));
  CHECK(std::isnan(spearman({2, 2}, {1, 5})));
  CHECK(std::isnan(spearman({1, 5}, {2, 2})));
  CHECK_THAT(what_of([] { (void)spearman({1, 2}, {1}); }), contains_text("are 1, expected 2"));
  CHECK_THAT(what_of([] { (void)spearman({1, std::nan("")}, {1, 2}); }), contains_text("NaN"));
  Draw draw(11);
  for (int round = 0; round < 40; ++round) {
    std::vector<double> a, b;
    for (int i = 0; i < 3 + round; ++i) {
      a.push_back(std::round(3 * draw.normal()));
      b.push_back(round % 2 == 0 ? draw.normal() : std::round(draw.normal()));
    }
    INFO("round " << round);
    const double came = spearman(a, b), expected = plain_spearman(a, b);
    if (std::isfinite(expected)) {
      CHECK(came == Approx(expected).margin(1e-12));
      CHECK(std::abs(came) <= 1);
    } else {
      CHECK(std::isnan(came));
    }
  }
}

TEST_CASE("correlation with leave-one-out") {
  const auto model = [](const KeptTokens& kept) {
    return (kept[0] ? 1.0 : 0.0) + (kept[1] ? -2.0 : 0.0) + (kept[1] && kept[2] ? 8.0 : 0.0);
  };
  // all 7; without the first 6, the second 1, the third -1
  CHECK(leave_one_out_effects(3, model).numbers() == std::vector<double>{1, 6, 8});
  CHECK(leave_one_out_correlation({0.1, 0.2, 0.3}, model) == 1);
  CHECK(leave_one_out_correlation({3, 2, 1}, model) == -1);
  CHECK(std::isnan(leave_one_out_correlation({3, 3, 3}, model)));
  CHECK(std::isnan(leave_one_out_correlation({3}, [](const KeptTokens& kept) { return kept[0] ? 1 : 0; })));
  CHECK_THAT(what_of([&] { (void)leave_one_out_effects(0, model); }), contains_text("no tokens"));
  CHECK_THAT(what_of([&] { (void)leave_one_out_effects(2, [](const KeptTokens&) { return std::nan(""); }); }), contains_text("gives NaN"));
}

TEST_CASE("agreement with marked tokens, by hand") {
  // Order: 1 (marked), 0, 2 (marked), 3. Points (recall, precision): (1/2, 1), (1/2, 1/2), (1, 2/3), (1, 1/2)
  const Scores scores{0.8, 0.9, 0.5, 0.1};
  const MarkedTokens marked{false, true, true, false};
  CHECK(average_precision(scores, marked) == Approx(0.5 + 0.5 * 2 / 3));
  CHECK(area_under_precision_recall(scores, marked) == Approx(0.5 + 0.5 * (0.5 + 2 / 3.0) / 2));
  CHECK(top_k_overlap(scores, marked) == 0.5);
  CHECK(top_k_overlap(scores, marked, 1) == 1);
  CHECK(top_k_overlap(scores, marked, 3) == Approx(2 / 3.0));
  CHECK(top_k_overlap(scores, marked, 99) == 0.5);  // the whole text

  CHECK(average_precision({1, 1, 1, 1}, marked) == 0.5);  // one point, (1, 1/2)
  CHECK(area_under_precision_recall({1, 1, 1, 1}, marked) == 0.75);
  CHECK(top_k_overlap({1, 1, 1, 1}, marked) == 0.5);  // the first two
  CHECK(area_under_precision_recall({0, 1, 1, 0}, marked) == 1);
  CHECK(average_precision({7}, {true}) == 1);
  CHECK(area_under_precision_recall({7}, {true}) == 1);
  CHECK(top_k_overlap({7}, {true}) == 1);
  CHECK(std::isnan(average_precision({7, 1}, {false, false})));
  CHECK(std::isnan(area_under_precision_recall({7, 1}, {false, false})));
  CHECK(std::isnan(top_k_overlap({7, 1}, {false, false})));
  CHECK(top_k_overlap({7, 1}, {false, false}, 1) == 0);
  CHECK_THAT(what_of([] { (void)average_precision({1, 2}, {true}); }), contains_text("the marks are 1, expected 2"));
  CHECK_THAT(what_of([] { (void)top_k_overlap({1, 2}, {true, true}, -1); }), contains_text("k is -1"));

  CHECK(top_k_agreement({3, 2, 1}, {1, 3, 2}, 2) == 0.5);
  CHECK(top_k_agreement({3, 2, 1}, {3, 2, 1}, 5) == 1);
  CHECK_THAT(what_of([] { (void)top_k_agreement({1}, {1}, 0); }), contains_text("at least 1"));
}

TEST_CASE("agreement with marked tokens against plain loops, with ties") {
  Draw draw(12);
  for (int round = 0; round < 60; ++round) {
    std::vector<double> scores;
    MarkedTokens marked;
    for (int i = 0; i < 2 + round; ++i) {
      scores.push_back(round % 3 == 0 ? draw.normal() : std::round(2 * draw.normal()));
      marked.push_back(i == 0 || draw.uniform(0, 1) < 0.3);
    }
    double trapezoid = 0, steps = 0;
    plain_precision_recall(scores, marked, trapezoid, steps);
    INFO("round " << round);
    CHECK(area_under_precision_recall(scores, marked) == Approx(trapezoid).margin(1e-12));
    CHECK(average_precision(scores, marked) == Approx(steps).margin(1e-12));
  }
}

TEST_CASE("infidelity, by hand") {
  // (1 - 3)^2 and (2 - 2)^2; the best factor is (3 + 4) / (1 + 4) = 1.4: (1.4 - 3)^2 = 2.56, (2.8 - 2)^2 = 0.64
  CHECK(infidelity(std::vector<double>{1, 2}, std::vector<double>{3, 2}) == Approx(2));
  CHECK(infidelity(std::vector<double>{1, 2}, std::vector<double>{3, 2}, true) == Approx(1.6));
  CHECK(infidelity(std::vector<double>{0, 0}, std::vector<double>{3, 1}, true) == Approx(5));
  CHECK_THAT(what_of([] {
               (void)infidelity(std::vector<double>{1}, std::vector<double>{1, 2});
             }),
             contains_text("1 predicted changes and 2"));
  CHECK_THAT(what_of([] { (void)infidelity(std::vector<double>{}, std::vector<double>{}); }), contains_text("at least one"));
  CHECK_THAT(what_of([] { (void)infidelity(std::vector<double>{std::nan("")}, std::vector<double>{1}); }), contains_text("not finite"));

  const auto additive = [](const KeptTokens& kept) { return 5 + (kept[0] ? 1.0 : 0.0) + (kept[1] ? -2.0 : 0.0) + (kept[2] ? 4.0 : 0.0); };
  const std::vector<KeptTokens> sets = random_perturbations(3, 40, 0.4, 9);
  CHECK(infidelity({1, -2, 4}, sets, additive) == Approx(0).margin(1e-24));
  CHECK(infidelity({10, -20, 40}, sets, additive) > 1);
  CHECK(infidelity({10, -20, 40}, sets, additive, true) == Approx(0).margin(1e-24));
  CHECK(relative_infidelity({10, -20, 40}, sets, additive) == Approx(0).margin(1e-24));
  CHECK(relative_infidelity({0, 0, 0}, sets, additive) == 1);
  CHECK(relative_infidelity({4, 1, -2}, sets, additive) > 0.3);
  CHECK(std::isnan(relative_infidelity({1, 2}, {{true, false}}, [](const KeptTokens&) { return 3; })));
  // One set, token 0 and 2 gone: (3 + 5 - (8 - 3))^2
  CHECK(infidelity({3, 9, 5}, {{false, true, false}}, additive) == Approx(9));
  CHECK(infidelity(
            {7}, random_perturbations(1, 3, 0.1, 1), [](const KeptTokens& kept) { return kept[0] ? 2 : 0; }, true) ==
        Approx(0).margin(1e-24));
  CHECK_THAT(what_of([&] { (void)infidelity({3, 9, 5}, {{false, true}}, additive); }), contains_text("are 2, expected 3"));
  CHECK_THAT(what_of([&] { (void)infidelity({3, 9, 5}, {}, additive); }), contains_text("at least one"));
}

TEST_CASE("random perturbations: seeded, never empty, with the asked-for share") {
  const std::vector<KeptTokens> sets = random_perturbations(20, 500, 0.25, 3);
  REQUIRE(sets.size() == 500);
  double gone = 0;
  for (const KeptTokens& kept : sets) {
    const auto count = std::count(kept.begin(), kept.end(), false);
    CHECK(count > 0);
    gone += static_cast<double>(count);
  }
  CHECK(gone / 10000 == Approx(0.25).margin(0.02));  // 4.6 standard errors of 10,000 draws
  CHECK(random_perturbations(20, 500, 0.25, 3) == sets);
  CHECK(random_perturbations(20, 500, 0.25, 4) != sets);
  CHECK(random_perturbations(1, 2, 0.001, 4) == std::vector<KeptTokens>{{false}, {false}});
  // So small a probability takes one token, each in its turn.
  std::vector<bool> ever(4, false);
  for (const KeptTokens& kept : random_perturbations(4, 60, 1e-300, 4)) {
    CHECK(std::count(kept.begin(), kept.end(), false) == 1);
    ever[static_cast<std::size_t>(std::find(kept.begin(), kept.end(), false) - kept.begin())] = true;
  }
  CHECK(ever == std::vector<bool>(4, true));
  CHECK_THAT(what_of([] { (void)random_perturbations(0, 1, 0.5, 1); }), contains_text("no tokens"));
  CHECK_THAT(what_of([] { (void)random_perturbations(1, 0, 0.5, 1); }), contains_text("0 samples"));
  CHECK_THAT(what_of([] { (void)random_perturbations(1, 1, 0, 1); }), contains_text("probability 0"));
}

TEST_CASE("maximum sensitivity, by hand") {
  const Scores scores{3, 4};
  const std::vector<Scores> others{{3, 5}, {0, 4}, {3, 4}};
  CHECK(sensitivity_max(scores, 3, [&](Index sample) { return others[static_cast<std::size_t>(sample)]; }) == Approx(3 / 5.0));
  CHECK(sensitivity_max(scores, 1, [&](Index) { return RowVector<float>{{3.0F, 4.5F}}; }) == Approx(0.1));
  CHECK(sensitivity_max({0, 0}, 1, [&](Index) { return Scores{3, 4}; }) == 5);
  CHECK(sensitivity_max({2}, 1, [&](Index) { return Scores{1}; }) == 0.5);
  CHECK_THAT(what_of([&] { (void)sensitivity_max(scores, 0, [&](Index) { return scores; }); }), contains_text("0 samples"));
  CHECK_THAT(what_of([&] { (void)sensitivity_max(scores, 1, [&](Index) { return Scores{1}; }); }),
             contains_text("sample 0 are 1, expected 2"));
  CHECK_THAT(what_of([&] { (void)sensitivity_max(scores, 1, [&](Index) { return Scores{1, std::nan("")}; }); }), contains_text("NaN"));

  const Matrix<float> input = Draw(1).normals<float>(3, 4);
  const Matrix<float> noisy = perturbed_within<float>(input, 0.02F, 7);
  CHECK((noisy - input).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <= 0.0200001F);  // the sum rounds
  CHECK((noisy - input).maxCoeff() > 0.01F);
  CHECK((noisy - input).minCoeff() < -0.01F);
  CHECK(noisy == perturbed_within<float>(input, 0.02F, 7));
  CHECK(noisy != perturbed_within<float>(input, 0.02F, 8));
  CHECK(perturbed_within<float>(input, 0.0F, 7) == input);
  CHECK_THAT(what_of([&] { (void)perturbed_within<float>(input, -1.0F, 7); }), contains_text("radius"));
}

TEST_CASE("the randomised-model check") {
  const std::vector<Scores> stages{{1, 2, 3}, {1, 2, 30}, {-3, -2, -1}, {1, -2, 3}, {5, 5, 5}};
  const RandomizationCheck check = randomized_model_check(4, [&](Index stage) { return stages[static_cast<std::size_t>(stage)]; });
  REQUIRE(check.similarity.size() == 4);
  CHECK(check.similarity[0] == 1);
  CHECK(check.similarity[1] == 1);
  CHECK(check.absolute_similarity[1] == -1);
  CHECK(check.similarity[2] == Approx(0.5));
  CHECK(check.absolute_similarity[2] == 1);
  CHECK(std::isnan(check.similarity[3]));
  CHECK_THAT(what_of([&] { (void)randomized_model_check(0, [&](Index) { return stages[0]; }); }), contains_text("0 stages"));
  CHECK_THAT(what_of([&] { (void)randomized_model_check(1, [&](Index stage) {
                             return stage == 0 ? Scores{1, 2} : Scores{1};
                           }); }),
             contains_text("stage 1 are 1, expected 2"));
}

TEST_CASE("bootstrap intervals") {
  Draw draw(13);
  std::vector<double> numbers;
  for (int i = 0; i < 400; ++i) numbers.push_back(3 + 2 * draw.normal());
  const MeanInterval interval = bootstrap_mean(numbers, 1, 2000);
  double sum = 0, squares = 0;
  for (const double number : numbers) sum += number;
  const double mean = sum / 400;
  for (const double number : numbers) squares += (number - mean) * (number - mean);
  const double standard_error = std::sqrt(squares / 399 / 400);
  CHECK(interval.mean == Approx(mean));
  CHECK(interval.count == 400);
  // The normal interval; 10 % of its half width is four standard errors of a quantile of 2000 draws.
  CHECK(interval.low == Approx(mean - 1.96 * standard_error).margin(0.2 * standard_error));
  CHECK(interval.high == Approx(mean + 1.96 * standard_error).margin(0.2 * standard_error));
  CHECK(bootstrap_mean(numbers, 1, 2000).low == interval.low);
  CHECK(bootstrap_mean(numbers, 2, 2000).low != interval.low);

  // Its ends to the last digit, from the same draws: the quantile at share p of n sorted means lies at place p (n - 1), from 0.
  for (const Index resamples : {1, 2, 3, 7, 40}) {
    const std::vector<double> few{3, -1, 4, 1, 5};
    implicit_attention::detail::RandomEngine engine(21);
    std::vector<double> means;
    for (Index resample = 0; resample < resamples; ++resample) {
      double total = 0;
      for (int i = 0; i < 5; ++i) total += few[implicit_attention::detail::uniform_index(engine, 5)];
      means.push_back(total / 5);
    }
    std::sort(means.begin(), means.end());
    for (const double confidence : {0.1, 0.5, 0.9}) {
      const MeanInterval came = bootstrap_mean(few, 21, resamples, confidence);
      const auto expected = [&](double share) {
        const double place = share * static_cast<double>(resamples - 1), left = std::floor(place);
        const double low = means[static_cast<std::size_t>(left)], high = means[static_cast<std::size_t>(std::ceil(place))];
        return low * (1 - (place - left)) + high * (place - left);
      };
      INFO(resamples << " resamples, confidence " << confidence);
      CHECK(came.low == Approx(expected((1 - confidence) / 2)).margin(1e-12));
      CHECK(came.high == Approx(expected((1 + confidence) / 2)).margin(1e-12));
    }
  }

  const MeanInterval with_gaps = bootstrap_mean({1, std::nan(""), 3}, 1);
  CHECK(with_gaps.mean == 2);
  CHECK(with_gaps.count == 2);
  CHECK(with_gaps.low == 1);
  CHECK(with_gaps.high == 3);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const MeanInterval infinite = bootstrap_mean({1, infinity, 2, 3}, 1), neither = bootstrap_mean({1, infinity, -infinity, 3}, 1);
  CHECK(infinite.mean == infinity);
  CHECK(infinite.count == 4);
  CHECK(std::isnan(neither.mean));
  for (const MeanInterval& interval_of_none : {infinite, neither}) {
    CHECK(std::isnan(interval_of_none.low));
    CHECK(std::isnan(interval_of_none.high));
  }
  CHECK(bootstrap_mean({5}, 1).low == 5);
  CHECK(bootstrap_mean({}, 1).count == 0);
  CHECK(std::isnan(bootstrap_mean({std::nan("")}, 1).mean));
  CHECK_THAT(what_of([] { (void)bootstrap_mean({1}, 1, 0); }), contains_text("0 resamples"));
  CHECK_THAT(what_of([] { (void)bootstrap_mean({1}, 1, 10, 1); }), contains_text("confidence 1"));
}
