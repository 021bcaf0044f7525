// What the tests of models/ share: checkpoints held in memory or in the golden files, and differences relative to the largest number.
#pragma once

#include <filesystem>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <support/tensors.hpp>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/layers/s4d.hpp>
#include <implicit_attention/models/load.hpp>

namespace models_test {

using namespace implicit_attention;

using test_support::Tensors;

/// The models of examples/models.
inline const char* const shipped_models[] = {"mamba", "rwkv4", "griffin"};

/// One of them, as anybody opens it.
template <class Scalar = double>
LanguageModel<Scalar> shipped(const std::string& name) {
  const std::filesystem::path folder = std::filesystem::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "examples" / "models" / name;
  return load_language_model(SafetensorsSource<Scalar>(folder), read_configuration(folder));
}

/// Token ids with no pattern that a model could know.
inline std::vector<Index> some_ids(Index count, Index vocabulary) {
  std::vector<Index> ids;
  for (Index token = 0; token < count; ++token) ids.push_back((token * token * 7 + 3 * token + 5) % vocabulary);
  return ids;
}

/// A tensor of integers.
inline std::vector<Index> integers(const SafetensorsFile& file, const std::string& name) {
  const auto numbers = file.read_integers(name);
  return {numbers.begin(), numbers.end()};
}

/// A golden case of a whole model: `weight.*`, `input.*`, `expected.*`, and its configuration as JSON beside them, under `config` or,
/// where there is none, `case`.
struct Golden {
  explicit Golden(const std::filesystem::path& path)
      : file(path), configuration(read_metadata_configuration(file, file.metadata().count("config") != 0 ? "config" : "case")) {
    ids = integers("input.input_ids");
  }
  template <class Scalar>
  Tensors<Scalar> weights() const {
    return Tensors<Scalar>(SafetensorsSource<Scalar>(path()), "weight.");
  }
  std::vector<std::string> weight_names() const {
    std::vector<std::string> names;
    for (const auto& [name, info] : file.tensors())
      if (name.rfind("weight.", 0) == 0) names.push_back(name.substr(7));
    return names;
  }
  Matrix<double> expected(const std::string& name) const { return *file.read<double>("expected." + name); }
  std::vector<Index> integers(const std::string& name) const { return models_test::integers(file, name); }
  std::filesystem::path path() const { return file.where(); }

  SafetensorsFile file;
  Configuration configuration;
  std::vector<Index> ids;
};

/// The largest difference, relative to the largest expected number.
template <class Came>
double relative_error(const Came& came, const Matrix<double>& expected) {
  if (came.rows() != expected.rows() || came.cols() != expected.cols()) return 1e300;
  const double error = (came.template cast<double>() - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
  return error == error ? error / expected.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() : 1e300;
}

/// A configuration of these keys alone.
inline Configuration with(std::initializer_list<std::pair<const char*, Configuration::Value>> values) {
  Configuration configuration("config.json");
  for (const auto& [key, value] : values) configuration.set(key, value);
  return configuration;
}
/// A configuration less one key.
inline Configuration without(const Configuration& configuration, const std::string& key) {
  Configuration changed("config.json");
  for (const std::string& name : configuration.keys())
    if (name != key) changed.set(name, *configuration.find(name));
  return changed;
}
/// A configuration with another value of one key.
inline Configuration with(const Configuration& configuration, const std::string& key, Configuration::Value value) {
  Configuration changed = without(configuration, key);
  changed.set(key, std::move(value));
  return changed;
}

/// What is said when a call fails.
inline std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// A model whose layer returns no state and does not keep documents apart: S4D's long convolution.
inline LanguageModel<double> long_convolution() {
  const auto random = [](Index rows, Index columns) { return Array<double>(Matrix<double>(Matrix<double>::Random(rows, columns))); };
  LanguageModelParts<double> parts;
  parts.name = "Long";
  parts.embedding = parts.head = random(10, 4);
  parts.final_norm = Norm<double>::rms(4, 1e-5);
  parts.blocks.push_back(
      {{{Norm<double>::rms(4, 1e-5),
         mixer_part(S4d<double>({random(1, 4), random(8, 2), random(4, 2), random(4, 2), random(1, 4), random(8, 4), {}}))}}});
  return LanguageModel<double>(std::move(parts));
}

}  // namespace models_test
