// The gradients of every factor of a HeadRecurrence, in chunks of tokens; o = R x and its transpose come with head_chunks.hpp.
#pragma once

#include <utility>
#include <vector>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/kernels/head_block_gradient.hpp>
#include <implicit_attention/kernels/head_chunks.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
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

/// One head, in the chunks of HeadChunk: with its names, A the gradient of the state after a chunk and G that of o,
///
///     dM = G x^T    dB = G e^T    dQ = G h^T    dF = v x^T    dN = v e^T    dC = v h^T    dW = x A^T    dD = e A^T
///
/// v = T^T (B^T G + D A); the delta rule has dM = G u^T, dF = -v u^T, dC = -v h^T and dW = u A^T. Of these HeadBlockGradient makes what the
/// vectors and decays take. The state before every chunk is kept. The gradients of shared queries and keys go to this head's own columns and
/// are summed over a group afterwards.
template <Real Scalar>
class HeadGradient : HeadChunk<Scalar> {
 public:
  HeadGradient(const HeadRecurrence<Scalar>& recurrence, Index head, ConstView<Scalar> x, ConstView<Scalar> g,
               HeadScanGradient<Scalar>& gradient, Matrix<Scalar>& query, Matrix<Scalar>& key)
      : HeadChunk<Scalar>(recurrence, head), x_(x), g_(g), gradient_(&gradient), query_(&query), key_(&key), factors_(recurrence) {}

  void run(const Array<Scalar>& initial_state) {
    const Index states = r_->state;
    Matrix<Scalar> state = Matrix<Scalar>::Zero(states, values_), adjoint = state;
    if (!initial_state.empty()) state = initial_state.matrix().middleRows(head_ * states, states);
    run(token_ranges(*r_, r_->decay_by_state() ? chunk_tokens_by_state : chunk_tokens), state, adjoint);
  }

 private:
  using Chunk = HeadChunk<Scalar>;
  using Chunk::input_, Chunk::weights_, Chunk::read_, Chunk::rest_, Chunk::used_, Chunk::solved_, Chunk::out_;
  using Chunk::r_, Chunk::head_, Chunk::values_, Chunk::plain_, Chunk::diagonal_, Chunk::delta_, Chunk::block_;
  using Chunk::within_, Chunk::readers_, Chunk::writes_, Chunk::removals_, Chunk::probe_writes_, Chunk::query_removals_, Chunk::removed_;

  /// With a decay a state, pairs of a chunk are walked one by one.
  static constexpr Index chunk_tokens_by_state = 16;

  /// `state` comes as that before the first range, the adjoint as that after the last one; it leaves as that before the first one.
  void run(const std::vector<TokenRange>& ranges, Matrix<Scalar> state, Matrix<Scalar>& adjoint) {
    const Index states = r_->state, count = static_cast<Index>(ranges.size());
    Matrix<Scalar> before(count * states, values_), after;
    for (Index i = 0; i < count; ++i) {
      const TokenRange& range = ranges[static_cast<std::size_t>(i)];
      if (range.starts) state.setZero();
      before.middleRows(i * states, states) = state;
      if (i + 1 < count) Chunk::run(range, Array<Scalar>::view(x_), state, View<Scalar>(gradient_->input));  // overwritten on the way back
    }
    for (Index i = count - 1; i >= 0; --i) {
      const TokenRange& range = ranges[static_cast<std::size_t>(i)];
      state = before.middleRows(i * states, states);
      after = adjoint;
      if (step_back(range, state, adjoint) || range.count() == 1) continue;
      // Zeros of triangular factors would carry a number that is not finite to other tokens.
      adjoint = after;
      std::vector<TokenRange> tokens;
      for (Index t = range.first; t < range.end; ++t) tokens.push_back({t, t + 1, range.starts && t == range.first});
      run(tokens, state, adjoint);
    }
  }

