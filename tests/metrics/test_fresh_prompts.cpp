// Prompts of associative recall that no file holds: drawn here, their causes found by running the model with one token replaced, and the
// methods held against them.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/metrics/known_cause.hpp>
#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/models/load.hpp>

namespace {

using namespace implicit_attention;
namespace fs = std::filesystem;
using Words = std::vector<Index>;

/// What the tokens of a recall model are: `? `, keys, values and words without a meaning.
struct Language {
  Index ask = 0;
  Words keys, values, noise;
  Index fewest = 0, most_noise = 0;  ///< pairs, noise words
};

Words range(Index first, Index count) {
  Words words;
  for (Index word = first; word < first + count; ++word) words.push_back(word);
  return words;
}

/// One question of a prompt: the answer behind `position` is copied from `source`, behind `address`.
struct Question {
  Index position, answer, source, address;
};
struct Prompt {
  Words ids;
  std::vector<Question> questions;
};

/// The same numbers everywhere: std::shuffle and the distributions differ from library to library.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : engine_(seed) {}
  Index below(Index count) { return static_cast<Index>(engine_() % static_cast<std::uint64_t>(count)); }
  template <class One>
  std::vector<One> shuffled(std::vector<One> all) {
    for (std::size_t left = all.size(); left > 1; --left)
      std::swap(all[left - 1], all[static_cast<std::size_t>(below(static_cast<Index>(left)))]);
    return all;
  }

 private:
  std::mt19937_64 engine_;
};

/// `key value key value ... ? key key ...`, noise words between the pairs, every key asked for once.
Prompt draw_prompt(const Language& language, Dice& dice) {
  const Index pairs = language.fewest + dice.below(7 - language.fewest);
  const Words keys = dice.shuffled(language.keys), values = dice.shuffled(language.values);
  std::vector<Words> pieces;
  for (std::size_t pair = 0; pair < static_cast<std::size_t>(pairs); ++pair) pieces.push_back({keys[pair], values[pair]});
  for (Index noise = dice.below(language.most_noise + 1); noise > 0; --noise)
    pieces.push_back({language.noise[static_cast<std::size_t>(dice.below(static_cast<Index>(language.noise.size())))]});
  Prompt prompt;
  for (const Words& piece : dice.shuffled(pieces)) prompt.ids.insert(prompt.ids.end(), piece.begin(), piece.end());
  prompt.ids.push_back(language.ask);
  for (const Index key : dice.shuffled(Words(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(pairs)))) {
    const Index address = std::find(prompt.ids.begin(), prompt.ids.end(), key) - prompt.ids.begin();
    prompt.questions.push_back(
        {static_cast<Index>(prompt.ids.size()), prompt.ids[static_cast<std::size_t>(address + 1)], address + 1, address});
    prompt.ids.push_back(key);
  }
  return prompt;
}

Index answer_at(const ForwardPass<float>& pass, Index position) {
  Index answer = 0;
  pass.logits_at(position).row(0).maxCoeff(&answer);
  return answer;
}

/// Counts for one model on fresh prompts.
struct Found {
  Index questions = 0, right = 0, source_trials = 0, follow = 0, other_trials = 0, moved = 0;
  std::map<Method, double> area;  ///< of the source against tokens that were replaced and changed nothing, summed over right answers
};

