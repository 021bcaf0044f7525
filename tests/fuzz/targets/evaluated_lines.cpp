// The lines of an evaluation's single texts, as a run that goes on and --join read them back; before a zero byte, the settings beside them.
#include <algorithm>
#include <iterator>
#include <limits>

#include <support/evaluation_shares.hpp>
#include <support/resumable_lines.hpp>

#include "../harness.hpp"

namespace evaluated_lines {

namespace ex = implicit_attention::examples;

static nlohmann::ordered_json settings() {
  nlohmann::ordered_json all;
  all["program"] = "evaluate";
  all["shard"] = "1/1";
  all["texts"] = 2;
  return all;
}
static const std::vector<fuzz::Index> texts{4, 7};

/// Two methods and a ceiling; no text yet.
static ex::Evaluation empty() {
  ex::Evaluation evaluation;
  evaluation.methods = {{"raw", "all"}, {"random", ""}};
  evaluation.ceilings = {{"shapley", "4 permutations"}};
  return evaluation;
}
/// What came of one text.
static std::string packed(double number) {
  ex::Evaluation one = empty();
  for (auto* methods : {&one.methods, &one.ceilings})
    for (ex::EvaluatedMethod& method : *methods)
      for (std::vector<double>& values : method.values) values.push_back(number);
  one.methods[0].randomized = {{number}, {0.5}};
  one.methods[1].randomized = {{}, {number}};
  one.methods[0].explained = one.methods[0].gaps = {number};
  one.methods[0].texts_with_zero_rows = one.right = 1;
  return ex::packed(one);
}

}  // namespace evaluated_lines

static std::vector<std::string> seeds_of_evaluated_lines() {
  using namespace evaluated_lines;
  const std::string four = ex::evaluated_line(4, packed(0.1)),
                    seven = ex::evaluated_line(7, packed(std::numeric_limits<double>::infinity()));
  const std::string error = "{\"line\":4,\"error\":\"it is too long\"}\n";
  return {four + seven,
          four + seven.substr(0, seven.size() / 2),
          four.substr(0, four.size() / 2),  // a run that goes on has both texts before it
          ex::evaluated_line(4, packed(-1e-300)) + ex::evaluated_line(7, packed(std::numeric_limits<double>::quiet_NaN())),
          error + seven,
          four + "{\"line\":7,\"numbers\":[]}\n" + four,
          settings().dump(1) + std::string(1, '\0') + four + seven,
          R"({"program":"explain","shard":"2/2"})" + std::string(1, '\0') + four};
}

FUZZ_TARGET(evaluated_lines) {
  using namespace evaluated_lines;
  const auto [first, second] = fuzz::split(bytes);
  const bool told = bytes.find('\0') != std::string_view::npos;
  const std::string beside = told ? std::string(first) : settings().dump(1), lines(told ? second : first);
  const std::string path = (fuzz::scratch_folder() / "lines.jsonl").string();
  const auto write = [](const std::string& to, const std::string& text) { std::ofstream(to, std::ios::binary) << text; };
  const auto read = [&] {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  write(path, lines);
  write(ex::settings_path(path), beside);

  const bool joins = fuzz::accepted([&] {
    ex::Evaluation evaluation = empty();
    ex::join_shares(evaluation, ex::shares_of({path}), settings(), texts);
    for (const auto* methods : {&evaluation.methods, &evaluation.ceilings})
      for (const ex::EvaluatedMethod& method : *methods)
        for (const std::vector<double>& values : method.values)
          fuzz::require(values.size() == texts.size(), "what is joined has a number for each text");
    fuzz::require(evaluation.right >= 0 && evaluation.right <= 2, "no more texts are right than there are");
  });

  const std::string whole = lines.substr(0, lines.rfind('\n') + 1);
  const bool goes_on = fuzz::accepted([&] {
    ex::ResumableLines results(path, settings(), texts);
    fuzz::require(read() == whole, "a file that is gone on with loses what stands behind its last line end, and nothing else");
    fuzz::require(results.written() == std::count(whole.begin(), whole.end(), '\n'), "the lines that are there are counted");
    fuzz::require(results.errors() <= results.written(), "an error is a line");
    for (fuzz::Index k = results.written(); k < 2; ++k)
      results.put(k, ex::evaluated_line(texts[static_cast<std::size_t>(k)], packed(0.25)));
  });
  fuzz::require(goes_on || read() == lines, "a file that is refused stays as it was");
  fuzz::require(!joins || (goes_on && read() == lines), "what can be joined is whole, so that going on changes nothing");
  if (goes_on && whole.empty()) {
    ex::Evaluation evaluation = empty();
    ex::join_shares(evaluation, ex::shares_of({path}), settings(), texts);
    ex::Evaluation direct = empty();
    for (std::size_t k = 0; k < texts.size(); ++k) ex::join(direct, packed(0.25));
    fuzz::require(evaluation.right == 2 && ex::packed(evaluation) == ex::packed(direct), "what a run wrote is joined number by number");
  }
  for (const std::string& file : {path, ex::settings_path(path)}) std::filesystem::remove(file);
}
