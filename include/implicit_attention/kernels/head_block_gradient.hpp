// From the gradients of a block's factors to those of its vectors and decays: the transpose of head_decays.hpp and head_block.hpp.
#pragma once

#include <algorithm>

#include <implicit_attention/core/matrix_product.hpp>
#include <implicit_attention/kernels/head_block.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// `slopes` are gradients of a factor of the block, of its shape, and `factor` is that factor with the writers' scale in it. The gradient
/// of a log decay is a sum, over all factors' numbers that it decays, of slope times number. No difference of sums is taken, so that the
/// gradient is exactly 0 where the decay is.
template <Real Scalar>
class HeadBlockGradient {
 public:
  explicit HeadBlockGradient(const HeadRecurrence<Scalar>& recurrence)
      : states_(recurrence.state), decays_(!recurrence.log_decay.empty()), by_state_(decays_ && recurrence.decay_by_state()) {}

  /// Begins with a block, which must stay where it is.
  void start(const HeadBlock<Scalar>& block) {
    block_ = &block;
    if (decays_) log_decay_.setZero(block.count(), by_state_ ? states_ : 1);
  }
  /// (n, K or 1); empty without decays.
  [[nodiscard]] Matrix<Scalar>& log_decay() { return log_decay_; }

  /// Of HeadDecays::products, (n, n), for pairs whose reader is `nearest` tokens or more after the writer; slopes of others are set to 0.
  /// `scaled`: whether `factor` includes the writers' scale. The writers' gradient is that of the scaled vectors.
  void add_products(ConstView<Scalar> reader, ConstView<Scalar> writer, Index late, Index nearest, bool scaled, Matrix<Scalar>& slopes,
                    const Matrix<Scalar>& factor, View<Scalar> reader_gradient, View<Scalar> writer_gradient) {
    const Index n = block_->count();
    if (n <= nearest) return;
    for (Index t = 0; t < n; ++t) slopes.row(t).tail(n - 1 - t + nearest).setZero();
    if (by_state_) return add_products_by_state(reader, writer, late, scaled, slopes, reader_gradient, writer_gradient);
    if (decays_) {
      for (Index t = late; t < n; ++t) {
        Scalar sum = 0;  // of the pairs of this reader that token u decays
        for (Index u = 0; u <= t - late; ++u) {
          log_decay_.data()[u] += sum;
          sum += slopes(t, u) * factor(t, u);
        }
        slopes.row(t).head(t - late + 1).array() *= block_->decays().between().row(t - late).head(t - late + 1).array();
      }
    }
    add_product(writer_gradient, slopes, reader, Transposed::left);
    if (scaled) slopes.array().rowwise() *= block_->scale().transpose();
    add_product(reader_gradient, slopes, writer);
  }

  /// Of HeadDecays::from_start, (n, K).
  void add_from_start(ConstView<Scalar> slopes, ConstView<Scalar> factor, Index late, View<Scalar> gradient) {
    const Index n = block_->count(), decayed = std::max(n - late, Index(0));
    if (!by_state_) {
      gradient.topRows(n - decayed) += slopes.topRows(n - decayed);
      if (decays_)
        gradient.bottomRows(decayed).array() += slopes.bottomRows(decayed).array().colwise() * block_->decays().prefix().head(decayed);
      else
        gradient.bottomRows(decayed) += slopes.bottomRows(decayed);
      Scalar sum = 0;
      for (Index t = n - 1; decays_ && t >= late; --t) log_decay_.data()[t - late] += sum += slopes.row(t).dot(factor.row(t));
      return;
    }
    gradient.topRows(n - decayed) += slopes.topRows(n - decayed);
    running_.setOnes(states_);
    for (Index t = late; t < n; ++t) {
      running_.array() *= block_->decays().decay().row(t - late).array();
      gradient.row(t) += slopes.row(t).cwiseProduct(running_);
    }
    running_.setZero();
    for (Index t = n - 1; t >= late; --t) {
      running_ += slopes.row(t).cwiseProduct(factor.row(t));
      log_decay_.row(t - late) += running_;
    }
  }

  /// Of HeadDecays::to_end, (n, K), towards the scaled vectors.
  void add_to_end(ConstView<Scalar> slopes, ConstView<Scalar> factor, View<Scalar> gradient) {
    const Index n = block_->count();
    if (!by_state_) {
      if (decays_)
        gradient.array() += slopes.array().colwise() * block_->decays().suffix();
      else
        gradient += slopes;
      Scalar sum = 0;
      for (Index s = 0; decays_ && s + 1 < n; ++s) log_decay_.data()[s + 1] += sum += slopes.row(s).dot(factor.row(s));
      return;
    }
    running_.setOnes(states_);
    for (Index s = n - 1; s >= 0; --s) {
      gradient.row(s) += slopes.row(s).cwiseProduct(running_);
      running_.array() *= block_->decays().decay().row(s).array();
    }
    running_.setZero();
    for (Index s = 0; s + 1 < n; ++s) {
      running_ += slopes.row(s).cwiseProduct(factor.row(s));
      log_decay_.row(s + 1) += running_;
    }
  }

  /// Of HeadDecays::decay_state, with `slopes` (K, values) of the decayed `state`.
  void add_decay_state(const Matrix<Scalar>& slopes, const Matrix<Scalar>& state) {
    if (!decays_) return;
    if (!by_state_) {
      log_decay_.array() += block_->decays().total()[0] * slopes.cwiseProduct(state).sum();
      return;
    }
    running_ = (slopes.cwiseProduct(state).rowwise().sum().array() * block_->decays().total()).matrix().transpose();
    log_decay_.rowwise() += running_;
  }

 private:
  /// For each reader in turn: down to the first token, the reader with the decays to each token; then up again, the sum of what it reads of
  /// all tokens so far.
  void add_products_by_state(ConstView<Scalar> reader, ConstView<Scalar> writer, Index late, bool scaled, const Matrix<Scalar>& slopes,
                             View<Scalar> reader_gradient, View<Scalar> writer_gradient) {
    const Index n = block_->count();
    decayed_.resize(n, states_);
    running_.resize(states_);
    for (Index t = late; t < n; ++t) {
      const Index last = t - late;
      decayed_.row(last) = reader.row(t);
      for (Index u = last; u > 0; --u) decayed_.row(u - 1) = decayed_.row(u).cwiseProduct(block_->decays().decay().row(u));
      running_.setZero();
      for (Index u = 0; u <= last; ++u) {
        if (u > 0) {
          running_.array() *= block_->decays().decay().row(u).array();
          log_decay_.row(u) += running_.cwiseProduct(decayed_.row(u));
        }
        running_ += (scaled ? slopes(t, u) * block_->scale()[u] : slopes(t, u)) * writer.row(u);
        writer_gradient.row(u) += slopes(t, u) * decayed_.row(u);
      }
      reader_gradient.row(t) += running_;
    }
  }

  Index states_;
  bool decays_, by_state_;
  const HeadBlock<Scalar>* block_ = nullptr;
  Matrix<Scalar> log_decay_, decayed_;
  RowVector<Scalar> running_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
