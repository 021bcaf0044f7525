// One row of a HeadRecurrence's matrix in linear time, by a walk back over the tokens: what a single row costs, and a row behind a number
// that is not finite.
#pragma once

#include <algorithm>
#include <type_traits>

#include <implicit_attention/kernels/head_block.hpp>
#include <implicit_attention/kernels/lanes.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Rows of one head, one at a time (formulation: "Rows"): with r = query_i, for j = i, i - 1, ...: R[i,j] = r . write_j, then
/// r = r G_j. Where the transition is one number a token, HeadRows makes rows as products with the query.
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
    general_ = 0;
    for (Index end = row + 1; end > first;) {
      const Index begin = std::max(first, end - step_tokens);
      if (by_state_)
        walk<true>(row, first, begin, end, out);
      else
        walk<false>(row, first, begin, end, out);
      end = begin;
    }
    if (!r_->diagonal.empty()) out[row] = r_->diagonal(row, head_);
    return first;
  }

 private:
  static constexpr Index tokens_ahead = 8;     ///< that are asked for: a head's numbers of two tokens lie on different pages
  static constexpr Index step_tokens = 16;     ///< their decays stay in the nearest cache
  static constexpr Index general_tokens = 16;  ///< after one that needed them, tokens whose exponentials are general ones
#if defined(__GNUC__)
  static constexpr bool beside = std::is_same_v<Scalar, float>;
#else
  static constexpr bool beside = false;
