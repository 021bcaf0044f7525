// Gated DeltaNet (Yang, Kautz & Hatamizadeh 2024, arXiv 2412.06464), as in Qwen3-Next, Qwen3.5 and OLMo Hybrid, and DeltaNet
// (Yang et al. 2024, arXiv 2406.06484), which is the same without a decay.
#pragma once

#include <utility>
#include <vector>

#include <implicit_attention/layers/decay_rate.hpp>
#include <implicit_attention/layers/delta_rule.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The delta rule with one decay a value head:
///
///     g = -exp(A_log) softplus(u a_proj^T + dt_bias)      z = u g_proj^T      y = silu(z) * norm(o)
///
/// Without a_proj, A_log and dt_bias there is no decay (DeltaNet), without g_proj no gate. Sizes are read off the weights, which are named
/// as in flash-linear-attention whatever the checkpoint calls them.
template <Real S>
class GatedDeltaNet : public LayerInterface<GatedDeltaNet<S>>, public DeltaRule<S> {
 public:
  using Scalar = S;
  using typename DeltaRule<S>::Options;
  using typename DeltaRule<S>::State;
  using typename DeltaRule<S>::Activations;
  using typename DeltaRule<S>::EngineWeights;
  static constexpr std::string_view layer_name = "GatedDeltaNet";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents

  struct Weights : DeltaRule<S>::Weights {
    Array<Scalar> a_proj_weight;  ///< (Hv, D), with A_log (Hv) and dt_bias (Hv); all absent: no decay
    Array<Scalar> g_proj_weight;  ///< (E, D): z; absent: no gate
  };

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor or the option.
  explicit GatedDeltaNet(Weights weights, Options options = {});

  /// Reads the weights below a prefix such as `model.layers.0.linear_attn.`, in any of the public namings: separate projections
  /// (flash-linear-attention, OLMo Hybrid), in_proj_qkv, _z, _a, _b (Qwen3.5), or in_proj_qkvz and _ba, whose rows are grouped by key head
  /// (Qwen3-Next). The last two need the number of key heads.
  [[nodiscard, gnu::cold]] static GatedDeltaNet from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  /// A descriptor without projections: it lowers what an engine has run, and cannot run itself; `width()` is 0.
  [[nodiscard]] static GatedDeltaNet for_engine(const EngineWeights& weights, Options options = {}) {
    return GatedDeltaNet(weights, options);
  }

  [[nodiscard]] const Weights& weights() const { return weights_; }

  /// Runs the layer on u (L, D) within a trace, from `initial` if a state was carried in.
  [[nodiscard]] LayerRun<GatedDeltaNet> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;

 private:
  GatedDeltaNet(const EngineWeights& weights, const Options& options) : DeltaRule<S>(layer_name, weights, options, Function::silu, false) {}
  static void read_fused(const PrefixedTensors<Scalar>& tensors, Index key_heads, Weights& w);

  Weights weights_;
  Array<Scalar> rate_;
};

template <Real S>
GatedDeltaNet<S>::GatedDeltaNet(Weights weights, Options options)
    : DeltaRule<S>(layer_name, weights, options, Function::silu, !weights.g_proj_weight.empty()), weights_(std::move(weights)) {
  const Weights& w = weights_;
  if (!w.g_proj_weight.empty())
    check_shape(layer_name, "g_proj.weight", w.g_proj_weight, this->channels(), this->width(), "(value heads * value size, width)");
  if (w.A_log.empty()) {
    check_shape(layer_name, "a_proj.weight", w.a_proj_weight, 0, 0, "nothing: there is no A_log, so no decay");
    check_shape(layer_name, "dt_bias", w.dt_bias, 0, 0, "nothing: there is no A_log, so no decay");
    return;
  }
  check_shape(layer_name, "a_proj.weight", w.a_proj_weight, this->heads(), this->width(), "(value heads, width)");
  check_vector(layer_name, "dt_bias", w.dt_bias, this->heads(), "value heads");
  rate_ = Matrix<Scalar>(-detail::decay_rate(w.A_log).matrix());
  this->set_rates(rate_);
}

