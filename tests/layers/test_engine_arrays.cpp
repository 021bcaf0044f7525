// What an engine fills in: every array of every layer's activations missing or bent, under every set of terms. What is read is named in the
// error, what is not read changes nothing, and no operator is made of an array that does not fit.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
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

#include <implicit_attention/layers/latent_attention.hpp>
#include <implicit_attention/layers/softmax_attention.hpp>

namespace {

using namespace implicit_attention;
using engine_test::EngineActivations;
using engine_test::EngineActivationsOf;
using engine_test::Numbers;
using engine_test::sets_of_terms;
using test_support::Draw;
using test_support::Recipe;

/// What may have happened to an array between an engine and us. No layer here has as many channels or keys as tokens.
struct Bend {
  const char* name;
  Numbers (*of)(const Numbers& numbers);
};
const std::vector<Bend> bends = {
    {"missing", [](const Numbers&) { return Numbers(); }},
    {"a row short", [](const Numbers& n) { return Numbers(n.topRows(n.rows() - 1)); }},
    {"a row too many", [](const Numbers& n) { return Numbers(n.replicate(2, 1).topRows(n.rows() + 1)); }},
    {"a column short", [](const Numbers& n) { return Numbers(n.leftCols(n.cols() - 1)); }},
    {"a column too many", [](const Numbers& n) { return Numbers(n.replicate(1, 2).leftCols(n.cols() + 1)); }},
    {"one row", [](const Numbers& n) { return Numbers(n.topRows(1)); }},
    {"twice as wide", [](const Numbers& n) { return Numbers(n.replicate(1, 2)); }},
    {"one column", [](const Numbers& n) { return Numbers(n.leftCols(1)); }},
    {"turned", [](const Numbers& n) { return Numbers(n.transpose()); }},
};

/// Everything that a form gives: its matrices, bias and carry below each other.
Numbers everything(const ImplicitAttention<double>& attention) {
  std::vector<Numbers> parts{attention.materialize().stacked(), attention.bias(), attention.carry()};
  if (attention.has_second()) {
    parts.push_back(attention.second().materialize().stacked());
    parts.push_back(attention.second_input().matrix());
  }
  Index rows = 0, columns = 0;
  for (const Numbers& part : parts) rows += part.rows(), columns = std::max(columns, part.cols());
  Numbers all = Numbers::Zero(rows, columns);
  rows = 0;
  for (const Numbers& part : parts) {
    all.block(rows, 0, part.rows(), part.cols()) = part;
    rows += part.rows();
  }
  return all;
}
template <class Layer>
Numbers everything(const Layer& layer, const typename Layer::Activations& act, Terms terms) {
  return everything(implicit_attention_of(layer, act, terms));
}

/// One array is bent: under each set of terms an error names it, or all is as it was. How often it was named.
int check_bent(const EngineActivations& bent, const std::string& name, const std::vector<Numbers>& right) {
  const std::vector<Terms> sets = sets_of_terms();
  int named = 0;
  for (std::size_t set = 0; set < sets.size(); ++set) {
    INFO(sets[set].text());
    Numbers numbers;
    std::string text;
    try {
      numbers = everything(bent.attention(sets[set]));
    } catch (const Error& error) {
      text = error.what();
    }
    if (text.empty()) {
      const bool as_it_was = numbers.rows() == right[set].rows() && numbers.cols() == right[set].cols() &&
                             (numbers - right[set]).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() <=
                                 1e-12 * right[set].cwiseAbs().maxCoeff<Eigen::PropagateNaN>();
      CHECK(as_it_was);
    } else {
      CHECK_THAT(text, contains_text("activations." + name));
      ++named;
    }
  }
  return named;
}

void check_activations(const std::string& title, const EngineActivations& act) {
  std::vector<Numbers> right;
  for (const Terms terms : sets_of_terms()) right.push_back(everything(act.attention(terms)));
  int all_named = 0, filled = 0;
  const std::unique_ptr<EngineActivations> counted = act.copy();
  const std::size_t arrays = counted->arrays().size(), states = counted->states().size();
  for (const auto& [name, numbers] : counted->states()) filled += numbers->size() != 0;
  // The k-th array of a copy, bent; then those of its state.
  for (std::size_t k = 0; k < arrays; ++k)
    for (const Bend& bend : bends) {
      const std::unique_ptr<EngineActivations> copy = act.copy();
      const auto [name, array] = copy->arrays()[k];
      if (array->empty()) continue;
      Numbers bent = bend.of(**array);
      if (bent.rows() == array->rows() && bent.cols() == array->cols()) continue;
      *array = bent.size() == 0 ? Array<double>() : Array<double>(std::move(bent));
      INFO(title << ": " << name << ", " << bend.name);
      all_named += check_bent(*copy, name, right);
    }
  for (std::size_t k = 0; k < states; ++k)
    for (const Bend& bend : bends) {
      const std::unique_ptr<EngineActivations> copy = act.copy();
      const auto [name, numbers] = copy->states()[k];
      if (numbers->size() == 0) continue;
      Numbers bent = bend.of(*numbers);
      if (bent.rows() == numbers->rows() && bent.cols() == numbers->cols()) continue;
      if (bent.size() == 0 && filled == 1) continue;  // no state is none that was forgotten
      *numbers = std::move(bent);
      INFO(title << ": " << name << ", " << bend.name);
      all_named += check_bent(*copy, name, right);
    }
  CHECK(all_named > 0);
}

template <class Layer>
void check_layer(const std::string& title, const Layer& layer, Index tokens, bool carries = true) {
  Draw draw(5);
  const Numbers u = draw.normals<double>(tokens, layer.width());
  check_activations(title, EngineActivationsOf<Layer>(layer, layer.activations(u)));
  if constexpr (requires(typename Layer::Activations act) { act.initial; })
    if (carries) {
      const typename Layer::State state = layer.activations(draw.normals<double>(tokens, layer.width())).final;
      check_activations(title + " from a state", EngineActivationsOf<Layer>(layer, layer.activations(u, &state)));
    }
}

/// Calls visit(recipe, draw, configuration, tensors) for every recipe with its tensors drawn. Seeds begin with `seed`, `step` apart.
using VisitRecipe = std::function<void(const Recipe&, Draw&, const Configuration&, const PrefixedTensors<double>&)>;
void for_each_recipe(std::uint64_t seed, std::uint64_t step, const VisitRecipe& visit) {
  for (const Recipe& recipe : test_support::recipes()) {
    Draw draw(seed);
    seed += step;
    const test_support::Tensors<double> tensors = test_support::drawn_tensors(recipe, draw);
    visit(recipe, draw, test_support::configuration_of(recipe), PrefixedTensors<double>(tensors, ""));
  }
}

}  // namespace

