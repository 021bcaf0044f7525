// A NaN of an engine in every array of every layer: all ways to the operator say the same of it. An entry that depends on it is NaN, every
// other is what it was, and so is every row before the token.
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <layers/engine_arrays.hpp>
#include <support/catch.hpp>
#include <support/layer_recipes.hpp>
#include <support/random.hpp>

#include <implicit_attention/layers/softmax_attention.hpp>

namespace {

using namespace implicit_attention;
using engine_test::for_arrays;
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

double reduced_by_hand(ReductionKind kind, const std::vector<double>& values) {
  double sum = 0, most = values.front(), least = values.front();
  for (const double value : values) {
    sum += kind == ReductionKind::mean_abs ? std::abs(value) : kind == ReductionKind::mean_positive ? std::max(value, 0.0) : value;
    most = std::max(most, value);
    least = std::min(least, value);
  }
  return kind == ReductionKind::max ? most : kind == ReductionKind::min ? least : sum / static_cast<double>(values.size());
}

/// Compares all ways with the full map of `attention`, and that with the map of the clean one.
void check_ways(const ImplicitAttention<double>& attention, const ImplicitAttention<double>& clean, Index token) {
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
          if (!bad[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)]) right(i, j) = reduced_by_hand(kind, values);
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
}

template <class Layer>
int check_layer(const std::string& title, const Layer& layer, Index tokens, const std::vector<Index>& places,
                const std::vector<Terms>& sets) {
  Draw draw(5);
  const typename Layer::Activations act = layer.activations(draw.normals<double>(tokens, layer.width()));
  int count = 0, read = 0;
  {
    typename Layer::Activations copy = act;
    for_arrays(copy, [&](const char*, auto&) { ++count; });
  }
  for (int k = 0; k < count; ++k)
    for (const Index token : places) {
      typename Layer::Activations spoilt = act;
      std::string name;
      int index = 0;
      for_arrays(spoilt, [&](const char* own_name, Array<double>& array) {
        if (index++ != k || array.empty() || array.rows() != tokens) return;
        Numbers numbers = *array;
        numbers(token, array.cols() / 2) = std::numeric_limits<double>::quiet_NaN();
        array = std::move(numbers);
        name = own_name;
      });
      if (name.empty()) continue;
      for (const Terms terms : sets) {
        INFO(title << ": " << name << " at token " << token << " of " << tokens << ", terms " << terms.text());
        std::string refused;
        try {  // an array that others were made from may be held against them
          static_cast<void>(implicit_attention_of(layer, spoilt, terms));
        } catch (const Error& error) {
          refused = error.what();
        }
        if (!refused.empty()) {
          CHECK_THAT(refused, contains_text("activations."));
          continue;
        }
        const ImplicitAttention<double> attention = implicit_attention_of(layer, spoilt, terms);
        check_ways(attention, implicit_attention_of(layer, act, terms), token);
        ++read;
      }
    }
  return read;
}

}  // namespace

TEST_CASE("a NaN in any array of any layer: all ways say the same of it", "[engine]") {
  std::uint64_t seed = 301;
  for (const Recipe& recipe : test_support::recipes()) {
    Draw draw(seed++);
    const test_support::Tensors<double> tensors = test_support::drawn_tensors(recipe, draw);
    PartPointer<double> part;
    for (const LayerFamily<double>& family : layer_families<double>())
      if (family.name == recipe.family) part = family.read(PrefixedTensors<double>(tensors, ""), test_support::configuration_of(recipe));
    REQUIRE(part != nullptr);
    const std::string title = recipe.family + " " + recipe.title;
    const Index last = recipe.tokens - 1;
    CHECK(test_support::AllLayers::visit(*part, [&](const auto& layer) {
      CHECK(check_layer(title, layer, recipe.tokens, {0, last / 2, last}, {Terms::all(), Terms::published(), Terms::recurrence()}) > 0);
      if (recipe.tokens == 7 && recipe.family != "hyena")
        CHECK(check_layer(title, layer, 33, {0, 32}, {Terms::all()}) > 0);  // a token more than a chunk; Hyena's filter has a length
    }));
  }
  Draw draw(9);
  SoftmaxAttention<double>::Weights w;
  w.q_proj_weight = draw.normals<double>(16, 6);
  w.k_proj_weight = draw.normals<double>(4, 6);
  w.v_proj_weight = draw.normals<double>(4, 6);
  w.o_proj_weight = draw.normals<double>(6, 8);
  SoftmaxAttention<double>::Options options;
  options.heads = 4;
  options.window = 3;
  options.output_gate = true;
  CHECK(check_layer("softmax attention, window and gate", SoftmaxAttention<double>(w, options), 7, {0, 3, 6}, {Terms::all()}) > 0);
}
