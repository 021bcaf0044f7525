// What the readers of hybrids share: the frame of a model, attention beside recurrent mixers, the order of kinds of layers, and
// feed-forward parts whose gate and up projections are one tensor.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/layers/softmax_attention.hpp>
#include <implicit_attention/models/checkpoint.hpp>
#include <implicit_attention/models/feed_forward.hpp>
#include <implicit_attention/models/language_model.hpp>
#include <implicit_attention/trace/experts.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The configuration with the family's `model_type`. Readers of mixers ask for it (whether a norm runs over groups, the defaults of absent
/// keys): where a file lacks the key, the tensors have told the family.
template <class = void>
[[nodiscard]] Configuration with_model_type(Configuration configuration, std::string_view type) {
  if (!configuration.has("model_type")) configuration.set("model_type", std::string(type));
  return configuration;
}

/// Reads the embedding into `parts` and holds the sizes against the configuration. Returns the number of layers below `layer_prefix`.
template <Real S>
[[nodiscard, gnu::cold]] Index read_sizes(const TensorSource<S>& source, const Configuration& configuration, std::string_view embedding,
                                          std::string_view layer_prefix, LanguageModelParts<S>& parts) {
  parts.embedding = PrefixedTensors<S>(source, "").required(embedding, 2);
  const Index layers = count_layers(source, layer_prefix);
  expect_integer(configuration, {"hidden_size", "d_model"}, parts.embedding.cols(), "the embedding is that wide");
  expect_integer(configuration, {"num_hidden_layers", "n_layer"}, layers, "the weights have that many layers");
  expect_vocabulary(configuration, parts.embedding.rows());
  return layers;
}

/// A model of that name with its embedding; `layers` receives the number of its layers.
template <Real S>
[[nodiscard]] LanguageModelParts<S> begin_model(const TensorSource<S>& source, const Configuration& configuration, std::string name,
                                                std::string_view embedding, std::string_view layer_prefix, Index& layers) {
  LanguageModelParts<S> parts;
  parts.name = std::move(name);
  layers = read_sizes(source, configuration, embedding, layer_prefix, parts);
  return parts;
}

/// The share of each head that is rotated.
template <class = void>
[[nodiscard]] double rotary_share(const Configuration& configuration, double otherwise) {
  constexpr std::string_view on_top = "partial_rotary_factor", below = "rope_parameters.partial_rotary_factor";
  const double share = configuration.number({below, on_top}).value_or(otherwise);
  if (!(share >= 0 && share <= 1))
    raise(ErrorKind::value, configuration.where(), ": key ", configuration.has(on_top) ? on_top : below, " is ", share,
          ", expected 0 to 1");
  return share;
}

/// Keys of a kind of layer, where a model has no layer of it.
template <class = void>
[[gnu::cold]] void ignore_keys_without(const Configuration& configuration, const std::vector<std::string>& kinds, std::string_view kind,
                                       std::initializer_list<std::string_view> keys) {
  if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) ignore_keys(configuration, keys);
}

/// The base of rotary positions. Scaled positions are refused: the type must be the plain one, and any other key of a scaling is an error.
template <class = void>
[[nodiscard]] double rotary_base(const Configuration& configuration, double otherwise) {
  for (const std::string_view key : {"rope_parameters.rope_type", "rope_parameters.type"})
    expect_text(configuration, key, {"default"}, "scaled rotary positions are not read here");
  return positive_number(configuration, {"rope_parameters.rope_theta", "rope_theta", "theta"}, otherwise);  // LFM2 has the last two
}
/// The same keys in a family that has no rotary positions, whatever its files say.
template <class = void>
void ignore_rotary_keys(const Configuration& configuration) {
  ignore_keys(configuration, {"rope_theta", "partial_rotary_factor", "rope_parameters.rope_theta", "rope_parameters.rope_type",
                              "rope_parameters.partial_rotary_factor"});
}

/// Keys of mixers, MLPs and experts: configurations of hybrids name all of them, also where a model has no such layer. Where it has one,
/// its reader holds them against the weights.
template <class = void>
[[gnu::cold]] void ignore_keys_of_parts(const Configuration& configuration) {
  ignore_keys(configuration, {"num_attention_heads", "num_key_value_heads", "head_dim", "attention_head_dim", "attention_bias"});
  ignore_keys(configuration, {"mamba_num_heads", "mamba_n_heads", "mamba_head_dim", "mamba_d_head", "mamba_d_state", "ssm_state_size",
                              "mamba_n_groups", "n_groups", "conv_kernel", "mamba_d_conv", "expand", "mamba_expand", "mamba_dt_rank",
                              "use_conv_bias", "mamba_conv_bias", "use_bias", "mamba_proj_bias", "mamba_hidden_act", "time_step_limit"});
  ignore_keys(configuration, {"intermediate_size", "mlp_bias", "mlp_hidden_act", "num_experts", "num_local_experts", "n_routed_experts",
                              "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size", "moe_shared_expert_intermediate_size",
                              "moe_latent_size", "n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor"});
}

