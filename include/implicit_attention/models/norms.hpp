// The norms through which the residual stream enters a layer, forwards and backwards.
#pragma once

#include <cmath>
#include <string_view>
#include <utility>

#include <implicit_attention/core/shape.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// RMSNorm (Zhang & Sennrich 2019), u = weight * r / sqrt(mean(r^2) + eps), or
/// LayerNorm (Ba et al. 2016), u = weight * (r - mean(r)) / sqrt(var(r) + eps) + bias; each token by itself.
template <Real Scalar>
class Norm {
 public:
  /// What one forward pass leaves, one number a token.
  struct Statistics {
    Eigen::Array<Scalar, Eigen::Dynamic, 1> mean;   ///< (L), zero for RMSNorm
    Eigen::Array<Scalar, Eigen::Dynamic, 1> scale;  ///< (L): 1 / sqrt(mean square + eps): what every number of the token is multiplied by
  };

  Norm() = default;
  /// RMSNorm; with `one_plus`, the checkpoint stores weight - 1 (Gemma's norms).
  [[nodiscard]] static Norm rms(const Array<Scalar>& weight, double eps, bool one_plus = false);
  /// LayerNorm.
  [[nodiscard]] static Norm layer(const Array<Scalar>& weight, const Array<Scalar>& bias, double eps);

  [[nodiscard]] Index width() const { return weight_.size(); }
  [[nodiscard]] bool empty() const { return weight_.size() == 0; }
  /// Whether the mean is subtracted and a bias added: a LayerNorm.
  [[nodiscard]] bool centred() const { return centred_; }
  /// (D): what the normalised numbers are multiplied by; 1 + the stored weight where the checkpoint has it so.
  [[nodiscard]] const RowVector<Scalar>& weight() const { return weight_; }
  /// (D), empty for RMSNorm.
  [[nodiscard]] const RowVector<Scalar>& bias() const { return bias_; }

  /// Mean and scale of every token of r (L, D).
  [[nodiscard]] Statistics statistics(ConstView<Scalar> r) const;

  /// r (L, D) to u (L, D), given r's statistics.
  [[nodiscard]] Matrix<Scalar> apply(ConstView<Scalar> r, const Statistics& s) const;
  [[nodiscard]] Matrix<Scalar> operator()(ConstView<Scalar> r) const;

  /// The gradient with respect to r (L, D), given that with respect to u (L, D). With n = (r - mean) * scale and g = du * weight:
  /// dr = scale * (g - n mean(g n) [- mean(g)]).
  [[nodiscard]] Matrix<Scalar> backward(ConstView<Scalar> r, const Statistics& s, ConstView<Scalar> du) const;

  /// The same with the scale held constant: the norm is then linear but for its bias (relevance takes a norm's statistics so).
  [[nodiscard]] Matrix<Scalar> backward_scale_constant(const Statistics& s, ConstView<Scalar> du) const;

 private:
  RowVector<Scalar> weight_, bias_;
  Scalar eps_ = 0;
  bool centred_ = false;
};

template <Real Scalar>
Norm<Scalar> Norm<Scalar>::rms(const Array<Scalar>& weight, double eps, bool one_plus) {
  Norm norm;
  norm.weight_ = weight.matrix().row(0);
  if (one_plus) norm.weight_.array() += Scalar(1);
  norm.eps_ = static_cast<Scalar>(eps);
  return norm;
}

template <Real Scalar>
Norm<Scalar> Norm<Scalar>::layer(const Array<Scalar>& weight, const Array<Scalar>& bias, double eps) {
  Norm norm = rms(weight, eps);
  check_vector("LayerNorm", "bias", bias, norm.width(), "width");
  norm.bias_ = bias.matrix().row(0);
  norm.centred_ = true;
  return norm;
}

template <Real Scalar>
typename Norm<Scalar>::Statistics Norm<Scalar>::statistics(ConstView<Scalar> r) const {
  Statistics s;
  s.mean.setZero(r.rows());
  if (centred_) s.mean = r.rowwise().mean().array();
  s.scale.resize(r.rows());
  for (Index token = 0; token < r.rows(); ++token)
    s.scale[token] = Scalar(1) / std::sqrt((r.row(token).array() - s.mean[token]).square().mean() + eps_);
  return s;
}

template <Real Scalar>
Matrix<Scalar> Norm<Scalar>::apply(ConstView<Scalar> r, const Statistics& s) const {
  Matrix<Scalar> u = (((r.array().colwise() - s.mean).colwise() * s.scale).rowwise() * weight_.array()).matrix();
  if (centred_) u.rowwise() += bias_;
  return u;
}

template <Real Scalar>
Matrix<Scalar> Norm<Scalar>::operator()(ConstView<Scalar> r) const {
  return apply(r, statistics(r));
}

template <Real Scalar>
Matrix<Scalar> Norm<Scalar>::backward(ConstView<Scalar> r, const Statistics& s, ConstView<Scalar> du) const {
  Matrix<Scalar> dr = (du.array().rowwise() * weight_.array()).matrix();
  RowVector<Scalar> n(r.cols());
  for (Index token = 0; token < r.rows(); ++token) {
    n = (r.row(token).array() - s.mean[token]).matrix() * s.scale[token];
    const Scalar along = dr.row(token).dot(n) / static_cast<Scalar>(r.cols());
    const Scalar mean = centred_ ? dr.row(token).mean() : Scalar(0);
    dr.row(token) = ((dr.row(token) - along * n).array() - mean).matrix() * s.scale[token];
  }
  return dr;
}

template <Real Scalar>
Matrix<Scalar> Norm<Scalar>::backward_scale_constant(const Statistics& s, ConstView<Scalar> du) const {
  Matrix<Scalar> dr = (du.array().rowwise() * weight_.array()).matrix();
  if (centred_) dr.colwise() -= dr.rowwise().mean().eval();
  dr.array().colwise() *= s.scale;
  return dr;
}

IMPLICIT_ATTENTION_NAMESPACE_END
