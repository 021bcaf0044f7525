// Layers of the literature that are read by themselves, with the configurations of their public code: options, and sizes checked against
// the weights.
#pragma once

#include <cmath>
#include <initializer_list>
#include <string_view>
#include <utility>

#include <implicit_attention/layers/gla.hpp>
#include <implicit_attention/layers/gru.hpp>
#include <implicit_attention/layers/hgrn.hpp>
#include <implicit_attention/layers/hgrn2.hpp>
#include <implicit_attention/layers/hyena.hpp>
#include <implicit_attention/layers/linear_attention.hpp>
#include <implicit_attention/layers/lstm.hpp>
#include <implicit_attention/layers/mamba3.hpp>
#include <implicit_attention/layers/mlla.hpp>
#include <implicit_attention/layers/mlstm.hpp>
#include <implicit_attention/layers/mlstm_large.hpp>
#include <implicit_attention/layers/retnet.hpp>
#include <implicit_attention/layers/s4d.hpp>
#include <implicit_attention/layers/vim.hpp>
#include <implicit_attention/models/mamba_options.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Keys that give a size as a share of another.
template <class = void>
[[gnu::cold]] void expect_share(const Configuration& configuration, std::initializer_list<std::string_view> spellings, Index size,
                                Index whole) {
  const double share = static_cast<double>(size) / static_cast<double>(whole);
  for (const std::string_view key : spellings)
    if (const std::optional<double> value = configuration.number({key});
        value && std::floor(*value * static_cast<double>(whole)) != static_cast<double>(size))
      contradiction(configuration, key, *value, share, message("the weights have ", size, " of that where the width is ", whole));
}

/// The same where the public code rounds to a multiple of a number that a key gives, 64 without it: up or, where `up` is false, down. The
/// share itself is taken, too.
template <class = void>
[[gnu::cold]] void expect_rounded_share(const Configuration& configuration, std::string_view key, std::string_view multiple_key, Index size,
                                        Index whole, bool up = true) {
  const Index multiple = configuration.integer({multiple_key}).value_or(64);
  const double share = configuration.number({key}).value_or(0) * static_cast<double>(whole), m = static_cast<double>(multiple);
  if (multiple < 1) raise(ErrorKind::value, configuration.where(), ": key ", multiple_key, " is ", multiple, ", expected at least 1");
  const double rounded = (up ? std::ceil(share / m) : std::floor(share / m)) * m;
  if (rounded != static_cast<double>(size)) expect_share(configuration, {key}, size, whole);
}

/// What flash-linear-attention's layers have together or not at all: short convolutions and their biases, of q, k and v or what stands for
/// them; and its output gate, which is there unless the configuration says otherwise.
template <Real S>
[[gnu::cold]] void expect_head_mixer_tensors(const PrefixedTensors<S>& tensors, const Configuration& configuration,
                                             std::initializer_list<std::string_view> convolved, bool gated) {
  for (const std::string_view end : {"_conv1d.weight", "_conv1d.bias"}) {
    std::vector<std::string> names;
    for (const std::string_view one : convolved) names.push_back(message(one, end));
    expect_together(tensors, names);
  }
  if (gated) expect_present_unless(configuration, "use_output_gate", tensors, {"g_proj.weight"});
}

/// The keys that flash-linear-attention's layers share.
template <class Layer>
[[nodiscard]] Layer checked_head_mixer(Layer layer, const Configuration& configuration) {
  const auto& w = layer.weights();
  ignore_flash_linear_attention_keys(configuration);
  expect_integer(configuration, {"hidden_size"}, layer.width(), "the projections are that wide");
  expect_share(configuration, {"expand_k", "expand_ratio_k"}, layer.state() * layer.heads(), layer.width());
  expect_share(configuration, {"expand_v"}, layer.channels(), layer.width());
  expect_integer(configuration, {"value_dim"}, layer.channels(), "the values are that wide");
  const bool affine = !w.norm_weight.empty();
  expect_boolean(configuration, {"elementwise_affine"}, affine, affine ? "the norm has weights" : "the norm has no weights");
  const std::optional<Index> size = configuration.integer({"conv_size"});
  const std::optional<bool> bias = configuration.boolean({"conv_bias"});
  if (!w.v_proj.convolved()) return layer;  // without short convolutions the two say nothing
  if (size) expect_integer(configuration, {"conv_size"}, w.v_proj.convolution_weight.cols(), "the short convolutions are that wide");
  if (bias)
    expect_boolean(configuration, {"conv_bias"}, !w.v_proj.convolution_bias.empty(),
                   w.v_proj.convolution_bias.empty() ? "the short convolutions have no bias" : "the short convolutions have a bias");
  return layer;
}

