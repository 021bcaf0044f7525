// Contributions: the vector that each token adds to each output of one layer, after the output projection. Exact: LaTIM
// (Pitorro & Treviso 2025, arXiv 2502.15612) has to approximate the activation behind the convolution; the unified form does not.
#pragma once

#include <algorithm>
#include <vector>

#include <implicit_attention/attribution/result.hpp>
#include <implicit_attention/core/stored_rows.hpp>
#include <implicit_attention/operator/implicit_attention.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// How a contribution is measured.
enum class VectorNorm { one, two, infinity };

namespace detail {

/// Fails unless an output projection, if there is one, fits the channels.
template <Real Scalar>
void check_projection(const Array<Scalar>& projection, Index channels) {
  if (!projection.empty() && projection.cols() != channels)
    raise(ErrorKind::shape, "contributions: the output projection is ", shape_text({projection.rows(), projection.cols()}),
          ", expected (width, ", channels, ") = (width, channels)");
}

template <Real Scalar>
void check_contributions(const ImplicitAttention<Scalar>& attention, const Array<Scalar>& x, const Array<Scalar>& projection) {
  check_shape("contributions", "x", x, attention.tokens(), attention.channels(), "(tokens, channels)");
  check_projection(projection, attention.channels());
}

/// Row j: W (A[i,j,:] * x[j,:]), tokens 0 .. i, (i + 1, width), and the same of a second path, whose input is its own.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> contributions_row(const ImplicitAttention<Scalar>& attention, const Array<Scalar>& x,
                                               const Array<Scalar>& projection, Index output,
                                               const Executor& executor = serial_executor()) {
  Selection selection;
  selection.rows = Indices({output});
  selection.executor = executor;
  Matrix<Scalar> row(attention.channels(), attention.tokens());
  attention.materialize_into(row, selection);
  Matrix<Scalar> before = row.leftCols(output + 1).transpose().cwiseProduct(x.matrix().topRows(output + 1));
  if (attention.has_second()) before += contributions_row(attention.second(), attention.second_input(), Array<Scalar>(), output, executor);
  if (projection.empty()) return before;
  constexpr Index panel = 256;  // tokens; fixed, so that results do not depend on the number of workers
  Matrix<Scalar> contributions(before.rows(), projection.rows());
  detail::run_loop(executor, (before.rows() + panel - 1) / panel, [&](Index index) {
    const Index first = index * panel, count = std::min(panel, before.rows() - first);
    set_product_of_rows<Scalar>(contributions.middleRows(first, count), before.middleRows(first, count), projection, 0, projection.rows());
  });
  return contributions;
}

}  // namespace detail

/// What every token contributes to output token `output`, (tokens, width): row j is W (A[output,j,:] * x[j,:]), W the output projection
/// (width, channels); empty: none, and width is channels. A second path (RWKV-7's bonus) is part of it. Their sum and that row of
/// `affine_output` are the layer's output. Later tokens contribute zero.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> contributions_to(const ImplicitAttention<Scalar>& attention, const Array<Scalar>& x,
                                              const Array<Scalar>& projection, Index output) {
  detail::check_contributions(attention, x, projection);
  detail::check_position("contributions", output, attention.tokens());
  const Matrix<Scalar> row = detail::contributions_row(attention, x, projection, output);
  detail::check_finite("contributions", "a contribution", row);
  Matrix<Scalar> all = Matrix<Scalar>::Zero(attention.tokens(), row.cols());
  all.topRows(row.rows()) = row;
  return all;
}

/// What no token contributes, (tokens, width): W (bias + carry) + output_bias; `output_bias` (1, width) may be empty.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> affine_output(const ImplicitAttention<Scalar>& attention, const Array<Scalar>& projection,
                                           const Array<Scalar>& output_bias = {}, const Executor& executor = serial_executor()) {
  Matrix<Scalar> affine = attention.bias(executor) + attention.carry(executor);
  detail::check_projection(projection, attention.channels());
  if (!projection.empty()) affine = (affine * projection.matrix().transpose()).eval();
  if (!output_bias.empty()) {
    check_vector("contributions", "output_bias", output_bias, affine.cols(), "width");
    affine.rowwise() += output_bias.matrix().row(0);
  }
  return affine;
}

/// The norms of all contributions, (chosen rows, tokens): entry (i, j) is how much token j adds to output i, >= 0. One row's vectors exist
/// at a time for each worker: memory tokens * (2 channels + width) beside the result; time tokens^2 * channels * width.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> contribution_norms(const ImplicitAttention<Scalar>& attention, const Array<Scalar>& x,
                                                const Array<Scalar>& projection, VectorNorm norm = VectorNorm::two,
                                                const Selection& selection = {}) {
  detail::check_contributions(attention, x, projection);
  const std::vector<Index> rows = selection.rows.resolve(attention.tokens(), "row");
  check_byte_limit("contributions", {static_cast<Index>(rows.size()), attention.tokens()}, sizeof(Scalar), selection.byte_limit);
  Matrix<Scalar> map = Matrix<Scalar>::Zero(static_cast<Index>(rows.size()), attention.tokens());
  detail::run_loop(selection.executor, map.rows(), [&](Index r) {
    const Matrix<Scalar> vectors = detail::contributions_row(attention, x, projection, rows[static_cast<std::size_t>(r)]);
    for (Index token = 0; token < vectors.rows(); ++token)
      map(r, token) = norm == VectorNorm::one   ? vectors.row(token).template lpNorm<1>()
                      : norm == VectorNorm::two ? vectors.row(token).norm()
                                                : vectors.row(token).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
  });
  detail::check_finite("contributions", "the map of norms", map);
  return map;
}

/// Edge map of one layer, (chosen rows, tokens): G[i,j] = sum_e g[i,e] A_e[i,j] x_e[j] over the chosen channels, with g = d value / d y
/// (tokens, channels). Signed: to first order, what the value loses when the edge from token j to output i is taken out,
/// y_i <- y_i - A[i,j] o x_j, a second path's part of it included. A head's edges: its channels chosen.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> edge_map(const ImplicitAttention<Scalar>& attention, const Array<Scalar>& x, const Array<Scalar>& gradient,
                                      const Selection& selection = {}) {
  Reduction<Scalar> reduction;
  reduction.kind = ReductionKind::mean;
  reduction.row_weights = gradient;
  reduction.column_weights = x;
  Matrix<Scalar> map = attention.reduce(reduction, selection);
  map *= static_cast<Scalar>(selection.channels.resolve(attention.channels(), "channel").size());
  if (attention.has_second()) map += edge_map(attention.second(), attention.second_input(), gradient, selection);
  detail::check_finite("edge map", "the map", map);
  return map;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
