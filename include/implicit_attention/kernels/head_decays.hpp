// The decays between the tokens of a block of a HeadRecurrence, and what they make of the block's vectors (formulation: "Blocked", "Safe
// exponents").
#pragma once

#include <algorithm>

#include <implicit_attention/core/matrix_product.hpp>
#include <implicit_attention/kernels/exponentials.hpp>
#include <implicit_attention/kernels/head_recurrence.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Products of a block's readers and writers with one decay a state. Pairs within a sub-block are walked back token by token. Pairs across
/// sub-blocks are products of factors that both refer to the boundary before the later sub-block.
template <Real Scalar>
class SubBlockProducts {
 public:
  /// products(t, s) = reader_t . writer_s S(s..t - late) for s <= t - late; the rest is not written. `decay` holds every token's, (n, K).
  void operator()(const Matrix<Scalar>& decay, ConstView<Scalar> reader, ConstView<Scalar> writer, Index late, Matrix<Scalar>& products) {
    const Index count = decay.rows(), states = decay.cols();
    products.resize(count, count);
    referred_ = writer;
    walked_.resize(sub_block, states);
    running_.resize(states);
    for (Index low = 0; low < count; low += sub_block) {
      const Index high = std::min(low + sub_block, count);
      // Readers whose last decay is in low..high-1.
      const Index first = low + late, end = std::min(high + late, count);
      for (Index t = first; t < end; ++t) {
        Eigen::Map<RowVector<Scalar>> walk(&walked_(t - first, 0), states);
        walk = reader.row(t);
        for (Index s = t - late; s >= low; --s) {
          products(t, s) = walk.dot(writer.row(s));
          walk.array() *= decay.row(s).array();
        }
      }
      if (low > 0 && end > first)
        set_product(products.block(first, 0, end - first, low), walked_.topRows(end - first), referred_.topRows(low), Transposed::right);
      running_.setOnes();
      for (Index s = high - 1; s >= low; --s) {
        if (s + 1 < high) referred_.row(s).array() *= running_.transpose();
        running_ *= decay.row(s).transpose().array();
      }
      if (high < count) referred_.topRows(low).array().rowwise() *= running_.transpose();
    }
  }

 private:
  static constexpr Index sub_block = 16;

  Matrix<Scalar> referred_, walked_;
  Eigen::Array<Scalar, Eigen::Dynamic, 1> running_;
};

/// S(s..t), the decay of tokens s + 1 .. t of a block of n tokens: one number, or one a state. Every one is a product of decays of this
/// block alone.
template <Real Scalar>
class HeadDecays {
 public:
  using Vector = Eigen::Array<Scalar, Eigen::Dynamic, 1>;

  HeadDecays(const HeadRecurrence<Scalar>& recurrence, Index head)
      : r_(&recurrence),
        head_(head),
        constant_(recurrence.log_decay.rows() == 1),
        absent_(recurrence.log_decay.empty()),
        by_state_(!absent_ && recurrence.decay_by_state()) {}

  /// Of tokens first .. first + count - 1. An idle token's decay is not used, and counts as 1.
  void load(Index first, Index count, bool first_is_idle, bool last_is_idle) {
    count_ = count;
    if (absent_) return;
    if (by_state_)
      load_by_state(first, first_is_idle, last_is_idle);
    else
      load_by_token(first, first_is_idle, last_is_idle);
  }

  /// products(t, s) = reader_t . writer_s S(s..t - late) for s <= t - late, zeros elsewhere.
  void products(ConstView<Scalar> reader, ConstView<Scalar> writer, Index late, Matrix<Scalar>& products) {
    if (by_state_) {
      by_sub_blocks_(decay_, reader, writer, late, products);
    } else {
      set_product(products, reader, writer, Transposed::right);
      if (!absent_) {
        if (late == 0) products.array() *= between_.array();
        for (Index t = 1; late == 1 && t < count_; ++t) products.row(t).head(t).array() *= between_.row(t - 1).head(t).array();
      }
    }
    for (Index t = 0; t < count_; ++t) products.row(t).tail(count_ - 1 - t + late).setZero();
  }

  /// out(t) = reader_t S(-1..t - late), (n, K).
  void from_start(ConstView<Scalar> reader, Index late, View<Scalar> out) const {
    out = reader;
    if (absent_) return;
    if (!by_state_) {
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
    if (absent_) return;
    if (!by_state_) {
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
    if (absent_) return;
    if (by_state_)
      state.array().colwise() *= total_;
    else
      state *= total_[0];
  }
  /// The decay of the whole block: nothing, one number, or (K).
  [[nodiscard]] const Vector& total() const { return total_; }
  /// With one decay a token: S(s..t) at (t, s), S(-1..t) and S(s..n-1). With one a state: every token's decay, (n, K).
  [[nodiscard]] const Matrix<Scalar>& between() const { return between_; }
  [[nodiscard]] const Vector& prefix() const { return prefix_; }
  [[nodiscard]] const Vector& suffix() const { return suffix_; }
  [[nodiscard]] const Matrix<Scalar>& decay() const { return decay_; }

 private:
  /// One decay a token. Sums are accumulated in double, upwards from the pair, and restart in every block.
  void load_by_token(Index first, bool first_is_idle, bool last_is_idle) {
    logs_.resize(count_);
    for (Index t = 0; t < count_; ++t) logs_[t] = static_cast<double>(r_->log_decay(constant_ ? 0 : first + t, head_));
    if (first_is_idle) logs_[0] = 0;
    if (last_is_idle) logs_[count_ - 1] = 0;
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

  void load_by_state(Index first, bool first_is_idle, bool last_is_idle) {
    const Index states = r_->state, stride = constant_ ? 0 : r_->log_decay.row_stride();
    decay_.resize(count_, states);
    sums_.setZero(states);
    const Scalar* log = r_->log_decay.row(constant_ ? 0 : first) + head_ * states;
    for (Index t = 0; t < count_; ++t, log += stride) {
      const Eigen::Map<const Eigen::Array<Scalar, 1, Eigen::Dynamic>> row(log, states);
      decay_.row(t) = row.matrix();
      if ((first_is_idle && t == 0) || (last_is_idle && t == count_ - 1)) decay_.row(t).setZero();
      sums_ += decay_.row(t).transpose().array().template cast<double>();
    }
    exponentiate(decay_.data(), decay_.size());
    total_ = sums_.template cast<Scalar>();
    exponentiate(total_.data(), states);
  }

  const HeadRecurrence<Scalar>* r_;
  Index head_, count_ = 0;
  bool constant_, absent_, by_state_;
  Vector prefix_, suffix_, total_;
  Eigen::Array<WideScalar<Scalar>, Eigen::Dynamic, 1> logs_, sums_;
  Matrix<Scalar> between_;  // (n, n): S(s..t), one decay a token
  Matrix<Scalar> decay_;    // (n, K): one decay a state
  SubBlockProducts<Scalar> by_sub_blocks_;
  mutable Vector running_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
