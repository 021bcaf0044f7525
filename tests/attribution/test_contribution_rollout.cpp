// Contribution norms and their rollout, ALTI-Logit and edge maps on whole models, against plain loops over every channel's matrix written
// from the formulas.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/models/explainer.hpp>
#include <support/catch.hpp>
#include <support/layer_recipes.hpp>

#include <models/golden_models.hpp>

namespace {

using namespace models_test;
namespace fs = std::filesystem;
using Numbers = Matrix<double>;

/// v_ij = W_o (A[i,j] o x_j) of the first mixer, every entry by itself.
std::vector<std::vector<Numbers>> vectors_by_loops(const LanguageModel<double>& model, const LayerPass<double>& pass, Index layer,
                                                   Terms terms) {
  const auto matrix = model.implicit_attention(pass, layer, terms).materialize();
  const Matrix<double> projection = *pass.mixer().projection;
  const Index tokens = pass.x().rows(), channels = projection.cols(), width = projection.rows();
  std::vector<std::vector<Numbers>> v(static_cast<std::size_t>(tokens));
  for (Index i = 0; i < tokens; ++i)
    for (Index j = 0; j <= i; ++j) {
      Numbers vector = Numbers::Zero(1, width);
      for (Index d = 0; d < width; ++d)
        for (Index e = 0; e < channels; ++e) vector(0, d) += projection(d, e) * matrix(e, i, j) * pass.x()(j, e);
      v[static_cast<std::size_t>(i)].push_back(vector);
    }
  return v;
}

}  // namespace

