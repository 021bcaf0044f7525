// What an explanation runs, and that running less changes no number: prefixes, kept layers, one walk for several methods, removals from
// carried states.
#include <algorithm>
#include <cmath>
#include <atomic>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/models/explainer.hpp>

#include "cases.hpp"

using namespace implicit_attention;
using namespace attribution_test;

namespace {

void check_same(const Attribution<double>& came, const Attribution<double>& expected, double allowed) {
  REQUIRE(came.scores.size() == expected.scores.size());
  CHECK((came.scores - expected.scores).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
        allowed * expected.scores.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  CHECK(std::isnan(came.explained) == std::isnan(expected.explained));
  if (!std::isnan(expected.explained)) CHECK(came.explained == Approx(expected.explained).epsilon(allowed));
  CHECK(came.bias_share == Approx(expected.bias_share).epsilon(1e-9));
  CHECK(came.zero_rows == expected.zero_rows);
  CHECK(came.constant_layers == expected.constant_layers);
}

std::vector<Method> all_methods() {
  std::vector<Method> methods;
  for (const MethodName& named : method_names) methods.push_back(named.method);
  return methods;
}

}  // namespace

TEST_CASE("a position's explanation runs its prefix alone", "[attribution]") {
  const Index tokens = 40, position = 12;
  for (const std::string& architecture : architectures()) {
    const LanguageModel<double> model = random_model(architecture, 91);
    const std::vector<Index> ids = random_ids(tokens, 92), prefix(ids.begin(), ids.begin() + position + 1);
    ForwardOptions forward;
    forward.logit_positions = Indices({position});
    MethodOptions<double> how;
    how.integration_steps = 3;
    Explainer<double> asked(model, ids, forward), whole(model, ids), alone(model, prefix, forward);
    CHECK(asked.pass().tokens() == position + 1);
    CHECK(asked.tokens() == tokens);
    const Target target{position, 4, Index(2)};
    for (const Method method : all_methods()) {
      INFO(architecture << ", " << method_info(method).name);
      if (method == Method::gradient_maximum) {  // rescales whole maps
        Explainer<double> reads_on(model, ids, forward);
        check_same(reads_on.explain(method, target, how), whole.explain(method, target, how), 1e-11);
        CHECK(reads_on.pass().tokens() == tokens);
        continue;
      }
      const Attribution<double> came = asked.explain(method, target, how);
      check_same(came, whole.explain(method, target, how), 1e-11);
      CHECK(came.scores.tail(tokens - 1 - position).isZero(0));
      CHECK(came.scores.head(position + 1) == alone.explain(method, target, how).scores);
      CHECK(asked.pass().tokens() == position + 1);
    }
    // A whole map is asked for: then, and not before, the rest is read.
    how.with_map = true;
    check_same(asked.explain(Method::raw, target, how), whole.explain(Method::raw, target, how), 1e-12);
    CHECK(asked.pass().tokens() == tokens);
    ForwardOptions first;
    first.logit_positions = Indices({0});
    CHECK_THROWS_AS(Explainer<double>(model, std::vector<Index>{1, 2, 99}, first), Error);
  }
}

TEST_CASE("what is told beforehand changes what is run, and no number", "[attribution]") {
  const Index tokens = 30, position = 26;
  for (const std::string& architecture : architectures()) {
    const LanguageModel<double> model = random_model(architecture, 93);
    const std::vector<Index> ids = random_ids(tokens, 94);
    const Target target{position, 4, {}};
    MethodOptions<double> how;
    how.terms = Terms::published();
    how.integration_steps = 2;
    Explainer<double> plain(model, ids);
    for (const std::size_t memory : {std::size_t(0), std::size_t(40000), std::size_t(1) << 30})
      for (const std::vector<Method>& planned :
           {all_methods(), std::vector{Method::relevance, Method::gradient_x_input}, std::vector{Method::raw}}) {
        ForwardOptions forward;
        forward.keep = Keep::residuals;
        forward.memory = memory;
        forward.logit_positions = Indices({3, position});
        Explainer<double> told(model, ids, forward, {planned, how});
        if (planned.size() == 1) CHECK(told.pass().layers.empty());
        for (const Method method : all_methods()) {
          INFO(architecture << ", " << method_info(method).name << ", memory " << memory);
          check_same(told.explain(method, target, how), plain.explain(method, target, how), 1e-11);
          CHECK(told.explain(method, target, how).scores == told.explain(method, target, how).scores);
        }
        MethodOptions<double> other = how;  // not what was planned
        other.terms = Terms::all();
        other.reduction = ReductionKind::max;
        for (const Method method : {Method::raw, Method::gradient})
          check_same(told.explain(method, target, other), plain.explain(method, target, other), 1e-11);
        const Target before{3, 1, {}};
        for (const Method method : {Method::raw, Method::gradient, Method::gradient_x_input})
          check_same(told.explain(method, before, how), plain.explain(method, before, how), 1e-11);
      }
  }
}

TEST_CASE("layers are kept as far as the memory reaches", "[attribution]") {
  const std::vector<Index> ids = random_ids(50, 96);
  for (const std::string& architecture : architectures()) {
    INFO(architecture);
    const LanguageModel<double> model = random_model(architecture, 95);
    const auto kept = [&](std::size_t memory, bool mixers) {
      ForwardOptions forward;
      forward.keep = Keep::residuals;
      forward.memory = memory;
      forward.keep_mixers = mixers;
      const ForwardPass<double> pass = model.forward(ids, forward);
      std::size_t bytes = 0;
      Index layers = 0;
      for (const LayerPass<double>& layer : pass.layers) {
        CHECK(layer.residual.rows() == 50);
        layers += layer.kept() ? 1 : 0;
        bytes += layer.held_bytes();
        if (layer.kept()) CHECK((layer.kept_for == LayerReads::walk) == !mixers);
      }
      CHECK(bytes <= memory);
      return std::pair(layers, bytes);
    };
    const std::size_t large = std::size_t(1) << 30;
    CHECK(kept(0, true).first == 0);
    CHECK(kept(large, true).first == 3);
    CHECK(kept(large, false).first == 3);
    CHECK(kept(large, false).second < kept(large, true).second);
    const Index some = kept(kept(large, true).second / 2, true).first;
    CHECK(some < 3);
    ForwardOptions forward;
    forward.keep = Keep::residuals;
    forward.memory = large;
    forward.keep_mixers = false;
    const ForwardPass<double> pass = model.forward(ids, forward);
    CHECK(model.layer_pass(pass, 1).mixer().x.rows() == 50);  // run again, since it was kept for walks alone
    CHECK_THROWS_AS(pass.layers[1].mixer(), Error);

    const auto bytes_of = [](const ForwardPass<double>& of) {
      std::size_t bytes = 0;
      for (const LayerPass<double>& layer : of.layers) bytes += layer.held_bytes();
      return bytes;
    };
    forward.keep_mixers = true;
    const ForwardPass<double> whole = model.forward(ids, forward);
    forward.keep_outputs = false;
    const ForwardPass<double> for_maps = model.forward(ids, forward);
    CHECK(bytes_of(for_maps) < bytes_of(whole));
    CHECK(bytes_of(for_maps) > bytes_of(pass));
    CHECK_THROWS_AS(for_maps.layers[1].y(), Error);
    CHECK_THROWS_AS(for_maps.layers[1].out(), Error);
    CHECK(model.layer_pass(for_maps, 1).y().matrix() == whole.layers[1].y().matrix());  // run again
    CHECK(model.layer_pass(for_maps, 1, serial_executor(), true, LayerReads::maps).trace == for_maps.layers[1].trace);
    CHECK(model.layer_pass(pass, 1, serial_executor(), true, LayerReads::maps).trace != pass.layers[1].trace);
    CHECK(for_maps.layers[1].x().matrix() == whole.layers[1].x().matrix());
    CHECK(for_maps.layers[1].mixer().attention(Terms::all()).reduce({}) == whole.layers[1].mixer().attention(Terms::all()).reduce({}));

    // A layer that is run again gives its attention and its way back, and nothing of what is not read.
    const LayerPass<double> again = model.layer_pass(pass, 1, serial_executor(), true, LayerReads::maps);
    CHECK_THROWS_AS(again.y(), Error);
    CHECK(again.output.empty());
    CHECK(again.x().matrix() == whole.layers[1].x().matrix());
    CHECK(again.mixer().attention(Terms::all()).reduce({}) == whole.layers[1].mixer().attention(Terms::all()).reduce({}));
    forward.memory = 0;
    const ForwardPass<double> none = model.forward(ids, forward);
    for (const WayBack way : {WayBack::gradient, WayBack::relevance, WayBack::attention}) {
      BackwardOptions<double> back;
      back.keep_layers = false;
      back.way = way;
      const Matrix<double> d = logit_gradient(whole, 49, 3);
      CHECK(*backward(model, none, d, back).embeddings == *backward(model, whole, d, back).embeddings);
    }
  }
}

TEST_CASE("removals go on from the states before the removed token", "[attribution]") {
  const Index tokens = 90;  // positions 7, 8 and 44 are those of short texts, which run side by side
  for (const std::string& architecture : architectures()) {
    const LanguageModel<double> model = random_model(architecture, 97);
    const std::vector<Index> ids = random_ids(tokens, 98);
    Explainer<double> explainer(model, ids);
    for (const Removal removal : {Removal::zero, Removal::replace, Removal::drop})
      for (const Index position : {0, 7, 8, 44, 89}) {
        INFO(architecture << ", removal " << static_cast<int>(removal) << ", position " << position);
        MethodOptions<double> how;
        how.removal = removal;
        how.replacement = 5;
        const Target target{position, 4, Index(3)};
        const Attribution<double> came = explainer.explain(Method::leave_one_out, target, how);
        for (Index token = 0; token < tokens; ++token) {
          const double expected = explainer.value(target) - explainer.value_without(token, target, how);
          CHECK(std::abs(came.scores[token] - expected) <= 1e-11 * std::max(1.0, std::abs(explainer.value(target))));
        }
      }
  }
}

TEST_CASE("a layer is run without those after it", "[attribution]") {
  for (const std::string& architecture : architectures()) {
    const LanguageModel<double> model = random_model(architecture, 99);
    const std::vector<Index> ids = random_ids(9, 100);
    const ForwardPass<double> pass = model.forward(ids);
    for (Index layer = 0; layer < model.layer_count(); ++layer) {
      const LayerPass<double> alone = model.run_to_layer(ids, layer);
      CHECK(alone.output.matrix() == pass.layers[static_cast<std::size_t>(layer)].output.matrix());
    }
    CHECK_THROWS_AS(model.run_to_layer(ids, 3), Error);
  }
}
