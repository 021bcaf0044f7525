// One row of a HeadRecurrence's matrix in linear time, by a walk back over the tokens: what a single row costs, and a row behind a number
// that is not finite.
#pragma once

#include <algorithm>

#include <implicit_attention/kernels/head_block.hpp>
#include <implicit_attention/kernels/lanes.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Rows of one head, one at a time (formulation: "Rows"): with r = query_i, for j = i, i - 1, ...: R[i,j] = r . write_j, then
/// r = r G_j. Where the transition is one number a token, all r . write_j are one product of the keys with the query.
template <Real Scalar>
class HeadWalk {
 public:
  HeadWalk(const HeadRecurrence<Scalar>& recurrence, Index head)
      : r_(&recurrence),
        head_(head),
        key_column_(recurrence.group(head) * recurrence.state),
        by_state_(!recurrence.log_decay.empty() && recurrence.decay_by_state()) {}

  /// Writes R[row, first..row] into out[first..row] and returns `first`.
  Index run(Index row, Scalar* out) {
    const Index first = r_->first_visible(row);
    reader_ = Eigen::Map<const RowVector<Scalar>>(r_->query.row(row) + key_column_, r_->state);
    elapsed_ = 0;
    for (Index end = row + 1; end > first;) {
      const Index begin = std::max(first, end - piece_tokens);
      if (r_->transition == Transition::diagonal && !by_state_)
        at_once(row, begin, end, out);
      else
        step_by_step(row, begin, end, out);
      end = begin;
    }
    if (!r_->diagonal.empty()) out[row] = r_->diagonal(row, head_);
    return first;
  }

 private:
  static constexpr Index piece_tokens = 64;

  [[nodiscard]] Scalar log_decay(Index token) const { return r_->log_decay(r_->log_decay.rows() == 1 ? 0 : token, head_); }

  void at_once(Index row, Index begin, Index end, Scalar* out) {
    const Index count = end - begin;
    Eigen::Map<RowVector<Scalar>> entries(out + begin, count);
    set_product(View<Scalar>(out + begin, 1, count), reader_, r_->key.matrix().block(begin, key_column_, count, r_->state),
                Transposed::right);
    if (!r_->log_decay.empty()) {
      factors_.resize(count);
      for (Index token = end - 1; token >= begin; --token) {
        factors_[token - begin] = static_cast<Scalar>(elapsed_);
        if (token < row || !r_->read_before_update) elapsed_ += static_cast<double>(log_decay(token));
      }
      exponentiate(factors_.data(), count);
      entries.array() *= factors_.transpose();
    }
    if (!r_->key_scale.empty())
      for (Index token = begin; token < end; ++token) out[token] *= r_->key_scale(token, head_);
  }

  /// The delta rule: r = (r - entry key) decay, and what the key of the token before reads of it, in one pass over r.
  template <bool ByState>
  IMPLICIT_ATTENTION_FLATTEN static Scalar step_delta(Scalar* reader, Scalar entry, const Scalar* key, const Scalar* decay,
                                                      const Scalar* next_key, Index states) {
    constexpr int lane = register_lanes<Scalar>;
    using Lane = Lanes<Scalar, lane>;
    Lane sum = Lane::Zero(), other = Lane::Zero();
    const Scalar one = ByState ? Scalar(1) : *decay, removed = ByState ? entry : entry * one;
    const auto step = [&](Index n) -> Lane {
      const Lane r = one * lanes<lane>(reader + n) - removed * lanes<lane>(key + n);
      if constexpr (ByState)
        return r * lanes<lane>(decay + n);
      else
        return r;
    };
    Index n = 0;
    for (; n + 2 * Index(lane) <= states; n += 2 * Index(lane)) {
      const Lane a = step(n), b = step(n + lane);
      lanes<lane>(reader + n) = a;
      lanes<lane>(reader + n + lane) = b;
      sum += a * lanes<lane>(next_key + n);
      other += b * lanes<lane>(next_key + n + lane);
    }
    Scalar rest = 0;
    for (; n < states; ++n) {
      reader[n] = (one * reader[n] - removed * key[n]) * (ByState ? decay[n] : Scalar(1));
      rest += reader[n] * next_key[n];
    }
    return (sum + other).sum() + rest;
  }

