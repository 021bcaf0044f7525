// What the readers of RWKV's language models share: where the parts stand under each naming, the blocks, and layers whose settings come
// from a configuration.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/layers/rwkv4.hpp>
#include <implicit_attention/layers/rwkv5.hpp>
#include <implicit_attention/layers/rwkv6.hpp>
#include <implicit_attention/layers/rwkv7.hpp>
#include <implicit_attention/models/checkpoint.hpp>
#include <implicit_attention/models/feed_forward.hpp>
#include <implicit_attention/models/language_model.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Full names of the parts; those of a block follow `blocks` and its number.
struct RwkvNames {
  std::string embedding, blocks, attention, feed_forward, first_norm, attention_norm, feed_forward_norm, final_norm, head;
};

/// What stands before `part` in the first name that has it, at the beginning of a word; nothing where none has.
template <Real Scalar>
[[nodiscard]] std::optional<std::string> prefix_of(const TensorSource<Scalar>& source, std::string_view part) {
  for (const std::string& name : source.names())
    if (const std::size_t at = name.find(part); at != std::string::npos && (at == 0 || name[at - 1] == '.')) return name.substr(0, at);
  return std::nullopt;
}

/// Under BlinkDL's names (`blocks.N.att.`), Hugging Face's (`rwkv.blocks.N.attention.`) or flash-linear-attention's
/// (`model.layers.N.attn.`), with whatever stands before them.
template <Real Scalar>
[[nodiscard]] RwkvNames rwkv_names(const TensorSource<Scalar>& source) {
  const std::string head = prefix_of(source, "head.weight").value_or("") + "head.weight";
  if (const auto model = prefix_of(source, "layers.0.attn."))
    return {*model + "embeddings.weight",
            *model + "layers.",
            "attn.",
            "ffn.",
            "pre_norm",
            "attn_norm",
            "ffn_norm",
            *model + "norm",
            prefix_of(source, "lm_head.weight").value_or("") + "lm_head.weight"};
  if (const auto model = prefix_of(source, "blocks.0.attention."))
    return {
        *model + "embeddings.weight", *model + "blocks.", "attention.", "feed_forward.", "pre_ln", "ln1", "ln2", *model + "ln_out", head};
  const std::string model = prefix_of(source, "blocks.0.att.").value_or("");
  return {model + "emb.weight", model + "blocks.", "att.", "ffn.", "ln0", "ln1", "ln2", model + "ln_out", head};
}

/// Reads a whole model. `read(att, ffn, layer)` gives a layer's time mixing and channel mixing from the tensors of each; `eps` is the
/// norms', `final_eps` that of the last. Norms go without a bias where the configuration says `norm_bias` false.
template <Real Scalar, class Read>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> read_rwkv_model(std::string name, const TensorSource<Scalar>& source,
                                                               const Configuration& configuration, const RwkvNames& names, double eps,
                                                               double final_eps, const Read& read) {
  const PrefixedTensors<Scalar> tensors(source, "");
  LanguageModelParts<Scalar> parts;
  parts.name = std::move(name);
  parts.embedding = tensors.required(names.embedding, 2);
  const Index layers = count_layers(source, names.blocks);
  expect_integer(configuration, {"hidden_size", "n_embd"}, parts.embedding.cols(), "the embedding is that wide");
  expect_integer(configuration, {"num_hidden_layers", "n_layer"}, layers, "the weights have that many layers");
  expect_vocabulary(configuration, parts.embedding.rows());
  const bool biased = configuration.boolean({"norm_bias"}).value_or(true);
  const auto norm = [&](const std::string& of, double norm_eps) { return read_layer_norm(tensors, of, norm_eps, biased); };
  parts.embedding_norm = norm(names.blocks + "0." + names.first_norm, eps);
  for (Index layer = 0; layer < layers; ++layer) {
    const std::string block = message(names.blocks, layer, ".");
    auto [mixer, feed_forward] =
        read(PrefixedTensors<Scalar>(source, block + names.attention), PrefixedTensors<Scalar>(source, block + names.feed_forward), layer);
    parts.blocks.push_back({{{norm(block + names.attention_norm, eps), std::move(mixer)},
                             {norm(block + names.feed_forward_norm, eps), std::move(feed_forward)}}});
  }
  parts.final_norm = norm(names.final_norm, final_eps);
  parts.head = read_head(source, configuration, names.head, parts.embedding, {"tie_word_embeddings"}, false);
  return LanguageModel<Scalar>(std::move(parts));
}

/// The eps of the group norm as it stands beside the variance of the state's output: given as such, or by `head_size_divisor` d of the
/// public code, which divides that output by d and adds 1e-5; `otherwise` where the configuration has neither. The first decides.
template <class = void>
[[nodiscard]] double group_norm_eps(const Configuration& configuration, double otherwise = 64e-5) {
  const double divisor = positive_number(configuration, {"head_size_divisor"}, std::sqrt(otherwise / 1e-5));
  const double divided = configuration.has("head_size_divisor") ? 1e-5 * divisor * divisor : otherwise;
  return positive_number(configuration, {"group_norm_eps_on_s", "group_norm_eps", "group_norm_epsilon"}, divided);
}

