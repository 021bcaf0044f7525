// The unified form of a sequence that comes in pieces.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <implicit_attention/operator/unified_form.hpp>
#include <implicit_attention/streaming/growing_rows.hpp>
#include <implicit_attention/streaming/recurrence_history.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Appends pieces, and gives a form over the tokens it keeps, made of views of its memory. Gates and norms are stored as their product.
template <Real Scalar>
class FormHistory {
 public:
  /// Fails (ErrorKind::shape or ErrorKind::value) where the form of the next piece does not fit those before, `held` tokens being kept from
  /// before and `seen` having been there in all.
  void check(const UnifiedForm<Scalar>& form, Index held, Index seen, Index window) {
    walk(form, {.held = held, .seen = seen, .window = window});
  }
  /// Takes it, checked already.
  void append(const UnifiedForm<Scalar>& form, Index held, Index seen, Index window) {
    walk(form, {.held = held, .seen = seen, .window = window, .takes = true});
  }

  /// Over the `tokens` tokens that are kept, the first of which is number `first` of the sequence.
  [[nodiscard]] UnifiedForm<Scalar> form(Index tokens, Index first) const {
    UnifiedForm<Scalar> form = constants_;
    form.gate = gate_.view();
    form.normalization = normalization_.view();
    form.norm_bias = norm_bias_.view();
    form.activation = activation_.view();
    form.input_scale = input_scale_.view();
    form.convolution_starts = starts_from(convolution_starts_, first);
    recurrence_.put_into(form, tokens, first);
    for (const FormHistory& added : more_) form.more.push_back(added.form(tokens, first));
    if (second_)
      form.second = std::make_shared<const SecondPath<Scalar>>(SecondPath<Scalar>{second_->form(tokens, first), second_input_.view()});
    return form;
  }
  [[nodiscard]] bool has_second() const { return second_ != nullptr; }
  /// The recurrence alone, where it is a diagonal one, and no token has a number that is not finite behind decays.
  [[nodiscard]] bool is_finite_diagonal() const { return recurrence_.is_finite_diagonal() && activation_.finite() && more_.empty(); }

  [[nodiscard]] std::size_t bytes() const {
    std::size_t sum = second_input_.bytes() + (second_ ? second_->bytes() : 0) + recurrence_.bytes();
    for (const StreamedArray<Scalar>* array : {&gate_, &normalization_, &norm_bias_, &activation_, &input_scale_}) sum += array->bytes();
    for (const FormHistory& added : more_) sum += added.bytes();
    return sum;
  }

 private:
  /// Checks a piece, or takes it.
  void walk(const UnifiedForm<Scalar>& form, NextPiece piece) {
    piece.tokens = form.tokens();
    if (form.reversed)
      raise(ErrorKind::value, "StreamingAttention: a form that runs from the last token to the first cannot grow at its end");
    walk_rows(form, piece);
    recurrence_.walk(form, piece);
    piece.take_starts(convolution_starts_, form.convolution_starts);
    if (piece.is_first() && !piece.takes) {
      for (const UnifiedForm<Scalar>& added : form.more) FormHistory().walk(added, piece);
      if (form.second) FormHistory().walk(form.second->form, piece);
      return;
    }
    walk_constants(form, piece);
    for (std::size_t i = 0; i < more_.size(); ++i) more_[i].walk(form.more[i], piece);
    if (second_) {
      second_->walk(form.second->form, piece);
      piece.take(second_input_, "the second path's input", form.second->input);
    }
    if (piece.takes && piece.window > 0 && piece.seen + piece.tokens > piece.window)
      constants_.convolution_tail = constants_.initial_state = {};  // of tokens that have left
  }

  /// What surrounds the recurrence, a row a token.
  void walk_rows(const UnifiedForm<Scalar>& form, const NextPiece& piece) {
    const bool gated = !form.gate.empty(), normalized = !form.normalization.empty(), both = gated && normalized;
    if (piece.is_first()) {
      gated_ = gated;
      normalized_ = normalized;
    }
    check_term("gate", gated, gated_);
    check_term("normalization", normalized, normalized_);
    piece.take(gate_, "gate", both ? Array<Scalar>() : form.gate);
    const bool multiplies = both && piece.takes;  // of the same shape otherwise
    piece.take(normalization_, "normalization", multiplies ? multiplied(form.gate, form.normalization) : form.normalization);
    piece.take(norm_bias_, "norm_bias", multiplies && !form.norm_bias.empty() ? multiplied(form.gate, form.norm_bias) : form.norm_bias,
               true);
    piece.take(activation_, "activation", form.activation);
    piece.take(input_scale_, "input_scale", form.input_scale);
  }

  /// What is no array a token: the first piece's, and the same in all others.
  void walk_constants(const UnifiedForm<Scalar>& form, const NextPiece& piece) {
    if (piece.is_first()) {
      constants_.skip = form.skip;
      constants_.convolution = form.convolution;
      constants_.convolution_bias = form.convolution_bias;
      constants_.continuation.ends_open = form.continuation.ends_open;
      constants_.continuation.has_all_taps = form.continuation.has_all_taps;
      // Buffers of an engine, which will overwrite them.
      if (!form.convolution_tail.empty()) constants_.convolution_tail = Matrix<Scalar>(*form.convolution_tail);
      if (!form.initial_state.empty()) constants_.initial_state = Matrix<Scalar>(*form.initial_state);
      more_.resize(form.more.size());
      if (form.second) second_ = std::make_unique<FormHistory>();
      return;
    }
    piece.check_same("skip", form.skip, constants_.skip);
    piece.check_same("convolution", form.convolution, constants_.convolution);
    piece.check_same("convolution_bias", form.convolution_bias, constants_.convolution_bias);
    if (!piece.takes && (form.more.size() != more_.size() || (form.second != nullptr) != (second_ != nullptr)))
      raise(ErrorKind::shape, "StreamingAttention: a piece has other added forms or another second path than the pieces before");
  }

  UnifiedForm<Scalar> constants_;
  bool gated_ = false, normalized_ = false;  // of the pieces: their product is kept as one array
  StreamedArray<Scalar> gate_, normalization_, norm_bias_, activation_, input_scale_;
  std::vector<Index> convolution_starts_;  // numbers in the sequence
  RecurrenceHistory<Scalar> recurrence_;
  std::vector<FormHistory> more_;
  std::unique_ptr<FormHistory> second_;
  StreamedArray<Scalar> second_input_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
