#include "assertions.hpp"

#include <exception>
#include <optional>
#include <sstream>
#include <utility>

namespace test_support {
namespace {

/// A result for Catch2, which asks for the words where it writes them.
class Outcome : public Catch::ITransientExpression {
 public:
  Outcome(bool holds, Shown left, const char* relation, Shown right)
      : ITransientExpression(true, holds), left_(left), relation_(relation), right_(right) {}
  Outcome(bool holds, Shown alone) : ITransientExpression(false, holds), left_(alone), relation_(nullptr), right_(alone) {}

  void streamReconstructedExpression(std::ostream& out) const override {
    out << left_.text(left_.value);
    if (relation_ == nullptr) return;
    const std::string right = right_.text(right_.value);
    // Long texts stand below each other.
    const char* gap = right.size() > 40 || right.find('\n') != std::string::npos ? "\n" : " ";
    out << gap << relation_ << gap << right;
  }

 private:
  Shown left_;
  const char* relation_;
  Shown right_;
};

/// Whether a text fits what is expected of it.
class TextOutcome : public Catch::ITransientExpression {
 public:
  TextOutcome(bool fits, std::string_view text, std::string description)
      : ITransientExpression(true, fits), text_(text), description_(std::move(description)) {}

  void streamReconstructedExpression(std::ostream& out) const override {
    out << Catch::Detail::stringify(std::string(text_)) << ' ' << description_;
  }

 private:
  std::string_view text_;
  std::string description_;
};

Catch::AssertionHandler handler_of(const Assertion& assertion) {
  int flags = assertion.ends_test ? Catch::ResultDisposition::Normal : Catch::ResultDisposition::ContinueOnFailure;
  if (assertion.negated) flags |= Catch::ResultDisposition::FalseTest;
  return Catch::AssertionHandler(assertion.macro, Catch::SourceLineInfo(assertion.file, assertion.line), assertion.text,
                                 static_cast<Catch::ResultDisposition::Flags>(flags));
}

void report_outcome(const Assertion& assertion, const Catch::ITransientExpression& outcome) {
  Catch::AssertionHandler handler = handler_of(assertion);
  handler.handleExpr(outcome);
  handler.complete();
}

/// Has the message of the exception that is being handled judged; what has none is reported as it is.
template <class Judge>
void report_handled(const Assertion& assertion, const Judge& judge) {
  std::string message;
  try {
    throw;
  } catch (const Catch::TestFailureException&) {
    throw;
  } catch (const std::exception& error) {
    message = error.what();
  } catch (...) {
    return report_exception(assertion);
  }
  judge(message);
}

}  // namespace

std::string text_of_characters(const void* value) { return Catch::Detail::stringify(std::string(static_cast<const char*>(value))); }

void report(const Assertion& assertion, bool holds, Shown left, const char* relation, Shown right) {
  report_outcome(assertion, Outcome(holds, left, relation, right));
}

void report(const Assertion& assertion, bool holds, Shown value) { report_outcome(assertion, Outcome(holds, value)); }

void report_exception(const Assertion& assertion) {
  try {
    throw;
  } catch (const Catch::TestFailureException&) {
    throw;  // a REQUIRE that has been reported ends the test
  } catch (...) {
    Catch::AssertionHandler handler = handler_of(assertion);
    handler.handleUnexpectedInflightException();
    handler.complete();
  }
}

bool ContainsText::fits(std::string_view text) const { return (text.find(needle_) != std::string_view::npos) == wanted_; }

std::string ContainsText::description() const {
  return (wanted_ ? "contains: " : "not contains: ") + Catch::Detail::stringify(std::string(needle_));
}

ContainsTexts operator&&(const ContainsText& first, const ContainsText& second) { return {first, second}; }

ContainsTexts operator&&(ContainsTexts first, const ContainsText& second) {
  first.push_back(second);
  return first;
}

void report_text(const Assertion& assertion, std::string_view text, const ContainsText& expected) {
  report_outcome(assertion, TextOutcome(expected.fits(text), text, expected.description()));
}

void report_text(const Assertion& assertion, std::string_view text, const ContainsTexts& expected) {
  bool all_fit = true;
  std::string description;
  for (const ContainsText& one : expected) {
    all_fit = all_fit && one.fits(text);
    description += (description.empty() ? "" : " and ") + one.description();
  }
  report_outcome(assertion, TextOutcome(all_fit, text, description));
}

void report_message(const Assertion& assertion, const ContainsText& expected) {
  report_handled(assertion, [&](const std::string& message) { report_text(assertion, message, expected); });
}

void report_message(const Assertion& assertion, const ContainsTexts& expected) {
  report_handled(assertion, [&](const std::string& message) { report_text(assertion, message, expected); });
}

void report_message(const Assertion& assertion, std::string_view expected) {
  report_handled(assertion, [&](const std::string& message) {
    report_outcome(assertion, TextOutcome(message == expected, message, "equals: " + Catch::Detail::stringify(std::string(expected))));
  });
}

void report_no_exception(const Assertion& assertion) {
  Catch::AssertionHandler handler = handler_of(assertion);
  handler.handleUnexpectedExceptionNotThrown();
  handler.complete();
}

struct Information::Line {
  const char* file;
  std::size_t number;
  std::ostringstream text;
  std::optional<Catch::ScopedMessage> shown;
};

Information::Information(const char* file, std::size_t line) : line_(new Line{file, line, {}, {}}) {}

Information::~Information() = default;

Information& Information::operator<<(const char* text) {
  line_->text << text;
  return *this;
}

std::ostream& Information::stream() { return line_->text; }

void Information::show() {
  Catch::MessageBuilder builder("INFO", Catch::SourceLineInfo(line_->file, line_->number), Catch::ResultWas::Info);
  builder << line_->text.str();
  line_->shown.emplace(std::move(builder));
}

}  // namespace test_support
