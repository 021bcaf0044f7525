// Mamba-2 mixers out of public configurations: what shapes cannot tell, under the keys of every family that has such mixers.
#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/layers/mamba2.hpp>
#include <implicit_attention/models/checkpoint.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// `time_step_limit`: two numbers, the second of which may be Infinity or null; absent: no limit. `time_step_min`, `_max` and `_floor`
/// belong to initialisation and bound nothing, though one port clamps at time_step_min (huggingface/transformers#48989).
/// Zamba2 alone takes time_step_min, as its public port does: the released numbers are that port's. The authors' own code does not, and
/// `time_step_limit: [0, Infinity]` gives theirs.
template <class = void>
[[nodiscard, gnu::cold]] std::array<double, 2> read_time_step_limit(const Configuration& configuration) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const std::string_view key : {"time_step_limit", "mamba_dt_limit", "ssm_cfg.dt_limit"})
    if (const auto limit = configuration.numbers({key})) {
      if (limit->size() != 2 || !((*limit)[0] <= (*limit)[1]))
        raise(ErrorKind::value, configuration.where(), ": key ", key, " is ", configuration_text(*limit),
              ", expected two numbers, the smaller one first");
      return {(*limit)[0], (*limit)[1]};
    }
  if (configuration.text({"model_type"}) == "zamba2") return {configuration.number({"time_step_min"}).value_or(0.001), infinity};
  return {0, infinity};
}

/// The options of a Mamba-2 mixer whose tensors stand below `tensors`.
template <Real S>
[[nodiscard]] typename Mamba2<S>::Options mamba2_options(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  const std::string type = configuration.text({"model_type"}).value_or("");
  typename Mamba2<S>::Options options;
  options.time_step_limit = read_time_step_limit(configuration);
  expect_fits<S>(configuration, "time_step_limit", options.time_step_limit[0]);
  const Index channels = tensors.required("out_proj.weight", 2).cols();
  const Index shared = (tensors.required_convolution("conv1d.weight").rows() - channels) / 2;
  const auto groups = configuration.integer({"n_groups", "mamba_n_groups", "mamba_ngroups", "ssm_cfg.ngroups"});
  std::string_view state_key = "state_size";  // as the configuration spells it
  for (const std::string_view key : {"ssm_cfg.d_state", "d_state", "mamba_d_state", "ssm_state_size", "state_size"})
    if (configuration.has(key)) state_key = key;
  const auto state = configuration.integer({"state_size", "ssm_state_size", "mamba_d_state", "d_state", "ssm_cfg.d_state"});
  if (groups)
    options.groups = *groups;
  else if (state && *state > 0)
    options.groups = shared / *state;
  else if (type == "mamba2" || type == "nemotron_h") {  // the public ports' defaults: 8 groups, state 128
    if (shared != Index(8) * 128)
      raise(ErrorKind::value, configuration.where(),
            ": keys n_groups and state_size are missing, expected one of them: ", tensors.name_in_file("conv1d.weight"), " has ", shared,
            " rows for B, and 8 groups of 128 without them");
    options.groups = 8;
  }
  // As double: the product of any two numbers that a file may hold.
  const double product = static_cast<double>(state.value_or(0)) * static_cast<double>(options.groups);
  if (state && (*state < 1 || product != static_cast<double>(shared)))
    raise(ErrorKind::value, configuration.where(), ": key ", state_key, ": ", *state, " numbers of state times ", options.groups,
          " groups is ", product, ", expected ", shared, ": ", tensors.name_in_file("conv1d.weight"), " has that many rows for B");
  // Over each group in the authors' code, Nemotron-H, Falcon-H1 and Zamba2; over the whole width in the other ports.
  const bool by_group = type == "nemotron_h" || type == "falcon_h1" || type == "zamba2" || configuration.has("ssm_cfg.layer");
  options.norm_groups = configuration.integer({"norm_groups"}).value_or(by_group ? options.groups : 1);
  // The gate comes first by default, but after the norm in Falcon-H1, as its port has it. Hugging Face's Mamba-2 never reads the key,
  // which is true in released files (Mamba-Codestral): modeling_mamba2.py puts the gate first, the fused kernel is called with false.
  const bool before =
      configuration.boolean({"norm_before_gate", "mamba_norm_before_gate", "ssm_cfg.norm_before_gate"}).value_or(type == "falcon_h1");
  options.norm_before_gate = before && type != "mamba2";
  // A constant of the code in Zamba2 and the authors' own; layer_norm_epsilon alone in the ports of Mamba-2 and Nemotron-H.
  if (type == "mamba2" || type == "nemotron_h")
    options.norm_eps = positive_number(configuration, {"layer_norm_epsilon"}, 1e-5);
  else if (type == "zamba2" || configuration.has("ssm_cfg.layer"))
    options.norm_eps = 1e-5;
  else
    options.norm_eps = positive_number(configuration, {"layer_norm_epsilon", "rms_norm_eps"}, 1e-5);
  return options;
}