template <Real S>
[[nodiscard, gnu::cold]] RetNet<S> read_retnet(const PrefixedTensors<S>& tensors, const Configuration& configuration, bool parallel) {
  static_cast<void>(required_integer(configuration, {"num_heads"}));
  expect_head_mixer_tensors(tensors, configuration, {"q", "k", "v"}, true);
  return checked_head_mixer(RetNet<S>::from_tensors(tensors, RetNet<S>::options(configuration, parallel)), configuration);
}

template <Real S>
[[nodiscard, gnu::cold]] Gla<S> read_gla(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  static_cast<void>(required_integer(configuration, {"num_heads"}));
  expect_head_mixer_tensors(tensors, configuration, {"q", "k", "v"}, true);
  expect_present(tensors, {"gk_proj.1.bias"});
  ignore_keys(configuration, {"use_gk", "use_gv"});  // read by no layer
  Gla<S> layer = checked_head_mixer(Gla<S>::from_tensors(tensors, Gla<S>::options(configuration)), configuration);
  expect_integer(configuration, {"gate_low_rank_dim"}, layer.rank(), "gk_proj.0.weight has that many rows");
  return layer;
}

template <Real S>
[[nodiscard, gnu::cold]] Hgrn<S> read_hgrn(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  expect_head_mixer_tensors(tensors, configuration, {"f", "i"}, true);
  ignore_keys(configuration, {"use_lower_bound"});  // whether a model gives its layers a bound
  Hgrn<S> layer = checked_head_mixer(Hgrn<S>::from_tensors(tensors, Hgrn<S>::options(configuration)), configuration);
  expect_share(configuration, {"expand_ratio"}, layer.channels(), layer.width());
  return layer;
}

/// One head for every `expand_ratio` rows of f_proj, as in the public code; `num_heads` of them without that key.
template <Real S>
[[nodiscard, gnu::cold]] Hgrn2<S> read_hgrn2(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  expect_head_mixer_tensors(tensors, configuration, {"q", "f", "i"}, false);
  ignore_keys(configuration, {"use_lower_bound"});  // whether a model gives its layers a bound
  typename Hgrn2<S>::Options options = Hgrn2<S>::options(configuration);
  const std::optional<Index> ratio = configuration.integer({"expand_ratio"});
  if (ratio) {
    const Index keys = tensors.required("f_proj.weight", 2).rows();
    if (*ratio < 1 || keys % *ratio != 0)
      raise(ErrorKind::value, configuration.where(), ": key expand_ratio is ", *ratio, ", expected a divisor of ", keys, ": ",
            tensors.name_in_file("f_proj.weight"), " has that many rows");
    options.heads = keys / *ratio;
  } else {
    options.heads = required_integer(configuration, {"num_heads"});
  }
  return checked_head_mixer(Hgrn2<S>::from_tensors(tensors, options), configuration);
}

template <Real S>
[[nodiscard, gnu::cold]] LinearAttention<S> read_linear_attention(const Configuration& configuration) {
  static_cast<void>(required_integer(configuration, {"num_heads"}));
  ignore_keys(configuration, {"hidden_size", "n_embd", "d_model"});  // the input is queries, keys and values side by side
  return LinearAttention<S>(LinearAttention<S>::options(configuration));
}

