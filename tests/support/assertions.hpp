// Catch2's CHECK, REQUIRE, CHECK_THAT and INFO, as it documents them, in a tenth of its code: its own macros write out an expression three
// times, for the compiler to read each time, and build a class for every pair of types that are compared and every length of a text. There are
// thousands of them in the tests, and these macros took a good part of the time that the tests' compilation takes. Here an assertion is a few
// calls; what it reports is made where it fails, by functions that are compiled once (assertions.cpp).
#pragma once

#include <cstddef>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

namespace test_support {

/// Where an assertion stands, how it reads, and what follows where it fails.
struct Assertion {
  const char* macro;
  const char* file;
  std::size_t line;
  const char* text;
  bool ends_test, negated;
};

/// A value and how Catch2 writes it.
struct Shown {
  const void* value;
  std::string (*text)(const void*);
};
template <class T>
std::string text_of(const void* value) {
  return Catch::Detail::stringify(*static_cast<const T*>(value));
}
std::string text_of_characters(const void* value);
template <class T>
Shown shown(const T& value) {
  return {&value, &text_of<T>};
}
template <std::size_t length>
Shown shown(const char (&value)[length]) {
  return {value, &text_of_characters};
}

/// Tells Catch2 how a comparison, or a value alone, came out. Where it must not be false and is, the test ends here.
void report(const Assertion& assertion, bool holds, Shown left, const char* relation, Shown right);
void report(const Assertion& assertion, bool holds, Shown value);
/// The same of an exception, the one that is being handled.
void report_exception(const Assertion& assertion);

/// What a comparison leaves: it has been reported.
struct Reported {};

/// The left side of a comparison, or a value alone.
template <class T>
struct LeftSide {
  const Assertion& assertion;
  const T& value;

// A size is compared with 3, a float with a double's result: this is not the place to warn of it.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wdouble-promotion"
#define TEST_SUPPORT_RELATION(RELATION)                                                                \
  template <class Right>                                                                               \
  [[gnu::noinline]] Reported operator RELATION(const Right& right) const {                             \
    report(assertion, static_cast<bool>(value RELATION right), shown(value), #RELATION, shown(right)); \
    return {};                                                                                         \
  }
  TEST_SUPPORT_RELATION(==)
  TEST_SUPPORT_RELATION(!=)
  TEST_SUPPORT_RELATION(<)
  TEST_SUPPORT_RELATION(>)
  TEST_SUPPORT_RELATION(<=)
  TEST_SUPPORT_RELATION(>=)
#undef TEST_SUPPORT_RELATION
#pragma GCC diagnostic pop
};

/// `Begun{assertion} <= a == b` is `(Begun{assertion} <= a) == b`: what takes a comparison apart.
struct Begun {
  const Assertion& assertion;
  template <class T>
  LeftSide<T> operator<=(const T& value) const {
    return {assertion, value};
  }
};
inline void finish(Reported) {}
template <class T>
[[gnu::noinline]] void finish(const LeftSide<T>& alone) {
  report(alone.assertion, static_cast<bool>(alone.value), shown(alone.value));
}

/// Whether a text holds another; `!` asks for the opposite, `&&` for several at once. Made where it is used: it keeps no copy of its text.
class ContainsText {
 public:
  explicit ContainsText(std::string_view needle) : needle_(needle) {}
  ContainsText operator!() const {
    ContainsText opposite = *this;
    opposite.wanted_ = !wanted_;
    return opposite;
  }
  bool fits(std::string_view text) const;
  std::string description() const;

 private:
  std::string_view needle_;
  bool wanted_ = true;
};
using ContainsTexts = std::vector<ContainsText>;
ContainsTexts operator&&(const ContainsText& first, const ContainsText& second);
ContainsTexts operator&&(ContainsTexts first, const ContainsText& second);

void report_text(const Assertion& assertion, std::string_view text, const ContainsText& expected);
void report_text(const Assertion& assertion, std::string_view text, const ContainsTexts& expected);
/// The message of the exception that is being handled: what it holds, or all of it.
void report_message(const Assertion& assertion, const ContainsText& expected);
void report_message(const Assertion& assertion, const ContainsTexts& expected);
void report_message(const Assertion& assertion, std::string_view expected);
/// No exception came where one was expected.
void report_no_exception(const Assertion& assertion);

/// A line that a failure's report shows, as long as this object lives.
class Information {
 public:
  Information(const char* file, std::size_t line);
  ~Information();
  Information(const Information&) = delete;
  Information& operator=(const Information&) = delete;

