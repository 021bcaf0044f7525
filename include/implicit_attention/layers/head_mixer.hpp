// What linear attentions have around their recurrence (RetNet, GLA, HGRN, HGRN2): projections with short convolutions, a norm, a gate.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/layers/short_projection.hpp>
#include <implicit_attention/trace/row_normalizers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The weights that these layers share, named as in flash-linear-attention. HGRN and HGRN2 have `f_proj` for keys and `i_proj` for values.
template <Real S>
struct HeadMixerWeights {
  ShortProjection<S> q_proj;  ///< (H K, D); HGRN has none
  ShortProjection<S> k_proj;  ///< (key/value heads * K, D)
  ShortProjection<S> v_proj;  ///< (key/value heads * P, D)
  Array<S> g_proj_weight;     ///< (E, D), may be absent: no gate
  Array<S> norm_weight;       ///< (P) where each head has its norm, (E) where there is one over the width; may be absent
  Array<S> o_proj_weight;     ///< (D, E)
};

struct HeadMixerOptions {
  Index heads = 1;                        ///< H
  Index key_value_heads = 0;              ///< those of k and v: query head h reads h / (H / key_value_heads); 0: H
  double norm_eps = 1e-5;                 ///< of the RMS norm after the recurrence
  std::optional<bool> short_convolution;  ///< what a configuration says; nothing: what the tensors say

  /// Reads the keys of flash-linear-attention's layers; what changes the layer and is not known here is an error.
  template <class = void>
  [[nodiscard]] static HeadMixerOptions from_configuration(const Configuration& configuration) {
    HeadMixerOptions options;
    options.heads = configuration.integer({"num_heads"}).value_or(1);
    options.key_value_heads = configuration.integer({"num_kv_heads"}).value_or(0);
    options.norm_eps = configuration.positive_number({"norm_eps", "layernorm_eps"}).value_or(options.norm_eps);
    options.short_convolution = configuration.boolean({"use_short_conv"});
    const auto only = [&](const char* key, std::initializer_list<std::string_view> known) {
      const std::optional<std::string> text = configuration.text({key});
      if (text && std::find(known.begin(), known.end(), *text) == known.end())
        detail::raise(ErrorKind::value, configuration.where(), ": ", key, " is \"", *text, "\", expected \"", *known.begin(), "\"");
    };
    only("gate_fn", {"swish", "silu"});
    only("hidden_act", {"swish", "silu"});
    only("feature_map", {"identity"});
    return options;
  }
};

/// What one piece of a sequence hands to the next.
template <Real S>
struct HeadMixerState {
  Matrix<S> query_tail, key_tail, value_tail;  ///< (W - 1, columns): the last inputs of the short convolutions; empty without
  Matrix<S> recurrent;                         ///< (H K, P); HGRN: (1, E)
  Index position = 0;                          ///< of the next token
};

/// One sequence through such a layer. The implicit attention needs query, key, log_decay, gate_input, o, and c or x: what the layer has.
template <Real S>
struct HeadMixerActivations {
  Array<S> x;           ///< (L, E): values of every head: the linear input, before convolution and activation
  Array<S> c;           ///< (L, E): after the short convolution, with its bias; x where there is none
  Array<S> query;       ///< (L, H K): scaled and rotated as the layer has it
  Array<S> key;         ///< (L, H K); HGRN: 1 - f, (L, E)
  Array<S> log_decay;   ///< (L, H K); RetNet: (L or 1, H or H K); HGRN: (L, E)
  Array<S> o;           ///< (L, E): what the recurrence gives, rows divided, before the norm
  Array<S> normalizer;  ///< (L, H): what rows are divided by before the norm, inverted; empty in most layers
  Array<S> gate_input;  ///< (L, E): before silu
  Array<S> y;           ///< (L, E): output before the output projection
  Array<S> out;         ///< (L, D)
  HeadMixerState<S> initial, final;
  MadeFrom<S> c_from = {};           ///< what run() made c from; it is made again where that is another
  MadeFrom<S> normalizer_from = {};  ///< what run() made normalizer from
};

/// y = silu(g) norm(R content), content = silu(Conv x) or less. `Derived` gives the recurrence:
///
///     Value mix(MixerInput, Activations&)   o = R content, and what it is made of into query, key, log_decay (and normalizer)
///     bool activated()                      whether the content goes through SiLU
///     bool divides_rows()                   whether mix fills normalizer; false by default
///     bool decays_of_data                   a constant: log_decay depends on the input, not on weights alone; true by default
///
/// and, where it is not one matrix a head with a diagonal transition, check_recurrence and recurrence of its own.
template <class Derived, Real S>
class HeadMixer : public LayerInterface<Derived> {
 public:
  using Scalar = S;
  using State = HeadMixerState<S>;
  using Activations = HeadMixerActivations<S>;

