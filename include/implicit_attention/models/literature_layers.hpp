// Layers of the literature that are read by themselves, out of the configurations of their public code: options, and sizes held against the
// weights.
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

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Keys that give a size as a share of another.
inline void expect_share(const Configuration& configuration, std::initializer_list<std::string_view> spellings, Index size, Index whole) {
  const double share = static_cast<double>(size) / static_cast<double>(whole);
  for (const std::string_view key : spellings)
    if (const std::optional<double> value = configuration.number({key});
        value && std::floor(*value * static_cast<double>(whole)) != static_cast<double>(size))
      contradiction(configuration, key, *value, share, message("the weights have ", size, " of that where the width is ", whole));
}

/// The keys that flash-linear-attention's layers share.
template <class Layer>
[[nodiscard]] Layer checked_head_mixer(Layer layer, const Configuration& configuration) {
  const auto& w = layer.weights();
  expect_integer(configuration, {"hidden_size"}, layer.width(), "the projections are that wide");
  expect_share(configuration, {"expand_k", "expand_ratio_k"}, layer.state() * layer.heads(), layer.width());
  expect_share(configuration, {"expand_v"}, layer.channels(), layer.width());
  expect_integer(configuration, {"value_dim"}, layer.channels(), "the values are that wide");
  expect_boolean(configuration, {"use_output_gate"}, true, "a layer without an output gate is not read here");
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
[[nodiscard]] RetNet<S> read_retnet(const PrefixedTensors<S>& tensors, const Configuration& configuration, bool parallel) {
  return checked_head_mixer(RetNet<S>::from_tensors(tensors, RetNet<S>::options(configuration, parallel)), configuration);
}

template <Real S>
[[nodiscard]] Gla<S> read_gla(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  Gla<S> layer = checked_head_mixer(Gla<S>::from_tensors(tensors, Gla<S>::options(configuration)), configuration);
  expect_integer(configuration, {"gate_low_rank_dim"}, layer.rank(), "gk_proj.0.weight has that many rows");
  return layer;
}

template <Real S>
[[nodiscard]] Hgrn<S> read_hgrn(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  Hgrn<S> layer = checked_head_mixer(Hgrn<S>::from_tensors(tensors, Hgrn<S>::options(configuration)), configuration);
  expect_share(configuration, {"expand_ratio"}, layer.channels(), layer.width());
  return layer;
}

template <Real S>
[[nodiscard]] Hgrn2<S> read_hgrn2(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  Hgrn2<S> layer = checked_head_mixer(Hgrn2<S>::from_tensors(tensors, Hgrn2<S>::options(configuration)), configuration);
  expect_integer(configuration, {"expand_ratio"}, layer.state(), "f_proj.weight has that many rows a head");
  return layer;
}

template <Real S>
[[nodiscard]] LinearAttention<S> read_linear_attention(const Configuration& configuration) {
  return LinearAttention<S>(LinearAttention<S>::options(configuration));
}

template <Real S>
[[nodiscard]] Mlstm<S> read_mlstm(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  Mlstm<S> layer = Mlstm<S>::from_tensors(tensors, Mlstm<S>::options(configuration));
  expect_integer(configuration, {"embedding_dim"}, layer.width(), "proj_up.weight has that many columns");
  expect_integer(configuration, {"inner_dim"}, layer.channels(), "learnable_skip is that long");
  expect_share(configuration, {"proj_factor"}, layer.channels(), layer.width());
  expect_integer(configuration, {"num_heads"}, layer.heads(), "mlstm_cell.igate.weight has that many rows");
  expect_integer(configuration, {"conv1d_kernel_size"}, layer.convolution_width(), "conv1d.conv.weight is that wide");
  expect_integer(configuration, {"qkv_proj_blocksize"}, layer.weights().q_proj_weight.cols(), "q_proj.weight has blocks of that size");
  const bool bias = !layer.weights().proj_up_bias.empty();
  expect_boolean(configuration, {"bias"}, bias, bias ? "proj_up.bias is there" : "there is no proj_up.bias");
  return layer;
}

template <Real S>
[[nodiscard]] MlstmLarge<S> read_mlstm_large(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  MlstmLarge<S> layer = MlstmLarge<S>::from_tensors(tensors, MlstmLarge<S>::options(configuration));
  const Index keys = layer.weights().q_weight.rows();
  expect_integer(configuration, {"embedding_dim"}, layer.width(), "v.weight has that many columns");
  expect_integer(configuration, {"num_heads"}, layer.heads(), "igate_preact.weight has that many rows");
  expect_integer(configuration, {"qk_dim"}, keys, "q.weight has that many rows");
  expect_integer(configuration, {"v_dim"}, layer.channels(), "v.weight has that many rows");
  expect_share(configuration, {"qk_dim_factor"}, keys, layer.width());
  expect_share(configuration, {"v_dim_factor"}, layer.channels(), layer.width());
  const bool bias = !layer.weights().q_bias.empty();
  expect_boolean(configuration, {"use_bias"}, bias, bias ? "q.bias is there" : "there is no q.bias");
  return layer;
}

template <Real S>
[[nodiscard]] Mamba3<S> read_mamba3(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  Mamba3<S> layer = Mamba3<S>::from_tensors(tensors, Mamba3<S>::options(configuration));
  expect_integer(configuration, {"headdim"}, layer.channels() / layer.heads(), "out_proj.weight has that many columns a head");
  expect_integer(configuration, {"d_state"}, layer.state(), "B_norm.weight is that long");
  expect_integer(configuration, {"rank", "mimo_rank"}, layer.rank(), "B_bias has that many rows a head");
  return layer;
}

template <Real S>
[[nodiscard]] Mlla<S> read_mlla(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  Mlla<S> layer = Mlla<S>::from_tensors(tensors, Mlla<S>::options(configuration));
  expect_integer(configuration, {"dim"}, layer.width(), "in_proj.weight has that many rows");
  return layer;
}

template <Real S>
[[nodiscard]] S4d<S> read_s4d(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  S4d<S> layer = S4d<S>::from_tensors(tensors, S4d<S>::options(configuration));
  expect_integer(configuration, {"d_model"}, layer.width(), "D is that long");
  expect_integer(configuration, {"d_state"}, 2 * layer.weights().log_A_real.cols(), "kernel.log_A_real has half as many columns");
  return layer;
}

template <Real S>
[[nodiscard]] Hyena<S> read_hyena(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  Hyena<S> layer = Hyena<S>::from_tensors(tensors, Hyena<S>::options(configuration));
  expect_integer(configuration, {"d_model"}, layer.width(), "in_proj.weight has that many columns");
  expect_integer(configuration, {"short_filter_order"}, layer.weights().short_filter_weight.cols(), "short_filter.weight is that wide");
  return layer;
}

template <Real S>
[[nodiscard]] Vim<S> read_vim(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
  Vim<S> layer = Vim<S>::from_tensors(tensors, Vim<S>::options(configuration));
  expect_text(configuration, "bimamba_type", {"v2"}, "the backward direction has weights of its own");
  expect_integer(configuration, {"d_model"}, layer.width(), "in_proj.weight has that many columns");
  expect_mamba_layer(configuration, layer.forward());
  expect_mamba_layer(configuration, layer.backward());
  return layer;
}

/// torch's LSTM or GRU: one layer, one direction. `batch_first` is about the arrays it was run on.
template <class Layer, Real S>
[[nodiscard]] Layer read_recurrent_cell(const PrefixedTensors<S>& tensors, const Configuration& configuration) {
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
