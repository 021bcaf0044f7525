// The unified form of a sequence that comes in pieces.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <implicit_attention/core/stored_rows.hpp>
#include <implicit_attention/operator/unified_form.hpp>
#include <implicit_attention/streaming/growing_rows.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Appends pieces, and gives a form over the tokens it keeps, made of views of its memory. Gates and norms are stored as their product.
template <Real Scalar>
class FormHistory {
 public:
  /// Fails (ErrorKind::shape or ErrorKind::value) where the form of the next piece does not fit those before, `held` tokens being kept from
  /// before and `seen` having been there in all.
  void check(const UnifiedForm<Scalar>& piece, Index held, Index seen, Index window) { walk(piece, held, seen, window, false); }
  /// Takes it, checked already.
  void append(const UnifiedForm<Scalar>& piece, Index held, Index seen, Index window) { walk(piece, held, seen, window, true); }

  /// Over the `tokens` tokens that are kept, the first of which is number `first` of the sequence.
  [[nodiscard]] UnifiedForm<Scalar> form(Index tokens, Index first) const {
    UnifiedForm<Scalar> form = constants_;
    form.gate = gate_.view();
    form.normalization = normalization_.view();
    form.norm_bias = norm_bias_.view();
    form.activation = activation_.view();
    form.input_scale = input_scale_.view();
    form.convolution_starts = starts_from(convolution_starts_, first);
    form.continuation.log_scale = log_scale_;
    if (kind_ == Kind::diagonal)
      form.recurrence = diagonal(tokens, first);
    else if (kind_ == Kind::heads)
      form.recurrence = heads(tokens, first);
    else if (kind_ == Kind::softmax)
      form.recurrence = softmax(tokens);
    else
      form.recurrence = band(tokens);
    for (const FormHistory& added : more_) form.more.push_back(added.form(tokens, first));
    if (second_)
      form.second = std::make_shared<const SecondPath<Scalar>>(SecondPath<Scalar>{second_->form(tokens, first), second_input_.view()});
    return form;
  }
  [[nodiscard]] bool has_second() const { return second_ != nullptr; }
  /// The recurrence alone, where it is a diagonal one.
  [[nodiscard]] bool is_diagonal() const { return kind_ == Kind::diagonal && more_.empty(); }

  [[nodiscard]] std::size_t bytes() const {
    std::size_t sum = second_input_.bytes() + (second_ ? second_->bytes() : 0);
    for (const StreamedArray<Scalar>* array : {&gate_, &normalization_, &norm_bias_, &activation_, &input_scale_, &step_, &query_, &key_,
                                               &query_scale_, &key_scale_, &diagonal_, &log_decay_, &removal_, &probe_})
      sum += array->bytes();
    for (const FormHistory& added : more_) sum += added.bytes();
    return sum;
  }

 private:
  enum class Kind { none, diagonal, heads, softmax, band };

  [[nodiscard]] static Array<Scalar> times(const Array<Scalar>& a, const Array<Scalar>& b) {
    if (b.rows() == 1) return Matrix<Scalar>((a.matrix().array().rowwise() * b.matrix().row(0).array()).matrix());
    return Matrix<Scalar>(a.matrix().cwiseProduct(*b));
  }
  /// Fails unless what does not vary by token is the same in all pieces; NaN equals NaN here.
  static void check_same(const char* name, const Array<Scalar>& now, const Array<Scalar>& before) {
    if (now.rows() != before.rows() || now.cols() != before.cols())
      raise(ErrorKind::shape, "StreamingAttention: ", name, " is ", shape_text({now.rows(), now.cols()}), ", expected ",
            shape_text({before.rows(), before.cols()}), " as in the pieces before");
    if (now.data() != before.data() && !same_numbers(now, before))
      raise(ErrorKind::value, "StreamingAttention: ", name, " has other numbers than in the pieces before");
  }
  static void append_starts(std::vector<Index>& to, const std::vector<Index>& starts, Index seen, Index held, Index window) {
    if (window > 0) to.erase(to.begin(), std::lower_bound(to.begin(), to.end(), seen - held));  // documents that have left
    for (const Index start : starts) to.push_back(seen + start);
  }
  [[nodiscard]] static std::vector<Index> starts_from(const std::vector<Index>& starts, Index first) {
    std::vector<Index> kept;
    for (auto start = std::lower_bound(starts.begin(), starts.end(), first); start != starts.end(); ++start) kept.push_back(*start - first);
    return kept;
  }

