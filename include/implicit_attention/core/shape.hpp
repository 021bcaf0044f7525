// Shapes and their checks, before any work is done.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/error.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// `(2, 3)`, for messages.
template <class = void>
[[nodiscard]] std::string shape_text(const std::vector<Index>& shape) {
  std::string text = "(";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) text += detail::message(axis ? ", " : "", shape[axis]);
  return text + ")";
}

namespace detail {
/// A size in memory, for messages: whole bytes or whole MiB. As a double: a file can claim any size.
template <class = void>
[[nodiscard]] std::string bytes_text(double bytes) {
  return bytes < 1048576.0 ? message(static_cast<Index>(bytes), " bytes") : message(std::floor(bytes / 1048576.0 + 0.5), " MiB");
}

/// While this lives (scopes nest), the names that PrefixedTensors reads on this thread are recorded, for one prefix at a time. A layer
/// calls its weights by short names such as `A_log`; an error message then gives the full name in the file of the tensor that was last read
/// under that name, `model.layers.3.mixer.A_log`.
class NamesRead {
 public:
  NamesRead() : outer_(innermost()) { innermost() = new Names; }
  NamesRead(const NamesRead&) = delete;
  NamesRead& operator=(const NamesRead&) = delete;
  ~NamesRead() {
    delete innermost();
    innermost() = outer_;
  }

  /// `called`: what the layer calls it, if that is another name.
  template <class Source>
  static void add(const Source& source, const std::string& prefix, std::string_view name, std::string_view called = {}) {
    if (innermost() == nullptr) return;
    if (innermost()->prefix != prefix) *innermost() = Names{prefix, {}};
    innermost()->read.emplace_back(called.empty() ? name : called, source.name_in_file(prefix + std::string(name)));
  }
  /// The name in the file; what is not there stays as it is. For complaints, which end what was read: the host may go on elsewhere.
  template <class = void>
  [[nodiscard]] static std::string completed(std::string_view name) {
    std::string full(name);
    if (innermost() == nullptr) return full;
    for (const auto& [read, in_file] : innermost()->read)
      if (read == name) full = in_file;
    *innermost() = Names();
    return full;
  }

 private:
  struct Names {
    std::string prefix;
    std::vector<std::pair<std::string, std::string>> read;  // as the layer calls them, and as the file has them
  };
  // On the heap: where a host's error handler leaves by longjmp, this object is gone, and the names must not be.
  static Names*& innermost() {
    thread_local Names* names = nullptr;
    return names;
  }

  Names* outer_;
};

/// Fails for a tensor of a wrong shape. `name` is completed to the name in the file where it was read from one; `said` is the rest of the
/// message, in parts.
template <class... Said>
[[noreturn]] void raise_shape(std::string_view who, std::string_view name, const Said&... said) {
  raise(ErrorKind::shape, who, ": ", NamesRead::completed(name), " ", said...);
}
}  // namespace detail

/// Fails unless `array` is (rows, columns); `who` is the layer, `name` the tensor, `meaning` the two sizes in words, `hint` a likely cause.
template <class ArrayLike>
void check_shape(std::string_view who, std::string_view name, const ArrayLike& array, Index rows, Index columns, std::string_view meaning,
                 std::string_view hint = {}) {
  if (array.rows() == rows && array.cols() == columns) return;
  detail::raise_shape(who, name, "is ", shape_text({array.rows(), array.cols()}), ", expected ", shape_text({rows, columns}), " = ",
                      meaning, hint.empty() ? "" : "; ", hint);
}

/// The same for one row of numbers, as a bias is.
template <class ArrayLike>
void check_vector(std::string_view who, std::string_view name, const ArrayLike& array, Index size, std::string_view meaning) {
  if (array.size() == size && array.rows() == 1) return;
  const std::string came = array.rows() == 1 ? detail::message("(", array.size(), ")") : shape_text({array.rows(), array.cols()});
  detail::raise_shape(who, name, "is ", came, ", expected (", size, ") = (", meaning, ")");
}

/// Fails (ErrorKind::value) unless `index` is one of `count` things, counted from 0; `what`, in parts, names it: "layer", or who asks, too.
template <class... What>
void check_index(Index index, Index count, const What&... what) {
  if (index < 0 || index >= count)
    detail::raise(ErrorKind::value, what..., " ", index, " is out of range, expected 0 to ", std::max(count, Index(0)) - 1);
}

/// Fails unless a size, `what`, is `least` or more.
template <class = void>
void check_size(std::string_view who, std::string_view what, Index size, Index least) {
  if (size < least) detail::raise(ErrorKind::shape, who, ": ", what, " is ", size, ", expected at least ", least);
}

/// The product of two sizes that are not negative; fails where no index reaches so far. `what` names it: "heads * tokens".
template <class = void>
[[nodiscard]] Index size_product(std::string_view who, std::string_view what, Index one, Index other) {
  if (other > 0 && one > std::numeric_limits<Index>::max() / other)
    detail::raise(ErrorKind::shape, who, ": ", what, " is ", one, " * ", other, ", more than an array can have");
  return one * other;
}

/// Fails unless `count` things, one at least, divide into `parts` groups of one or more; `what` and `into` name the two.
template <class = void>
void check_divides(std::string_view who, Index count, std::string_view what, Index parts, std::string_view into) {
  if (count < 1) detail::raise(ErrorKind::shape, who, ": there are no ", what, ", expected at least 1");
  if (parts < 1 || count < parts || count % parts != 0)
    detail::raise(ErrorKind::shape, who, ": ", count, " ", what, " do not divide into ", parts, " ", into);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
