// Applications of a HeadRecurrence token by token, straight from the equation: the reference the chunked ones are held to, and what runs
// where a number is not finite.
#pragma once

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/kernels/head_recurrence.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// One head's recurrence, a token at a time.
template <Real Scalar>
class PlainHeadScan {
 public:
  PlainHeadScan(const HeadRecurrence<Scalar>& recurrence, Index head)
      : r_(&recurrence), head_(head), first_(head * recurrence.head_channels()), token_(recurrence, head) {
    for (RowVector<Scalar>* row : {&input_, &removed_, &read_}) row->setZero(recurrence.head_channels());
  }

  // A token's transition (its decay, removal and probe) through which no state passes is not used and may hold anything, NaN included: it
  // must not be multiplied with zeros. Every way of computing a HeadRecurrence asks the two functions below.
  /// Whether the transition of `token` has a state to act on: one of the same document, and not the zeros before the first token.
  [[nodiscard]] bool has_past(Index token, const Matrix<Scalar>& before) const {
    return !r_->starts_at(token) && (token > 0 || !(before.cwiseAbs().sum() == Scalar(0)));
  }
  /// Whether any token reads the state after `token`: none does after the last token of a document.
  [[nodiscard]] bool has_future(Index token) const { return token + 1 < r_->tokens && !r_->starts_at(token + 1); }

  /// Tokens first..end-1; `state` (state, values) comes as the one before them and leaves as the one after. An empty x is zero.
  void run(Index first, Index end, const Array<Scalar>& x, Matrix<Scalar>& state, View<Scalar> out) {
    const bool before = r_->read_before_update, replaced = !r_->diagonal.empty();
    for (Index t = first; t < end; ++t) {
      token_.load(t);
      if (r_->starts_at(t)) state.setZero();
      if (!x.empty()) input_ = x.matrix().row(t).segment(first_, input_.size());
      if (!has_past(t, state)) {
        read_.setZero();
      } else {
        if (before) read(state);
        if (token_.has_removal) removed_.noalias() = token_.probe.matrix().transpose() * state;
        state.array().colwise() *= token_.decay;
        if (token_.has_removal) state.noalias() += token_.removal.matrix() * removed_;
        if (!before && replaced) read(state);
      }
      state.noalias() += token_.write.matrix() * input_;
      if (!before && !replaced) read(state);
      if (replaced) read_ += r_->diagonal(t, head_) * input_;
      out.row(t).segment(first_, input_.size()) = read_;
    }
  }

  /// The transpose of tokens first..end-1; `adjoint` (state, values) comes as what later tokens take from the state after them and leaves
  /// as what is taken from the state before them.
  void run_transposed(Index first, Index end, ConstView<Scalar> g, Matrix<Scalar>& adjoint, View<Scalar> out) {
    const bool before = r_->read_before_update, own = !before && r_->diagonal.empty();
    for (Index t = end - 1; t >= first; --t) {
      token_.load(t);
      input_ = g.row(t).segment(first_, input_.size());
      const bool read_later = has_future(t);  // if not, nothing uses what is written into the state there
      if (own) adjoint.noalias() += token_.query.matrix() * input_;
      if (own || read_later)
        read_.noalias() = token_.write.matrix().transpose() * adjoint;
      else
        read_.setZero();
      if (!before && !own) adjoint.noalias() += token_.query.matrix() * input_;
      if (!before || read_later) {
        if (token_.has_removal) removed_.noalias() = token_.removal.matrix().transpose() * adjoint;
        adjoint.array().colwise() *= token_.decay;
        if (token_.has_removal) adjoint.noalias() += token_.probe.matrix() * removed_;
      }
      if (before) adjoint.noalias() += token_.query.matrix() * input_;
      if (r_->starts_at(t)) adjoint.setZero();
      if (!r_->diagonal.empty()) read_ += r_->diagonal(t, head_) * input_;
      out.row(t).segment(first_, input_.size()) = read_;
    }
  }

 private:
  void read(const Matrix<Scalar>& state) { read_.noalias() = token_.query.matrix().transpose() * state; }

  const HeadRecurrence<Scalar>* r_;
  Index head_, first_;
  HeadToken<Scalar> token_;
  RowVector<Scalar> input_, removed_, read_;
};

}  // namespace detail

/// head_scan, token by token.
template <Real Scalar>
void plain_head_scan(const HeadRecurrence<Scalar>& recurrence, const Array<Scalar>& x, const Array<Scalar>& initial_state, View<Scalar> out,
                     const Executor& executor, View<Scalar>* final_state = nullptr) {
  const Index states = recurrence.state;
  detail::run_loop(executor, recurrence.heads, [&](Index head) {
    Matrix<Scalar> state = Matrix<Scalar>::Zero(states, recurrence.head_channels());
    if (!initial_state.empty()) state = initial_state.matrix().middleRows(head * states, states);
    detail::PlainHeadScan<Scalar>(recurrence, head).run(0, recurrence.tokens, x, state, out);
    if (final_state) final_state->middleRows(head * states, states) = state;
  });
}

/// head_scan_transposed, token by token.
template <Real Scalar>
void plain_head_scan_transposed(const HeadRecurrence<Scalar>& recurrence, ConstView<Scalar> g, View<Scalar> out, const Executor& executor) {
  detail::run_loop(executor, recurrence.heads, [&](Index head) {
    Matrix<Scalar> adjoint = Matrix<Scalar>::Zero(recurrence.state, recurrence.head_channels());
    detail::PlainHeadScan<Scalar>(recurrence, head).run_transposed(0, recurrence.tokens, g, adjoint, out);
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
