// Baselines, relevance and the methods by name: against their formulas, a network whose scales are frozen, and conservation on real models.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/models/load.hpp>
#include <support/every_logit.hpp>
#include <support/shared_data.hpp>

#include <attribution/cases.hpp>

namespace {

using namespace attribution_test;

Numbers with_bias(Numbers numbers, const Array<double>& bias) {
  if (!bias.empty()) numbers.rowwise() += bias.matrix().row(0);
  return numbers;
}
Numbers linear(const Numbers& u, const Array<double>& weight, const Array<double>& bias = {}) {
  return with_bias(u * weight.matrix().transpose(), bias);
}
double logistic(double x) { return 1 / (1 + std::exp(-x)); }
double gelu_phi(double x) { return 0.5 * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x))); }

// A model with every data-dependent scale frozen at its value on one text, in dense matrices. Its products of two branches p q become
// (p q + p0 q0) / 2, whose derivative gives half to each factor. Its gradient is what the relevance walk computes. With `held` all
// of a mixer's operator is frozen, gate and all, and follows its input with these terms alone: the network of vector rollout.
class Frozen {
 public:
  explicit Frozen(const std::string& architecture, std::uint64_t seed, Index tokens)
      : model(random_model(architecture, seed)), ids(random_ids(tokens, seed + 1)), pass(model.forward(ids, test_support::every_logit())) {}

  Numbers norm(const Norm<double>& norm, const Numbers& at, const Numbers& r) const {
    Numbers u = r;
    for (Index token = 0; token < r.rows(); ++token) {
      double mean = 0, mean_at = 0, square = 0;
      for (Index d = 0; d < r.cols(); ++d) {
        mean += norm.centred() ? r(token, d) / static_cast<double>(r.cols()) : 0;
        mean_at += norm.centred() ? at(token, d) / static_cast<double>(r.cols()) : 0;
      }
      for (Index d = 0; d < r.cols(); ++d) square += (at(token, d) - mean_at) * (at(token, d) - mean_at) / static_cast<double>(r.cols());
      for (Index d = 0; d < r.cols(); ++d)
        u(token, d) = norm.weight()[d] * (r(token, d) - mean) / std::sqrt(square + 1e-5) + (norm.centred() ? norm.bias()[d] : 0);
    }
    return u;
  }
  static Numbers halved(const Numbers& p, const Numbers& p0, const Numbers& q, const Numbers& q0) {
    return 0.5 * (p.cwiseProduct(q) + p0.cwiseProduct(q0));
  }
  static Numbers attend(const ImplicitAttention<double>& attention, const Numbers& x) {
    const std::vector<Numbers> matrices = dense(attention);
    Numbers y = attention.bias();
    for (Index e = 0; e < x.cols(); ++e) y.col(e) += matrices[static_cast<std::size_t>(e)] * x.col(e);
    return y;
  }
  static Numbers mixed(const Numbers& u, const Array<double>& mix) {
    Numbers out = u;
    for (Index t = 0; t < u.rows(); ++t)
      for (Index d = 0; d < u.cols(); ++d) out(t, d) = mix(0, d) * u(t, d) + (1 - mix(0, d)) * (t > 0 ? u(t - 1, d) : 0);
    return out;
  }

  Numbers mixer(Index layer, const Numbers& u) const {
    const LayerPass<double>& at = pass.layers[static_cast<std::size_t>(layer)];
    const Numbers u0 = *at.u;
    if (held) return held_mixer(layer, u);
    const ImplicitAttention<double> all = model.implicit_attention(pass, layer);
    const ImplicitAttention<double> ungated = model.implicit_attention(pass, layer, Terms::all().without(Term::gate));
    if (const auto* mamba = model.block(layer).find<Mamba<double>>()) {
      const auto& w = mamba->weights();
      const Numbers xz = linear(u, w.in_proj_weight, w.in_proj_bias), xz0 = linear(u0, w.in_proj_weight, w.in_proj_bias);
      const Numbers scale = xz0.rightCols(8).unaryExpr([](double z) { return logistic(z); });
      const Numbers gate = scale.cwiseProduct(xz.rightCols(8)), gate0 = scale.cwiseProduct(xz0.rightCols(8));
      return linear(halved(gate, gate0, attend(ungated, xz.leftCols(8)), attend(ungated, xz0.leftCols(8))), w.out_proj_weight,
                    w.out_proj_bias);
    }
    if (const auto* griffin = model.block(layer).find<Griffin<double>>()) {
      const auto& w = griffin->weights();
      const Numbers z0 = linear(u0, w.linear_y_weight, w.linear_y_bias);
      const Numbers scale = z0.unaryExpr([](double z) { return gelu_phi(z); });
      const Numbers gate = scale.cwiseProduct(linear(u, w.linear_y_weight, w.linear_y_bias));
      return linear(halved(gate, scale.cwiseProduct(z0), attend(ungated, linear(u, w.linear_x_weight, w.linear_x_bias)),
                           attend(ungated, linear(u0, w.linear_x_weight, w.linear_x_bias))),
                    w.linear_out_weight, w.linear_out_bias);
    }
    if (const auto* rwkv = model.block(layer).find<Rwkv4<double>>()) {
      const auto& w = rwkv->weights();
      return linear(attend(all, linear(mixed(u, w.time_mix_value), w.value_weight)), w.output_weight);
    }
    const auto& local = *model.block(layer).find<SoftmaxAttention<double>>();
    const Numbers values = linear(u, local.weights().v_proj_weight, local.weights().v_proj_bias);
    return linear(attend(all, values.replicate(1, 2)), local.weights().o_proj_weight, local.weights().o_proj_bias);
  }