  void walk_delta(Index row, Index begin, Index end, Scalar* out) {
    load_decays(begin, end);
    const Scalar none = Scalar(1);
    const bool decays = !r_->log_decay.empty();
    const Index decay_stride = decays && r_->log_decay.rows() > 1 ? decay_.cols() : 0;
    if (end == row + 1) read_ = reader_.dot(Eigen::Map<const RowVector<Scalar>>(r_->key.row(row) + key_column_, r_->state));
    for (Index token = end - 1; token >= begin; --token) {
      const Scalar *key = r_->key.row(token) + key_column_, *next_key = r_->key.row(std::max(token - 1, Index(0))) + key_column_;
      out[token] = r_->write_scale(token, head_) * read_;
      if (token == row && r_->read_before_update) {  // the row's own transition comes after its read
        read_ = reader_.dot(Eigen::Map<const RowVector<Scalar>>(next_key, r_->state));
        continue;
      }
      const Scalar* decay = decays ? decay_.data() + (token - begin) * decay_stride : &none;
      read_ = by_state_ ? step_delta<true>(reader_.data(), out[token], key, decay, next_key, r_->state)
                        : step_delta<false>(reader_.data(), out[token], key, decay, next_key, r_->state);
    }
  }

  void step_by_step(Index row, Index begin, Index end, Scalar* out) {
    if (r_->transition == Transition::delta) return walk_delta(row, begin, end, out);
    const Index states = r_->state, decay_stride = by_state_ && r_->log_decay.rows() > 1 ? states : 0;
    load_decays(begin, end);
    Eigen::Map<RowVector<Scalar>> reader(reader_.data(), states);
    const Scalar* decay = decay_.data() + (end - 1 - begin) * decay_stride;
    for (Index token = end - 1; token >= begin; --token, decay -= decay_stride) {
      const Eigen::Map<const RowVector<Scalar>> key(r_->key.row(token) + key_column_, states);
      const Scalar entry = r_->write_scale(token, head_) * reader.dot(key);
      out[token] = entry;
      if (token == row && r_->read_before_update) continue;  // the row's own transition comes after its read
      const Eigen::Map<const Eigen::Array<Scalar, 1, Eigen::Dynamic>> decays(decay, by_state_ ? states : 0);
      const Scalar one = by_state_ || r_->log_decay.empty() ? Scalar(1) : decay_.data()[r_->log_decay.rows() == 1 ? 0 : token - begin];
      if (r_->transition == Transition::rank_one) {
        const Eigen::Map<const RowVector<Scalar>> removal(r_->removal.row(token) + head_ * states, states),
            probe(r_->probe.row(token) + head_ * states, states);
        const Scalar removed = reader.dot(removal);
        if (by_state_)
          reader.array() = reader.array() * decays + removed * probe.array();
        else
          reader = one * reader + removed * probe;
      } else {
        reader.array() *= decays;
      }
    }
  }

  /// Decays of tokens begin..end-1: (tokens or 1, K or 1).
  void load_decays(Index begin, Index end) {
    if (r_->log_decay.empty()) return;
    const bool constant = r_->log_decay.rows() == 1;
    if (constant && decay_.size() > 0) return;
    const Index columns = by_state_ ? r_->state : 1;
    decay_ = r_->log_decay.matrix().block(constant ? 0 : begin, head_ * columns, constant ? 1 : end - begin, columns);
    exponentiate(decay_.data(), decay_.size());
  }

  const HeadRecurrence<Scalar>* r_;
  Index head_, key_column_;
  bool by_state_;
  double elapsed_ = 0;  // the log decays between the row and where the walk is
  Scalar read_ = 0;     // reader_ . key of the next token
  RowVector<Scalar> reader_;
  Eigen::Array<Scalar, Eigen::Dynamic, 1> factors_;
  Matrix<Scalar> decay_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