TEST_CASE("an array that an engine forgets or bends is named, and nothing is made of it", "[engine]") {
  for_each_recipe(101, 1, [&](const Recipe& recipe, Draw&, const Configuration& configuration, const PrefixedTensors<double>& from) {
    INFO(recipe.family << " " << recipe.title);
    PartPointer<double> part;
    for (const LayerFamily<double>& family : layer_families<double>())
      if (family.name == recipe.family) part = family.read(from, configuration);
    REQUIRE(part != nullptr);
    // A parallel RetNet carries no state.
    CHECK(test_support::AllLayers::visit(*part, [&](const auto& layer) {
      check_layer(recipe.family + " " + recipe.title, layer, recipe.tokens, recipe.family != "retnet_parallel");
    }));
  });
  Draw draw(9);
  check_layer("softmax attention, window and gate", engine_test::windowed_attention(draw), 7);
  LatentAttention<double>::Weights l;
  l.q_proj_weight = draw.normals<double>(10, 6);
  l.kv_a_proj_with_mqa_weight = draw.normals<double>(6, 6);
  l.kv_a_layernorm_weight = draw.normals<double>(1, 4);
  l.kv_b_proj_weight = draw.normals<double>(14, 4);
  l.o_proj_weight = draw.normals<double>(6, 8);
  LatentAttention<double>::Options of_latent;
  of_latent.heads = 2;
  check_layer("latent attention", LatentAttention<double>(l, of_latent), 7);
}

