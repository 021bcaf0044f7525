// The method edge-map: a layer's signed map under the exact gradient and the sums of its columns, of every family, against plain loops over
// every channel's matrix, and against the model run with an edge made a little larger or smaller; by layer, by head, with any terms.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/recipes.hpp>
#include <support/small_models.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/models/edge_knock_out.hpp>
#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/models/families.hpp>
#include <models/models.hpp>

namespace {

using namespace models_test;
using test_support::every_logit;
using test_support::small_models;
using test_support::SmallModel;
using Numbers = Matrix<double>;

constexpr Index edge_tokens = 9;
const Target edge_target{6, 3, Index(1)};

LanguageModel<double> drawn_model(const SmallModel& kind) {
  return load_language_model<double>(kind.checkpoint<double>(31), kind.configuration);
}

double largest_entry(const Numbers& numbers) {
  if (!numbers.allFinite()) return std::numeric_limits<double>::infinity();
  return numbers.size() == 0 ? 0 : numbers.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
}

/// Adds sum_e g[i,e] A_e[i,j] x_e[j] over the channels first .. last - 1, entry by entry.
void add_edges(Numbers& map, const ImplicitAttention<double>& attention, const Array<double>& x, const Numbers& g, Index first,
               Index last) {
  const auto matrix = attention.materialize();
  for (Index i = 0; i < map.rows(); ++i)
    for (Index j = 0; j < map.cols(); ++j)
      for (Index e = first; e < last; ++e) map(i, j) += g(i, e) * matrix(e, i, j) * x(j, e);
}

/// A layer's map by loops, all of its mixers and second paths.
Numbers map_by_loops(const LayerPass<double>& pass, const LayerBackward<double>& back, Terms terms) {
  Numbers map = Numbers::Zero(pass.residual.rows(), pass.residual.rows());
  for (std::size_t m = 0; m < pass.mixers.size(); ++m) {
    const ImplicitAttention<double> attention = pass.mixers[m].attention(terms);
    const Numbers g = *back.mixers_y[m];
    add_edges(map, attention, pass.mixers[m].x.numbers, g, 0, g.cols());
    if (attention.has_second()) add_edges(map, attention.second(), attention.second_input(), g, 0, g.cols());
  }
  return map;
}

MethodOptions<double> of_layer(std::optional<Index> layer, Terms terms = Terms::all(), bool with_map = true) {
  MethodOptions<double> how;
  how.terms = terms;
  how.layer = layer;
  how.with_map = with_map;
  return how;
}

/// The value with the edge's vectors in all of a layer's mixers made `share` smaller: the model run from its first layer on.
double value_with_less(const LanguageModel<double>& model, const std::vector<Index>& ids, Index layer, const LayerPass<double>& pass,
                       Edge edge, double share) {
  LanguageModelParts<double> parts = model.parts();
  std::size_t next = 0;
  for (Sublayer<double>& sublayer : parts.blocks[static_cast<std::size_t>(layer)].sublayers)
    for (Branch<double>& branch : sublayer.branches) {
      if (branch.part->channels() == 0) continue;
      const MixerRun<double>& mixer = pass.mixers[next++];
      const ImplicitAttention<double> attention = mixer.attention(Terms::all());
      const auto matrix = attention.materialize();
      RowVector<double> vector = RowVector<double>::Zero(mixer.y.numbers.cols());
      for (Index e = 0; e < vector.size(); ++e) vector[e] = matrix(e, edge.to, edge.from) * mixer.x.numbers(edge.from, e);
      if (attention.has_second()) {
        const auto second = attention.second().materialize();
        for (Index e = 0; e < vector.size(); ++e) vector[e] += second(e, edge.to, edge.from) * attention.second_input()(edge.from, e);
      }
      branch.part = detail::AlteredPart<double>::less(branch.part, edge.to, share * (vector * mixer.projection.matrix().transpose()));
    }
  const Numbers logits = LanguageModel<double>(parts).forward(ids, every_logit()).logits;
  return logits(edge_target.position, edge_target.token) - logits(edge_target.position, *edge_target.contrast);
}

}  // namespace

