// A gated linear recurrence whose channels share one matrix a head, and its plain forms: the reference for every fast kernel.
#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/kernels/recurrence.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// How the state of a head goes from one token to the next.
enum class Transition {
  diagonal,  ///< G_t = diag(w_t)
  delta,     ///< G_t = (I - write_t key_t^T) diag(w_t), write_t = key_scale_t key_t: the delta rule
  rank_one   ///< G_t = diag(w_t) + removal_t probe_t^T, both given
};

/// For each head, with K state rows and P = channels / heads value columns (formulation: "The delta-rule family"):
///
///     S_t = G_t S_{t-1} + write_t x_t^T        write_t = key_scale_t key_t        w_t = exp(log_decay_t)
///     o_t = S_t^T query_t                                           (update, then read)
///     o_t = S_{t-1}^T query_t + diagonal_t x_t                      (read_before_update)
///
/// so that o = R x with one matrix R a head: R[i,j] = query_i^T G_i ... G_{j+1} write_j. Head h reads query and key of group
/// h / (heads / groups): neighbours share. At the tokens in `starts` a new document begins: nothing before them is seen from them on.
template <Real Scalar>
struct HeadRecurrence {
  using ScalarType = Scalar;
  Index tokens = 0, channels = 0, heads = 1, groups = 1, state = 1;
  Array<Scalar> query, key;  ///< (tokens, groups * state)
  Array<Scalar> key_scale;   ///< (tokens, heads), or empty: ones
  Array<Scalar> log_decay;   ///< (tokens or 1, heads or heads * state), <= 0, -infinity is a decay of 0; empty: no decay
  Transition transition = Transition::diagonal;
  Array<Scalar> removal, probe;  ///< (tokens, heads * state), Transition::rank_one only
  bool read_before_update = false;
  Array<Scalar> diagonal;     ///< (tokens, heads): R[t,t]; needed by read_before_update, elsewhere it replaces query . write
  std::vector<Index> starts;  ///< first tokens of documents, ascending

  [[nodiscard]] Index head(Index channel) const { return channel / head_channels(); }
  [[nodiscard]] Index head_channels() const { return channels / heads; }
  /// The group that a head reads its query and key from.
  [[nodiscard]] Index group(Index head_index) const { return head_index / (heads / groups); }
  /// Whether there is one decay a state row, rather than one a head.
  [[nodiscard]] bool decay_by_state() const { return state != 1 && log_decay.cols() == heads * state; }
  /// The first token that token `row` can see; 0 may also see the carried-in state.
  [[nodiscard]] Index first_visible(Index row) const {
    const auto next = std::upper_bound(starts.begin(), starts.end(), row);
    return next == starts.begin() ? 0 : *std::prev(next);
  }
  [[nodiscard]] Index last_seen(Index row) const { return row; }
  [[nodiscard]] bool starts_at(Index token) const { return std::binary_search(starts.begin(), starts.end(), token); }

  [[nodiscard]] Scalar decay(Index token, Index head_index, Index n) const {
    if (log_decay.empty()) return Scalar(1);
    const Index row = log_decay.rows() == 1 ? 0 : token;
    return std::exp(log_decay(row, decay_by_state() ? head_index * state + n : head_index));
  }
  [[nodiscard]] Scalar write_scale(Index token, Index head_index) const {
    return key_scale.empty() ? Scalar(1) : key_scale(token, head_index);
  }

  /// Fails (ErrorKind::shape) unless the parts fit each other.
  void check() const;
};

