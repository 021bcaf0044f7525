// What a layer descriptor is, and what every one of them can do.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/layers/made_from.hpp>
#include <implicit_attention/operator/implicit_attention.hpp>
#include <implicit_attention/trace/causal_convolution.hpp>
#include <implicit_attention/trace/heads.hpp>
#include <implicit_attention/trace/operations.hpp>
#include <implicit_attention/trace/recurrences.hpp>
#include <implicit_attention/trace/run_context.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A token-mixing layer that is linear in its linear input, given its data-dependent scales.
template <class Layer>
concept LayerDescriptor = requires(const Layer& layer, const typename Layer::Activations& activations, Terms terms) {
  requires Real<typename Layer::Scalar>;                                             // float or double
  { layer.width() } -> std::convertible_to<Index>;                                   // model width D: columns of u
  { layer.channels() } -> std::convertible_to<Index>;                                // inner width E: columns of x and y
  { activations.x } -> std::convertible_to<const Array<typename Layer::Scalar>&>;    // linear input (tokens, E)
  { activations.y } -> std::convertible_to<const Array<typename Layer::Scalar>&>;    // output before the output projection (tokens, E)
  { activations.out } -> std::convertible_to<const Array<typename Layer::Scalar>&>;  // output (tokens, D)
  { layer.lower(activations, terms) } -> std::same_as<UnifiedForm<typename Layer::Scalar>>;  // the unified form, these terms on
};

/// One sequence through a layer within a trace: the numbers it kept, and the three values whose gradients are asked for. A layer whose form
/// has a second path gives the value that path acts on as well.
template <class Layer>
struct LayerRun {
  using Scalar = typename Layer::Scalar;
  typename Layer::Activations activations;
  Value<Scalar> x, y, out;
  Value<Scalar> second_x = {};
};

/// A layer whose forward pass is written from the trace's operations: `run(u, context)`.
template <class Layer>
concept TracedLayer = LayerDescriptor<Layer> &&
    requires(const Layer& layer, const Value<typename Layer::Scalar>& u, RunContext<typename Layer::Scalar>& context) {
  { layer.run(u, context) } -> std::same_as<LayerRun<Layer>>;
};

/// What to materialise, and of which terms.
struct MaterializeOptions : Selection {
  Terms terms = Terms::all();
};

/// Everything of `y = A x + bias + carry` for one sequence.
template <Real Scalar>
struct MaterializedAttention {
  AttentionMatrix<Scalar> attention;  ///< (chosen channels, chosen rows, tokens)
  Matrix<Scalar> bias;                ///< (tokens, channels)
  Matrix<Scalar> carry;               ///< (tokens, channels): what a carried-in state gives, else zero
  Array<Scalar> x;                    ///< (tokens, channels): the linear input
  Array<Scalar> y;                    ///< (tokens, channels): the layer's output before its output projection
  Array<Scalar> out;                  ///< (tokens, width): the layer's output
};

/// The implicit attention of a layer, as an operator. With some terms no array is read, so no other check would notice empty activations.
template <LayerDescriptor Layer>
[[nodiscard]] ImplicitAttention<typename Layer::Scalar> implicit_attention_of(const Layer& layer,
                                                                              const typename Layer::Activations& activations,
                                                                              Terms terms = Terms::all()) {
  UnifiedForm<typename Layer::Scalar> form = layer.lower(activations, terms);
  if (form.tokens() == 0 && activations.x.empty())
    detail::raise(ErrorKind::shape, "activations: there are no tokens, expected at least one; fill activations.x");
  return ImplicitAttention<typename Layer::Scalar>(std::move(form));
}

/// Materialises the implicit attention of a layer that has run.
template <LayerDescriptor Layer>
[[nodiscard]] MaterializedAttention<typename Layer::Scalar> materialize_attention(const Layer& layer,
                                                                                  const typename Layer::Activations& activations,
                                                                                  const MaterializeOptions& options = {}) {
  const ImplicitAttention<typename Layer::Scalar> attention = implicit_attention_of(layer, activations, options.terms);
  return {attention.materialize(options),
          attention.bias(options.executor),
          attention.carry(options.executor),
          activations.x,
          activations.y,
          activations.out};
}

