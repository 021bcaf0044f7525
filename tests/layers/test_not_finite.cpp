// A NaN of an engine in every array of every layer: all ways to the operator say the same of it. An entry that depends on it is NaN, every
// other is what it was, and every row before the token is that to the last bit. And of each array some entry depends, but for those listed.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <layers/engine_arrays.hpp>
#include <support/catch.hpp>
#include <support/layer_recipes.hpp>
#include <support/random.hpp>
#include <support/reductions.hpp>

#include <implicit_attention/layers/softmax_attention.hpp>

namespace {

using namespace implicit_attention;
using engine_test::EngineActivations;
using engine_test::EngineActivationsOf;
using engine_test::Numbers;
using test_support::Draw;
using test_support::Recipe;

/// How many entries of `found` are not what they must be: not finite where `spoilt` says so, else near `right`.
template <class IsSpoilt>
int wrong_entries(const Numbers& found, const Numbers& right, const IsSpoilt& spoilt) {
  int wrong = 0;
  const double near_zero = 1e-9 * std::max(1.0, right.array().isFinite().select(right.cwiseAbs().array(), 0.0).maxCoeff());
  for (Index i = 0; i < found.rows(); ++i)
    for (Index j = 0; j < found.cols(); ++j)
      wrong += spoilt(i, j) ? std::isfinite(found(i, j)) : !(std::abs(found(i, j) - right(i, j)) <= near_zero);
  return wrong;
}

/// Compares all ways with the full map of `attention`, and that with the map of the clean one. How many entries are not finite.
Index check_ways(const ImplicitAttention<double>& attention, const ImplicitAttention<double>& clean, Index token) {
  const Index T = attention.tokens(), E = attention.channels();
  const auto map = attention.materialize();
  const Numbers all = map.stacked(), before = clean.materialize().stacked();
  const auto is_bad = [&](Index e, Index i, Index j) { return !std::isfinite(all(e * T + i, j)); };
  // Nothing else is touched.
  CHECK(wrong_entries(all, before, [&](Index row, Index j) { return !std::isfinite(all(row, j)); }) == 0);
  if (attention.causal()) {
    int early = 0;
    for (Index e = 0; e < E; ++e)
      for (Index i = 0; i < std::min(token, T); ++i)
        for (Index j = 0; j < T; ++j) early += is_bad(e, i, j);
    CHECK(early == 0);
  }
  // A row at a time, and rows together.
  int rows_wrong = 0;
  for (Index i = 0; i < T; ++i) {
    Selection one;
    one.rows = std::vector<Index>{i};
    const Numbers row = attention.materialize(one).stacked();
    Numbers right(E, T);
    for (Index e = 0; e < E; ++e) right.row(e) = all.row(e * T + i);
    rows_wrong += wrong_entries(row, right, [&](Index e, Index j) { return is_bad(e, i, j); });
  }
  CHECK(rows_wrong == 0);
  // Reductions, whole, by rows, and with weights.
  Draw draw(77);
  const Numbers row_weights = draw.normals<double>(T, E), column_weights = draw.normals<double>(T, E);
  for (const ReductionKind kind :
       {ReductionKind::mean, ReductionKind::mean_abs, ReductionKind::mean_positive, ReductionKind::max, ReductionKind::min})
    for (const bool weighted : {false, true}) {
      Reduction<double> reduction;
      reduction.kind = kind;
      if (weighted) {
        reduction.row_weights = row_weights;
        reduction.column_weights = column_weights;
      }
      Numbers right = Numbers::Zero(T, T);
      std::vector<std::vector<bool>> bad(static_cast<std::size_t>(T), std::vector<bool>(static_cast<std::size_t>(T)));
      for (Index i = 0; i < T; ++i)
        for (Index j = 0; j < T; ++j) {
          std::vector<double> values;
          for (Index e = 0; e < E; ++e) {
            const double weight = weighted ? row_weights(i, e) * column_weights(j, e) : 1;
            if (is_bad(e, i, j))
              bad[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] = true;
            else
              values.push_back(weight * all(e * T + i, j));
          }
          if (!bad[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)])
            right(i, j) = test_support::reduced_by_definition(kind, values);
        }
      INFO("reduction " << static_cast<int>(kind) << (weighted ? ", weighted" : ""));
      const auto is_spoilt = [&](Index i, Index j) { return bad[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)]; };
      CHECK(wrong_entries(attention.reduce(reduction), right, is_spoilt) == 0);
      int wrong = 0;
      for (const Index i : {Index(0), token, T - 1}) {
        Selection one;
        one.rows = std::vector<Index>{i};
        wrong += wrong_entries(attention.reduce(reduction, one), Numbers(right.row(i)), [&](Index, Index j) { return is_spoilt(i, j); });
      }
      CHECK(wrong == 0);
    }
  // The matrices of heads, by rows as whole.
  if (attention.heads() > 0)
    for (Index summand = 0; summand < attention.summands(); ++summand) {
      const Numbers maps = attention.head_maps({}, summand).stacked(), clean_maps = clean.head_maps({}, summand).stacked();
      CHECK(wrong_entries(maps, clean_maps, [&](Index row, Index j) { return !std::isfinite(maps(row, j)); }) == 0);
      int wrong = 0;
      for (Index i = 0; i < T; ++i) {
        Selection one;
        one.rows = std::vector<Index>{i};
        const Numbers row = attention.head_maps(one, summand).stacked();
        for (Index h = 0; h < attention.heads(); ++h)
          wrong += wrong_entries(Numbers(row.row(h)), Numbers(maps.row(h * T + i)),
                                 [&](Index, Index j) { return !std::isfinite(maps(h * T + i, j)); });
      }
      CHECK(wrong == 0);
    }
  // Applications to numbers that are finite and not 0.
  const Numbers x = draw.uniforms<double>(T, E, 0.5, 1.5);
  Numbers forward = Numbers::Zero(T, E), transposed = Numbers::Zero(T, E);
  std::vector<std::vector<bool>> bad_out(static_cast<std::size_t>(T), std::vector<bool>(static_cast<std::size_t>(E))), bad_in = bad_out;
  for (Index e = 0; e < E; ++e)
    for (Index i = 0; i < T; ++i)
      for (Index j = 0; j < T; ++j) {
        if (is_bad(e, i, j)) {
          bad_out[static_cast<std::size_t>(i)][static_cast<std::size_t>(e)] = true;
          bad_in[static_cast<std::size_t>(j)][static_cast<std::size_t>(e)] = true;
          continue;
        }
        forward(i, e) += all(e * T + i, j) * x(j, e);
        transposed(j, e) += all(e * T + i, j) * x(i, e);
      }
  CHECK(wrong_entries(attention.apply(x), forward,
                      [&](Index i, Index e) { return bad_out[static_cast<std::size_t>(i)][static_cast<std::size_t>(e)]; }) == 0);
  CHECK(wrong_entries(attention.apply_transpose(x), transposed,
                      [&](Index j, Index e) { return bad_in[static_cast<std::size_t>(j)][static_cast<std::size_t>(e)]; }) == 0);
  return all.size() - all.array().isFinite().cast<Index>().sum();
}