template <Real S>
[[nodiscard, gnu::cold]] Mlstm<S> read_mlstm(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  expect_together(tensors, {"proj_up.bias", "q_proj.bias", "k_proj.bias", "v_proj.bias", "proj_down.bias"});
  expect_together(tensors, {"conv1d.conv.weight", "conv1d.conv.bias"});
  Mlstm<S> layer = Mlstm<S>::from_tensors(tensors, Mlstm<S>::options(configuration));
  expect_integer(configuration, {"embedding_dim"}, layer.width(), "proj_up.weight has that many columns");
  expect_integer(configuration, {"inner_dim"}, layer.channels(), "learnable_skip is that long");
  expect_rounded_share(configuration, "proj_factor", "round_proj_up_to_multiple_of", layer.channels(), layer.width(),
                       configuration.boolean({"round_proj_up_dim_up"}).value_or(true));
  expect_integer(configuration, {"num_heads"}, layer.heads(), "mlstm_cell.igate.weight has that many rows");
  expect_integer(configuration, {"conv1d_kernel_size"}, layer.convolution_width(), "conv1d.conv.weight is that wide");
  expect_integer(configuration, {"qkv_proj_blocksize"}, layer.weights().q_proj_weight.cols(), "q_proj.weight has blocks of that size");
  const bool bias = !layer.weights().proj_up_bias.empty();
  expect_boolean(configuration, {"bias"}, bias, bias ? "proj_up.bias is there" : "there is no proj_up.bias");
  return layer;
}

template <Real S>
[[nodiscard, gnu::cold]] MlstmLarge<S> read_mlstm_large(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  expect_text(configuration, "weight_mode", {"single"}, "weights that are joined in one tensor are not read here");
  expect_present(tensors, {"igate_preact.bias", "fgate_preact.bias"});
  expect_together(tensors, {"q.bias", "k.bias", "v.bias", "ogate_preact.bias", "multihead_norm.bias", "out_proj.bias"});
  // How the same numbers are computed, and what surrounds the layer (NX-AI's configurations and transformers').
  ignore_keys(configuration, {"chunkwise_kernel", "sequence_kernel", "step_kernel", "mode", "return_last_states", "autocast_kernel_dtype",
                              "inference_state_dtype", "norm_reduction_force_float32", "max_inference_chunksize", "add_out_norm",
                              "ffn_proj_factor", "ffn_round_up_to_multiple_of", "output_logit_soft_cap", "num_blocks",
                              "forward_backend_name", "step_backend_name", "add_post_blocks_norm", "igate_bias_init_range"});
  MlstmLarge<S> layer = MlstmLarge<S>::from_tensors(tensors, MlstmLarge<S>::options(configuration));
  const Index keys = layer.weights().q_weight.rows();
  expect_integer(configuration, {"embedding_dim"}, layer.width(), "v.weight has that many columns");
  expect_integer(configuration, {"num_heads"}, layer.heads(), "igate_preact.weight has that many rows");
  expect_integer(configuration, {"qk_dim"}, keys, "q.weight has that many rows");
  expect_integer(configuration, {"v_dim"}, layer.channels(), "v.weight has that many rows");
  expect_integer(configuration, {"head_dim"}, layer.channels() / layer.heads(), "v.weight has that many rows a head");
  for (const auto& [key, size] : {std::pair("qk_dim_factor", keys), std::pair("v_dim_factor", layer.channels())})
    expect_rounded_share(configuration, key, "mlstm_round_up_to_multiple_of", size, layer.width());
  const bool bias = !layer.weights().q_bias.empty();
  expect_boolean(configuration, {"use_bias"}, bias, bias ? "q.bias is there" : "there is no q.bias");
  return layer;
}

template <Real S>
[[nodiscard, gnu::cold]] Mamba3<S> read_mamba3(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  Mamba3<S> layer = Mamba3<S>::from_tensors(tensors, Mamba3<S>::options(configuration));
  expect_integer(configuration, {"headdim", "head_dim"}, layer.channels() / layer.heads(), "out_proj.weight has that many columns a head");
  expect_integer(configuration, {"num_heads"}, layer.heads(), "D is that long");
  expect_integer(configuration, {"d_state", "state_size"}, layer.state(), "B_norm.weight is that long");
  expect_share(configuration, {"expand"}, layer.channels(), layer.width());
  const bool mimo = tensors.has("mimo_x"), normed = tensors.has("norm.weight");
  expect_boolean(configuration, {"is_mimo"}, mimo, message("tensor ", tensors.name_in_file("mimo_x"), " is ", mimo ? "there" : "missing"));
  expect_boolean(configuration, {"is_outproj_norm"}, normed,
                 message("tensor ", tensors.name_in_file("norm.weight"), " is ", normed ? "there" : "missing"));
  expect_integer(configuration, {"rank"}, layer.rank(), "B_bias has that many rows a head");
  // The public code's rank has no meaning where is_mimo is false.
  if (configuration.boolean({"is_mimo"}).value_or(true))
    expect_integer(configuration, {"mimo_rank"}, layer.rank(), "B_bias has that many rows a head");
  if (const auto floor = configuration.number({"A_floor"}); floor && *floor != 1e-4)
    contradiction(configuration, "A_floor", *floor, 1e-4, "no other floor of the rates is read here");
  ignore_keys(configuration, {"mimo_rank", "dt_min", "dt_max", "dt_init_floor"});
  ignore_flash_linear_attention_keys(configuration);
  return layer;
}