#endif

  [[nodiscard]] Scalar log_decay(Index token) const { return r_->log_decay(r_->log_decay.rows() == 1 ? 0 : token, head_); }

  /// What a step needs of a token; null where there is none.
  struct Token {
    const Scalar *key, *removal, *probe;
  };
  [[nodiscard]] Token token_at(Index token) const {
    if (token < 0) token = 0;  // before the first one, read in vain
    const bool given = r_->transition == Transition::rank_one;
    const Index column = head_ * r_->state;
    return {r_->key.row(token) + key_column_, given ? r_->removal.row(token) + column : nullptr,
            given ? r_->probe.row(token) + column : nullptr};
  }

  template <bool ByState>
  EIGEN_ALWAYS_INLINE void fetch(Index token) const {
    const Index column = head_ * r_->state;
    fetch(r_->key.row(token) + key_column_);
    if (r_->transition == Transition::rank_one) {
      fetch(r_->removal.row(token) + column);
      fetch(r_->probe.row(token) + column);
    }
    if constexpr (ByState)
      if (r_->log_decay.rows() > 1) fetch(r_->log_decay.row(token) + column);
  }
  /// Asks for every line once.
  EIGEN_ALWAYS_INLINE void fetch(const Scalar* numbers) const {
#if defined(__GNUC__)
    for (Index n = 0; n < r_->state; n += numbers_in_a_line<Scalar>) __builtin_prefetch(numbers + n, 0, 2);
    __builtin_prefetch(numbers + (r_->state - 1), 0, 2);
#endif
  }

  /// One decay a state: the logarithms of the next token's and where they go; null where they are there already.
  struct Exponents {
    const Scalar* logs = nullptr;
    Scalar* decays = nullptr;
  };

  /// One pass over r: r = (r - removed token.key) decay (delta rule), r decay + removed token.probe, or r decay; and what the next token's
  /// key and removal read of it. The next token's exponentials are taken beside it, while sums wait for each other, by
  /// exponentiate_small_register; where one is beyond its range, all are taken again by the general function.
  template <Transition Kind, bool ByState>
  IMPLICIT_ATTENTION_FLATTEN void step(Scalar removed, const Token& token, const Scalar* decay, const Token& next,
                                       [[maybe_unused]] const Exponents& exponents) {
    constexpr int lane = register_lanes<Scalar>, together = 4;  // sums that do not wait for each other
    using Lane = Lanes<Scalar, lane>;
    Scalar* const reader = reader_.data();
    const Index states = r_->state;
    // Read once: stores through registers might change what a reference stands for.
    const Scalar *const key = token.key, *const next_key = next.key;
    [[maybe_unused]] const Scalar *const probe = token.probe, *const next_removal = next.removal, *const logs = exponents.logs;
    [[maybe_unused]] Scalar* const decays = exponents.decays;
    const Scalar one = ByState ? Scalar(1) : *decay, of_key = ByState ? removed : removed * one;
    Lane reads[static_cast<std::size_t>(together)], removes[static_cast<std::size_t>(together)];
    for (int i = 0; i < together; ++i) {
      reads[i].setZero();
      removes[i].setZero();
    }
    [[maybe_unused]] Lane widest = Lane::Zero();
    Index n = 0;
    for (; n + Index(together * lane) <= states; n += Index(together * lane)) {
      IMPLICIT_ATTENTION_UNROLL
      for (int i = 0; i < together; ++i) {
        const Index at = n + i * lane;
        Lane r = lanes<lane>(reader + at);
        if constexpr (Kind == Transition::delta) {
          r = one * r - of_key * lanes<lane>(key + at);
          if constexpr (ByState) r *= lanes<lane>(decay + at);
        } else {
          if constexpr (ByState)
            r *= lanes<lane>(decay + at);
          else
            r *= one;
          if constexpr (Kind == Transition::rank_one) r += removed * lanes<lane>(probe + at);
        }
        lanes<lane>(reader + at) = r;
        reads[i] += r * lanes<lane>(next_key + at);
        if constexpr (Kind == Transition::rank_one) removes[i] += r * lanes<lane>(next_removal + at);
        if constexpr (ByState && beside)
          if (logs != nullptr) {
            widest = widest.max(lanes<lane>(logs + at).abs());
            exponentiate_small_register(logs + at, decays + at);
          }
      }
    }
    if constexpr (ByState && beside)
      if (logs != nullptr) {
        const bool all = widest.maxCoeff() > Scalar(small_exponent);
        const Index from = all ? 0 : n;
        if (all) general_ = general_tokens;
        exponentiate<Scalar>(logs + from, states - from, decays + from);
      }
    Scalar rest = 0, rest_removed = 0;
    for (; n < states; ++n) {
      const Scalar d = ByState ? decay[n] : one;
      if constexpr (Kind == Transition::delta)
        reader[n] = ByState ? (reader[n] - removed * key[n]) * d : d * reader[n] - of_key * key[n];
      else if constexpr (Kind == Transition::rank_one)
        reader[n] = reader[n] * d + removed * probe[n];
      else
        reader[n] *= d;
      rest += reader[n] * next_key[n];
      if constexpr (Kind == Transition::rank_one) rest_removed += reader[n] * next_removal[n];
    }
    read_ = ((reads[0] + reads[1]) + (reads[2] + reads[3])).sum() + rest;
    if constexpr (Kind == Transition::rank_one) removed_ = ((removes[0] + removes[1]) + (removes[2] + removes[3])).sum() + rest_removed;
  }

  /// What a token's key and removal read of r, without a step before them.
  void read(const Token& token) {
    const auto dot = [&](const Scalar* vector) { return reader_.dot(Eigen::Map<const RowVector<Scalar>>(vector, r_->state)); };
    read_ = dot(token.key);
    if (token.removal) removed_ = dot(token.removal);
  }

  template <bool ByState>
  void walk(Index row, Index first, Index begin, Index end, Scalar* out) {
    const Scalar none = Scalar(1);
    const bool decays = !r_->log_decay.empty();
    if (decays && !ByState) load_decays(begin, end);
    const Index last = r_->read_before_update ? row - 1 : row;  // the first token whose decay is wanted
    Token token = token_at(end - 1);
    if (end == row + 1) {
      read(token);
      if (ByState && last > first) load_decay(last);
    }
    for (Index t = end - 1; t >= begin; --t) {
      const Token next = token_at(t - 1);
      if (t >= first + tokens_ahead) fetch<ByState>(t - tokens_ahead);
      out[t] = r_->write_scale(t, head_) * read_;
      if (t > last) {
        read(next);  // the row's own transition comes after its read
      } else if (t > first) {
        const Scalar* const decay = ByState ? decay_row(t) : decays ? decay_.data() + (t - begin) * decay_stride() : &none;
        const Exponents exponents = ByState && t - 1 > first ? exponents_of(t - 1) : Exponents{};
        if (r_->transition == Transition::delta)
          step<Transition::delta, ByState>(out[t], token, decay, next, exponents);
        else if (r_->transition == Transition::rank_one)
          step<Transition::rank_one, ByState>(removed_, token, decay, next, exponents);
        else if constexpr (ByState)
          step<Transition::diagonal, true>(Scalar(0), token, decay, next, exponents);
      }
      token = next;
    }
  }

  [[nodiscard]] Index decay_stride() const { return r_->log_decay.rows() > 1 ? 1 : 0; }
  /// Decays of tokens begin..end-1, one a head.
  void load_decays(Index begin, Index end) {
    const bool constant = r_->log_decay.rows() == 1;
    if (constant && decay_.size() > 0) return;
    decay_.resize(constant ? 1 : end - begin, 1);
    for (Index i = 0; i < decay_.size(); ++i) decay_.data()[i] = log_decay(begin + i);
    exponentiate(decay_.data(), decay_.size());
  }

  /// Decays of a token, one a state: those of a token and of the one before it stand in turn.
  [[nodiscard]] Scalar* decay_row(Index token) { return &decay_(r_->log_decay.rows() == 1 ? 0 : token % 2, 0); }
  void load_decay(Index token) {
    const bool constant = r_->log_decay.rows() == 1;
    if (constant && decay_.size() > 0) return;
    decay_.resize(constant ? 1 : 2, r_->state);
    exponentiate<Scalar>(r_->log_decay.row(constant ? 0 : token) + head_ * r_->state, r_->state, decay_row(token));
  }
  /// What a step is to exponentiate beside its other work; nothing where that is done here.
  [[nodiscard]] Exponents exponents_of(Index token) {
    if (r_->log_decay.rows() == 1) return {};
    if (beside && general_ == 0) return {r_->log_decay.row(token) + head_ * r_->state, decay_row(token)};
    if (general_ > 0) --general_;
    load_decay(token);
    return {};
  }

  const HeadRecurrence<Scalar>* r_;
  Index head_, key_column_;
  bool by_state_;
  Index general_ = 0;
  Scalar read_ = 0, removed_ = 0;  // reader_ . key and removal of the next token
  RowVector<Scalar> reader_;
  Matrix<Scalar> decay_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
