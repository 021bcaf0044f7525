// The gradients of every factor of a HeadRecurrence, in chunks of tokens; o = R x and its transpose come with head_chunks.hpp.
#pragma once

#include <cstddef>
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

/// A range's rows of a head's columns of (tokens, heads * states), set to zero.
template <Real Scalar>
[[nodiscard]] View<Scalar> zeroed_columns(Matrix<Scalar>& matrix, Index head, Index states, const TokenRange& range) {
  View<Scalar> columns(&matrix(range.first, head * states), range.count(), states, matrix.outerStride());
  columns.setZero();
  return columns;
}

/// The gradients of one chunk of one head. With the names of ChunkProducts, A the gradient of the state after the chunk and G that of o,
///
///     dM = G x^T    dB = G e^T    dQ = G h^T    dF = v x^T    dN = v e^T    dC = v h^T    dW = x A^T    dD = e A^T
///
/// v = T^T (B^T G + D A); the delta rule has dM = G u^T, dF = -v u^T, dC = -v h^T and dW = u A^T. From these HeadBlockGradient makes the
/// gradients of the vectors and decays. The gradients of shared queries and keys go to this head's own columns.
template <Real Scalar>
class ChunkGradient {
 public:
  ChunkGradient(const HeadRecurrence<Scalar>& recurrence, Index head, ConstView<Scalar> x, ConstView<Scalar> g,
                HeadScanGradient<Scalar>& gradient, Matrix<Scalar>& query, Matrix<Scalar>& key)
      : r_(&recurrence),
        head_(head),
        values_(recurrence.head_channels()),
        late_(recurrence.read_before_update ? 1 : 0),
        scaled_(!recurrence.key_scale.empty()),
        x_(x),
        g_(g),
        gradient_(&gradient),
        query_(&query),
        key_(&key),
        products_(recurrence, head),
        plain_(recurrence, head),
        slopes_(recurrence) {}

  /// Computes the gradients of the chunk; `state` is the state before it. The adjoint comes as the gradient of the state after the chunk
  /// and leaves as that of the state before it. Returns whether all gradients are finite: if not, they are valid only for a chunk of one
  /// token.
  bool run(const TokenRange& range, const Matrix<Scalar>& state, Matrix<Scalar>& adjoint) {
    const Index n = range.count();
    const bool past = plain_.has_past(range.first, state);
    unread_ = late_ == 1 && !plain_.has_future(range.end - 1);
    // The transition of a single token may hold a NaN that nothing depends on: it is not multiplied by zeros either.
    passes_ = past && !(unread_ && n == 1);
    products_.load(range, past, !unread_);
    apply(range, state, adjoint);

    slopes_.start(block());
    if (passes_) slopes_.add_decay_state(adjoint, state);
    View<Scalar> query = zeroed_columns(*query_, head_, r_->state, range), key = zeroed_columns(*key_, head_, r_->state, range);
    writer_gradient_.setZero(n, r_->state);
    add_reads(range, state, adjoint, query);
    const bool finite_transition = products_.diagonal || add_transition(range, past, state, adjoint, query, key);
    const ConstView<Scalar> keys = block().key();
    for (Index t = 0; t < n; ++t) {
      key.row(t) += block().scale()[t] * writer_gradient_.row(t);
      if (scaled_) gradient_->key_scale(range.first + t, head_) = keys.row(t).dot(writer_gradient_.row(t));
    }
    products_.retreat(range, adjoint);
    if (!past && !r_->log_decay.empty()) slopes_.log_decay().row(0).setZero();
    if (unread_ && !r_->log_decay.empty()) slopes_.log_decay().row(n - 1).setZero();
    const bool finite = finite_transition && all_finite(products_.out) && all_finite(query) && all_finite(key) &&
                        all_finite(writer_gradient_) && all_finite(adjoint) && all_finite(slopes_.log_decay());
    if (finite || n == 1) add_log_decay(range);
    return finite;
  }

 private:
  [[nodiscard]] const HeadBlock<Scalar>& block() const { return products_.factors.block; }

