// Mamba mixers out of public configurations: norms of dt, B and C, and keys checked against the weights.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/models/checkpoint.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Holds the keys of both dialects against one layer's weights.
template <Real Scalar>
[[gnu::cold]] void expect_mamba_layer(const Configuration& configuration, const Mamba<Scalar>& mixer) {
  const std::string type = configuration.text({"model_type"}).value_or("mamba");
  if (type != "jamba")  // there it is the MLPs' width
    expect_integer(configuration, {"intermediate_size", "d_inner"}, mixer.channels(), "mixer.A_log has that many rows");
  for (const std::string_view key : {"expand", "mamba_expand", "ssm_cfg.expand"})
    if (const std::optional<double> expand = configuration.number({key});
        // The released Falcon-Mamba says 16 beside an intermediate_size of twice the width.
        expand && type != "falcon_mamba" &&
        std::floor(*expand * static_cast<double>(mixer.width())) != static_cast<double>(mixer.channels()))
      contradiction(configuration, key, *expand, static_cast<double>(mixer.channels()) / static_cast<double>(mixer.width()),
                    message("the weights have ", mixer.channels(), " channels and width ", mixer.width()));
  expect_integer(configuration, {"state_size", "mamba_d_state", "d_state", "ssm_cfg.d_state"}, mixer.state(),
                 "mixer.A_log has that many columns");
  expect_integer(configuration, {"conv_kernel", "mamba_d_conv", "d_conv", "ssm_cfg.d_conv"}, mixer.convolution_width(),
                 "mixer.conv1d.weight is that wide");
  const Index rank = mixer.weights().dt_proj_weight.cols();
  for (const std::string_view key : {"time_step_rank", "mamba_dt_rank", "dt_rank", "ssm_cfg.dt_rank"}) {
    const Configuration::Value* value = configuration.find(key);
    if (value == nullptr) continue;
    if (const std::string* text = std::get_if<std::string>(value)) {
      const Index automatic = (mixer.width() + 15) / 16;  // the public code's "auto"
      if (*text != "auto" || automatic != rank)
        contradiction<std::string_view>(configuration, key, *text, message(rank), "mixer.dt_proj.weight has that many columns");
    } else {
      expect_integer(configuration, {key}, rank, "mixer.dt_proj.weight has that many columns");
    }
  }
  expect_text(configuration, "ssm_cfg.layer", {"Mamba1"}, "the tensors are those of Mamba");
  ignore_keys(configuration, {"rms_norm"});  // of the blocks' norms
  const bool convolution_bias = !mixer.weights().conv1d_bias.empty();
  expect_boolean(configuration, {"use_conv_bias", "mamba_conv_bias", "ssm_cfg.conv_bias"}, convolution_bias,
                 convolution_bias ? "mixer.conv1d.bias is there" : "there is no mixer.conv1d.bias");
}

/// A Mamba mixer. Norms of dt, B and C have weights in Jamba, whose tensors tell; without weights they are Falcon-Mamba's
/// (`model_type`, or `use_bcdt_rms` in files older than that type), with an eps of their own.
template <Real Scalar>
[[nodiscard, gnu::cold]] Mamba<Scalar> read_mamba(const PrefixedTensors<Scalar>& tensors, const Configuration& configuration) {
  const std::string type = configuration.text({"model_type"}).value_or("");
  typename Mamba<Scalar>::Options options;
  options.inner_norms = configuration.boolean({"use_bcdt_rms"}).value_or(type == "falcon_mamba");
  // The norms of B and C are spelled in two ways in public files.
  const char* const B_norm = tensors.has("B_layernorm.weight") ? "B_layernorm.weight" : "b_layernorm.weight";
  const char* const C_norm = tensors.has("C_layernorm.weight") ? "C_layernorm.weight" : "c_layernorm.weight";
  const bool weighted = has_any(tensors, {"dt_layernorm.weight", B_norm, C_norm});
  if (weighted)
    for (const char* name : {"dt_layernorm.weight", B_norm, C_norm}) static_cast<void>(tensors.required(name, 1));
  else if (type == "jamba")
    static_cast<void>(tensors.required("dt_layernorm.weight", 1));
  expect_boolean(configuration, {"mamba_inner_layernorms"}, weighted,
                 message("tensor ", tensors.name_in_file("dt_layernorm.weight"), " is ", weighted ? "there" : "missing"));
  if (weighted || options.inner_norms)
    options.inner_norm_eps =
        weighted ? positive_number(configuration, {"rms_norm_eps", "layer_norm_epsilon", "norm_epsilon"}, type == "jamba" ? 1e-6 : 1e-5)
                 : positive_number(configuration, {"mixer_rms_eps"}, 1e-6);
  expect_together(tensors, {"in_proj.bias", "out_proj.bias"});
  Mamba<Scalar> mixer = Mamba<Scalar>::from_tensors(tensors, options);
  expect_mamba_layer(configuration, mixer);
  expect_tensors(configuration, {"use_bias", "mamba_proj_bias", "ssm_cfg.bias"}, tensors, {"in_proj.bias", "out_proj.bias"});
  return mixer;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
