// One row of HeadRecurrences' matrices in linear time, by a walk back over the tokens: for single rows, and for rows after a number that is
// not finite.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <implicit_attention/kernels/head_block.hpp>
#include <implicit_attention/kernels/lanes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// A token in a step of a walk: its vectors, null where the transition has none, and one decay a state or a single one.
template <Real Scalar>
struct WalkToken {
  const Scalar *key, *removal, *probe, *decay;
};
/// The two tokens of a step, the later one first. At the start of a document both may be its first token.
template <Real Scalar>
struct WalkPair {
  WalkToken<Scalar> a, b;
};

/// The tokens of one head, as a walk reads them: the addresses of their vectors, and their decays.
template <Real Scalar>
class WalkTokens {
 public:
  WalkTokens(const HeadRecurrence<Scalar>& recurrence, Index head)
      : r_(&recurrence),
        head_(head),
        key_column_(recurrence.group(head) * recurrence.state),
        own_column_(head * recurrence.state),
        by_state_(!recurrence.log_decay.empty() && recurrence.decay_by_state()) {
    nothing_.setZero(2, recurrence.state);
    nothing_.row(1).setOnes();
  }

  /// Prepares for a walk over tokens first..end-1.
  void start(Index first, Index end) {
    if (!by_state_)
      load_decays(first, end);
    else if (r_->log_decay.rows() > 1)
      decays_.resize(decays_at_once, r_->state);
    else {
      decays_ = r_->log_decay.matrix().middleCols(own_column_, r_->state);
      exponentiate(decays_.data(), r_->state);
    }
  }

  /// Whether there is one decay a state.
  [[nodiscard]] bool by_state() const { return by_state_; }
  [[nodiscard]] Eigen::Map<const RowVector<Scalar>> query(Index token) const {
    return Eigen::Map<const RowVector<Scalar>>(r_->query.row(token) + key_column_, r_->state);
  }
  template <bool ByState>
  [[nodiscard]] WalkToken<Scalar> token(Index token) {
    const bool given = r_->transition == Transition::rank_one;
    return {r_->key.row(token) + key_column_, given ? r_->removal.row(token) + own_column_ : nullptr,
            given ? r_->probe.row(token) + own_column_ : nullptr,
            ByState ? decays_by_state(token) : decays_.data() + (decays_.rows() == 1 ? 0 : token)};
  }
  /// A token that changes nothing.
  [[nodiscard]] WalkToken<Scalar> nothing() const {
    return {nothing_.data(), nothing_.data(), nothing_.data(), nothing_.data() + r_->state};
  }

  /// Prefetches a token's vectors for a later step.
  template <bool ByState>
  EIGEN_ALWAYS_INLINE void fetch(Index token) const {
    fetch(r_->key.row(token) + key_column_);
    if (r_->transition == Transition::rank_one) {
      fetch(r_->removal.row(token) + own_column_);
      fetch(r_->probe.row(token) + own_column_);
    }
    if constexpr (ByState)
      if (r_->log_decay.rows() > 1) fetch(r_->log_decay.row(token) + own_column_);
  }

 private:
  static constexpr Index decays_at_once = 4;

  /// Prefetches every line once.
  EIGEN_ALWAYS_INLINE void fetch(const Scalar* numbers) const {
#if defined(__GNUC__)
    for (Index n = 0; n < r_->state; n += numbers_in_a_line<Scalar>) __builtin_prefetch(numbers + n, 0, 3);
    __builtin_prefetch(numbers + (r_->state - 1), 0, 3);
#endif
  }

  /// Decays of tokens first..end-1, one a token; one number where they are constant.
  void load_decays(Index first, Index end) {
    const bool constant = r_->log_decay.rows() <= 1;
    decays_.setZero(constant ? 1 : end, 1);
    if (constant) first = 0;
    for (Index token = first; token < decays_.rows() && !r_->log_decay.empty(); ++token) decays_(token, 0) = r_->log_decay(token, head_);
    exponentiate(decays_.data() + first, decays_.rows() - first);
  }
  /// Decays of a token, one a state. The decays of two pairs are kept at a time, or those that all tokens share.
  [[nodiscard]] const Scalar* decays_by_state(Index token) {
    if (decays_.rows() == 1) return decays_.data();
    Scalar* const decays = decays_.data() + (token & (decays_at_once - 1)) * r_->state;
    exponentiate_together(r_->log_decay.row(token) + own_column_, r_->state, decays);
    return decays;
  }

  const HeadRecurrence<Scalar>* r_;
  Index head_, key_column_, own_column_;
  bool by_state_;
  Matrix<Scalar> decays_;
  Matrix<Scalar> nothing_;  // zeros and ones: the vectors and the decays of a token that changes nothing
};

