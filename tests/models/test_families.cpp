// What holds for every family of language models: each line of models/families.hpp has a small random model here, and each model is put
// through the laws of its operators and through every method. A new family joins with its sizes in tests/data/small_models.json.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <models/models.hpp>
#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/small_models.hpp>

#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/models/families.hpp>

using namespace models_test;
using test_support::every_logit;
using test_support::small_models;
using test_support::SmallModel;

namespace {

template <class Scalar = double>
LanguageModel<Scalar> drawn_model(const SmallModel& kind) {
  return load_language_model<Scalar>(kind.checkpoint<Scalar>(31), kind.configuration);
}

/// Infinity where a number is not finite: maxCoeff may pass over a NaN.
double largest_entry(const Matrix<double>& numbers) {
  if (!numbers.allFinite()) return std::numeric_limits<double>::infinity();
  return numbers.size() == 0 ? 0 : numbers.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
}

/// Sums of some hundred terms in double, behind exponentials of ordinary arguments.
constexpr double law_tolerance = 1e-12;
#define CHECK_NEAR(came, expected) \
  REQUIRE((expected).allFinite()); \
  CHECK(largest_entry((came) - (expected)) <= law_tolerance * (1 + largest_entry(expected)))

/// One operator: its matrices, rows, reductions, applications and transposed applications say the same.
void check_operator(const ImplicitAttention<double>& attention, const Matrix<double>& x, const Matrix<double>& g) {
  const Index tokens = attention.tokens(), channels = attention.channels();
  const AttentionMatrix<double> matrices = attention.materialize();
  Matrix<double> applied(tokens, channels), transposed(tokens, channels);
  Matrix<double> mean = Matrix<double>::Zero(tokens, tokens), mean_abs = mean;
  double later = 0;
  for (Index channel = 0; channel < channels; ++channel) {
    const Matrix<double> matrix = matrices.channel(channel);
    applied.col(channel) = matrix * x.col(channel);
    transposed.col(channel) = matrix.transpose() * g.col(channel);
    mean += matrix / static_cast<double>(channels);
    mean_abs += matrix.cwiseAbs() / static_cast<double>(channels);
    for (Index row = 0; row < tokens; ++row) later = std::max(later, largest_entry(matrix.row(row).tail(tokens - 1 - row)));
  }
  CHECK(attention.causal() == (later == 0));
  CHECK_NEAR(attention.apply(x), applied);
  CHECK_NEAR(attention.apply_transpose(g), transposed);
  Reduction<double> reduction;
  reduction.kind = ReductionKind::mean;
  CHECK_NEAR(attention.reduce(reduction), mean);
  reduction.kind = ReductionKind::mean_abs;
  CHECK_NEAR(attention.reduce(reduction), mean_abs);
  for (const Index row : {Index(0), tokens / 2, tokens - 1}) {  // one row by itself, not as one of a block
    Selection one;
    one.rows = Indices({row});
    const AttentionMatrix<double> alone = attention.materialize(one);
    Matrix<double> came(channels, tokens), expected(channels, tokens);
    for (Index channel = 0; channel < channels; ++channel) {
      came.row(channel) = alone.channel(channel).row(0);
      expected.row(channel) = matrices.channel(channel).row(row);
    }
    CHECK_NEAR(came, expected);
    CHECK_NEAR(attention.reduce(reduction, one), mean_abs.row(row));
  }
}

/// The token's position where a method's scores end, and what is explained there.
const Target asked_target{9, 7, Index(3)};
const Index asked_tokens = 12;

}  // namespace

TEST_CASE("families: each has a small model, which no other takes for its own", "[families]") {
  const std::vector<SmallModel> kinds = small_models();
  std::vector<std::string> met;
  for (const SmallModel& kind : kinds) {
    INFO(kind.name);
    const detail::CheckpointFacts facts(kind.checkpoint<double>(1).names(), kind.configuration);
    for (const ModelFamily<double>& family : model_families<double>())
      if (family.recognises(facts)) {
        met.emplace_back(family.name);
        CHECK(family.load(kind.checkpoint<double>(1), kind.configuration).layer_count() > 0);
        break;
      }
  }
  for (const ModelFamily<double>& family : model_families<double>()) {
    INFO(family.name << " has no model in tests/data/small_models.json");
    CHECK(std::find(met.begin(), met.end(), family.name) != met.end());
  }
}