TEST_CASE("edge-map of every family is its formula by plain loops, by layer and by terms, and its scores are the columns' sums",
          "[attribution][families]") {
  Index several = 0;  // layers of more than one token mixer
  for (const SmallModel& kind : small_models()) {
    const LanguageModel<double> model = drawn_model(kind);
    Explainer<double> explainer(model, some_ids(edge_tokens, model.vocabulary()), every_logit());
    const BackwardPass<double> back =
        backward(model, explainer.pass(), logit_gradient(explainer.pass(), edge_target.position, 3, Index(1)));
    const std::vector<Index> mixing = model.mixing_layers();
    for (const Terms terms : {Terms::all(), Terms::published(), Terms::recurrence()}) {
      INFO(kind.name << ", " << terms.text());
      Numbers mean = Numbers::Zero(edge_tokens, edge_tokens);
      for (const Index layer : mixing) {
        INFO("layer " << layer);
        const LayerPass<double> pass = model.layer_pass(explainer.pass(), layer);
        several += pass.mixers.size() > 1 ? 1 : 0;
        const Numbers expected = map_by_loops(pass, back.layers[static_cast<std::size_t>(layer)], terms);
        mean += expected / static_cast<double>(mixing.size());
        const double scale = largest_entry(expected);
        REQUIRE(scale > 0);
        const Attribution<double> came = explainer.explain(Method::edge_map, edge_target, of_layer(layer, terms));
        CHECK(largest_entry(came.map - expected) <= 1e-11 * scale);
        CHECK(largest_entry(came.scores - came.map.colwise().sum()) <= 1e-12 * scale);
        CHECK(came.map.bottomRows(edge_tokens - 1 - edge_target.position).isZero(0));
        CHECK(came.position == edge_target.position);
        CHECK(std::isnan(came.explained));
        const Attribution<double> scores = explainer.explain(Method::edge_map, edge_target, of_layer(layer, terms, false));
        CHECK(scores.map.size() == 0);
        CHECK(largest_entry(scores.scores - came.scores) <= 1e-11 * edge_tokens * scale);
        CHECK(scores.scores.tail(edge_tokens - 1 - edge_target.position).isZero(0));
        // The number that a layer's map sums to: the derivative along all that tokens add to y, and no logit.
        if (pass.mixers.size() == 1 && !pass.mixer().attention(terms).has_second()) {
          const ImplicitAttention<double> attention = pass.mixer().attention(terms);
          const double along = back.layers[static_cast<std::size_t>(layer)].y.matrix().cwiseProduct(attention.apply(*pass.x())).sum();
          CHECK(std::abs(came.scores.sum() - along) <= 1e-11 * edge_tokens * edge_tokens * scale);
        }
      }
      const Attribution<double> whole = explainer.explain(Method::edge_map, edge_target, of_layer({}, terms));
      CHECK(largest_entry(whole.map - mean) <= 1e-11 * largest_entry(mean));
      CHECK(largest_entry(explainer.explain(Method::edge_map, edge_target, of_layer({}, terms, false)).scores - mean.colwise().sum()) <=
            1e-11 * edge_tokens * largest_entry(mean));
    }
  }
  CHECK(several > 0);
}

TEST_CASE("edge-map of every family is what a little less of an edge takes from the value", "[attribution][families]") {
  Index checked = 0, apart = 0;
  for (const SmallModel& kind : small_models()) {
    const LanguageModel<double> model = drawn_model(kind);
    const std::vector<Index> ids = some_ids(edge_tokens, model.vocabulary());
    Explainer<double> explainer(model, ids, every_logit());
    const KnockOut<double> knock_out(model, explainer.pass());
    for (const Index layer : model.mixing_layers()) {
      INFO(kind.name << ", layer " << layer);
      const LayerPass<double> pass = model.layer_pass(explainer.pass(), layer);
      if (!knock_out.reaches(layer)) {  // several mixers in one part: Zamba2's hybrid layers
        ++apart;
        continue;
      }
      const Numbers map = explainer.explain(Method::edge_map, edge_target, of_layer(layer)).map;
      for (const Edge edge : {Edge{6, 6}, Edge{6, 2}, Edge{4, 3}, Edge{5, 5}, Edge{1, 0}}) {
        INFO("edge from " << edge.from << " to " << edge.to);
        const auto value = [&](double share) { return value_with_less(model, ids, layer, pass, edge, share); };
        const double h = 1e-3, lost = -(8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h);
        CHECK(std::abs(map(edge.to, edge.from) - lost) <= 1e-6 * largest_entry(map));
        ++checked;
      }
    }
  }
  CHECK(checked > 100);
  CHECK(apart == 2);
}

