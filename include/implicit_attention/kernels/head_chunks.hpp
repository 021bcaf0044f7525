// Applications of a HeadRecurrence in chunks of tokens: nearly all work is products of matrices (formulation: "Blocked").
#pragma once

#include <optional>
#include <vector>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/kernels/finite_parts.hpp>
#include <implicit_attention/kernels/head_block.hpp>
#include <implicit_attention/kernels/plain_head_scan.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// One chunk of one head: o and the next state from x and the last one, or the transpose of that. With M = within of queries and writes, B
/// that of queries and removals, F and N those of probes, T = (I - N)^-1, and Q, C, W, D the factors that read the state before the chunk
/// or add to the one after it (queries, probes; writes, removals):
///
///     e = T (F x + C h)        o = M x + B e + Q h        h' = decay h + W x + D e
///
/// The delta rule removes what it writes, N = -F, B = -M, D = -W, so that u = x - e = T (x - C h) takes the place of both:
///
///     o = M u + Q h            h' = decay h + W u
template <Real Scalar>
class HeadChunk {
 public:
  HeadChunk(const HeadRecurrence<Scalar>& recurrence, Index head)
      : r_(&recurrence), head_(head), values_(recurrence.head_channels()), block_(recurrence, head), plain_(recurrence, head) {
    diagonal_ = recurrence.transition == Transition::diagonal;
    delta_ = recurrence.transition == Transition::delta;
  }

  void run(const TokenRange& range, const Array<Scalar>& x, Matrix<Scalar>& state, View<Scalar> out) {
    if (range.starts) state.setZero();
    const Index n = range.count();
    if (x.empty())
      input_.setZero(n, values_);
    else
      input_ = x.matrix().block(range.first, head_ * values_, n, values_);
    read(range, state);
    // A number that is not finite: times the zeros of triangular factors it would spoil tokens before it.
    if (!all_finite(out_)) return run_exactly(range, x, state, out);
    out.block(range.first, head_ * values_, n, values_) = out_;
    block_.decay_state(state);
    add_product(state, writes_, delta_ ? used_ : input_, Transposed::left);
    if (!diagonal_ && !delta_) add_product(state, removals_, used_, Transposed::left);
  }

  void run_transposed(const TokenRange& range, ConstView<Scalar> g, Matrix<Scalar>& adjoint, View<Scalar> out) {
    const Index n = range.count();
    weights_ = g.block(range.first, head_ * values_, n, values_);
    read_transposed(range, adjoint);
    if (!all_finite(out_)) return run_transposed_exactly(range, g, adjoint, out);
    out.block(range.first, head_ * values_, n, values_) = out_;
    pass_on(range, adjoint);
  }

 protected:
  /// From input_ and the state before it, out_.
  void read(const TokenRange& range, const Matrix<Scalar>& state) {
    const Index n = range.count();
    // The state behind the last token of all may be asked for.
    prepare(range, plain_.has_past(range.first, state), range.end == r_->tokens || plain_.has_future(range.end - 1));
    if (diagonal_) {
      set_product(out_, within_, input_);
      add_product(out_, readers_, state);
      return;
    }
    set_product(read_, readers_, state);  // Q h above C h
    use(read_.bottomRows(n));
    out_ = read_.topRows(n);
    add_product(out_, within_, delta_ ? used_ : input_);
    if (delta_)
      add_replaced(input_, out_);
    else
      add_product(out_, query_removals_, used_);
  }

  /// From weights_ and the adjoint, out_.
  void read_transposed(const TokenRange& range, const Matrix<Scalar>& adjoint) {
    // What is taken from the state before the first token goes nowhere.
    prepare(range, !range.starts && range.first > 0, plain_.has_future(range.end - 1));
    transpose(adjoint);
  }

  /// run(), token by token; those before the first number that is not finite come as if it were another one.
  void run_exactly(const TokenRange& range, const Array<Scalar>& x, Matrix<Scalar>& state, View<Scalar> out) {
    Index untouched = 0;
    while (untouched < range.count() && is_finite_token(*r_, head_, range.first + untouched) && all_finite(input_.row(untouched)))
      ++untouched;
    if (untouched == range.count() || !all_finite(state)) untouched = 0;
    if (untouched > 0) read_finite(&HeadChunk::input_, [&](HeadChunk& finite) { finite.read(range, state); });
    plain_.run(range.first, range.end, x, state, out);
    if (untouched > 0 && all_finite(out_)) out.block(range.first, head_ * values_, untouched, values_) = out_.topRows(untouched);
  }

