// A linear projection and the short convolution that may follow it, as the layers of flash-linear-attention have them.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// `NAME_proj` and, where there is one, `NAME_conv1d`: a causal depthwise convolution of what the projection gives.
template <Real S>
struct ShortProjection {
  Array<S> weight;              ///< (channels, D)
  Array<S> bias;                ///< (channels), may be absent
  Array<S> convolution_weight;  ///< (channels, W), may be absent
  Array<S> convolution_bias;    ///< (channels), may be absent

  [[nodiscard]] bool empty() const { return weight.empty(); }
  [[nodiscard]] bool convolved() const { return !convolution_weight.empty(); }
  /// W - 1 where there is a convolution: how many inputs it carries from piece to piece.
  [[nodiscard]] Index tail_rows() const { return convolved() ? convolution_weight.cols() - 1 : 0; }

  /// Reads `NAME_proj.weight` and what belongs to it. `short_convolution` is what a configuration says; nothing: what the tensors say.
  [[nodiscard, gnu::cold]] static ShortProjection from_tensors(const PrefixedTensors<S>& tensors, const std::string& name,
                                                               std::optional<bool> short_convolution) {
    ShortProjection projection;
    projection.weight = tensors.required(name + "_proj.weight", 2);
    projection.bias = tensors.optional(name + "_proj.bias", 1);
    const std::string convolution = name + "_conv1d";
    if (short_convolution.value_or(tensors.has(convolution + ".weight"))) {
      projection.convolution_weight = tensors.required_convolution(convolution + ".weight");
      projection.convolution_bias = tensors.optional(convolution + ".bias", 1);
    }
    return projection;
  }

  void check(std::string_view who, const std::string& name, Index channels, Index width) const {
    check_shape(who, name + "_proj.weight", weight, channels, width, "(channels, width)");
    detail::check_bias(who, name + "_proj.bias", bias, channels, "channels");
    if (convolved())
      check_shape(who, name + "_conv1d.weight", convolution_weight, channels, std::max(convolution_weight.cols(), Index(1)),
                  "(channels, convolution width)");
    detail::check_bias(who, name + "_conv1d.bias", convolution_bias, channels, "channels");
  }

  /// The convolution of the projected x (L, channels), or x itself; `tail` are the inputs before it, `next` those before the next piece.
  [[nodiscard]] Value<S> convolve(const Value<S>& x, const Matrix<S>& tail, Matrix<S>& next) const {
    if (!convolved()) return x;
    const Array<S> before = detail::carried(tail);
    next = next_tail<S>(*x, before, convolution_weight.cols());
    return convolution(x, convolution_weight, convolution_bias, before);
  }
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