namespace {

/// What a host leaves beside new sources: the array `derived` is made again, or named as made from another `source`.
template <class Layer, class Derived, class Source>
void check_stale(const std::string& title, Index tokens, const Layer& layer, const char* name, Derived Layer::Activations::*derived,
                 Source Layer::Activations::*source, bool made_again) {
  INFO(title << ": " << name);
  Draw draw(5);
  const auto act = layer.activations(draw.normals<double>(tokens, layer.width()));
  const Numbers right = everything(layer, act, Terms::all());
  typename Layer::Activations changed = act;
  changed.*source = Array<double>(Numbers((*(act.*source)) * 0.75));
  if (made_again) {
    typename Layer::Activations without = changed;
    without.*derived = {};
    const Numbers expected = everything(layer, without, Terms::all());
    CHECK(expected != right);
    CHECK(everything(layer, changed, Terms::all()) == expected);
  } else {
    CHECK_THAT(test_support::error_of([&] { (void)everything(layer, changed, Terms::all()); }).second,
               contains_text(std::string("activations.") + name + " was made from another activations."));
  }
  changed = act;
  changed.*source = {};  // one that is no longer there is no newer one, but may be needed itself
  try {
    const Numbers numbers = everything(layer, changed, Terms::all());
    CHECK(numbers == right);
  } catch (const Error& error) {
    CHECK_THAT(error.what(), contains_text("is empty"));
  }
  changed = act;
  changed.*derived = Array<double>(Numbers(*(act.*derived)));  // a host's own is taken as it is
  CHECK(everything(layer, changed, Terms::all()) == right);
}

}  // namespace

TEST_CASE("an array that was made from others than those beside it is made again or named", "[engine]") {
  int checked = 0;
  for_each_recipe(3, 0, [&](const Recipe& recipe, Draw&, const Configuration& configuration, const PrefixedTensors<double>& from) {
    const std::string& title = recipe.family;
#define IMPLICIT_ATTENTION_TEST_STALE(derived, source, made_again)                                         \
  ++checked;                                                                                               \
  check_stale(title, recipe.tokens, layer, #derived, &std::decay_t<decltype(layer)>::Activations::derived, \
              &std::decay_t<decltype(layer)>::Activations::source, made_again)
    if (title == "mamba") {
      const auto layer = detail::read_mamba(from, configuration);
      IMPLICIT_ATTENTION_TEST_STALE(c, x, true);
    }
    if (title == "mamba2") {
      const auto layer = detail::read_mamba2(from, configuration);
      IMPLICIT_ATTENTION_TEST_STALE(c, x, false);
    }
    if (title == "gdn") {
      const auto layer = detail::read_gated_delta_net(from, configuration);
      IMPLICIT_ATTENTION_TEST_STALE(c, x, true);
    }
    if (title == "gla") {
      const auto layer = detail::read_gla(from, configuration);
      IMPLICIT_ATTENTION_TEST_STALE(c, x, true);
    }
    if (title == "griffin") {
      const auto layer = Griffin<double>::from_tensors(from);
      IMPLICIT_ATTENTION_TEST_STALE(log_a, recurrent_gate, true);
      IMPLICIT_ATTENTION_TEST_STALE(normalizer, log_a, true);
    }
    if (title == "linear_attention") {
      const auto layer = detail::read_linear_attention<double>(configuration);
      IMPLICIT_ATTENTION_TEST_STALE(normalizer, key, false);
    }
    if (title == "mlla") {
      const auto layer = detail::read_mlla(from, configuration);
      IMPLICIT_ATTENTION_TEST_STALE(c, x, false);
      IMPLICIT_ATTENTION_TEST_STALE(normalizer, query, false);
    }
    if (title == "mlstm") {
      const auto layer = detail::read_mlstm(from, configuration);
      IMPLICIT_ATTENTION_TEST_STALE(c, m, false);
    }
    if (title == "mamba3") {
      const auto layer = detail::read_mamba3(from, configuration);
      IMPLICIT_ATTENTION_TEST_STALE(log_decay, dt, false);
      IMPLICIT_ATTENTION_TEST_STALE(key_scale, trap, false);
    }
#undef IMPLICIT_ATTENTION_TEST_STALE
  });
  CHECK(checked >= 12);
}

