// The recurrence of a sequence that comes in pieces: of every kind that grows by rows, its arrays and what is the same in all pieces.
#pragma once

#include <algorithm>
#include <cstddef>
#include <variant>
#include <vector>

#include <implicit_attention/core/stored_rows.hpp>
#include <implicit_attention/operator/unified_form.hpp>
#include <implicit_attention/streaming/growing_rows.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

template <Real Scalar>
[[nodiscard]] Array<Scalar> multiplied(const Array<Scalar>& a, const Array<Scalar>& b) {
  if (b.rows() == 1) return Matrix<Scalar>((a.matrix().array().rowwise() * b.matrix().row(0).array()).matrix());
  return Matrix<Scalar>(a.matrix().cwiseProduct(*b));
}

/// The next piece of a stream, which goes through all arrays twice: it is checked, and then taken.
struct NextPiece {
  Index tokens = 0;    ///< of the piece
  Index held = 0;      ///< tokens that are kept from before
  Index seen = 0;      ///< tokens before it in all
  Index window = 0;    ///< how many tokens are kept, 0 for all
  bool takes = false;  ///< false: it is checked

  [[nodiscard]] bool is_first() const { return seen == 0; }

  template <Real Scalar>
  void take(StreamedArray<Scalar>& to, const char* name, const Array<Scalar>& added, bool may_be_one_row = false) const {
    if (takes)
      to.append(added, tokens, held, window, may_be_one_row);
    else
      to.check(name, added, held);
  }
  /// Keeps the first tokens of documents, counted in the whole sequence.
  void take_starts(std::vector<Index>& to, const std::vector<Index>& starts) const {
    if (!takes) return;
    if (window > 0) to.erase(to.begin(), std::lower_bound(to.begin(), to.end(), seen - held));  // documents that the window has left
    for (const Index start : starts) to.push_back(seen + start);
  }
  /// Fails unless what does not vary by token is the same as in the earlier pieces; NaN equals NaN here.
  template <Real Scalar>
  void check_same(const char* name, const Array<Scalar>& now, const Array<Scalar>& before) const {
    if (takes || is_first()) return;
    if (now.rows() != before.rows() || now.cols() != before.cols())
      raise(ErrorKind::shape, "StreamingAttention: ", name, " is ", shape_text({now.rows(), now.cols()}), ", expected ",
            shape_text({before.rows(), before.cols()}), " as in the earlier pieces");
    if (now.data() != before.data() && !same_numbers(now, before))
      raise(ErrorKind::value, "StreamingAttention: ", name, " has different numbers than in the earlier pieces");
  }
};

/// Starts of documents that are kept, counted from token `first`.
template <class = void>
[[nodiscard]] std::vector<Index> starts_from(const std::vector<Index>& starts, Index first) {
  std::vector<Index> kept;
  for (auto start = std::lower_bound(starts.begin(), starts.end(), first); start != starts.end(); ++start) kept.push_back(*start - first);
  return kept;
}

