// A block of neighbouring tokens of one document of a HeadRecurrence, and the matrices that rows and scans multiply in its place
// (formulation: "Blocked").
#pragma once

#include <algorithm>
#include <vector>

#include <implicit_attention/core/matrix_product.hpp>
#include <implicit_attention/kernels/head_decays.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// A run of tokens that are computed together, within one document.
struct TokenRange {
  Index first, end;
  bool starts;  ///< whether nothing before it is seen
  [[nodiscard]] Index count() const { return end - first; }
};

/// All tokens in blocks of at most `size`, cut where documents start and at multiples of `size`.
template <Real Scalar>
[[nodiscard]] std::vector<TokenRange> token_ranges(const HeadRecurrence<Scalar>& recurrence, Index size) {
  std::vector<TokenRange> ranges;
  auto start = recurrence.starts.begin();
  for (Index first = 0; first < recurrence.tokens;) {
    const bool starts = start != recurrence.starts.end() && *start == first;
    if (starts) ++start;
    Index end = std::min((first / size + 1) * size, recurrence.tokens);
    if (start != recurrence.starts.end()) end = std::min(end, *start);
    ranges.push_back({first, end, starts});
    first = end;
  }
  return ranges;
}

/// The vectors of one block of one head. The delta rule's probes are w_t key_t and its removals -write_t: its keys serve for both.
template <Real Scalar>
class HeadBlock {
 public:
  using Vector = Eigen::Array<Scalar, Eigen::Dynamic, 1>;

  HeadBlock(const HeadRecurrence<Scalar>& recurrence, Index head) : r_(&recurrence), head_(head), decays_(recurrence, head) {}

  /// Reads the block's tokens. The first token's transition (its decay, removal and probe) is idle where there is no `past` for it to act
  /// on. The last token's transition and write are idle where the state is read before its update and there is no `future` to read it. What
  /// is idle may hold anything, a NaN as well, and is loaded as numbers that change nothing.
  void load(const TokenRange& range, bool past = true, bool future = true) {
    first_ = range.first;
    count_ = range.count();
    first_is_idle_ = !past;
    last_is_idle_ = !future && r_->read_before_update;
    load_scales();
    without_idle(r_->key, r_->group(head_), false, key_);
    if (r_->transition == Transition::rank_one) {
      without_idle(r_->probe, head_, true, probe_);
      without_idle(r_->removal, head_, true, removal_);
    }
    decays_.load(first_, count_, first_is_idle_, last_is_idle_);
  }

  [[nodiscard]] Index first() const { return first_; }
  [[nodiscard]] Index count() const { return count_; }
  [[nodiscard]] ConstView<Scalar> query() const { return rows(r_->query, r_->group(head_)); }
  [[nodiscard]] ConstView<Scalar> key() const { return rows(r_->key, r_->group(head_), key_); }
  /// The delta rule's probes come without their own token's decay: HeadDecays counts it with `late` = 0.
  [[nodiscard]] ConstView<Scalar> probe() const { return r_->transition == Transition::delta ? key() : rows(r_->probe, head_, probe_); }
  [[nodiscard]] ConstView<Scalar> removal() const { return rows(r_->removal, head_, removal_); }
  /// The scale of every write, (n).
  [[nodiscard]] const Vector& scale() const { return scale_; }
  [[nodiscard]] const HeadDecays<Scalar>& decays() const { return decays_; }
  [[nodiscard]] HeadDecays<Scalar>& decays() { return decays_; }

 private:
  [[nodiscard]] ConstView<Scalar> rows(const Array<Scalar>& array, Index place) const {
    return {array.row(first_) + place * r_->state, count_, r_->state, array.row_stride()};
  }
  [[nodiscard]] ConstView<Scalar> rows(const Array<Scalar>& array, Index place, const Matrix<Scalar>& copy) const {
    return copy.size() > 0 ? ConstView<Scalar>(copy.data(), count_, r_->state, r_->state) : rows(array, place);
  }

  /// A copy of rows with zeros for idle tokens; empty where none is idle. The first token's write is never idle.
  void without_idle(const Array<Scalar>& array, Index place, bool of_transition, Matrix<Scalar>& copy) const {
    copy.resize(0, r_->state);
    if (!last_is_idle_ && !(first_is_idle_ && of_transition)) return;
    copy = rows(array, place);
    if (last_is_idle_) copy.row(count_ - 1).setZero();
    if (first_is_idle_ && of_transition) copy.row(0).setZero();
  }