  /// run_transposed(), token by token; those behind the last number that is not finite come as if it were another one.
  void run_transposed_exactly(const TokenRange& range, ConstView<Scalar> g, Matrix<Scalar>& adjoint, View<Scalar> out) {
    const Index n = range.count();
    Index untouched = 0;
    while (untouched < n && is_finite_token(*r_, head_, range.end - 1 - untouched) && all_finite(weights_.row(n - 1 - untouched)))
      ++untouched;
    if (untouched == n || !all_finite(adjoint)) untouched = 0;
    if (untouched > 0) read_finite(&HeadChunk::weights_, [&](HeadChunk& finite) { finite.read_transposed(range, adjoint); });
    plain_.run_transposed(range.first, range.end, g, adjoint, out);
    if (untouched > 0 && all_finite(out_))
      out.block(range.end - untouched, head_ * values_, untouched, values_) = out_.bottomRows(untouched);
  }

  /// out_ as `read` makes it of the finite part of the recurrence and of what it is applied to.
  template <class Read>
  void read_finite(Matrix<Scalar> HeadChunk::*applied_to, const Read& read) {
    if (!finite_) finite_ = finite_part(*r_, head_);
    HeadChunk finite(*finite_, 0);
    finite.*applied_to = this->*applied_to;
    keep_finite(finite.*applied_to);
    read(finite);
    out_ = finite.out_;
  }

  /// used_: u or e, of the input and what probes read of the state before.
  void use(ConstView<Scalar> reads) {
    if (delta_) {
      rest_ = input_ - reads;
    } else {
      rest_ = reads;
      if (rest_.rows() > 1) add_product(rest_, probe_writes_, input_);  // one token alone has no pairs, and 0 times NaN is NaN
    }
    set_product(used_, inverse_, rest_);
  }

  /// From weights_, the gradient of o, and the adjoint: that of x, and solved_, that of what T multiplies.
  void transpose(const Matrix<Scalar>& adjoint) {
    const bool reads_own = weights_.rows() > 1 || !r_->read_before_update;
    set_product(out_, writes_, adjoint);
    if (reads_own || !delta_) add_product(out_, within_, weights_, Transposed::left);
    if (delta_) {
      set_product(solved_, inverse_, out_, Transposed::left);
      out_ = solved_;
      add_replaced(weights_, out_);
    } else if (!diagonal_) {
      set_product(rest_, removals_, adjoint);
      if (reads_own) add_product(rest_, query_removals_, weights_, Transposed::left);
      set_product(solved_, inverse_, rest_, Transposed::left);
      add_product(out_, probe_writes_, solved_, Transposed::left);
    }
  }

  /// The adjoint before the chunk, after transpose().
  void pass_on(const TokenRange& range, Matrix<Scalar>& adjoint) const {
    if (range.starts) {
      adjoint.setZero();
      return;
    }
    const Index n = range.count();
    block_.decay_state(adjoint);
    add_product(adjoint, readers_.topRows(n), weights_, Transposed::left);
    if (delta_) subtract_product(adjoint, readers_.bottomRows(n), solved_, Transposed::left);
    if (!delta_ && !diagonal_) add_product(adjoint, readers_.bottomRows(n), solved_, Transposed::left);
  }

