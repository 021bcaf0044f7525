// Several texts as documents of one sequence: each gives what it gives by itself, forwards, backwards, and in the methods that use it.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/small_models.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/models/explainer.hpp>
#include <models/golden_models.hpp>
#include <models/models.hpp>

namespace fs = std::filesystem;
using namespace models_test;
using test_support::every_logit;

namespace {

/// The shipped models, a small one of every family that says that it keeps documents apart, and every golden model. Read once.
const std::vector<LanguageModel<double>>& models() {
  static const std::vector<LanguageModel<double>> all = [] {
    std::vector<LanguageModel<double>> read;
    for (const char* name : shipped_models) read.push_back(shipped<double>(name));
    for (const test_support::SmallModel& kind : test_support::small_models()) {
      LanguageModel<double> model = load_language_model<double>(kind.checkpoint<double>(31), kind.configuration);
      if (model.separates_documents()) read.push_back(std::move(model));
    }
    for (const fs::path& path : golden_models()) {
      const Golden golden(path);
      read.push_back(load_language_model<double>(golden.weights<double>(), golden.configuration));
    }
    return read;
  }();
  return all;
}

/// One of every name, and one that goes one by one: what goes through all layers alike is not asked of every golden model.
std::vector<LanguageModel<double>> one_of_each() {
  std::set<std::string> names;
  std::vector<LanguageModel<double>> some;
  for (const LanguageModel<double>& model : models())
    if (names.insert(model.name()).second) some.push_back(model);
  some.push_back(long_convolution());
  return some;
}

/// Texts of different lengths, of one token, and shorter than any convolution is wide.
std::vector<std::vector<Index>> some_texts(Index vocabulary) {
  std::vector<std::vector<Index>> texts;
  for (const Index length : {7, 1, 2, 12, 70}) {
    const std::vector<Index> longer = some_ids(length + 3 * static_cast<Index>(texts.size()), vocabulary);
    texts.emplace_back(longer.end() - static_cast<std::ptrdiff_t>(length), longer.end());
  }
  return texts;
}

/// A number that every logit of a text matters to.
Matrix<double> some_gradient(Index rows, Index columns) {
  Matrix<double> d(rows, columns);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < columns; ++j) d(i, j) = std::sin(static_cast<double>(1 + 3 * i + 7 * j)) / static_cast<double>(columns);
  return d;
}

/// The largest difference of rows of a matrix from another's, relative to that one's largest number.
double deviation(const Matrix<double>& all, Index first, const Matrix<double>& alone) {
  return relative_error(Matrix<double>(all.middleRows(first, alone.rows())), alone);
}

}  // namespace

TEST_CASE("documents of one sequence give what each gives by itself, forwards and backwards", "[models][golden]") {
  std::set<std::string> names;
  for (const LanguageModel<double>& model : models()) {
    INFO(model.name());
    REQUIRE(model.separates_documents());
    names.insert(model.name());
    std::vector<Index> ids, starts;
    const std::vector<std::vector<Index>> texts = some_texts(model.vocabulary());
    for (const std::vector<Index>& text : texts) {
      starts.push_back(static_cast<Index>(ids.size()));
      ids.insert(ids.end(), text.begin(), text.end());
    }
    for (const Keep keep : {Keep::activations, Keep::residuals}) {
      ForwardOptions options = every_logit();
      options.keep = keep;
      ForwardOptions together = options;
      together.starts = starts;
      const ForwardPass<double> all = model.forward(ids, together);
      const Matrix<double> d = some_gradient(all.logits.rows(), all.logits.cols());
      std::vector<ForwardPass<double>> each;
      for (const std::vector<Index>& text : texts) each.push_back(model.forward(text, options));
      for (const WayBack way : {WayBack::gradient, WayBack::relevance, WayBack::attention}) {
        BackwardOptions<double> walk;
        walk.way = way;
        const BackwardPass<double> back = backward(model, all, d, walk);
        double logits = 0, gradients = 0, layers = 0, bias_share = 0;
        for (std::size_t document = 0; document < texts.size(); ++document) {
          const Index first = starts[document];
          const ForwardPass<double>& alone = each[document];
          const BackwardPass<double> own = backward(model, alone, Matrix<double>(d.middleRows(first, alone.tokens())), walk);
          logits = larger(deviation(all.logits, first, alone.logits), logits);
          gradients = larger(deviation(*back.embeddings, first, *own.embeddings), gradients);
          for (std::size_t layer = 0; layer < own.layers.size(); ++layer)
            layers = larger(deviation(*back.layers[layer].residual, first, *own.layers[layer].residual), layers);
          bias_share += own.bias_share;
        }
        CHECK(logits < 1e-11);
        CHECK(gradients < 1e-9);
        CHECK(layers < 1e-9);
        CHECK(back.bias_share == Approx(bias_share).epsilon(1e-9).margin(1e-9));
      }
      // The same bits for any number of workers.
      together.executor = thread_executor(3);
      CHECK(model.forward(ids, together).logits == all.logits);
    }
  }
  CHECK(names.size() >= 15);
}