  /// The layer's output and W_o A (x - x0), A of the held terms and x0 that of the pass: what is left out of A is a constant, so that every
  /// number behind the layer is that of the pass. The row of x that is told is stretched.
  Numbers held_mixer(Index layer, const Numbers& u) const {
    const LayerPass<double>& at = pass.layers[static_cast<std::size_t>(layer)];
    const ImplicitAttention<double> attention = model.implicit_attention(pass, layer, *held);
    const auto moved = [&](Numbers x, const Array<double>& projection) {
      if (layer == stretched_layer) x.row(stretched_token) *= stretch;
      return Numbers(*at.mixer().out + linear(attend(attention, x) - attend(attention, *at.x()), projection));
    };
    if (const auto* mamba = model.block(layer).find<Mamba<double>>()) {
      const auto& w = mamba->weights();
      return moved(linear(u, w.in_proj_weight, w.in_proj_bias).leftCols(8), w.out_proj_weight);
    }
    if (const auto* griffin = model.block(layer).find<Griffin<double>>()) {
      const auto& w = griffin->weights();
      return moved(linear(u, w.linear_x_weight, w.linear_x_bias), w.linear_out_weight);
    }
    if (const auto* rwkv = model.block(layer).find<Rwkv4<double>>()) {
      const auto& w = rwkv->weights();
      return moved(linear(mixed(u, w.time_mix_value), w.value_weight), w.output_weight);
    }
    const auto& w = model.block(layer).find<SoftmaxAttention<double>>()->weights();
    return moved(linear(u, w.v_proj_weight, w.v_proj_bias).replicate(1, 2), w.o_proj_weight);
  }

  Numbers feed_forward(Index layer, const Numbers& u) const {
    const Numbers u0 = model.block(layer).sublayers[1].norm(*pass.layers[static_cast<std::size_t>(layer)].middle);
    if (const auto* gated = model.block(layer).find<GatedFeedForward<double>>()) {
      const auto& w = gated->weights();
      const Numbers z0 = linear(u0, w.gate_proj_weight, w.gate_proj_bias);
      const Numbers scale = z0.unaryExpr([](double z) { return gelu_phi(z); });
      return linear(halved(scale.cwiseProduct(linear(u, w.gate_proj_weight, w.gate_proj_bias)), scale.cwiseProduct(z0),
                           linear(u, w.up_proj_weight, w.up_proj_bias), linear(u0, w.up_proj_weight, w.up_proj_bias)),
                    w.down_proj_weight, w.down_proj_bias);
    }
    const auto& w = model.block(layer).find<ChannelMixing<double>>()->weights();
    const Numbers receptance =
        linear(mixed(u0, w.time_mix_receptance), w.receptance_weight).unaryExpr([](double r) { return logistic(r); });
    const Numbers key = linear(mixed(u, w.time_mix_key), w.key_weight), key0 = linear(mixed(u0, w.time_mix_key), w.key_weight);
    const Numbers open = key0.unaryExpr([](double k) { return k > 0 ? 1.0 : 0.0; });
    const Numbers p = open.cwiseProduct(key), p0 = open.cwiseProduct(key0);
    return receptance.cwiseProduct(linear(halved(p, p0, p, p0), w.value_weight));
  }

  double operator()(const Numbers& embeddings, Index position, Index token, Index contrast) const {
    const LanguageModelParts<double>& parts = model.parts();
    Numbers r = parts.embedding_norm.empty() ? Numbers(parts.embedding_scale * embeddings)
                                             : norm(parts.embedding_norm, *pass.embeddings, embeddings);
    for (Index layer = 0; layer < model.layer_count(); ++layer) {
      const LayerPass<double>& at = pass.layers[static_cast<std::size_t>(layer)];
      r += mixer(layer, norm(model.block(layer).sublayers[0].norm, *at.residual, r));
      if (model.block(layer).sublayers.size() > 1) r += feed_forward(layer, norm(model.block(layer).sublayers[1].norm, *at.middle, r));
    }
    const Numbers raw = linear(norm(parts.final_norm, *pass.final_residual, r), parts.head);
    const Numbers raw0 = linear(norm(parts.final_norm, *pass.final_residual, *pass.final_residual), parts.head);
    const auto capped = [&](Index id) {
      const double scale = parts.soft_cap > 0 ? parts.soft_cap * std::tanh(raw0(position, id) / parts.soft_cap) / raw0(position, id) : 1;
      return scale * raw(position, id);
    };
    return capped(token) - capped(contrast);
  }