  /// The products' forward pass up to `used`, and their transpose: `out`, the gradient of x, and `solved`.
  void apply(const TokenRange& range, const Matrix<Scalar>& state, const Matrix<Scalar>& adjoint) {
    const Index n = range.count();
    products_.input = x_.block(range.first, head_ * values_, n, values_);
    if (unread_) products_.input.row(n - 1).setZero();
    products_.weights = g_.block(range.first, head_ * values_, n, values_);
    if (!products_.diagonal) {
      products_.reads.setZero(n, values_);
      if (passes_) set_product(products_.reads, products_.factors.readers.bottomRows(n), state);
      products_.use(products_.reads);
    }
    products_.transpose(adjoint);
    gradient_->input.block(range.first, head_ * values_, n, values_) = products_.out;
    if (n == 1 && !all_finite(products_.out)) {  // where a diagonal is given, no gradient of x depends on the query
      after_ = adjoint;
      plain_.run_transposed(range.first, range.end, g_, after_, View<Scalar>(gradient_->input));
    }
  }

  /// Gradients through M, Q and W: of queries, writes and the diagonal.
  void add_reads(const TokenRange& range, const Matrix<Scalar>& state, const Matrix<Scalar>& adjoint, View<Scalar> query) {
    const Index n = range.count();
    const Matrix<Scalar>&weights = products_.weights, &input = products_.input, &used = products_.used;
    set_product(state_slopes_, weights, state, Transposed::right);
    slopes_.add_from_start(state_slopes_, products_.factors.readers.topRows(n), late_, query);
    set_product(state_slopes_, written(), adjoint, Transposed::right);
    slopes_.add_to_end(state_slopes_, products_.factors.writes, View<Scalar>(writer_gradient_));
    set_product(pair_slopes_, weights, written(), Transposed::right);
    if (!r_->diagonal.empty()) {
      if (products_.delta) {  // its removals go by the written diagonal: -M e
        if (n > 1) products_.reads = input - used;
        for (Index t = 0; t < n; ++t) pair_slopes_(t, t) = -weights.row(t).dot(products_.reads.row(t));
      }
      for (Index t = 0; t < n; ++t)
        gradient_->diagonal(range.first + t, head_) = weights.row(t).dot(x_.row(range.first + t).segment(head_ * values_, values_));
    }
    const Index nearest = late_ == 1 || (!r_->diagonal.empty() && !(products_.delta && (passes_ || n > 1))) ? 1 : 0;
    slopes_.add_products(block().query(), block().key(), late_, nearest, scaled_, pair_slopes_, products_.factors.within, query,
                         View<Scalar>(writer_gradient_));
  }

  /// Gradients through F, N, C, B and D: of probes and removals, and what they add to those of queries and writes. The delta rule's probes
  /// are its keys. Returns whether the gradients of given removals and probes are finite.
  bool add_transition(const TokenRange& range, bool past, const Matrix<Scalar>& state, const Matrix<Scalar>& adjoint, View<Scalar> query,
                      View<Scalar> key) {
    const Index n = range.count(), probe_late = products_.delta ? 0 : 1;
    const BlockFactors<Scalar>& factors = products_.factors;
    View<Scalar> probe = products_.delta ? key : zeroed_columns(gradient_->probe, head_, r_->state, range);
    passed_ = products_.delta ? Scalar(-1) * products_.solved : Scalar(1) * products_.solved;
    if (passes_) {
      set_product(state_slopes_, passed_, state, Transposed::right);
      slopes_.add_from_start(state_slopes_, factors.readers.bottomRows(n), probe_late, probe);
    }
    set_product(pair_slopes_, passed_, written(), Transposed::right);
    slopes_.add_products(block().probe(), block().key(), probe_late, 1, scaled_, pair_slopes_, factors.probe_writes, probe,
                         View<Scalar>(writer_gradient_));
    if (products_.delta) return true;
    View<Scalar> removal = zeroed_columns(gradient_->removal, head_, r_->state, range);
    set_product(state_slopes_, products_.used, adjoint, Transposed::right);
    slopes_.add_to_end(state_slopes_, factors.removals, removal);
    set_product(pair_slopes_, products_.weights, products_.used, Transposed::right);
    slopes_.add_products(block().query(), block().removal(), late_, late_, false, pair_slopes_, factors.query_removals, query, removal);
    set_product(pair_slopes_, passed_, products_.used, Transposed::right);
    slopes_.add_products(block().probe(), block().removal(), probe_late, 1, false, pair_slopes_, factors.probe_removals, probe, removal);
    for (View<Scalar>* const idle : {&removal, &probe}) {
      if (!past) idle->row(0).setZero();
      if (unread_) idle->row(n - 1).setZero();
    }
    return all_finite(removal) && all_finite(probe);
  }

