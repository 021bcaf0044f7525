// The gradients of every factor of a HeadRecurrence, token by token; o = R x and its transpose come with head_chunks.hpp.
#pragma once

#include <vector>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/kernels/head_chunks.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Gradients with respect to the inputs of a HeadRecurrence; a matrix is empty where the recurrence has no such input.
template <Real Scalar>
struct HeadScanGradient {
  Matrix<Scalar> input;           ///< (tokens, channels): R^T g
  Matrix<Scalar> query, key;      ///< (tokens, groups * state)
  Matrix<Scalar> key_scale;       ///< (tokens, heads)
  Matrix<Scalar> log_decay;       ///< (tokens, heads or heads * state), zero where a document starts; one row's sum where it is constant
  Matrix<Scalar> removal, probe;  ///< (tokens, heads * state)
  Matrix<Scalar> diagonal;        ///< (tokens, heads)
};

namespace detail {

/// One head. States are kept for one token in IMPLICIT_ATTENTION_BLOCK_TOKENS; each block's are computed again when the walk back
/// reaches it. The gradients of shared queries and keys go to this head's own columns and are summed over a group afterwards.
template <Real Scalar>
class HeadGradient {
 public:
  HeadGradient(const HeadRecurrence<Scalar>& recurrence, Index head, ConstView<Scalar> x)
      : r_(recurrence), head_(head), x_(x), states_(recurrence.state), values_(recurrence.head_channels()), token_(recurrence, head) {}