TEST_CASE("edge-map and relevance-attention by heads: the loops over a head's channels, mixer after mixer; heads sum to the layer",
          "[attribution][families]") {
  Index layers = 0, none = 0, mixed = 0;
  for (const SmallModel& kind : small_models()) {
    const LanguageModel<double> model = drawn_model(kind);
    Explainer<double> explainer(model, some_ids(edge_tokens, model.vocabulary()), every_logit());
    const Numbers d = logit_gradient(explainer.pass(), edge_target.position, 3, Index(1));
    const BackwardPass<double> exact = backward(model, explainer.pass(), d),
                               held = backward(model, explainer.pass(), d, held_attention_walk<double>(Terms::all()));
    for (const Index layer : model.mixing_layers()) {
      INFO(kind.name << ", layer " << layer);
      const LayerPass<double> pass = model.layer_pass(explainer.pass(), layer);
      const auto at = static_cast<std::size_t>(layer);
      MethodOptions<double> how = of_layer(layer);
      Index heads = 0, first = 0;
      for (const MixerRun<double>& mixer : pass.mixers) heads += mixer.attention(Terms::recurrence()).heads();
      how.heads = {heads};
      if (heads == 0) {
        for (const Method method : {Method::edge_map, Method::relevance_attention})
          CHECK_THROWS_WITH(
              explainer.explain(method, edge_target, how),
              contains_text(detail::message(method_info(method).name, ": the channels of layer ", layer, " share no matrices")));
        ++none;
        continue;
      }
      CHECK_THROWS_WITH(explainer.explain(Method::edge_map, edge_target, how),
                        contains_text(detail::message("edge-map: head ", heads, " is out of range, expected 0 to ", heads - 1)));
      ++layers;
      mixed += pass.mixers.size() > 1 ? 1 : 0;
      Numbers sum = Numbers::Zero(edge_tokens, edge_tokens), sum_of_scores = Numbers::Zero(1, edge_tokens);
      for (std::size_t m = 0; m < pass.mixers.size(); first += pass.mixers[m++].attention(Terms::recurrence()).heads()) {
        const MixerRun<double>& mixer = pass.mixers[m];
        const ImplicitAttention<double> attention = mixer.attention(Terms::all());
        const Index of_mixer = mixer.attention(Terms::recurrence()).heads();
        for (Index head = 0; head < of_mixer; ++head) {
          INFO("head " << first + head);
          const Index wide = attention.channels() / of_mixer, begin = head * wide;
          const auto loops = [&](const BackwardPass<double>& back) {
            Numbers map = Numbers::Zero(edge_tokens, edge_tokens);
            const Numbers g = *back.layers[at].mixers_y[m];
            add_edges(map, attention, mixer.x.numbers, g, begin, begin + wide);
            if (attention.has_second()) add_edges(map, attention.second(), attention.second_input(), g, begin, begin + wide);
            return map;
          };
          const Numbers expected = loops(exact), expected_held = loops(held);
          how.heads = {first + head};
          how.with_map = true;
          const Attribution<double> map = explainer.explain(Method::edge_map, edge_target, how);
          CHECK(largest_entry(map.map - expected) <= 1e-11 * largest_entry(expected));
          how.with_map = false;
          const RowVector<double> scores = explainer.explain(Method::edge_map, edge_target, how).scores;
          CHECK(largest_entry(scores - expected.colwise().sum()) <= 1e-10 * largest_entry(expected));
          CHECK(largest_entry(explainer.explain(Method::relevance_attention, edge_target, how).scores - expected_held.colwise().sum()) <=
                1e-10 * largest_entry(expected_held));
          sum += map.map;
          sum_of_scores += scores;
        }
      }
      bool all_have = true;  // a mixer without heads is in no head
      for (const MixerRun<double>& mixer : pass.mixers) all_have = all_have && mixer.attention(Terms::recurrence()).heads() > 0;
      if (!all_have) continue;
      const Attribution<double> whole = explainer.explain(Method::edge_map, edge_target, of_layer(layer));
      CHECK(largest_entry(sum - whole.map) <= 1e-11 * static_cast<double>(heads) * largest_entry(whole.map));
      CHECK(largest_entry(sum_of_scores - whole.scores) <= 1e-10 * static_cast<double>(heads) * largest_entry(whole.map));
      // Two heads are their sum, and one that is named twice is there once.
      how.heads = {0, heads - 1, 0};
      how.with_map = true;
      const Numbers two = explainer.explain(Method::edge_map, edge_target, how).map;
      how.heads = {0};
      Numbers one = explainer.explain(Method::edge_map, edge_target, how).map;
      how.heads = {heads - 1};
      if (heads > 1) one += explainer.explain(Method::edge_map, edge_target, how).map;
      CHECK(largest_entry(two - one) <= 1e-11 * largest_entry(whole.map));
    }
  }
  CHECK((layers > 10 && none > 5 && mixed > 0));
}

