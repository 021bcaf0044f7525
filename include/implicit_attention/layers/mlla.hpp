// MLLA's mixer (Han et al. 2024, arXiv 2405.16605): linear attention over all tokens of an image, with 2-D convolutions. It is not causal.
#pragma once

#include <cmath>
#include <utility>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>
#include <implicit_attention/trace/data_rotation.hpp>
#include <implicit_attention/trace/image.hpp>
#include <implicit_attention/trace/row_normalizers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With D = E channels in H heads and N tokens, the pixels of an image row after row:
///
///     x = in_proj u        a = silu(Conv x + bias), 3 x 3        [q | k] = elu(qk a) + 1
///     R_h = rope(q) rope(k)^T / N        z = 1 / (q . mean k + eps), of q and k without rope
///     y = silu(act_proj u) ( (diag(z) R + LePE) a + LePE bias )        out = out_proj y
///
/// LePE, a depthwise convolution 3 x 3, is the skip. Both convolutions and R of all channels differ, so every channel has a matrix of its
/// own: N^2 numbers each while it is on. Rope rotates pairs (2n, 2n + 1) of the whole width, the first half by row, the second by column.
template <Real S>
class Mlla : public LayerInterface<Mlla<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "MLLA";

  struct Weights {
    Array<Scalar> in_proj_weight, act_proj_weight, out_proj_weight;  ///< (E, E)
    Array<Scalar> in_proj_bias, act_proj_bias, out_proj_bias;        ///< (E), may be absent
    Array<Scalar> dwc_weight, lepe_weight;                           ///< (E * width, width): the kernels' rows
    Array<Scalar> dwc_bias, lepe_bias;                               ///< (E), may be absent
    Array<Scalar> qk_weight;                                         ///< (2E, E)
    Array<Scalar> qk_bias;                                           ///< (2E), may be absent
  };
  struct Options {
    Index heads = 1;
    ImageGrid grid;                   ///< rows 0: a square
    double eps = 1e-6, base = 10000;  ///< of z, of rope
  };
  [[nodiscard]] static Options options(const Configuration& configuration);

  struct State {};  ///< nothing is carried from piece to piece: all tokens see each other
  /// One sequence through the layer. The implicit attention needs query, key, normalizer, c and gate_input.
  struct Activations {
    Array<Scalar> x;                                     ///< (N, E): linear input
    Array<Scalar> c;                                     ///< (N, E): after the convolution, with its bias
    Array<Scalar> query, key;                            ///< (N, E): after rope
    Array<Scalar> normalizer;                            ///< (N, H): z
    Array<Scalar> gate_input;                            ///< (N, E): before silu
    Array<Scalar> y;                                     ///< (N, E): output before the output projection
    Array<Scalar> out;                                   ///< (N, E)
    MadeFrom<Scalar> c_from = {}, normalizer_from = {};  ///< what run() made c and normalizer from
  };

  /// Checks every shape against the others; fails (ErrorKind::shape or ErrorKind::value) naming the tensor or the option.
  Mlla(Weights weights, Options options);
  /// Reads the weights below a prefix, under their public names.
  [[nodiscard, gnu::cold]] static Mlla from_tensors(const PrefixedTensors<Scalar>& tensors, const Options& options);

  [[nodiscard]] Index width() const { return weights_.in_proj_weight.rows(); }
  [[nodiscard]] Index channels() const { return width(); }
  [[nodiscard]] Index heads() const { return options_.heads; }
  [[nodiscard]] bool causal() const { return false; }

  /// Runs the layer on u (N, E) within a trace. A carried-in state, or tokens that are no such image, are errors.
  [[nodiscard]] LayerRun<Mlla> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;
  /// The unified form (formulation: "MLLA"); what stands between input and gate is one explicit matrix a channel, the bare recurrence
  /// one a head.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, E) and bias of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.out_proj_weight; }
  [[nodiscard]] const Array<Scalar>& output_bias() const { return weights_.out_proj_bias; }

 private:
  [[nodiscard]] ImageGrid grid_of(Index tokens) const;
  [[nodiscard]] Matrix<Scalar> head_matrix(const Activations& act, Index head) const;

  Weights weights_;
  Options options_;
  Index kernel_ = 0, lepe_kernel_ = 0;  // widths of the convolutions
  Array<Scalar> taps_, lepe_taps_;      // (width^2, E)
};

template <Real S>
typename Mlla<S>::Options Mlla<S>::options(const Configuration& configuration) {
  Options made;
  made.heads = configuration.integer({"num_heads"}).value_or(1);
  made.eps = configuration.positive_number({"eps"}).value_or(made.eps);
  made.grid.rows = 0;
  if (const auto size = configuration.numbers({"input_resolution"})) {
    const auto side = [](double number) { return number >= 1 && number <= 1048576 && number == std::floor(number); };
    if (size->size() != 2 || !side((*size)[0]) || !side((*size)[1]))
      detail::raise(ErrorKind::value, configuration.where(),
                    ": input_resolution is not [rows, columns], expected two integers from 1 to 1048576");
    made.grid = {static_cast<Index>((*size)[0]), static_cast<Index>((*size)[1])};
  }
  return made;
}