  void load_scales() {
    scale_.resize(count_);
    for (Index t = 0; t < count_; ++t) scale_[t] = r_->write_scale(first_ + t, head_);
    if (last_is_idle_) scale_[count_ - 1] = 0;
  }

  const HeadRecurrence<Scalar>* r_;
  Index head_, first_ = 0, count_ = 0;
  bool first_is_idle_ = false, last_is_idle_ = false;
  HeadDecays<Scalar> decays_;
  Matrix<Scalar> key_, probe_, removal_;  // copies, see without_idle
  Vector scale_;
};

/// The inverse of I - lower by forward substitution, reading only what is left of the diagonal of `lower`.
template <Real Scalar>
void invert_unit_lower(const Matrix<Scalar>& lower, Matrix<Scalar>& inverse) {
  const Index count = lower.rows();
  inverse.setIdentity(count, count);
  for (Index t = 1; t < count; ++t) set_product(inverse.block(t, 0, 1, t), lower.block(t, 0, 1, t), inverse.topLeftCorner(t, t));
}

/// One block of one head as matrices. With n tokens, K states, and the decays S(s..t) of tokens s + 1 .. t:
///
///     within         M(t, s) = query_t . write_s S(s..t)      what token s gives to the output of token t inside the block (without the
///                                                             read's own transition where the state is read before its update)
///     query_removals B(t, s)    the same of removals in place of writes
///     probe_writes   F(t, s)    the same of probes in place of queries; a token's probe reads before the token writes
///     probe_removals N(t, s)    the same of both
///     inverse        T = (I - N)^-1
///     readers        Q(t) = query_t S(-1..t), C(t) the same of probes: how tokens read the state before the block; Q above C
///     writes         W(s) = write_s S(s..n-1)                 what token s leaves in the state after the block
///     removals       D(s)       the same of removals
///
/// The delta rule removes what it writes, N = -F, B = -M and D = -W: these are not made. A diagonal transition has M, Q and W alone.
template <Real Scalar>
struct BlockFactors {
  BlockFactors(const HeadRecurrence<Scalar>& recurrence, Index head) : block(recurrence, head), r_(&recurrence) {}

  /// See HeadBlock::load.
  void load(const TokenRange& range, bool past = true, bool future = true) {
    block.load(range, past, future);
    HeadDecays<Scalar>& decays = block.decays();
    const bool diagonal = r_->transition == Transition::diagonal, delta = r_->transition == Transition::delta,
               scaled = !r_->key_scale.empty();
    const Index n = range.count(), states = r_->state, late = r_->read_before_update ? 1 : 0, probe_late = delta ? 0 : 1;
    decays.products(block.query(), block.key(), late, within);
    if (scaled) within.array().rowwise() *= block.scale().transpose();
    writes.resize(n, states);
    decays.to_end(block.key(), View<Scalar>(writes));
    if (scaled) writes.array().colwise() *= block.scale();
    readers.resize(diagonal ? n : 2 * n, states);
    decays.from_start(block.query(), late, View<Scalar>(readers.data(), n, states));
    if (diagonal) return;
    decays.from_start(block.probe(), probe_late, View<Scalar>(readers.data() + n * states, n, states));
    decays.products(block.probe(), block.key(), probe_late, probe_writes);
    if (scaled) probe_writes.array().rowwise() *= block.scale().transpose();
    if (delta) {
      invert_unit_lower<Scalar>(-probe_writes, inverse);
      return;
    }
    decays.products(block.probe(), block.removal(), probe_late, probe_removals);
    invert_unit_lower(probe_removals, inverse);
    decays.products(block.query(), block.removal(), late, query_removals);
    removals.resize(n, states);
    decays.to_end(block.removal(), View<Scalar>(removals));
  }

  HeadBlock<Scalar> block;
  Matrix<Scalar> within, query_removals, probe_writes, probe_removals, inverse;  ///< (n, n)
  Matrix<Scalar> readers, writes, removals;                                      ///< (n or 2 n, K), (n, K), (n, K)

 private:
  const HeadRecurrence<Scalar>* r_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