TEST_CASE("families: y = sum of A x + b in every mixer, and one operator whichever way it is asked_target", "[families]") {
  for (const SmallModel& kind : small_models()) {
    const LanguageModel<double> model = drawn_model(kind);
    // On both sides of a block of the kernels, and less than a convolution.
    for (const Index tokens : {Index(IMPLICIT_ATTENTION_BLOCK_TOKENS + 5), Index(2)}) {
      const ForwardPass<double> pass = model.forward(some_ids(tokens, model.vocabulary()), every_logit());
      REQUIRE(pass.logits.allFinite());
      std::size_t mixers = 0;
      for (Index layer = 0; layer < model.layer_count(); ++layer)
        for (const MixerRun<double>& mixer : model.layer_pass(pass, layer).mixers) {
          INFO(kind.name << ", " << tokens << " tokens, layer " << layer << " " << mixer.kind);
          ++mixers;
          const ImplicitAttention<double> attention = mixer.attention(Terms::all());
          const Matrix<double> x = *mixer.x, y = *mixer.y;
          const Matrix<double> g = test_support::Draw(17).normals<double>(y.rows(), y.cols());
          check_operator(attention, x, g);
          Matrix<double> sum = attention.apply(x) + attention.bias() + attention.carry();
          if (attention.has_second()) {
            const Matrix<double> second = *attention.second_input();
            check_operator(attention.second(), second, g);
            sum += attention.second().apply(second);
          }
          CHECK_NEAR(sum, y);
          CHECK_NEAR(attention.run(x), y);
          for (const Terms terms : {Terms::recurrence(), Terms::published(), Terms::all().without(Term::gate)}) {
            INFO("terms " << terms.text());
            check_operator(mixer.attention(terms), x, g);
          }
        }
      CHECK(mixers > 0);
    }
  }
}

TEST_CASE("families: no logit depends on a later token", "[families]") {
  for (const SmallModel& kind : small_models()) {
    INFO(kind.name);
    const LanguageModel<double> model = drawn_model(kind);
    CHECK(model.causal());
    std::vector<Index> ids = some_ids(9, model.vocabulary());
    const Matrix<double> before = model.forward(ids, every_logit()).logits;
    for (const Index changed : {Index(8), Index(4), Index(0)}) {
      ids[static_cast<std::size_t>(changed)] = (ids[static_cast<std::size_t>(changed)] + 1) % model.vocabulary();
      const Matrix<double> after = model.forward(ids, every_logit()).logits;
      // Experts take the tokens that chose them together: with another number of them products round otherwise.
      CHECK(largest_entry((after - before).topRows(changed)) <= 1e-14 * largest_entry(before));
      CHECK(largest_entry((after - before).bottomRows(9 - changed)) > 0);
    }
  }
}

TEST_CASE("families: a sequence in pieces gives the logits of the whole", "[families]") {
  for (const SmallModel& kind : small_models()) {
    const LanguageModel<double> model = drawn_model(kind);
    const Index tokens = 11;
    const std::vector<Index> ids = some_ids(tokens, model.vocabulary());
    const Matrix<double> whole = model.forward(ids, every_logit()).logits;
    for (const Index first : {Index(1), Index(6)}) {  // a beginning of this many tokens, then one by one
      CarriedStates states;
      for (Index begin = 0, end = first; end <= tokens; begin = end++) {
        INFO(kind.name << ", tokens " << begin << " to " << end - 1 << ", beginning with " << first);
        const Matrix<double> logits = model.next_logits({ids.begin() + begin, ids.begin() + end}, states);
        CHECK(states.refusals().empty());
        CHECK(largest_entry(logits - whole.row(end - 1)) <= 1e-11 * largest_entry(whole));  // layers read what others rounded
      }
    }
  }
}

