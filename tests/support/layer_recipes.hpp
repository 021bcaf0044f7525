// Layers of every family with random weights, drawn by recipes.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>
#include <support/recipes.hpp>
#include <support/tensors.hpp>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/models/families.hpp>

namespace test_support {

using namespace implicit_attention;

// The layers of the recipes in their own types: tests that take all layers find here what `Part` has made of one.
template <class... Layers>
struct LayerTypes {
  // Calls visit(layer) with the layer inside a part; false where its type is not in the list.
  template <class Visit>
  static bool visit(const Part<double>& part, const Visit& visit) {
    return (visit_as<Layers>(part, visit) || ...);
  }

 private:
  template <class Layer, class Visit>
  static bool visit_as(const Part<double>& part, const Visit& visit) {
    const Layer* layer = part.as<Layer>();
    if (layer != nullptr) visit(*layer);
    return layer != nullptr;
  }
};
using AllLayers = LayerTypes<Mamba2<double>, Mamba<double>, Rwkv7<double>, Rwkv6<double>, Rwkv5<double>, Rwkv4<double>, Griffin<double>,
                             GatedDeltaNet<double>, Kda<double>, ShortConvolution<double>, RetNet<double>, Gla<double>, Hgrn<double>,
                             Hgrn2<double>, LinearAttention<double>, Mlstm<double>, MlstmLarge<double>, Mamba3<double>, Mlla<double>,
                             S4d<double>, Hyena<double>, Vim<double>, Lstm<double>, Gru<double>>;

// The tensors of a recipe, drawn.
inline Tensors<double> drawn_tensors(const Recipe& recipe, Draw& draw) {
  Tensors<double> drawn;
  for (const TensorRecipe& tensor : recipe.tensors) {
    Index rows = 1;
    for (std::size_t axis = 0; axis + 1 < tensor.shape.size(); ++axis) rows *= tensor.shape[axis];
    const Index columns = tensor.shape.back();
    const double scale = tensor.scale != 0 || tensor.mean != 0 ? tensor.scale : 1 / std::sqrt(static_cast<double>(columns));
    drawn.tensors[tensor.name] = {tensor.shape, draw.normals<double>(rows, columns, scale, tensor.mean)};
  }
  return drawn;
}

// What a recipe's configuration says.
inline Configuration configuration_of(const Recipe& recipe) {
  Configuration configuration("recipe");
  for (const auto& [key, value] : recipe.configuration) configuration.set(key, value);
  return configuration;
}

// A layer of a recipe, and an input for it.
struct DrawnLayer {
  Recipe recipe;
  Tensors<double> tensors;
  PartPointer<double> part;
  std::vector<std::pair<std::string, Matrix<double>>> inputs;
  Draw draw;

  explicit DrawnLayer(Recipe from, std::uint64_t seed, const std::vector<TensorRecipe>& changed = {})
      : recipe(std::move(from)), draw(seed) {
    for (const TensorRecipe& tensor : changed)
      for (TensorRecipe& own : recipe.tensors)
        if (own.name == tensor.name) own = {own.name, own.shape, tensor.scale, tensor.mean};
    tensors = drawn_tensors(recipe, draw);
    const Configuration configuration = configuration_of(recipe);
    for (const LayerFamily<double>& family : layer_families<double>())
      if (family.name == recipe.family) part = family.read(PrefixedTensors<double>(tensors, ""), configuration);
    REQUIRE(part != nullptr);
    for (const auto& [name, width] : recipe.inputs)
      inputs.emplace_back(name, (draw.normals<double>(1, width).array() * 0.5 + 0.5).cwiseMax(0).cwiseMin(1).matrix());
  }

  struct Run {
    std::shared_ptr<Trace<double>> trace;
    Value<double> u, out;
    MixerRun<double> mixer;
  };
  [[nodiscard]] Run run(const Matrix<double>& u, bool recorded = false) const {
    Run result;
    result.trace = std::make_shared<Trace<double>>(recorded);
    RunContext<double> context;
    for (const auto& [name, numbers] : inputs) context.share(name, result.trace->constant(numbers));
    result.u = result.trace->input(u);
    result.out = part->run(result.u, context);
    REQUIRE(context.mixers.size() == 1);
    result.mixer = context.mixers.front();
    return result;
  }
};

}  // namespace test_support