  /// All factors of a chunk, whose first transition has a `past` to act on and whose last one has a `future`.
  void prepare(const TokenRange& range, bool past, bool future) {
    block_.load(range, past, future);
    const Index n = range.count(), states = r_->state, late = r_->read_before_update ? 1 : 0, probe_late = delta_ ? 0 : 1;
    const bool scaled = !r_->key_scale.empty();
    block_.products(block_.query(), block_.key(), late, within_);
    if (scaled) within_.array().rowwise() *= block_.scale().transpose();
    replaced_.resize(0);
    if (!r_->diagonal.empty()) {
      if (delta_) replaced_ = -within_.diagonal().array();  // removals go by the written diagonal, inputs by the given one
      for (Index t = 0; t < n; ++t) {
        const Scalar given = r_->diagonal(range.first + t, head_);
        if (delta_)
          replaced_[t] += given;
        else
          within_(t, t) = given;
      }
    }
    writes_.resize(n, states);
    block_.to_end(block_.key(), View<Scalar>(writes_));
    if (scaled) writes_.array().colwise() *= block_.scale();
    readers_.resize(diagonal_ ? n : 2 * n, states);
    block_.from_start(block_.query(), late, View<Scalar>(readers_.data(), n, states));
    if (diagonal_) return;
    block_.from_start(block_.probe(), probe_late, View<Scalar>(readers_.data() + n * states, n, states));
    // The probe of a token reads before the token writes.
    block_.products(block_.probe(), block_.key(), probe_late, probe_writes_);
    if (scaled) probe_writes_.array().rowwise() *= block_.scale().transpose();
    if (delta_) {
      invert_unit_lower<Scalar>(-probe_writes_, inverse_);
      return;
    }
    block_.products(block_.probe(), block_.removal(), probe_late, removed_);
    invert_unit_lower(removed_, inverse_);
    block_.products(block_.query(), block_.removal(), late, query_removals_);
    removals_.resize(n, states);
    block_.to_end(block_.removal(), View<Scalar>(removals_));
  }

  void add_replaced(const Matrix<Scalar>& input, Matrix<Scalar>& out) const {
    if (replaced_.size() > 0) out.array() += input.array().colwise() * replaced_;
  }

  const HeadRecurrence<Scalar>* r_;
  std::optional<HeadRecurrence<Scalar>> finite_;  // the head's finite part, once there is a number that is not
  Index head_, values_;
  bool diagonal_ = false, delta_ = false;
  HeadBlock<Scalar> block_;
  PlainHeadScan<Scalar> plain_;
  Eigen::Array<Scalar, Eigen::Dynamic, 1> replaced_;
  Matrix<Scalar> within_, readers_, writes_, removals_, probe_writes_, query_removals_, removed_, inverse_;
  Matrix<Scalar> input_, weights_, read_, rest_, used_, solved_, out_;
};

/// Tokens of a chunk: with more, the products inside a chunk outweigh those with the state.
constexpr Index chunk_tokens = 32;

}  // namespace detail

/// out = R x + what `initial_state` gives, all heads; x and out are (tokens, channels), states (heads * state, channels / heads): row
/// h * state + n. `initial_state` may be empty; the state after the last token goes to `final_state` if that is not null.
template <Real Scalar>
void head_scan(const HeadRecurrence<Scalar>& recurrence, const Array<Scalar>& x, const Array<Scalar>& initial_state, View<Scalar> out,
               const Executor& executor, View<Scalar>* final_state = nullptr) {
  const Index states = recurrence.state;
  const std::vector<detail::TokenRange> ranges = detail::token_ranges(recurrence, detail::chunk_tokens);
  executor(recurrence.heads, [&](Index head) {
    Matrix<Scalar> state = Matrix<Scalar>::Zero(states, recurrence.head_channels());
    if (!initial_state.empty()) state = initial_state.matrix().middleRows(head * states, states);
    detail::HeadChunk<Scalar> chunk(recurrence, head);
    for (const detail::TokenRange& range : ranges) chunk.run(range, x, state, out);
    if (final_state) final_state->middleRows(head * states, states) = state;
  });
}

/// out = R^T g, (tokens, channels): one scan backwards.
template <Real Scalar>
void head_scan_transposed(const HeadRecurrence<Scalar>& recurrence, ConstView<Scalar> g, View<Scalar> out, const Executor& executor) {
  const std::vector<detail::TokenRange> ranges = detail::token_ranges(recurrence, detail::chunk_tokens);
  executor(recurrence.heads, [&](Index head) {
    Matrix<Scalar> adjoint = Matrix<Scalar>::Zero(recurrence.state, recurrence.head_channels());
    detail::HeadChunk<Scalar> chunk(recurrence, head);
    for (auto range = ranges.rbegin(); range != ranges.rend(); ++range) chunk.run_transposed(*range, g, adjoint, out);
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