TEST_CASE("families: every method gives a finite score for every token, and keeps what it shares out", "[families]") {
  for (const SmallModel& kind : small_models()) {
    const LanguageModel<double> model = drawn_model(kind);
    const std::vector<Index> ids = some_ids(asked_tokens, model.vocabulary());
    Explainer<double> explainer(model, ids, every_logit());
    MethodOptions<double> how;
    how.integration_steps = 8;
    const double explained = explainer.value(asked_target);
    for (const MethodName& method : method_names) {
      INFO(kind.name << ", " << method.name);
      const Attribution<double> result = explainer.explain(method.method, asked_target, how);
      REQUIRE(result.scores.size() == asked_tokens);
      CHECK(result.scores.allFinite());
      CHECK(result.scores.tail(asked_tokens - 1 - asked_target.position).isZero(0));
      CHECK(result.untreated == std::vector<std::string>());
      const double scale = result.scores.cwiseAbs().sum() + std::abs(result.bias_share) + std::abs(explained);
      switch (method.method) {
        case Method::relevance:
        case Method::vector_rollout:
          CHECK(std::abs(result.scores.sum() + result.bias_share - explained) <= 1e-10 * scale);
          break;
        case Method::rollout:
        case Method::contribution_rollout:
          CHECK(result.scores.minCoeff() >= 0);
          CHECK(result.scores.sum() == Approx(1).epsilon(1e-12));
          break;
        case Method::leave_one_out:
          for (const Index token : {Index(0), asked_target.position})
            CHECK(std::abs(result.scores[token] - (explained - explainer.value_without(token, asked_target, how))) <= 1e-11 * scale);
          break;
        case Method::gradient_x_input: {
          // The derivative along the embeddings themselves, by a fourth-order central difference.
          const Matrix<double> embeddings = *explainer.pass().embeddings;
          const auto f = [&](double t) {
            const ForwardPass<double> pass = model.forward_embeddings(Matrix<double>((1 + t) * embeddings), every_logit());
            return pass.logits(asked_target.position, asked_target.token) - pass.logits(asked_target.position, *asked_target.contrast);
          };
          const double h = 1e-3, along = (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
          CHECK(std::abs(result.scores.sum() - along) <= 1e-6 * scale);
          break;
        }
        default:
          CHECK(result.scores.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 0);
      }
    }
  }
}

TEST_CASE("families: a method's matrix form, its map and its single layers are what it gives by itself, under every formulation",
          "[families]") {
  const std::vector<Target> targets{{4, 5, {}}, asked_target, {asked_target.position, 2, Index(7)}};
  for (const SmallModel& kind : small_models()) {
    Explainer<double> explainer(drawn_model(kind), some_ids(asked_tokens, drawn_model(kind).vocabulary()), every_logit());
    const std::vector<Index> mixing = explainer.model().mixing_layers();
    for (const MethodName& method : method_names)
      for (const Terms terms : {Terms::all(), Terms::published(), Terms::recurrence()}) {
        if (!method.from_attention && terms != Terms::all()) continue;
        INFO(kind.name << ", " << method.name << ", " << terms.text());
        MethodOptions<double> how;
        how.terms = terms;
        how.integration_steps = 2;
        const Attribution<double> single = explainer.explain(method.method, asked_target, how);
        REQUIRE(single.scores.allFinite());
        const double scale = largest_entry(single.scores);
        if (method.method != Method::random) {  // another draw for every target
          const AttributionMatrix<double> each = explainer.explain_each(method.method, targets, how);
          REQUIRE(each.scores.allFinite());
          CHECK(largest_entry(each.scores.row(1) - single.scores) <= 1e-10 * scale);
          CHECK(each.scores.row(0).tail(asked_tokens - 1 - targets[0].position).isZero(0));
        }
        if (method.has_map) {
          MethodOptions<double> with_map = how;
          with_map.with_map = true;
          const Matrix<double> map = explainer.explain(method.method, asked_target, with_map).map;
          CHECK(largest_entry((method.sums_columns ? Matrix<double>(map.colwise().sum()) : Matrix<double>(map.row(asked_target.position))) -
                              single.scores) <= 1e-10 * scale);
        }
        if (method.layer_mean) {
          RowVector<double> mean = RowVector<double>::Zero(asked_tokens);
          for (const Index layer : mixing) {
            MethodOptions<double> of_one = how;
            of_one.layer = layer;
            mean += explainer.explain(method.method, asked_target, of_one).scores / static_cast<double>(mixing.size());
          }
          CHECK(largest_entry(mean - single.scores) <= 1e-10 * scale);
        }
      }
  }
}

TEST_CASE("families: float gives what double gives", "[families]") {
  for (const SmallModel& kind : small_models()) {
    INFO(kind.name);
    const LanguageModel<double> model = drawn_model(kind);
    const std::vector<Index> ids = some_ids(20, model.vocabulary());
    // About three hundred roundings of 6e-8.
    CHECK(relative_error(drawn_model<float>(kind).forward(ids, every_logit()).logits, model.forward(ids, every_logit()).logits) <= 2e-5);
  }
}
