// Little-endian numbers out of untrusted bytes: every read is checked against the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include <implicit_attention/core/error.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Walks over a text of bytes; `where` names it in errors.
class ByteReader {
 public:
  ByteReader(std::string_view bytes, std::string_view where) : bytes_(bytes), where_(where) {}

  [[nodiscard]] std::size_t position() const { return position_; }
  [[nodiscard]] std::size_t left() const { return bytes_.size() - position_; }
  [[nodiscard]] std::string_view where() const { return where_; }
  /// Goes to `position`, which must not be beyond the end.
  void seek(std::size_t position) {
    if (position > bytes_.size()) cut(position - bytes_.size());
    position_ = position;
  }
  /// The next `count` bytes.
  [[nodiscard]] std::string_view take(std::uint64_t count) {
    if (count > left()) cut(count);
    const std::string_view taken = bytes_.substr(position_, static_cast<std::size_t>(count));
    position_ += static_cast<std::size_t>(count);
    return taken;
  }
  /// The next number.
  template <class Number>
  [[nodiscard]] Number number() {
    static_assert(std::is_arithmetic_v<Number>);
    const std::string_view raw = take(sizeof(Number));
    Number value;
    std::memcpy(&value, raw.data(), sizeof(Number));
    return value;
  }
  /// The bytes up to `end`, which is skipped.
  [[nodiscard]] std::string_view line(char end = '\n') {
    const std::size_t found = bytes_.find(end, position_);
    if (found == std::string_view::npos) cut(left() + 1);
    const std::string_view text = bytes_.substr(position_, found - position_);
    position_ = found + 1;
    return text;
  }

 private:
  [[noreturn]] void cut(std::uint64_t wanted) const {
    detail::raise(ErrorKind::file, where_, ": at byte ", position_, ": ", wanted, wanted == 1 ? " byte" : " bytes", " expected, but only ",
                  left(), left() == 1 ? " is" : " are", " left; is the file cut short?");
  }
  std::string_view bytes_, where_;
  std::size_t position_ = 0;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