  /// Checks a piece, or takes it.
  void walk(const UnifiedForm<Scalar>& piece, Index held, Index seen, Index window, bool takes) {
    const Index tokens = piece.tokens();
    if (piece.reversed)
      raise(ErrorKind::value, "StreamingAttention: a form that runs from the last token to the first cannot grow at its end");
    const auto take = [&](StreamedArray<Scalar>& to, const char* name, const Array<Scalar>& added, bool may_be_one_row = false) {
      if (takes)
        to.append(added, tokens, held, window, may_be_one_row);
      else
        to.check(name, added, held);
    };
    const bool both = !piece.gate.empty() && !piece.normalization.empty();
    take(gate_, "gate", both ? Array<Scalar>() : piece.gate);
    const bool multiplies = both && takes;  // of the same shape otherwise
    take(normalization_, "normalization", multiplies ? times(piece.gate, piece.normalization) : piece.normalization);
    take(norm_bias_, "norm_bias", multiplies && !piece.norm_bias.empty() ? times(piece.gate, piece.norm_bias) : piece.norm_bias, true);
    take(activation_, "activation", piece.activation);
    take(input_scale_, "input_scale", piece.input_scale);
    walk_recurrence(piece, held, seen, window, takes, take);
    if (takes) append_starts(convolution_starts_, piece.convolution_starts, seen, held, window);
    if (seen == 0 && !takes) {
      for (const UnifiedForm<Scalar>& added : piece.more) FormHistory().walk(added, held, seen, window, false);
      if (piece.second) FormHistory().walk(piece.second->form, held, seen, window, false);
      return;
    }
    if (seen == 0) {
      constants_.skip = piece.skip;
      constants_.convolution = piece.convolution;
      constants_.convolution_bias = piece.convolution_bias;
      constants_.continuation.ends_open = piece.continuation.ends_open;
      constants_.continuation.has_all_taps = piece.continuation.has_all_taps;
      // Buffers of an engine, which will overwrite them.
      if (!piece.convolution_tail.empty()) constants_.convolution_tail = Matrix<Scalar>(*piece.convolution_tail);
      if (!piece.initial_state.empty()) constants_.initial_state = Matrix<Scalar>(*piece.initial_state);
      more_.resize(piece.more.size());
      if (piece.second) second_ = std::make_unique<FormHistory>();
    } else if (!takes) {
      check_same("skip", piece.skip, constants_.skip);
      check_same("convolution", piece.convolution, constants_.convolution);
      check_same("convolution_bias", piece.convolution_bias, constants_.convolution_bias);
      if (piece.more.size() != more_.size() || (piece.second != nullptr) != (second_ != nullptr))
        raise(ErrorKind::shape, "StreamingAttention: a piece has other added forms or another second path than the pieces before");
    }
    for (std::size_t i = 0; i < more_.size(); ++i) more_[i].walk(piece.more[i], held, seen, window, takes);
    if (second_) {
      second_->walk(piece.second->form, held, seen, window, takes);
      take(second_input_, "the second path's input", piece.second->input);
    }
    if (takes && window > 0 && seen + tokens > window)
      constants_.convolution_tail = constants_.initial_state = {};  // of tokens that have left
  }

