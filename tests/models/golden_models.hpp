// The published numbers of whole language models, for whatever family can be loaded: files lm_*, one format for all.
//
//   weight.*          the checkpoint's tensors; the metadata's `config`, else `case`, is its configuration
//   expected.*        logits, embeddings, target_token, grad_embeddings, and for layer N of the checkpoint layerN_mixer_in, _y, _mixer_out
//                     of its token mixer with their gradients, layerN_attention_* of softmax attention beside a recurrent mixer, and
//                     layerN_expert_index, _weight of its mixture of experts
#pragma once

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/models/backward.hpp>
#include <implicit_attention/models/mixture_of_experts.hpp>
#include <models/models.hpp>

namespace models_test {

/// The golden models of one folder, sorted: of families that are read here, and the names of the others.
struct GoldenFolder {
  std::vector<std::filesystem::path> found;
  std::vector<std::string> unread;

  explicit GoldenFolder(const std::filesystem::path& folder) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (name.compare(0, 3, "lm_") != 0) continue;
      const Golden golden(entry.path());
      const detail::CheckpointFacts facts(golden.weight_names(), golden.configuration);
      const auto& families = model_families<double>();
      if (std::any_of(families.begin(), families.end(), [&](const ModelFamily<double>& family) { return family.recognises(facts); }))
        found.push_back(entry.path());
      else
        unread.push_back(name);
    }
    std::sort(found.begin(), found.end());
    std::sort(unread.begin(), unread.end());
  }
};

/// All golden models of families that are read here, sorted; those in tests/data where the shared ones are not on this machine.
/// `unread` receives the others. The folder is looked through once: tests ask for many a model by its name.
inline std::vector<std::filesystem::path> golden_models(std::vector<std::string>* unread = nullptr) {
  const auto shared = test_support::shared_data("golden");
  if (!shared) WARN(test_support::shared_data_missing("golden") + "; the cases in tests/data are run");
  static const GoldenFolder folder(shared ? *shared : std::filesystem::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "tests" / "data");
  REQUIRE(!folder.found.empty());
  if (unread != nullptr) *unread = folder.unread;
  return folder.found;
}

/// One golden model run forwards and backwards, and its largest deviation from each kind of published number, relative to the largest.
template <class Scalar>
class GoldenRun {
 public:
  explicit GoldenRun(const Golden& golden, Keep keep = Keep::activations)
      : golden_(golden), model_(load_language_model<Scalar>(golden.weights<Scalar>(), golden.configuration)) {
    ForwardOptions options = test_support::every_logit();
    options.keep = keep;
    pass_ = model_.forward(golden.ids, options);
    const Index last = static_cast<Index>(golden.ids.size()) - 1, target = golden.integers("expected.target_token").front();
    gradients_ = backward(model_, pass_, logit_gradient(pass_, last, target));
    compare("logits", pass_.logits, "logits");
    compare("embeddings", *pass_.embeddings, "embeddings");
    compare("grad_embeddings", *gradients_.embeddings, "grad_embeddings");
    for (Index layer = 0; layer < model_.layer_count(); ++layer) compare_layer(layer);
    for (const auto& [name, info] : golden.file.tensors())
      if (name.rfind("expected.layer", 0) == 0 && compared_.find(name.substr(9)) == compared_.end()) left_.push_back(name.substr(9));
  }

  [[nodiscard]] const LanguageModel<Scalar>& model() const { return model_; }
  [[nodiscard]] const ForwardPass<Scalar>& pass() const { return pass_; }
  /// The largest deviation of each kind: `logits`, `y`, `grad_y`, ...
  [[nodiscard]] const std::map<std::string, double>& deviations() const { return deviations_; }
  /// Published numbers of layers that were compared with nothing.
  [[nodiscard]] const std::vector<std::string>& left() const { return left_; }

 private:
  template <class Numbers>
  void compare(const std::string& kind, const Numbers& came, const std::string& name) {
    if (golden_.file.find("expected." + name) == nullptr) return;
    compared_[name] = true;
    double& largest = deviations_[kind];
    const double error = relative_error(came, golden_.expected(name));
    largest = error <= largest ? largest : error;  // a NaN stays
  }