/// Whether the tensors below a prefix are softmax attention's: by any of its projections, so that a lost one is named as missing and the
/// layer is not taken for one of another kind.
template <Real S>
[[nodiscard]] bool has_attention(const PrefixedTensors<S>& tensors) {
  return has_any(tensors, {"q_proj.weight", "k_proj.weight", "v_proj.weight"});
}

/// Whether these tensors are those of a mixture of experts, by what no dense MLP has: a router under any family's name, what goes with one,
/// a second expert.
template <Real S>
[[nodiscard]] bool has_experts(const PrefixedTensors<S>& tensors) {
  return has_any(tensors, {"gate.weight", "gate.e_score_correction_bias", "expert_bias", "shared_expert_gate.weight", "router.weight",
                           "router.layer.weight", "experts.1.up_proj.weight", "experts.1.w1.weight"});
}
/// Whether there are shared experts, used by every token, below `shared_experts.`.
template <Real S>
[[nodiscard]] bool has_shared_experts(const PrefixedTensors<S>& tensors) {
  return has_any(tensors, {"shared_experts.up_proj.weight", "shared_experts.down_proj.weight"});
}

/// `num_attention_heads`, which must divide the rows of the queries.
template <Real S>
[[nodiscard, gnu::cold]] Index read_attention_heads(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  const Index heads = required_integer(configuration, {"num_attention_heads"});
  const Index rows = tensors.required("q_proj.weight", 2).rows();
  if (rows % heads != 0)
    raise(ErrorKind::value, configuration.where(), ": key num_attention_heads is ", heads, ", expected a divisor of ", rows, ": ",
          tensors.name_in_file("q_proj.weight"), " has that many rows");
  return heads;
}

/// Softmax attention below a prefix such as `model.layers.3.self_attn.`; heads from num_attention_heads. Without rotary positions unless
/// `options` have them. `output_width`: what the output projection gives, 0: as many numbers as the layer reads.
template <Real S>
[[nodiscard, gnu::cold]] SoftmaxAttention<S> read_attention(const PrefixedTensors<S>& tensors, const Configuration& configuration,
                                                            typename SoftmaxAttention<S>::Options options = {}, Index output_width = 0) {
  options.heads = read_attention_heads(tensors, configuration);
  const auto biases = {std::string_view("q_proj.bias"), std::string_view("k_proj.bias"), std::string_view("v_proj.bias"),
                       std::string_view(tensors.has("out_proj.weight") ? "out_proj.bias" : "o_proj.bias")};
  expect_together(tensors, biases);
  SoftmaxAttention<S> mixer = SoftmaxAttention<S>::from_tensors(tensors, options);
  check_shape(tensors.source().where(), tensors.name_in_file(tensors.has("out_proj.weight") ? "out_proj.weight" : "o_proj.weight"),
              mixer.output_projection(), output_width == 0 ? mixer.width() : output_width, mixer.channels(), "(width, heads * head size)");
  expect_integer(configuration, {"num_key_value_heads"}, mixer.key_heads(), "k_proj.weight has rows for that many heads");
  expect_integer(configuration, {"head_dim", "attention_head_dim"}, mixer.head_size(), "q_proj.weight has that many rows a head");
  expect_tensors(configuration, {"attention_bias"}, tensors, biases);
  return mixer;
}

/// Checks the number of chosen experts and groups against the router; errors name the key.
template <class = void>
[[gnu::cold]] void expect_choice(const Configuration& configuration, const ExpertChoice& choice, Index experts) {
  check_choice(choice, experts, [&](ChoiceNumber number, Index value, const std::string& expected) {
    const auto refuse = [&](std::initializer_list<std::string_view> spellings, const char* why) {
      std::string_view key = *spellings.begin();
      for (const std::string_view other : spellings)
        if (configuration.has(other)) key = other;
      raise(ErrorKind::value, configuration.where(), ": key ", key, " is ", value, ", expected ", expected, ": ", why);
    };
    switch (number) {
      case ChoiceNumber::groups:
        return refuse({"n_group", "num_expert_group"}, "the router has that many rows");
      case ChoiceNumber::chosen_groups:
        return refuse({"topk_group"}, "there are that many groups of experts");
      case ChoiceNumber::chosen:
        return refuse({"num_experts_per_tok", "num_experts_per_token"}, "that many experts can be chosen");
    }
  });
}

