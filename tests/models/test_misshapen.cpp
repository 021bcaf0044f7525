// Every tensor of every family in another shape: what is said names a tensor as the file has it.
#include <algorithm>
#include <string>
#include <vector>

#include <models/models.hpp>
#include <support/catch.hpp>
#include <support/small_models.hpp>

#include <implicit_attention/models/load.hpp>

using namespace models_test;

namespace {

/// What else may be said, where a complaint has no tensor's name.
const std::vector<std::string>& said_without_names() {
  static const std::vector<std::string> phrases{
      // Of the configuration, by its key; of the model, whose parts are norms and a head.
      ": key ", " is missing", " wide, expected ", ": head is ", "head_bias is ", "do not divide into", "GatedDeltaNet: key_heads is ",
      // Parts that a layer's constructor takes as roles, whatever the file calls them.
      "GatedFeedForward: ", "MixtureOfExperts: ", "ChannelMixing: time_mix_", ": the first factor is ", ": the second factor is ",
      ": the bias is ", "_adapter, first factor is ", "_adapter, second factor is ", "Zamba2: ", "Rwkv7: output.bias is ",
      "SoftmaxAttention: q_norm.weight is ", "SoftmaxAttention: k_norm.weight is ", "SoftmaxAttention: o_proj.weight is ",
      // Rows of one tensor that are told apart under the names of another family's.
      "GatedDeltaNet: a_proj.weight is ", "GatedDeltaNet: b_proj.weight is ", "GatedDeltaNet: g_proj.weight is ",
      "GatedDeltaNet: v_proj.weight is ", "GatedDeltaNet: o_proj.weight is "};
  return phrases;
}

}  // namespace

TEST_CASE("families: where a tensor is misshapen, tensors are named as the file has them", "[families]") {
  std::vector<std::string> unused = said_without_names();
  for (const test_support::SmallModel& kind : test_support::small_models()) {
    const Tensors<double> whole = kind.checkpoint<double>(31);
    int refused = 0, named = 0, of_it = 0;
    Index by = 1;  // longer and shorter by turns
    for (const test_support::SmallModel::Tensor& tensor : kind.tensors) {
      by = -by;
      for (const bool first : {true, false}) {
        by = -by;
        std::vector<Index> shape = tensor.shape;
        Index& size = first ? shape.front() : shape.back();
        size += by;
        if (size == 0) continue;
        Tensors<double> bent = whole;
        bent.set_zero(tensor.name, shape);
        const std::string said = error_of([&] { return load_language_model<double>(bent, kind.configuration); });
        if (said == "no error") {
          // Kernels of any width, and a vocabulary that is longer than what the tokenizer gives; all else would be read past its end.
          INFO(kind.name << ": " << tensor.name << " " << shape_text(shape));
          CHECK((tensor.name.find("conv") != std::string::npos || (tensor.name.find("embed") != std::string::npos && first && by == 1)));
          continue;
        }
        ++refused;
        of_it += said.find(tensor.name) != std::string::npos;
        const bool full = std::any_of(kind.tensors.begin(), kind.tensors.end(), [&](const test_support::SmallModel::Tensor& other) {
          return said.find(other.name) != std::string::npos;
        });
        if (full) {
          ++named;
          continue;
        }
        const auto allowed = std::find_if(said_without_names().begin(), said_without_names().end(),
                                          [&](const std::string& phrase) { return said.find(phrase) != std::string::npos; });
        INFO(kind.name << ": " << tensor.name << " " << shape_text(shape) << ": " << said);
        CHECK(allowed != said_without_names().end());
        if (allowed != said_without_names().end()) unused.erase(std::remove(unused.begin(), unused.end(), *allowed), unused.end());
      }
    }
    INFO(kind.name << ": " << refused << " refused, " << named << " with a name, " << of_it << " with its own");
    CHECK(of_it > refused / 5);
  }
  INFO("said by none: " << (unused.empty() ? "" : unused.front()));
  CHECK(unused.empty());
}

TEST_CASE("families: a tensor without numbers is not taken for one that is absent", "[families]") {
  for (const test_support::SmallModel& kind : test_support::small_models()) {
    const Tensors<double> whole = kind.checkpoint<double>(31);
    for (const test_support::SmallModel::Tensor& tensor : kind.tensors) {
      std::vector<Index> shape = tensor.shape;
      shape.front() = 0;
      Tensors<double> hollow = whole;
      hollow.set_zero(tensor.name, shape);
      INFO(kind.name << ": " << tensor.name << " " << shape_text(shape));
      CHECK(error_of([&] { return load_language_model<double>(hollow, kind.configuration); }) != "no error");
    }
  }
}