TEST_CASE("edge-map says what is wrong with a layer or with heads, and other methods of the same plan do not", "[attribution]") {
  std::optional<SmallModel> hybrid;
  for (const SmallModel& kind : small_models())
    if (kind.name == "nemotron_h") hybrid = kind;
  REQUIRE(hybrid);
  const LanguageModel<double> model = drawn_model(*hybrid);
  const std::vector<Index> mixing = model.mixing_layers();
  REQUIRE(static_cast<Index>(mixing.size()) < model.layer_count());
  Index idle = 0;
  while (std::find(mixing.begin(), mixing.end(), idle) != mixing.end()) ++idle;
  const std::vector<Index> ids = some_ids(edge_tokens, model.vocabulary());
  for (const bool with_map : {false, true})
    for (const Index layer : {idle, model.layer_count(), Index(-1)}) {
      MethodOptions<double> how = of_layer(layer, Terms::all(), with_map);
      Explainer<double> explainer(model, ids, every_logit());
      const std::string words =
          detail::message("edge-map: layer ", layer, " of ", model.name(), " is out of range or mixes no tokens, expected one of ");
      CHECK_THROWS_WITH(explainer.explain(Method::edge_map, edge_target, how), contains_text(words));
      CHECK_THROWS_WITH(explainer.explain_each(Method::edge_map, {edge_target}, how), contains_text(words));
      Explainer<double> planned(model, ids, every_logit(), {{Method::gradient, Method::edge_map}, how});
      how.with_map = false;
      CHECK(planned.explain(Method::gradient, edge_target, how).scores == explainer.explain(Method::gradient, edge_target, how).scores);
      CHECK_THROWS_WITH(planned.explain(Method::edge_map, edge_target, how), contains_text(words));
    }
  MethodOptions<double> how;
  how.heads = {0};
  Explainer<double> explainer(model, ids, every_logit());
  for (const Method method : {Method::edge_map, Method::relevance_attention})
    CHECK_THROWS_WITH(explainer.explain(method, edge_target, how),
                      contains_text("heads are those of one layer, expected MethodOptions::layer"));
  CHECK(explainer.explain(Method::raw, edge_target, how).scores ==
        explainer.explain(Method::raw, edge_target).scores);  // which reads no heads

  // What was planned of all heads is no answer about one.
  Index layer = -1;
  for (const Index one : mixing)
    if (model.layer_pass(explainer.pass(), one).mixer().attention(Terms::recurrence()).heads() > 1) layer = one;
  REQUIRE(layer >= 0);
  how = of_layer(layer, Terms::all(), false);
  Explainer<double> planned(model, ids, every_logit(), {{Method::edge_map, Method::gradient_x_input}, how});
  const RowVector<double> all = planned.explain(Method::edge_map, edge_target, how).scores;
  CHECK(all == explainer.explain(Method::edge_map, edge_target, how).scores);
  how.heads = {0};
  const RowVector<double> head = planned.explain(Method::edge_map, edge_target, how).scores;
  CHECK(head == explainer.explain(Method::edge_map, edge_target, how).scores);
  CHECK(largest_entry(head - all) > 1e-6 * largest_entry(all));
}

TEST_CASE("edge-map: any number of workers, any kept pass, float as double", "[attribution]") {
  for (const SmallModel& kind : small_models()) {
    if (kind.name != "falcon_h1" && kind.name != "rwkv7" && kind.name != "mamba") continue;
    INFO(kind.name);
    const LanguageModel<double> model = drawn_model(kind);
    const std::vector<Index> ids = some_ids(edge_tokens, model.vocabulary());
    Explainer<double> plain(model, ids);
    ForwardOptions forward;
    forward.keep = Keep::residuals;
    forward.executor = thread_executor(3);
    Explainer<double> other(model, ids, forward);
    const LanguageModel<float> narrow = load_language_model<float>(kind.checkpoint<float>(31), kind.configuration);
    Explainer<float> in_float(narrow, ids);
    for (const bool with_map : {false, true}) {
      const MethodOptions<double> how = of_layer({}, Terms::all(), with_map);
      const Attribution<double> one = plain.explain(Method::edge_map, {edge_tokens - 1, 3, {}}, how),
                                two = other.explain(Method::edge_map, {edge_tokens - 1, 3, {}}, how);
      CHECK(one.scores == two.scores);
      CHECK(one.map == two.map);
      MethodOptions<float> narrow_how;
      narrow_how.with_map = with_map;
      const Attribution<float> rough = in_float.explain(Method::edge_map, {edge_tokens - 1, 3, {}}, narrow_how);
      CHECK(largest_entry(rough.scores.cast<double>() - one.scores) <= 1e-3 * largest_entry(one.scores));
    }
  }
}