/// Fails unless the configuration gives every layer the kind that its tensors have. `kinds` are those of the tensors; where a configuration
/// uses other words for them, `synonyms` has pairs (the configuration's word, ours).
template <class = void>
[[gnu::cold]] void expect_layer_kinds(const Configuration& configuration, std::initializer_list<std::string_view> keys,
                                      const std::vector<std::string>& kinds,
                                      std::initializer_list<std::pair<std::string_view, std::string_view>> synonyms) {
  for (const std::string_view key : keys) {
    const auto named = configuration.texts({key});
    if (!named) continue;
    if (named->size() != kinds.size())
      raise(ErrorKind::value, configuration.where(), ": key ", key, " has ", named->size(), " entries, expected ", kinds.size(),
            ": the weights have ", kinds.size(), " layers");
    for (std::size_t layer = 0; layer < kinds.size(); ++layer) {
      std::string_view word = (*named)[layer];
      for (const auto& [theirs, ours] : synonyms)
        if (word == theirs) word = ours;
      if (word != kinds[layer])
        raise(ErrorKind::value, configuration.where(), ": key ", key, " has ", (*named)[layer], " for layer ", layer, ", expected ",
              kinds[layer], ": that is what the layer's tensors are");
    }
  }
}

/// Whether a list of layer numbers, counted from `first`, names this one; nothing where the key is absent.
template <class = void>
[[nodiscard]] std::optional<bool> listed(const Configuration& configuration, std::string_view key, Index layer, Index first = 0) {
  const auto numbers = configuration.numbers({key});
  if (!numbers) return std::nullopt;
  return std::find(numbers->begin(), numbers->end(), static_cast<double>(layer + first)) != numbers->end();
}

/// Fails where the configuration says that a layer is what its tensors are not.
template <class = void>
[[gnu::cold]] void expect_layer_is(const Configuration& configuration, std::string_view key, std::optional<bool> configured, bool is,
                                   Index layer, std::string_view what) {
  if (configured && *configured != is)
    raise(ErrorKind::value, configuration.where(), ": by key ", key, ", layer ", layer, *configured ? " is " : " is not ", what,
          ", expected otherwise: that is what the layer's tensors are");
}

/// Fails unless a list of layer numbers in the configuration names the layers of one kind, and no others.
template <class = void>
[[gnu::cold]] void expect_listed_layers(const Configuration& configuration, std::string_view key, const std::vector<std::string>& kinds,
                                        std::string_view kind) {
  for (std::size_t layer = 0; layer < kinds.size(); ++layer)
    if (const std::optional<bool> named = listed(configuration, key, static_cast<Index>(layer)); named && *named != (kinds[layer] == kind))
      raise(ErrorKind::value, configuration.where(), ": key ", key, *named ? " names" : " does not name", " layer ", layer,
            ", expected the layers of kind ", kind, ": its tensors are of kind ", kinds[layer]);
}

/// down(silu(gate_scale gate u) * up u), of three tensors. Biases and inner width (`width_key`) are checked against the configuration.
template <Real S>
[[nodiscard, gnu::cold]] GatedFeedForward<S> read_gated_part(const PrefixedTensors<S>& tensors, const Configuration& configuration,
                                                             S gate_scale = 1, std::string_view width_key = "intermediate_size") {
  const auto biases = {std::string_view("up_proj.bias"), std::string_view("gate_proj.bias"), std::string_view("down_proj.bias")};
  expect_together(tensors, biases);
  GatedFeedForward<S> part = GatedFeedForward<S>::from_tensors(tensors, Function::silu);
  expect_text(configuration, "hidden_act", {"silu", "swish"}, "the feed-forward parts' activation");
  expect_integer(configuration, {width_key}, part.inner_width(), message(tensors.name_in_file("up_proj.weight"), " has that many rows"));
  expect_tensors(configuration, {"mlp_bias"}, tensors, biases);
  return gate_scale == S(1) ? part : GatedFeedForward<S>(part.weights(), Function::silu, gate_scale);
}

/// A gated part whose first tensor (2M, D) holds the gate's rows, then the up projection's. Nothing is copied.
template <Real S>
[[nodiscard, gnu::cold]] GatedFeedForward<S> read_joined_part(const PrefixedTensors<S>& tensors, const std::string& gate_up,
                                                              const std::string& down, Function function) {
  const Array<S> weight = tensors.required(gate_up, 2);
  if (weight.rows() % 2 != 0)
    raise(ErrorKind::shape, tensors.source().where(), ": tensor ", tensors.name_in_file(gate_up), " has ", weight.rows(),
          " rows, expected an even number: the gate's, then the up projection's");
  typename GatedFeedForward<S>::Weights w;
  w.gate_proj_weight = weight.middle_rows(0, weight.rows() / 2);
  w.up_proj_weight = weight.middle_rows(weight.rows() / 2, weight.rows() / 2);
  w.down_proj_weight = tensors.required(down, 2);
  return GatedFeedForward<S>(std::move(w), function);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