/// Holds the keys of all dialects against one mixer's weights, and the tensors that the keys promise.
template <Real S>
[[gnu::cold]] void expect_mamba2_layer(const Configuration& configuration, const Mamba2<S>& mixer, const PrefixedTensors<S>& tensors) {
  const auto& w = mixer.weights();
  const Index head_size = mixer.channels() / mixer.heads();
  expect_integer(configuration, {"num_heads", "mamba_num_heads", "mamba_n_heads", "n_mamba_heads"}, mixer.heads(),
                 "A_log has that many numbers");
  // head_dim is attention's in Falcon-H1 and Nemotron-H.
  for (const std::string_view key : {"mamba_head_dim", "mamba_d_head", "mamba_headdim", "ssm_cfg.headdim"})
    if (const Configuration::Value* value = configuration.find(key);
        value != nullptr && (!std::holds_alternative<std::string>(*value) || std::get<std::string>(*value) != "auto"))
      expect_integer(configuration, {key}, head_size, "out_proj.weight has that many columns a head");
  if (!configuration.has("num_attention_heads"))
    expect_integer(configuration, {"head_dim"}, head_size, "out_proj.weight has that many columns a head");
  expect_integer(configuration, {"conv_kernel", "mamba_d_conv", "d_conv", "ssm_cfg.d_conv"}, mixer.convolution_width(),
                 "conv1d.weight is that wide");
  expect_integer(configuration, {"mamba_d_ssm", "ssm_cfg.d_ssm"}, mixer.channels(), "out_proj.weight has that many columns");
  if (head_size > 1)
    expect_boolean(configuration, {"ssm_cfg.D_has_hdim"}, w.D.size() == mixer.channels(), message("D has ", w.D.size(), " numbers"));
  if (configuration.text({"model_type"}) == "mamba2") {
    expect_integer(configuration, {"intermediate_size"}, mixer.channels(), "out_proj.weight has that many columns");
    static_cast<void>(configuration.find("time_step_rank"));  // for Mamba-1's dt_proj, which is not here; the port does not use it
  }
  // Nemotron-H's own key does not tell the inner width, nor Falcon-H1's where mamba_d_ssm does.
  const bool tells = configuration.text({"model_type"}) != "nemotron_h" && !configuration.has("mamba_d_ssm");
  for (const std::string_view key : {"expand", "mamba_expand", "ssm_cfg.expand"})
    if (const auto expand = configuration.number({key});
        expand && tells && std::floor(*expand * static_cast<double>(mixer.width())) != static_cast<double>(mixer.channels()))
      contradiction(configuration, key, *expand, static_cast<double>(mixer.channels()) / static_cast<double>(mixer.width()),
                    message("the weights have ", mixer.channels(), " channels and width ", mixer.width()));
  for (const std::string_view key : {"hidden_act", "mamba_hidden_act"})
    if (key == "mamba_hidden_act" || configuration.text({"model_type"}) != "zamba2")  // there it is the feed-forward part's
      expect_text(configuration, key, {"silu", "swish"}, "Mamba-2's activation");
  expect_text(configuration, "ssm_cfg.activation", {"silu", "swish"}, "Mamba-2's activation");
  const auto expect_tensor = [&](std::initializer_list<std::string_view> keys, const char* name, const Array<S>& tensor) {
    expect_boolean(configuration, keys, !tensor.empty(),
                   message("tensor ", tensors.name_in_file(name), tensor.empty() ? " is missing" : " is there"));
  };
  expect_tensor({"use_conv_bias", "mamba_conv_bias", "ssm_cfg.conv_bias"}, "conv1d.bias", w.conv1d_bias);
  // Nemotron-H has two keys, and use_bias counts where it is present: transformers writes the other one and never reads it.
  const bool used = configuration.text({"model_type"}) == "nemotron_h" && configuration.has("use_bias");
  if (used) ignore_keys(configuration, {"mamba_proj_bias"});
  for (const std::string_view key : {"use_bias", "mamba_proj_bias", "add_bias_linear", "ssm_cfg.bias"}) {
    if (used && key == "mamba_proj_bias") continue;
    expect_tensor({key}, "in_proj.bias", w.in_proj_bias);
    // Falcon-H1 has a key of its own for the second one.
    if (!configuration.has("projectors_bias")) expect_tensor({key}, "out_proj.bias", w.out_proj_bias);
  }
  expect_tensor({"projectors_bias"}, "out_proj.bias", w.out_proj_bias);
  expect_tensor({"mamba_rms_norm", "ssm_cfg.rmsnorm"}, "norm.weight", w.norm_weight);
  expect_text(configuration, "ssm_cfg.layer", {"Mamba2"}, "the tensors are those of Mamba-2");
  // The authors have two keys of this name; the one at the top level is about the blocks' norms.
  if (configuration.has("ssm_cfg.layer"))
    ignore_keys(configuration, {"rms_norm"});
  else
    expect_tensor({"rms_norm"}, "norm.weight", w.norm_weight);
  const bool may_lack = configuration.has("mamba_rms_norm") || configuration.has("ssm_cfg.rmsnorm") || configuration.has("rms_norm") ||
                        configuration.text({"model_type"}).value_or("falcon_h1") == "falcon_h1";
  if (w.norm_weight.empty() && !may_lack)
    raise(ErrorKind::file, tensors.source().where(), ": tensor ", tensors.name_in_file("norm.weight"), " is missing");
}