template <Real S>
Mlla<S>::Mlla(Weights weights, Options options) : weights_(std::move(weights)), options_(options) {
  const Weights& w = weights_;
  const Index E = width();
  if (heads() < 1 || E < 1 || E % heads() != 0 || E % 4 != 0)
    detail::raise_shape(layer_name, "in_proj.weight", "has ", E, " rows, expected a multiple of 4 and of ", heads(), " heads");
  for (const auto& [name, weight, bias, rows] :
       {std::tuple("in_proj", &w.in_proj_weight, &w.in_proj_bias, E), std::tuple("act_proj", &w.act_proj_weight, &w.act_proj_bias, E),
        std::tuple("out_proj", &w.out_proj_weight, &w.out_proj_bias, E), std::tuple("attn.qk", &w.qk_weight, &w.qk_bias, 2 * E)}) {
    check_shape(layer_name, std::string(name) + ".weight", *weight, rows, E, "(outputs, width)");
    detail::check_bias(layer_name, std::string(name) + ".bias", *bias, rows, "outputs");
  }
  const auto taps = [&](const char* name, const Array<Scalar>& weight, const Array<Scalar>& bias, Index& size) {
    size = weight.cols();
    if (size < 1 || size % 2 == 0)
      detail::raise_shape(layer_name, detail::message(name, ".weight"), "has kernels of ", size, ", expected an odd width");
    check_shape(layer_name, std::string(name) + ".weight", weight, E * size, size, "(channels * width, width)");
    detail::check_bias(layer_name, std::string(name) + ".bias", bias, E, "channels");
    return Array<S>(Matrix<S>(Eigen::Map<const Matrix<S>>(weight.data(), E, size * size).transpose()));
  };
  taps_ = taps("dwc", w.dwc_weight, w.dwc_bias, kernel_);
  lepe_taps_ = taps("attn.lepe", w.lepe_weight, w.lepe_bias, lepe_kernel_);
}

template <Real S>
Mlla<S> Mlla<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, const Options& options) {
  Weights w;
  const auto read = [&](const std::string& name, Array<Scalar>& weight, Array<Scalar>& bias, std::size_t axes) {
    weight = tensors.required(name + ".weight", axes);
    bias = tensors.optional(name + ".bias", 1);
  };
  read("in_proj", w.in_proj_weight, w.in_proj_bias, 2);
  read("act_proj", w.act_proj_weight, w.act_proj_bias, 2);
  read("out_proj", w.out_proj_weight, w.out_proj_bias, 2);
  read("attn.qk", w.qk_weight, w.qk_bias, 2);
  read("dwc", w.dwc_weight, w.dwc_bias, 4);
  read("attn.lepe", w.lepe_weight, w.lepe_bias, 4);
  return Mlla(std::move(w), options);
}

template <Real S>
ImageGrid Mlla<S>::grid_of(Index tokens) const {
  ImageGrid grid = options_.grid;
  if (grid.rows == 0) grid.rows = grid.columns = static_cast<Index>(std::lround(std::sqrt(static_cast<double>(tokens))));
  if (grid.tokens() != tokens)
    detail::raise(ErrorKind::shape, "MLLA: the input has ", tokens, " tokens, expected ", grid.tokens(), " = ", grid.rows, " rows of ",
                  grid.columns);
  return grid;
}

template <Real S>
LayerRun<Mlla<S>> Mlla<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  if (initial != nullptr)
    detail::raise(ErrorKind::value, "MLLA: a state was given, and this layer, in which all tokens see each other, has none");
  const Weights& w = weights_;
  const Index N = u.rows(), E = channels();
  const ImageGrid grid = grid_of(N);
  const Value<S> x = linear(u, w.in_proj_weight, w.in_proj_bias);
  const Value<S> c = image_convolution(x, grid, kernel_, taps_, w.dwc_bias), a = silu(c);
  const Value<S> qk = apply_function(Function::elu_plus_one, linear(a, w.qk_weight, w.qk_bias));
  const Value<S> q = columns(qk, 0, E), k = columns(qk, E, E);
  Matrix<S> angles(N, E / 2);  // the published rope makes its angles in single precision; here they have the layer's own
  for (Index token = 0; token < N; ++token)
    for (Index n = 0; n < E / 2; ++n) {
      const Index pair = n % (E / 4), position = n < E / 4 ? token / grid.columns : token % grid.columns;
      const double frequency = std::pow(options_.base, -static_cast<double>(pair) / static_cast<double>(E / 4));
      angles(token, n) = static_cast<S>(static_cast<double>(position) * frequency);
    }
  const Value<S> theta = u.trace->constant(std::move(angles));
  const Value<S> query = rotate_by_angles(q, theta, 1, true), key = rotate_by_angles(k, theta, 1, true);
  const Value<S> normalizer = reciprocal(head_dot(q, token_mean(k), heads()), static_cast<S>(options_.eps));
  const Value<S> attended = full_linear_attention(query, key, a, heads(), S(1) / static_cast<S>(N));
  const Value<S> mixed =
      add(scale(spread_heads(normalizer, E / heads()), attended), image_convolution(a, grid, lepe_kernel_, lepe_taps_, w.lepe_bias));
  const Value<S> gate_input = linear(u, w.act_proj_weight, w.act_proj_bias);
  const Value<S> y = gate(silu(gate_input), mixed), out = linear(y, w.out_proj_weight, w.out_proj_bias);
  Activations act;
  act.x = x.numbers;
  act.c = c.numbers;
  act.query = query.numbers;
  act.key = key.numbers;
  act.normalizer = normalizer.numbers;
  act.gate_input = gate_input.numbers;
  act.c_from = {act.c, {{"x", &act.x}}};
  act.normalizer_from = {act.normalizer, {{"query", &act.query}, {"key", &act.key}}};
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

template <Real S>
Matrix<S> Mlla<S>::head_matrix(const Activations& act, Index head) const {
  const Index size = channels() / heads();
  return (*act.query).middleCols(head * size, size) * (*act.key).middleCols(head * size, size).transpose() /
         static_cast<S>(act.query.rows());
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/layers/mlla_form.hpp>