namespace detail {
/// Fails unless u is at least one token of the layer's width.
template <Real Scalar>
void check_input(std::string_view who, ConstView<Scalar> u, Index width) {
  if (u.rows() == 0) raise(ErrorKind::shape, who, ": the input has no tokens, expected at least one");
  if (width > 0 && u.cols() != width)  // 0: a descriptor made for an engine, which says so when it is to run
    raise(ErrorKind::shape, who, ": the input is ", shape_text({u.rows(), u.cols()}), ", expected (tokens, ", width, ") = (tokens, width)");
}

/// Fails unless an activation that is needed is there, (rows, columns): an engine fills activations itself, and what it forgot must not
/// be taken for a term that the layer does not have. `instead`: what may be filled in its place, " or gate".
template <Real Scalar>
void check_activation(std::string_view who, const char* name, const Array<Scalar>& array, Index rows, Index columns,
                      std::string_view meaning, std::string_view instead = {}) {
  if (array.empty())
    raise(ErrorKind::shape, who, ": activations.", name, " is empty, expected ", shape_text({rows, columns}), " = ", meaning, "; fill it",
          instead, ", or use what activations(u) returns");
  if (array.rows() == rows && array.cols() == columns) return;
  raise(ErrorKind::shape, who, ": activations.", name, " is ", shape_text({array.rows(), array.cols()}), ", expected ",
        shape_text({rows, columns}), " = ", meaning);
}

/// An array of activations, and the term that reads it.
template <Real Scalar>
struct ReadArray {
  Term term;
  const Array<Scalar>* array;
};

/// The number of tokens that activations are of: the rows that most of the filled arrays have, those named first where it is a draw. Where
/// two arrays that the terms read agree, these alone are counted, so that those that the terms do not read may be of any length; where only
/// one is read, the others tell whether it is too long or too short. An array of another length is then the one that its check names.
template <Real Scalar, class Arrays = std::initializer_list<ReadArray<Scalar>>>
[[nodiscard]] Index tokens_of(Terms terms, const Arrays& arrays) {
  const auto most_frequent = [&](bool all, std::ptrdiff_t least) {
    const auto counts = [&](const ReadArray<Scalar>& each) { return !each.array->empty() && (all || terms.has(each.term)); };
    Index tokens = 0;
    std::ptrdiff_t votes = least - 1;
    for (const ReadArray<Scalar>& each : arrays) {
      if (!counts(each)) continue;
      const std::ptrdiff_t own = std::count_if(arrays.begin(), arrays.end(), [&](const ReadArray<Scalar>& other) {
        return counts(other) && other.array->rows() == each.array->rows();
      });
      if (own <= votes) continue;
      tokens = each.array->rows();
      votes = own;
    }
    return tokens;
  };
  const Index read = most_frequent(false, 2);
  return read != 0 ? read : most_frequent(true, 1);
}

/// Fails unless the log decays of a recurrence in heads are there: of every token or of all, for every head or for every key of one. Decays
/// that are made of data are of every token and key: one row of them is that of one token.
template <Real Scalar>
void check_log_decay(std::string_view who, const Array<Scalar>& array, Index tokens, Index heads, Index keys, bool of_data) {
  if (of_data) return check_activation(who, "log_decay", array, tokens, keys, "(tokens, heads * state)");
  const bool fits = (array.rows() == tokens || array.rows() == 1) && (array.cols() == heads || array.cols() == keys);
  if (array.empty() || !fits) check_activation(who, "log_decay", array, tokens, keys, "(tokens or 1, heads or heads * state)");
}

/// One part of a carried-in state, and its shape; `columns` 0: it is not read.
template <Real Scalar>
struct StatePart {
  const char* name;
  const Matrix<Scalar>* numbers;
  Index rows = 0, columns = 0;
  std::string_view meaning = {};
};

/// Fails unless the parts of a carried-in state that are read are all present, or every part is absent: a part that an engine forgot must
/// not be taken for a sequence that begins here.
template <Real Scalar, class Parts = std::initializer_list<StatePart<Scalar>>>
void check_initial(std::string_view who, const Parts& parts) {
  if (std::all_of(parts.begin(), parts.end(), [](const StatePart<Scalar>& part) { return part.numbers->size() == 0; })) return;
  for (const StatePart<Scalar>& part : parts)
    if (part.rows != 0 && part.columns != 0)
      check_shape(who, message("activations.initial.", part.name), *part.numbers, part.rows, part.columns, part.meaning,
                  part.numbers->size() == 0 ? "another part of the state is filled" : "");
}

/// How an array is made of another, as a function that is called before the statement ends in which it is written.
template <Real Scalar>
class MakeArray {
 public:
  MakeArray() = default;
  template <class Make>
  MakeArray(const Make& make)  // NOLINT(google-explicit-constructor)
      : make_(&make),
        call_([](const void* of, const Array<Scalar>& from) -> Array<Scalar> { return (*static_cast<const Make*>(of))(from); }) {}
  [[nodiscard]] explicit operator bool() const { return make_ != nullptr; }
  [[nodiscard]] Array<Scalar> operator()(const Array<Scalar>& from) const { return call_(make_, from); }