TEST_CASE("documents with positions of their own", "[models]") {
  const LanguageModel<double> model = shipped<double>("griffin");
  const std::vector<Index> ids = some_ids(9, model.vocabulary()), first(ids.begin(), ids.begin() + 4), second(ids.begin() + 4, ids.end());
  ForwardOptions options = every_logit(), of_first = options, of_second = options;
  of_first.positions = {3, 0, 1, 2};
  of_second.positions = {5, 6, 0, 1, 2};
  options.positions = {3, 0, 1, 2, 5, 6, 0, 1, 2};
  options.starts = {0, 4};
  const Matrix<double> logits = model.forward(ids, options).logits;
  CHECK(deviation(logits, 0, model.forward(first, of_first).logits) < 1e-12);
  CHECK(deviation(logits, 4, model.forward(second, of_second).logits) < 1e-12);
}

TEST_CASE("documents: what is wrong is named before work starts", "[models]") {
  const LanguageModel<double> model = shipped<double>("mamba");
  const auto with = [](std::vector<Index> starts) {
    ForwardOptions options;
    options.starts = std::move(starts);
    return options;
  };
  CHECK_THAT(error_of([&] {
               (void)model.forward({1, 2, 3}, with({1}));
             }),
             contains_text("the first document starts at token 1, expected 0"));
  CHECK_THAT(error_of([&] { (void)model.forward({1, 2, 3}, with({0, 2, 2})); }), contains_text("starts has 2 after 2"));
  CHECK_THAT(error_of([&] { (void)model.forward({1, 2, 3}, with({0, 3})); }), contains_text("starts has 3 after 0"));
  const LanguageModel<double> joins = long_convolution();
  CHECK_FALSE(joins.separates_documents());
  CHECK_THAT(error_of([&] {
               (void)joins.forward({1, 2, 3}, with({0, 2}));
             }),
             contains_text("Long: layer 0's S4D does not keep documents apart"));
  // Rows of one document's attention are not those of the sequence.
  const ForwardPass<double> pass = model.forward({1, 2, 3}, with({0, 2}));
  CHECK_THAT(error_of([&] { (void)model.implicit_attention(pass, 0); }), contains_text("run each by itself"));
}

TEST_CASE("an Explainer, and a run to a layer, are of one text") {
  const LanguageModel<double> model = shipped<double>("mamba");
  ForwardOptions apart;
  apart.starts = {0, 3};
  CHECK_THROWS_WITH(Explainer<double>(model, some_ids(7, model.vocabulary()), apart),
                    contains_text("Explainer: ForwardOptions::starts has 2 entries"));
  CHECK_THROWS_WITH(model.run_to_layer(some_ids(7, model.vocabulary()), 1, apart), contains_text("run_to_layer runs one text"));
}

TEST_CASE("leave-one-out of a short text is that of one removal after the other", "[models][golden]") {
  for (const LanguageModel<double>& model : one_of_each()) {
    INFO(model.name());
    const Index tokens = 19, vocabulary = model.vocabulary();
    for (const bool positions : {false, true}) {
      if (positions && !model.parts().has_positions) continue;
      ForwardOptions options;
      if (positions)
        for (Index token = 0; token < tokens; ++token) options.positions.push_back(token + 2);
      Explainer<double> explainer(model, some_ids(tokens, vocabulary), options);
      const std::vector<Target> targets{{18, 1, Index(3)}, {0, 2, {}}, {11, 4, {}}, {11, 0, Index(5)}};
      for (const Removal removal : {Removal::zero, Removal::replace, Removal::drop}) {
        INFO("removal " << static_cast<int>(removal) << ", positions " << positions);
        MethodOptions<double> how;
        how.removal = removal;
        how.replacement = 2;
        const AttributionMatrix<double> came = explainer.explain_each(Method::leave_one_out, targets, how);
        double largest = 0, error = 0;
        for (std::size_t row = 0; row < targets.size(); ++row)
          for (Index token = 0; token < tokens; ++token) {
            const double expected =
                token <= targets[row].position ? explainer.value(targets[row]) - explainer.value_without(token, targets[row], how) : 0;
            error = larger(std::abs(came.scores(static_cast<Index>(row), token) - expected), error);
            largest = larger(largest, std::abs(expected));
          }
        CHECK(largest > 0);
        CHECK(error <= 1e-11 * largest);
        // Any number of workers, the same bits.
        ForwardOptions shared = options;
        shared.executor = thread_executor(2);
        CHECK(Explainer<double>(model, some_ids(tokens, vocabulary), shared).explain_each(Method::leave_one_out, targets, how).scores ==
              came.scores);
      }
    }
  }
}

