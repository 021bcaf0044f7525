// The weights and options of Mamba-3's layer, and their checks.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

struct Mamba3Options {
  Index groups = 1;            ///< G
  double rope_fraction = 0;    ///< the share of the state that is rotated: S = fraction N / 2; 0: what in_proj has rows for
  bool softplus_rate = false;  ///< phi is softplus (flash-linear-attention) rather than the authors' heavy tail
  double norm_eps = 1e-5;      ///< of all norms

  template <class = void>
  [[nodiscard]] static Mamba3Options from_configuration(const Configuration& configuration) {
    Mamba3Options made;
    made.groups = configuration.integer({"ngroups", "n_groups"}).value_or(1);
    made.rope_fraction = configuration.number({"rope_fraction"}).value_or(0);
    made.norm_eps = configuration.positive_number({"norm_eps"}).value_or(made.norm_eps);
    // `model_type` is flash-linear-attention's, whose rate is a softplus.
    const bool fla = configuration.text({"model_type"}) == "mamba3";
    const std::string phi = configuration.text({"activation"}).value_or(fla ? "softplus" : "heavy_tail");
    if (phi != "heavy_tail" && phi != "softplus")
      detail::raise(ErrorKind::value, configuration.where(), ": activation is \"", phi, "\", expected \"heavy_tail\" or \"softplus\"");
    made.softplus_rate = phi == "softplus";
    return made;
  }
};

/// With model width D, E channels in H heads of P, state N, G groups, S angles and rank R; the rank is read off the biases.
template <Real S>
struct Mamba3Weights {
  Array<S> in_proj_weight;                ///< (2E + 2RGN + 3H + S, D)
  Array<S> dt_bias;                       ///< (H)
  Array<S> B_norm_weight, C_norm_weight;  ///< (N)
  Array<S> B_bias, C_bias;                ///< (H R, N)
  Array<S> D;                             ///< (H)
  Array<S> norm_weight;                   ///< (E), may be absent
  Array<S> mimo_x, mimo_z, mimo_o;        ///< (H R, P), where R > 1
  Array<S> out_proj_weight;               ///< (D, E)

  [[nodiscard]] Index rank() const { return B_bias.rows() / D.size(); }
  /// Row r of every head, side by side: of an array (H R, columns), (1, H columns).
  [[nodiscard]] Array<S> of_rank(const Array<S>& array, Index r) const {
    Matrix<S> row(1, D.size() * array.cols());
    for (Index head = 0; head < D.size(); ++head) row.middleCols(head * array.cols(), array.cols()) = array.matrix().row(head * rank() + r);
    return row;
  }

