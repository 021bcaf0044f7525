// Operations that relevance has no rule for, in what the example programs write: a model that has one is made by hand.
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <io/files.hpp>
#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/evaluation.hpp>
#include <support/explanation_files.hpp>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/safetensors.hpp>

namespace {

using namespace implicit_attention;
using namespace implicit_attention::examples;
using Names = std::vector<std::string>;

Explanation explained(const std::vector<std::pair<std::string, Names>>& methods) {
  Explanation explanation;
  explanation.ids = {1, 2};
  explanation.labels = {"a", "film"};
  explanation.logits = Matrix<double>::Zero(2, 3);
  ExplainedTarget target;
  target.predictions = {{2, "film", 0.5}};
  for (const auto& [name, untreated] : methods) {
    Answer answer;
    answer.method = name;
    answer.scores = {0.25, 0.5};
    answer.untreated = untreated;
    target.answers.push_back(std::move(answer));
  }
  explanation.targets = {std::move(target)};
  return explanation;
}

}  // namespace

TEST_CASE("what relevance has no rule for stands in the files of an explanation, and nothing where it has rules for all", "[explain]") {
  const Names operations{"softplus_of", "norm"};
  const auto line = [](const Explanation& explanation) { return nlohmann::json::parse(json_line(1, explanation)); };
  CHECK(line(explained({{"relevance", operations}})).at("untreated") == operations);
  CHECK_FALSE(line(explained({{"relevance", {}}})).contains("untreated"));
  const Explanation two = explained({{"relevance", operations}, {"raw", {}}});
  CHECK(line(two).at("untreated.relevance") == operations);
  CHECK_FALSE(line(two).contains("untreated.raw"));

  // Of tokens that the model wrote, of all together.
  Explanation written = explained({{"relevance", {"norm"}}});
  written.targets.push_back(explained({{"relevance", operations}}).targets.front());
  written.written.emplace();
  CHECK(line(written).at("untreated") == Names{"norm", "softplus_of"});

  const io_test::TemporaryFolder folder;
  const ExplanationOptions question;
  write_json((folder / "one.json").string(), question, two);
  CHECK(nlohmann::json::parse(io_test::read_bytes(folder / "one.json")).at("untreated.relevance") == operations);
  write_tensors((folder / "one.safetensors").string(), question, two);
  CHECK(SafetensorsFile(folder / "one.safetensors").metadata().at("untreated.relevance") == "softplus_of, norm");
}

TEST_CASE("what relevance has no rule for is joined over the texts of an evaluation", "[evaluate]") {
  Evaluation empty;
  for (const char* name : {"raw", "relevance"}) {
    EvaluatedMethod method;
    method.method = name;
    empty.methods.push_back(std::move(method));
  }
  Evaluation all = empty;
  for (const Names& operations : {Names{}, Names{"norm"}, Names{"norm", "softplus_of"}}) {
    Evaluation one = empty;
    one.methods[1].untreated = operations;
    CHECK((packed(one).size() == packed(empty).size()) == operations.empty());
    join(all, packed(one));
  }
  CHECK(all.methods[0].untreated.empty());
  CHECK(all.methods[1].untreated == Names{"norm", "softplus_of"});
  const nlohmann::json results = nlohmann::json::parse(evaluation_json(all)).at("results");
  CHECK_FALSE(results.at(0).contains("untreated"));
  CHECK(results.at(1).at("untreated") == Names{"norm", "softplus_of"});

  // Of another row than there is, cut short, and no name at all.
  const auto bytes = [](std::vector<double> numbers) {
    return std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(double));
  };
  for (const auto& [numbers, words] : {std::pair(std::vector<double>{0}, "there are more numbers than this evaluation has"),
                                       {{-1, 2, 1, 97}, "a count is 2, expected a whole number from 0 to 1"},
                                       {{-1, 1, 3, 97}, "a count is 3, expected a whole number from 0 to 2"},
                                       {{-1, 1, 1, 300}, "a count is 300, expected a whole number from 0 to 127"},
                                       {{-1, 1}, "there are fewer numbers than this evaluation has"}}) {
    Evaluation one = empty;
    const std::string after = bytes(numbers);
    CHECK_THAT(test_support::what_of([&] { join(one, packed(empty) + after); }), contains_text(words));
  }
}
