// Griffin's recurrent block with the RG-LRU (De et al. 2024, arXiv 2402.19427, eq. 1-4), names as in RecurrentGemma.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <implicit_attention/layers/decay_rate.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With model width D, E channels in H blocks, convolution width W:
///
///     x = linear_x(u)     c = Conv x + conv_bias     gate = gelu_tanh(linear_y(u))
///     i_t = sigmoid(blockdiag input_gate(c_t))       r_t = sigmoid(blockdiag recurrent_gate(c_t))
///     log a_t = -8 r_t softplus(recurrent_param)     m_t = sqrt(1 - a_t^2); at the first token of a document m_t = 1, a_t = 0
///     R[i,j] = i_j m_j prod_{t=j+1..i} a_t           y = gate (R c)          out = linear_out(y)
///
/// m is the normalization term. All sizes are read off the weights, which are owned or viewed and named as in the public checkpoints.
template <Real S>
class Griffin : public LayerInterface<Griffin<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "Griffin";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents
  static constexpr bool reads_positions = true;      ///< see LayerInterface::activations

  struct Weights {
    Array<Scalar> linear_x_weight;        ///< (E, D)
    Array<Scalar> linear_x_bias;          ///< (E), may be absent
    Array<Scalar> linear_y_weight;        ///< (E, D)
    Array<Scalar> linear_y_bias;          ///< (E), may be absent
    Array<Scalar> conv_1d_weight;         ///< (E, W)
    Array<Scalar> conv_1d_bias;           ///< (E), may be absent
    Array<Scalar> recurrent_param;        ///< (E)
    Array<Scalar> input_gate_weight;      ///< (H * E/H, E/H): out[h, q] = sum_p c[h, p] W[h, p, q]
    Array<Scalar> input_gate_bias;        ///< (H, E/H)
    Array<Scalar> recurrent_gate_weight;  ///< (H * E/H, E/H)
    Array<Scalar> recurrent_gate_bias;    ///< (H, E/H)
    Array<Scalar> linear_out_weight;      ///< (D, E)
    Array<Scalar> linear_out_bias;        ///< (D), may be absent
  };

  struct Options {
    /// The original code does not let the convolution look across packed documents; the Hugging Face port does, and is the default.
    bool convolution_within_documents = false;
  };

  /// What one piece of a sequence hands to the next.
  struct State {
    Matrix<Scalar> convolution_tail;  ///< (W - 1, E): the last linear inputs, oldest first
    Matrix<Scalar> recurrent;         ///< (1, E)
  };

  /// One sequence through the layer. An engine that has run the layer itself views its own buffers here: gate_input, log_a,
  /// input_gate, normalizer and starts are what the implicit attention needs, each in one of its forms.
  struct Activations {
    Array<Scalar> x;                                         ///< (L, E): linear input, before the convolution
    Array<Scalar> gate_input;                                ///< (L, E): linear_y(u), before gelu
    Array<Scalar> gate = {};                                 ///< (L, E): gelu of it, in place of gate_input where an engine has kept that
    Array<Scalar> c;                                         ///< (L, E): after the convolution, with its bias
    Array<Scalar> input_gate;                                ///< (L, E): i_t, after the sigmoid
    Array<Scalar> pre_input_gate = {};                       ///< (L, E): before it, in place of input_gate
    Array<Scalar> recurrent_gate;                            ///< (L, E): r_t, after the sigmoid; serves where log_a is empty
    Array<Scalar> pre_recurrent_gate = {};                   ///< (L, E): before it; serves where log_a is empty
    Array<Scalar> log_a;                                     ///< (L, E); at the first token of a document it is not read
    Array<Scalar> normalizer;                                ///< (L, E): m_t; computed where it is empty
    Array<Scalar> y;                                         ///< (L, E): output before the output projection
    Array<Scalar> out;                                       ///< (L, D)
    std::vector<Index> starts;                               ///< first tokens of documents, ascending
    State initial;                                           ///< the state carried in; empty matrices if none
    State final;                                             ///< the state after the last token
    MadeFrom<Scalar> log_a_from = {}, normalizer_from = {};  ///< what run() made them from; they are made again where that is another
    std::vector<Index> normalizer_starts = {};               ///< where documents began for run()'s normalizer
  };

  /// What `lower` needs of the weights: what an engine whose projections are quantised holds in plain numbers.
  struct EngineWeights {
    Array<Scalar> conv_1d_weight;   ///< (E, W)
    Array<Scalar> conv_1d_bias;     ///< (E), may be absent
    Array<Scalar> rate;             ///< (E): -8 softplus(recurrent_param); or
    Array<Scalar> recurrent_param;  ///< (E); neither is needed by an engine that hands in log_a
  };

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit Griffin(Weights weights, Options options = {});

  /// A descriptor without projections: it lowers what an engine has run, and cannot run itself; `width()` is 0.
  [[nodiscard]] static Griffin for_engine(EngineWeights weights, Options options = {});

  /// Reads the weights below a prefix such as `model.layers.0.temporal_block.`, under their public names.
  [[nodiscard, gnu::cold]] static Griffin from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  [[nodiscard]] Index width() const { return width_; }
  [[nodiscard]] Index channels() const { return channels_; }
  [[nodiscard]] Index heads() const { return heads_; }
  [[nodiscard]] Index convolution_width() const { return weights_.conv_1d_weight.cols(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }
  [[nodiscard]] const Options& options() const { return options_; }

  /// Runs the layer on u (L, D) within a trace. A document begins wherever the context has the position 0, and nowhere else; without
  /// positions it is one document that begins here, or that goes on from `initial`.
  [[nodiscard]] LayerRun<Griffin> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;

  /// What the named sets of terms have besides: the recurrence of arXiv 2402.19427 and the formula of arXiv 2405.16504 have the input scale
  /// m. (The latter's code sets it to 1 while its switch `tracing` is on; a list of terms gives that, `Terms(Term::recurrence)`.)
  static constexpr Terms named_sets_have = Term::normalization;

  /// The unified form (formulation: Griffin). Needs gate_input or gate, log_a or one of the recurrent gate's forms, input_gate or
  /// pre_input_gate, and starts; the normalizer is computed where it is empty.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, E) and bias of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.linear_out_weight; }
  [[nodiscard]] const Array<Scalar>& output_bias() const { return weights_.linear_out_bias; }

 private:
  Griffin() = default;
  [[nodiscard]] DiagonalRecurrence<Scalar> recurrence(const Activations& act, bool normalized) const;
  [[nodiscard]] Activations completed(const Activations& act, Index tokens, bool decays, bool normalized) const;
  [[nodiscard]] static std::vector<Index> document_starts(const RunContext<Scalar>& context, Index tokens, bool continues);
  /// -8 softplus(recurrent_param), bounded: minus infinity would make NaN of a gate of 0.
  [[nodiscard]] static Array<Scalar> rate_of(const Array<Scalar>& recurrent_param) {
    return detail::bounded_rate<Scalar>(Scalar(-8) * softplus(recurrent_param.matrix()));
  }

  Weights weights_;
  Options options_;
  Array<Scalar> rate_;  // (1, E): -8 softplus(recurrent_param); empty where an engine did not give it
  Index width_ = 0, channels_ = 0, heads_ = 0;
};