  template <class Take>
  void walk_recurrence(const UnifiedForm<Scalar>& piece, Index held, Index seen, Index window, bool takes, const Take& take) {
    const auto is = [&](Kind kind, bool same_sizes) {
      if (seen > 0 && (kind_ != kind || !same_sizes))
        raise(ErrorKind::shape,
              "StreamingAttention: the recurrence is of another kind, or of other sizes or scales, than in the pieces before");
      if (takes) kind_ = kind;
    };
    if (const auto* given = piece.recurrence.diagonal()) {
      is(Kind::diagonal, given->channels == fixed_diagonal_.channels && given->state == fixed_diagonal_.state &&
                             given->read_before_update == fixed_diagonal_.read_before_update);
      if (seen > 0 && !takes) check_same("rate", given->rate, fixed_diagonal_.rate);
      Array<Scalar> query_scale = given->query_scale, diagonal = given->diagonal;
      join_scales(piece.continuation.log_scale, seen, takes, query_scale, diagonal);
      // Mamba's steps scale its keys, too: kept once.
      const bool shared = !given->key_scale.empty() && given->key_scale.data() == given->step.data() &&
                          given->key_scale.row_stride() == given->step.row_stride();
      if (seen == 0 && takes) shares_step_ = shared;
      if (shares_step_ && !shared) {
        step_.check("key_scale", given->key_scale, held);
        if (takes) key_scale_.append(step_.view(), held, 0, window);
        if (takes) shares_step_ = false;
      }
      take(step_, "step", given->step);
      take(query_, "query", given->query);
      take(key_, "key", given->key);
      take(query_scale_, "query_scale", query_scale);
      if (!shares_step_) take(key_scale_, "key_scale", given->key_scale);
      take(diagonal_, "diagonal", diagonal);
      if (takes) append_starts(starts_, given->starts, seen, held, window);
      if (seen == 0 && takes) {
        fixed_diagonal_ = *given;
        for (Array<Scalar>* array : {&fixed_diagonal_.step, &fixed_diagonal_.query, &fixed_diagonal_.key, &fixed_diagonal_.query_scale,
                                     &fixed_diagonal_.key_scale, &fixed_diagonal_.diagonal})
          *array = {};
      }
    } else if (const auto* head = piece.recurrence.heads()) {
      is(Kind::heads, head->channels == fixed_heads_.channels && head->heads == fixed_heads_.heads && head->groups == fixed_heads_.groups &&
                          head->state == fixed_heads_.state && head->transition == fixed_heads_.transition &&
                          head->read_before_update == fixed_heads_.read_before_update);
      if (const bool open = piece.continuation.ends_open; seen > 0 && open != constants_.continuation.ends_open)
        raise(ErrorKind::value, "StreamingAttention: continuation.ends_open is ", open ? "true" : "false", ", expected ",
              open ? "false" : "true",
              " as in the pieces before: either every token writes half of itself with the next one (Mamba-3), or none does; "
              "append forms of one layer only, as its lower() gives them");
      if (seen > 0 && piece.continuation.ends_open) {
        if (piece.continuation.second_half.empty())
          raise(ErrorKind::shape, "StreamingAttention: continuation.second_half is empty, expected (1, ", head->heads,
                "): the first token of a piece writes half of the token before it; fill activations.dt and activations.own_scale");
        if (takes) key_scale_.add_to_newest(piece.continuation.second_half);
      }
      take(query_, "query", head->query);
      take(key_, "key", head->key);
      take(key_scale_, "key_scale", head->key_scale);
      take(log_decay_, "log_decay", head->log_decay, true);
      take(removal_, "removal", head->removal);
      take(probe_, "probe", head->probe);
      take(diagonal_, "diagonal", head->diagonal);
      if (takes) append_starts(starts_, head->starts, seen, held, window);
      if (seen == 0 && takes) {
        fixed_heads_ = *head;
        for (Array<Scalar>* array : {&fixed_heads_.query, &fixed_heads_.key, &fixed_heads_.key_scale, &fixed_heads_.log_decay,
                                     &fixed_heads_.removal, &fixed_heads_.probe, &fixed_heads_.diagonal})
          *array = {};
      }
    } else if (const auto* attention = piece.recurrence.softmax()) {
      is(Kind::softmax, attention->channels == fixed_softmax_.channels && attention->heads == fixed_softmax_.heads &&
                            attention->key_heads == fixed_softmax_.key_heads && attention->window == fixed_softmax_.window &&
                            attention->scale == fixed_softmax_.scale && attention->soft_cap == fixed_softmax_.soft_cap);
      if (!attention->causal || attention->past_key.rows() > 0)
        raise(ErrorKind::value,
              "StreamingAttention: softmax attention that sees later tokens, or past ones that are not in the stream, "
              "cannot be taken; append the past tokens first");
      if (window > 0)
        raise(ErrorKind::value,
              "StreamingAttention: softmax attention divides by a sum over all tokens that it sees, so it cannot be kept behind a window; "
              "expected a window of 0");
      take(query_, "query", attention->query);
      take(key_, "key", attention->key);
      if (seen == 0 && takes) {
        fixed_softmax_ = *attention;
        fixed_softmax_.query = fixed_softmax_.key = {};
      }
    } else if (const auto* toeplitz = piece.recurrence.toeplitz(); toeplitz != nullptr && piece.continuation.has_all_taps) {
      is(Kind::band, toeplitz->channels == fixed_band_.channels);
      if (seen == 0 && !piece.initial_state.empty())
        raise(ErrorKind::value,
              "StreamingAttention: a convolution that looks at tokens that are not in the stream cannot be taken; append the past tokens "
              "first");
      if (seen > 0 && !takes) check_same("kernel", toeplitz->kernel, fixed_band_.kernel);
      if (seen == 0 && takes) fixed_band_ = *toeplitz;
    } else {
      raise(ErrorKind::value,
            "StreamingAttention: the layer's matrix does not grow by rows of its tokens (a long filter, or one that is "
            "given), and cannot be taken");
    }
  }

