// Errors: what was wrong, what was expected, what was found. One exception type, or a handler of the host's where it builds without
// exceptions.
#pragma once

#include <array>
#include <charconv>
#include <cstdlib>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <implicit_attention/config.hpp>
#if IMPLICIT_ATTENTION_EXCEPTIONS
#include <stdexcept>
#endif
#include <implicit_attention/core/subnormals.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// What kind of mistake an error reports.
enum class ErrorKind {
  shape,  ///< sizes that do not fit each other
  value,  ///< a number, name or option outside its range
  limit,  ///< a result larger than the caller allows
  file    ///< a file that is missing, malformed or not what it claims
};

#if IMPLICIT_ATTENTION_EXCEPTIONS
/// The one exception type of this library.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  [[nodiscard]] ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};
#endif

/// What a host does about an error: exit, abort, or throw an exception of its own. It must not return; after one that does, the default
/// follows. What it calls of this library must not fail, for it would be called again. An error may come from a loop that an executor runs
/// on another thread: an exception must be one that the executor passes on (core/shared_loop.hpp does, built with exceptions); longjmp is
/// right only where every executor is serial, and leaks what the library held; std::exit runs the destructors of static objects, of which
/// the pool whose thread raised must be none (std::_Exit runs none).
using ErrorHandler = void (*)(ErrorKind kind, const char* message);
/// The same, and where in the library's source the error was found.
using ErrorHandlerAt = void (*)(ErrorKind kind, const char* message, const char* file, int line);

/// Both kinds. Where both are there, `at` is called first.
struct ErrorHandlers {
  ErrorHandler plain = nullptr;
  ErrorHandlerAt at = nullptr;
};

namespace detail {
/// One pair for each library or program that this is compiled into. It has hidden visibility, and so has every function that leads to it:
/// the dynamic linker merges what two shared libraries of one process both export into one copy.
#if defined(__GNUC__)
#define IMPLICIT_ATTENTION_HIDDEN __attribute__((visibility("hidden")))
#else
#define IMPLICIT_ATTENTION_HIDDEN
#endif
IMPLICIT_ATTENTION_HIDDEN inline ErrorHandlers& error_handlers() noexcept {
  static ErrorHandlers handlers;
  return handlers;
}
}  // namespace detail

/// Installs `handler` for all errors of this library or program, in place of one of either kind (null: back to the default), and returns
/// the one of its kind before. Not thread-safe: call it at start-up. A shared library that may meet another one with these headers is
/// compiled with -fvisibility=hidden, or with an IMPLICIT_ATTENTION_ABI_TAG of its own (config.hpp): else an error inside a function that
/// both have may reach the other's handler.
IMPLICIT_ATTENTION_HIDDEN inline ErrorHandler set_error_handler(ErrorHandler handler) noexcept {
  return std::exchange(detail::error_handlers(), ErrorHandlers{handler, nullptr}).plain;
}
/// The same for a handler that is told file and line.
IMPLICIT_ATTENTION_HIDDEN inline ErrorHandlerAt set_error_handler_at(ErrorHandlerAt handler) noexcept {
  return std::exchange(detail::error_handlers(), ErrorHandlers{nullptr, handler}).at;
}
/// The same for whichever there is: what it returns puts everything back as it was.
IMPLICIT_ATTENTION_HIDDEN inline ErrorHandlers set_error_handlers(ErrorHandlers handlers) noexcept {
  return std::exchange(detail::error_handlers(), handlers);
}

namespace detail {

/// A text, a letter or a number of a message, looked at where it is.
class MessagePart {
 public:
  MessagePart(std::string_view text) : text_(text) {}     // NOLINT(google-explicit-constructor)
  MessagePart(const std::string& text) : text_(text) {}   // NOLINT(google-explicit-constructor)
  MessagePart(const char* text) : text_(text) {}          // NOLINT(google-explicit-constructor)
  MessagePart(const char& letter) : text_(&letter, 1) {}  // NOLINT(google-explicit-constructor)
  template <class Number, class = std::enable_if_t<std::is_arithmetic_v<Number>>>
  MessagePart(const Number& number) : number_(&number), append_(&append_number<Number>) {}  // NOLINT(google-explicit-constructor)

  void append_to(std::string& out) const {
    if (append_ != nullptr) return append_(out, number_);
    out.append(text_);
  }

 private:
  template <class Number>
  static void append_number(std::string& out, const void* number) {
    std::array<char, 32> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), *static_cast<const Number*>(number)).ptr;
    out.append(digits.data(), static_cast<std::size_t>(end - digits.data()));
  }

  std::string_view text_;
  const void* number_ = nullptr;
  void (*append_)(std::string& out, const void* number) = nullptr;  // null: a text
};

/// Joins texts and numbers into one message. Each of hundreds of messages has types of its own: only the list is compiled for each.
template <class = void>
[[nodiscard]] std::string joined(std::initializer_list<MessagePart> parts) {
  std::string out;
  for (const MessagePart& part : parts) part.append_to(out);
  return out;
}
template <class... Parts>
[[nodiscard]] std::string message(const Parts&... parts) {
  return joined({MessagePart(parts)...});
}

/// A kind of error, and the place in the source that raised it.
struct RaisedKind {
  RaisedKind(ErrorKind of, const char* in = __builtin_FILE(), int at = __builtin_LINE())  // NOLINT(google-explicit-constructor)
      : kind(of), file(in), line(at) {}
  ErrorKind kind;
  const char* file;
  int line;
};

/// Reports an error and does not return: the host's handler if there is one, else an exception, else abort with the message. All of
/// them take C strings, which end at a zero byte; a name out of a file may have one: it is written as \x00.
[[noreturn]] IMPLICIT_ATTENTION_HIDDEN inline void raise_message(const RaisedKind& raised, std::string message) {
  for (std::size_t zero = 0; (zero = message.find('\0', zero)) != std::string::npos;) message.replace(zero, 1, "\\x00");
  SubnormalsAsZero::end_all();
  if (const ErrorHandlerAt handler = error_handlers().at) handler(raised.kind, message.c_str(), raised.file, raised.line);
  if (const ErrorHandler handler = error_handlers().plain) handler(raised.kind, message.c_str());
#if IMPLICIT_ATTENTION_EXCEPTIONS
  throw Error(raised.kind, message);
#else
  std::fprintf(stderr, "%s\n", message.c_str());  // one call: lines of threads that fail at the same time do not mix
  std::abort();
#endif
}
/// The same of texts and numbers that make the message.
[[noreturn]] IMPLICIT_ATTENTION_HIDDEN inline void raise_joined(const RaisedKind& raised, std::initializer_list<MessagePart> parts) {
  raise_message(raised, joined(parts));
}
template <class... Parts>
[[noreturn]] IMPLICIT_ATTENTION_HIDDEN void raise(const RaisedKind& raised, const Parts&... parts) {
  raise_joined(raised, {MessagePart(parts)...});
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
