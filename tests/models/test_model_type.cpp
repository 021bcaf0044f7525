// Configurations without model_type: the tensors tell the family, and its options are the family's; what they cannot tell is an error.
#include <string>
#include <utility>
#include <vector>

#include <support/every_logit.hpp>

#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/models/load.hpp>
#include <models/golden_models.hpp>

using namespace implicit_attention;
using namespace models_test;

namespace {
/// The files that begin so; the test is skipped where none of their kind are.
std::vector<std::filesystem::path> golden_named(const std::string& begin) {
  std::vector<std::filesystem::path> found;
  for (const std::filesystem::path& path : golden_models())
    if (path.filename().string().rfind(begin, 0) == 0) found.push_back(path);
  if (found.empty()) WARN(test_support::shared_data_missing("golden/" + begin + "*"));
  return found;
}
}  // namespace

TEST_CASE("a hybrid without model_type has the logits of its family", "[models]") {
  for (const std::string begin : {"lm_nemotron_h_seed00", "lm_falcon_h1_seed01", "lm_zamba2_seed01", "lm_jamba_seed01", "lm_bamba_seed00",
                                  "lm_granitemoehybrid_seed00"})
    for (const std::filesystem::path& path : golden_named(begin)) {
      INFO(begin);
      const Golden golden(path);
      const LanguageModel<double> model =
          load_language_model<double>(golden.weights<double>(), without(golden.configuration, "model_type"));
      const Matrix<double> logits = model.forward(golden.ids, test_support::every_logit()).logits;
      CHECK(relative_error(logits, golden.expected("logits")) <= 1e-9);
    }
}

TEST_CASE("a public class whose tensors are another family's is not taken for that family", "[models]") {
  for (const std::filesystem::path& path : golden_named("lm_mamba_seed00")) {
    const Golden golden(path);
    Configuration configuration = without(golden.configuration, "model_type");
    CHECK_NOTHROW(load_language_model<double>(golden.weights<double>(), configuration));
    configuration.set("architectures", std::vector<std::string>{"FalconMambaForCausalLM"});
    CHECK_THROWS_WITH(load_language_model<double>(golden.weights<double>(), configuration),
                      contains_text("key model_type is missing, expected falcon_mamba: key architectures is FalconMambaForCausalLM"));
    configuration.set("architectures", std::vector<std::string>{"FalconMambaForCausalLM", "MambaForCausalLM"});
    CHECK_NOTHROW(load_language_model<double>(golden.weights<double>(), configuration));
    configuration.set("architectures", std::vector<std::string>{"MambaForCausalLM"});
    CHECK_NOTHROW(load_language_model<double>(golden.weights<double>(), configuration));
  }
}

TEST_CASE("RWKV-5 without model_type is read whatever class its authors' port is called", "[models]") {
  for (const std::filesystem::path& path : golden_named("lm_rwkv5_seed00")) {
    const Golden golden(path);
    Configuration configuration = without(golden.configuration, "model_type");
    configuration.set("architectures", std::vector<std::string>{"RwkvForCausalLM"});
    CHECK_NOTHROW(load_language_model<double>(golden.weights<double>(), configuration));
  }
}

TEST_CASE("a lost tensor is named as the others of its checkpoint are", "[models]") {
  for (const auto& [begin, lost] : {std::pair<std::string, std::string>("lm_kimi_linear_seed01", "self_attn.q_a_proj.weight"),
                                    {"lm_olmo_hybrid_seed00", "attention_layer_norm.weight"}})
    for (const std::filesystem::path& path : golden_named(begin)) {
      const Golden golden(path);
      Tensors<double> tensors = golden.weights<double>();
      std::string name;
      for (const auto& [other, tensor] : tensors.tensors)
        if (name.empty() && other.size() > lost.size() && other.compare(other.size() - lost.size(), lost.size(), lost) == 0) name = other;
      REQUIRE(!name.empty());
      tensors.tensors.erase(name);
      CHECK_THROWS_WITH(load_language_model<double>(tensors, golden.configuration), contains_text("tensor " + name + " is missing"));
    }
}