template <Real S>
Griffin<S>::Griffin(Weights weights, Options options) : weights_(std::move(weights)), options_(options) {
  const Weights& w = weights_;
  channels_ = w.recurrent_param.size();
  width_ = w.linear_x_weight.cols();
  heads_ = w.input_gate_bias.rows();
  if (channels_ == 0) detail::raise_shape(layer_name, "rg_lru.recurrent_param", "is empty, expected (channels)");
  check_vector("Griffin", "rg_lru.recurrent_param", w.recurrent_param, channels_, "channels");
  rate_ = rate_of(w.recurrent_param);
  const auto check = [](const char* name, const Array<Scalar>& array, Index rows, Index columns, std::string_view meaning) {
    check_shape("Griffin", name, array, rows, columns, meaning);
  };
  const auto check_bias = [](const char* name, const Array<Scalar>& array, Index size, std::string_view meaning) {
    detail::check_bias(layer_name, name, array, size, meaning);
  };
  check("linear_x.weight", w.linear_x_weight, channels_, width_, "(channels, width)");
  check_bias("linear_x.bias", w.linear_x_bias, channels_, "channels");
  check("linear_y.weight", w.linear_y_weight, channels_, width_, "(channels, width)");
  check_bias("linear_y.bias", w.linear_y_bias, channels_, "channels");
  check("conv_1d.weight", w.conv_1d_weight, channels_, std::max(w.conv_1d_weight.cols(), Index(1)), "(channels, convolution width)");
  check_bias("conv_1d.bias", w.conv_1d_bias, channels_, "channels");
  if (heads_ == 0 || channels_ % heads_ != 0)
    detail::raise_shape(layer_name, "rg_lru.input_gate_bias", "is ", shape_text({w.input_gate_bias.rows(), w.input_gate_bias.cols()}),
                        ", expected (heads, channels/heads) with ", channels_, " channels");
  const Index block = channels_ / heads_;
  check("rg_lru.input_gate_weight", w.input_gate_weight, channels_, block, "(heads * channels/heads, channels/heads)");
  check("rg_lru.input_gate_bias", w.input_gate_bias, heads_, block, "(heads, channels/heads)");
  check("rg_lru.recurrent_gate_weight", w.recurrent_gate_weight, channels_, block, "(heads * channels/heads, channels/heads)");
  check("rg_lru.recurrent_gate_bias", w.recurrent_gate_bias, heads_, block, "(heads, channels/heads)");
  check("linear_out.weight", w.linear_out_weight, width_, channels_, "(width, channels)");
  check_bias("linear_out.bias", w.linear_out_bias, width_, "width");
}

