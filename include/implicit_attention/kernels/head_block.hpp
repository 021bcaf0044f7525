// The factors of a HeadRecurrence over a block of neighbouring tokens of one document: what rows and scans multiply as matrices
// (formulation: "Blocked", "Safe exponents").
#pragma once

#include <algorithm>
#include <vector>

#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/core/matrix_product.hpp>
#include <implicit_attention/kernels/exponentials.hpp>
#include <implicit_attention/kernels/head_recurrence.hpp>

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

/// One block of one head. With n tokens, K states, and S(s..t) the decay of tokens s + 1 .. t, a factor a state or one for all:
///
///     within(t, s) = query_t . write_s S(s..t)      what token s gives to token t inside the block (before the read's own transition
///                                                    where the state is read before its update)
///     from_start(t) = query_t S(-1..t)               how token t reads the state before the block
///     to_end(s)     = write_s S(s..n-1)              what token s leaves in the state after it
///
/// and the same of probes (in the place of queries) and removals (in the place of writes). The delta rule's probes are w_t key_t and its
/// removals -write_t, so that keys serve for both. Every factor is a product of decays of this block alone.
template <Real Scalar>
class HeadBlock {
 public:
  using Vector = Eigen::Array<Scalar, Eigen::Dynamic, 1>;

  HeadBlock(const HeadRecurrence<Scalar>& recurrence, Index head) : r_(&recurrence), head_(head) {}