TEST_CASE("an array that was made from another state, or other documents, is made again", "[engine]") {
  int checked = 0;
  for_each_recipe(3, 0, [&](const Recipe& recipe, Draw& draw, const Configuration& configuration, const PrefixedTensors<double>& from) {
    INFO(recipe.family << " " << recipe.title);
    const auto of_state = [&](const auto& layer) {
      const Numbers u = draw.normals<double>(recipe.tokens, layer.width());
      const auto state = layer.activations(draw.normals<double>(recipe.tokens, layer.width())).final;
      if (state.convolution_tail.size() == 0) return;
      auto act = layer.activations(u);
      act.initial = state;
      auto without = act;
      without.c = {};
      const Terms terms = Terms::all().without(Term::normalization);  // whose norm an engine has run itself
      CHECK(everything(layer, act, terms) == everything(layer, without, terms));
      ++checked;
    };
    if (recipe.family == "rwkv4") {
      const auto layer = Rwkv4<double>::from_tensors(from);
      const Numbers u = draw.normals<double>(recipe.tokens, layer.width());
      auto state = layer.activations(u).final;
      auto act = layer.activations(u, &state);
      for (Numbers Rwkv4<double>::State::*part : {&Rwkv4<double>::State::denominator, &Rwkv4<double>::State::exponent}) {
        act.initial = state;
        (act.initial.*part).array() += 0.5;
        auto without = act;
        without.weighting = {};
        CHECK(everything(layer, act, Terms::all()) == everything(layer, without, Terms::all()));
      }
      ++checked;
    }
    if (recipe.family == "mamba") of_state(detail::read_mamba(from, configuration));
    if (recipe.family == "gdn") of_state(detail::read_gated_delta_net(from, configuration));
    if (recipe.family != "griffin") return;
    const auto layer = Griffin<double>::from_tensors(from);
    auto act = layer.activations(draw.normals<double>(recipe.tokens, layer.width()));
    act.starts = {0, recipe.tokens / 2};
    auto without = act;
    without.normalizer = {};
    CHECK(everything(layer, act, Terms::all()) == everything(layer, without, Terms::all()));
    ++checked;
  });
  CHECK(checked >= 4);
}

TEST_CASE("Mamba-3 takes an array of each rank, or pair of ranks, and not one more", "[engine]") {
  int checked = 0;
  for_each_recipe(3, 0, [&](const Recipe& recipe, Draw& draw, const Configuration& configuration, const PrefixedTensors<double>& from) {
    if (recipe.family != "mamba3") return;
    const auto layer = detail::read_mamba3(from, configuration);
    const auto ran = layer.activations(draw.normals<double>(recipe.tokens, layer.width()));
    using A = Mamba3<double>::Activations;
    for (const auto& [name, arrays] : {std::pair{"query", &A::query}, {"key", &A::key}, {"diagonal", &A::diagonal}, {"o", &A::o}}) {
      if ((ran.*arrays).empty() || (arrays == &A::o && layer.weights().norm_weight.empty())) continue;
      for (const bool more : {false, true}) {
        A act = ran;
        if (more) (act.*arrays).push_back((ran.*arrays).front());
        if (!more) (act.*arrays).pop_back();
        INFO(recipe.title << " " << name);
        CHECK_THROWS_WITH(layer.implicit_attention(act),
                          contains_text(detail::message("Mamba-3: activations.", name, more ? " has " : " is empty")));
        ++checked;
      }
    }
  });
  CHECK(checked >= 14);
}

TEST_CASE("arrays that the terms do not read may be of any length", "[engine]") {
  int checked = 0;
  for_each_recipe(3, 0, [&](const Recipe& recipe, Draw& draw, const Configuration& configuration, const PrefixedTensors<double>& from) {
    const auto check = [&](const auto& layer, const auto& shorten) {
      auto act = layer.activations(draw.normals<double>(7, layer.width()));
      const Numbers right = everything(layer, act, Terms(Term::recurrence));
      shorten(act);
      CHECK(everything(layer, act, Terms(Term::recurrence)) == right);
      ++checked;
    };
    const auto three = [](Array<double>& array) { array = array.middle_rows(0, 3); };
    if (recipe.family == "mamba")
      check(detail::read_mamba(from, configuration), [&](auto& act) {
        for (Array<double>* array : {&act.z, &act.c, &act.x, &act.a}) three(*array);
      });
    if (recipe.family == "rwkv4")
      check(Rwkv4<double>::from_tensors(from), [&](auto& act) {
        three(act.x);  // of two the one that is read would be named
      });
  });
  CHECK(checked >= 2);
}