 private:
  const void* make_ = nullptr;
  Array<Scalar> (*call_)(const void* make, const Array<Scalar>& from) = nullptr;
};

/// An activation in one of the forms that an engine may hold it in, and how the form that is read is made of it (nothing: it is that).
template <Real Scalar>
struct Alternative {
  const char* name;
  const Array<Scalar>* array;
  MakeArray<Scalar> make = {};
};

/// The activation that is there in one form; fails where it is there in none, or in two, which might disagree.
template <Real Scalar>
[[nodiscard]] Array<Scalar> one_given(std::string_view who, Index rows, Index columns, std::string_view meaning,
                                      std::initializer_list<Alternative<Scalar>> forms) {
  const Alternative<Scalar>* given = nullptr;
  for (const Alternative<Scalar>& form : forms) {
    if (form.array->empty()) continue;
    if (given != nullptr)
      raise(ErrorKind::value, who, ": activations.", given->name, " and activations.", form.name,
            " are both filled, expected one of them: each is made of the other");
    given = &form;
  }
  std::string instead;
  if (given == nullptr) {
    given = forms.begin();
    for (const Alternative<Scalar>* form = forms.begin() + 1; form < forms.end(); ++form) instead += message(" or ", form->name);
  }
  check_activation(who, given->name, *given->array, rows, columns, meaning, instead);
  return given->make ? given->make(*given->array) : *given->array;
}

/// What stands for c where an engine has kept silu(c) alone.
template <Real Scalar>
[[noreturn]] void raise_activated_only(std::string_view who) {
  raise(ErrorKind::shape, who,
        ": activations.c and activations.x are empty; a = silu(c) alone does not tell c, for two inputs have each output between "
        "-0.28 and 0: fill c or x, or leave out the terms activation, convolution and bias, and a is the linear input");
}

/// Fails where a layer that was made without projections is to run.
template <Real Scalar>
void check_projections(std::string_view who, const Array<Scalar>& projection) {
  if (projection.empty())
    raise(ErrorKind::value, who,
          ": this descriptor was made for an engine, without projections: it lowers what the engine has run, "
          "and does not run");
}

/// Fails unless an optional vector of a layer's weights, such as a bias, fits where it is there.
template <Real Scalar>
void check_bias(std::string_view who, std::string_view name, const Array<Scalar>& array, Index size, std::string_view meaning) {
  if (!array.empty()) check_vector(who, name, array, size, meaning);
}

/// The state that a piece of a sequence begins with, as arrays; empty where none was carried in.
template <Real Scalar>
[[nodiscard]] Array<Scalar> carried(const Matrix<Scalar>& state) {
  return state.size() == 0 ? Array<Scalar>() : Array<Scalar>(state);
}
}  // namespace detail

/// The short way through all of it, on every descriptor of this library: `layer.materialize_attention(u)`.
template <class Derived>
class LayerInterface {
 public:
  /// Runs the layer on u (L, D), from `initial` if a state was carried in. Nothing is recorded. Activations may view u's numbers, which
  /// must outlive them: the matrix that u is, or is a block or a map of. A temporary matrix is taken over; a block of one is not, and its
  /// view would be of freed memory (`layer.activations(read().topRows(9))`): keep the matrix, or pass `Matrix<Scalar>(block)`.
  template <class Input, class Layer = Derived>
  [[nodiscard]] typename Layer::Activations activations(Input&& u, const typename Layer::State* initial = nullptr,
                                                        const Executor& executor = serial_executor()) const {
    using Scalar = typename Layer::Scalar;
    RunContext<Scalar> context;
    return run_plainly<Layer>(detail::taken_or_viewed<Scalar>(std::forward<Input>(u)), context, initial, executor);
  }
  /// The same with the position of every token (L), of layers that read them: `static constexpr bool reads_positions = true`.
  template <class Input, class Layer = Derived>
    requires(Layer::reads_positions)
  [[nodiscard]] typename Layer::Activations activations(Input&& u, const std::vector<Index>& positions,
                                                        const typename Layer::State* initial = nullptr,
                                                        const Executor& executor = serial_executor()) const {
    using Scalar = typename Layer::Scalar;
    Array<Scalar> input = detail::taken_or_viewed<Scalar>(std::forward<Input>(u));
    detail::check_input(Layer::layer_name, *input, self().width());
    detail::check_positions(Layer::layer_name, positions, input.rows());
    RunContext<Scalar> context;
    context.positions = positions;
    return run_plainly<Layer>(std::move(input), context, initial, executor);
  }
  /// The implicit attention operator of the sequence that gave `activations`; they must stay alive where they view foreign memory.
  template <class Activations>
  [[nodiscard]] auto implicit_attention(const Activations& activations, Terms terms = Terms::all()) const {
    return implicit_attention_of(self(), activations, terms);
  }
  /// Runs the layer on u (tokens, width) and materialises its implicit attention, (channels, rows, tokens), with bias and output.
  template <class Input>
  [[nodiscard]] auto materialize_attention(Input&& u, const MaterializeOptions& options = {}) const {
    return ::implicit_attention::materialize_attention(self(), self().activations(std::forward<Input>(u)), options);
  }

 private:
  [[nodiscard]] const Derived& self() const { return static_cast<const Derived&>(*this); }
  template <class Layer>
  [[nodiscard]] typename Layer::Activations run_plainly(Array<typename Layer::Scalar> u, RunContext<typename Layer::Scalar>& context,
                                                        const typename Layer::State* initial, const Executor& executor) const {
    detail::check_input(Layer::layer_name, *u, self().width());
    Trace<typename Layer::Scalar> trace(false, executor);
    return self().run(trace.input(std::move(u)), context, initial).activations;
  }
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