TEST_CASE("a token behind what is asked for changes nothing when it is taken away") {
  const LanguageModel<double> model = shipped<double>("mamba");
  const Explainer<double> explainer(model, some_ids(100, model.vocabulary()));
  const Target target{3, 1, {}};
  for (const Removal removal : {Removal::zero, Removal::drop}) {
    MethodOptions<double> how;
    how.removal = removal;
    const RowVector<double> values = explainer.values_without({2, 8, 50, 99}, target, how);
    CHECK(values[0] != explainer.value(target));
    for (Index later = 1; later < 4; ++later) CHECK(values[later] == Approx(explainer.value(target)).epsilon(1e-12));
  }
}

TEST_CASE("integrated gradients of a short text are those of one point after the other", "[models][golden]") {
  const std::vector<LanguageModel<double>> all = one_of_each();
  // One token against another, and a position before the last. Every model is asked for one of them, to save time; the shipped Mamba and
  // Griffin for both, to a tolerance for which panels are halved.
  const std::vector<Target> both{{10, 1, Index(3)}, {6, 2, {}}};
  const Index first_panels = 49;
  Index most_points = 0;
  for (std::size_t n = 0; n < all.size(); ++n) {
    const LanguageModel<double>& model = all[n];
    const bool closely = n == 0 || n == 2;
    INFO(model.name());
    const Index tokens = 11;
    ForwardOptions options;
    if (model.parts().has_positions)
      for (Index token = 0; token < tokens; ++token) options.positions.push_back(token + 2);
    Explainer<double> explainer(model, some_ids(tokens, model.vocabulary()), options);
    for (std::size_t which = 0; which < both.size(); ++which) {
      if (!closely && which != n % 2) continue;
      const Target& target = both[which];
      const Index seen = target.position + 1;
      ForwardOptions one;
      if (!options.positions.empty()) one.positions.assign(options.positions.begin(), options.positions.begin() + seen);
      const auto value_at = [&](const Matrix<double>& point) {
        const Matrix<double> logits = model.forward_embeddings(point, one).logits;
        return logits(0, target.token) - (target.contrast ? logits(0, *target.contrast) : 0);
      };
      const auto gradient_at = [&](const Matrix<double>& point) {
        const ForwardPass<double> pass = model.forward_embeddings(point, one);
        return Matrix<double>(*backward(model, pass, logit_gradient(pass, target.position, target.token, target.contrast)).embeddings);
      };
      const Matrix<double> input = explainer.pass().embeddings.matrix().topRows(seen);
      const Matrix<double> baseline = (input.colwise().mean() / 2).replicate(seen, 1);  // far from zero, where norms take many points
      MethodOptions<double> how;
      how.baseline = Matrix<double>(baseline.topRows(1));
      how.integration_steps = 29;  // more than one run of them
      const Attribution<double> came = explainer.explain(Method::integrated_gradients, target, how);
      const Attribution<double> expected =
          integrated_gradients<double>(input, baseline, value_at, gradient_at, target.position, how.integration_steps);
      CHECK(relative_error(Matrix<double>(came.scores.head(seen)), Matrix<double>(expected.scores)) < 1e-9);
      CHECK(came.baseline == Approx(expected.baseline));
      how.integration_steps = 0;
      how.integration_tolerance = closely ? 0.01 : 0.5;  // to 0.5 the first panels suffice in most models
      const Attribution<double> within = explainer.explain(Method::integrated_gradients, target, how);
      IntegrationLimits limits;
      limits.tolerance = how.integration_tolerance;
      const Attribution<double> one_by_one =
          integrated_gradients_within<double>(input, baseline, value_at, gradient_at, target.position, limits);
      CHECK(within.points == one_by_one.points);
      CHECK(relative_error(Matrix<double>(within.scores.head(seen)), Matrix<double>(one_by_one.scores)) < 1e-9);
      if (closely) most_points = std::max(most_points, within.points);
    }
  }
  REQUIRE(most_points > first_panels);
}