/// One diagonal transition a channel.
template <Real Scalar>
class DiagonalHistory {
 public:
  [[nodiscard]] bool fits(const DiagonalRecurrence<Scalar>& given) const {
    return given.channels == fixed_.channels && given.state == fixed_.state && given.read_before_update == fixed_.read_before_update;
  }
  void walk(const DiagonalRecurrence<Scalar>& given, const UnifiedForm<Scalar>& form, const NextPiece& piece) {
    piece.check_same("rate", given.rate, fixed_.rate);
    Array<Scalar> query_scale = given.query_scale, diagonal = given.diagonal;
    join_scales(form.continuation.log_scale, piece, query_scale, diagonal);
    // Mamba's steps scale its keys, too: kept once.
    const bool shared =
        !given.key_scale.empty() && given.key_scale.data() == given.step.data() && given.key_scale.row_stride() == given.step.row_stride();
    if (piece.is_first() && piece.takes) shares_step_ = shared;
    if (shares_step_ && !shared) {
      step_.check("key_scale", given.key_scale, piece.held);
      if (piece.takes) key_scale_.append(step_.view(), piece.held, 0, piece.window);
      if (piece.takes) shares_step_ = false;
    }
    piece.take(step_, "step", given.step);
    piece.take(query_, "query", given.query);
    piece.take(key_, "key", given.key);
    piece.take(query_scale_, "query_scale", query_scale);
    if (!shares_step_) piece.take(key_scale_, "key_scale", given.key_scale);
    piece.take(diagonal_, "diagonal", diagonal);
    piece.take_starts(starts_, given.starts);
    if (!piece.is_first() || !piece.takes) return;
    fixed_ = given;
    fixed_.step = fixed_.query = fixed_.key = fixed_.query_scale = fixed_.key_scale = fixed_.diagonal = {};
  }
  [[nodiscard]] DiagonalRecurrence<Scalar> recurrence(Index tokens, Index first) const {
    DiagonalRecurrence<Scalar> made = fixed_;
    made.tokens = tokens;
    made.step = step_.view();
    made.query = query_.view();
    made.key = key_.view();
    made.query_scale = query_scale_.view();
    made.key_scale = shares_step_ ? made.step : key_scale_.view();
    made.diagonal = diagonal_.view();
    made.starts = starts_from(starts_, first);
    return made;
  }
  /// Whether what a walk reads of each token, and would hide where it ends early, is finite.
  [[nodiscard]] bool finite() const { return step_.finite() && key_.finite() && key_scale_.finite(); }
  /// (1, channels): the scale of the rows that are kept, see Continuation.
  [[nodiscard]] const Array<Scalar>& log_scale() const { return log_scale_; }
  [[nodiscard]] std::size_t bytes() const {
    return step_.bytes() + query_.bytes() + key_.bytes() + query_scale_.bytes() + key_scale_.bytes() + diagonal_.bytes();
  }

 private:
  /// Rows of a piece and those kept come to one scale a channel, that of the largest exponential so far: all factors are at most 1.
  void join_scales(const Array<Scalar>& log_scale, const NextPiece& piece, Array<Scalar>& query_scale, Array<Scalar>& diagonal) {
    if (!piece.is_first()) check_term("continuation.log_scale", !log_scale.empty(), !log_scale_.empty());
    if (!piece.takes || log_scale.empty()) return;
    if (piece.is_first()) {
      log_scale_ = Matrix<Scalar>(*log_scale);
      return;
    }
    const Matrix<Scalar> largest = log_scale_.matrix().cwiseMax(log_scale.matrix());
    const auto factors = [&](const Array<Scalar>& of) { return RowVector<Scalar>((of.matrix() - largest).array().exp().matrix()); };
    const RowVector<Scalar> kept = factors(log_scale_);
    const Array<Scalar> added = factors(log_scale);
    query_scale_.multiply_columns(kept);
    diagonal_.multiply_columns(kept);
    query_scale = multiplied(query_scale, added);
    diagonal = multiplied(diagonal, added);
    log_scale_ = largest;
  }

  DiagonalRecurrence<Scalar> fixed_;  // without arrays of tokens
  bool shares_step_ = false;
  Array<Scalar> log_scale_;
  StreamedArray<Scalar> step_, query_, key_, query_scale_, key_scale_, diagonal_;
  std::vector<Index> starts_;
};

