// Every family that GGUF files come of: the golden models, made into GGUF as the public converter makes them, give the golden logits.
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/models/load.hpp>

#include "gguf_converter.hpp"

using namespace implicit_attention;
using namespace io_test;

namespace {

/// A golden model as its public checkpoint has it.
struct Original {
  explicit Original(const std::filesystem::path& path) : file(path) {
    for (const auto& [name, info] : file.tensors()) {
      if (name.rfind("weight.", 0) != 0) continue;
      const Array<float> numbers = file.read<float>(name);
      T t;
      for (const Index size : info.shape) t.shape.push_back(static_cast<std::uint64_t>(size));
      for (Index i = 0; i < numbers.size(); ++i) t.data.push_back(numbers(i / numbers.cols(), i % numbers.cols()));
      weights[name.substr(7)] = std::move(t);
    }
    const auto& said = file.metadata();
    std::string text = said.at(said.count("config") != 0 ? "config" : "case");
    for (std::size_t at = text.find("Infinity"); at != std::string::npos; at = text.find("Infinity")) text.replace(at, 8, "1e300");
    config = nlohmann::json::parse(text);
    for (const std::int64_t id : file.read_integers("input.input_ids")) ids.push_back(static_cast<Index>(id));
    logits = file.read<double>("expected.logits").matrix();
  }
  SafetensorsFile file;
  GgufConverter::Weights weights;
  nlohmann::json config;
  std::vector<Index> ids;
  Matrix<double> logits;
};

LanguageModel<double> opened(const std::string& bytes) {
  const TemporaryFolder folder;
  write_bytes(folder / "model.gguf", bytes);
  const Checkpoint<double> checkpoint = open_checkpoint<double>(folder.path());
  return load_language_model<double>(*checkpoint.source, checkpoint.configuration);
}

/// The largest difference of logits from the golden ones, relative to the largest. Rates, 1 + w and multiplied weights are rounded to float.
double deviation(const Original& original, const GgufConverter& converter) {
  const Matrix<double> logits = opened(converter.file()).forward(original.ids, test_support::every_logit()).logits;
  if (logits.rows() != original.logits.rows() || logits.cols() != original.logits.cols()) return 1e300;
  return (logits - original.logits).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() / original.logits.cwiseAbs().maxCoeff();
}
constexpr double rounding = 2e-6;

struct Case {
  std::string_view golden, architecture;
  bool fuse = false;
};
constexpr Case cases[] = {
    {"lm_mamba2_seed00_layers2_hidden32_L16", "mamba2"},
    {"lm_falcon_mamba_seed00_L16", "mamba"},
    {"lm_falcon_mamba_seed01_bias_tied_smallx_L12", "mamba"},
    {"lm_falcon_h1_seed00_nonorm_L16", "falcon-h1"},
    {"lm_bamba_seed00_L16", "granitehybrid"},
    {"lm_granitemoehybrid_seed00_dense_nope_tied_L16", "granitehybrid"},
    {"lm_granitemoehybrid_seed01_moe_L12", "granitehybrid"},
    {"lm_granitemoehybrid_seed01_moe_L12", "granitehybrid", true},
    {"lm_nemotron_h_seed00_dense_groups2_L16", "nemotron_h"},
    {"lm_nemotron_h_seed02_moe_L16", "nemotron_h_moe"},
    {"lm_lfm2_seed00_released_keys_hidden32_L16", "lfm2"},
    {"lm_jamba_seed00_moe_L16", "jamba"},
    {"lm_jamba_seed01_dense_tied_L12", "jamba"},
    {"lm_kimi_linear_seed00_released_hidden24_L16", "kimi-linear"},
    {"lm_kimi_linear_seed00_released_hidden24_L16", "kimi-linear", true},
    {"lm_qwen35_seed00_hybrid4_hidden32_L16", "qwen35"},
    {"lm_qwen35_moe_seed00_released_text_config_L16", "qwen35moe"},
    {"lm_qwen35_moe_seed00_released_text_config_L16", "qwen35moe", true},
    {"lm_qwen3next_moe_seed03_released_fused_L12", "qwen3next"},
    {"lm_qwen3next_moe_seed03_released_fused_L12", "qwen3next", true},
    {"lm_rwkv6_seed00_layers2_hidden32_L16", "rwkv6"},
    {"lm_rwkv6_seed04_layers2_hidden16_L2", "rwkv6"},
    {"lm_rwkv7_seed01_fla_names_layers3_hidden32_L12", "rwkv7"},
};

}  // namespace

TEST_CASE("GGUF: golden models of every family give the golden logits as the public converter writes them", "[io][golden]") {
  for (const Case& each_case : cases) {
    const std::string name = "golden/" + std::string(each_case.golden) + ".safetensors";
    INFO(name << " as " << each_case.architecture << (each_case.fuse ? ", gate and up projections of experts in one tensor" : ""));
    const auto golden = test_support::shared_data(name);
    if (!golden) {
      WARN(test_support::shared_data_missing(name));
      continue;
    }
    const Original original(*golden);
    try {
      CHECK(deviation(original, GgufConverter(std::string(each_case.architecture), original.weights, original.config, each_case.fuse)) <
            rounding);
    } catch (const Error& error) {
      FAIL_CHECK(error.what());
    }
  }
}
