// Which channels and rows of an attention matrix are wanted, and what they may cost.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/core/shape.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// All indices, the last one, or a list in any order.
class Indices {
 public:
  Indices() = default;
  Indices(std::vector<Index> list) : kind_(Kind::list), list_(std::move(list)) {}  // NOLINT(google-explicit-constructor)
  [[nodiscard]] static Indices all() { return {}; }
  [[nodiscard]] static Indices last() {
    Indices indices;
    indices.kind_ = Kind::last;
    return indices;
  }

  /// The list for `count` things; `what` names one of them ("row", "channel") in the error where an index is out of range.
  [[nodiscard]] std::vector<Index> resolve(Index count, std::string_view what) const {
    if (kind_ == Kind::last) {
      if (count == 0) detail::raise(ErrorKind::value, "last ", what, " asked for, but there is none");
      return {count - 1};
    }
    if (kind_ == Kind::list) {
      for (const Index index : list_) check_index(index, count, what);
      return list_;
    }
    if (count > most_listed)
      detail::raise(ErrorKind::limit, "all of ", count, " ", what, "s were asked for, expected at most ", most_listed,
                    "; ask for a list of some");
    std::vector<Index> every(static_cast<std::size_t>(count));
    for (Index index = 0; index < count; ++index) every[static_cast<std::size_t>(index)] = index;
    return every;
  }

 private:
  static constexpr Index most_listed = Index(1) << 28;  // rows of so many tokens are more than any memory holds
  enum class Kind { all, last, list };
  Kind kind_ = Kind::all;
  std::vector<Index> list_;
};

/// What a call computes: chosen channels and rows, within a limit of bytes for what it allocates, on an executor.
struct Selection {
  Indices channels;
  Indices rows;
  std::size_t byte_limit = IMPLICIT_ATTENTION_DEFAULT_BYTE_LIMIT;
  Executor executor = serial_executor();
};

namespace detail {

/// What is wrong with an array of so many numbers of `bytes_each`, if it is larger than the limit; empty where it fits.
template <class = void>
[[nodiscard]] std::string over_byte_limit(std::string_view what, const std::vector<Index>& shape, std::size_t bytes_each,
                                          std::size_t limit) {
  double bytes = static_cast<double>(bytes_each);
  std::string text;
  for (const Index extent : shape) {
    bytes *= static_cast<double>(extent);
    text += message(text.empty() ? "" : " x ", extent);
  }
  if (bytes <= static_cast<double>(limit)) return {};
  return message(what, " of ", text, " numbers takes ", bytes_text(bytes), ", more than the limit of ",
                 bytes_text(static_cast<double>(limit)));
}

}  // namespace detail

/// Fails if an array of so many numbers of `bytes_each` is more than the caller allows; names the size and, by `advice`, the ways out.
template <class = void>
void check_byte_limit(std::string_view what, const std::vector<Index>& shape, std::size_t bytes_each, std::size_t limit,
                      std::string_view advice = detail::smaller_result) {
  if (const std::string over = detail::over_byte_limit(what, shape, bytes_each, limit); !over.empty())
    detail::raise(ErrorKind::limit, over, "; ", advice, " (or raise byte_limit)");
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