TEST_CASE("contribution norms, their rollout and ALTI-Logit are what their formulas say", "[attribution]") {
  const std::string name = GENERATE("mamba", "rwkv4", "griffin");
  const Terms terms = GENERATE(Terms::all(), Terms::published());
  INFO(name);
  const LanguageModel<double> model = shipped(name);
  const Index tokens = 6, position = 4, token = 1, contrast = 0;
  Explainer<double> explainer(model, some_ids(tokens, model.vocabulary()));
  const ForwardPass<double>& pass = explainer.pass();

  const std::vector<Index> mixing = model.mixing_layers();
  Numbers by_norm = Numbers::Identity(tokens, tokens), by_proximity = by_norm;  // P_{l-1} ... P_0
  const LanguageModelParts<double>& parts = model.parts();
  Numbers w = parts.head.matrix().row(token) - parts.head.matrix().row(contrast);
  {
    const Numbers r = pass.final_residual.matrix().row(position);
    const Norm<double>& norm = parts.final_norm;
    const double scale = norm.statistics(ConstView<double>(r)).scale(0, 0);
    const auto held_cap = [&](Index id) {  // cap tanh(l / cap) as a scale of l
      if (!(parts.soft_cap > 0)) return 1.0;
      const double mean = norm.centred() ? r.mean() : 0;
      double l = 0;
      for (Index d = 0; d < r.cols(); ++d) l += parts.head(id, d) * (r(0, d) - mean) * scale * norm.weight()[d];
      return parts.soft_cap * std::tanh(l / parts.soft_cap) / l;
    };
    w = held_cap(token) * parts.head.matrix().row(token) - held_cap(contrast) * parts.head.matrix().row(contrast);
    w = (w.array() * norm.weight().array() * scale * parts.logit_scale).matrix().eval();
    if (norm.centred()) w.array() -= w.mean();  // what a constant added to r gives is nothing
  }
  Numbers logit = Numbers::Zero(1, tokens), mean_norms = Numbers::Zero(tokens, tokens);
  for (const Index layer : mixing) {
    const LayerPass<double>& of_layer = pass.layers[static_cast<std::size_t>(layer)];
    const auto v = vectors_by_loops(model, of_layer, layer, terms);
    Numbers direct = Numbers::Zero(1, tokens), norms = Numbers::Zero(tokens, tokens), nearer = norms;
    for (Index i = 0; i < tokens; ++i) {
      const Numbers r = of_layer.residual.matrix().row(i), o = of_layer.middle.matrix().row(i);
      for (Index j = 0; j <= i; ++j) {
        const Numbers alone = v[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)], whole = i == j ? Numbers(alone + r) : alone;
        if (i == position) direct(0, j) = (w.array() * alone.array()).sum();
        mean_norms(i, j) += std::sqrt(alone.array().square().sum()) / static_cast<double>(mixing.size());
        norms(i, j) = std::sqrt(whole.array().square().sum());
        nearer(i, j) = std::max(0.0, o.cwiseAbs().sum() - (o - whole).cwiseAbs().sum());
      }
      norms.row(i) /= norms.row(i).sum();
      if (nearer.row(i).sum() > 0)
        nearer.row(i) /= nearer.row(i).sum();
      else
        nearer(i, i) = 1;
    }
    logit += direct * by_proximity;
    by_norm = (norms * by_norm).eval();
    by_proximity = (nearer * by_proximity).eval();
  }
  Trace<double> trace(false);
  const Numbers first = *model.enter(trace.input(pass.embeddings));
  logit(0, position) += (w.array() * first.row(position).array()).sum();

  MethodOptions<double> options;
  options.terms = terms;
  const Target target{position, token, contrast};
  const Attribution<double> rolled = explainer.explain(Method::contribution_rollout, target, options);
  CHECK(relative_error(rolled.scores, by_norm.row(position)) < 1e-11);
  CHECK(rolled.scores.sum() == Approx(1).epsilon(1e-12));
  CHECK(rolled.scores.tail(tokens - 1 - position).isZero(0));
  CHECK(relative_error(explainer.explain(Method::contribution_norms, target, options).scores, mean_norms.row(position)) < 1e-11);
  {
    MethodOptions<double> with_map = options;
    with_map.with_map = true;
    CHECK(relative_error(explainer.explain(Method::contribution_norms, target, with_map).map, mean_norms) < 1e-11);
    CHECK(relative_error(explainer.explain(Method::contribution_rollout, target, with_map).map, by_norm) < 1e-11);
  }
  {
    MethodOptions<double> of_one = options;
    of_one.layer = mixing.back();
    const LayerPass<double>& last = pass.layers[static_cast<std::size_t>(mixing.back())];
    const auto v = vectors_by_loops(model, last, mixing.back(), terms);
    const RowVector<double> norms = explainer.explain(Method::contribution_norms, target, of_one).scores;
    for (Index j = 0; j <= position; ++j)
      CHECK(norms[j] == Approx(v[static_cast<std::size_t>(position)][static_cast<std::size_t>(j)].norm()).epsilon(1e-11));
  }
  const Attribution<double> alti = explainer.explain(Method::alti_logit, target, options);
  CHECK(relative_error(alti.scores, logit) < 1e-11);
  CHECK(std::isnan(alti.explained));
}

TEST_CASE("walks with held attention take a second path with them, whatever the terms", "[attribution]") {
  // RWKV-7's bonus is a second path on the value itself. A bias is no part of A: all other terms as a list walk as all of them do.
  bool found = false;
  for (const fs::path& path : golden_models()) {
    if (path.filename().string().rfind("lm_rwkv7_", 0) != 0) continue;
    found = true;
    const Golden golden(path);
    INFO(path.filename().string());
    const LanguageModel<double> model = load_language_model<double>(golden.weights<double>(), golden.configuration);
    ForwardOptions every_logit;
    every_logit.logit_positions = Indices::all();
    Explainer<double> explainer(model, golden.ids, every_logit);
    const Target target{static_cast<Index>(golden.ids.size()) - 1, 3, Index(4)};
    MethodOptions<double> listed;
    listed.terms = Terms::parse("recurrence,gate,activation,convolution,normalization,skip");
    for (const Method method : {Method::vector_rollout, Method::relevance_attention})
      CHECK(relative_error(explainer.explain(method, target, listed).scores, explainer.explain(method, target).scores) < 1e-11);
    // The columns of the edge maps along the walk, of both paths, layer by layer.
    const ForwardPass<double> pass = model.forward(golden.ids, every_logit);
    const BackwardPass<double> held =
        backward(model, pass, logit_gradient(pass, target.position, 3, Index(4)), held_attention_walk<double>(Terms::all()));
    for (const Index layer : model.mixing_layers()) {
      const LayerPass<double>& of_layer = pass.layers[static_cast<std::size_t>(layer)];
      const ImplicitAttention<double> attention = model.implicit_attention(of_layer, layer);
      REQUIRE(attention.has_second());
      const Numbers map = edge_map(attention, of_layer.x(), held.layers[static_cast<std::size_t>(layer)].y);
      MethodOptions<double> of_one;
      of_one.layer = layer;
      CHECK(relative_error(explainer.explain(Method::relevance_attention, target, of_one).scores, map.colwise().sum()) < 1e-10);
    }
  }
  if (!found) WARN("no golden RWKV-7 model is here");
}