  /// What is written into the state: the inputs; with the delta rule, the inputs minus what is removed.
  [[nodiscard]] const Matrix<Scalar>& written() const { return products_.delta ? products_.used : products_.input; }

  void add_log_decay(const TokenRange& range) {
    if (r_->log_decay.empty()) return;
    const Matrix<Scalar>& slopes = slopes_.log_decay();
    Matrix<Scalar>& gradient = gradient_->log_decay;
    for (Index t = 0; t < range.count(); ++t)
      gradient.block(gradient.rows() == 1 ? 0 : range.first + t, head_ * slopes.cols(), 1, slopes.cols()) += slopes.row(t);
  }

  const HeadRecurrence<Scalar>* r_;
  Index head_, values_, late_;
  bool scaled_;
  bool unread_ = false;  // of the chunk: the state after its last token is read by nothing
  bool passes_ = false;  // of the chunk: its transitions act on a state before it
  ConstView<Scalar> x_, g_;
  HeadScanGradient<Scalar>* gradient_;
  Matrix<Scalar>*query_, *key_;
  ChunkProducts<Scalar> products_;
  PlainHeadScan<Scalar> plain_;
  HeadBlockGradient<Scalar> slopes_;
  Matrix<Scalar> state_slopes_, pair_slopes_;  // gradients of a factor (n, K), and of a factor (n, n)
  Matrix<Scalar> writer_gradient_, passed_, after_;
};

/// The gradients of one head: one pass forwards over the chunks, which keeps the state before each of them, and one backwards, which
/// computes their gradients.
template <Real Scalar>
class HeadGradient {
 public:
  /// Shared queries and keys are summed over a group afterwards: `query` and `key` have columns for every head.
  HeadGradient(const HeadRecurrence<Scalar>& recurrence, Index head, ConstView<Scalar> x, ConstView<Scalar> g,
               HeadScanGradient<Scalar>& gradient, Matrix<Scalar>& query, Matrix<Scalar>& key)
      : r_(&recurrence),
        head_(head),
        x_(x),
        input_gradient_(gradient.input),
        chunk_(recurrence, head),
        gradient_(recurrence, head, x, g, gradient, query, key) {}

  void run(const Array<Scalar>& initial_state) {
    const Index states = r_->state;
    Matrix<Scalar> state = Matrix<Scalar>::Zero(states, r_->head_channels()), adjoint = state;
    if (!initial_state.empty()) state = initial_state.matrix().middleRows(head_ * states, states);
    run(token_ranges(*r_, r_->decay_by_state() ? chunk_tokens_by_state : chunk_tokens), state, adjoint);
  }

 private:
  /// Smaller with a decay a state: pairs of a chunk are then computed one by one.
  static constexpr Index chunk_tokens_by_state = 16;

  /// `state` is the state before the first range. The adjoint comes as the gradient of the state after the last range and leaves as that of
  /// the state before the first one.
  void run(const std::vector<TokenRange>& ranges, Matrix<Scalar> state, Matrix<Scalar>& adjoint) {
    const Index states = r_->state, count = static_cast<Index>(ranges.size());
    Matrix<Scalar> before(count * states, state.cols()), after;
    for (Index i = 0; i < count; ++i) {
      const TokenRange& range = ranges[static_cast<std::size_t>(i)];
      if (range.starts) state.setZero();
      before.middleRows(i * states, states) = state;
      if (i + 1 < count) chunk_.run(range, Array<Scalar>::view(x_), state, input_gradient_);  // outputs: overwritten on the way back
    }
    for (Index i = count - 1; i >= 0; --i) {
      const TokenRange& range = ranges[static_cast<std::size_t>(i)];
      state = before.middleRows(i * states, states);
      after = adjoint;
      if (gradient_.run(range, state, adjoint) || range.count() == 1) continue;
      // Zeros of triangular factors would spread a number that is not finite to other tokens: token by token.
      adjoint = after;
      std::vector<TokenRange> tokens;
      for (Index t = range.first; t < range.end; ++t) tokens.push_back({t, t + 1, range.starts && t == range.first});
      run(tokens, state, adjoint);
    }
  }

  const HeadRecurrence<Scalar>* r_;
  Index head_;
  ConstView<Scalar> x_;
  View<Scalar> input_gradient_;
  HeadChunk<Scalar> chunk_;
  ChunkGradient<Scalar> gradient_;
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
  detail::run_loop(executor, heads,
                   [&](Index head) { detail::HeadGradient<Scalar>(recurrence, head, x, g, gradient, query, key).run(initial_state); });
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
