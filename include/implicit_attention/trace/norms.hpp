// Norms: of the residual stream, of a mixer's output, of queries and keys; over the whole width or over each of several groups of it.
#pragma once

#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/trace/products.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// RMSNorm (Zhang & Sennrich 2019), u = weight * r / sqrt(mean(r^2) + eps), or
/// LayerNorm (Ba et al. 2016), u = weight * (r - mean(r)) / sqrt(var(r) + eps) + bias; each token by itself, over groups of neighbouring
/// columns (a group norm where there are several).
template <Real Scalar>
class Norm {
 public:
  /// What one forward pass leaves, one number a token and group.
  struct Statistics {
    Matrix<Scalar> mean;   ///< (L, groups), zero for RMSNorm
    Matrix<Scalar> scale;  ///< (L, groups): 1 / sqrt(mean square + eps): what every number of the group is multiplied by
  };

  Norm() = default;
  /// RMSNorm; with `one_plus`, the checkpoint stores weight - 1 (Gemma's norms). A weight as wide as one group serves all of them.
  [[nodiscard]] static Norm rms(const Array<Scalar>& weight, double eps, bool one_plus = false, Index groups = 1);
  /// RMSNorm without a weight.
  [[nodiscard]] static Norm rms(Index width, double eps, Index groups = 1);
  /// LayerNorm; its bias may be empty.
  [[nodiscard]] static Norm layer(const Array<Scalar>& weight, const Array<Scalar>& bias, double eps, Index groups = 1);

  [[nodiscard]] Index width() const { return weight_.size(); }
  [[nodiscard]] Index groups() const { return groups_; }
  [[nodiscard]] bool empty() const { return weight_.size() == 0; }
  /// Whether the mean is subtracted: a LayerNorm.
  [[nodiscard]] bool centred() const { return centred_; }
  /// (D): what the normalised numbers are multiplied by; 1 + the stored weight where the checkpoint has it so.
  [[nodiscard]] const RowVector<Scalar>& weight() const { return weight_; }
  /// (D), empty where there is none.
  [[nodiscard]] const RowVector<Scalar>& bias() const { return bias_; }

  /// Mean and scale of every token of r (L, D).
  [[nodiscard]] Statistics statistics(ConstView<Scalar> r, const Executor& executor = serial_executor()) const;

  /// r (L, D) to u (L, D), given r's statistics.
  [[nodiscard]] Matrix<Scalar> apply(ConstView<Scalar> r, const Statistics& s, const Executor& executor = serial_executor()) const;
  /// The same where nobody asks for the statistics.
  [[nodiscard]] Matrix<Scalar> operator()(ConstView<Scalar> r, const Executor& executor = serial_executor()) const;

  /// scale * weight of every number, (L, D): what the norm multiplies by where its statistics are held.
  [[nodiscard]] Matrix<Scalar> held_scale(const Statistics& s) const;

  /// The gradient with respect to r (L, D), given that with respect to u (L, D). With n = (r - mean) * scale and g = du * weight:
  /// dr = scale * (g - n mean(g n) [- mean(g)]).
  [[nodiscard]] Matrix<Scalar> backward(ConstView<Scalar> r, const Statistics& s, ConstView<Scalar> du,
                                        const Executor& executor = serial_executor()) const;

  /// The same with the scale held constant: the norm is then linear except for its bias (relevance holds a norm's statistics).
  [[nodiscard]] Matrix<Scalar> backward_scale_constant(const Statistics& s, ConstView<Scalar> du,
                                                       const Executor& executor = serial_executor()) const;

 private:
  /// Calls body(group, its first column, its weights).
  template <class Body>
  void each_group(const Body& body) const;
  struct MeanAndScale {
    Scalar mean, scale;
  };
  /// Those of one group of a token.
  [[nodiscard]] MeanAndScale statistics_of(const detail::ConstNumbers<Scalar>& numbers) const {
    const Scalar mean = centred_ ? numbers.mean() : Scalar(0);
    const Scalar scale = Scalar(1) / std::sqrt((numbers - mean).square().mean() + eps_);
    // A scale of 0 would hide an infinite number in those beside it.
    if (scale == Scalar(0) && !detail::all_finite(numbers.data(), numbers.size())) return {mean, std::numeric_limits<Scalar>::quiet_NaN()};
    return {mean, scale};
  }
  /// r to u, given r's statistics where they are known, else null.
  [[nodiscard]] Matrix<Scalar> normalized(ConstView<Scalar> r, const Statistics* known, const Executor& executor) const;

  RowVector<Scalar> weight_, bias_;
  Scalar eps_ = 0;
  bool centred_ = false;
  Index groups_ = 1;
};

template <Real Scalar>
Norm<Scalar> Norm<Scalar>::rms(const Array<Scalar>& weight, double eps, bool one_plus, Index groups) {
  Norm norm;
  norm.weight_ = detail::row_of(weight, 0);
  detail::Numbers<Scalar> numbers(norm.weight_.data(), norm.weight_.size());
  if (one_plus) numbers = numbers + Scalar(1);
  norm.eps_ = static_cast<Scalar>(eps);
  norm.groups_ = groups;
  return norm;
}

template <Real Scalar>
Norm<Scalar> Norm<Scalar>::rms(Index width, double eps, Index groups) {
  return rms(Array<Scalar>(Matrix<Scalar>(Matrix<Scalar>::Ones(1, width))), eps, false, groups);
}