TEST_CASE("methods by vectors explain several targets as they explain each by itself", "[attribution]") {
  const std::string name = GENERATE("mamba", "rwkv4", "griffin");
  const Method method = GENERATE(Method::contribution_norms, Method::contribution_rollout, Method::alti_logit);
  INFO(name << ", " << method_info(method).name);
  const LanguageModel<double> model = shipped(name);
  const Index tokens = 70;  // more than one block of rows
  const std::vector<Target> targets{{69, 1, {}}, {2, 0, Index(1)}, {66, 1, Index(0)}, {69, 0, {}}};
  ForwardOptions every_logit;
  every_logit.logit_positions = Indices::all();
  Explainer<double> explainer(model, some_ids(tokens, model.vocabulary()), every_logit);
  every_logit.executor = thread_executor(2);
  Explainer<double> shared(model, some_ids(tokens, model.vocabulary()), every_logit);
  const Matrix<double> all = explainer.explain_each(method, targets).scores;
  CHECK(all == shared.explain_each(method, targets).scores);
  for (std::size_t t = 0; t < targets.size(); ++t)
    CHECK(relative_error(all.row(static_cast<Index>(t)), explainer.explain(method, targets[t]).scores) < 1e-13);
}

TEST_CASE("methods by vectors: a target before a token that is not finite is as without it", "[attribution]") {
  const LanguageModel<double> model = shipped("mamba");
  LanguageModelParts<double> parts = model.parts();
  Numbers embedding = *parts.embedding;
  embedding(9, 3) = std::numeric_limits<double>::quiet_NaN();
  parts.embedding = embedding;
  const LanguageModel<double> broken(parts);
  const std::vector<Target> before{{1, 1, {}}, {2, 0, {}}};
  ForwardOptions every_logit;
  every_logit.logit_positions = Indices::all();
  const ForwardPass<double> sound = model.forward({4, 5, 6}, every_logit), spoilt = broken.forward({4, 5, 6, 9}, every_logit);
  const std::vector<Index> positions{1, 2};
  CHECK(relative_error(contribution_rollout(broken, spoilt, positions).leftCols(3), contribution_rollout(model, sound, positions)) < 1e-13);
  CHECK(relative_error(contribution_norms(broken, spoilt, positions, model.mixing_layers()).leftCols(3),
                       contribution_norms(model, sound, positions, model.mixing_layers())) < 1e-13);
  CHECK(relative_error(alti_logit(broken, spoilt, before).leftCols(3), alti_logit(model, sound, before)) < 1e-13);
  CHECK_THROWS_WITH(contribution_rollout(broken, spoilt, {1, 3}), contains_text("NaN"));
}