template <Real S>
GatedDeltaNet<S> GatedDeltaNet<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  // By either of two tensors, so that a lost one is named as missing.
  const bool fused = tensors.has("in_proj_qkvz.weight") || tensors.has("in_proj_ba.weight"),
             joined = tensors.has("in_proj_qkv.weight") || tensors.has("in_proj_z.weight"), decays = detail::has_decay_rate(tensors);
  if (decays) w.A_log = detail::as_row(detail::read_decay_rate(tensors, 0));
  w.dt_bias = decays ? tensors.required("dt_bias", 1) : tensors.optional("dt_bias", 1);
  w.o_norm_weight = tensors.required(fused || joined ? "norm.weight" : "o_norm.weight", 1);
  w.o_proj_weight = tensors.required(fused || joined ? "out_proj.weight" : "o_proj.weight", 2);
  if ((fused || joined) && options.key_heads < 1)
    detail::raise(ErrorKind::value, layer_name,
                  ": the number of key heads is not known (linear_num_key_heads), expected at least 1: ", tensors.name_in_file("in_proj_*"),
                  " do not tell it");
  if (fused) {
    read_fused(tensors, options.key_heads, w);
  } else if (joined) {
    const Array<Scalar> all = tensors.required("in_proj_qkv.weight", 2);
    const Index values = w.o_proj_weight.cols(), keys = (all.rows() - values) / 2;
    check_shape(layer_name, "in_proj_qkv.weight", all, 2 * keys + values, all.cols(), "(rows of q, k and v, width)");
    if (keys < 1) check_shape(layer_name, "in_proj_qkv.weight", all, values + 2, all.cols(), "(rows of q, k and v, width), or more rows");
    w.q_proj_weight = all.middle_rows(0, keys);
    w.k_proj_weight = all.middle_rows(keys, keys);
    w.v_proj_weight = all.middle_rows(2 * keys, values);
    w.g_proj_weight = tensors.required("in_proj_z.weight", 2);
    w.b_proj_weight = tensors.required("in_proj_b.weight", 2);
    w.a_proj_weight = tensors.required("in_proj_a.weight", 2);
  } else {
    w.q_proj_weight = tensors.required("q_proj.weight", 2);
    w.k_proj_weight = tensors.required("k_proj.weight", 2);
    w.v_proj_weight = tensors.required("v_proj.weight", 2);
    w.g_proj_weight = tensors.optional("g_proj.weight", 2);
    w.b_proj_weight = tensors.optional("b_proj.weight", 2);
    w.a_proj_weight = tensors.optional("a_proj.weight", 2);
  }
  w.read_convolutions(tensors);
  return GatedDeltaNet(std::move(w), options);
}

/// in_proj_qkvz has, for every key head, rows [q K | k K | v r V | z r V], and in_proj_ba [b r | a r], r value heads a key head.
template <Real S>
void GatedDeltaNet<S>::read_fused(const PrefixedTensors<Scalar>& tensors, Index key_heads, Weights& w) {
  const Array<Scalar> qkvz = tensors.required("in_proj_qkvz.weight", 2), ba = tensors.required("in_proj_ba.weight", 2);
  const Index values = w.o_proj_weight.cols(), keys = (qkvz.rows() - 2 * values) / 2, heads = w.A_log.size();
  if (keys < 1 || keys % key_heads != 0 || values % key_heads != 0 || heads % key_heads != 0)
    detail::raise_shape(layer_name, "in_proj_qkvz.weight", "is ", shape_text({qkvz.rows(), qkvz.cols()}), ", expected (", key_heads,
                        " * (2 * key size) + 2 * ", values, ", width) with ", key_heads, " key heads and A_log (", heads,
                        ") a multiple of them");
  check_shape(layer_name, "in_proj_qkvz.weight", qkvz, 2 * keys + 2 * values, qkvz.cols(), "(rows of q, k, v and z, width)");
  check_shape(layer_name, "in_proj_ba.weight", ba, 2 * heads, qkvz.cols(), "(2 * value heads, width)");
  // The part of every key head's rows that begins `offset` into them, all heads one after the other.
  const auto taken = [&](const Array<Scalar>& rows, Index offset, Index count) {
    const Index group = rows.rows() / key_heads;
    Matrix<Scalar> part(key_heads * count, rows.cols());
    for (Index head = 0; head < key_heads; ++head)
      part.middleRows(head * count, count) = rows.matrix().middleRows(head * group + offset, count);
    return Array<Scalar>(std::move(part));
  };
  const Index key = keys / key_heads, value = values / key_heads, shared = heads / key_heads;
  w.q_proj_weight = taken(qkvz, 0, key);
  w.k_proj_weight = taken(qkvz, key, key);
  w.v_proj_weight = taken(qkvz, 2 * key, value);
  w.g_proj_weight = taken(qkvz, 2 * key + value, value);
  w.b_proj_weight = taken(ba, 0, shared);
  w.a_proj_weight = taken(ba, shared, shared);
}

template <Real S>
LayerRun<GatedDeltaNet<S>> GatedDeltaNet<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  detail::check_projections(layer_name, weights_.v_proj_weight);
  const Weights& w = weights_;
  Value<Scalar> log_decay, z;
  if (!w.A_log.empty()) log_decay = times_row(softplus(linear(u, w.a_proj_weight, w.dt_bias)), rate_);
  if (!w.g_proj_weight.empty()) z = linear(u, w.g_proj_weight);
  return this->template run_rule<GatedDeltaNet>(u, log_decay, z, initial);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
