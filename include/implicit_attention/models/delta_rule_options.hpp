// Options of the layers with a delta rule, and of LFM2's convolution, as public configurations spell them.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/layers/gated_delta_net.hpp>
#include <implicit_attention/layers/kda.hpp>
#include <implicit_attention/layers/short_convolution.hpp>
#include <implicit_attention/models/checkpoint.hpp>
#include <implicit_attention/models/hybrid_parts.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The decay's rate and the convolutions, which every public layer of a hybrid has: one convolution where q, k and v are joined in one
/// tensor (Qwen), else one or three.
template <Real Scalar>
[[gnu::cold]] void expect_delta_rule_tensors(const PrefixedTensors<Scalar>& tensors, bool joined) {
  if (!has_decay_rate(tensors)) expect_present(tensors, {"A_log"});
  if (joined || tensors.has("conv1d.weight"))
    expect_present(tensors, {"conv1d.weight"});
  else
    expect_present(tensors, {"q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"});
}

/// Fails where a configuration has other sizes than a layer's weights.
template <Real Scalar>
[[gnu::cold]] void expect_delta_rule(const Configuration& configuration, const DeltaRule<Scalar>& layer) {
  expect_integer(configuration, {"key_heads", "linear_num_key_heads"}, layer.key_heads(), "the weights have that many key heads");
  expect_integer(configuration, {"value_heads", "num_v_heads", "linear_num_value_heads"}, layer.heads(),
                 "the weights have that many value heads");
  expect_integer(configuration, {"key_dim", "linear_key_head_dim", "linear_attn_config.head_dim", "linear_head_dim"}, layer.state(),
                 "k_proj has that many rows a key head");
  expect_integer(configuration, {"value_dim", "linear_value_head_dim"}, layer.head_size(), "the heads' norm has that many numbers");
  const Index width = layer.convolution_width();
  expect_integer(configuration, {"linear_conv_kernel_dim", "linear_attn_config.short_conv_kernel_size"}, width,
                 width > 0 ? "the convolution is that wide" : "there is no tensor v_conv1d.weight or conv1d.weight");
  // In flash-linear-attention's layers use_short_conv tells whether there are convolutions; conv_size stands beside it in any case.
  const std::optional<Index> size = configuration.integer({"conv_size"});
  if (size && width > 0) expect_integer(configuration, {"conv_size"}, width, "the convolution is that wide");
  expect_boolean(configuration, {"use_short_conv"}, width > 0,
                 width > 0 ? "there are weights of convolutions" : "there is no tensor v_conv1d.weight or conv1d.weight");
  if (!configuration.has("num_attention_heads"))  // with that key, head_dim is attention's
    expect_integer(configuration, {"head_dim"}, layer.state(), "k_proj has that many rows a key head");
  ignore_keys(configuration, {"expand_k", "expand_v"});  // which the weights tell
  ignore_flash_linear_attention_keys(configuration);
}

/// The convolutions' biases, which one setting switches on.
template <Real Scalar>
[[gnu::cold]] void expect_delta_rule_biases(const Configuration& configuration, const PrefixedTensors<Scalar>& tensors) {
  expect_together(tensors, {"q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"});
  expect_together(tensors, {"q_conv1d.bias", "k_conv1d.bias", "v_conv1d.bias"});
  const bool joined = tensors.has("conv1d.weight");
  if (joined || tensors.has("v_conv1d.weight"))
    expect_tensors(configuration, {"conv_bias"}, tensors, {joined ? "conv1d.bias" : "v_conv1d.bias"});
  else
    ignore_keys(configuration, {"conv_bias"});  // which says nothing without convolutions
}

/// The sizes of a delta rule as the configurations of hybrids name them, where a model has no such layer.
template <class = void>
void ignore_delta_rule_keys_without_layers(const Configuration& configuration, const std::vector<std::string>& kinds) {
  ignore_keys_without(configuration, kinds, "linear_attention",
                      {"linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim",
                       "linear_conv_kernel_dim", "linear_allow_neg_eigval"});
}

/// What all of them share, of a layer that is read by itself: whether its configuration is the layer's own or that of a public model.
template <class Options>
[[nodiscard]] Options delta_rule_options(const Configuration& configuration, double eps) {
  Options options;
  for (const std::string_view key :
       {"key_heads", "linear_num_key_heads", "linear_attn_config.num_heads", "linear_num_heads", "num_heads", "heads"})
    if (const auto heads = configuration.integer({key}); heads && options.key_heads == 0) {
      if (*heads < 1) raise(ErrorKind::value, configuration.where(), ": key ", key, " is ", *heads, ", expected at least 1");
      options.key_heads = *heads;
    }
  const bool olmo = configuration.text({"model_type"}) == "olmo_hybrid";
  options.negative_eigenvalues = configuration.boolean({"neg", "allow_neg_eigval", "linear_allow_neg_eigval"}).value_or(olmo);
  options.norm_eps = positive_number(configuration, {"eps", "norm_eps", "rms_norm_eps"}, eps);
  if (olmo) options.norm_eps = 1e-5;  // whatever rms_norm_eps is
  return options;
}