template <Real Scalar>
Norm<Scalar> Norm<Scalar>::layer(const Array<Scalar>& weight, const Array<Scalar>& bias, double eps, Index groups) {
  Norm norm = rms(weight, eps, false, groups);
  if (!bias.empty()) {
    check_vector("LayerNorm", "bias", bias, norm.width(), "width");
    norm.bias_ = detail::row_of(bias, 0);
  }
  norm.centred_ = true;
  return norm;
}

template <Real Scalar>
template <class Body>
void Norm<Scalar>::each_group(const Body& body) const {
  const Index size = width() / groups_;
  for (Index group = 0; group < groups_; ++group)
    body(group, group * size, detail::ConstNumbers<Scalar>(weight_.data() + group * size, size));
}

template <Real Scalar>
typename Norm<Scalar>::Statistics Norm<Scalar>::statistics(ConstView<Scalar> r, const Executor& executor) const {
  Statistics s;
  s.mean.resize(r.rows(), groups_);
  s.scale.resize(r.rows(), groups_);
  detail::for_row_panels(r.rows(), r.cols(), executor, [&](Index first, Index count) {
    for (Index token = first; token < first + count; ++token)
      each_group([&](Index group, Index column, const detail::ConstNumbers<Scalar>& weight) {
        const MeanAndScale made = statistics_of(detail::ConstNumbers<Scalar>(&r.coeffRef(token, column), weight.size()));
        s.mean(token, group) = made.mean;
        s.scale(token, group) = made.scale;
      });
  });
  return s;
}

template <Real Scalar>
Matrix<Scalar> Norm<Scalar>::normalized(ConstView<Scalar> r, const Statistics* known, const Executor& executor) const {
  return detail::filled_by_rows<Scalar>(r.rows(), r.cols(), executor, [&](View<Scalar> u, Index first, Index count) {
    for (Index row = 0; row < count; ++row)
      each_group([&](Index group, Index column, const detail::ConstNumbers<Scalar>& weight) {
        const detail::ConstNumbers<Scalar> numbers(&r.coeffRef(first + row, column), weight.size());
        const MeanAndScale by =
            known == nullptr ? statistics_of(numbers) : MeanAndScale{known->mean(first + row, group), known->scale(first + row, group)};
        detail::Numbers<Scalar> out(&u.coeffRef(row, column), weight.size());
        if (bias_.size() == 0)
          out = (by.scale * (numbers - by.mean)) * weight;
        else
          out = (by.scale * (numbers - by.mean)) * weight + detail::ConstNumbers<Scalar>(bias_.data() + column, weight.size());
      });
  });
}

template <Real Scalar>
Matrix<Scalar> Norm<Scalar>::apply(ConstView<Scalar> r, const Statistics& s, const Executor& executor) const {
  return normalized(r, &s, executor);
}

template <Real Scalar>
Matrix<Scalar> Norm<Scalar>::operator()(ConstView<Scalar> r, const Executor& executor) const {
  return normalized(r, nullptr, executor);
}

template <Real Scalar>
Matrix<Scalar> Norm<Scalar>::held_scale(const Statistics& s) const {
  Matrix<Scalar> scale(s.scale.rows(), width());
  for (Index token = 0; token < scale.rows(); ++token)
    each_group([&](Index group, Index column, const detail::ConstNumbers<Scalar>& weight) {
      detail::Numbers<Scalar>(&scale(token, column), weight.size()) = s.scale(token, group) * weight;
    });
  return scale;
}

template <Real Scalar>
Matrix<Scalar> Norm<Scalar>::backward(ConstView<Scalar> r, const Statistics& s, ConstView<Scalar> du, const Executor& executor) const {
  const Index size = width() / groups_;
  return detail::filled_by_rows<Scalar>(r.rows(), r.cols(), executor, [&](View<Scalar> dr, Index first, Index count) {
    RowVector<Scalar> normalized(size);
    detail::Numbers<Scalar> n(normalized.data(), size);
    for (Index row = 0; row < count; ++row)
      each_group([&](Index group, Index column, const detail::ConstNumbers<Scalar>& weight) {
        const Index token = first + row;
        detail::Numbers<Scalar> g(&dr.coeffRef(row, column), size);
        g = detail::ConstNumbers<Scalar>(&du.coeffRef(token, column), size) * weight;
        n = s.scale(token, group) * (detail::ConstNumbers<Scalar>(&r.coeffRef(token, column), size) - s.mean(token, group));
        const Scalar along = (g * n).mean();
        const Scalar mean = centred_ ? g.mean() : Scalar(0);
        g = s.scale(token, group) * ((g - along * n) - mean);
      });
  });
}

template <Real Scalar>
Matrix<Scalar> Norm<Scalar>::backward_scale_constant(const Statistics& s, ConstView<Scalar> du, const Executor& executor) const {
  return detail::filled_by_rows<Scalar>(du.rows(), du.cols(), executor, [&](View<Scalar> dr, Index first, Index count) {
    for (Index row = 0; row < count; ++row)
      each_group([&](Index group, Index column, const detail::ConstNumbers<Scalar>& weight) {
        const Index token = first + row;
        detail::Numbers<Scalar> g(&dr.coeffRef(row, column), weight.size());
        g = detail::ConstNumbers<Scalar>(&du.coeffRef(token, column), weight.size()) * weight;
        const Scalar mean = centred_ ? g.mean() : Scalar(0);
        g = s.scale(token, group) * (g - mean);
      });
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