/// The vector r of a walk, and its steps. Each step covers two tokens, a and the token b before it, which halves the number of dependent
/// sums. b's key reads
///
///     (r G_a) . key_b = (r w_a) . key_b + (r . removal_a) (probe_a . key_b)
///
/// and its removal likewise; all these sums use r as it is before a.
template <Real Scalar>
class WalkReader {
 public:
  /// A single number with the interface of LaneRegister, for what does not fill a register.
  struct Single {
    using type = Scalar;
    static type zero() { return 0; }
    static type load(const Scalar* from) { return *from; }
  };
  /// What the keys and removals of a pair read of r, and what those of b read of a's probe: numbers, or registers of partial sums.
  template <class Numbers>
  struct Reads {
    typename Numbers::type key_a = Numbers::zero(), key_b = Numbers::zero(), key_across = Numbers::zero(), removal_a = Numbers::zero(),
                           removal_b = Numbers::zero(), removal_across = Numbers::zero();
  };

  using Pair = WalkPair<Scalar>;

  /// Begins with r = query.
  void start(const Eigen::Map<const RowVector<Scalar>>& query) { reader_ = query; }

  /// r = r G_a G_b for the pair `over`, given what its removals read of r; returns what the next pair reads.
  template <Transition Kind, bool ByState>
  IMPLICIT_ATTENTION_FLATTEN Reads<Single> step(const Pair& over, Scalar removed_a, Scalar removed_b, const Pair& next) {
    using Numbers = typename Register::type;
    Scalar* const reader = reader_.data();
    const Index states = reader_.size();
    const Pair now = over, then = next;  // copies: the compiler must assume that stores to r change what references refer to
    Scalar decay = 1;
    if constexpr (!ByState) {  // both tokens' decays at once
      decay = *now.a.decay * *now.b.decay;
      removed_a *= Kind == Transition::delta ? decay : *now.b.decay;
      if constexpr (Kind == Transition::delta) removed_b *= *now.b.decay;
    }
    Reads<Register> even, odd;  // independent sums
    Index n = 0;
    for (; n + Index(2 * lane) <= states; n += Index(2 * lane)) {
      Numbers r = Register::load(reader + n), s = Register::load(reader + n + lane);
      step<Kind, ByState>(now, decay, removed_a, removed_b, then, n, r, even);
      step<Kind, ByState>(now, decay, removed_a, removed_b, then, n + lane, s, odd);
      Register::store(reader + n, r);
      Register::store(reader + n + lane, s);
    }
    Reads<Single> reads;
    for (; n < states; ++n) step<Kind, ByState>(now, decay, removed_a, removed_b, then, n, reader[n], reads);
    const auto add = [](Scalar& sum, const Numbers& x, const Numbers& y) { sum += sum_of<Scalar, lane>(x + y); };
    add(reads.key_a, even.key_a, odd.key_a);
    add(reads.key_b, even.key_b, odd.key_b);
    if constexpr (!ByState) reads.key_b *= *then.a.decay;
    if constexpr (Kind != Transition::diagonal) add(reads.key_across, even.key_across, odd.key_across);
    if constexpr (Kind == Transition::delta && !ByState) reads.key_across *= *then.a.decay;
    if constexpr (Kind == Transition::rank_one) {
      add(reads.removal_a, even.removal_a, odd.removal_a);
      add(reads.removal_b, even.removal_b, odd.removal_b);
      if constexpr (!ByState) reads.removal_b *= *then.a.decay;
      add(reads.removal_across, even.removal_across, odd.removal_across);
    }
    return reads;
  }

 private:
  static constexpr int lane = computed_lanes<Scalar>;
  using Register = LaneRegister<Scalar, lane>;

  /// One number of r, or one register of them, in a step: takes it over the pair and adds what the next pair reads of it.
  template <Transition Kind, bool ByState, class Numbers>
  static EIGEN_ALWAYS_INLINE void step(const Pair& over, Scalar decay, Scalar removed_a, Scalar removed_b, const Pair& next, Index n,
                                       typename Numbers::type& r, Reads<Numbers>& reads) {
    const auto number = [n](const Scalar* from) { return Numbers::load(from + n); };
    if constexpr (Kind == Transition::delta && ByState) {
      r = (r + removed_a * number(over.a.key)) * number(over.a.decay);
      r = (r + removed_b * number(over.b.key)) * number(over.b.decay);
    } else if constexpr (Kind == Transition::delta) {
      r = decay * r + removed_a * number(over.a.key) + removed_b * number(over.b.key);
    } else {
      if constexpr (ByState)
        r = r * number(over.a.decay);
      else
        r = decay * r;
      if constexpr (Kind == Transition::rank_one) r = r + removed_a * number(over.a.probe);
      if constexpr (ByState) r = r * number(over.b.decay);
      if constexpr (Kind == Transition::rank_one) r = r + removed_b * number(over.b.probe);
    }
    const typename Numbers::type key_a = number(next.a.key);
    typename Numbers::type key_b = number(next.b.key);  // with a's decay, for r is taken before it
    if constexpr (ByState) key_b = key_b * number(next.a.decay);
    reads.key_a = reads.key_a + r * key_a;
    reads.key_b = reads.key_b + r * key_b;
    if constexpr (Kind == Transition::delta) reads.key_across = reads.key_across + key_a * key_b;
    if constexpr (Kind == Transition::rank_one) {
      const typename Numbers::type probe_a = number(next.a.probe), removal_b = number(next.b.removal);
      reads.key_across = reads.key_across + probe_a * number(next.b.key);
      reads.removal_a = reads.removal_a + r * number(next.a.removal);
      reads.removal_across = reads.removal_across + probe_a * removal_b;
      if constexpr (ByState)
        reads.removal_b = reads.removal_b + r * (removal_b * number(next.a.decay));
      else
        reads.removal_b = reads.removal_b + r * removal_b;
    }
  }