template <Real S>
Griffin<S> Griffin<S>::for_engine(EngineWeights weights, Options options) {
  Griffin layer;
  layer.options_ = options;
  layer.channels_ = weights.conv_1d_weight.rows();
  layer.heads_ = 1;  // of the gates' blocks, which an engine has run
  if (weights.conv_1d_weight.empty()) detail::raise_shape(layer_name, "conv_1d.weight", "is empty, expected (channels, convolution width)");
  detail::check_bias(layer_name, "conv_1d.bias", weights.conv_1d_bias, layer.channels_, "channels");
  if (!weights.rate.empty() && !weights.recurrent_param.empty())
    detail::raise(ErrorKind::shape, "Griffin: rate and rg_lru.recurrent_param are both filled, expected one of them, or none");
  detail::check_bias(layer_name, "rate", weights.rate, layer.channels_, "channels");
  detail::check_bias(layer_name, "rg_lru.recurrent_param", weights.recurrent_param, layer.channels_, "channels");
  if (!weights.rate.empty()) layer.rate_ = detail::checked_rate(layer_name, "rate", weights.rate, "-8 softplus(recurrent_param)");
  if (!weights.recurrent_param.empty()) layer.rate_ = rate_of(weights.recurrent_param);
  layer.weights_.conv_1d_weight = std::move(weights.conv_1d_weight);
  layer.weights_.conv_1d_bias = std::move(weights.conv_1d_bias);
  return layer;
}

template <Real S>
Griffin<S> Griffin<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  w.linear_x_weight = tensors.required("linear_x.weight", 2);
  w.linear_x_bias = tensors.required("linear_x.bias", 1);
  w.linear_y_weight = tensors.required("linear_y.weight", 2);
  w.linear_y_bias = tensors.required("linear_y.bias", 1);
  w.conv_1d_weight = tensors.required_convolution("conv_1d.weight");
  w.conv_1d_bias = tensors.required("conv_1d.bias", 1);
  w.recurrent_param = tensors.required("rg_lru.recurrent_param", 1);
  w.input_gate_weight = tensors.required("rg_lru.input_gate_weight", 3);
  w.input_gate_bias = tensors.required("rg_lru.input_gate_bias", 2);
  w.recurrent_gate_weight = tensors.required("rg_lru.recurrent_gate_weight", 3);
  w.recurrent_gate_bias = tensors.required("rg_lru.recurrent_gate_bias", 2);
  w.linear_out_weight = tensors.required("linear_out.weight", 2);
  w.linear_out_bias = tensors.required("linear_out.bias", 1);
  return Griffin(std::move(w), options);
}