/// Gated DeltaNet or DeltaNet by itself, in any naming.
template <Real Scalar>
[[nodiscard, gnu::cold]] GatedDeltaNet<Scalar> read_gated_delta_net(const PrefixedTensors<Scalar>& tensors, const Configuration& whole) {
  const Configuration configuration = whole.below("text_config");
  expect_text(configuration, "qk_activation", {"silu"}, "no other activation of queries and keys is read here");
  expect_text(configuration, "qk_norm", {"l2"}, "no other norm of queries and keys is read here");
  expect_boolean(configuration, {"use_output_norm"}, true, "the heads' outputs are normalized");
  expect_delta_rule_biases(configuration, tensors);
  if (tensors.has("a_proj.weight")) {
    expect_present(tensors, {"b_proj.weight"});
    if (!has_decay_rate(tensors)) expect_present(tensors, {"A_log"});
  }
  const bool qwen = tensors.has("out_proj.weight");  // its norms' eps is 1e-6
  const bool hybrid = configuration.text({"model_type"}) == "olmo_hybrid";
  if (qwen || hybrid) expect_delta_rule_tensors(tensors, qwen);
  GatedDeltaNet<Scalar> layer = GatedDeltaNet<Scalar>::from_tensors(
      tensors, delta_rule_options<typename GatedDeltaNet<Scalar>::Options>(configuration, qwen ? 1e-6 : 1e-5));
  expect_delta_rule(configuration, layer);
  // Qwen's layers have both, joined with other weights.
  const auto expect_part = [&](std::string_view key, const Array<Scalar>& weight, std::string_view name) {
    expect_boolean(configuration, {key}, !weight.empty(),
                   message("tensor ", tensors.name_in_file(name), weight.empty() ? " is missing" : " is there"));
  };
  expect_part("use_gate", layer.weights().g_proj_weight, qwen ? "in_proj_*" : "g_proj.weight");
  expect_part("use_beta", layer.weights().b_proj_weight, qwen ? "in_proj_*" : "b_proj.weight");
  if (tensors.has("a_proj.weight")) {  // flash-linear-attention's Gated DeltaNet
    expect_present_unless(configuration, hybrid ? "linear_use_gate" : "use_gate", tensors, {"g_proj.weight"});
    if (!tensors.has("conv1d.weight"))
      expect_present_unless(configuration, "use_short_conv", tensors, {"q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"});
  }
  return layer;
}

/// Kimi Delta Attention by itself.
template <Real Scalar>
[[nodiscard, gnu::cold]] Kda<Scalar> read_kda(const PrefixedTensors<Scalar>& tensors, const Configuration& configuration) {
  auto options = delta_rule_options<typename Kda<Scalar>::Options>(configuration, 1e-5);
  options.lower_bound = configuration.number({"lower_bound", "linear_attn_config.gate_lower_bound"}).value_or(0.0);
  if (configuration.boolean({"safe_gate"}).value_or(false) && !(options.lower_bound < 0))
    raise(ErrorKind::value, configuration.where(), ": key safe_gate is true without a lower_bound, expected one below 0");
  expect_delta_rule_biases(configuration, tensors);
  // flash-linear-attention's gate has a bias, Kimi's has none.
  if (tensors.has("g_proj.1.weight")) expect_present(tensors, {"g_proj.1.bias"});
  ignore_keys(configuration, {"linear_attn_config.full_attn_layers", "linear_attn_config.kda_layers"});  // of the whole model
  const bool full_rank = tensors.has("g_proj.weight");
  expect_boolean(configuration, {"linear_attn_config.use_full_rank_gate"}, full_rank,
                 message("tensor ", tensors.name_in_file("g_proj.weight"), " is ", full_rank ? "there" : "missing"));
  if (configuration.text({"model_type"}) == "kimi_linear") expect_delta_rule_tensors(tensors, false);
  Kda<Scalar> layer = Kda<Scalar>::from_tensors(tensors, options);
  expect_delta_rule(configuration, layer);
  if (!tensors.has("conv1d.weight"))
    expect_present_unless(configuration, "use_short_conv", tensors, {"q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"});
  return layer;
}

/// LFM2's short convolution by itself.
template <Real Scalar>
[[nodiscard, gnu::cold]] ShortConvolution<Scalar> read_short_convolution(const PrefixedTensors<Scalar>& tensors,
                                                                         const Configuration& configuration) {
  expect_together(tensors, {"in_proj.bias", "conv.bias", "out_proj.bias"});
  ShortConvolution<Scalar> layer = ShortConvolution<Scalar>::from_tensors(tensors);
  expect_integer(configuration, {"conv_L_cache"}, layer.convolution_width(), "conv.weight is that wide");
  expect_integer(configuration, {"conv_dim", "conv_dim_out"}, layer.channels(), "conv.weight has that many rows");
  const bool bias = !layer.weights().conv_bias.empty();
  expect_boolean(configuration, {"conv_bias"}, bias, bias ? "conv.bias is there" : "there is no conv.bias");
  ignore_keys(configuration, {"norm_eps", "num_heads"});  // of the whole model
  return layer;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