  /// What a mix begins with.
  struct MixerInput {
    Value<S> u, query, key, content;  ///< query and key after their convolutions
    RunContext<S>* context;
    Array<S> state;  ///< carried in, or empty
  };

  [[nodiscard]] const HeadMixerWeights<S>& weights() const { return common_; }
  [[nodiscard]] Index width() const { return common_.o_proj_weight.rows(); }
  [[nodiscard]] Index channels() const { return common_.o_proj_weight.cols(); }
  [[nodiscard]] Index heads() const { return options_.heads; }
  [[nodiscard]] Index key_value_heads() const { return options_.key_value_heads; }
  /// K: state rows of a head.
  [[nodiscard]] Index state() const { return common_.k_proj.weight.rows() / key_value_heads(); }
  [[nodiscard]] Index state_rows() const { return heads() * state(); }
  [[nodiscard]] Index state_columns() const { return channels() / heads(); }
  static constexpr bool decays_of_data = true;
  [[nodiscard]] bool divides_rows() const { return false; }

  /// Runs the layer on u (L, D) within a trace, from `initial` if a state was carried in.
  [[nodiscard]] LayerRun<Derived> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;
  /// The unified form (formulation).
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// R of these activations: one matrix a head.
  [[nodiscard]] HeadRecurrence<Scalar> recurrence(const Activations& act) const;
  /// Fails unless what R is made of is there.
  void check_recurrence(const Activations& act, Index tokens) const;

  /// The weight (D, E) of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return common_.o_proj_weight; }

 protected:
  /// `names` are those of the three projections, for messages. With `norm_over_width` the norm is over the whole width.
  HeadMixer(HeadMixerWeights<S> weights, HeadMixerOptions options, const char* const (&names)[3], bool norm_over_width = false);
  [[nodiscard]] static HeadMixerWeights<S> read(const PrefixedTensors<S>& tensors, const HeadMixerOptions& options,
                                                const char* const (&names)[3], const std::string& norm);

 private:
  [[nodiscard]] const Derived& self() const { return static_cast<const Derived&>(*this); }

  HeadMixerWeights<S> common_;
  HeadMixerOptions options_;
  ShortProjection<S> content_;  // v_proj, its convolution repeated for every head that reads it
  Norm<S> norm_;
};

template <class Derived, Real S>
HeadMixer<Derived, S>::HeadMixer(HeadMixerWeights<S> weights, HeadMixerOptions options, const char* const (&names)[3], bool norm_over_width)
    : common_(std::move(weights)), options_(options) {
  constexpr std::string_view who = Derived::layer_name;
  if (options_.key_value_heads == 0) options_.key_value_heads = options_.heads;
  const Index shared = options_.key_value_heads, kv = common_.v_proj.weight.rows(), keys = common_.k_proj.weight.rows();
  if (options_.heads < 1 || shared < 1 || options_.heads % shared != 0)
    detail::raise(ErrorKind::value, who, ": ", options_.heads, " heads do not divide into ", shared, " key/value heads");
  if (options_.heads > common_.o_proj_weight.cols())  // before anything is multiplied: a configuration may hold any number
    detail::raise(ErrorKind::value, who, ": ", options_.heads, " heads are more than the ", common_.o_proj_weight.cols(), " channels");
  if (kv == 0 || keys == 0 || kv % shared != 0 || keys % shared != 0)
    detail::raise_shape(who, detail::message(names[1], "_proj.weight"), "and ", names[2], "_proj.weight have ", keys, " and ", kv,
                        " rows, expected multiples of ", shared, " key/value heads");
  const Index size = kv / shared, channels = options_.heads * size, width = common_.v_proj.weight.cols();
  if (!common_.q_proj.empty()) common_.q_proj.check(who, names[0], keys / shared * options_.heads, width);
  common_.k_proj.check(who, names[1], keys, width);
  common_.v_proj.check(who, names[2], kv, width);
  if (!common_.g_proj_weight.empty()) check_shape(who, "g_proj.weight", common_.g_proj_weight, channels, width, "(channels, width)");
  check_shape(who, "the output projection's weight", common_.o_proj_weight, width, channels, "(width, channels)");
  const Index groups = norm_over_width ? 1 : options_.heads;
  if (common_.norm_weight.empty()) {
    norm_ = Norm<S>::rms(channels, options_.norm_eps, groups);
  } else {
    check_vector(who, "the norm's weight", common_.norm_weight, channels / groups, norm_over_width ? "channels" : "channels / heads");
    norm_ = Norm<S>::rms(Array<S>(Matrix<S>(common_.norm_weight.matrix().replicate(1, groups))), options_.norm_eps, false, groups);
  }
  content_ = common_.v_proj;
  if (content_.convolved() && shared != options_.heads) {
    Matrix<S> taps(channels, content_.convolution_weight.cols()), bias(1, channels);
    for (Index channel = 0; channel < channels; ++channel) {
      const Index source = channel / size / (options_.heads / shared) * size + channel % size;
      taps.row(channel) = common_.v_proj.convolution_weight.matrix().row(source);
      if (!content_.convolution_bias.empty()) bias(0, channel) = common_.v_proj.convolution_bias(0, source);
    }
    content_.convolution_weight = std::move(taps);
    if (!content_.convolution_bias.empty()) content_.convolution_bias = std::move(bias);
  }
}