template <Real S>
[[nodiscard, gnu::cold]] Mlla<S> read_mlla(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  static_cast<void>(required_integer(configuration, {"num_heads"}));
  expect_present(tensors, {"in_proj.bias", "act_proj.bias", "dwc.bias", "attn.lepe.bias", "out_proj.bias"});
  Mlla<S> layer = Mlla<S>::from_tensors(tensors, Mlla<S>::options(configuration));
  expect_integer(configuration, {"dim"}, layer.width(), "in_proj.weight has that many rows");
  return layer;
}

template <Real S>
[[nodiscard, gnu::cold]] S4d<S> read_s4d(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  expect_present(tensors, {"output_linear.0.bias"});
  S4d<S> layer = S4d<S>::from_tensors(tensors, S4d<S>::options(configuration));
  expect_integer(configuration, {"d_model"}, layer.width(), "D is that long");
  expect_integer(configuration, {"d_state"}, 2 * layer.weights().log_A_real.cols(), "kernel.log_A_real has half as many columns");
  return layer;
}

template <Real S>
[[nodiscard, gnu::cold]] Hyena<S> read_hyena(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  expect_present(tensors, {"in_proj.bias", "short_filter.bias", "out_proj.bias"});
  Hyena<S> layer = Hyena<S>::from_tensors(tensors, Hyena<S>::options(configuration));
  expect_integer(configuration, {"d_model"}, layer.width(), "in_proj.weight has that many columns");
  // Keys of the network that computed the stored filter.
  ignore_keys(configuration, {"filter_order", "l_max", "emb_dim", "num_inner_mlps", "train_freq", "activation_freq"});
  expect_integer(configuration, {"short_filter_order"}, layer.weights().short_filter_weight.cols(), "short_filter.weight is that wide");
  return layer;
}

template <Real S>
[[nodiscard, gnu::cold]] Vim<S> read_vim(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  expect_present(tensors, {"dt_proj.bias", "dt_proj_b.bias"});
  expect_together(tensors, {"in_proj.bias", "out_proj.bias"});
  expect_together(tensors, {"conv1d.bias", "conv1d_b.bias"});
  Vim<S> layer = Vim<S>::from_tensors(tensors, Vim<S>::options(configuration));
  expect_text(configuration, "bimamba_type", {"v2"}, "the backward direction has weights of its own");
  expect_integer(configuration, {"d_model"}, layer.width(), "in_proj.weight has that many columns");
  expect_mamba_layer(configuration, layer.forward());
  expect_mamba_layer(configuration, layer.backward());
  return layer;
}

/// torch's LSTM or GRU: one layer, one direction. `batch_first` is about the arrays it was run on.
template <class Layer, Real S>
[[nodiscard, gnu::cold]] Layer read_recurrent_cell(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  expect_together(tensors, {"bias_ih_l0", "bias_hh_l0"});
  Layer layer = Layer::from_tensors(tensors);
  static_cast<void>(configuration.boolean({"batch_first"}));
  expect_integer(configuration, {"input_size"}, layer.width(), "weight_ih_l0 has that many columns");
  expect_integer(configuration, {"hidden_size"}, layer.channels(), "weight_hh_l0 has that many columns");
  expect_integer(configuration, {"num_layers"}, 1, "a layer is read by itself");
  expect_integer(configuration, {"proj_size"}, 0, "outputs are not projected");
  expect_boolean(configuration, {"bidirectional"}, false, "a layer of one direction is read");
  const bool bias = !layer.weights().bias_ih.empty();
  expect_boolean(configuration, {"bias"}, bias, bias ? "bias_ih_l0 is there" : "there is no bias_ih_l0");
  return layer;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
