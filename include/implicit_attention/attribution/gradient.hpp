// Gradient-weighted attention in three forms, each named by its source. Gradients come from models/backward.hpp or from the host.
#pragma once

#include <concepts>
#include <cstddef>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/rollout.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The published ways to weight attention by the gradient of what is explained.
enum class GradientForm {
  /// Chefer et al. 2021 (arXiv 2103.15679), eq. 5-6, carried over exactly to implicit attention: map = mean over channels of
  /// (dA * A)^+ with dA_e[i,j] = g[i,e] x[j,e], the gradient with respect to the attention's entry (g = d y). Rolled out as I + map.
  exact,
  /// Ali et al. 2024 (arXiv 2403.01590), eq. 23, as printed: beta = I + ( E_d grad y_d . E_d A_d )^+ , the mean over channels of the
  /// gradient with respect to the layer's output y at token i times the mean over channels of A[i,j], both means signed. Rolled out as
  /// printed, rows not divided by their sums. y is the gated output before its projection, whose channels are the attention's: behind
  /// the projection the mean gradient is zero wherever a LayerNorm follows, since that subtracts the mean.
  mean_gradient,
  /// Zimerman et al. 2025 (arXiv 2405.16504), as the released code computes it, on whole maps: map[i,j] = minmax( mean over channels of
  /// A[i,j]^+ times s[j] ), s = minmax( max over width of (d residual stream before the layer)^+ ); then rollout, I + map with rows
  /// divided by their sums, from a start layer (15 of 24 in the released code). minmax rescales to 0..1.
  token_maximum
};

/// One layer as the gradient forms need it: `attention` and what the form's gradient is of; the others may be empty.
template <Real Scalar>
struct LayerWithGradients {
  ImplicitAttention<Scalar> attention;
  Array<Scalar> x;              ///< (tokens, channels): the layer's linear input; form exact
  Array<Scalar> grad_y;         ///< (tokens, channels): d y, before the output projection; forms exact and mean_gradient
  Array<Scalar> grad_residual;  ///< (tokens, width): d of the residual stream before the layer; form token_maximum
};

/// Gives layer 0, 1, ... with its gradients.
template <class Source, class Scalar>
concept GradientSource =
    std::invocable<const Source&, Index> && std::convertible_to<std::invoke_result_t<const Source&, Index>, LayerWithGradients<Scalar>>;

namespace detail {

template <Real Scalar>
void check_gradient(const char* name, const Array<Scalar>& gradient, Index tokens) {
  if (gradient.empty() || gradient.rows() != tokens)
    raise(ErrorKind::shape, "gradient-weighted attention: ", name, " is ", shape_text({gradient.rows(), gradient.cols()}), ", expected (",
          tokens, ", ...), a row a token; run the model backwards, or hand in your own gradients");
  check_finite("gradient-weighted attention", name, *gradient);
}

/// Rescales numbers to 0..1. Equal numbers become 0 if they are 0, else 1. Returns whether they were equal. With a NaN all become NaN.
template <class Derived>
bool stretch(Eigen::DenseBase<Derived>& numbers) {
  using Scalar = typename Derived::Scalar;
  const Scalar smallest = numbers.template minCoeff<Eigen::PropagateNaN>(), largest = numbers.template maxCoeff<Eigen::PropagateNaN>();
  if (smallest == largest) {
    numbers.setConstant(largest == Scalar(0) ? Scalar(0) : Scalar(1));
    return true;
  }
  numbers.derived() = ((numbers.derived().array() - smallest) / (largest - smallest)).matrix();
  return false;
}

}  // namespace detail

/// One layer's map, (tokens, tokens), before the identity is added. `constant`, if given, is set where the map or the gradient was the
/// same everywhere, so that form token_maximum could not rescale it to 0..1. `rows` are those that are read: others are zero, but in form
/// token_maximum, which rescales by the entries of all.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> gradient_weighted_map(const LayerWithGradients<Scalar>& layer, GradientForm form,
                                                   const Executor& executor = serial_executor(), bool* constant = nullptr,
                                                   const Indices& rows = Indices::all()) {
  const ImplicitAttention<Scalar>& attention = layer.attention;
  const Index tokens = attention.tokens();
  Selection selection;
  selection.executor = executor;
  Reduction<Scalar> reduction;
  const auto rows_read = [&] {
    const std::vector<Index> read = rows.resolve(tokens, "row");
    if (static_cast<Index>(read.size()) == tokens) return attention.reduce(reduction, selection);
    selection.rows = Indices(read);
    const Matrix<Scalar> some = attention.reduce(reduction, selection);
    Matrix<Scalar> map = Matrix<Scalar>::Zero(tokens, tokens);
    for (std::size_t row = 0; row < read.size(); ++row) map.row(read[row]) = some.row(static_cast<Index>(row));
    return map;
  };
  if (form == GradientForm::exact) {
    detail::check_gradient("grad_y", layer.grad_y, tokens);
    check_shape("gradient-weighted attention", "x", layer.x, tokens, attention.channels(), "(tokens, channels)");
    reduction.kind = ReductionKind::mean_positive;
    reduction.row_weights = layer.grad_y;
    reduction.column_weights = layer.x;
    return rows_read();
  }
  if (form == GradientForm::mean_gradient) {
    detail::check_gradient("grad_y", layer.grad_y, tokens);
    Matrix<Scalar> map = rows_read();
    map.array().colwise() *= layer.grad_y.matrix().rowwise().mean().array();
    return map.cwiseMax(Scalar(0));
  }
  detail::check_gradient("grad_residual", layer.grad_residual, tokens);
  RowVector<Scalar> weight = layer.grad_residual.matrix().rowwise().maxCoeff().cwiseMax(Scalar(0)).transpose();
  reduction.kind = ReductionKind::mean_positive;
  Matrix<Scalar> map = attention.reduce(reduction, selection);
  bool equal = detail::stretch(weight);
  map.array().rowwise() *= weight.array();
  equal = detail::stretch(map) || equal;
  if (constant) *constant = equal;
  return map;
}

