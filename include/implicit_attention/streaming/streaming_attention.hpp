// The implicit attention of a sequence that grows a token at a time, as an engine decodes.
#pragma once

#include <cstddef>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/operator/implicit_attention.hpp>
#include <implicit_attention/streaming/state_space_row.hpp>
#include <implicit_attention/streaming/stream_history.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// What a stream keeps.
struct StreamingOptions {
  Index window = 0;  ///< the last tokens that are kept; 0: all of them
};

/// Takes what an engine has of one token (or of a few, as after a prompt), owns the history, and gives the newest row or any other at any
/// moment. A token's gates and activations are computed once, when it is taken; memory is linear in the tokens kept.
///
///     StreamingAttention<float> stream;
///     for each token:  stream.append(layer.lower(activations));         // arrays of one row, x in activations.x if it is there
///                      stream.newest_row_into(View<float>(out, channels, stream.tokens()));
///
/// Rows are those of the layer run on all tokens at once, to rounding. With a window, tokens before it have left: entries of the tokens
/// that are there are what they were, and those before them are gone; softmax attention, which divides by all of them, is refused. Weights
/// that the layer's form views must live as long as the stream.
///
/// Several threads may read one stream at once; while one appends, no other may do anything with it. A stream is moved, not copied, and is
/// empty again where it was moved from.
template <Real S>
class StreamingAttention {
 public:
  using Scalar = S;

  explicit StreamingAttention(StreamingOptions options = {}) : history_(options.window) {}

  /// Takes the form of the next tokens: what `layer.lower` gives for them alone. `x` (tokens, channels), their linear input, is kept where
  /// it is given, for the edge map and to apply the matrix; it is given for all tokens or for none. A carried-in state is that before the
  /// first token; later pieces' states are not read, for the tokens before are there. Fails (ErrorKind::shape or ErrorKind::value) where
  /// the form does not fit those before, and has then taken nothing. One that ends half-way, for want of memory, leaves a stream that
  /// refuses everything but its counts (ErrorKind::value).
  void append(const UnifiedForm<Scalar>& piece, const Array<Scalar>& x = {}) { history_.append(piece, x); }

  /// Tokens that are kept.
  [[nodiscard]] Index tokens() const { return history_.tokens(); }
  /// Tokens that were taken in all.
  [[nodiscard]] Index tokens_seen() const { return history_.tokens_seen(); }
  /// The number in the sequence of the oldest token that is kept: row and column 0 of every map here.
  [[nodiscard]] Index first_token() const { return history_.first_token(); }
  [[nodiscard]] Index channels() const { return history_.channels(); }
  /// Bytes of the history.
  [[nodiscard]] std::size_t bytes() const { return history_.bytes(); }
  /// The linear inputs of the tokens that are kept, (tokens, channels); empty where none were given.
  [[nodiscard]] Array<Scalar> input() const { return history_.input(); }

  /// The operator over the tokens that are kept: every map, reduction and application there is. It views the stream's memory: use it before
  /// the next append.
  [[nodiscard]] ImplicitAttention<Scalar> attention() const { return ImplicitAttention<Scalar>(history_.form()); }

  /// The newest token's row of every channel, (channels, tokens).
  [[nodiscard]] Matrix<Scalar> newest_row(const Executor& executor = serial_executor()) const {
    Matrix<Scalar> out(channels(), tokens());
    newest_row_into(out, executor);
    return out;
  }
  /// The same into the caller's memory.
  void newest_row_into(View<Scalar> out, const Executor& executor = serial_executor()) const { row_into(tokens_seen() - 1, out, executor); }

