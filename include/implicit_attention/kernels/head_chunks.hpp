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

/// One chunk of one head by products of matrices: o and the state after it from x and the state before it, or the transpose of that. With
/// the matrices of BlockFactors:
///
///     e = T (F x + C h)        o = M x + B e + Q h        h' = decay h + W x + D e
///
/// The delta rule removes what it writes, N = -F, B = -M, D = -W, so that u = x - e = T (x - C h) takes the place of both:
///
///     o = M u + Q h            h' = decay h + W u
template <Real Scalar>
struct ChunkProducts {
  ChunkProducts(const HeadRecurrence<Scalar>& recurrence, Index head)
      : factors(recurrence, head),
        diagonal(recurrence.transition == Transition::diagonal),
        delta(recurrence.transition == Transition::delta),
        r_(&recurrence),
        head_(head) {}

  /// Makes the factors of a chunk; see HeadBlock::load.
  void load(const TokenRange& range, bool past, bool future) {
    factors.load(range, past, future);
    replaced_.resize(0);
    if (r_->diagonal.empty()) return;
    if (delta) replaced_ = -factors.within.diagonal().array();  // removals go by the written diagonal, inputs by the given one
    for (Index t = 0; t < range.count(); ++t) {
      const Scalar given = r_->diagonal(range.first + t, head_);
      if (delta)
        replaced_[t] += given;
      else
        factors.within(t, t) = given;
    }
  }

  /// From `input` and the state before the chunk, `out`.
  void read(const Matrix<Scalar>& state) {
    if (diagonal) {
      set_product(out, factors.within, input);
      add_product(out, factors.readers, state);
      return;
    }
    const Index n = input.rows();
    set_product(reads, factors.readers, state);  // Q h above C h
    use(reads.bottomRows(n));
    out = reads.topRows(n);
    add_product(out, factors.within, delta ? used : input);
    if (delta)
      add_replaced(input, out);
    else
      add_product(out, factors.query_removals, used);
  }

  /// `used`: u or e, of `input` and what probes read of the state before the chunk.
  void use(ConstView<Scalar> probe_reads) {
    if (delta) {
      rest_ = input - probe_reads;
    } else {
      rest_ = probe_reads;
      if (rest_.rows() > 1) add_product(rest_, factors.probe_writes, input);  // one token alone has no pairs, and 0 times NaN is NaN
    }
    set_product(used, factors.inverse, rest_);
  }

  /// Takes the state over the chunk, after read().
  void advance(Matrix<Scalar>& state) const {
    factors.block.decays().decay_state(state);
    add_product(state, factors.writes, delta ? used : input, Transposed::left);
    if (!diagonal && !delta) add_product(state, factors.removals, used, Transposed::left);
  }

  /// From `weights`, the gradient of o, and the adjoint, the gradient of the state after the chunk: `out`, the gradient of x, and `solved`,
  /// that of what T multiplies.
  void transpose(const Matrix<Scalar>& adjoint) {
    const bool reads_own = weights.rows() > 1 || !r_->read_before_update;
    set_product(out, factors.writes, adjoint);
    if (reads_own || !delta) add_product(out, factors.within, weights, Transposed::left);
    if (delta) {
      set_product(solved, factors.inverse, out, Transposed::left);
      out = solved;
      add_replaced(weights, out);
    } else if (!diagonal) {
      set_product(rest_, factors.removals, adjoint);
      if (reads_own) add_product(rest_, factors.query_removals, weights, Transposed::left);
      set_product(solved, factors.inverse, rest_, Transposed::left);
      add_product(out, factors.probe_writes, solved, Transposed::left);
    }
  }

  /// Takes the adjoint back over the chunk, after transpose().
  void retreat(const TokenRange& range, Matrix<Scalar>& adjoint) const {
    if (range.starts) {
      adjoint.setZero();
      return;
    }
    const Index n = range.count();
    factors.block.decays().decay_state(adjoint);
    add_product(adjoint, factors.readers.topRows(n), weights, Transposed::left);
    if (delta) subtract_product(adjoint, factors.readers.bottomRows(n), solved, Transposed::left);
    if (!delta && !diagonal) add_product(adjoint, factors.readers.bottomRows(n), solved, Transposed::left);
  }

  BlockFactors<Scalar> factors;
  bool diagonal, delta;                     ///< the transition
  Matrix<Scalar> input, weights;            ///< x and the gradient of o, (n, values)
  Matrix<Scalar> reads, used, solved, out;  ///< (n, values); `reads` may hold those of queries above those of probes

 private:
  void add_replaced(const Matrix<Scalar>& numbers, Matrix<Scalar>& to) const {
    if (replaced_.size() > 0) to.array() += numbers.array().colwise() * replaced_;
  }

  const HeadRecurrence<Scalar>* r_;
  Index head_;
  Eigen::Array<Scalar, Eigen::Dynamic, 1> replaced_;  // what a given diagonal adds to the delta rule's own
  Matrix<Scalar> rest_;
};

/// Applications of one head's recurrence, or of its transpose, chunk by chunk. A chunk with a number that is not finite is computed
/// token by token: multiplied with the zeros of triangular factors, the number would spoil tokens that do not depend on it.
template <Real Scalar>
class HeadChunk {
 public:
  HeadChunk(const HeadRecurrence<Scalar>& recurrence, Index head)
      : r_(&recurrence), head_(head), values_(recurrence.head_channels()), products_(recurrence, head), plain_(recurrence, head) {}