  void compare_layer(Index layer) {
    const LayerPass<Scalar> pass = model_.layer_pass(pass_, layer);
    const LayerBackward<Scalar>& gradients = gradients_.layers[static_cast<std::size_t>(layer)];
    const Block<Scalar>& block = model_.block(layer);
    const auto named = [&](const char* what) { return detail::message("layer", layer, "_", what); };
    const bool reads_norm = !block.sublayers.front().norm.empty();
    for (std::size_t mixer = 0; mixer < pass.mixers.size(); ++mixer) {
      const MixerRun<Scalar>& run = pass.mixers[mixer];
      const std::string kind = run.kind.empty() ? "" : run.kind + "_";
      compare(kind + "y", *run.y, named("") + kind + "y");
      compare(kind + "grad_y", *gradients.mixers_y[mixer], named("") + kind + "grad_y");
      compare(kind + "linear_input", published_input(block, run), named("") + kind + "linear_input");
      if (mixer != 0) continue;
      compare("mixer_out", *run.out, named("mixer_out"));
      compare("grad_mixer_out", *gradients.out, named("grad_mixer_out"));
      if (!reads_norm && pass.mixers.size() > 1) continue;  // a part with a norm inside: what it normalises is its own
      compare("mixer_in", *pass.u, named("mixer_in"));
      // Where the mixer reads the residual stream itself, the published gradient is that through the mixer alone.
      if (reads_norm) compare("grad_mixer_in", *gradients.u, named("grad_mixer_in"));
    }
    compare_experts(block, pass, named("expert_index"), named("expert_weight"));
  }

  /// A mixer's linear input as it is published: of grouped-query attention the values of each key head once.
  static Matrix<Scalar> published_input(const Block<Scalar>& block, const MixerRun<Scalar>& run) {
    const auto* attention = block.template find<SoftmaxAttention<Scalar>>();
    if (attention == nullptr || run.type != type_tag<SoftmaxAttention<Scalar>>())
      return run.reported_input.empty() ? Matrix<Scalar>(*run.x) : Matrix<Scalar>(*run.reported_input);
    const Index size = attention->head_size(), shared = attention->heads() / attention->key_heads();
    Matrix<Scalar> values((*run.x).rows(), attention->key_heads() * size);
    for (Index head = 0; head < attention->key_heads(); ++head)
      values.middleCols(head * size, size) = (*run.x).middleCols(head * shared * size, size);
    return values;
  }

  void compare_experts(const Block<Scalar>& block, const LayerPass<Scalar>& pass, const std::string& index, const std::string& weight) {
    for (std::size_t sublayer = 0; sublayer < std::min<std::size_t>(block.sublayers.size(), 2); ++sublayer)
      for (const Branch<Scalar>& branch : block.sublayers[sublayer].branches) {
        const auto* experts = branch.part->template as<MixtureOfExperts<Scalar>>();
        if (experts == nullptr) continue;
        Trace<Scalar> trace;
        const Value<Scalar> residual = trace.input(sublayer == 0 ? pass.residual : pass.middle);
        const Norm<Scalar>& norm = block.sublayers[sublayer].norm;
        const auto routing = experts->route(norm.empty() ? residual : normalize(norm, residual));
        compare("expert_weight", *routing.weights, weight);
        if (golden_.file.find("expected." + index) == nullptr) continue;
        compared_[index] = true;
        const bool same = routing.experts == golden_.integers("expected." + index);
        deviations_["expert_index"] = std::max(deviations_["expert_index"], same ? 0.0 : 1e300);
      }
  }

  const Golden& golden_;
  LanguageModel<Scalar> model_;
  ForwardPass<Scalar> pass_;
  BackwardPass<Scalar> gradients_;
  std::map<std::string, double> deviations_;
  std::map<std::string, bool> compared_;
  std::vector<std::string> left_;
};

}  // namespace models_test