template <class Derived, Real S>
HeadMixerWeights<S> HeadMixer<Derived, S>::read(const PrefixedTensors<S>& tensors, const HeadMixerOptions& options,
                                                const char* const (&names)[3], const std::string& norm) {
  HeadMixerWeights<S> w;
  if (*names[0] != '\0') w.q_proj = ShortProjection<S>::from_tensors(tensors, names[0], options.short_convolution);
  w.k_proj = ShortProjection<S>::from_tensors(tensors, names[1], options.short_convolution);
  w.v_proj = ShortProjection<S>::from_tensors(tensors, names[2], options.short_convolution);
  w.g_proj_weight = tensors.optional("g_proj.weight", 2);
  if (!norm.empty()) w.norm_weight = tensors.required(norm, 1);
  w.o_proj_weight = tensors.required(tensors.has("out_proj.weight") ? "out_proj.weight" : "o_proj.weight", 2);
  return w;
}

template <class Derived, Real S>
LayerRun<Derived> HeadMixer<Derived, S>::run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial) const {
  Activations act;
  if (initial) {
    constexpr std::string_view who = Derived::layer_name;
    const auto check = [&](const char* name, const Matrix<S>& tail, const ShortProjection<S>& projection) {
      if (projection.tail_rows() > 0)
        check_shape(who, name, tail, projection.tail_rows(), projection.convolution_weight.rows(), "(convolution width - 1, channels)");
    };
    check("state.query_tail", initial->query_tail, common_.q_proj);
    check("state.key_tail", initial->key_tail, common_.k_proj);
    check("state.value_tail", initial->value_tail, content_);
    check_shape(who, "state.recurrent", initial->recurrent, self().state_rows(), self().state_columns(),
                "(heads * state, channels / heads)");
    act.initial = *initial;
  }
  MixerInput in;
  in.u = u;
  in.context = &context;
  in.state = detail::carried(act.initial.recurrent);
  if (!common_.q_proj.empty())
    in.query = common_.q_proj.convolve(linear(u, common_.q_proj.weight, common_.q_proj.bias), act.initial.query_tail, act.final.query_tail);
  in.key = common_.k_proj.convolve(linear(u, common_.k_proj.weight, common_.k_proj.bias), act.initial.key_tail, act.final.key_tail);
  const Value<S> x = repeat_heads(linear(u, common_.v_proj.weight, common_.v_proj.bias), key_value_heads(), heads());
  const Value<S> c = content_.convolve(x, act.initial.value_tail, act.final.value_tail);
  in.content = self().activated() ? silu(c) : c;
  act.x = x.numbers;
  act.c = c.numbers;
  act.c_from = {act.c, {{"x", &act.x}}, act.initial.value_tail};
  act.final.position = detail::position_behind(Derived::layer_name, act.initial.position, u.rows());
  const Value<S> o = self().mix(in, act);
  act.o = o.numbers;
  act.normalizer_from = {act.normalizer, {{"query", &act.query}, {"key", &act.key}, {"log_decay", &act.log_decay}}};
  Value<S> y = normalize(norm_, o);
  if (!common_.g_proj_weight.empty()) {
    const Value<S> gate_input = linear(u, common_.g_proj_weight);
    act.gate_input = gate_input.numbers;
    y = gate(silu(gate_input), y);
  }
  const Value<S> out = linear(y, common_.o_proj_weight);
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

template <class Derived, Real S>
HeadRecurrence<S> HeadMixer<Derived, S>::recurrence(const Activations& act) const {
  HeadRecurrence<S> recurrence;
  recurrence.tokens = act.query.rows();
  recurrence.channels = channels();
  recurrence.heads = recurrence.groups = heads();
  recurrence.state = state();
  recurrence.query = act.query;
  recurrence.key = act.key;
  recurrence.log_decay = act.log_decay;
  return recurrence;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/layers/head_mixer_form.hpp>