/// Keys of the public configurations that change nothing of a layer: what surrounds it, or how the same numbers are computed. The l2 norm
/// of flash-linear-attention's fused kernel (`fuse_norm`) has its eps inside the root: 2e-7 of y.
template <class = void>
void let_pass(const Configuration& configuration) {
  ignore_keys(configuration, {"layer_norm_epsilon", "intermediate_size", "model_version", "rwkv_version", "norm_bias", "norm_first",
                              "value_dim", "wkv_state_dtype"});
  ignore_flash_linear_attention_keys(configuration);
}

/// Fails where a size in the configuration is not that of the weights.
template <class Layer>
[[gnu::cold]] void expect_heads(const Configuration& configuration, const Layer& layer, Index head_size) {
  expect_integer(configuration, {"attention_hidden_size", "dim_att"}, layer.channels(), "value.weight has that many rows");
  expect_integer(configuration, {"head_size", "head_dim", "head_size_a"}, head_size, "the weights have heads of that size");
  expect_integer(configuration, {"heads", "n_head"}, layer.heads(), "the weights have that many heads");
  // flash-linear-attention reads num_heads where there is no head_dim; Hugging Face's RWKV-5 and 6 do not read num_attention_heads.
  if (configuration.find("num_heads") != nullptr && !configuration.has("head_dim"))
    expect_integer(configuration, {"num_heads"}, layer.heads(), "the weights have that many heads");
  ignore_keys(configuration, {"num_attention_heads"});
  let_pass(configuration);
}

template <Real Scalar>
[[nodiscard, gnu::cold]] Rwkv4<Scalar> read_rwkv4(const PrefixedTensors<Scalar>& tensors, const Configuration& configuration) {
  Rwkv4<Scalar> layer = Rwkv4<Scalar>::from_tensors(tensors);
  expect_integer(configuration, {"attention_hidden_size", "dim_att"}, layer.channels(), "time_decay has that many numbers");
  let_pass(configuration);
  return layer;
}

template <Real Scalar>
[[nodiscard, gnu::cold]] Rwkv5<Scalar> read_rwkv5(const PrefixedTensors<Scalar>& tensors, const Configuration& configuration) {
  Rwkv5<Scalar> layer = Rwkv5<Scalar>::from_tensors(tensors, {group_norm_eps(configuration)});
  expect_heads(configuration, layer, layer.channels() / layer.heads());
  return layer;
}

template <Real Scalar>
[[nodiscard, gnu::cold]] Rwkv6<Scalar> read_rwkv6(const PrefixedTensors<Scalar>& tensors, const Configuration& configuration) {
  Rwkv6<Scalar> layer = Rwkv6<Scalar>::from_tensors(tensors, {group_norm_eps(configuration)});
  expect_heads(configuration, layer, layer.channels() / layer.heads());
  expect_integer(configuration, {"time_mix_extra_dim"}, layer.weights().time_maa_w1.cols() / 5, "time_maa_w1 has 5 times as many columns");
  expect_integer(configuration, {"time_decay_extra_dim"}, layer.weights().time_decay_w1.cols(), "time_decay_w1 has that many columns");
  return layer;
}

/// The group norm's eps: `group_norm_eps`, else head size * `norm_eps` (transformers, flash-linear-attention), else 64e-5 under the
/// author's names and head size * 1e-5 under flash-linear-attention's. `first`: see Rwkv7::from_tensors; told by a prefix of block 0 too.
template <Real Scalar>
[[nodiscard, gnu::cold]] Rwkv7<Scalar> read_rwkv7(const PrefixedTensors<Scalar>& tensors, const Configuration& configuration) {
  const double size = static_cast<double>(tensors.required("r_k", 2).cols()), norm_eps = positive_number(configuration, {"norm_eps"}, 1e-5);
  const bool by_head = configuration.has("norm_eps") || has_fla_names(tensors);
  const auto holds = [&](std::string_view part) { return tensors.prefix().find(part) != std::string::npos; };
  Rwkv7<Scalar> layer = Rwkv7<Scalar>::from_tensors(tensors, {group_norm_eps(configuration, by_head ? size * norm_eps : 64e-5)},
                                                    holds("blocks.0.") || holds("layers.0."));
  const auto& w = layer.weights();
  expect_heads(configuration, layer, layer.state_size());
  expect_integer(configuration, {"decay_low_rank_dim"}, w.w.down.rows(), "the decay's factors are of that rank");
  expect_integer(configuration, {"a_low_rank_dim"}, w.a.down.rows(), "the factors of a are of that rank");
  expect_integer(configuration, {"gate_low_rank_dim"}, w.g.down.rows(), "the gate's factors are of that rank");
  if (layer.has_value_residual())
    expect_integer(configuration, {"v_low_rank_dim"}, w.v.down.rows(), "the value residual's factors are of that rank");
  else
    static_cast<void>(configuration.integer({"v_low_rank_dim"}));
  return layer;
}

/// flash-linear-attention's `value_dim`: one number, or one a layer.
template <class = void>
[[gnu::cold]] void expect_value_width(const Configuration& configuration, Index layer, Index channels) {
  const Configuration::Value* const value = configuration.find("value_dim");
  const auto* const list = value == nullptr ? nullptr : std::get_if<std::vector<double>>(value);
  if (list == nullptr) return expect_integer(configuration, {"value_dim"}, channels, "value.weight has that many rows");
  if (layer >= static_cast<Index>(list->size()) || (*list)[static_cast<std::size_t>(layer)] != static_cast<double>(channels))
    raise(ErrorKind::value, configuration.where(), ": key value_dim does not give ", channels, " for layer ", layer,
          ": its values have that many channels");
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