TEST_CASE("activations that nobody filled are no sequence of no tokens, whatever the terms read", "[engine]") {
  for_each_recipe(3, 0, [&](const Recipe& recipe, Draw&, const Configuration& configuration, const PrefixedTensors<double>& from) {
    PartPointer<double> part;
    for (const LayerFamily<double>& family : layer_families<double>())
      if (family.name == recipe.family) part = family.read(from, configuration);
    REQUIRE(part != nullptr);
    const auto check = [&](const EngineActivations& nothing) {
      for (const Terms terms : sets_of_terms()) {
        INFO(recipe.family << " " << recipe.title << ", " << terms.text());
        CHECK(test_support::error_of([&] { (void)everything(nothing.attention(terms)); }).first == ErrorKind::shape);
      }
    };
    test_support::AllLayers::visit(*part, [&](const auto& layer) { check(EngineActivationsOf<std::decay_t<decltype(layer)>>(layer, {})); });
  });
}

TEST_CASE("the bonus of RWKV-6 and RWKV-7 is that of the key beside it", "[engine]") {
  int checked = 0;
  for_each_recipe(3, 0, [&](const Recipe& recipe, Draw& draw, const Configuration& configuration, const PrefixedTensors<double>& from) {
    const auto check = [&](const auto& layer) {
      auto act = layer.activations(draw.normals<double>(7, layer.width()));
      act.key = Array<double>(Numbers(*act.key * 0.75));
      auto without = act;
      without.bonus = {};
      const Terms terms = Terms::all().without(Term::normalization);
      CHECK(everything(layer, act, terms) == everything(layer, without, terms));
      act.bonus = Array<double>(Numbers(*act.bonus));  // a host's own is taken as it is
      CHECK(everything(layer, act, terms) != everything(layer, without, terms));
      ++checked;
    };
    if (recipe.family == "rwkv6") check(detail::read_rwkv6<double>(from, configuration));
    if (recipe.family == "rwkv7") check(detail::read_rwkv7<double>(from, configuration));
  });
  CHECK(checked >= 2);
}

TEST_CASE("notes of what an array was made from tell another source from the same one", "[engine]") {
  std::vector<double> memory;
  for (int i = 0; i < 40; ++i) memory.push_back(i);
  const Array<double> made = Numbers(Numbers::Ones(2, 2)), view = Array<double>::view(ConstView<double>(memory.data(), 3, 4, 4)),
                      same = Array<double>::view(ConstView<double>(memory.data(), 3, 4, 4)),
                      other_rows = Array<double>::view(ConstView<double>(memory.data(), 3, 4, 8)),
                      fewer = Array<double>::view(ConstView<double>(memory.data(), 2, 4, 4));
  Numbers carried = Numbers::Ones(2, 3);
  carried(1, 1) = std::nan("");
  const MadeFrom<double> note(made, {{"view", &view}}, carried);
  CHECK(note.newer(made, {{"view", &same}}, carried).empty());
  CHECK(note.newer(made, {{"view", &other_rows}}, carried) == "view");
  CHECK(note.newer(made, {{"view", &fewer}}, carried) == "view");
  CHECK(note.newer(made, {{"view", &same}}, Numbers(Numbers::Ones(2, 3)), "state") == "state");
  CHECK(note.newer(view, {{"view", &fewer}}, carried).empty());  // another array than the one that is noted
  Array<double> owned = Numbers(*view);
  const MadeFrom<double> of_owned(made, {{"owned", &owned}});
  const Array<double> copy = Numbers(*owned);
  CHECK(of_owned.newer(made, {{"owned", &copy}}).empty());  // its numbers are as good
  owned = {};
  CHECK(of_owned.newer(made, {{"owned", &copy}}) == "owned");  // nothing is left to be compared with
}