/// At which tokens an array has no part in the operator of all terms.
enum class Without { all, first, last, first_and_last };
struct Exemption {
  std::vector<std::string> layers;  // a family, or one layer by its title
  std::vector<std::string> arrays;
  Without tokens;
};
const std::vector<Exemption>& exemptions() {
  static const std::vector<Exemption> all{
      // What the operator is applied to, where no activation or norm makes a term of it.
      {{"gru", "hyena", "griffin", "hgrn2", "lfm2", "linear_attention", "lstm", "mamba3", "mlstm", "mlstm_large", "retnet no gate",
        "retnet_parallel", "rwkv4", "rwkv5", "rwkv6", "rwkv7", "s4d", "softmax", "vim"},
       {"x"},
       Without::all},
      {{"mlstm", "mlstm_large", "rwkv5", "rwkv6", "rwkv7"}, {"value"}, Without::all},
      {{"griffin", "hgrn2", "hyena", "mlstm", "retnet no gate", "retnet_parallel"}, {"c"}, Without::all},
      // The second path of the form, on the values as they are.
      {{"rwkv7"}, {"bonus", "own_value"}, Without::all},
      // Another array is read in its place: c, write, cell_output, weighting.step.
      {{"mamba", "mamba2", "vim"}, {"a", "a 2"}, Without::all},
      {{"mlstm", "mlstm_large"}, {"input_gate"}, Without::all},
      {{"lstm"}, {"cell"}, Without::all},
      {{"rwkv4"}, {"weighting.exponent"}, Without::all},
      // Before the first token there is nothing that could decay, be removed or be read.
      {{"gdn", "gla", "gru", "hgrn", "hgrn2", "kda", "lstm", "mamba3", "rwkv7"}, {"log_decay"}, Without::first},
      {{"griffin"}, {"log_a", "recurrent_gate"}, Without::first},
      {{"rwkv7"}, {"probe", "removal"}, Without::first},
      {{"rwkv4"}, {"weighting.query_scale"}, Without::first},
      // What the last token writes for later ones is read by none: its own entry has a scale of its own.
      {{"mamba3"}, {"key_scale"}, Without::last},
      {{"mamba3"}, {"own_scale"}, Without::all},  // of the last token, for a stream
      {{"rwkv4"}, {"weighting.key_scale"}, Without::last},
      // Decays what was written before the token for those behind it.
      {{"rwkv4"}, {"weighting.step"}, Without::first_and_last},
      {{"rwkv6"}, {"log_decay"}, Without::first_and_last}};
  return all;
}
bool has_no_part(const std::string& layer, const std::string& array, Index token, Index tokens) {
  const auto names = [](const std::vector<std::string>& list, const std::string& name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  return std::any_of(exemptions().begin(), exemptions().end(), [&](const Exemption& one) {
    const bool first = token == 0 && (one.tokens == Without::first || one.tokens == Without::first_and_last);
    const bool last = token == tokens - 1 && (one.tokens == Without::last || one.tokens == Without::first_and_last);
    return (names(one.layers, layer) || names(one.layers, layer.substr(0, layer.find(' ')))) && names(one.arrays, array) &&
           (one.tokens == Without::all || first || last);
  });
}

/// Calls body(name, token, spoilt activations) with `wrong` in each array of a layer's activations at each of the tokens.
void for_spoilt_arrays(const EngineActivations& act, Index tokens, const std::vector<Index>& places, double wrong,
                       const std::function<void(const std::string&, Index, const EngineActivations&)>& body) {
  const std::size_t count = act.copy()->arrays().size();
  for (std::size_t k = 0; k < count; ++k)
    for (const Index token : places) {
      const std::unique_ptr<EngineActivations> spoilt = act.copy();
      const auto arrays = spoilt->arrays();
      std::string name = arrays[k].first;
      Array<double>& array = *arrays[k].second;
      if (array.empty() || array.rows() != tokens) continue;
      Numbers numbers = *array;
      numbers(token, array.cols() / 2) = wrong;
      array = std::move(numbers);
      int times = 1;  // of a second direction or rank: `x 2`
      for (std::size_t before = 0; before < k; ++before) times += arrays[before].first == name;
      if (times > 1) name += " " + std::to_string(times);
      body(name, token, *spoilt);
    }
}

/// What is said where a layer refuses activations: an array that others were made from may be held against them.
std::string refusal(const EngineActivations& act, Terms terms) {
  try {
    static_cast<void>(act.attention(terms));
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

int check_activations(const std::string& title, const EngineActivations& act, Index tokens, const std::vector<Index>& places,
                      const std::vector<Terms>& sets) {
  int read = 0;
  for_spoilt_arrays(act, tokens, places, std::numeric_limits<double>::quiet_NaN(),
                    [&](const std::string& name, Index token, const EngineActivations& spoilt) {
                      for (const Terms terms : sets) {
                        INFO(title << ": " << name << " at token " << token << " of " << tokens << ", terms " << terms.text());
                        if (const std::string refused = refusal(spoilt, terms); !refused.empty()) {
                          CHECK_THAT(refused, contains_text("activations."));
                          continue;
                        }
                        const Index not_finite = check_ways(spoilt.attention(terms), act.attention(terms), token);
                        if (terms == Terms::all()) CHECK((not_finite == 0) == has_no_part(title, name, token, tokens));
                        ++read;
                      }
                    });
  return read;
}

/// Linear attention's arrays are views of the input.
Numbers input_of(Index tokens, Index width) { return Draw(5).normals<double>(tokens, width); }

template <class Layer>
int check_layer(const std::string& title, const Layer& layer, Index tokens, const std::vector<Index>& places,
                const std::vector<Terms>& sets) {
  const Numbers u = input_of(tokens, layer.width());
  return check_activations(title, EngineActivationsOf<Layer>(layer, layer.activations(u)), tokens, places, sets);
}

/// What the layers' own functions make a number of: a decay of zero, a weight of zero, a gate that is open or shut.
bool takes_infinity(const std::string& layer, const std::string& array, double wrong) {
  struct Taken {
    std::vector<std::string> layers;  // none: all
    std::string array;
    bool positive, negative;
  };
  static const std::vector<Taken> all{{{}, "log_decay", false, true},
                                      {{"griffin"}, "log_a", false, true},
                                      {{"griffin"}, "recurrent_gate", true, false},
                                      {{"mamba", "mamba2", "vim"}, "dt", true, false},
                                      {{"vim"}, "dt 2", true, false},
                                      {{"rwkv4"}, "key", false, true},
                                      {{"rwkv4"}, "weighting.step", false, true},
                                      {{"rwkv4"}, "receptance", true, true},
                                      {{"kda"}, "z", true, true},
                                      {{"mlstm_large", "softmax"}, "gate_input", true, true}};
  const std::string family = layer.substr(0, layer.find(' '));
  return std::any_of(all.begin(), all.end(), [&](const Taken& one) {
    return one.array == array && (wrong > 0 ? one.positive : one.negative) &&
           (one.layers.empty() || std::find(one.layers.begin(), one.layers.end(), family) != one.layers.end());
  });
}

/// An infinity spoils every entry that a NaN would, and all ways say the same of it.
int check_activations_infinite(const std::string& title, const EngineActivations& act, Index tokens, Index token) {
  int read = 0;
  std::vector<Numbers> with_nan;
  for_spoilt_arrays(act, tokens, {token}, std::numeric_limits<double>::quiet_NaN(),
                    [&](const std::string&, Index, const EngineActivations& spoilt) {
                      with_nan.emplace_back();
                      if (refusal(spoilt, Terms::all()).empty()) with_nan.back() = spoilt.attention(Terms::all()).materialize().stacked();
                    });
  for (const double wrong : {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()}) {
    std::size_t array = 0;
    for_spoilt_arrays(act, tokens, {token}, wrong, [&](const std::string& name, Index, const EngineActivations& spoilt) {
      const Numbers& nan = with_nan[array++];
      INFO(title << ": " << name << " is " << wrong << " at token " << token << " of " << tokens);
      if (nan.size() == 0) {
        CHECK_FALSE(refusal(spoilt, Terms::all()).empty());
        return;
      }
      const ImplicitAttention<double> attention = spoilt.attention(Terms::all());
      const Numbers found = attention.materialize().stacked();
      int hidden = 0;
      for (Index i = 0; i < found.rows(); ++i)
        for (Index j = 0; j < found.cols(); ++j) hidden += std::isfinite(found(i, j)) && !std::isfinite(nan(i, j));
      const bool taken = takes_infinity(title, name, wrong);
      CHECK((hidden == 0 || taken));
      check_ways(attention, taken ? attention : act.attention(Terms::all()), token);
      ++read;
    });
  }
  return read;
}

/// How many of the chosen rows' entries before `token` are not the same bits; `numbers` has `rows` for each of some channels or heads.
int changed_entries(const Numbers& spoilt, const Numbers& clean, const std::vector<Index>& rows, Index token) {
  int changed = 0;
  for (Index i = 0; i < clean.rows(); ++i)
    if (rows[static_cast<std::size_t>(i) % rows.size()] < token)
      for (Index j = 0; j < clean.cols(); ++j) changed += spoilt(i, j) != clean(i, j);
  return changed;
}

/// Compares all ways to rows before `token`, bit for bit.
void check_untouched(const ImplicitAttention<double>& spoilt, const ImplicitAttention<double>& clean, Index token) {
  const Index T = clean.tokens(), E = clean.channels();
  std::vector<Index> every(static_cast<std::size_t>(T)), some;
  for (Index i = 0; i < T; ++i) every[static_cast<std::size_t>(i)] = i;
  for (Index i = 0; i < T; i += 3) some.push_back(i);
  Draw draw(3);
  const Numbers x = draw.normals<double>(T, E), weights = draw.normals<double>(T, E);
  for (const std::vector<Index>& rows : {every, some, {token - 1}, {token / 2, T - 1}}) {
    INFO(rows.size() << " rows");
    Selection selection;
    selection.rows = rows;
    CHECK(changed_entries(spoilt.materialize(selection).stacked(), clean.materialize(selection).stacked(), rows, token) == 0);
    for (const ReductionKind kind :
         {ReductionKind::mean, ReductionKind::mean_abs, ReductionKind::mean_positive, ReductionKind::max, ReductionKind::min}) {
      if (rows.size() == 2 && kind != ReductionKind::mean) continue;  // rows by themselves
      INFO("reduction " << static_cast<int>(kind));
      Reduction<double> reduction;
      reduction.kind = kind;
      if (rows.size() == some.size()) reduction.row_weights = reduction.column_weights = weights;
      CHECK(changed_entries(spoilt.reduce(reduction, selection), clean.reduce(reduction, selection), rows, token) == 0);
    }
    for (Index summand = 0; clean.heads() > 0 && summand < clean.summands(); ++summand)
      CHECK(changed_entries(spoilt.head_maps(selection, summand).stacked(), clean.head_maps(selection, summand).stacked(), rows, token) ==
            0);
  }
  CHECK(changed_entries(spoilt.apply(x), clean.apply(x), every, token) == 0);
  CHECK(changed_entries(spoilt.run(x), clean.run(x), every, token) == 0);
}

/// The same of A^T g: the columns behind `token`, but for those that the layer has made NaN as well.
void check_columns_untouched(const ImplicitAttention<double>& spoilt, const ImplicitAttention<double>& clean, Index token) {
  const Index T = clean.tokens(), E = clean.channels();
  const Numbers g = Draw(3).normals<double>(T, E), columns = spoilt.apply_transpose(g), right = clean.apply_transpose(g);
  int changed = 0, compared = 0;
  for (Index j = token + 1; j < T; ++j)
    for (Index e = 0; e < E; ++e) {
      if (!std::isfinite(columns(j, e))) continue;
      ++compared;
      changed += columns(j, e) != right(j, e);
    }
  CHECK(changed == 0);
  CHECK((compared > 0 || token >= T - 8));
}

int check_activations_untouched(const std::string& title, const EngineActivations& act, Index tokens, Index token, double wrong) {
  int read = 0;
  for_spoilt_arrays(act, tokens, {token}, wrong, [&](const std::string& name, Index, const EngineActivations& spoilt) {
    if (!refusal(spoilt, Terms::all()).empty()) return;
    const ImplicitAttention<double> attention = spoilt.attention(Terms::all()), clean = act.attention(Terms::all());
    if (!clean.causal()) return;
    INFO(title << ": " << name << " is " << wrong << " at token " << token << " of " << tokens);
    check_untouched(attention, clean, token);
    if (std::isnan(wrong)) check_columns_untouched(attention, clean, token);  // an infinity may become other numbers at later tokens
    ++read;
  });
  return read;
}

template <class Layer>
int check_layer_untouched(const std::string& title, const Layer& layer, Index tokens, Index token, double wrong) {
  const Numbers u = input_of(tokens, layer.width());
  return check_activations_untouched(title, EngineActivationsOf<Layer>(layer, layer.activations(u)), tokens, token, wrong);
}

}  // namespace

TEST_CASE("a NaN in any array of any layer: all ways say the same of it", "[engine]") {
  std::uint64_t seed = 301;
  for (const Recipe& recipe : test_support::recipes()) {
    const test_support::DrawnLayer drawn(recipe, seed++);
    const std::string title = recipe.family + " " + recipe.title;
    const Index last = recipe.tokens - 1;
    CHECK(test_support::AllLayers::visit(*drawn.part, [&](const auto& layer) {
      CHECK(check_layer(title, layer, recipe.tokens, {0, last / 2, last}, {Terms::all(), Terms::published(), Terms::recurrence()}) > 0);
      if (recipe.tokens == 7 && recipe.family != "hyena")
        CHECK(check_layer(title, layer, 33, {0, 32}, {Terms::all()}) > 0);  // a token more than a chunk; Hyena's filter has a length
    }));
  }
  Draw draw(9);
  CHECK(check_layer("softmax attention, window and gate", engine_test::windowed_attention(draw), 7, {0, 3, 6}, {Terms::all()}) > 0);
}

TEST_CASE("an infinity in any array of any layer spoils what a NaN does, unless the layer makes a number of it", "[engine]") {
  std::uint64_t seed = 301;
  for (const Recipe& recipe : test_support::recipes()) {
    const test_support::DrawnLayer drawn(recipe, seed++);
    const std::string title = recipe.family + " " + recipe.title;
    CHECK(test_support::AllLayers::visit(*drawn.part, [&](const auto& layer) {
      using Layer = std::decay_t<decltype(layer)>;
      const EngineActivationsOf<Layer> act(layer, layer.activations(input_of(recipe.tokens, layer.width())));
      for (const Index token : {Index(0), recipe.tokens / 2, recipe.tokens - 1})
        CHECK(check_activations_infinite(title, act, recipe.tokens, token) > 0);
    }));
  }
  Draw draw(9);
  const auto windowed = engine_test::windowed_attention(draw);
  using Windowed = std::decay_t<decltype(windowed)>;
  const EngineActivationsOf<Windowed> act(windowed, windowed.activations(input_of(7, windowed.width())));
  for (const Index token : {Index(0), Index(3), Index(6)})
    CHECK(check_activations_infinite("softmax attention, window and gate", act, 7, token) > 0);
}

TEST_CASE("a NaN or an infinity in any array of any layer: rows before it are what they were, bit for bit", "[engine]") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinite = std::numeric_limits<double>::infinity();
  constexpr Index tokens = IMPLICIT_ATTENTION_BLOCK_TOKENS + 39;
  std::uint64_t seed = 301;
  int causal = 0;
  for (const Recipe& recipe : test_support::recipes()) {
    const test_support::DrawnLayer drawn(recipe, seed++);
    const bool any_length = recipe.tokens == 7 && recipe.family != "hyena";  // Hyena's filter has a length; others have a grid
    CHECK(test_support::AllLayers::visit(*drawn.part, [&](const auto& layer) {
      const std::string title = recipe.family + " " + recipe.title;
      if (!any_length) {
        check_layer_untouched(title, layer, recipe.tokens, recipe.tokens / 2, nan);
        return;
      }
      // In the first block of the kernels, behind its first chunk, and in the second block.
      int read = check_layer_untouched(title, layer, tokens, 5, nan);
      read += check_layer_untouched(title, layer, tokens, 40, infinite);
      causal += read + check_layer_untouched(title, layer, tokens, IMPLICIT_ATTENTION_BLOCK_TOKENS + 20, nan) > 0;
    }));
  }
  CHECK(causal > 20);
  Draw draw(9);
  const auto windowed = engine_test::windowed_attention(draw);
  for (const auto& [token, wrong] : {std::pair(Index(5), nan), std::pair(Index(40), infinite), std::pair(Index(84), nan)})
    CHECK(check_layer_untouched("softmax attention, window and gate", windowed, tokens, token, wrong) > 0);
}
