// Every layer that hands a state on, a few tokens at a time as an engine decodes: what its pieces lower to, streamed, is what the whole
// sequence lowers to.
#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <layers/engine_arrays.hpp>
#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/layer_recipes.hpp>
#include <support/random.hpp>

#include <implicit_attention/attribution/contributions.hpp>
#include <implicit_attention/streaming/streaming_attention.hpp>

namespace {

using namespace implicit_attention;
using test_support::Draw;
using test_support::DrawnLayer;
using test_support::error_of;
using test_support::Recipe;
using Numbers = Matrix<double>;

void check_same(const Numbers& found, const Numbers& expected, const std::string& what) {
  INFO(what);
  REQUIRE(found.rows() == expected.rows());
  REQUIRE(found.cols() == expected.cols());
  const double largest = expected.cwiseAbs().maxCoeff<Eigen::PropagateNaN>();
  CHECK((found - expected).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() <= 1e-11 * largest);
}

template <class Layer>
typename Layer::Activations ran(const DrawnLayer& drawn, const Layer& layer, const Numbers& u, const typename Layer::State* state) {
  Trace<double> trace(false);
  RunContext<double> context;
  for (const auto& [name, numbers] : drawn.inputs)
    if (state == nullptr || (name != "h0" && name != "c0")) context.share(name, trace.constant(numbers));
  return layer.run(trace.input(Array<double>(u)), context, state).activations;
}

/// A layer that has run on a piece of a sequence, whatever its type: what is compared is compiled once for all layers.
struct Ran {
  Array<double> x;
  std::shared_ptr<const void> state;  // behind the piece
  std::function<UnifiedForm<double>(Terms)> lower;
};
struct LayerWithState {
  std::string what;
  DrawnLayer& drawn;
  Index width, channels;
  std::function<Ran(const Numbers& u, const void* state)> run;
};

template <class Layer>
LayerWithState layer_with_state(const std::string& what, DrawnLayer& drawn, const Layer& layer) {
  return {
      what, drawn, layer.width(), layer.channels(), [&drawn, &layer](const Numbers& u, const void* state) {
        const auto act =
            std::make_shared<const typename Layer::Activations>(ran(drawn, layer, u, static_cast<const typename Layer::State*>(state)));
        return Ran{act->x, std::shared_ptr<const void>(act, &act->final), [act, &layer](Terms terms) { return layer.lower(*act, terms); }};
      }};
}

/// The layer in pieces, each begun with the state that the one before it left, and the stream of what they lower to.
StreamingAttention<double> streamed(const LayerWithState& layer, const Numbers& u, std::shared_ptr<const void> state, Terms terms,
                                    Index prompt, Index window = 0) {
  StreamingAttention<double> stream(StreamingOptions{window});
  for (Index token = 0; token < u.rows();) {
    const Index count = token == 0 ? prompt : std::min(1 + token % 2, u.rows() - token);
    const Ran piece = layer.run(u.middleRows(token, count), state.get());
    stream.append(piece.lower(terms), piece.x);
    state = piece.state;
    token += count;
  }
  return stream;
}

/// Calls visit(what, drawn, layer) for every layer that hands a state on.
template <class Visit>
void each_layer_with_a_state(const Visit& visit) {
  std::uint64_t seed = 301;
  for (Recipe recipe : test_support::recipes()) {
    const std::string what = recipe.family + " " + recipe.title;
    DrawnLayer drawn(std::move(recipe), seed++);
    if (drawn.recipe.family == "retnet_parallel") continue;  // carries no state
    test_support::AllLayers::visit(*drawn.part, [&](const auto& layer) {
      using Layer = std::decay_t<decltype(layer)>;
      if constexpr (detail::CarriesState<Layer>) visit(what, drawn, layer);
    });
  }
}

/// The same by functions.
void each_of_any_type(const std::function<void(const LayerWithState&)>& visit) {
  each_layer_with_a_state(
      [&](const std::string& what, DrawnLayer& drawn, const auto& layer) { visit(layer_with_state(what, drawn, layer)); });
}

}  // namespace

TEST_CASE("every layer that hands a state on is streamed: rows, bias and carry of all tokens at once", "[streaming]") {
  int layers = 0;
  each_of_any_type([&](const LayerWithState& layer) {
    const Index tokens = 12;
    Draw& draw = layer.drawn.draw;
    const Numbers u = draw.normals<double>(tokens, layer.width);
    const Ran before = layer.run(draw.normals<double>(5, layer.width), nullptr);
    for (const std::shared_ptr<const void>& initial : {std::shared_ptr<const void>(), before.state}) {
      if (initial != nullptr && layer.drawn.recipe.family == "lfm2") continue;  // refused, see below
      const Ran act = layer.run(u, initial.get());
      for (const Terms terms : {Terms::all(), Terms::published(), Terms::recurrence(), Terms(Term::recurrence),
                                Terms::all().without(Term::normalization), Terms::all().without(Term::recurrence)}) {
        const ImplicitAttention<double> whole(act.lower(terms));
        for (const Index prompt : {1, 4}) {
          const std::string title =
              detail::message(layer.what, initial != nullptr ? ", carried in, " : ", ", terms.text(), ", prompt ", prompt);
          const StreamingAttention<double> stream = streamed(layer, u, initial, terms, prompt);
          const ImplicitAttention<double> all = stream.attention();
          check_same(all.materialize().stacked(), whole.materialize().stacked(), title);
          check_same(all.bias(), whole.bias(), title + ": bias");
          check_same(all.carry(), whole.carry(), title + ": carry");
          Selection last;
          last.rows = Indices::last();
          check_same(stream.newest_row(), whole.materialize(last).stacked(), title + ": the newest row");
          const Numbers g = draw.normals<double>(1, layer.channels);
          Numbers edges(1, tokens);
          stream.newest_edges_into(edges, g);
          Numbers gradient = Numbers::Zero(tokens, layer.channels);
          gradient.bottomRows(1) = g;
          check_same(edges, edge_map(whole, act.x, Array<double>(gradient), last), title + ": edges");
        }
      }
    }
    ++layers;
  });
  CHECK(layers >= 20);
}