/// One matrix a head.
template <Real Scalar>
class HeadHistory {
 public:
  [[nodiscard]] bool fits(const HeadRecurrence<Scalar>& given) const {
    return given.channels == fixed_.channels && given.heads == fixed_.heads && given.groups == fixed_.groups &&
           given.state == fixed_.state && given.transition == fixed_.transition && given.read_before_update == fixed_.read_before_update;
  }
  void walk(const HeadRecurrence<Scalar>& given, const UnifiedForm<Scalar>& form, const NextPiece& piece) {
    const bool open = form.continuation.ends_open;
    if (!piece.is_first() && open != ends_open_)
      raise(ErrorKind::value, "StreamingAttention: continuation.ends_open is ", open ? "true" : "false", ", expected ",
            open ? "false" : "true",
            " as in the earlier pieces: either every token writes half of itself with the next one (Mamba-3), or none does; "
            "append forms of one layer only, as its lower() gives them");
    if (!piece.is_first() && open) {
      if (form.continuation.second_half.empty())
        raise(ErrorKind::shape, "StreamingAttention: continuation.second_half is empty, expected (1, ", given.heads,
              "): the first token of a piece writes half of the token before it; fill activations.dt and activations.own_scale");
      if (piece.takes) key_scale_.add_to_newest(form.continuation.second_half);
    }
    piece.take(query_, "query", given.query);
    piece.take(key_, "key", given.key);
    piece.take(key_scale_, "key_scale", given.key_scale);
    piece.take(log_decay_, "log_decay", given.log_decay, true);
    piece.take(removal_, "removal", given.removal);
    piece.take(probe_, "probe", given.probe);
    piece.take(diagonal_, "diagonal", given.diagonal);
    piece.take_starts(starts_, given.starts);
    if (!piece.is_first() || !piece.takes) return;
    ends_open_ = open;
    fixed_ = given;
    fixed_.query = fixed_.key = fixed_.key_scale = fixed_.log_decay = fixed_.removal = fixed_.probe = fixed_.diagonal = {};
  }
  [[nodiscard]] HeadRecurrence<Scalar> recurrence(Index tokens, Index first) const {
    HeadRecurrence<Scalar> made = fixed_;
    made.tokens = tokens;
    made.query = query_.view();
    made.key = key_.view();
    made.key_scale = key_scale_.view();
    made.log_decay = log_decay_.view();
    made.removal = removal_.view();
    made.probe = probe_.view();
    made.diagonal = diagonal_.view();
    made.starts = starts_from(starts_, first);
    return made;
  }
  [[nodiscard]] std::size_t bytes() const {
    return query_.bytes() + key_.bytes() + key_scale_.bytes() + log_decay_.bytes() + removal_.bytes() + probe_.bytes() + diagonal_.bytes();
  }

 private:
  HeadRecurrence<Scalar> fixed_;
  bool ends_open_ = false;
  StreamedArray<Scalar> query_, key_, key_scale_, log_decay_, removal_, probe_, diagonal_;
  std::vector<Index> starts_;
};

/// Softmax attention.
template <Real Scalar>
class SoftmaxHistory {
 public:
  [[nodiscard]] bool fits(const SoftmaxRecurrence<Scalar>& given) const {
    return given.channels == fixed_.channels && given.heads == fixed_.heads && given.key_heads == fixed_.key_heads &&
           given.window == fixed_.window && given.scale == fixed_.scale && given.soft_cap == fixed_.soft_cap;
  }
  void walk(const SoftmaxRecurrence<Scalar>& given, const UnifiedForm<Scalar>&, const NextPiece& piece) {
    if (!given.causal || given.past_key.rows() > 0)
      raise(ErrorKind::value,
            "StreamingAttention: softmax attention that sees later tokens, or past ones that are not in the stream, "
            "cannot be taken; append the past tokens first");
    if (piece.window > 0)
      raise(ErrorKind::value,
            "StreamingAttention: softmax attention divides by a sum over all tokens that it sees, so it cannot be kept behind a window; "
            "expected a window of 0");
    piece.take(query_, "query", given.query);
    piece.take(key_, "key", given.key);
    if (!piece.is_first() || !piece.takes) return;
    fixed_ = given;
    fixed_.query = fixed_.key = {};
  }
  [[nodiscard]] SoftmaxRecurrence<Scalar> recurrence(Index tokens, Index) const {
    SoftmaxRecurrence<Scalar> made = fixed_;
    made.tokens = tokens;
    made.query = query_.view();
    made.key = key_.view();
    return made;
  }
  [[nodiscard]] std::size_t bytes() const { return query_.bytes() + key_.bytes(); }

 private:
  SoftmaxRecurrence<Scalar> fixed_;
  StreamedArray<Scalar> query_, key_;
};