/// How a form's maps are rolled out: divided by row sums or not, see GradientForm.
template <Real Scalar>
[[nodiscard]] RolloutOptions<Scalar> gradient_rollout_options(GradientForm form, Index start_layer = 0) {
  RolloutOptions<Scalar> options;
  options.start_layer = start_layer;
  options.normalize_rows = form == GradientForm::token_maximum;
  return options;
}

/// Row `position` of the product over layers of I + map, made layer by layer, from the last to `start_layer`, as a walk back through the
/// model passes them: one map exists at a time.
template <Real Scalar>
class GradientWeightedRow {
 public:
  GradientWeightedRow(Index layers, Index tokens, GradientForm form, Index position, Index start_layer = 0)
      : form_(form), options_(gradient_rollout_options<Scalar>(form, start_layer)) {
    detail::check_rollout(options_, layers);
    result_ = detail::begin_rollout<Scalar>(position, tokens);
  }

  /// The next layer, counted among those that mix tokens.
  void step(Index layer, const LayerWithGradients<Scalar>& with, const Executor& executor = serial_executor()) {
    bool constant = false;
    std::vector<Index> read;  // of the first map row `position` alone
    for (Index token = 0; token < result_.scores.size(); ++token)
      if (result_.scores[token] != Scalar(0)) read.push_back(token);
    Matrix<Scalar> map = gradient_weighted_map(with, form_, executor, &constant, Indices(std::move(read)));
    if (constant) result_.constant_layers.insert(result_.constant_layers.begin(), layer);
    result_.scores = detail::rollout_step<Scalar>(result_.scores, std::move(map), options_, layer, result_.zero_rows);
  }
  /// scores[j] >= 0, larger is more; once all layers have been taken.
  [[nodiscard]] Attribution<Scalar> result() const {
    Attribution<Scalar> result = result_;
    detail::end_rollout(result);
    return result;
  }

 private:
  GradientForm form_;
  RolloutOptions<Scalar> options_;
  Attribution<Scalar> result_;
};

/// Row `position` of the product over layers of I + map: scores[j] >= 0, larger is more. What is explained (position and target) is in
/// the gradients; its position is usually this one. One map exists at a time.
template <Real Scalar, GradientSource<Scalar> Source>
[[nodiscard]] Attribution<Scalar> gradient_weighted_attention(Index layers, Index tokens, const Source& layer_of, GradientForm form,
                                                              Index position, Index start_layer = 0,
                                                              const Executor& executor = serial_executor()) {
  GradientWeightedRow<Scalar> row(layers, tokens, form, position, start_layer);
  for (Index layer = layers - 1; layer >= start_layer; --layer) row.step(layer, LayerWithGradients<Scalar>(layer_of(layer)), executor);
  return row.result();
}

/// The whole product, row = output token; scores are its last row.
template <Real Scalar, GradientSource<Scalar> Source>
[[nodiscard]] Attribution<Scalar> gradient_weighted_attention_map(Index layers, Index tokens, const Source& layer_of, GradientForm form,
                                                                  Index start_layer = 0, const Executor& executor = serial_executor()) {
  std::vector<Index> constant_layers;
  const auto map_of = [&](Index layer) {
    bool constant = false;
    Matrix<Scalar> map = gradient_weighted_map(LayerWithGradients<Scalar>(layer_of(layer)), form, executor, &constant);
    if (constant) constant_layers.push_back(layer);
    return map;
  };
  Attribution<Scalar> result = rollout_map<Scalar>(layers, tokens, map_of, gradient_rollout_options<Scalar>(form, start_layer));
  result.constant_layers = std::move(constant_layers);
  return result;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