Found on_fresh_prompts(const fs::path& directory, const Language& language, Index prompts, std::uint64_t seed) {
  const LanguageModel<float> model = load_language_model(SafetensorsSource<float>(directory), read_configuration(directory));
  ForwardOptions answers;
  answers.keep = Keep::logits;
  answers.logit_positions = Indices::all();
  Dice dice(seed);
  Found found;
  for (Index drawn = 0; drawn < prompts; ++drawn) {
    const Prompt prompt = draw_prompt(language, dice);
    const ForwardPass<float> as_it_is = model.forward(prompt.ids, answers);
    std::vector<Target> targets;
    std::vector<MarkedTokens> sources, negatives, causes;
    std::vector<Question> asked;
    for (const Question& question : prompt.questions) {
      ++found.questions;
      if (answer_at(as_it_is, question.position) != question.answer) continue;
      asked.push_back(question);
      targets.push_back({question.position, question.answer, std::nullopt});
      MarkedTokens none(static_cast<std::size_t>(question.position) + 1, false), source = none;
      source[static_cast<std::size_t>(question.source)] = true;
      sources.push_back(source);
      negatives.push_back(none);  // a token without a trial is no negative
      causes.push_back(none);
    }
    found.right += static_cast<Index>(asked.size());
    if (asked.empty()) continue;
    for (std::size_t token = 0; token < prompt.ids.size(); ++token)
      for (const Words& kind : {language.keys, language.values, language.noise, Words{language.ask}}) {
        if (std::find(kind.begin(), kind.end(), prompt.ids[token]) == kind.end()) continue;
        for (const Index other : kind.size() == 1 ? language.noise : kind) {
          if (std::find(prompt.ids.begin(), prompt.ids.end(), other) != prompt.ids.end()) continue;
          Words ids = prompt.ids;
          ids[token] = other;
          const ForwardPass<float> changed = model.forward(ids, answers);
          for (std::size_t n = 0; n < asked.size(); ++n) {
            if (static_cast<Index>(token) >= asked[n].position) continue;
            const Index now = answer_at(changed, asked[n].position);
            if (sources[n][token]) {
              ++found.source_trials;
              found.follow += now == other ? 1 : 0;
            } else if (static_cast<Index>(token) != asked[n].address) {
              const bool moved = now != asked[n].answer;
              ++found.other_trials;
              found.moved += moved ? 1 : 0;
              if (moved) causes[n][token] = true;
              negatives[n][token] = !causes[n][token];
            }
          }
        }
      }
    Explainer<float> explainer(model, prompt.ids);
    for (const Method method : {Method::relevance, Method::vector_rollout, Method::relevance_attention, Method::random}) {
      const Matrix<float> scores = explainer.explain_each(method, targets).scores;
      for (std::size_t n = 0; n < asked.size(); ++n)
        found.area[method] +=
            area_under_roc(Scores(scores.row(static_cast<Index>(n)).head(asked[n].position + 1)), sources[n], negatives[n]);
    }
  }
  return found;
}

void check_found(const Found& found, double least) {
  INFO(found.right << " of " << found.questions << " answers right, " << found.follow << " of " << found.source_trials
                   << " follow the source, " << found.moved << " of " << found.other_trials << " follow another token");
  CHECK(static_cast<double>(found.right) >= 0.995 * static_cast<double>(found.questions));
  REQUIRE(found.source_trials > 0);
  REQUIRE(found.other_trials > 0);
  CHECK(found.follow == found.source_trials);
  CHECK(found.moved == 0);
  for (const auto& [method, sum] : found.area) {
    const double area = sum / static_cast<double>(found.right);
    INFO(method_info(method).name << " " << area);
    if (method == Method::random)
      CHECK(area == Approx(0.5).margin(0.08));
    else
      CHECK(area >= least);
  }
}

}  // namespace

TEST_CASE("fresh prompts of the recall models that are not shipped", "[known-cause][realdata]") {
  const auto [name, least] =
      GENERATE(table<std::string, double>({{"recall-mamba", 0.998}, {"recall-rwkv4", 0.999}, {"recall-griffin", 0.999}}));
  const auto directory = test_support::shared_data("realdata/" + name);
  if (!directory) {
    WARN(test_support::shared_data_missing("realdata/" + name));
    return;
  }
  INFO(name);
  check_found(on_fresh_prompts(*directory, {1, range(2, 8), range(10, 8), range(18, 4), 3, 5}, 40, 7), least);
}

TEST_CASE("fresh prompts of the recall models that are shipped", "[known-cause]") {
  const auto [name, least] = GENERATE(table<std::string, double>({{"mamba", 0.998}, {"rwkv4", 0.999}, {"griffin", 0.99}}));
  INFO(name);
  const fs::path directory = fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "examples" / "models" / "recall" / name;
  check_found(on_fresh_prompts(directory, {2, range(3, 8), range(11, 8), range(19, 4), 4, 3}, 40, 8), least);
}
