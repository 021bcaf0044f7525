// The tests' own assertions (support/assertions.hpp): what is false fails, what throws fails and the test goes on, REQUIRE ends it. A case
// tagged [!shouldfail] fails where nothing in it does.
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include <support/catch.hpp>

namespace {

int thrower() { throw std::runtime_error("the reason"); }
int reached = 0;

}  // namespace

TEST_CASE("assertions that hold", "[assertions]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string text = "some text";
  int evaluated = 0;
  CHECK(++evaluated == 1);  // once
  CHECK(evaluated == 1);
  CHECK_FALSE(nan <= 1);
  CHECK(1.0F != 2.0);
  CHECK(text == "some text");
  CHECK((evaluated == 1 && !text.empty()));
  CHECK(std::string("b").compare("a") > 0);
  CHECK(2.0 == Approx(2.1).epsilon(0.1));
  CHECK_THAT(text, contains_text("text") && contains_text("some") && !contains_text("none"));
  CHECK_THAT(text, !contains_text("none"));
  CHECK_THROWS_WITH(thrower(), "the reason");
  CHECK_THROWS_WITH(thrower(), contains_text("reason"));
  CHECK(test_support::text_of<bool>(&(static_cast<const bool&>(true))) == "true");
}

TEST_CASE("a comparison that is false", "[assertions][!shouldfail]") { CHECK(1 + 1 == 3); }
TEST_CASE("a number below NaN", "[assertions][!shouldfail]") { CHECK(0.0 < std::nan("")); }
TEST_CASE("a value that is false", "[assertions][!shouldfail]") { CHECK(std::string("text").empty()); }
TEST_CASE("a value that must not be true", "[assertions][!shouldfail]") { CHECK_FALSE(1 == 1); }
TEST_CASE("a text that lacks another", "[assertions][!shouldfail]") { CHECK_THAT("text", contains_text("none")); }
TEST_CASE("a text that must lack another", "[assertions][!shouldfail]") { CHECK_THAT("text", !contains_text("tex")); }
TEST_CASE("a text that lacks one of two", "[assertions][!shouldfail]") { CHECK_THAT("text", contains_text("ex") && contains_text("none")); }
TEST_CASE("nothing is thrown", "[assertions][!shouldfail]") { CHECK_THROWS_WITH(std::string(), contains_text("")); }
TEST_CASE("something else is thrown", "[assertions][!shouldfail]") { CHECK_THROWS_WITH(thrower(), contains_text("another")); }
TEST_CASE("more than that is thrown", "[assertions][!shouldfail]") { CHECK_THROWS_WITH(thrower(), "the"); }

TEST_CASE("an exception fails, and the test goes on", "[assertions][!shouldfail]") {
  CHECK(thrower() == 1);
  CHECK_THAT(std::string(1, static_cast<char>(thrower())), contains_text("text"));
  reached = 1;
}
TEST_CASE("the end of a test that goes on was reached", "[assertions]") { CHECK(reached == 1); }

TEST_CASE("what is required ends the test", "[assertions][!shouldfail]") {
  REQUIRE(reached == 5);
  reached = 2;
}
TEST_CASE("the end of a test that does not go on was not reached", "[assertions]") { CHECK(reached == 1); }