  /// Rows of a piece and those kept come to one scale a channel, that of the largest exponential so far: all factors are at most 1.
  void join_scales(const Array<Scalar>& log_scale, Index seen, bool takes, Array<Scalar>& query_scale, Array<Scalar>& diagonal) {
    if (seen > 0 && log_scale.empty() != log_scale_.empty())
      raise(ErrorKind::shape, "StreamingAttention: continuation.log_scale is ", log_scale.empty() ? "empty" : "there",
            ", expected it as in the pieces before: the terms of a stream do not change");
    if (!takes || log_scale.empty()) return;
    if (seen == 0) {
      log_scale_ = Matrix<Scalar>(*log_scale);
      return;
    }
    const Matrix<Scalar> largest = log_scale_.matrix().cwiseMax(log_scale.matrix());
    const auto factors = [&](const Array<Scalar>& of) { return RowVector<Scalar>((of.matrix() - largest).array().exp().matrix()); };
    const RowVector<Scalar> kept = factors(log_scale_);
    const Array<Scalar> added = factors(log_scale);
    query_scale_.multiply_columns(kept);
    diagonal_.multiply_columns(kept);
    query_scale = times(query_scale, added);
    diagonal = times(diagonal, added);
    log_scale_ = largest;
  }

  [[nodiscard]] DiagonalRecurrence<Scalar> diagonal(Index tokens, Index first) const {
    DiagonalRecurrence<Scalar> made = fixed_diagonal_;
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
  [[nodiscard]] HeadRecurrence<Scalar> heads(Index tokens, Index first) const {
    HeadRecurrence<Scalar> made = fixed_heads_;
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
  [[nodiscard]] SoftmaxRecurrence<Scalar> softmax(Index tokens) const {
    SoftmaxRecurrence<Scalar> made = fixed_softmax_;
    made.tokens = tokens;
    made.query = query_.view();
    made.key = key_.view();
    return made;
  }
  [[nodiscard]] ToeplitzRecurrence<Scalar> band(Index tokens) const {
    ToeplitzRecurrence<Scalar> made = fixed_band_;
    made.tokens = tokens;
    return made;
  }

  Kind kind_ = Kind::none;
  bool shares_step_ = false;
  UnifiedForm<Scalar> constants_;  // what is no array a token
  DiagonalRecurrence<Scalar> fixed_diagonal_;
  HeadRecurrence<Scalar> fixed_heads_;
  SoftmaxRecurrence<Scalar> fixed_softmax_;
  ToeplitzRecurrence<Scalar> fixed_band_;
  Array<Scalar> log_scale_;  // (1, channels): of the rows kept, see Continuation
  StreamedArray<Scalar> gate_, normalization_, norm_bias_, activation_, input_scale_;
  StreamedArray<Scalar> step_, query_, key_, query_scale_, key_scale_, diagonal_, log_decay_, removal_, probe_;
  std::vector<Index> starts_, convolution_starts_;  // numbers in the sequence
  std::vector<FormHistory> more_;
  std::unique_ptr<FormHistory> second_;
  StreamedArray<Scalar> second_input_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