  /// Row `token` (its number in the sequence) of every channel, (channels, tokens). Fails (ErrorKind::value) for one that is not kept.
  void row_into(Index token, View<Scalar> out, const Executor& executor = serial_executor()) const {
    const Index row = history_.place_of(token);
    check_shape("StreamingAttention", "out", out, channels(), tokens(), "(channels, tokens)");
    if constexpr (std::is_same_v<Scalar, float>) {
      if (const auto from = state_space_row(row)) {
        detail::state_space_row(*from, out, executor);
        if (detail::all_finite(out)) return;
      }
    }
    Selection selection;
    selection.rows = std::vector<Index>{row};
    selection.executor = executor;
    attention().materialize_into(out, selection);
  }

  /// The newest token's row of one map, (1, tokens): `kind` of weights[e] A_e[newest, j], times x_e[j] where `times_input` says so. Empty
  /// weights (1, channels) are ones.
  void newest_map_row_into(View<Scalar> out, ReductionKind kind, const Array<Scalar>& weights = {}, bool times_input = false,
                           const Executor& executor = serial_executor()) const {
    const Index row = history_.place_of(tokens_seen() - 1);
    check_shape("StreamingAttention", "out", out, 1, tokens(), "(1, tokens)");
    if (!weights.empty()) check_shape("StreamingAttention", "weights", weights, 1, channels(), "(1, channels)");
    const Array<Scalar> input = times_input ? history_.input() : Array<Scalar>();
    if (times_input && input.empty())
      detail::raise(ErrorKind::value, "StreamingAttention: the map is to be multiplied by x, and append was given none");
    if constexpr (std::is_same_v<Scalar, float>) {
      if (const auto from = state_space_row(row)) {
        detail::state_space_reduced_row(*from, kind, weights, input, out.data(), executor);
        if (detail::all_finite(out)) {
          if (detail::is_mean(kind)) out /= static_cast<Scalar>(channels());
          return;
        }
      }
    }
    reduce_row_into(attention(), row, out, kind, weights, input, executor);
  }

  /// The newest row of the edge map, (1, tokens): sum_e g[e] A_e[newest, j] x_e[j], g (1, channels) being the gradient of what is explained
  /// with respect to y of the newest token (formulation: Token level), and the same of a second path (RWKV-7's bonus), whose input the form
  /// has. Needs x.
  void newest_edges_into(View<Scalar> out, const Array<Scalar>& g, const Executor& executor = serial_executor()) const {
    newest_map_row_into(out, ReductionKind::mean, g, true, executor);
    if (history_.has_second()) {
      const ImplicitAttention<Scalar> whole = attention();
      Matrix<Scalar> second(1, tokens());
      reduce_row_into(whole.second(), history_.place_of(tokens_seen() - 1), second, ReductionKind::mean, g, whole.second_input(), executor);
      out += second;
    }
    out *= static_cast<Scalar>(channels());
  }

 private:
  /// One row of a map of `operation`, which is over the tokens that are kept.
  void reduce_row_into(const ImplicitAttention<Scalar>& operation, Index row, View<Scalar> out, ReductionKind kind,
                       const Array<Scalar>& weights, const Array<Scalar>& input, const Executor& executor) const {
    Reduction<Scalar> reduction;
    reduction.kind = kind;
    if (!weights.empty()) {
      Matrix<Scalar> rows = Matrix<Scalar>::Zero(tokens(), channels());  // the others are not read
      rows.row(row) = weights.matrix();
      reduction.row_weights = std::move(rows);
    }
    reduction.column_weights = input;
    Selection selection;
    selection.rows = std::vector<Index>{row};
    selection.executor = executor;
    operation.reduce_into(out, reduction, selection);
  }
  /// A row of a state space's history, which has a walk of its own. That walk ends where all is forgotten, whatever stands behind: it is for
  /// finite histories. A row with a number that is not finite, a constant's or the row's own, is made again as others are.
  [[nodiscard]] std::optional<detail::StateSpaceRow<Scalar>> state_space_row(Index row) const {
    return history_.is_finite_diagonal() ? detail::state_space_row_of(history_.form(), row) : std::nullopt;
  }

  detail::StreamHistory<Scalar> history_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