/// A Mamba-2 mixer below a prefix such as `backbone.layers.0.mixer.`. `ssm_multipliers`, if there are any, are those of in_proj's rows for
/// z, x, B, C and dt (Falcon-H1). `input_multiplier` is a factor of the mixer's input; the biases of in_proj do not see it.
template <Real S>
[[nodiscard, gnu::cold]] Mamba2<S> read_mamba2(const PrefixedTensors<S>& tensors, const Configuration& configuration,
                                               double input_multiplier = 1) {
  // One key switches both, except in Falcon-H1, where projectors_bias switches the second.
  if (!configuration.has("projectors_bias") && configuration.text({"model_type"}) != "falcon_h1")
    expect_together(tensors, {"in_proj.bias", "out_proj.bias"});
  Mamba2<S> mixer = Mamba2<S>::from_tensors(tensors, mamba2_options(tensors, configuration));
  expect_mamba2_layer(configuration, mixer, tensors);
  const std::vector<double> multipliers = read_factors<S>(configuration, "ssm_multipliers", 5);
  if (!configuration.has("ssm_multipliers") && input_multiplier == 1) return mixer;
  const S factor = static_cast<S>(input_multiplier);
  const Index channels = mixer.channels(), shared = mixer.state() * mixer.options().groups;
  RowVector<S> scales(2 * channels + 2 * shared + mixer.heads());
  Index first = 0;
  for (std::size_t part = 0; const Index size : {channels, channels, shared, shared, mixer.heads()}) {
    scales.segment(first, size).setConstant(factor * static_cast<S>(multipliers[part]));
    first += size;
    ++part;
  }
  typename Mamba2<S>::Weights weights = mixer.weights();
  weights.row_scales = scales;
  if (factor != S(1) && !weights.in_proj_bias.empty()) {
    // The scales multiply the biases, too.
    if (!(std::abs(factor) > S(0)))
      raise(ErrorKind::value, configuration.where(), ": key ssm_in_multiplier is ", input_multiplier, ", expected another number than 0");
    weights.in_proj_bias = Matrix<S>(weights.in_proj_bias.matrix() / factor);
  }
  return Mamba2<S>(std::move(weights), mixer.options());
}

/// The same by itself, as Falcon-H1's port has it: its mixer multiplies its input by ssm_in_multiplier, which in a whole model is the
/// branch's.
template <Real S>
[[nodiscard, gnu::cold]] Mamba2<S> read_mamba2_layer(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  return read_mamba2(tensors, configuration, read_factor<S>(configuration, "ssm_in_multiplier"));
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