  /// Reads the block's tokens. The first one's transition (its decay, removal and probe) is nobody's where there is no `past` for it to act on,
  /// and so are the last one's and its write where the state is read before its update and has no `future`: they may hold anything, a NaN as
  /// well, and are loaded as what changes nothing.
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
    if (r_->log_decay.empty()) return;
    if (r_->decay_by_state())
      load_decays_by_state();
    else
      load_decays();
  }

  [[nodiscard]] Index first() const { return first_; }
  [[nodiscard]] Index count() const { return count_; }
  [[nodiscard]] ConstView<Scalar> query() const { return rows(r_->query, r_->group(head_)); }
  [[nodiscard]] ConstView<Scalar> key() const { return rows(r_->key, r_->group(head_), key_); }
  /// The delta rule's probes without their own decay, as `reaches` counts it.
  [[nodiscard]] ConstView<Scalar> probe() const { return r_->transition == Transition::delta ? key() : rows(r_->probe, head_, probe_); }
  [[nodiscard]] ConstView<Scalar> removal() const { return rows(r_->removal, head_, removal_); }
  /// The scale of every write, (n).
  [[nodiscard]] const Vector& scale() const { return scale_; }

  /// products(t, s) = reader_t . writer_s S(s..t - late) for s <= t - late, zeros elsewhere.
  void products(ConstView<Scalar> reader, ConstView<Scalar> writer, Index late, Matrix<Scalar>& products) {
    if (r_->decay_by_state() && !r_->log_decay.empty()) {
      products.resize(count_, count_);
      products_by_state(reader, writer, late, products);
    } else {
      set_product(products, reader, writer, Transposed::right);
      if (!r_->log_decay.empty()) {
        if (late == 0) products.array() *= between_.array();
        for (Index t = 1; late == 1 && t < count_; ++t) products.row(t).head(t).array() *= between_.row(t - 1).head(t).array();
      }
    }
    for (Index t = 0; t < count_; ++t) products.row(t).tail(count_ - 1 - t + late).setZero();
  }

  /// out(t) = reader_t S(-1..t - late), (n, K).
  void from_start(ConstView<Scalar> reader, Index late, View<Scalar> out) const {
    out = reader;
    if (r_->log_decay.empty()) return;
    if (!r_->decay_by_state()) {
      out.bottomRows(count_ - late).array().colwise() *= prefix_.head(count_ - late);
      return;
    }
    const Index first = std::min(late, count_);
    if (first == count_) return;
    running_.resize(r_->state);
    running_.setOnes();
    for (Index t = first; t < count_; ++t) {
      running_ *= decay_.row(t - late).transpose().array();
      out.row(t).array() *= running_.transpose();
    }
  }

  /// out(s) = writer_s S(s..n-1), (n, K).
  void to_end(ConstView<Scalar> writer, View<Scalar> out) const {
    out = writer;
    if (r_->log_decay.empty()) return;
    if (!r_->decay_by_state()) {
      out.array().colwise() *= suffix_;
      return;
    }
    running_.resize(r_->state);
    running_.setOnes();
    for (Index s = count_ - 2; s >= 0; --s) {
      running_ *= decay_.row(s + 1).transpose().array();
      out.row(s).array() *= running_.transpose();
    }
  }

  /// Multiplies a state (K, values) by the decay of the whole block.
  void decay_state(Matrix<Scalar>& state) const {
    if (r_->log_decay.empty()) return;
    if (r_->decay_by_state())
      state.array().colwise() *= total_;
    else
      state *= total_[0];
  }
  /// The decay of the whole block: nothing, one number, or (K).
  [[nodiscard]] const Vector& total() const { return total_; }
  /// With one decay a head: S(s..t) at (t, s), S(-1..t) and S(s..n-1). With one a state: every token's decay, (n, K).
  [[nodiscard]] const Matrix<Scalar>& between() const { return between_; }
  [[nodiscard]] const Vector& prefix() const { return prefix_; }
  [[nodiscard]] const Vector& suffix() const { return suffix_; }
  [[nodiscard]] const Matrix<Scalar>& decay() const { return decay_; }

 private:
  static constexpr Index sub_block = 16;

  [[nodiscard]] ConstView<Scalar> rows(const Array<Scalar>& array, Index place) const {
    return {array.row(first_) + place * r_->state, count_, r_->state, array.row_stride()};
  }
  [[nodiscard]] ConstView<Scalar> rows(const Array<Scalar>& array, Index place, const Matrix<Scalar>& copy) const {
    return copy.size() > 0 ? ConstView<Scalar>(copy.data(), count_, r_->state, r_->state) : rows(array, place);
  }

  /// A copy of rows with zeros for tokens that are idle, or nothing where none is. A first token still writes.
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

  /// One decay a token. Sums are accumulated in double, upwards from the pair, and restart in every block.
  void load_decays() {
    logs_.resize(count_);
    for (Index t = 0; t < count_; ++t) logs_[t] = static_cast<double>(r_->log_decay(r_->log_decay.rows() == 1 ? 0 : first_ + t, head_));
    if (first_is_idle_) logs_[0] = 0;
    if (last_is_idle_) logs_[count_ - 1] = 0;
    between_.setZero(count_, count_);
    sums_.resize(count_);
    for (Index t = 0; t < count_; ++t) {
      sums_.head(t) += logs_[t];
      sums_[t] = 0;
      between_.row(t).head(t + 1) = sums_.head(t + 1).matrix().transpose().template cast<Scalar>();
    }
    suffix_ = sums_.template cast<Scalar>();
    exponentiate(suffix_.data(), count_);
    for (Index t = 1; t < count_; ++t) exponentiate(&between_(t, 0), t);
    between_.diagonal().setOnes();
    double sum = 0;
    prefix_.resize(count_);
    for (Index t = 0; t < count_; ++t) prefix_[t] = static_cast<Scalar>(sum += logs_[t]);
    exponentiate(prefix_.data(), count_);
    total_ = prefix_.tail(1);
  }

  void load_decays_by_state() {
    const Index states = r_->state, stride = r_->log_decay.rows() == 1 ? 0 : r_->log_decay.row_stride();
    decay_.resize(count_, states);
    sums_.setZero(states);
    const Scalar* log = r_->log_decay.row(r_->log_decay.rows() == 1 ? 0 : first_) + head_ * states;
    for (Index t = 0; t < count_; ++t, log += stride) {
      const Eigen::Map<const Eigen::Array<Scalar, 1, Eigen::Dynamic>> row(log, states);
      decay_.row(t) = row.matrix();
      if ((first_is_idle_ && t == 0) || (last_is_idle_ && t == count_ - 1)) decay_.row(t).setZero();
      sums_ += decay_.row(t).transpose().array().template cast<double>();
    }
    exponentiate(decay_.data(), decay_.size());
    total_ = sums_.template cast<Scalar>();
    exponentiate(total_.data(), states);
  }

  /// Pairs within a sub-block by a walk back over its tokens, those across sub-blocks as products that are both referred to the boundary
  /// before the later one.
  void products_by_state(ConstView<Scalar> reader, ConstView<Scalar> writer, Index late, Matrix<Scalar>& products) {
    const Index states = r_->state;
    referred_ = writer;
    walked_.resize(sub_block, states);
    running_.resize(states);
    for (Index low = 0; low < count_; low += sub_block) {
      const Index high = std::min(low + sub_block, count_);
      // Readers whose last decay is in low..high-1.
      const Index first = low + late, end = std::min(high + late, count_);
      for (Index t = first; t < end; ++t) {
        Eigen::Map<RowVector<Scalar>> walk(&walked_(t - first, 0), states);
        walk = reader.row(t);
        for (Index s = t - late; s >= low; --s) {
          products(t, s) = walk.dot(writer.row(s));
          walk.array() *= decay_.row(s).array();
        }
      }
      if (low > 0 && end > first)
        set_product(products.block(first, 0, end - first, low), walked_.topRows(end - first), referred_.topRows(low), Transposed::right);
      running_.setOnes();
      for (Index s = high - 1; s >= low; --s) {
        if (s + 1 < high) referred_.row(s).array() *= running_.transpose();
        running_ *= decay_.row(s).transpose().array();
      }
      if (high < count_) referred_.topRows(low).array().rowwise() *= running_.transpose();
    }
  }

  const HeadRecurrence<Scalar>* r_;
  Index head_, first_ = 0, count_ = 0;
  bool first_is_idle_ = false, last_is_idle_ = false;
  Matrix<Scalar> key_, probe_, removal_;  // copies, see without_idle
  Vector scale_, prefix_, suffix_, total_;
  Eigen::Array<double, Eigen::Dynamic, 1> logs_, sums_;
  Matrix<Scalar> between_;  // (n, n): S(s..t), one decay a head
  Matrix<Scalar> decay_;    // (n, K): one decay a state
  Matrix<Scalar> referred_, walked_;
  mutable Vector running_;
};

/// The inverse of I - lower by forward substitution, of what stands left of the diagonal of `lower`; the rest is not read.
template <Real Scalar>
void invert_unit_lower(const Matrix<Scalar>& lower, Matrix<Scalar>& inverse) {
  const Index count = lower.rows();
  inverse.setIdentity(count, count);
  for (Index t = 1; t < count; ++t) set_product(inverse.block(t, 0, 1, t), lower.block(t, 0, 1, t), inverse.topLeftCorner(t, t));
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
