// What a stream keeps: the form and the linear inputs of its last tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include <implicit_attention/streaming/form_history.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// All tokens, or the last `window` of them. A piece is taken whole or not at all; one that ends half-way, for want of memory, leaves a
/// history that refuses everything but its counts (ErrorKind::value). It is moved, not copied, and is empty again where it was moved from.
template <Real Scalar>
class StreamHistory {
 public:
  explicit StreamHistory(Index window) : window_(window) {
    if (window_ < 0) raise(ErrorKind::value, "StreamingAttention: window is ", window_, ", expected at least 1, or 0 for none");
  }
  StreamHistory(StreamHistory&& other) noexcept : window_(other.window_) { swap(other); }
  StreamHistory& operator=(StreamHistory&& other) noexcept {
    StreamHistory taken(std::move(other));
    swap(taken);
    return *this;
  }
  StreamHistory(const StreamHistory&) = delete;
  StreamHistory& operator=(const StreamHistory&) = delete;
  ~StreamHistory() = default;

  /// The next tokens, and their linear input x (tokens, channels) where it is given. Fails (ErrorKind::shape or ErrorKind::value) where
  /// they do not fit those before, and has then taken nothing.
  void append(const UnifiedForm<Scalar>& piece, const Array<Scalar>& x) {
    check_whole();
    piece.check();
    const Index added = piece.tokens(), held = tokens();
    if (added == 0) return;
    if (seen_ > 0 && piece.channels() != channels_)
      raise(ErrorKind::shape, "StreamingAttention: a piece has ", piece.channels(), " channels, expected ", channels_);
    if (!x.empty()) check_shape("StreamingAttention", "x", x, added, piece.channels(), "(tokens, channels)");
    input_.check("x", x, held);
    form_.check(piece, held, seen_, window_);
    half_taken_ = true;
    form_.append(piece, held, seen_, window_);
    input_.append(x, added, held, window_);
    channels_ = piece.channels();
    seen_ += added;
    half_taken_ = false;
  }

  /// Tokens that are kept, and in all.
  [[nodiscard]] Index tokens() const { return window_ > 0 ? std::min(seen_, window_) : seen_; }
  [[nodiscard]] Index tokens_seen() const { return seen_; }
  [[nodiscard]] Index first_token() const { return seen_ - tokens(); }
  [[nodiscard]] Index channels() const { return channels_; }
  [[nodiscard]] std::size_t bytes() const { return form_.bytes() + input_.bytes(); }
  [[nodiscard]] bool has_second() const { return form_.has_second(); }
  [[nodiscard]] bool is_finite_diagonal() const { return form_.is_finite_diagonal(); }

  /// (tokens, channels); empty where none were given.
  [[nodiscard]] Array<Scalar> input() const {
    check_whole();
    return input_.view();
  }
  /// Over the tokens that are kept; it views this memory.
  [[nodiscard]] UnifiedForm<Scalar> form() const {
    check_there();
    return form_.form(tokens(), first_token());
  }
  /// Where a token, by its number in the sequence, stands among those kept. Fails (ErrorKind::value) where it is not.
  [[nodiscard]] Index place_of(Index token) const {
    check_there();
    if (token < first_token() || token >= seen_)
      raise(ErrorKind::value, "StreamingAttention: token ", token, " is not kept, expected ", first_token(), " to ", seen_ - 1);
    return token - first_token();
  }

 private:
  void check_whole() const {
    if (half_taken_)
      raise(ErrorKind::value,
            "StreamingAttention: an append ended half-way, so that some arrays have its tokens and others do not; begin a new stream");
  }
  void check_there() const {
    check_whole();
    if (seen_ == 0) raise(ErrorKind::value, "StreamingAttention: no token was taken yet");
  }
  void swap(StreamHistory& other) noexcept {
    std::swap(window_, other.window_);
    std::swap(seen_, other.seen_);
    std::swap(channels_, other.channels_);
    std::swap(half_taken_, other.half_taken_);
    std::swap(form_, other.form_);
    std::swap(input_, other.input_);
  }

  Index window_, seen_ = 0, channels_ = 0;
  bool half_taken_ = false;
  FormHistory<Scalar> form_;
  StreamedArray<Scalar> input_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
