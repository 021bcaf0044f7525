// Biases that one switch of the public code puts into a layer together: a layer read by itself misses the one that is lost by its name.
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/layer_recipes.hpp>
#include <support/random.hpp>

namespace {

using namespace implicit_attention;
using test_support::Draw;
using test_support::Recipe;

Recipe recipe_of(const std::string& family, const std::vector<test_support::TensorRecipe>& more) {
  for (Recipe recipe : test_support::recipes()) {
    if (recipe.family != family) continue;
    recipe.tensors.insert(recipe.tensors.end(), more.begin(), more.end());
    return recipe;
  }
  FAIL("no recipe of " << family);
  return {};
}

/// Reads the recipe's layer without one tensor.
void read_without(const Recipe& recipe, const std::string& lost, const std::pair<std::string, Configuration::Value>& key = {}) {
  Draw draw(3);
  test_support::Tensors<double> tensors = test_support::drawn_tensors(recipe, draw);
  tensors.tensors.erase(lost);
  Configuration configuration = test_support::configuration_of(recipe);
  if (!key.first.empty()) configuration.set(key.first, key.second);
  for (const LayerFamily<double>& family : layer_families<double>())
    if (family.name == recipe.family) static_cast<void>(family.read(PrefixedTensors<double>(tensors, ""), configuration));
}

}  // namespace

TEST_CASE("a bias that is lost where the others of its switch are there is missed by its name", "[models]") {
  const std::vector<std::pair<Recipe, std::vector<std::string>>> switches = {
      {recipe_of("mamba2", {{"in_proj.bias", {52}}, {"out_proj.bias", {8}}}), {"in_proj.bias", "out_proj.bias"}},
      {recipe_of("mlstm", {}), {"proj_up.bias", "q_proj.bias", "k_proj.bias", "v_proj.bias", "proj_down.bias"}},
      {recipe_of("mlstm_large", {}), {"q.bias", "k.bias", "v.bias", "ogate_preact.bias", "multihead_norm.bias", "out_proj.bias"}}};
  for (const auto& [recipe, names] : switches) {
    CHECK_NOTHROW(read_without(recipe, ""));
    for (const std::string& name : names) {
      INFO(recipe.family << " without " << name);
      const auto [kind, text] = test_support::error_of([&, &recipe = recipe] { read_without(recipe, name); });
      CHECK(kind == ErrorKind::file);
      CHECK_THAT(text, contains_text("tensor " + name + " is missing, and "));
    }
  }
  // The convolution of an mLSTM block has its bias always.
  CHECK_THAT(test_support::what_of([] { read_without(recipe_of("mlstm", {}), "conv1d.conv.bias"); }),
             contains_text("tensor conv1d.conv.bias is missing, and conv1d.conv.weight is there"));
  // Falcon-H1's two projections have a switch each.
  const Recipe second = recipe_of("mamba2", {{"out_proj.bias", {8}}});
  CHECK_NOTHROW(read_without(second, "", {"projectors_bias", true}));
  CHECK_NOTHROW(read_without(second, "", {"model_type", std::string("falcon_h1")}));
}
