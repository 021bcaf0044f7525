// Mixtures of experts: every kind of router against a plain double loop, finite differences, relevance that conserves, and what is refused.
#include <cmath>
#include <functional>
#include <limits>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/models/mixture_of_experts.hpp>
#include <implicit_attention/trace/walk_back.hpp>

namespace mixture_test {
namespace {

using namespace implicit_attention;
using test_support::Draw;
using Moe = MixtureOfExperts<double>;
using Expert = GatedFeedForward<double>;

constexpr Index L = 7, D = 5, M = 4, experts = 6, latent = 3;

struct Kind {
  const char* name;
  RouterScores scores;
  ExpertChoice choice;
  bool normalize, bias, shared, shared_gate, latent_width, plain;
  double eps, scaling;
};
const Kind kinds[] = {{"Jamba", RouterScores::softmax, {2, 1, 1}, false, false, false, false, false, false, 0, 1},
                      {"Qwen", RouterScores::softmax, {3, 1, 1}, true, false, true, true, false, false, 0, 1},
                      {"Granite", RouterScores::chosen_softmax, {3, 1, 1}, false, false, true, false, false, false, 0, 1},
                      {"Kimi", RouterScores::sigmoid, {2, 1, 1}, true, true, true, false, false, false, 1e-20, 2.446},
                      {"Nemotron-H", RouterScores::sigmoid, {2, 3, 2}, true, true, true, false, true, true, 1e-20, 2.5},
                      {"sigmoid with a large eps", RouterScores::sigmoid, {2, 2, 1}, true, true, false, false, false, false, 0.5, 1},
                      {"one of all", RouterScores::softmax, {1, 6, 6}, true, false, false, false, false, false, 0, 1},
                      {"every expert", RouterScores::chosen_softmax, {6, 1, 1}, false, false, false, false, false, false, 0, 1}};

Expert draw_expert(Draw& draw, Index width, bool plain, bool biases) {
  Expert::Weights w;
  if (!plain) w.gate_proj_weight = draw.normals<double>(M, width, 0.7);
  w.up_proj_weight = draw.normals<double>(M, width, 0.7);
  w.down_proj_weight = draw.normals<double>(width, M, 0.7);
  if (biases) w.down_proj_bias = draw.normals<double>(1, width, 0.3);
  return Expert(w, plain ? Function::relu_squared : Function::silu);
}

Moe draw_part(Draw& draw, const Kind& kind, bool biases = true) {
  Moe::Weights w;
  w.router_weight = draw.normals<double>(experts, D, 0.8);
  if (kind.bias) w.correction_bias = draw.normals<double>(1, experts, 0.6);
  for (Index expert = 0; expert < experts; ++expert)
    w.experts.push_back(draw_expert(draw, kind.latent_width ? latent : D, kind.plain, biases));
  if (kind.shared) w.shared = draw_expert(draw, D, kind.plain, biases);
  if (kind.shared_gate) w.shared_gate_weight = draw.normals<double>(1, D);
  if (kind.latent_width) {
    w.fc1_latent_weight = draw.normals<double>(latent, D, 0.7);
    w.fc2_latent_weight = draw.normals<double>(D, latent, 0.7);
  }
  return Moe(w, {kind.scores, kind.choice, kind.normalize, kind.eps, kind.scaling});
}

using Vector = std::vector<double>;
double logistic(double x) { return 1 / (1 + std::exp(-x)); }
Vector times(const Array<double>& weight, const Vector& x) {
  Vector out(static_cast<std::size_t>(weight.rows()));
  for (Index i = 0; i < weight.rows(); ++i)
    for (Index j = 0; j < weight.cols(); ++j) out[static_cast<std::size_t>(i)] += weight(i, j) * x[static_cast<std::size_t>(j)];
  return out;
}
Vector plain_expert(const Expert& expert, const Vector& x) {
  const auto& w = expert.weights();
  Vector h = times(w.up_proj_weight, x);
  if (w.gate_proj_weight.empty()) {
    for (double& v : h) v = v > 0 ? v * v : 0;
  } else {
    const Vector gate = times(w.gate_proj_weight, x);
    for (std::size_t n = 0; n < h.size(); ++n) h[n] *= gate[n] * logistic(gate[n]);
  }
  Vector out = times(w.down_proj_weight, h);
  for (std::size_t n = 0; n < out.size() && !w.down_proj_bias.empty(); ++n) out[n] += w.down_proj_bias(0, static_cast<Index>(n));
  return out;
}

/// One token, from the equations: expert by expert, its rank counted. `weight_of` receives every expert's weight, 0 if it is not chosen.
Vector plain_token(const Moe& part, const Vector& u, Vector& weight_of) {
  const auto& w = part.weights();
  const auto& o = part.options();
  const Vector logits = times(w.router_weight, u);
  const std::size_t n = logits.size(), size = n / static_cast<std::size_t>(o.choice.groups);
  Vector scores = logits, compared;
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  for (std::size_t e = 0; e < n; ++e) {
    if (o.scores == RouterScores::softmax) scores[e] = std::exp(logits[e]) / sum;
    if (o.scores == RouterScores::sigmoid) scores[e] = logistic(logits[e]);
    compared.push_back(scores[e] + (w.correction_bias.empty() ? 0 : w.correction_bias(0, static_cast<Index>(e))));
  }
  const auto rank = [](const Vector& values, std::size_t which) {
    Index better = 0;
    for (const double value : values) better += value > values[which];
    return better;
  };
  if (o.choice.groups > 1) {
    Vector groups;
    for (std::size_t g = 0; g < n / size; ++g) {
      double best = -1e300;
      for (std::size_t a = g * size; a < (g + 1) * size; ++a)
        for (std::size_t b = g * size; b < (g + 1) * size; ++b)
          if (a != b || size == 1) best = std::max(best, size == 1 ? compared[a] : compared[a] + compared[b]);
      groups.push_back(best);
    }
    for (std::size_t e = 0; e < n; ++e)
      if (rank(groups, e / size) >= o.choice.chosen_groups) compared[e] = -1e300;
  }
  weight_of.assign(n, 0);
  double total = 0;
  for (std::size_t e = 0; e < n; ++e) {
    if (rank(compared, e) >= o.choice.chosen) continue;
    weight_of[e] = o.scores == RouterScores::chosen_softmax ? std::exp(logits[e]) : scores[e];
    total += weight_of[e];
  }
  for (double& weight : weight_of) {
    if (o.scores == RouterScores::chosen_softmax) weight /= total;
    if (o.normalize) weight /= total + o.normalize_eps;
    weight *= o.scaling;
  }
  const Vector input = w.fc1_latent_weight.empty() ? u : times(w.fc1_latent_weight, u);
  Vector out(input.size());
  for (std::size_t e = 0; e < n; ++e) {
    const Vector given = plain_expert(w.experts[e], input);
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += weight_of[e] * given[d];
  }
  if (!w.fc2_latent_weight.empty()) out = times(w.fc2_latent_weight, out);
  if (w.shared) {
    const Vector given = plain_expert(*w.shared, u);
    const double gate = w.shared_gate_weight.empty() ? 1 : logistic(times(w.shared_gate_weight, u)[0]);
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += gate * given[d];
  }
  return out;
}

Matrix<double> run(const Moe& part, const Matrix<double>& u) {
  Trace<double> trace;
  RunContext<double> context;
  return *part.run(trace.input(u), context);
}

}  // namespace

TEST_CASE("mixtures of experts: every router, against a plain double loop", "[models]") {
  Draw draw(11);
  for (const Kind& kind : kinds) {
    INFO(kind.name);
    const Moe part = draw_part(draw, kind);
    const Matrix<double> u = draw.normals<double>(L, D);
    const Matrix<double> out = run(part, u);
    Trace<double> trace;
    const Moe::Routing routing = part.route(trace.input(u));
    for (Index token = 0; token < L; ++token) {
      Vector weight_of;
      const Vector expected = plain_token(part, Vector(u.row(token).begin(), u.row(token).end()), weight_of);
      for (Index d = 0; d < D; ++d) CHECK(std::abs(out(token, d) - expected[static_cast<std::size_t>(d)]) < 1e-13);
      for (Index k = 0; k < kind.choice.chosen; ++k) {
        const Index expert = routing.experts[static_cast<std::size_t>(token * kind.choice.chosen + k)];
        CHECK(std::abs((*routing.weights)(token, k) - weight_of[static_cast<std::size_t>(expert)]) < 1e-14);
        CHECK(weight_of[static_cast<std::size_t>(expert)] != 0);
      }
    }
  }
}

TEST_CASE("mixtures of experts: gradients are finite differences, relevance conserves", "[models]") {
  Draw draw(12);
  for (const Kind& kind : kinds) {
    INFO(kind.name);
    const Moe part = draw_part(draw, kind);
    const Matrix<double> u = draw.normals<double>(L, D), g = draw.normals<double>(L, D);
    Trace<double> trace(true);
    RunContext<double> context;
    const Value<double> input = trace.input(u), out = part.run(input, context);
    const Matrix<double> gradient = trace.walk_back(WayBack::gradient, {{out, g}}, {input}).gradients[0];
    Matrix<double> moved = u;
    constexpr double step = 1e-5;  // no choice of an expert is as close to another
    double largest = 0;
    for (Index i = 0; i < u.size(); ++i) {
      moved.data()[i] = u.data()[i] + step;
      const double above = run(part, moved).cwiseProduct(g).sum();
      moved.data()[i] = u.data()[i] - step;
      const double slope = (above - run(part, moved).cwiseProduct(g).sum()) / (2 * step);
      moved.data()[i] = u.data()[i];
      largest = larger(largest, std::abs(slope - gradient.data()[i]));
    }
    CHECK(largest < 1e-8);
    for (const WayBack way : {WayBack::relevance, WayBack::attention}) {
      const WalkResult<double> relevance = trace.walk_back(way, {{out, g}}, {input});
      CHECK(relevance.untreated.empty());
      CHECK(relevance.gradients[0].cwiseProduct(u).sum() + relevance.bias_share == Approx((*out).cwiseProduct(g).sum()));
    }
  }
}

TEST_CASE("mixtures of experts: equal scores and NaNs choose in order, and what does not fit is named", "[models]") {
  const Matrix<double> equal = Matrix<double>::Zero(1, 6);
  CHECK(choose_experts<double>(equal, {3, 1, 1}) == std::vector<Index>{0, 1, 2});
  CHECK(choose_experts<double>(equal, {3, 3, 2}) == std::vector<Index>{0, 1, 2});
  Matrix<double> odd(2, 4);
  const double nan = std::numeric_limits<double>::quiet_NaN(), low = -std::numeric_limits<double>::infinity();
  odd << 1, nan, 3, 2, low, low, low, low;
  CHECK(choose_experts<double>(odd, {2, 1, 1}) == std::vector<Index>{2, 3, 0, 1});

  Draw draw(13);
  const auto says = [&](const std::function<void(Moe::Weights&, Moe::Options&)>& bend, const std::string& what) {
    const Moe good = draw_part(draw, kinds[4]);
    Moe::Weights w = good.weights();
    Moe::Options o = good.options();
    bend(w, o);
    CHECK_THROWS_WITH(Moe(w, o), contains_text(what));
  };
  says([](auto& w, auto&) { w.experts.clear(); }, "there are no experts");
  says([](auto& w, auto&) { w.experts.pop_back(); }, "the router is (6, 5), expected (5, 5) = (experts, width)");
  says([](auto& w, auto&) { w.correction_bias = Matrix<double>(Matrix<double>::Zero(1, 5)); }, "correction bias is (5), expected (6)");
  says([](auto& w, auto&) { w.fc2_latent_weight = {}; }, "fc2_latent_proj.weight is (0, 0), expected (5, 3)");
  says([](auto& w, auto&) { w.fc1_latent_weight = w.fc2_latent_weight = {}; }, "expert 0 is 3 wide, expected 5");
  says([](auto& w, auto&) { w.shared = w.experts[0]; }, "the shared expert is 3 wide, expected 5");
  says([](auto&, auto& o) { o.choice.groups = 4; }, "groups of experts are 4, expected a divisor of 6");
  says([](auto&, auto& o) { o.choice.chosen_groups = 4; }, "groups to choose are 4, expected 1 to 3");
  says([](auto&, auto& o) { o.choice.chosen = 5; }, "experts per token are 5, expected 1 to 4");
}

}  // namespace mixture_test
