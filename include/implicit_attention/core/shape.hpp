// Shapes and their checks, before any work is done.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/error.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// `(2, 3)`, for messages.
[[nodiscard]] inline std::string shape_text(const std::vector<Index>& shape) {
  std::string text = "(";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) text += message(axis ? ", " : "", shape[axis]);
  return text + ")";
}

namespace detail {
/// While this lives, the names in the file of the tensors that PrefixedTensors reads on this thread. A layer calls its weights by names of its
/// own, `A_log`: in a complaint such a name is completed to the latest that ends so, `model.layers.3.mixer.A_log`.
class NamesRead {
 public:
  NamesRead() : outer_(innermost()) { innermost() = new std::vector<std::string>; }
  NamesRead(const NamesRead&) = delete;
  NamesRead& operator=(const NamesRead&) = delete;
  ~NamesRead() {
    delete innermost();
    innermost() = outer_;
  }

  template <class Source>
  static void add(const Source& source, std::string_view name) {
    if (innermost() != nullptr) innermost()->push_back(source.name_in_file(name));
  }
  [[nodiscard]] static std::string completed(std::string_view name) {
    const auto is_end_of = [&](const std::string& full) {
      if (full.size() <= name.size()) return false;
      const std::size_t begin = full.size() - name.size();
      return full[begin - 1] == '.' && full.compare(begin, name.size(), name) == 0;
    };
    if (innermost() != nullptr)
      for (auto full = innermost()->rbegin(); full != innermost()->rend(); ++full)
        if (is_end_of(*full)) return *full;
    return std::string(name);
  }

 private:
  // On the heap: where a host's error handler leaves by longjmp, this object is gone, and the names must not be.
  static std::vector<std::string>*& innermost() {
    thread_local std::vector<std::string>* names = nullptr;
    return names;
  }

  std::vector<std::string>* outer_;
};
}  // namespace detail

/// Fails unless `array` is (rows, columns); `who` is the layer, `name` the tensor, `meaning` the two sizes in words, `hint` what may be wrong.
template <class ArrayLike>
void check_shape(std::string_view who, std::string_view name, const ArrayLike& array, Index rows, Index columns, std::string_view meaning,
                 std::string_view hint = {}) {
  if (array.rows() == rows && array.cols() == columns) return;
  raise(ErrorKind::shape, message(who, ": ", detail::NamesRead::completed(name), " is ", shape_text({array.rows(), array.cols()}),
                                  ", expected ", shape_text({rows, columns}), " = ", meaning, hint.empty() ? "" : "; ", hint));
}

/// The same for one row of numbers, as a bias is.
template <class ArrayLike>
void check_vector(std::string_view who, std::string_view name, const ArrayLike& array, Index size, std::string_view meaning) {
  if (array.size() == size && array.rows() == 1) return;
  const std::string came = array.rows() == 1 ? message("(", array.size(), ")") : shape_text({array.rows(), array.cols()});
  raise(ErrorKind::shape,
        message(who, ": ", detail::NamesRead::completed(name), " is ", came, ", expected (", size, ") = (", meaning, ")"));
}

/// Fails (ErrorKind::value) unless `index` is one of `count` things, counted from 0; `what`, in parts, names it: "layer", or who asks, too.
template <class... What>
void check_index(Index index, Index count, const What&... what) {
  if (index < 0 || index >= count) raise(ErrorKind::value, message(what..., " ", index, " is out of range, expected 0 to ", count - 1));
}

/// Fails unless `count` things, one at least, divide into `parts` groups of one or more; `what` and `into` name the two.
inline void check_divides(std::string_view who, Index count, std::string_view what, Index parts, std::string_view into) {
  if (count < 1) raise(ErrorKind::shape, message(who, ": there are no ", what, ", expected at least 1"));
  if (parts < 1 || count < parts || count % parts != 0)
    raise(ErrorKind::shape, message(who, ": ", count, " ", what, " do not divide into ", parts, " ", into));
}

IMPLICIT_ATTENTION_NAMESPACE_END