  /// Writes the chunk's outputs; `state` (state, values) comes as the one before the chunk and leaves as the one after. An empty x is zero.
  void run(const TokenRange& range, const Array<Scalar>& x, Matrix<Scalar>& state, View<Scalar> out) {
    if (range.starts) state.setZero();
    const Index n = range.count();
    if (x.empty())
      products_.input.setZero(n, values_);
    else
      products_.input = x.matrix().block(range.first, head_ * values_, n, values_);
    read(products_, range, state);
    if (!all_finite(products_.out)) return run_exactly(range, x, state, out);
    out.block(range.first, head_ * values_, n, values_) = products_.out;
    products_.advance(state);
  }

  /// Writes the chunk's gradient of x; `adjoint` comes as the gradient of the state after the chunk and leaves as that of the state before.
  void run_transposed(const TokenRange& range, ConstView<Scalar> g, Matrix<Scalar>& adjoint, View<Scalar> out) {
    const Index n = range.count();
    products_.weights = g.block(range.first, head_ * values_, n, values_);
    transpose(products_, range, adjoint);
    if (!all_finite(products_.out)) return run_transposed_exactly(range, g, adjoint, out);
    out.block(range.first, head_ * values_, n, values_) = products_.out;
    products_.retreat(range, adjoint);
  }

 private:
  void read(ChunkProducts<Scalar>& products, const TokenRange& range, const Matrix<Scalar>& state) const {
    // The state after the last token of all may be asked for.
    products.load(range, plain_.has_past(range.first, state), range.end == r_->tokens || plain_.has_future(range.end - 1));
    products.read(state);
  }
  void transpose(ChunkProducts<Scalar>& products, const TokenRange& range, const Matrix<Scalar>& adjoint) const {
    // The gradient of the state before the first token is not used.
    products.load(range, !range.starts && range.first > 0, plain_.has_future(range.end - 1));
    products.transpose(adjoint);
  }

  /// run(), token by token; tokens before the first number that is not finite come as if that number were another one.
  void run_exactly(const TokenRange& range, const Array<Scalar>& x, Matrix<Scalar>& state, View<Scalar> out) {
    Matrix<Scalar>& outputs = products_.out;
    Index untouched = 0;
    while (untouched < range.count() && is_finite_token(*r_, head_, range.first + untouched) && all_finite(products_.input.row(untouched)))
      ++untouched;
    if (untouched == range.count() || !all_finite(state)) untouched = 0;
    if (untouched > 0) outputs = finite_output(&ChunkProducts<Scalar>::input, [&](auto& finite) { read(finite, range, state); });
    plain_.run(range.first, range.end, x, state, out);
    if (untouched > 0 && all_finite(outputs)) out.block(range.first, head_ * values_, untouched, values_) = outputs.topRows(untouched);
  }

  /// run_transposed(), token by token; tokens after the last number that is not finite come as if that number were another one.
  void run_transposed_exactly(const TokenRange& range, ConstView<Scalar> g, Matrix<Scalar>& adjoint, View<Scalar> out) {
    Matrix<Scalar>& outputs = products_.out;
    const Index n = range.count();
    Index untouched = 0;
    while (untouched < n && is_finite_token(*r_, head_, range.end - 1 - untouched) && all_finite(products_.weights.row(n - 1 - untouched)))
      ++untouched;
    if (untouched == n || !all_finite(adjoint)) untouched = 0;
    if (untouched > 0) outputs = finite_output(&ChunkProducts<Scalar>::weights, [&](auto& finite) { transpose(finite, range, adjoint); });
    plain_.run_transposed(range.first, range.end, g, adjoint, out);
    if (untouched > 0 && all_finite(outputs))
      out.block(range.end - untouched, head_ * values_, untouched, values_) = outputs.bottomRows(untouched);
  }

  /// `out` of the finite part of the recurrence, applied to the finite part of `applied_to`.
  template <class Apply>
  [[nodiscard]] Matrix<Scalar> finite_output(Matrix<Scalar> ChunkProducts<Scalar>::*applied_to, const Apply& apply) {
    if (!finite_) finite_ = finite_part(*r_, head_);
    ChunkProducts<Scalar> finite(*finite_, 0);
    finite.*applied_to = products_.*applied_to;
    keep_finite(finite.*applied_to);
    apply(finite);
    return finite.out;
  }

  const HeadRecurrence<Scalar>* r_;
  std::optional<HeadRecurrence<Scalar>> finite_;  // the head's finite part, made when it is first needed
  Index head_, values_;
  ChunkProducts<Scalar> products_;
  PlainHeadScan<Scalar> plain_;
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
  detail::run_loop(executor, recurrence.heads, [&](Index head) {
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
  detail::run_loop(executor, recurrence.heads, [&](Index head) {
    Matrix<Scalar> adjoint = Matrix<Scalar>::Zero(recurrence.state, recurrence.head_channels());
    detail::HeadChunk<Scalar> chunk(recurrence, head);
    for (std::size_t left = ranges.size(); left > 0; --left) chunk.run_transposed(ranges[left - 1], g, adjoint, out);
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