/// A convolution that is the same at every token.
template <Real Scalar>
class BandHistory {
 public:
  [[nodiscard]] bool fits(const ToeplitzRecurrence<Scalar>& given) const { return given.channels == fixed_.channels; }
  void walk(const ToeplitzRecurrence<Scalar>& given, const UnifiedForm<Scalar>& form, const NextPiece& piece) {
    if (piece.is_first() && !form.initial_state.empty())
      raise(ErrorKind::value,
            "StreamingAttention: a convolution that looks at tokens that are not in the stream cannot be taken; append the past tokens "
            "first");
    piece.check_same("kernel", given.kernel, fixed_.kernel);
    if (piece.is_first() && piece.takes) fixed_ = given;
  }
  [[nodiscard]] ToeplitzRecurrence<Scalar> recurrence(Index tokens, Index) const {
    ToeplitzRecurrence<Scalar> made = fixed_;
    made.tokens = tokens;
    return made;
  }
  [[nodiscard]] std::size_t bytes() const { return 0; }

 private:
  ToeplitzRecurrence<Scalar> fixed_;
};

/// The recurrence of a form, of the kind of the first piece's.
template <Real Scalar>
class RecurrenceHistory {
 public:
  void walk(const UnifiedForm<Scalar>& form, const NextPiece& piece) {
    if (const auto* diagonal = form.recurrence.diagonal())
      walk_as<DiagonalHistory<Scalar>>(*diagonal, form, piece);
    else if (const auto* heads = form.recurrence.heads())
      walk_as<HeadHistory<Scalar>>(*heads, form, piece);
    else if (const auto* softmax = form.recurrence.softmax())
      walk_as<SoftmaxHistory<Scalar>>(*softmax, form, piece);
    else if (const auto* band = form.recurrence.toeplitz(); band != nullptr && form.continuation.has_all_taps)
      walk_as<BandHistory<Scalar>>(*band, form, piece);
    else
      raise(ErrorKind::value,
            "StreamingAttention: the layer's matrix does not grow by rows of its tokens (a long filter, or one that is "
            "given), and cannot be taken");
  }

  /// Puts the recurrence over the `tokens` tokens that are kept into a form, the first of them being number `first` of the sequence.
  void put_into(UnifiedForm<Scalar>& form, Index tokens, Index first) const {
    each([&](const auto& history) { form.recurrence = history.recurrence(tokens, first); });
    if (const auto* history = std::get_if<DiagonalHistory<Scalar>>(&history_)) form.continuation.log_scale = history->log_scale();
  }
  /// A diagonal one, all of whose tokens are of finite numbers.
  [[nodiscard]] bool is_finite_diagonal() const {
    const auto* const history = std::get_if<DiagonalHistory<Scalar>>(&history_);
    return history != nullptr && history->finite();
  }
  [[nodiscard]] std::size_t bytes() const {
    std::size_t sum = 0;
    each([&](const auto& history) { sum = history.bytes(); });
    return sum;
  }

 private:
  template <class History, class Given>
  void walk_as(const Given& given, const UnifiedForm<Scalar>& form, const NextPiece& piece) {
    if (piece.is_first() && !std::holds_alternative<History>(history_)) history_.template emplace<History>();
    History* const history = std::get_if<History>(&history_);
    if (history == nullptr || (!piece.is_first() && !history->fits(given)))
      raise(ErrorKind::shape,
            "StreamingAttention: the recurrence is of another kind, or of other sizes or scales, than in the earlier pieces");
    history->walk(given, form, piece);
  }
  template <class Body>
  void each(const Body& body) const {
    const auto if_held = [&](const auto* history) {
      if (history != nullptr) body(*history);
    };
    if_held(std::get_if<DiagonalHistory<Scalar>>(&history_));
    if_held(std::get_if<HeadHistory<Scalar>>(&history_));
    if_held(std::get_if<SoftmaxHistory<Scalar>>(&history_));
    if_held(std::get_if<BandHistory<Scalar>>(&history_));
  }

  std::variant<std::monostate, DiagonalHistory<Scalar>, HeadHistory<Scalar>, SoftmaxHistory<Scalar>, BandHistory<Scalar>> history_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