  Information& operator<<(const char* text);
  template <class T>
  Information& operator<<(const T& value) {
    stream() << value;
    return *this;
  }
  /// The line is whole.
  void show();

 private:
  struct Line;
  std::ostream& stream();
  std::unique_ptr<Line> line_;
};

}  // namespace test_support

/// A matcher for `CHECK_THAT(text, contains_text("needle"))` and `CHECK_THROWS_WITH`.
inline test_support::ContainsText contains_text(std::string_view needle) { return test_support::ContainsText(needle); }

#undef CHECK
#undef CHECK_FALSE
#undef REQUIRE
#undef REQUIRE_FALSE
#undef CHECK_THAT
#undef CHECK_THROWS_WITH
#undef INFO

#define TEST_SUPPORT_ASSERTION(MACRO, ENDS_TEST, NEGATED, TEXT) \
  static constexpr ::test_support::Assertion assertion { MACRO, __FILE__, __LINE__, TEXT, ENDS_TEST, NEGATED }
// Of a <= b == c compilers warn, and this is one.
#define TEST_SUPPORT_ASSERT(MACRO, ENDS_TEST, NEGATED, ...)                                                                           \
  do {                                                                                                                                \
    TEST_SUPPORT_ASSERTION(MACRO, ENDS_TEST, NEGATED, #__VA_ARGS__);                                                                  \
    try {                                                                                                                             \
      _Pragma("GCC diagnostic push")                                                                                                  \
          _Pragma("GCC diagnostic ignored \"-Wparentheses\"")::test_support::finish(::test_support::Begun{assertion} <= __VA_ARGS__); \
      _Pragma("GCC diagnostic pop")                                                                                                   \
    } catch (...) {                                                                                                                   \
      ::test_support::report_exception(assertion);                                                                                    \
    }                                                                                                                                 \
  } while (false)

#define CHECK(...) TEST_SUPPORT_ASSERT("CHECK", false, false, __VA_ARGS__)
#define CHECK_FALSE(...) TEST_SUPPORT_ASSERT("CHECK_FALSE", false, true, __VA_ARGS__)
#define REQUIRE(...) TEST_SUPPORT_ASSERT("REQUIRE", true, false, __VA_ARGS__)
#define REQUIRE_FALSE(...) TEST_SUPPORT_ASSERT("REQUIRE_FALSE", true, true, __VA_ARGS__)
#define CHECK_THAT(TEXT, ...)                                                    \
  do {                                                                           \
    TEST_SUPPORT_ASSERTION("CHECK_THAT", false, false, #TEXT ", " #__VA_ARGS__); \
    try {                                                                        \
      ::test_support::report_text(assertion, TEXT, __VA_ARGS__);                 \
    } catch (...) {                                                              \
      ::test_support::report_exception(assertion);                               \
    }                                                                            \
  } while (false)
#define CHECK_THROWS_WITH(EXPRESSION, ...)                                                    \
  do {                                                                                        \
    TEST_SUPPORT_ASSERTION("CHECK_THROWS_WITH", false, false, #EXPRESSION ", " #__VA_ARGS__); \
    try {                                                                                     \
      static_cast<void>(EXPRESSION);                                                          \
      ::test_support::report_no_exception(assertion);                                         \
    } catch (...) {                                                                           \
      ::test_support::report_message(assertion, __VA_ARGS__);                                 \
    }                                                                                         \
  } while (false)

#define TEST_SUPPORT_JOINED_(A, B) A##B
#define TEST_SUPPORT_JOINED(A, B) TEST_SUPPORT_JOINED_(A, B)
#define INFO(...)                                                                                      \
  ::test_support::Information TEST_SUPPORT_JOINED(information_of_line_, __LINE__)(__FILE__, __LINE__); \
  (TEST_SUPPORT_JOINED(information_of_line_, __LINE__) << __VA_ARGS__).show()