TEST_CASE("an edge map tells what taking an edge out does to the explained number, to first order", "[attribution]") {
  const std::string name = GENERATE("mamba", "rwkv4", "griffin");
  INFO(name);
  const LanguageModel<double> model = shipped(name);
  const Index tokens = 6;
  Explainer<double> explainer(model, some_ids(tokens, model.vocabulary()));
  const Target target{tokens - 1, 1, 0};
  const BackwardPass<double>& gradients = explainer.gradients(target);
  for (const Index layer : model.mixing_layers()) {
    const LayerPass<double>& pass = explainer.pass().layers[static_cast<std::size_t>(layer)];
    const Array<double>& g = gradients.layers[static_cast<std::size_t>(layer)].y;
    const ImplicitAttention<double> attention = model.implicit_attention(pass, layer);
    const auto matrix = attention.materialize();
    Numbers expected = Numbers::Zero(tokens, tokens), half = expected;
    for (Index e = 0; e < attention.channels(); ++e)
      for (Index i = 0; i < tokens; ++i)
        for (Index j = 0; j <= i; ++j) {
          const double edge = g(i, e) * matrix(e, i, j) * pass.x()(j, e);
          expected(i, j) += edge;
          if (e >= 2 && e < 5) half(i, j) += edge;
        }
    CHECK(relative_error(edge_map(attention, pass.x(), g), expected) < 1e-12);
    Selection few;
    few.channels = std::vector<Index>{2, 3, 4};
    CHECK(relative_error(edge_map(attention, pass.x(), g, few), half) < 1e-12);
    // Against the model itself: the change of y is a step along the gradient's direction.
    CHECK(expected.sum() ==
          Approx((g.matrix().array() * (pass.y().matrix() - attention.bias() - attention.carry()).array()).sum()).margin(1e-10));
  }
}

TEST_CASE("edge maps by layer, channels and terms: their columns along the library's own held walk are relevance-attention",
          "[attribution]") {
  const std::string name = GENERATE("mamba", "rwkv4", "griffin");
  const Terms terms = GENERATE(Terms::all(), Terms::published(), Terms::recurrence());
  INFO(name << ", " << terms.text());
  const LanguageModel<double> model = shipped(name);
  const Index tokens = 6, position = 4;
  ForwardOptions every_logit;
  every_logit.logit_positions = Indices::all();
  Explainer<double> explainer(model, some_ids(tokens, model.vocabulary()));
  const ForwardPass<double> pass = model.forward(some_ids(tokens, model.vocabulary()), every_logit);
  const BackwardPass<double> held = backward(model, pass, logit_gradient(pass, position, 1, Index(0)), held_attention_walk<double>(terms));
  MethodOptions<double> options;
  options.terms = terms;
  for (const Index layer : model.mixing_layers()) {
    INFO("layer " << layer);
    const LayerPass<double>& of_layer = pass.layers[static_cast<std::size_t>(layer)];
    const ImplicitAttention<double> attention = model.implicit_attention(of_layer, layer, terms);
    const Numbers g = *held.layers[static_cast<std::size_t>(layer)].y;
    const auto matrix = attention.materialize();
    Selection head;  // a head, or any other channels
    head.channels = std::vector<Index>{0, 1, 2, 3};
    Numbers whole = Numbers::Zero(tokens, tokens), part = whole;
    for (Index e = 0; e < attention.channels(); ++e)
      for (Index i = 0; i < tokens; ++i)
        for (Index j = 0; j <= i; ++j) {
          whole(i, j) += g(i, e) * matrix(e, i, j) * of_layer.x()(j, e);
          if (e < 4) part(i, j) += g(i, e) * matrix(e, i, j) * of_layer.x()(j, e);
        }
    const Numbers map = edge_map(attention, of_layer.x(), held.layers[static_cast<std::size_t>(layer)].y);
    CHECK(relative_error(map, whole) < 1e-12);
    CHECK(relative_error(edge_map(attention, of_layer.x(), held.layers[static_cast<std::size_t>(layer)].y, head), part) < 1e-12);
    options.layer = layer;
    const RowVector<double> columns = explainer.explain(Method::relevance_attention, {position, 1, Index(0)}, options).scores;
    CHECK(relative_error(columns, whole.colwise().sum()) < 1e-10);
  }
}

