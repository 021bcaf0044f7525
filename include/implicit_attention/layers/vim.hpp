// Vision Mamba (Zhu et al. 2024, arXiv 2401.09417): Mamba's layer in both directions over the tokens of an image. It is not causal.
#pragma once

#include <utility>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/trace/token_order.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Two of Mamba's layers share their projections; the second, whose weights are called `..._b`, sees the tokens from the last to the first:
///
///     y = A_f x + J A_b J x + biases, divided by 2 where `divide_out`        out = y out_proj^T
///
/// The division counts as normalization: with that term off, both directions stand as they are.
template <Real S>
class Vim : public LayerInterface<Vim<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "Vim";

  struct Weights {
    typename Mamba<S>::Weights forward, backward;  ///< in_proj and out_proj are the same in both
  };
  struct Options {
    bool divide_out = false;  ///< y is halved: `if_divide_out`, true in the released models
    Index class_token = -1;   ///< where the class token stands: its row is what the model reads; -1: there is none
  };
  [[nodiscard]] static Options options(const Configuration& configuration) {
    return {configuration.boolean({"if_divide_out"}).value_or(false), configuration.integer({"class_token_position"}).value_or(-1)};
  }

  /// Nothing is carried from piece to piece: both ends of the sequence are seen from everywhere.
  struct State {};
  /// One sequence through the layer: what Mamba keeps of each direction, the backward one's arrays in reversed order.
  struct Activations {
    Array<Scalar> x;  ///< (L, E): linear input, in the tokens' order
    typename Mamba<S>::Activations forward, backward;
    Array<Scalar> y;    ///< (L, E): output before the output projection
    Array<Scalar> out;  ///< (L, D)
  };

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit Vim(Weights weights, Options options = {})
      : forward_(std::move(weights.forward)), backward_(std::move(weights.backward)), options_(options) {
    if (backward_.channels() != forward_.channels() || backward_.width() != forward_.width())
      detail::raise(ErrorKind::shape, "Vim: the two directions have ", forward_.channels(), " and ", backward_.channels(),
                    " channels, expected the same number");
  }
  /// Reads the weights below a prefix such as `layers.0.mixer.`, under their public names.
  [[nodiscard, gnu::cold]] static Vim from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  [[nodiscard]] Index width() const { return forward_.width(); }
  [[nodiscard]] Index channels() const { return forward_.channels(); }
  [[nodiscard]] bool causal() const { return false; }
  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] const Mamba<S>& forward() const { return forward_; }
  [[nodiscard]] const Mamba<S>& backward() const { return backward_; }

  /// Runs the layer on u (L, D) within a trace. A carried-in state is an error (ErrorKind::value).
  [[nodiscard]] LayerRun<Vim> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;
  /// The unified form: the forward direction, and the backward one, reversed, added to it.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, E) and bias of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return forward_.output_projection(); }
  [[nodiscard]] const Array<Scalar>& output_bias() const { return forward_.output_bias(); }

 private:
  Mamba<S> forward_, backward_;
  Options options_;
};

template <Real S>
Vim<S> Vim<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  const auto direction = [&](const std::string& mark) {
    typename Mamba<S>::Weights w;
    w.in_proj_weight = tensors.required("in_proj.weight", 2);
    w.in_proj_bias = tensors.optional("in_proj.bias", 1);
    w.out_proj_weight = tensors.required("out_proj.weight", 2);
    w.out_proj_bias = tensors.optional("out_proj.bias", 1);
    w.conv1d_weight = tensors.required_convolution("conv1d" + mark + ".weight");
    w.conv1d_bias = tensors.optional("conv1d" + mark + ".bias", 1);
    w.x_proj_weight = tensors.required("x_proj" + mark + ".weight", 2);
    w.dt_proj_weight = tensors.required("dt_proj" + mark + ".weight", 2);
    w.dt_proj_bias = tensors.optional("dt_proj" + mark + ".bias", 1);
    w.A_log = tensors.required("A" + mark + "_log", 2);
    w.D = tensors.required("D" + mark, 1);
    return w;
  };
  return Vim({direction(""), direction("_b")}, options);
}

template <Real S>
LayerRun<Vim<S>> Vim<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  if (initial != nullptr)
    detail::raise(ErrorKind::value, "Vim: a state was given, and this layer, which sees both ends of a sequence, has none");
  if (options_.class_token >= u.rows())
    detail::raise(ErrorKind::value, "Vim: the class token is at ", options_.class_token, ", expected 0 to ", u.rows() - 1);
  const typename Mamba<S>::Weights& w = forward_.weights();
  const Value<S> both = linear(u, w.in_proj_weight, w.in_proj_bias);
  const Value<S> x = columns(both, 0, channels()), z = columns(both, channels(), channels());
  Activations act;
  const Value<S> ahead = forward_.mix(x, z, act.forward);
  const Value<S> behind = reverse_tokens(backward_.mix(reverse_tokens(x), reverse_tokens(z), act.backward));
  const Value<S> y = times(add(ahead, behind), options_.divide_out ? S(0.5) : S(1));
  const Value<S> out = linear(y, w.out_proj_weight, w.out_proj_bias);
  act.x = x.numbers;
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

template <Real S>
UnifiedForm<S> Vim<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<S> form = forward_.lower(act.forward, terms), behind = backward_.lower(act.backward, terms);
  behind.reversed = true;
  if (options_.divide_out && terms.has(Term::normalization))
    form.normalization = behind.normalization = Matrix<S>(Matrix<S>::Constant(form.tokens(), channels(), S(0.5)));
  form.more.push_back(std::move(behind));
  return form;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