TEST_CASE("behind a window, every layer's newest rows are those of all tokens at once", "[streaming]") {
  each_of_any_type([&](const LayerWithState& layer) {
    const Index tokens = 12;
    const Numbers u = layer.drawn.draw.normals<double>(tokens, layer.width);
    const ImplicitAttention<double> whole(layer.run(u, nullptr).lower(Terms::all()));
    for (const Index window : {1, 4}) {
      const StreamingAttention<double> stream = streamed(layer, u, nullptr, Terms::all(), 2, window);
      Selection last;
      last.rows = Indices::last();
      check_same(stream.newest_row(), whole.materialize(last).stacked().rightCols(window),
                 detail::message(layer.what, ", window ", window));
    }
  });
}

TEST_CASE("rows of what a layer made of all tokens, a few at a time, are streamed", "[streaming]") {
  int layers = 0;
  each_layer_with_a_state([&](const std::string& what, DrawnLayer& drawn, const auto& layer) {
    const Index tokens = 12;
    auto act = ran(drawn, layer, drawn.draw.template normals<double>(tokens, layer.width()), nullptr);
    StreamingAttention<double> stream;
    for (Index token = 0; token < tokens;) {
      const Index count = std::min(1 + token % 3, tokens - token);
      auto piece = act;  // with the beginning of what was carried in, which later pieces do not read
      engine_test::for_arrays(piece, [&](const char*, Array<double>& array) {
        if (array.rows() == tokens) array = Numbers(array.matrix().middleRows(token, count));
      });
      if constexpr (requires { piece.starts; })
        if (token > 0) piece.starts.clear();
      stream.append(layer.lower(piece), piece.x);
      token += count;
    }
    const ImplicitAttention<double> whole(layer.lower(act));
    check_same(stream.attention().materialize().stacked(), whole.materialize().stacked(), what);
    ++layers;
    if constexpr (requires { act.own_scale; }) {  // a number that the next piece completes
      Numbers scales = *act.key_scale.middle_rows(0, 1);
      scales(0, 0) = std::numeric_limits<double>::quiet_NaN();
      engine_test::for_arrays(act, [](const char*, Array<double>& array) { array = array.middle_rows(0, 1); });
      act.key_scale = scales;
      StreamingAttention<double> spoilt;
      spoilt.append(layer.lower(act));
      CHECK(spoilt.newest_row().allFinite());
      act.key_scale = act.own_scale;
      spoilt.append(layer.lower(act));
      CHECK(spoilt.newest_row().hasNaN());
    }
  });
  CHECK(layers > 20);
}

TEST_CASE("what a stream cannot know is refused: half a token that the next one writes, a convolution's tokens before it", "[streaming]") {
  bool half = false, convolved = false;
  each_layer_with_a_state([&](const std::string& what, DrawnLayer& drawn, const auto& layer) {
    INFO(what);
    using Layer = std::decay_t<decltype(layer)>;
    const Numbers u = drawn.draw.template normals<double>(3, layer.width());
    auto act = ran(drawn, layer, u, nullptr);
    if constexpr (std::is_same_v<Layer, Mamba3<double>>) {
      act.own_scale = {};  // as an engine fills it: what the one operator of these tokens needs
      act.dt = {};
      StreamingAttention<double> stream;
      stream.append(layer.lower(act), act.x);
      const auto [kind, text] = error_of([&] { stream.append(layer.lower(act), act.x); });
      CHECK(kind == ErrorKind::shape);
      CHECK_THAT(text, contains_text("activations.dt and activations.own_scale"));
      CHECK(stream.tokens() == 3);
      // Nor may a piece end in another way than those before: half of a token would be lost, or come from none.
      const auto next = ran(drawn, layer, u, &act.final);
      UnifiedForm<double> open = layer.lower(next), closed = open;
      closed.continuation.ends_open = false;
      for (UnifiedForm<double>& added : closed.more) added.continuation.ends_open = false;
      CHECK_THAT(error_of([&] { stream.append(closed, next.x); }).second,
                 contains_text("continuation.ends_open is false, expected true as in the earlier pieces"));
      StreamingAttention<double> begun_closed;
      begun_closed.append(closed, next.x);
      CHECK_THAT(error_of([&] { begun_closed.append(open, next.x); }).second,
                 contains_text("continuation.ends_open is true, expected false as in the earlier pieces"));
      half = true;
    }
    if constexpr (std::is_same_v<Layer, ShortConvolution<double>>) {
      const auto next = ran(drawn, layer, u, &act.final);
      StreamingAttention<double> stream;
      CHECK_THAT(error_of([&] { stream.append(layer.lower(next), next.x); }).second, contains_text("append the past tokens first"));
      convolved = true;
    }
  });
  CHECK(half);
  CHECK(convolved);
}