  /// One chunk's gradients, and the adjoint before it. Returns whether all are finite; if not, those of one token alone stand.
  bool step_back(const TokenRange& range, const Matrix<Scalar>& state, Matrix<Scalar>& adjoint) {
    const Index n = range.count();
    const Index late = r_->read_before_update ? 1 : 0, probe_late = delta_ ? 0 : 1;
    const bool past = plain_.has_past(range.first, state), unread = late == 1 && !plain_.has_future(range.end - 1);
    // Of one token alone, which may hold a NaN that is nobody's, nothing is multiplied by the zeros around it.
    const bool passes = past && !(unread && n == 1);
    Chunk::prepare(range, past, !unread);
    const bool scaled = !r_->key_scale.empty(), rank_one = !diagonal_ && !delta_;
    input_ = x_.block(range.first, head_ * values_, n, values_);
    if (unread) input_.row(n - 1).setZero();
    weights_ = g_.block(range.first, head_ * values_, n, values_);
    const ConstView<Scalar> probe_factor = readers_.bottomRows(n);
    if (!diagonal_) {
      read_.setZero(n, values_);
      if (passes) set_product(read_, probe_factor, state);
      Chunk::use(read_);
    }
    const Matrix<Scalar>& written = delta_ ? used_ : input_;
    Chunk::transpose(adjoint);
    gradient_->input.block(range.first, head_ * values_, n, values_) = out_;
    if (n == 1 && !all_finite(out_)) {  // a diagonal that is replaced has the query in no gradient of x
      after_ = adjoint;
      plain_.run_transposed(range.first, range.end, g_, after_, View<Scalar>(gradient_->input));
    }

    factors_.start(block_);
    if (passes) factors_.add_decay_state(adjoint, state);
    View<Scalar> query = rows(*query_, range), key = rows(*key_, range);
    writer_gradient_.setZero(n, r_->state);
    set_product(slopes_, weights_, state, Transposed::right);
    factors_.add_from_start(slopes_, readers_.topRows(n), late, query);
    set_product(slopes_, written, adjoint, Transposed::right);
    factors_.add_to_end(slopes_, writes_, View<Scalar>(writer_gradient_));
    set_product(pair_slopes_, weights_, written, Transposed::right);
    if (!r_->diagonal.empty()) {
      if (delta_) {  // its removals go by the written diagonal: -M e
        if (n > 1) read_ = input_ - used_;
        for (Index t = 0; t < n; ++t) pair_slopes_(t, t) = -weights_.row(t).dot(read_.row(t));
      }
      for (Index t = 0; t < n; ++t)
        gradient_->diagonal(range.first + t, head_) = weights_.row(t).dot(x_.row(range.first + t).segment(head_ * values_, values_));
    }
    const Index nearest = late == 1 || (!r_->diagonal.empty() && !(delta_ && (passes || n > 1))) ? 1 : 0;
    factors_.add_products(block_.query(), block_.key(), late, nearest, scaled, pair_slopes_, within_, query,
                          View<Scalar>(writer_gradient_));
    bool finite = true;
    if (!diagonal_) {
      View<Scalar> probe = delta_ ? key : rows(gradient_->probe, range);
      passed_ = delta_ ? Scalar(-1) * solved_ : Scalar(1) * solved_;
      if (passes) {
        set_product(slopes_, passed_, state, Transposed::right);
        factors_.add_from_start(slopes_, probe_factor, probe_late, probe);
      }
      set_product(pair_slopes_, passed_, written, Transposed::right);
      factors_.add_products(block_.probe(), block_.key(), probe_late, 1, scaled, pair_slopes_, probe_writes_, probe,
                            View<Scalar>(writer_gradient_));
      if (rank_one) {
        View<Scalar> removal = rows(gradient_->removal, range);
        set_product(slopes_, used_, adjoint, Transposed::right);
        factors_.add_to_end(slopes_, removals_, removal);
        set_product(pair_slopes_, weights_, used_, Transposed::right);
        factors_.add_products(block_.query(), block_.removal(), late, late, false, pair_slopes_, query_removals_, query, removal);
        set_product(pair_slopes_, passed_, used_, Transposed::right);
        factors_.add_products(block_.probe(), block_.removal(), probe_late, 1, false, pair_slopes_, removed_, probe, removal);
        for (View<Scalar>* const idle : {&removal, &probe}) {
          if (!past) idle->row(0).setZero();
          if (unread) idle->row(n - 1).setZero();
        }
        finite = all_finite(removal) && all_finite(probe);
      }
    }
    const ConstView<Scalar> keys = block_.key();
    for (Index t = 0; t < n; ++t) {
      key.row(t) += block_.scale()[t] * writer_gradient_.row(t);
      if (scaled) gradient_->key_scale(range.first + t, head_) = keys.row(t).dot(writer_gradient_.row(t));
    }
    Chunk::pass_on(range, adjoint);
    if (!past && !r_->log_decay.empty()) factors_.log_decay().row(0).setZero();
    if (unread && !r_->log_decay.empty()) factors_.log_decay().row(n - 1).setZero();
    finite = finite && all_finite(out_) && all_finite(query) && all_finite(key) && all_finite(writer_gradient_) && all_finite(adjoint) &&
             all_finite(factors_.log_decay());
    if (finite || n == 1) add_log_decay(range);
    return finite;
  }

  /// The chunk's rows of this head's columns, put to zero.
  [[nodiscard]] View<Scalar> rows(Matrix<Scalar>& matrix, const TokenRange& range) const {
    View<Scalar> rows(&matrix(range.first, head_ * r_->state), range.count(), r_->state, matrix.outerStride());
    rows.setZero();
    return rows;
  }

  void add_log_decay(const TokenRange& range) {
    if (r_->log_decay.empty()) return;
    const Matrix<Scalar>& slopes = factors_.log_decay();
    Matrix<Scalar>& gradient = gradient_->log_decay;
    for (Index t = 0; t < range.count(); ++t)
      gradient.block(gradient.rows() == 1 ? 0 : range.first + t, head_ * slopes.cols(), 1, slopes.cols()) += slopes.row(t);
  }

  ConstView<Scalar> x_, g_;
  HeadScanGradient<Scalar>* gradient_;
  Matrix<Scalar>*query_, *key_;
  HeadBlockGradient<Scalar> factors_;
  Matrix<Scalar> slopes_, pair_slopes_, writer_gradient_, passed_, after_;
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
  Matrix<Scalar> query(tokens, heads * states), key(tokens, heads * states);
  executor(heads, [&](Index head) { detail::HeadGradient<Scalar>(recurrence, head, x, g, gradient, query, key).run(initial_state); });
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
#include <implicit_attention/core/host_macros_on.hpp>
