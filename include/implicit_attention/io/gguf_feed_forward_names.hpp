// The public names of a GGUF model's feed-forward parts: dense, shared and routed experts.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/gguf_families.hpp>
#include <implicit_attention/io/gguf_keys.hpp>
#include <implicit_attention/io/gguf_renamer.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// GGUF's names of feed-forward parts and mixtures of experts. The keys and the family must outlive it.
class GgufFeedForwardNames {
 public:
  GgufFeedForwardNames(const GgufKeys& keys, const GgufFamily& family) : keys_(&keys), family_(&family) {}

  /// Keeps a layer's tensor under its public name; false if it is not one of a feed-forward part's.
  bool operator()(const GgufLayerTensor& given) const {
    return router(given) || latent(given) || joined_gate_and_up(given) || gate_up_down(given);
  }

 private:
  [[nodiscard]] bool is_granite() const { return family_->architecture == "granitehybrid"; }
  [[nodiscard]] bool has_experts_joined() const { return family_->architecture == "qwen35moe"; }  // its checkpoints have one tensor for all

  bool router(const GgufLayerTensor& given) const {
    const auto row = [&] { return given.renamer.shaped(given.tensor, {1, *element_count(given.tensor.shape, 1)}); };
    if (given.part == "ffn_gate_inp" && !family_->router.empty()) return given.as("", family_->router);
    if (given.part == "ffn_gate_inp_shexp") return given.as("mlp.", "shared_expert_gate", row);
    return given.part == "exp_probs_b" && !family_->correction.empty() && given.as("", family_->correction, given.tensor, "");
  }

  // The second names are Ollama's.
  bool latent(const GgufLayerTensor& given) const {
    const std::string_view part = given.part;
    if (part == "ffn_latent_down" || part == "ffn_latent_in") return given.as("mixer.", "fc1_latent_proj");
    return (part == "ffn_latent_up" || part == "ffn_latent_out") && given.as("mixer.", "fc2_latent_proj");
  }

  // Of each expert the gate's rows, then the up projection's.
  bool joined_gate_and_up(const GgufLayerTensor& given) const {
    if (given.part != "ffn_gate_up_exps" || family_->experts.empty()) return false;
    if (is_granite()) return given.as(family_->experts, "input_linear");
    if (has_experts_joined()) return given.as(family_->experts, "gate_up_proj", given.tensor, "");
    const CheckpointTensor& tensor = given.tensor;
    if (!given.renamer.names_alone() && (tensor.shape.size() != 3 || tensor.shape[1] % 2 != 0))
      given.renamer.wrong_shape(tensor, "(experts, 2 rows, columns)");
    return one_by_one(given, family_->expert_gate_up_down[0], 0, 2) && one_by_one(given, family_->expert_gate_up_down[1], 1, 2);
  }

  bool gate_up_down(const GgufLayerTensor& given) const {
    constexpr std::array<std::string_view, 3> roles{"ffn_gate", "ffn_up", "ffn_down"};
    for (std::size_t role = 0; role < roles.size(); ++role)
      if (given.part.starts_with(roles[role])) return gate_up_down(given, role, given.part.substr(roles[role].size()));
    return false;
  }
  // `role`: 0 gate, 1 up, 2 down; `kind`: empty for a dense part, _shexp for shared experts, _exps for routed ones.
  bool gate_up_down(const GgufLayerTensor& given, std::size_t role, std::string_view kind) const {
    if (is_granite() && role < 2 && (kind.empty() || kind == "_shexp" || kind == "_exps"))
      return joined_with_up(given, role, kind, kind == "_exps" ? family_->experts : family_->feed_forward, "input_linear", given.suffix);
    if (kind.empty() && !family_->feed_forward.empty()) return given.as(family_->feed_forward, family_->gate_up_down[role]);
    if (kind == "_shexp" && !family_->shared.empty())
      return given.as(family_->shared, is_granite() ? "output_linear" : family_->gate_up_down[role]);
    if (kind != "_exps" || family_->experts.empty()) return false;
    if (is_granite()) return given.as(family_->experts, "output_linear");
    if (!has_experts_joined()) return one_by_one(given, family_->expert_gate_up_down[role]);
    if (role < 2) return joined_with_up(given, role, kind, family_->experts, "gate_up_proj", "");
    return given.as(family_->experts, "down_proj", given.tensor, "");
  }
  // Gate and up projection as one tensor, which the gate is made into; the up projection only has to have a gate beside it.
  bool joined_with_up(const GgufLayerTensor& given, std::size_t role, std::string_view kind, std::string_view below, std::string_view name,
                      std::string_view end) const {
    if (role == 1) return given.renamer.expect_sibling(given.layer, message("ffn_gate", kind, given.suffix)), true;
    return given.as(
        below, name, [&] { return stacked(given, given.renamer.sibling(given.layer, message("ffn_up", kind, given.suffix))); }, end);
  }

  // A tensor is split into as many experts as the metadata has, or, where it does not say, as the tensor has, 4096 at most.
  void expect_experts(const GgufLayerTensor& given) const {
    constexpr Index most = 4096;
    const CheckpointTensor& tensor = given.tensor;
    if (tensor.shape.size() != 3) given.renamer.wrong_shape(tensor, "(experts, rows, columns)");
    const Index count = tensor.shape[0], experts = keys_->integer("expert_count").value_or(count);
    if (count != experts) given.renamer.wrong_shape(tensor, message("(", experts, ", rows, columns), as expert_count is ", experts));
    if (count > most) given.renamer.wrong_shape(tensor, message("at most ", most, " experts"));
  }
  // (n, F, D) as n matrices, or as one of `shares` equal parts of each, the one of number `which`.
  bool one_by_one(const GgufLayerTensor& given, std::string_view name, Index which = 0, Index shares = 1) const {
    // Where only names are asked for, the first expert stands for all.
    if (given.renamer.names_alone()) return given.as(family_->experts, message("0.", name));
    expect_experts(given);
    const CheckpointTensor& tensor = given.tensor;
    const Index rows = tensor.shape[1] / shares;
    for (Index expert = 0; expert < tensor.shape[0]; ++expert)
      given.as(family_->experts, message(expert, ".", name),
               whole_tensor({rows, tensor.shape[2]}, some_rows(tensor.parts.front().stored, (expert * shares + which) * rows, rows)));
    return true;
  }
  // Rows of one, then rows of the other; of stacks, matrix by matrix.
  [[nodiscard]] CheckpointTensor stacked(const GgufLayerTensor& given, const CheckpointTensor& other) const {
    const CheckpointTensor& tensor = given.tensor;
    if (tensor.shape != other.shape || tensor.shape.size() < 2)
      given.renamer.wrong_shape(tensor, message("the shape of its partner, ", shape_text(other.shape)));
    if (tensor.shape.size() > 2) expect_experts(given);
    CheckpointTensor both;
    both.shape = tensor.shape;
    const std::size_t axis = tensor.shape.size() - 2;
    const Index rows = tensor.shape[axis], all = tensor.parts.front().stored.rows;
    both.shape[axis] = 2 * rows;
    for (Index first = 0; first < all; first += rows)
      for (const CheckpointTensor* each : {&tensor, &other})
        both.parts.push_back({some_rows(each->parts.front().stored, first, rows), false});
    return both;
  }

  const GgufKeys* keys_;
  const GgufFamily* family_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