  LanguageModel<double> model;
  std::vector<Index> ids;
  ForwardPass<double> pass;
  std::optional<Terms> held{};
  Index stretched_layer = -1, stretched_token = 0;  ///< with `held`: whose row of x is multiplied by `stretch`
  double stretch = 1;
};

}  // namespace

TEST_CASE("gradient x input is a sum of products", "[attribution]") {
  Draw draw(1);
  const Numbers e = draw.normals<double>(4, 3), g = draw.normals<double>(4, 3);
  const Attribution<double> result = gradient_x_input<double>(e, g, 2);
  for (Index j = 0; j < 4; ++j) CHECK(result.scores[j] == Approx(e(j, 0) * g(j, 0) + e(j, 1) * g(j, 1) + e(j, 2) * g(j, 2)));
  CHECK_THAT(failure([&] { static_cast<void>(gradient_x_input<double>(e, g.topRows(3).eval(), 2)); }),
             contains_text("gradient is (3, 3), expected (4, 3)"));
  CHECK_THAT(failure([&] { static_cast<void>(gradient_x_input<double>(e, g, 4)); }), contains_text("position 4 is out of range"));
  Numbers bad = e;
  bad(3, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THAT(failure([&] { static_cast<void>(gradient_x_input<double>(bad, Numbers(Numbers::Zero(4, 3)), 2)); }),
             contains_text("NaN in the embeddings at (3, 1)"));
  CHECK_THAT(failure([&] { static_cast<void>(gradient_x_input<double>(e, bad, 2)); }), contains_text("NaN in the gradient at (3, 1)"));
}

TEST_CASE("integrated gradients integrate", "[attribution]") {
  // f = sum of a x^3 + x_0 x_1: Gauss-Legendre with two points is exact for the gradient, a polynomial of degree two along the path.
  Draw draw(2);
  const Numbers x = draw.normals<double>(3, 2), b = draw.normals<double>(3, 2), a = draw.normals<double>(3, 2);
  const auto value = [&](const Numbers& p) { return a.cwiseProduct(p.cwiseProduct(p).cwiseProduct(p)).sum() + p(0, 0) * p(1, 0); };
  const auto gradient = [&](const Numbers& p) {
    Numbers g = 3 * a.cwiseProduct(p.cwiseProduct(p));
    g(0, 0) += p(1, 0);
    g(1, 0) += p(0, 0);
    return g;
  };
  for (const Index steps : {2, 5, 64}) {
    const Attribution<double> result = integrated_gradients<double>(x, b, value, gradient, 2, steps);
    CHECK(result.scores[2] ==
          Approx(a(2, 0) * (std::pow(x(2, 0), 3) - std::pow(b(2, 0), 3)) + a(2, 1) * (std::pow(x(2, 1), 3) - std::pow(b(2, 1), 3))));
    CHECK(result.scores.sum() == Approx(result.explained - result.baseline));
    CHECK(result.explained == Approx(value(x)));
  }
  CHECK_THAT(failure([&] { static_cast<void>(integrated_gradients<double>(x, b, value, gradient, 2, 0)); }),
             contains_text("0 steps, expected at least one"));
  CHECK_THAT(failure([&] { static_cast<void>(integrated_gradients<double>(x, b.topRows(2).eval(), value, gradient, 2)); }),
             contains_text("baseline is (2, 2)"));
}

TEST_CASE("leave-one-out and random scores", "[attribution]") {
  const Attribution<double> loo = leave_one_out<double>(
      4, 5.0, [](Index j) { return static_cast<double>(j); }, 2);
  CHECK(loo.scores == (RowVector<double>(4) << 5, 4, 3, 0).finished());
  CHECK_THAT(failure([] {
               static_cast<void>(leave_one_out<double>(
                   2, 1.0, [](Index) { return std::nan(""); }, 1));
             }),
             contains_text("NaN"));
  const Attribution<double> a = random_attribution<double>(50, 48, 7), b = random_attribution<double>(50, 48, 7),
                            c = random_attribution<double>(50, 48, 8);
  CHECK(a.scores == b.scores);
  CHECK(a.scores != c.scores);
  CHECK(a.scores[49] == 0);
  CHECK(a.scores.minCoeff() >= 0);
  CHECK(a.scores.maxCoeff() < 1);
  CHECK_THAT(failure([] { static_cast<void>(random_attribution<double>(0, 0, 1)); }), contains_text("there are no tokens"));
}

TEST_CASE("relevance is input times the gradient of the network with frozen scales", "[attribution]") {
  for (const std::string& architecture : architectures()) {
    INFO(architecture);
    const Index tokens = 6, position = 4;
    const Frozen frozen(architecture, 41, tokens);
    const Numbers embeddings = *frozen.pass.embeddings;
    const double explained = frozen.pass.logits(position, 3) - frozen.pass.logits(position, 7);
    REQUIRE(frozen(embeddings, position, 3, 7) == Approx(explained));
    const Attribution<double> result = relevance(frozen.model, frozen.pass, logit_gradient(frozen.pass, position, 3, Index(7)), position);
    CHECK(result.explained == Approx(explained));
    double scale = result.scores.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
    for (Index j = 0; j < tokens; ++j) {
      // The frozen network is a polynomial: the derivative along embedding j is found by central differences, to their rounding.
      Numbers more = embeddings, less = embeddings;
      more.row(j) *= 1 + 1e-4;
      less.row(j) *= 1 - 1e-4;
      const double along = (frozen(more, position, 3, 7) - frozen(less, position, 3, 7)) / 2e-4;
      CHECK(std::abs(result.scores[j] - along) <= 1e-6 * scale);
    }
    CHECK(result.scores[5] == 0);
  }
}

TEST_CASE("relevance is conserved", "[attribution]") {
  for (const std::string& architecture : architectures())
    for (const Index tokens : {1, 2, 40})
      for (const bool biases : {true, false}) {
        INFO(architecture << ", " << tokens << " tokens, biases " << biases);
        const LanguageModel<double> model = random_model(architecture, 43, biases);
        for (const Keep keep : {Keep::activations, Keep::residuals}) {
          ForwardOptions options = test_support::every_logit();
          options.keep = keep;
          const ForwardPass<double> pass = model.forward(random_ids(tokens, 44), options);
          const Attribution<double> result = relevance(model, pass, logit_gradient(pass, tokens - 1, 2), tokens - 1);
          CHECK(result.explained == pass.logits(tokens - 1, 2));
          CHECK(std::abs(result.scores.sum() + result.bias_share - result.explained) <= 1e-12 * (1 + result.scores.cwiseAbs().sum()));
          if (!biases && architecture == "mamba") CHECK(result.bias_share == 0);
        }
      }
}

TEST_CASE("relevance is conserved on trained models", "[attribution]") {
  for (const char* name : {"protmamba", "rwkv4-tiny", "griffin-shakespeare"}) {
    const auto folder = test_support::shared_data(std::filesystem::path("realdata") / name);
    if (!folder) {
      WARN(test_support::shared_data_missing(std::string("realdata/") + name));
      continue;
    }
    INFO(name);
    const LanguageModel<double> model = load_language_model(SafetensorsSource<double>(*folder), read_configuration(*folder));
    const SafetensorsFile expected(*folder / "expected.safetensors");
    const auto numbers = expected.read_integers("input_ids");
    Explainer<double> explainer(model, std::vector<Index>(numbers.begin(), numbers.end()));
    const Index last = explainer.tokens() - 1;
    Target target{last, static_cast<Index>(expected.read_integers("target_token").front()), {}};
    CHECK(explainer.most_likely(last) == target.token);
    for (const bool contrast : {false, true}) {
      if (contrast) target.contrast = 5;
      const Attribution<double> result = explainer.explain(Method::relevance, target);
      INFO("tokens " << result.scores.sum() << " + biases " << result.bias_share << " == " << result.explained);
      CHECK(result.explained == explainer.value(target));
      CHECK(std::abs(result.scores.sum() + result.bias_share - result.explained) <= 1e-10);
    }
    for (const MethodName& method : method_names) {
      if (method.method == Method::leave_one_out || method.method == Method::integrated_gradients) continue;
      INFO(method.name);
      const Attribution<double> result = explainer.explain(method.method, target);
      CHECK(result.scores.size() == last + 1);
      CHECK(result.scores.allFinite());
      CHECK(result.scores.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 0);
    }
  }
}

TEST_CASE("every method by its name", "[attribution]") {
  const Index tokens = 7, position = 5;
  for (const std::string& architecture : architectures()) {
    INFO(architecture);
    const LanguageModel<double> model = random_model(architecture, 51);
    const std::vector<Index> ids = random_ids(tokens, 52);
    ForwardOptions forward = test_support::every_logit();
    if (architecture == "griffin") forward.positions = {0, 1, 0, 1, 2, 3, 4};  // two documents
    Explainer<double> explainer(model, ids, forward);
    const ForwardPass<double>& pass = explainer.pass();
    const Target target{position, 4, Index(9)};
    const double value = pass.logits(position, 4) - pass.logits(position, 9);
    CHECK(explainer.value(target) == value);
    MethodOptions<double> options;
    options.terms = Terms::published();
    options.rollout.start_layer = 1;

    // From attention: the row is the map's, and the map that of the published terms.
    std::vector<Numbers> maps;
    for (Index layer = 0; layer < 3; ++layer)
      maps.push_back(joined(dense(model.implicit_attention(pass, layer, Terms::published())),
                            [](double entry, Index, Index, Index) { return std::abs(entry); }));
    const Numbers average = (maps[0] + maps[1] + maps[2]) / 3;
    CHECK(relative_error(explainer.explain(Method::raw, target, options).scores, average.row(position)) <= 1e-12);
    CHECK(relative_error(explainer.explain(Method::rollout, target, options).scores, product_of_layers(maps, 1, true).row(position)) <=
          1e-12);
    options.layer = 1;
    CHECK(relative_error(explainer.explain(Method::raw, target, options).scores, maps[1].row(position)) <= 1e-12);
    for (const MethodName& named : method_names) {
      if (!named.has_map) continue;
      INFO(named.name);
      options.with_map = false;
      for (const ReductionKind kind : {ReductionKind::mean, ReductionKind::mean_positive, ReductionKind::max, ReductionKind::min}) {
        options.reduction = kind;
        options.with_map = false;
        const Attribution<double> row = explainer.explain(named.method, target, options);
        options.with_map = true;
        const Attribution<double> whole = explainer.explain(named.method, target, options);
        CHECK(whole.map.rows() == tokens);
        CHECK(whole.position == position);
        CHECK(relative_error(row.scores, named.sums_columns ? Numbers(whole.map.colwise().sum()) : Numbers(whole.map.row(position))) <=
              1e-10);
        CHECK(relative_error(row.scores, whole.scores) <= 1e-10);
        CHECK(row.scores[tokens - 1] == 0);
      }
    }

    // Gradients are kept for one target, and made anew for another.
    for (const Target& other :
         {Target{4, 4, Index(9)}, Target{position, 3, Index(9)}, Target{position, 4, Index(2)}, Target{position, 4, {}}, target}) {
      CHECK(explainer.gradients(other).embeddings.matrix() ==
            backward(model, pass, logit_gradient(pass, other.position, other.token, other.contrast)).embeddings.matrix());
      static_cast<void>(explainer.gradients(target));
    }

    // From the gradient, and from the model alone.
    options = {};
    const Attribution<double> product = explainer.explain(Method::gradient_x_input, target);
    options.integration_steps = 3;
    options.baseline = Array<double>(Numbers(Numbers::Constant(1, 6, 0.3)));
    const Attribution<double> integrated = explainer.explain(Method::integrated_gradients, target, options);
    options.removal = Removal::replace;
    options.replacement = 2;
    const Attribution<double> replaced = explainer.explain(Method::leave_one_out, target, options);
    options.removal = Removal::drop;
    const Attribution<double> dropped = explainer.explain(Method::leave_one_out, target, options);
    const Attribution<double> zeroed = explainer.explain(Method::leave_one_out, target);
    const auto at = [&](const Numbers& point, Index row = 5, Index without = -1) {
      ForwardOptions run = forward;
      if (without >= 0 && !run.positions.empty()) run.positions.erase(run.positions.begin() + without);
      const Numbers logits = model.forward_embeddings(point, run).logits;
      return logits(row, 4) - logits(row, 9);
    };
    const Numbers embeddings = *pass.embeddings, base = Numbers::Constant(tokens, 6, 0.3);
    const double nodes[] = {0.5 - std::sqrt(0.15), 0.5, 0.5 + std::sqrt(0.15)}, weights[] = {5.0 / 18, 8.0 / 18, 5.0 / 18};
    for (Index j = 0; j < tokens; ++j) {
      const auto along = [&](const Numbers& point, const Numbers& direction) {
        Numbers step = Numbers::Zero(tokens, 6);
        step.row(j) = 1e-4 * direction.row(j);
        return (8 * (at(point + step) - at(point - step)) - (at(point + 2 * step) - at(point - 2 * step))) / 12e-4;
      };
      CHECK(product.scores[j] == Approx(along(embeddings, embeddings)).epsilon(1e-6).margin(1e-8));
      double integral = 0;
      for (int n = 0; n < 3; ++n) integral += weights[n] * along(base + nodes[n] * (embeddings - base), embeddings - base);
      CHECK(integrated.scores[j] == Approx(integral).epsilon(1e-6).margin(1e-8));
      Numbers changed = embeddings;
      changed.row(j).setZero();
      CHECK(zeroed.scores[j] == Approx(value - at(changed)).margin(1e-12));
      std::vector<Index> other = ids;
      other[static_cast<std::size_t>(j)] = 2;
      CHECK(replaced.scores[j] == Approx(value - at(model.embed(other))).margin(1e-12));
      other = ids;
      other.erase(other.begin() + j);
      CHECK(dropped.scores[j] == Approx(j <= position ? value - at(model.embed(other), position - 1, j) : 0).margin(1e-12));
    }
    CHECK(product.explained == value);
    CHECK(integrated.baseline == Approx(at(base)));
  }
}

TEST_CASE("every method's matrix form is its single calls, row by row", "[attribution]") {
  const Index tokens = 9;
  for (const std::string& architecture : architectures())
    for (const Keep keep : {Keep::activations, Keep::residuals}) {
      INFO(architecture);
      ForwardOptions forward;
      forward.keep = keep;
      if (architecture == "griffin") forward.positions = {3, 4, 5, 0, 1, 2, 3, 4, 5};  // two documents
      Explainer<double> explainer(random_model(architecture, 55), random_ids(tokens, 56), forward);
      // A target for each position, in any order, one twice with different targets; one for all; one alone (few targets, many tokens).
      std::vector<Target> each{{8, 1, Index(2)}, {0, 3, {}}, {5, 4, {}}, {5, 7, Index(1)}};
      const std::vector<Target> same = targets_at({0, 1, 2, 3, 4, 5, 6, 7, 8}, 4, Index(9)), one = targets_at({6}, 3);
      CHECK((same[7].position == 7 && same[7].token == 4 && same[7].contrast == Index(9) && !one[0].contrast));
      for (const MethodName& named : method_names)
        for (const std::vector<Target>& targets : {each, same, one})
          for (const Removal removal : {Removal::zero, Removal::replace, Removal::drop}) {
            if (removal != Removal::zero && named.method != Method::leave_one_out) continue;
            INFO(named.name << ", " << targets.size() << " targets, removal " << static_cast<int>(removal));
            MethodOptions<double> options;
            options.terms = Terms::published();
            options.reduction = targets.size() == 4 ? ReductionKind::mean_abs : ReductionKind::mean;
            options.rollout.start_layer = 1;
            options.integration_steps = 3;
            options.removal = removal;
            options.replacement = 5;
            if (targets.size() == 4) options.layer = 2;
            const AttributionMatrix<double> matrix = explainer.explain_each(named.method, targets, options);
            REQUIRE(matrix.scores.rows() == static_cast<Index>(targets.size()));
            for (std::size_t r = 0; r < targets.size(); ++r) {
              const auto row = static_cast<Index>(r);
              const Attribution<double> single = explainer.explain(named.method, targets[r], options);
              // The same sums over more or fewer tokens, which blocks may order differently.
              CHECK(relative_error(matrix.scores.row(row), single.scores) <= 1e-11);
              CHECK(matrix.scores.row(row).tail(tokens - 1 - targets[r].position).isZero(0));
              CHECK(std::isnan(matrix.explained[row]) == std::isnan(single.explained));
              if (!std::isnan(single.explained)) CHECK(matrix.explained[row] == Approx(single.explained));
              CHECK(matrix.bias_share[row] == Approx(single.bias_share));
              CHECK(matrix.baseline[row] == Approx(single.baseline));
            }
          }
      for (const MethodName& named : method_names) {
        INFO(named.name);
        const auto fails = [&](const std::vector<Target>& targets, const std::string& text) {
          CHECK_THAT(failure([&] { static_cast<void>(explainer.explain_each(named.method, targets)); }), contains_text(text));
        };
        fails({}, "there are no targets, expected at least one");
        fails({{8, 1, {}}, {9, 1, {}}}, "position 9 is out of range, expected 0 to 8");
        fails({{8, 1, {}}, {7, 11, {}}}, "target token 11 is out of range");
      }
    }
  // What is to be known about single rows is known of the matrix: a layer whose gradient is zero, a map whose rows sum to -1 (griffin's
  // local attention with the weight -1 of the identity makes zero of its rows).
  Explainer<double> explainer(random_model("griffin", 55), random_ids(tokens, 56));
  MethodOptions<double> options;
  options.reduction = ReductionKind::mean;
  options.rollout.start_layer = 2;
  options.rollout.residual_weight = -1;
  for (const std::vector<Target>& targets : {targets_at({4}, 1), targets_at({4, 5, 8}, 1)}) {
    const std::vector<LayerRow> rows = explainer.explain_each(Method::rollout, targets, options).zero_rows;
    CHECK(std::find(rows.begin(), rows.end(), LayerRow{2, 4}) != rows.end());
  }
  CHECK(explainer.explain_each(Method::gradient_maximum, targets_at({3, 4}, 1, 1)).constant_layers.size() == 3);
}

TEST_CASE("the methods at their edges", "[attribution]") {
  for (const std::string& architecture : architectures()) {
    INFO(architecture);
    const LanguageModel<double> model = random_model(architecture, 61);
    Explainer<double> one(model, {3});
    MethodOptions<double> options;
    options.removal = Removal::drop;
    for (const MethodName& named : method_names) {
      INFO(named.name);
      options.with_map = named.has_map;
      const Attribution<double> result = one.explain(named.method, {0, 4, {}}, options);
      CHECK(result.scores.size() == 1);
      CHECK(result.scores.allFinite());
      if (named.method == Method::leave_one_out) CHECK(result.scores[0] == one.value({0, 4, {}}));
    }

    const auto fails = [&](auto call, const std::string& text) { CHECK_THAT(failure(call), contains_text(text)); };
    fails([&] { Explainer<double>(model, {}); }, "there are no token ids");
    fails([&] { Explainer<double>(model, {11}); }, "token id 11 at position 0 is out of range");
    for (const MethodName& named : method_names) {
      INFO(named.name);
      fails([&] { static_cast<void>(one.explain(named.method, {1, 4, {}})); }, "position 1 is out of range, expected 0 to 0");
      fails([&] { static_cast<void>(one.explain(named.method, {0, 11, {}})); }, "target token 11 is out of range, expected 0 to 10");
      fails(
          [&] {
            static_cast<void>(one.explain(named.method, {0, 4, Index(-1)}));
          },
          "contrast token -1 is out of range, expected 0 to 10");
    }
    options = {};
    options.layer = 3;
    fails([&] { static_cast<void>(one.explain(Method::raw, {0, 4, {}}, options)); }, "layer 3 is out of range");
    options.rollout.start_layer = 3;
    fails([&] { static_cast<void>(one.explain(Method::rollout, {0, 4, {}}, options)); }, "start layer 3 is out of range");
    fails([&] { static_cast<void>(one.explain(Method::gradient, {0, 4, {}}, options)); }, "start layer 3 is out of range");
    options.removal = Removal::replace;
    options.replacement = 11;
    fails([&] { static_cast<void>(one.explain(Method::leave_one_out, {0, 4, {}}, options)); }, "replacement token 11 is out of range");

    LanguageModelParts<double> broken = model.parts();
    Numbers head = *broken.head;
    head(2, 1) = std::numeric_limits<double>::quiet_NaN();
    broken.head = head;
    Explainer<double> nan(LanguageModel<double>(broken), {1, 2});
    for (const MethodName& named : method_names) {
      INFO(named.name);
      fails([&] { static_cast<void>(nan.explain(named.method, {1, 4, {}})); }, "NaN in the logits at (0, 2)");
    }
    fails([&] { static_cast<void>(nan.most_likely(1)); }, "NaN in the logits at (0, 2)");

    // In a layer: every logit is lost.
    broken = model.parts();
    Numbers scale = Numbers::Ones(1, 6);
    scale(0, 4) = std::numeric_limits<double>::quiet_NaN();
    broken.blocks[1].sublayers[0].norm =
        architecture == "rwkv4" ? Norm<double>::layer(scale, Numbers(Numbers::Zero(1, 6)), 1e-5) : Norm<double>::rms(scale, 1e-5);
    Explainer<double> lost(LanguageModel<double>(broken), {1, 2});
    for (const MethodName& named : method_names) {
      INFO(named.name);
      fails([&] { static_cast<void>(lost.explain(named.method, {0, 4, {}})); }, "layer 1: NaN in linear input x at token 0, channel 0");
      fails(
          [&] {
            static_cast<void>(lost.explain_each(named.method, {{0, 4, {}}}));
          },
          "layer 1: NaN in linear input x at token 0, channel 0");
    }

    // In a token after the position, which cannot matter: a method that never meets it gives what it gives without, the others say so.
    broken = model.parts();
    Numbers embedding = *broken.embedding;
    embedding(9, 3) = std::numeric_limits<double>::quiet_NaN();
    broken.embedding = embedding;
    Explainer<double> later(LanguageModel<double>(broken), {1, 2, 9, 4}), without(model, {1, 2});
    for (const MethodName& named : method_names) {
      INFO(named.name);
      const std::string why = failure([&] {
        const RowVector<double> scores = later.explain(named.method, {1, 4, {}}).scores;
        CHECK(relative_error(scores.head(2), without.explain(named.method, {1, 4, {}}).scores) <= 1e-12);
        CHECK(scores.tail(2).isZero(0));
      });
      if (!why.empty()) CHECK_THAT(why, contains_text("NaN in"));
    }
  }
  // A target less itself: there is nothing to explain. Methods about the target say zero; gradient-weighted attention, whose maps are zero,
  // is left with the residual stream; those that take the position alone say what they always say.
  for (const std::string& architecture : architectures()) {
    Explainer<double> explainer(random_model(architecture, 61), {3, 1, 4, 1});
    for (const MethodName& named : method_names) {
      INFO(architecture << ", " << named.name);
      const Attribution<double> nothing = explainer.explain(named.method, {2, 4, Index(4)});
      if (named.from_gradient && named.from_attention && !named.sums_columns) {
        CHECK(nothing.scores == (RowVector<double>(4) << 0, 0, 1, 0).finished());
        CHECK(nothing.constant_layers.size() == (named.method == Method::gradient_maximum ? 3 : 0));
      } else if (named.method == Method::raw || named.method == Method::rollout || named.method == Method::contribution_norms ||
                 named.method == Method::contribution_rollout || named.method == Method::random) {
        CHECK(nothing.scores == explainer.explain(named.method, {2, 4, {}}).scores);
      } else {
        CHECK(nothing.scores.isZero(0));
      }
    }
  }
  for (const MethodName& named : method_names) CHECK(parse_method(named.name) == named.method);
  CHECK(parse_method("gradient-2403.01590") == Method::gradient_mean);
  CHECK(parse_method("gradient-2405.16504") == Method::gradient_maximum);
  CHECK_THAT(failure([] { static_cast<void>(parse_method("shap")); }),
             contains_text("unknown method \"shap\", expected one of raw, rollout, gradient, gradient-mean"));
}

TEST_CASE("vector rollout and relevance-attention follow the attention that is held", "[attribution]") {
  // Against the formula: with every scale of the model held, the walk from the logit down, layer by layer, by dense matrices.
  for (const std::string& architecture : architectures())
    for (const Terms terms : {Terms::all(), Terms::published(), Terms::recurrence()}) {
      INFO(architecture << ", " << terms.text());
      const LanguageModel<double> model = random_model(architecture, 71, false);
      const Index tokens = 6, position = 4;
      Explainer<double> explainer(model, random_ids(tokens, 72));
      const ForwardPass<double>& pass = explainer.pass();
      MethodOptions<double> options;
      options.terms = terms;
      const Target target{position, 3, Index(7)};
      const Attribution<double> vectors = explainer.explain(Method::vector_rollout, target, options);
      const Attribution<double> columns = explainer.explain(Method::relevance_attention, target, options);

      // Down to each mixer's y by the walk of the library, and through A^T by hand.
      BackwardOptions<double> walk;
      walk.way = WayBack::attention;
      Numbers by_hand = Numbers::Zero(1, tokens);
      if (terms == Terms::all()) {
        walk.visit = [&](Index, const LayerPass<double>& at, const LayerBackward<double>& d) {
          const std::vector<Numbers> matrices = dense(at.mixer().attention(terms));
          for (Index e = 0; e < at.x().cols(); ++e) {
            const Numbers back = matrices[static_cast<std::size_t>(e)].transpose() * d.y.matrix().col(e);
            by_hand += at.x().matrix().col(e).cwiseProduct(back).transpose() / 3;
          }
        };
        const BackwardPass<double> walked = backward(model, pass, logit_gradient(pass, position, 3, Index(7)), walk);
        CHECK(relative_error(columns.scores, by_hand) <= 1e-12);
        // Without biases the walk conserves: the gate is a part of A here, so that x alone carries what a mixer gives.
        CHECK(std::abs(vectors.scores.sum() + vectors.bias_share - explainer.value(target)) <= 1e-10);
      }
      CHECK(vectors.scores.tail(tokens - 1 - position).isZero(0));
      CHECK(columns.scores.allFinite());
      CHECK(vectors.scores.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 0);
    }
}

TEST_CASE("vector rollout is input times the gradient of the network whose operators are held, relevance-attention that of their inputs",
          "[attribution]") {
  for (const std::string& architecture : architectures())
    for (const Terms terms : {Terms::all(), Terms::published(), Terms::recurrence()}) {
      INFO(architecture << ", " << terms.text());
      const Index tokens = 6, position = 4;
      Frozen network(architecture, 73, tokens);
      network.held = terms;
      Explainer<double> explainer(network.model, network.ids);
      MethodOptions<double> options;
      options.terms = terms;
      const Target target{position, 3, Index(7)};
      const RowVector<double> rollout = explainer.explain(Method::vector_rollout, target, options).scores,
                              columns = explainer.explain(Method::relevance_attention, target, options).scores;
      const Numbers embeddings = *network.pass.embeddings;
      REQUIRE(network(embeddings, position, 3, 7) == Approx(explainer.value(target)));
      const double scale = rollout.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>(),
                   column_scale = columns.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
      for (Index j = 0; j < tokens; ++j) {
        Numbers more = embeddings, less = embeddings;
        more.row(j) *= 1 + 1e-4;
        less.row(j) *= 1 - 1e-4;
        const double along = (network(more, position, 3, 7) - network(less, position, 3, 7)) / 2e-4;
        CHECK(std::abs(rollout[j] - along) <= 1e-6 * scale);
        double mean = 0;  // over layers: what stretching the token's row of x does in that layer alone
        network.stretched_token = j;
        for (const Index layer : network.model.mixing_layers()) {
          network.stretched_layer = layer;
          network.stretch = 1 + 1e-4;
          const double stretched = network(embeddings, position, 3, 7);
          network.stretch = 1 - 1e-4;
          const double of_layer = (stretched - network(embeddings, position, 3, 7)) / 2e-4;
          MethodOptions<double> one = options;
          one.layer = layer;
          CHECK(std::abs(explainer.explain(Method::relevance_attention, target, one).scores[j] - of_layer) <= 1e-6 * column_scale);
          mean += of_layer / static_cast<double>(network.model.mixing_layers().size());
        }
        network.stretched_layer = -1;
        CHECK(std::abs(columns[j] - mean) <= 1e-6 * column_scale);
      }
    }
  Explainer<double> explainer(random_model("mamba", 73), random_ids(4, 74));
  MethodOptions<double> none;
  none.layer = 9;
  CHECK_THAT(failure([&] {
               static_cast<void>(explainer.explain(Method::relevance_attention, {3, 1, {}}, none));
             }),
             contains_text("relevance-attention: layer 9 of"));
}