TEST_CASE("contributions, the residual stream and what no token adds are every family's residual stream behind its mixers",
          "[attribution]") {
  std::vector<std::string> refused;
  Index checked = 0;
  for (const fs::path& path : golden_models()) {
    const Golden golden(path);
    INFO(path.filename().string());
    const LanguageModel<double> model = load_language_model<double>(golden.weights<double>(), golden.configuration);
    const ForwardPass<double> pass = model.forward(golden.ids);
    for (const Index layer : model.mixing_layers()) {
      INFO("layer " << layer);
      const LayerPass<double>& of_layer = pass.layers[static_cast<std::size_t>(layer)];
      const Sublayer<double>& sublayer = model.block(layer).sublayers.front();
      Numbers affine = Numbers::Zero(pass.tokens(), model.width()), sum = affine, together = affine;
      try {
        const LayerContributions<double> contributions(model, of_layer, layer);
        for (Index i = 0; i < pass.tokens(); ++i) together.row(i) = contributions.vectors(i, true).colwise().sum();
      } catch (const Error& error) {
        refused.push_back(error.what());
        continue;
      }
      std::size_t next = 0;
      for (const Branch<double>& branch : sublayer.branches) {
        REQUIRE(branch.part->channels() != 0);
        const MixerRun<double>& mixer = of_layer.mixers[next++];
        affine += branch.output_scale * affine_output(mixer.attention(Terms::all()), mixer.projection, mixer.projection_bias);
        sum += branch.output_scale * *mixer.out;
      }
      if (!sublayer.norm_after.empty()) affine.array() *= sublayer.norm_after.held_scale(sublayer.norm_after.statistics(sum)).array();
      together += sublayer.residual_scale * affine;
      CHECK(relative_error(together, *of_layer.middle) < 1e-9);
      ++checked;
    }
  }
  CHECK(checked > 0);
  for (const std::string& words : refused) CHECK_THAT(words, contains_text("contributions: layer "));
}

TEST_CASE("contributions, their norms and edge maps have a second path's part", "[attribution]") {
  int layers = 0;
  for (const test_support::Recipe& recipe : test_support::recipes()) {
    if (recipe.family != "rwkv7" && recipe.family != "mlstm") continue;
    INFO(recipe.family);
    test_support::DrawnLayer layer(recipe, 77);
    const Index tokens = 6;
    const auto run = layer.run(layer.draw.normals<double>(tokens, recipe.width));
    const ImplicitAttention<double> attention = run.mixer.attention(Terms::all());
    REQUIRE(attention.has_second());
    const auto matrix = attention.materialize(), second = attention.second().materialize();
    const Numbers x = *run.mixer.x, x_2 = *attention.second_input(), projection = *run.mixer.projection;
    const Numbers g = layer.draw.normals<double>(tokens, attention.channels());
    Numbers out = affine_output(attention, run.mixer.projection, run.mixer.projection_bias), edges = Numbers::Zero(tokens, tokens),
            norms = edges;
    for (Index i = 0; i < tokens; ++i)
      for (Index j = 0; j <= i; ++j) {
        RowVector<double> vector = RowVector<double>::Zero(projection.rows());
        for (Index e = 0; e < attention.channels(); ++e) {
          const double part = matrix(e, i, j) * x(j, e) + second(e, i, j) * x_2(j, e);
          edges(i, j) += g(i, e) * part;
          for (Index d = 0; d < projection.rows(); ++d) vector[d] += projection(d, e) * part;
        }
        norms(i, j) = vector.norm();
        out.row(i) += vector;
      }
    CHECK(relative_error(out, *run.mixer.out) < 1e-11);
    CHECK(relative_error(edge_map(attention, run.mixer.x.numbers, Array<double>(g)), edges) < 1e-11);
    CHECK(relative_error(contribution_norms(attention, run.mixer.x.numbers, run.mixer.projection), norms) < 1e-11);
    Numbers sum = affine_output(attention, run.mixer.projection, run.mixer.projection_bias);
    for (Index i = 0; i < tokens; ++i)
      sum.row(i) += contributions_to(attention, run.mixer.x.numbers, run.mixer.projection, i).colwise().sum();
    CHECK(relative_error(sum, *run.mixer.out) < 1e-11);
    ++layers;
  }
  CHECK(layers == 2);
}
