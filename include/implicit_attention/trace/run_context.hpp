// What the parts of a model share while it runs: positions, values that later layers read, and the token mixers that have run.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/operator/implicit_attention.hpp>
#include <implicit_attention/trace/trace.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A token mixer that has run, whatever its type: what attribution needs of it. Cheap to copy.
template <Real S>
struct MixerRun {
  std::string kind;    ///< empty for a layer's first mixer; what a parallel one is called ("attention")
  Value<S> x, y, out;  ///< its linear input (L, E), its output before (L, E) and after (L, D) the output projection
  Value<S> second_x;   ///< the input of its second path, where it has one
  std::function<ImplicitAttention<S>(Terms terms)> attention;  ///< its implicit attention
  std::shared_ptr<const void> activations;                     ///< what it kept, in its own type
  const void* type = nullptr;                                  ///< tells that type: type_tag of the layer
  Array<S> reported_input;  ///< the content before a norm's centring, where that is what papers call the input (RWKV-7); else empty
  Array<S> projection, projection_bias;  ///< of `out = y projection^T + bias`, (D, E) and (1, D); empty where unknown
};

namespace detail {
/// Positions are multiplied as doubles, which hold whole numbers up to here.
constexpr Index largest_position = Index(1) << 53;

template <class = void>
void check_position_size(std::string_view who, Index position) {
  if (position < -largest_position || position > largest_position)
    raise(ErrorKind::value, who, ": position ", position, " is out of range, expected at most ", largest_position);
}
/// Fails unless there is one position a token.
template <class = void>
void check_positions(std::string_view who, const std::vector<Index>& positions, Index tokens) {
  if (static_cast<Index>(positions.size()) != tokens)
    raise(ErrorKind::shape, who, ": positions are (", static_cast<Index>(positions.size()), "), expected (", tokens, ") = (tokens)");
  for (const Index position : positions) check_position_size(who, position);
}
/// The position of the token behind `tokens` of them, the first of which has position `first`.
template <class = void>
[[nodiscard]] Index position_behind(std::string_view who, Index first, Index tokens) {
  check_position_size(who, first);
  return first + tokens;
}

/// An address that stands for a type, without run-time type information.
template <class Type>
struct TypeTag {
  static constexpr char tag = 0;
};
}  // namespace detail
template <class Type>
[[nodiscard]] const void* type_tag() {
  return &detail::TypeTag<Type>::tag;
}

/// A value that one layer makes and later ones read: RWKV-7's first values, Zamba-2's embeddings.
template <Real S>
struct SharedValue {
  std::string name;
  Value<S> value;
};

/// What the parts of a model hand from one piece of a sequence to the next, in the order in which they run. One object goes with one
/// sequence through one model.
class CarriedStates {
 public:
  /// Whether a piece has been run.
  [[nodiscard]] bool begun() const { return begun_; }
  /// The parts that hand nothing on: where there are any, a later piece cannot be run alone.
  [[nodiscard]] const std::vector<std::string>& refusals() const { return refusals_; }

  /// The next piece begins at the first part again.
  void begin_piece() { next_ = 0; }
  /// Fails (ErrorKind::value) where parts of the piece before have not run in this one.
  template <class = void>
  void end_piece() {
    if (begun_ && next_ != states_.size()) detail::raise(ErrorKind::value, "CarriedStates: these states belong to another model");
    begun_ = true;
  }
  /// The state that the part that runs now left after the piece before; null in the first piece.
  template <class State>
  [[nodiscard]] const State* before() const {
    if (!begun_) return nullptr;
    if (next_ >= states_.size() || states_[next_].type != type_tag<State>())
      detail::raise(ErrorKind::value, "CarriedStates: these states belong to another model");
    return static_cast<const State*>(states_[next_].state.get());
  }
  /// Stores the state that this part leaves, and goes on to the next part.
  template <class State>
  void leave(State state) {
    if (next_ == states_.size()) states_.emplace_back();
    states_[next_++] = {std::make_shared<const State>(std::move(state)), type_tag<State>()};
  }
  /// The part that runs now has no state to hand on, and looks back.
  template <class = void>
  void refuse(std::string part) {
    refusals_.push_back(std::move(part));
  }

 private:
  struct Entry {
    std::shared_ptr<const void> state;
    const void* type = nullptr;
  };
  std::vector<Entry> states_;
  std::vector<std::string> refusals_;
  std::size_t next_ = 0;
  bool begun_ = false;
};

template <Real S>
class RunContext {
 public:
  Index layer = 0;
  std::vector<Index> positions;     ///< (tokens); empty: 0, 1, 2, ...
  std::vector<MixerRun<S>> mixers;  ///< those that have run in this layer, in order
  std::vector<SharedValue<S>> shared;
  CarriedStates* carried = nullptr;  ///< where this is a piece of a longer sequence; null: a whole one
  /// Whether the numbers that the part gives are read. Where they are not, it runs for its record and its attention alone, and may give any
  /// numbers of the right shape.
  bool output_read = true;
  bool mixers_read = true;  ///< whether `mixers` is read; where it is not, a token mixer need not add itself

  /// One a token: those that were given, or counted from `first` on.
  [[nodiscard]] std::vector<Index> positions_of(Index tokens, Index first = 0) const {
    if (!positions.empty()) {
      detail::check_positions("RunContext", positions, tokens);
      return positions;
    }
    detail::check_position_size("RunContext", first);
    std::vector<Index> counted(static_cast<std::size_t>(tokens));
    for (Index token = 0; token < tokens; ++token) counted[static_cast<std::size_t>(token)] = first + token;
    return counted;
  }

  [[nodiscard]] const Value<S>* find(std::string_view name) const {
    for (const SharedValue<S>& one : shared)
      if (one.name == name) return &one.value;
    return nullptr;
  }
  void share(std::string name, Value<S> value) {
    for (SharedValue<S>& one : shared)
      if (one.name == name) {
        one.value = std::move(value);
        return;
      }
    shared.push_back({std::move(name), std::move(value)});
  }
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
