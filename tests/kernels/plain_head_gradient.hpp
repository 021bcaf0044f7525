// The gradients of every factor of a HeadRecurrence, token by token, straight from the equation: what the chunked ones are held to.
#pragma once

#include <vector>

#include <implicit_attention/kernels/head_scan.hpp>

namespace head_cases {

using namespace implicit_attention;

/// One head. The state before every token is kept.
template <Real Scalar>
class PlainHeadGradient {
 public:
  PlainHeadGradient(const HeadRecurrence<Scalar>& recurrence, Index head, ConstView<Scalar> x)
      : r_(recurrence), head_(head), x_(x), states_(recurrence.state), values_(recurrence.head_channels()), token_(recurrence, head) {}

  void run(const Array<Scalar>& initial_state, ConstView<Scalar> g, HeadScanGradient<Scalar>& gradient, Matrix<Scalar>& query,
           Matrix<Scalar>& key) {
    Matrix<Scalar> before(r_.tokens * states_, values_), s = Matrix<Scalar>::Zero(states_, values_), adjoint = s;
    if (!initial_state.empty()) s = initial_state.matrix().middleRows(head_ * states_, states_);
    for (Index t = 0; t < r_.tokens; ++t) {
      if (r_.starts_at(t)) s.setZero();
      before.middleRows(t * states_, states_) = s;
      update(s, t);
    }
    for (Index t = r_.tokens - 1; t >= 0; --t) step_back(t, before.middleRows(t * states_, states_), g, adjoint, gradient, query, key);
  }

 private:
  using Rows = Eigen::Block<Matrix<Scalar>, Eigen::Dynamic, Eigen::Dynamic, true>;

  void update(Matrix<Scalar>& s, Index t) {
    token_.load(t);
    if (r_.starts_at(t)) s.setZero();
    RowVector<Scalar> removed;
    if (token_.has_removal) removed.noalias() = token_.probe.matrix().transpose() * s;
    s.array().colwise() *= token_.decay;
    if (token_.has_removal) s.noalias() += token_.removal.matrix() * removed;
    s.noalias() += token_.write.matrix() * x_.row(t).segment(head_ * values_, values_);
  }

  /// `adjoint` comes as the gradient with respect to the state after token t, as later tokens have it, and leaves as that before it.
  void step_back(Index t, const Rows& before, ConstView<Scalar> g, Matrix<Scalar>& adjoint, HeadScanGradient<Scalar>& gradient,
                 Matrix<Scalar>& query, Matrix<Scalar>& key) {
    using Vector = typename detail::HeadToken<Scalar>::Vector;
    token_.load(t);
    const RowVector<Scalar> weight = g.row(t).segment(head_ * values_, values_), input = x_.row(t).segment(head_ * values_, values_);
    const bool replaced = !r_.diagonal.empty();
    // Behind a last token whose own read came before nobody reads the state; a first token has no state to take over. Its transition, a NaN
    // or not, has no part in anything then.
    const bool unread = r_.read_before_update && (t + 1 == r_.tokens || r_.starts_at(t + 1));
    const bool passes = !unread && !r_.starts_at(t) && (t > 0 || (before.array() != Scalar(0)).any());
    const bool removes = token_.has_removal && passes;
    if (!passes) token_.decay.setOnes();
    // What the query reads: the state before, the decayed one, or the updated one.
    RowVector<Scalar> removed;
    Matrix<Scalar> seen = before;
    if (removes) removed.noalias() = token_.probe.matrix().transpose() * before;
    if (!r_.read_before_update) {
      seen.array().colwise() *= token_.decay;
      if (removes) seen.noalias() += token_.removal.matrix() * removed;
      if (!replaced) seen.noalias() += token_.write.matrix() * input;
    }
    query.row(t).segment(head_ * states_, states_).noalias() = (seen * weight.transpose()).transpose();
    if (!r_.read_before_update && !replaced) adjoint.noalias() += token_.query.matrix() * weight;
    RowVector<Scalar> input_gradient = token_.write.matrix().transpose() * adjoint;
    Vector write_gradient = (adjoint * input.transpose()).array();
    if (unread) {
      input_gradient.setZero();
      write_gradient.setZero();
    }
    if (!r_.read_before_update && replaced) adjoint.noalias() += token_.query.matrix() * weight;
    if (replaced) {
      gradient.diagonal(t, head_) = weight.dot(input);
      input_gradient += r_.diagonal(t, head_) * weight;
    }
    gradient.input.row(t).segment(head_ * values_, values_) = input_gradient;

    // S = diag(w) S' + removal (probe^T S') + write x^T
    Vector decay_gradient = (adjoint.array() * before.array()).rowwise().sum();
    RowVector<Scalar> probed;
    if (r_.transition == Transition::rank_one)
      for (Matrix<Scalar>* matrix : {&gradient.removal, &gradient.probe}) matrix->row(t).segment(head_ * states_, states_).setZero();
    if (removes) {
      const Vector removal_gradient = (adjoint * removed.transpose()).array();
      probed.noalias() = token_.removal.matrix().transpose() * adjoint;
      const Vector probe_gradient = (before * probed.transpose()).array();
      if (r_.transition == Transition::rank_one) {
        gradient.removal.row(t).segment(head_ * states_, states_) = removal_gradient.matrix().transpose();
        gradient.probe.row(t).segment(head_ * states_, states_) = probe_gradient.matrix().transpose();
      } else {  // removal = -write, probe = w key
        const Index first = r_.group(head_) * states_;
        write_gradient -= removal_gradient;
        for (Index n = 0; n < states_; ++n) {
          key(t, head_ * states_ + n) += token_.decay[n] * probe_gradient[n];
          decay_gradient[n] += r_.key(t, first + n) * probe_gradient[n];
        }
      }
    }
    const Index first = r_.group(head_) * states_;
    const Scalar scale = r_.write_scale(t, head_);
    Scalar scale_gradient = 0;
    for (Index n = 0; n < states_; ++n) {
      key(t, head_ * states_ + n) += scale * write_gradient[n];
      scale_gradient += r_.key(t, first + n) * write_gradient[n];
    }
    if (!r_.key_scale.empty()) gradient.key_scale(t, head_) = scale_gradient;
    if (!r_.log_decay.empty() && passes) {
      decay_gradient *= token_.decay;
      const Index row = r_.log_decay.rows() == 1 ? 0 : t;
      if (r_.decay_by_state())
        gradient.log_decay.row(row).segment(head_ * states_, states_) += decay_gradient.matrix().transpose();
      else
        gradient.log_decay(row, head_) += decay_gradient.sum();
    }
    adjoint.array().colwise() *= token_.decay;
    if (removes) adjoint.noalias() += token_.probe.matrix() * probed;
    if (r_.read_before_update) adjoint.noalias() += token_.query.matrix() * weight;
    if (r_.starts_at(t)) adjoint.setZero();
  }

