// Which known name an unknown one is taken for, in messages.
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/nearest_name.hpp>

using implicit_attention::examples::nearest_name;
using implicit_attention::examples::perhaps;

TEST_CASE("a misspelt name has its nearest one") {
  const std::vector<std::string> names{"raw", "rollout", "gradient", "gradient-mean", "relevance", "integrated-gradients", "leave-one-out"};
  CHECK(nearest_name("relevence", names) == "relevance");
  CHECK(nearest_name("Relevance", names) == "relevance");
  CHECK(nearest_name("RAW", names) == "raw");
  CHECK(nearest_name("rolout", names) == "rollout");
  CHECK(nearest_name("leave_one_out", names) == "leave-one-out");
  CHECK(nearest_name("integrated", names) == "integrated-gradients");  // its beginning
  CHECK(nearest_name("gradients", names) == "gradient");               // the nearest of two
}

TEST_CASE("another word has none") {
  const std::vector<std::string> names{"raw", "rollout", "relevance"};
  for (const char* word : {"", "max", "lime", "shap", "r", "ro", "attention"}) {
    CAPTURE(word);
    CHECK(nearest_name(word, names).empty());
  }
  CHECK(nearest_name("raw", names).empty());  // it is known: something else is wrong
  CHECK(nearest_name(std::string(1000, 'r'), names).empty());
  CHECK(nearest_name("relevance", {}).empty());
  CHECK(nearest_name("rel", {std::string(1000, 'r')}).empty());
}

TEST_CASE("a message says it in one clause") {
  CHECK(perhaps("methods", {"method", "model"}, "--") == ", perhaps --method is meant");
  CHECK(perhaps("colour", {"method", "model"}, "--").empty());
}