  RowVector<Scalar> reader_;
};

/// Rows of one head, one at a time (formulation: "Rows"): with r = query_i, for j = i, i - 1, ...: R[i,j] = r . write_j, then
/// r = r G_j. Where the transition is one number a token, ProductRows makes rows as products with the query.
template <Real Scalar>
class HeadWalk {
 public:
  HeadWalk(const HeadRecurrence<Scalar>& recurrence, Index head) : r_(&recurrence), head_(head), tokens_(recurrence, head) {}

  /// Begins row `row`. Its entries go to out[first()] .. out[row].
  void start(Index row, Scalar* out) {
    row_ = row;
    first_ = r_->first_visible(row);
    out_ = out;
    tokens_.start(first_, last() + 1);
    reader_.start(tokens_.query(row));
    over_ = {tokens_.nothing(), tokens_.nothing()};
    removed_a_ = removed_b_ = 0;
  }
  /// The last token that is walked over, and the first one.
  [[nodiscard]] Index last() const { return r_->read_before_update ? row_ - 1 : row_; }  // the row's own transition comes after its read
  [[nodiscard]] Index first() const { return first_; }
  /// Writes the entries of `token` and of the token before it, if the row sees that. Calls come in descending order, from last() on.
  void advance(Index token) {
    if (r_->transition == Transition::delta)
      tokens_.by_state() ? advance<Transition::delta, true>(token) : advance<Transition::delta, false>(token);
    else if (r_->transition == Transition::rank_one)
      tokens_.by_state() ? advance<Transition::rank_one, true>(token) : advance<Transition::rank_one, false>(token);
    else
      advance<Transition::diagonal, true>(token);
  }
  void finish() const {
    if (!r_->diagonal.empty()) out_[row_] = r_->diagonal(row_, head_);
  }

 private:
  static constexpr Index tokens_ahead = 4;  ///< distance of prefetches: a head's numbers of two tokens lie on different pages

  template <Transition Kind, bool ByState>
  void advance(Index t) {
    for (Index ahead = t - tokens_ahead; ahead >= std::max(first_, t - tokens_ahead - 1); --ahead) tokens_.template fetch<ByState>(ahead);
    const WalkPair<Scalar> next{tokens_.template token<ByState>(t), tokens_.template token<ByState>(std::max(t - 1, first_))};
    auto reads = reader_.template step<Kind, ByState>(over_, removed_a_, removed_b_, next);
    out_[t] = r_->write_scale(t, head_) * reads.key_a;
    if (t == first_) return;
    removed_a_ = Kind == Transition::delta ? -out_[t] : reads.removal_a;  // the delta rule's removals are its writes, negated
    if constexpr (Kind != Transition::diagonal) reads.key_b += removed_a_ * reads.key_across;
    out_[t - 1] = r_->write_scale(t - 1, head_) * reads.key_b;
    removed_b_ = Kind == Transition::delta ? -out_[t - 1] : reads.removal_b + removed_a_ * reads.removal_across;
    over_ = next;
  }

  const HeadRecurrence<Scalar>* r_;
  Index head_, row_ = 0, first_ = 0;
  Scalar* out_ = nullptr;
  WalkTokens<Scalar> tokens_;
  WalkReader<Scalar> reader_;
  WalkPair<Scalar> over_{};               // the last pair: r is not led back over it yet
  Scalar removed_a_ = 0, removed_b_ = 0;  // what its removals read of r
};

/// Heads whose rows are walked together.
constexpr Index heads_walked_together = 16;

/// Writes R[row, first..row] of several heads, a row of `out` each, and returns `first`. The heads advance together: their numbers of a
/// token are neighbours in memory, which are read at up to twice the rate of one head's part of every token. The transition must not be one
/// number a token (see ProductRows).
template <Real Scalar>
Index walk_heads(const HeadRecurrence<Scalar>& recurrence, const Index* heads, Index count, Index row, View<Scalar> out) {
  std::vector<HeadWalk<Scalar>> walks;
  walks.reserve(static_cast<std::size_t>(count));
  for (Index i = 0; i < count; ++i) {
    walks.emplace_back(recurrence, heads[i]);
    walks.back().start(row, &out(i, 0));
  }
  const Index first = walks.front().first();
  for (Index token = walks.front().last(); token >= first; token -= 2)
    for (HeadWalk<Scalar>& walk : walks) walk.advance(token);
  for (const HeadWalk<Scalar>& walk : walks) walk.finish();
  return first;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
