// What `lower` checks of activations, which an engine may have filled, and in which of several forms.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/core/types.hpp>
#include <implicit_attention/operator/terms.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

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

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
