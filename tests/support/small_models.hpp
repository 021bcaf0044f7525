// Small random language models of every family: names, shapes and configurations from tests/data/small_models.json, numbers from a seed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <support/random.hpp>
#include <support/tensors.hpp>

#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/json.hpp>

namespace test_support {

/// A kind of model. Its file has for each tensor `[shape, mean, spread]`; `{0,2}` in a name stands for each of the numbers.
struct SmallModel {
  struct Tensor {
    std::string name;
    std::vector<Index> shape;
    double mean = 0, spread = 0;
  };

  std::string name;
  std::string config;  ///< config.json
  implicit_attention::Configuration configuration{"config.json"};
  std::vector<Tensor> tensors;

  /// The checkpoint that a seed gives; the same numbers in float and double.
  template <class Scalar>
  [[nodiscard]] Tensors<Scalar> checkpoint(std::uint64_t seed) const {
    Draw draw(seed);
    Tensors<Scalar> drawn;
    for (const Tensor& tensor : tensors) {
      Index rows = 1;
      for (std::size_t axis = 0; axis + 1 < tensor.shape.size(); ++axis) rows *= tensor.shape[axis];
      drawn.set(tensor.name, tensor.shape, draw.normals<Scalar>(rows, tensor.shape.back(), tensor.spread, tensor.mean));
    }
    return drawn;
  }
};

/// Every name that one with `{...}` in it stands for.
inline std::vector<std::string> names_of(const std::string& pattern) {
  const std::size_t begin = pattern.find('{'), end = pattern.find('}');
  if (begin == std::string::npos) return {pattern};
  std::vector<std::string> names;
  for (std::size_t at = begin + 1; at <= end;) {
    const std::size_t comma = std::min(pattern.find(',', at), end);
    for (const std::string& name : names_of(pattern.substr(0, begin) + pattern.substr(at, comma - at) + pattern.substr(end + 1)))
      names.push_back(name);
    at = comma + 1;
  }
  return names;
}

inline std::vector<SmallModel> small_models() {
  const std::filesystem::path path = std::filesystem::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "tests" / "data" / "small_models.json";
  const implicit_attention::JsonDocument document = implicit_attention::read_json_object(path);
  std::vector<SmallModel> models;
  for (const auto& [name, described] : document->items()) {
    SmallModel& model = models.emplace_back();
    model.name = name;
    model.config = described.at("config").dump();
    model.configuration = implicit_attention::detail::json_configuration(model.config, name);
    for (const auto& [pattern, numbers] : described.at("tensors").items())
      for (std::string& tensor : names_of(pattern))
        model.tensors.push_back(
            {std::move(tensor), numbers.at(0).get<std::vector<Index>>(), numbers.at(1).get<double>(), numbers.at(2).get<double>()});
  }
  return models;
}

}  // namespace test_support