  [[nodiscard, gnu::cold]] static Mamba3Weights from_tensors(const PrefixedTensors<S>& tensors) {
    Mamba3Weights w;
    w.in_proj_weight = tensors.required("in_proj.weight", 2);
    w.dt_bias = tensors.required("dt_bias", 1);
    w.B_norm_weight = tensors.required("B_norm.weight", 1);
    w.C_norm_weight = tensors.required("C_norm.weight", 1);
    w.B_bias = tensors.required("B_bias", 3);
    w.C_bias = tensors.required("C_bias", 3);
    w.D = tensors.required("D", 1);
    w.norm_weight = tensors.optional("norm.weight", 1);
    w.mimo_x = tensors.optional("mimo_x", 3);
    w.mimo_z = tensors.optional("mimo_z", 3);
    w.mimo_o = tensors.optional("mimo_o", 3);
    w.out_proj_weight = tensors.required("out_proj.weight", 2);
    return w;
  }

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor or the option. Returns S.
  [[nodiscard]] Index check(std::string_view who, const Mamba3Options& options) const {
    const Index H = D.size(), N = B_norm_weight.size(), E = out_proj_weight.cols(), G = options.groups, width = out_proj_weight.rows();
    if (H < 1 || N < 1 || E % H != 0 || B_bias.rows() < H || B_bias.rows() % H != 0)
      detail::raise_shape(who, "B_bias", "has ", B_bias.rows(), " rows and out_proj.weight ", E, " columns, expected multiples of ", H,
                          " heads, the size of D");
    if (!(options.rope_fraction >= 0 && options.rope_fraction <= 1))
      detail::raise(ErrorKind::value, who, ": rope_fraction is ", options.rope_fraction, ", expected 0 to 1");
    if (G < 1 || H % G != 0) detail::raise(ErrorKind::value, who, ": ", H, " heads do not divide into ", G, " groups");
    const Index R = rank(), before = 2 * E + 2 * R * G * N + 3 * H;
    const Index angles = options.rope_fraction != 0 ? static_cast<Index>(options.rope_fraction * static_cast<double>(N)) / 2
                                                    : in_proj_weight.rows() - before;
    if (angles < 0 || 2 * angles > N)
      detail::raise_shape(who, "in_proj.weight", "has ", in_proj_weight.rows(), " rows, expected ", before, " and 0 to ", N / 2,
                          " angles = 2*channels + 2*rank*groups*state + 3*heads + angles");
    check_shape(who, "in_proj.weight", in_proj_weight, before + angles, width,
                "(2*channels + 2*rank*groups*state + 3*heads + angles, width)");
    check_vector(who, "dt_bias", dt_bias, H, "heads");
    check_vector(who, "B_norm.weight", B_norm_weight, N, "state");
    check_vector(who, "C_norm.weight", C_norm_weight, N, "state");
    check_shape(who, "B_bias", B_bias, H * R, N, "(heads * rank, state)");
    check_shape(who, "C_bias", C_bias, H * R, N, "(heads * rank, state)");
    detail::check_bias(who, "norm.weight", norm_weight, E, "channels");
    for (const auto& [name, array] : {std::pair("mimo_x", &mimo_x), std::pair("mimo_z", &mimo_z), std::pair("mimo_o", &mimo_o)}) {
      if (R > 1) check_shape(who, name, *array, H * R, E / H, "(heads * rank, channels / heads)");
      if (R == 1 && !array->empty()) detail::raise(ErrorKind::value, who, ": there is a tensor ", name, ", and B_bias is of rank 1");
    }
    return angles;
  }
};

/// What one piece of a sequence hands to the next. The last token's second half-step needs the token after it, so that its key and input
/// are handed on beside the state.
template <Real S>
struct Mamba3State {
  Matrix<S> recurrent;  ///< (H N, P)
  Matrix<S> key;        ///< (R, H N): the last token's B, rotated
  Matrix<S> x;          ///< (1, E): the last token's linear input
  Matrix<S> angle;      ///< (1, H S)

  void check(std::string_view who, const Mamba3Weights<S>& w, Index angles) const {
    const Index H = w.D.size(), N = w.B_norm_weight.size(), E = w.out_proj_weight.cols();
    check_shape(who, "state.recurrent", recurrent, H * N, E / H, "(heads * state, channels / heads)");
    check_shape(who, "state.key", key, w.rank(), H * N, "(rank, heads * state)");
    check_shape(who, "state.x", x, 1, E, "(1, channels)");
    check_shape(who, "state.angle", angle, 1, H * angles, "(1, heads * angles)");
  }

  /// The state that the next piece begins with, its second half-step taken: (H N, P). `dt` and `own` = dt lambda are that piece's, (L, H).
  [[nodiscard]] Matrix<S> continued(const Mamba3Weights<S>& w, const Array<S>& dt, const Array<S>& own) const {
    const Index H = w.D.size(), N = recurrent.rows() / H, P = recurrent.cols();
    Matrix<S> state = recurrent;
    for (Index s = 0; s < w.rank(); ++s) {
      RowVector<S> input = x.row(0);
      if (w.rank() > 1) input.array() *= w.of_rank(w.mimo_x, s).matrix().row(0).array();
      for (Index head = 0; head < H; ++head)
        state.middleRows(head * N, N).noalias() +=
            (dt(0, head) - own(0, head)) * key.row(s).segment(head * N, N).transpose() * input.segment(head * P, P);
    }
    return state;
  }
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
