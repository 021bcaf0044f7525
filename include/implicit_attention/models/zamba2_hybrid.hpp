// A layer of Zamba2 that reads what a shared transformer block makes of the residual stream and the embeddings.
#pragma once

#include <string>
#include <utility>

#include <implicit_attention/layers/mamba2.hpp>
#include <implicit_attention/models/part.hpp>
#include <implicit_attention/trace/low_rank.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// A hybrid layer, from the residual stream r to what is added to it; x0 are the embeddings:
///
///     z = rms([r | x0])     f = pre_ff_layernorm(o_proj attention(z))     [g | up] = gate_up f + its adapter     h = down(gelu(g) up)
///     out = mamba(input_layernorm(r + linear h))
///
/// There is no residual connection inside the block, and r itself goes on without `linear h`. Mamba-2 is the first mixer.
template <Real S>
class Zamba2Hybrid final : public Part<S> {
 public:
  struct Weights {
    Norm<S> input_norm, feed_forward_norm;  ///< (2 D), (D): of the shared block
    PartPointer<S> attention;               ///< from 2 D
    Array<S> gate_up_weight, gate_up_bias;  ///< (2 M, D), (2 M)
    LowRank<S> gate_up_adapter;
    Array<S> down_weight, down_bias;  ///< (D, M), (D)
    Array<S> linear_weight;           ///< (D, D)
    Norm<S> mamba_norm;               ///< (D)
    PartPointer<S> mamba;
  };
  explicit Zamba2Hybrid(Weights weights) : w_(std::move(weights)) {
    const Index width = w_.mamba->width(), inner = w_.down_weight.cols();
    check_shape("Zamba2", "gate_up_proj.weight", w_.gate_up_weight, 2 * inner, width, "(2 * inner width, width)");
    check_bias("Zamba2", "gate_up_proj.bias", w_.gate_up_bias, 2 * inner, "2 * inner width");
    w_.gate_up_adapter.check("Zamba2", "gate_up_proj_adapter_list", 2 * inner, width);
    check_shape("Zamba2", "down_proj.weight", w_.down_weight, width, inner, "(width, inner width)");
    check_bias("Zamba2", "down_proj.bias", w_.down_bias, width, "width");
    check_shape("Zamba2", "linear.weight", w_.linear_weight, width, width, "(width, width)");
    for (const auto& [norm, size] : {std::pair(&w_.input_norm, w_.attention->width()),
                                     {&w_.input_norm, 2 * width},
                                     {&w_.feed_forward_norm, width},
                                     {&w_.mamba_norm, width}})
      if (norm->width() != size) raise(ErrorKind::shape, "Zamba2: a norm is ", norm->width(), " wide, expected ", size);
  }

  [[nodiscard]] Value<S> run(const Value<S>& r, RunContext<S>& context) const override {
    const Value<S>* const embeddings = context.find("embeddings");
    if (embeddings == nullptr) raise(ErrorKind::value, "Zamba2: a hybrid layer reads the embeddings, which were not shared with it");
    const Value<S> attended = w_.attention->run(normalize(w_.input_norm, join<S>({r, *embeddings})), context);
    const Value<S> f = normalize(w_.feed_forward_norm, attended);
    const Index inner = w_.down_weight.cols();
    const auto half = [&](Index first) {
      return adapted_linear(f, w_.gate_up_weight.middle_rows(first, inner), w_.gate_up_bias.middle_columns(first, inner),
                            w_.gate_up_adapter.outputs(first, inner));
    };
    const Value<S> h = linear(gated_product(Function::gelu_erf, half(0), half(inner)), w_.down_weight, w_.down_bias);
    const Value<S> out = w_.mamba->run(normalize(w_.mamba_norm, add(r, linear(h, w_.linear_weight))), context);
    if (context.mixers_read) std::swap(context.mixers[context.mixers.size() - 2], context.mixers.back());
    return out;
  }
  [[nodiscard]] Index width() const override { return w_.mamba->width(); }
  [[nodiscard]] Index channels() const override { return w_.mamba->channels(); }
  [[nodiscard]] Index mixers() const override { return w_.attention->mixers() + w_.mamba->mixers(); }
  [[nodiscard]] std::string name() const override { return "Zamba2Hybrid"; }
  [[nodiscard]] bool separates_documents() const override { return w_.attention->separates_documents() && w_.mamba->separates_documents(); }

 protected:
  [[nodiscard]] const void* type() const override { return type_tag<Mamba2<S>>(); }
  [[nodiscard]] const void* layer() const override { return w_.mamba->template as<Mamba2<S>>(); }

 private:
  Weights w_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