  void run(const Array<Scalar>& initial_state, ConstView<Scalar> g, HeadScanGradient<Scalar>& gradient, Matrix<Scalar>& query,
           Matrix<Scalar>& key) {
    constexpr Index block = IMPLICIT_ATTENTION_BLOCK_TOKENS;
    const Index tokens = r_.tokens, blocks = (tokens + block - 1) / block;
    Matrix<Scalar> checkpoints(blocks * states_, values_), s = Matrix<Scalar>::Zero(states_, values_);
    if (!initial_state.empty()) s = initial_state.matrix().middleRows(head_ * states_, states_);
    for (Index b = 0; b < blocks; ++b) {
      checkpoints.middleRows(b * states_, states_) = s;
      if (b + 1 < blocks)
        for (Index t = b * block; t < (b + 1) * block; ++t) update(s, t);
    }
    Matrix<Scalar> before(std::min(block, tokens) * states_, values_), adjoint = Matrix<Scalar>::Zero(states_, values_);
    for (Index b = blocks - 1; b >= 0; --b) {
      const Index begin = b * block, end = std::min(begin + block, tokens);
      s = checkpoints.middleRows(b * states_, states_);
      for (Index t = begin; t < end; ++t) {
        if (r_.starts_at(t)) s.setZero();
        before.middleRows((t - begin) * states_, states_) = s;
        update(s, t);
      }
      for (Index t = end - 1; t >= begin; --t)
        step_back(t, before.middleRows((t - begin) * states_, states_), g, adjoint, gradient, query, key);
    }
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
    using Vector = typename HeadToken<Scalar>::Vector;
    token_.load(t);
    const RowVector<Scalar> weight = g.row(t).segment(head_ * values_, values_), input = x_.row(t).segment(head_ * values_, values_);
    const bool replaced = !r_.diagonal.empty();
    // What the query reads: the state before, the decayed one, or the updated one.
    RowVector<Scalar> removed;
    Matrix<Scalar> seen = before;
    if (token_.has_removal) removed.noalias() = token_.probe.matrix().transpose() * before;
    if (!r_.read_before_update) {
      seen.array().colwise() *= token_.decay;
      if (token_.has_removal) seen.noalias() += token_.removal.matrix() * removed;
      if (!replaced) seen.noalias() += token_.write.matrix() * input;
    }
    query.row(t).segment(head_ * states_, states_).noalias() = (seen * weight.transpose()).transpose();
    if (!r_.read_before_update && !replaced) adjoint.noalias() += token_.query.matrix() * weight;
    RowVector<Scalar> input_gradient = token_.write.matrix().transpose() * adjoint;
    Vector write_gradient = (adjoint * input.transpose()).array();
    if (!r_.read_before_update && replaced) adjoint.noalias() += token_.query.matrix() * weight;
    if (replaced) {
      gradient.diagonal(t, head_) = weight.dot(input);
      input_gradient += r_.diagonal(t, head_) * weight;
    }
    gradient.input.row(t).segment(head_ * values_, values_) = input_gradient;

    // S = diag(w) S' + removal (probe^T S') + write x^T
    Vector decay_gradient = (adjoint.array() * before.array()).rowwise().sum();
    RowVector<Scalar> probed;
    if (token_.has_removal) {
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
    if (!r_.log_decay.empty() && !r_.starts_at(t)) {
      decay_gradient *= token_.decay;
      const Index row = r_.log_decay.rows() == 1 ? 0 : t;
      if (r_.decay_by_state())
        gradient.log_decay.row(row).segment(head_ * states_, states_) += decay_gradient.matrix().transpose();
      else
        gradient.log_decay(row, head_) += decay_gradient.sum();
    }
    adjoint.array().colwise() *= token_.decay;
    if (token_.has_removal) adjoint.noalias() += token_.probe.matrix() * probed;
    if (r_.read_before_update) adjoint.noalias() += token_.query.matrix() * weight;
    if (r_.starts_at(t)) adjoint.setZero();
  }

  const HeadRecurrence<Scalar>& r_;
  Index head_;
  ConstView<Scalar> x_;
  Index states_, values_;
  HeadToken<Scalar> token_;
};

}  // namespace detail

/// Given o = R x (+ what `initial_state` gives, a constant) and g = dL/do (tokens, channels), the gradients with respect to x and
/// everything R is made of. Time and memory linear in tokens; the same for any number of workers.
template <Real Scalar>
[[nodiscard]] HeadScanGradient<Scalar> head_scan_gradient(const HeadRecurrence<Scalar>& recurrence, ConstView<Scalar> x,
                                                          const Array<Scalar>& initial_state, ConstView<Scalar> g,
                                                          const Executor& executor) {
  const Index tokens = recurrence.tokens, heads = recurrence.heads, states = recurrence.state;
  check_shape("head_scan_gradient", "x", x, tokens, recurrence.channels, "(tokens, channels)");
  check_shape("head_scan_gradient", "g", g, tokens, recurrence.channels, "(tokens, channels)");
  HeadScanGradient<Scalar> gradient;
  gradient.input.resize(tokens, recurrence.channels);
  if (!recurrence.key_scale.empty()) gradient.key_scale.resize(tokens, heads);
  if (!recurrence.log_decay.empty()) gradient.log_decay.setZero(recurrence.log_decay.rows(), recurrence.log_decay.cols());
  if (recurrence.transition == Transition::rank_one) {
    gradient.removal.resize(tokens, heads * states);
    gradient.probe.resize(tokens, heads * states);
  }
  if (!recurrence.diagonal.empty()) gradient.diagonal.resize(tokens, heads);
  Matrix<Scalar> query(tokens, heads * states), key = Matrix<Scalar>::Zero(tokens, heads * states);
  executor(heads, [&](Index head) { detail::HeadGradient<Scalar>(recurrence, head, x).run(initial_state, g, gradient, query, key); });
  const auto over_groups = [&](Matrix<Scalar>& by_head) {
    if (recurrence.groups == heads) return std::move(by_head);
    Matrix<Scalar> sum = Matrix<Scalar>::Zero(tokens, recurrence.groups * states);
    for (Index head = 0; head < heads; ++head)
      sum.middleCols(recurrence.group(head) * states, states) += by_head.middleCols(head * states, states);
    return sum;
  };
  gradient.query = over_groups(query);
  gradient.key = over_groups(key);
  return gradient;
}

IMPLICIT_ATTENTION_NAMESPACE_END