template <Real S>
std::vector<Index> Griffin<S>::document_starts(const RunContext<Scalar>& context, Index tokens, bool continues) {
  std::vector<Index> starts;
  if (context.positions.empty()) {
    if (!continues) starts.push_back(0);
    return starts;
  }
  detail::check_positions(layer_name, context.positions, tokens);
  for (Index token = 0; token < tokens; ++token)
    if (context.positions[static_cast<std::size_t>(token)] == 0) starts.push_back(token);
  return starts;
}

template <Real S>
LayerRun<Griffin<S>> Griffin<S>::run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial) const {
  detail::check_projections(layer_name, weights_.linear_x_weight);
  Activations act;
  if (initial) {
    check_shape("Griffin", "state.convolution_tail", initial->convolution_tail, convolution_width() - 1, channels_,
                "(convolution width - 1, channels)");
    check_shape("Griffin", "state.recurrent", initial->recurrent, 1, channels_, "(1, channels)");
    act.initial = *initial;
  }
  act.starts = document_starts(context, u.rows(), initial != nullptr);
  const Weights& w = weights_;
  const Array<Scalar> tail = detail::carried(act.initial.convolution_tail), state = detail::carried(act.initial.recurrent);
  const Value<Scalar> x = linear(u, w.linear_x_weight, w.linear_x_bias);
  const Value<Scalar> gate_input = linear(u, w.linear_y_weight, w.linear_y_bias);
  const Value<Scalar> c =
      convolution(x, w.conv_1d_weight, w.conv_1d_bias, tail, options_.convolution_within_documents ? act.starts : std::vector<Index>{});
  const Value<Scalar> input_gate = sigmoid(block_linear(c, w.input_gate_weight, w.input_gate_bias));
  const RowVector<Scalar> rate = rate_.matrix().row(0);
  const GatedDecay<Scalar> decay = gated_decay(block_linear(c, w.recurrent_gate_weight, w.recurrent_gate_bias), rate, act.starts);
  act.x = x.numbers;
  act.gate_input = gate_input.numbers;
  act.c = c.numbers;
  act.input_gate = input_gate.numbers;
  act.recurrent_gate = decay.gate;
  act.log_a = decay.log_decay.numbers;
  act.normalizer = decay.normalizer.numbers;
  act.log_a_from = {act.log_a, {{"recurrent_gate", &act.recurrent_gate}, {"pre_recurrent_gate", &act.pre_recurrent_gate}}};
  act.normalizer_from = {act.normalizer,
                         {{"log_a", &act.log_a}, {"recurrent_gate", &act.recurrent_gate}, {"pre_recurrent_gate", &act.pre_recurrent_gate}}};
  act.normalizer_starts = act.starts;
  // y = gelu(linear_y(u)) R c
  DiagonalInputs<Scalar> inputs;
  inputs.step = decay.log_decay;
  inputs.key_scale = product(input_gate, decay.normalizer);
  DiagonalRecurrence<Scalar> assembled = recurrence(act, true);
  assembled.key_scale = inputs.key_scale.numbers;
  const Value<Scalar> y = diagonal_recurrence(assembled, inputs, {Function::gelu_tanh, gate_input}, {}, c, state, &act.final.recurrent);
  act.final.convolution_tail = next_tail<Scalar>(*x, tail, convolution_width());
  if (options_.convolution_within_documents && !act.starts.empty()) {
    // What the next piece may not look back to: the document it goes on with began within the tail.
    const Index before = act.starts.back() - (u.rows() - (convolution_width() - 1));
    if (before > 0) act.final.convolution_tail.topRows(std::min(before, convolution_width() - 1)).setZero();
  }
  const Value<Scalar> out = linear(y, w.linear_out_weight, w.linear_out_bias);
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/layers/griffin_form.hpp>
