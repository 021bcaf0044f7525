// What layers of every family are drawn from: a table, compiled once.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/core/configuration.hpp>

namespace test_support {

using namespace implicit_attention;

// What a tensor of a recipe is drawn from.
struct TensorRecipe {
  std::string name;
  std::vector<Index> shape;
  double scale = 0, mean = 0;  // scale 0: 1 / sqrt(last axis that is not 1)
};

// One layer with the sizes of its tensors.
struct Recipe {
  std::string family, title;
  Index width;
  std::vector<TensorRecipe> tensors;
  std::vector<std::pair<std::string, Configuration::Value>> configuration;
  std::vector<std::pair<std::string, Index>> inputs;  // rows of numbers between 0 and 1 in the run context, and their widths
  Index tokens = 7;
};

std::vector<Recipe> recipes();

}  // namespace test_support