template <Real Scalar>
void HeadRecurrence<Scalar>::check() const {
  check_size("HeadRecurrence", "tokens", tokens, 0);
  check_divides("HeadRecurrence", channels, "channels", heads, "heads");
  check_divides("HeadRecurrence", heads, "heads", groups, "groups");
  check_size("HeadRecurrence", "state", state, 1);
  const Index all_states = size_product("HeadRecurrence", "heads * state", heads, state);
  check_shape("HeadRecurrence", "query", query, tokens, groups * state, "(tokens, groups * state)");
  check_shape("HeadRecurrence", "key", key, tokens, groups * state, "(tokens, groups * state)");
  if (key_scale.rows() != 0) check_shape("HeadRecurrence", "key_scale", key_scale, tokens, heads, "(tokens, heads)");
  if (log_decay.rows() != 0) {
    const Index rows = log_decay.rows() == 1 ? 1 : tokens, columns = log_decay.cols() == heads ? heads : all_states;
    check_shape("HeadRecurrence", "log_decay", log_decay, rows, columns, "(tokens or 1, heads or heads * state)");
  }
  if (transition == Transition::rank_one) {
    check_shape("HeadRecurrence", "removal", removal, tokens, all_states, "(tokens, heads * state)");
    check_shape("HeadRecurrence", "probe", probe, tokens, all_states, "(tokens, heads * state)");
  }
  if (read_before_update || diagonal.rows() != 0) check_shape("HeadRecurrence", "diagonal", diagonal, tokens, heads, "(tokens, heads)");
  check_ascending("HeadRecurrence", "starts", starts, tokens);
}

namespace detail {

/// One token's vectors of one head, each (state), as plain numbers.
template <Real Scalar>
struct HeadToken {
  using Vector = Eigen::Array<Scalar, Eigen::Dynamic, 1>;
  Vector query, write, decay, removal, probe;  ///< removal and probe are empty with a diagonal transition
  bool has_removal = false;

  HeadToken(const HeadRecurrence<Scalar>& recurrence, Index head) : recurrence_(&recurrence), head_(head) {
    for (Vector* vector : {&query, &write, &decay, &removal, &probe}) vector->resize(recurrence.state);
    has_removal = recurrence.transition != Transition::diagonal;
  }

  void load(Index token) {
    const HeadRecurrence<Scalar>& r = *recurrence_;
    const Index states = r.state, first = r.group(head_) * states;
    const Scalar *const q = r.query.row(token) + first, *const k = r.key.row(token) + first, scale = r.write_scale(token, head_);
    for (Index n = 0; n < states; ++n) {
      query[n] = q[n];
      write[n] = scale * k[n];
    }
    if (r.log_decay.empty())
      decay.setOnes();
    else if (!r.decay_by_state())
      decay.setConstant(r.decay(token, head_, 0));
    else
      for (Index n = 0; n < states; ++n) decay[n] = r.decay(token, head_, n);
    if (r.transition == Transition::delta)
      for (Index n = 0; n < states; ++n) {
        removal[n] = -write[n];
        probe[n] = decay[n] * k[n];
      }
    else if (r.transition == Transition::rank_one)
      for (Index n = 0; n < states; ++n) {
        removal[n] = r.removal(token, head_ * states + n);
        probe[n] = r.probe(token, head_ * states + n);
      }
  }

 private:
  const HeadRecurrence<Scalar>* recurrence_;
  Index head_;
};

}  // namespace detail

/// Writes R[row, first..row] of one head into `out[first..row]` and returns `first`, the first token that the row sees. The walk back
/// (formulation: "Rows"): r = query_i; for j = i, i-1, ...: R[i,j] = r . write_j, then r = w_j r + (r . removal_j) probe_j.
template <Real Scalar>
Index plain_head_row(const HeadRecurrence<Scalar>& recurrence, Index head, Index row, Scalar* out) {
  using Vector = typename detail::HeadToken<Scalar>::Vector;
  const Index first = recurrence.first_visible(row);
  detail::HeadToken<Scalar> token(recurrence, head);
  token.load(row);
  Vector r = token.query;
  for (Index j = row; j >= first; --j) {
    token.load(j);
    out[j] = (r * token.write).sum();
    if (j == row && recurrence.read_before_update) continue;  // the row's own transition comes after its read
    const Scalar removed = token.has_removal ? (r * token.removal).sum() : Scalar(0);
    r *= token.decay;
    if (token.has_removal) r += removed * token.probe;
  }
  if (!recurrence.diagonal.empty()) out[row] = recurrence.diagonal(row, head);
  return first;
}

/// The same for a channel, as the other recurrences have it.
template <Real Scalar>
Index plain_recurrence_row(const HeadRecurrence<Scalar>& recurrence, Index channel, Index row, Scalar* out) {
  return plain_head_row(recurrence, recurrence.head(channel), row, out);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