  const HeadRecurrence<Scalar>& r_;
  Index head_;
  ConstView<Scalar> x_;
  Index states_, values_;
  detail::HeadToken<Scalar> token_;
};

/// The same numbers in double.
template <Real Scalar>
HeadRecurrence<double> in_double(const HeadRecurrence<Scalar>& r) {
  HeadRecurrence<double> d;
  d.tokens = r.tokens;
  d.channels = r.channels;
  d.heads = r.heads;
  d.groups = r.groups;
  d.state = r.state;
  d.transition = r.transition;
  d.read_before_update = r.read_before_update;
  d.starts = r.starts;
  const auto copy = [](const Array<Scalar>& from, Array<double>& to) {
    if (!from.empty()) to = Matrix<double>(from.matrix().template cast<double>());
  };
  copy(r.query, d.query);
  copy(r.key, d.key);
  copy(r.key_scale, d.key_scale);
  copy(r.log_decay, d.log_decay);
  copy(r.removal, d.removal);
  copy(r.probe, d.probe);
  copy(r.diagonal, d.diagonal);
  return d;
}

/// head_scan_gradient, token by token.
template <Real Scalar>
HeadScanGradient<Scalar> plain_head_gradient(const HeadRecurrence<Scalar>& r, const Matrix<Scalar>& x, const Matrix<Scalar>& initial,
                                             const Matrix<Scalar>& g) {
  const Index own = r.heads * r.state;
  HeadScanGradient<Scalar> gradient;
  gradient.input.resize(r.tokens, r.channels);
  if (!r.key_scale.empty()) gradient.key_scale.resize(r.tokens, r.heads);
  if (!r.log_decay.empty()) gradient.log_decay.setZero(r.log_decay.rows(), r.log_decay.cols());
  if (r.transition == Transition::rank_one) {
    gradient.removal.resize(r.tokens, own);
    gradient.probe.resize(r.tokens, own);
  }
  if (!r.diagonal.empty()) gradient.diagonal.resize(r.tokens, r.heads);
  Matrix<Scalar> query(r.tokens, own), key = Matrix<Scalar>::Zero(r.tokens, own);
  for (Index head = 0; head < r.heads; ++head)
    PlainHeadGradient<Scalar>(r, head, ConstView<Scalar>(x)).run(Array<Scalar>::view(initial), ConstView<Scalar>(g), gradient, query, key);
  gradient.query.setZero(r.tokens, r.groups * r.state);
  gradient.key = gradient.query;
  for (Index head = 0; head < r.heads; ++head) {
    gradient.query.middleCols(r.group(head) * r.state, r.state) += query.middleCols(head * r.state, r.state);
    gradient.key.middleCols(r.group(head) * r.state, r.state) += key.middleCols(head * r.state, r.state);
  }
  return gradient;
}

}  // namespace head_cases
