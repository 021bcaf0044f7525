// Which explanations tell the truth: attribution methods by metrics of faithfulness, over texts with labels.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/metrics/metrics.hpp>
#include <implicit_attention/models/load.hpp>

#include "support/cause_evaluation.hpp"
#include "support/cause_report.hpp"
#include "support/command_line.hpp"
#include "support/evaluated_methods.hpp"
#include "support/evaluated_text.hpp"
#include "support/evaluation.hpp"
#include "support/evaluation_shares.hpp"
#include "support/labelled_text.hpp"
#include "support/layer_maps.hpp"
#include "support/memory.hpp"
#include "support/methods_asked.hpp"
#include "support/model_files.hpp"
#include "support/model_input.hpp"
#include "support/numbers.hpp"
#include "support/ranks.hpp"
#include "support/redrawn_tensors.hpp"
#include "support/resumable_lines.hpp"
#include "support/shard.hpp"
#include "support/progress.hpp"
#include "support/terminal.hpp"
#include "support/working.hpp"
#include "support/write_file.hpp"

namespace {

using namespace implicit_attention;
using namespace implicit_attention::examples;

constexpr Index noise_samples = 10;     // captum's default for sensitivity
constexpr Index removal_samples = 32;   // random removals for infidelity
constexpr double removal_share = 0.25;  // of the tokens, in each of them

struct Options {
  std::string model, data, causes, methods, terms = "all", remove, baseline = "removed", reduce = "mean-abs", scores = "signed", tokenizer,
                                            out;
  std::optional<std::string> shard;
  std::vector<std::string> prepend, append, joined;
  Index limit = std::numeric_limits<Index>::max();
  Index steps = 0;  ///< 0: as many as the tolerance takes
  Index edges = 150, permutations = 32, repeated = std::numeric_limits<Index>::max();
  std::uint64_t seed = 1;
  bool markdown = false;
  int threads = 0;  ///< 0: all cores that the process may use
};

/// Everything that stays the same from text to text.
struct Setting {
  std::string path;  ///< of the model
  LanguageModel<float> model;
  std::vector<LanguageModel<float>> redrawn;  ///< stage by stage
  std::vector<MethodRow> rows;
  ReductionKind reduction;
  IntegrationPath integration;
};

/// The scores of every row in one model, with the text's own vocabulary; `draw` numbers the draws of random scores.
std::vector<Attribution<float>> explain_all(const Setting& setting, const EvaluatedText& subject, const LanguageModel<float>& whole,
                                            LanguageModel<float> own, std::uint64_t draw, const Executor& executor) {
  ForwardOptions forward;
  forward.executor = executor;
  Explainer<float> explainer(std::move(own), subject.whole_ids(), forward);
  std::vector<Attribution<float>> answers;
  for (const MethodRow& row : setting.rows) {
    MethodOptions<float> how = subject.method_options(explainer.model(), row.terms, setting.reduction, draw);
    setting.integration.set(how, whole);
    answers.push_back(explainer.explain(row.method, subject.target(), how));
  }
  return answers;
}

/// All metrics of all rows for one text; those that explain it many times only if it is `repeated`.
void evaluate_text(const Setting& setting, EvaluatedText& subject, Index label, const MarkedTokens& marked, bool repeated,
                   std::uint64_t seed, const Executor& executor, Evaluation& evaluation) {
  const LanguageModel<float> own = subject.own_model(setting.model);
  CachedModel logits([&](const KeptTokens& kept) {
    RowVector<double> made = subject.logits(own, kept, executor);
    if (!detail::all_finite(made)) {
      refuse_weights_not_finite<float>(setting.path);
      detail::raise(ErrorKind::value, "the logits are not finite numbers, though all weights are");
    }
    return made;
  });
  const RowVector<double> whole = logits(KeptTokens(static_cast<std::size_t>(subject.words()), true));
  subject.choose_target(whole);
  evaluation.right += subject.target().token == label ? 1 : 0;
  CachedModel output([&](const KeptTokens& kept) { return subject.output(logits(kept)); });
  const auto difference = [&](const KeptTokens& kept) { return output(kept).difference; };
  const auto probability = [&](const KeptTokens& kept) { return output(kept).probability; };
  const auto accuracy = [&](const KeptTokens& kept) { return output(kept).best == label ? 1.0 : 0.0; };
  const std::vector<KeptTokens> removals = random_perturbations(subject.words(), removal_samples, removal_share, seed);
  const Scores effects = leave_one_out_effects(subject.words(), difference);

  constexpr double not_defined = std::numeric_limits<double>::quiet_NaN();

  // Everything that is asked of scores alone.
  const auto measure = [&](EvaluatedMethod& method, const Scores& scores) {
    const auto add = [&](std::size_t metric, double value) { method.values[metric].push_back(value); };
    add(metric_positive, positive_perturbation(scores, accuracy));
    add(metric_negative, negative_perturbation(scores, accuracy));
    add(metric_activation, activation(scores, probability));
    add(metric_pruning, pruning(scores, difference));
    const Rationale rationale = comprehensiveness_and_sufficiency(scores, probability);
    add(metric_comprehensiveness, rationale.comprehensiveness);
    add(metric_sufficiency, rationale.sufficiency);
    add(metric_flipping, flipping_difference(scores, difference));
    add(metric_leave_one_out, spearman(scores, effects));
    add(metric_infidelity, relative_infidelity(scores, removals, difference));
    add(metric_marked_precision, marked.empty() ? not_defined : average_precision(scores, marked));
    add(metric_marked_overlap, marked.empty() ? not_defined : top_k_overlap(scores, marked));
  };

  // Scores of this text, of it under noise, and of it in the shuffled models.
  std::uint64_t draw = seed;
  const std::vector<Attribution<float>> answers = explain_all(setting, subject, setting.model, own, draw, executor);
  std::vector<std::vector<Attribution<float>>> noisy, redrawn;
  if (repeated) {
    for (Index sample = 0; sample < noise_samples; ++sample)
      noisy.push_back(explain_all(setting, subject, setting.model,
                                  subject.own_model(setting.model, seed + static_cast<std::uint64_t>(sample)), ++draw, executor));
    for (const LanguageModel<float>& stage : setting.redrawn)
      redrawn.push_back(explain_all(setting, subject, stage, subject.own_model(stage), ++draw, executor));
  }

  for (std::size_t row = 0; row < setting.rows.size(); ++row) {
    EvaluatedMethod& method = evaluation.methods[row];
    const Scores scores = subject.words_of(answers[row].scores);
    measure(method, scores);
    method.values[metric_sensitivity].push_back(not_defined);
    method.values[metric_randomized].push_back(not_defined);
    if (repeated) {
      method.values[metric_sensitivity].back() = sensitivity_max(
          scores, noise_samples, [&](Index sample) { return subject.words_of(noisy[static_cast<std::size_t>(sample)][row].scores); });
      const auto at_stage = [&](Index stage) {
        return stage == 0 ? scores : subject.words_of(redrawn[static_cast<std::size_t>(stage - 1)][row].scores);
      };
      const RandomizationCheck check = randomized_model_check(static_cast<Index>(redrawn.size()), at_stage);
      method.values[metric_randomized].back() = check.absolute_similarity.back();
      method.randomized.resize(redrawn.size());
      for (std::size_t stage = 0; stage < redrawn.size(); ++stage) method.randomized[stage].push_back(check.absolute_similarity[stage]);
    }
    const Attribution<float>& answer = answers[row];
    if (!std::isnan(answer.explained)) {
      method.explained.push_back(std::abs(static_cast<double>(answer.explained)));
      method.gaps.push_back(std::abs(static_cast<double>(answer.scores.sum() + answer.bias_share + answer.baseline - answer.explained)));
    }
    detail::append_new(method.untreated, answer.untreated);
    method.texts_with_zero_rows += answer.zero_rows.empty() ? 0 : 1;
    method.texts_with_constant_layers += answer.constant_layers.empty() ? 0 : 1;
  }

  if (evaluation.permutations > 0) {
    EvaluatedMethod &shapley = evaluation.ceilings[0], &greedy = evaluation.ceilings[1];
    measure(shapley, shapley_values(subject.words(), difference, evaluation.permutations, seed));
    greedy.values[metric_flipping].push_back(greedy_flipping_difference(subject.words(), difference));
    greedy.values[metric_pruning].push_back(greedy_pruning(subject.words(), difference));
    for (EvaluatedMethod* ceiling : {&shapley, &greedy})
      for (std::vector<double>& values : ceiling->values) values.resize(shapley.values[metric_flipping].size(), not_defined);
  }
  if (evaluation.edges > 0)
    knock_out(own, subject.whole_ids(), subject.target(), setting.reduction, evaluation.edges, seed, executor, evaluation.maps);
}

/// Token ids of names; without any, `<cls>` for the end where the vocabulary has it.
std::vector<Index> extra_tokens(std::string_view option, const std::vector<std::string>& names, const Tokenizer& tokenizer,
                                bool usual_end) {
  std::vector<Index> ids;
  for (const std::string& name : names)
    if (!name.empty()) ids.push_back(token_named(option, name, tokenizer));
  if (names.empty() && usual_end)
    if (const std::optional<Index> end = tokenizer.find("<cls>")) ids.push_back(*end);
  return ids;
}

/// The texts of a run with their tokens, and the model.
struct Texts {
  std::vector<LabelledText> texts;
  std::vector<std::vector<Index>> words;  ///< of each text, without what is put around it
  std::vector<Index> prefix, suffix;
  Classes classes;
  std::optional<Index> unknown;
  std::string state;  ///< of the file

  [[nodiscard]] Index count() const { return static_cast<Index>(texts.size()); }
};

/// Every error in the texts and options is reported before weights are read.
LoadedModel<float> open_model(const Options& options, Texts& texts, Evaluation& evaluation) {
  const TextLines file(options.data);
  texts.state = bytes_state(file.bytes());
  const std::vector<LabelledText> all = read_labelled_texts(file, options.data);
  texts.texts = some_texts(all, options.limit, options.seed);
  return LoadedModel<float>::open(options.model, options.tokenizer, std::nullopt, [&](const Tokenizer& opened) {
    for (const LabelledText& text : texts.texts) {
      try {
        texts.words.push_back(opened.encode(text.text, false));
        opened.check(texts.words.back());
      } catch (const Error& error) {
        detail::raise(error.kind(), options.data, ":", text.line, ": ", error.what());
      }
      static_cast<void>(marked_words(options.data, text, static_cast<Index>(texts.words.back().size())));
    }
    texts.classes = classes_of(all, opened);
    texts.prefix = extra_tokens("--prepend", options.prepend, opened, false);
    texts.suffix = extra_tokens("--append", options.append, opened, true);
    texts.unknown = opened.find("<unk>");
    evaluation.removal = removal_name(options.remove, texts.unknown.has_value(), options.model);
  });
}

/// An evaluation without any text yet.
void begin_evaluation(const Options& options, const std::vector<MethodRow>& rows, const LanguageModel<float>& model, Index texts,
                      Evaluation& evaluation) {
  evaluation.model = options.model;
  evaluation.architecture = architecture_text(model.name());
  evaluation.data = std::filesystem::path(options.data).filename().string();
  evaluation.integration = {options.baseline, options.steps};
  evaluation.reduce = options.reduce;
  evaluation.seed = options.seed;
  evaluation.texts = texts;
  for (const MethodRow& row : rows) evaluation.methods.push_back({std::string(method_info(row.method).name), row.terms_name});
  evaluation.edges = options.edges;
  evaluation.permutations = options.permutations;
  evaluation.repeated = std::min(options.repeated, evaluation.texts);
  if (evaluation.permutations > 0) {
    evaluation.ceilings.push_back({"shapley", detail::message(evaluation.permutations, " permutations")});
    evaluation.ceilings.push_back({"greedy", "search"});
  }
  if (evaluation.edges > 0) {
    if (!model.causal()) detail::raise(ErrorKind::value, "--edges: ", model.name(), " looks at later tokens, expected --edges 0");
    evaluation.maps = map_rows(rows, options.terms);
    evaluation.layers_without_maps = layers_without_knock_out(model);
  }
}

/// All that the results of single texts depend on.
nlohmann::ordered_json settings_of(const Options& options, const Texts& texts, const Evaluation& evaluation, const std::string& shard) {
  nlohmann::ordered_json settings = input_settings(options.model, options.tokenizer);
  settings["program"] = "evaluate";
  settings["data"] = texts.state;
  settings["shard"] = shard;
  settings["methods"] = options.methods;
  settings["terms"] = options.terms;
  settings["texts"] = evaluation.texts;
  settings["seed"] = options.seed;
  settings["remove"] = evaluation.removal;
  settings["baseline"] = options.baseline;
  settings["steps"] = options.steps;
  settings["reduce"] = options.reduce;
  settings["edges"] = options.edges;
  settings["permutations"] = options.permutations;
  settings["repeated"] = evaluation.repeated;
  settings["prepend"] = options.prepend;
  settings["append"] = options.append;
  return settings;
}

/// Evaluates the texts from `begin` to `end`, those of all processes; `take` gets what came of each, in the first process, one at a time
/// and in any order.
void evaluate_texts(const Options& options, const Setting& setting, const Texts& texts, const Evaluation& empty, Index begin, Index end,
                    Ranks& ranks, const std::function<void(Index, const std::string&)>& take) {
  ProgressBar bar(detail::message("evaluate ", empty.architecture), end - begin);
  const auto evaluated = [&](Index k, const Executor& executor) {
    const LabelledText& text = texts.texts[static_cast<std::size_t>(k)];
    const std::vector<Index>& words = texts.words[static_cast<std::size_t>(k)];
    std::vector<Index> ids = texts.prefix;
    ids.insert(ids.end(), words.begin(), words.end());
    ids.insert(ids.end(), texts.suffix.begin(), texts.suffix.end());
    Evaluation one = empty;
    const MarkedTokens marked = marked_words(options.data, text, static_cast<Index>(words.size()));
    EvaluatedText subject(std::move(ids), static_cast<Index>(texts.prefix.size()), static_cast<Index>(words.size()), texts.classes,
                          removal_named(empty.removal), texts.unknown);
    // Evenly spread: every text where all are repeated.
    const bool repeated = (k + 1) * empty.repeated / empty.texts > k * empty.repeated / empty.texts;
    evaluate_text(setting, subject, texts.classes.of(text.label), marked, repeated,
                  options.seed * 1'000'003U + 1000U * static_cast<std::uint64_t>(text.line), executor, one);
    return packed(one);
  };
  ThreadPool pool(ranks.threads(options.threads));
  if (ranks.count() == 1) {  // each result is taken as soon as it is there
    std::mutex turn;
    for_each_piece(pool, end - begin, [&](Index i, const Executor& executor) {
      const std::string result = evaluated(begin + i, executor);
      const std::lock_guard<std::mutex> lock(turn);
      take(begin + i, result);
      bar.advance();
    });
  } else {
    const auto several = [&](const std::vector<Index>& pieces) {
      std::vector<std::string> results(pieces.size());
      for_each_piece(pool, static_cast<Index>(pieces.size()), [&](Index i, const Executor& executor) {
        const auto place = static_cast<std::size_t>(i);
        results[place] = evaluated(pieces[place], executor);
      });
      return results;
    };
    const auto cost = [&](Index k) { return static_cast<Index>(texts.words[static_cast<std::size_t>(k)].size()) + 1; };
    ranks.share(begin, end, 4 * pool.workers(), cost, several, [&](Index k, const std::string& result) {
      take(k, result);
      bar.advance();
    });
  }
  bar.finish();
}

/// Says which options are given that none of the methods looks at. Maps of layers, where there are edges, look at the first two.
void note_options_without_effect(const CLI::App& app, const std::vector<MethodRow>& rows, bool with_maps) {
  std::vector<std::string> names;
  for (const MethodRow& row : rows) detail::append_new(names, {std::string(method_info(row.method).name)});
  const auto note = [&](const char* option, const char* what_for, const auto& looks_at_it, bool maps = false) {
    if (!given(app, option) || maps) return;
    if (std::any_of(rows.begin(), rows.end(), [&](const MethodRow& row) { return looks_at_it(row.method); })) return;
    std::fprintf(stderr, "evaluate: %s has no effect on %s: it is for %s\n", option, joined(names, ", ").c_str(), what_for);
  };
  note(
      "--terms", "methods made of the implicit attention, such as vector-rollout",
      [](Method method) { return method_info(method).from_attention; }, with_maps);
  note(
      "--reduce", "raw and rollout", [](Method method) { return method == Method::raw || method == Method::rollout; }, with_maps);
  for (const char* const option : {"--baseline", "--steps"})
    note(option, "integrated-gradients", [](Method method) { return method == Method::integrated_gradients; });
}

Shard share_of(const Options& options) { return options.shard ? Shard::parse(*options.shard) : Shard(); }

/// Evaluates the texts; with --shard or a file of lines only a share of them, whose results are written and are no evaluation yet; with
/// --join none, and joins those of files.
std::optional<Evaluation> evaluate(const Options& options, const std::vector<MethodRow>& rows, bool lines, Ranks& ranks) {
  const auto begin = std::chrono::steady_clock::now();
  const EvaluationShares shares = shares_of(options.joined);
  Texts texts;
  Evaluation evaluation;
  const LoadedModel<float> loaded = open_model(options, texts, evaluation);
  begin_evaluation(options, rows, loaded.model, texts.count(), evaluation);
  std::vector<Index> numbers;
  for (const LabelledText& text : texts.texts) numbers.push_back(text.line);
  const Evaluation empty = evaluation;
  const auto finished = [&] {
    evaluation.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return evaluation;
  };
  if (!options.joined.empty()) {
    join_shares(evaluation, shares, settings_of(options, texts, evaluation, ""), numbers);
    return finished();
  }

  const Shard shard = share_of(options);
  const Index first = shard.begin(evaluation.texts), last = shard.end(evaluation.texts);
  std::optional<ResumableLines> results;
  if (lines && ranks.first())
    results.emplace(options.out, settings_of(options, texts, evaluation, shard.text()),
                    std::vector<Index>(numbers.begin() + first, numbers.begin() + last));
  const Index found = lines ? ranks.from_first(results ? results->written() : 0) : 0;
  Setting setting{options.model, loaded.model, {}, rows, parse_reduction(options.reduce), {options.baseline, options.steps}};
  const Checkpoint<float> checkpoint = open_checkpoint<float>(options.model);
  for (Index first_layer = loaded.model.layer_count() - 1; first_layer >= -1 && evaluation.repeated > 0 && first + found < last;
       --first_layer)
    setting.redrawn.push_back(
        load_language_model<float>(RedrawnTensors<float>(*checkpoint.source, first_layer, options.seed), checkpoint.configuration));
  for (const std::string& line : class_lines(texts.classes, loaded.tokenizer)) std::fprintf(stderr, "%s\n", line.c_str());
  keep_freed_memory();
  if (!lines) {
    std::vector<std::string> of_texts(texts.texts.size());
    evaluate_texts(options, setting, texts, empty, first, last, ranks,
                   [&](Index k, const std::string& result) { of_texts[static_cast<std::size_t>(k)] = result; });
    for (const std::string& result : of_texts)
      if (ranks.first()) join(evaluation, result);
    return finished();
  }
  evaluate_texts(options, setting, texts, empty, first + found, last, ranks, [&](Index k, const std::string& result) {
    results->put(k - first, evaluated_line(numbers[static_cast<std::size_t>(k)], result));
  });
  if (ranks.first())
    std::printf("%s%s evaluated%s\n", grouped(last - first).c_str(), last - first == 1 ? " text" : " texts",
                found > 0 ? detail::message(", ", grouped(found), " of the results were there already").c_str() : "");
  return std::nullopt;
}

}  // namespace

int main(int argument_count, char** arguments) {
  Options options;
  CLI::App app(
      "Measures which explanations of a language model are faithful: attribution methods by metrics, over texts with labels, or over "
      "prompts "
      "whose causes are known.",
      "evaluate");
  app.add_option("--model", options.model, "a model's folder as it was downloaded, or one file of weights")
      ->option_text("DIR|FILE")
      ->required();
  app.add_option("--data", options.data,
                 "one text a line: its label, a tab or a space, and the text; labels 0 and 1 are the tokens negative and positive where "
                 "the vocabulary has them, else labels are all tokens or all ids, and a word needs the tab; after another tab, the words "
                 "that people marked, if any: 0,5-7")
      ->option_text("FILE");
  app.add_option(
         "--causes", options.causes,
         "in place of --data: prompts with the token that causes each output, as arrays input_ids, length, prompt, position, target, "
         "source, address, negatives; gives AUC, top-1 and average precision")
      ->option_text("FILE.safetensors");
  app.add_option("--methods", options.methods,
                 "which methods (all but edge-map, which is about single edges: its maps are held against those that --data knocks out): " +
                     joined(attribution_method_names(), ","))
      ->check(not_empty())
      ->option_text("LIST");
  add_terms_option(app, options.terms, true);
  app.add_option("--limit", options.limit, "at most this many of the texts or prompts, drawn at random by the seed (all)")
      ->check(at_least(1))
      ->option_text("N");
  app.add_option("--seed", options.seed,
                 "the seed of everything random: texts, removals, noise, random scores, shuffled weights, intervals (1)")
      ->check(at_least(0))
      ->option_text("S");
  app.add_option("--remove", options.remove,
                 "how a token is taken away: replaced by <unk> (where the vocabulary has it), by an embedding of zeros, or dropped")
      ->check(one_of({"unk", "zero", "drop"}))
      ->option_text("unk|zero|drop");
  app.add_option("--baseline", options.baseline,
                 "integrated gradients: where the path begins: at what stands for a token that is taken away (removed; zeros where it is "
                 "dropped), at embeddings of zero (zero), or at the mean embedding (mean)")
      ->check(one_of({"removed", "zero", "mean"}))
      ->option_text("removed|zero|mean");
  add_steps_option(app, options.steps);
  app.add_option("--reduce", options.reduce, "raw, rollout: how a layer's channels are combined (mean-abs)")
      ->check(one_of({"mean", "mean-abs", "mean-positive"}))
      ->option_text("mean|mean-abs|mean-positive");
  app.add_option("--scores", options.scores,
                 "--causes: what is ranked, scores as they are (signed), their positive part, or their absolute value")
      ->check(one_of({"signed", "positive", "absolute"}))
      ->option_text("signed|positive|absolute");
  app.add_option(
         "--edges", options.edges,
         "--data: at most this many edges are knocked out in each layer of a text, as a reference for maps of layers; 0: none (150)")
      ->check(at_least(0))
      ->option_text("N");
  app.add_option(
         "--permutations", options.permutations,
         "upper bounds to compare methods with: Shapley values from this many permutations a text, and with --data a greedy search; "
         "0: none (32; with --causes 0, since they take most of the time)")
      ->check(between(0, 100000))
      ->option_text("N");
  app.add_option("--repeated", options.repeated,
                 "--data: texts, evenly spread, for the metrics that explain a text many times, sensitivity and redrawn (all)")
      ->check(at_least(0))
      ->option_text("N");
  add_tokenizer_option(app, options.tokenizer);
  add_surrounding_options(app, options.prepend, options.append, "a token by its name before each text; never taken away; may be repeated",
                          "the same after each text (<cls> where the vocabulary has it; \"\" for none)");
  app.add_option(
         "--shard", options.shard,
         "--data: only the I-th of N shares of the texts; the result of each text is a line of --out FILE.jsonl, from which an interrupted "
         "run resumes; --join makes the evaluation")
      ->option_text("I/N");
  app.add_option("--join", options.joined,
                 "--data: instead of evaluating, combine the files that --shard wrote, those of all shares; give the other options again")
      ->check(not_empty())
      ->expected(1, 1'000'000)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->option_text("FILE.jsonl...");
  add_threads_option(app, options.threads, true);
  app.add_flag("--markdown", options.markdown, "tables in Markdown");
  app.add_option("--out", options.out,
                 "means, intervals, and differences to random and between formulations, paired by text; .jsonl: the result of each text")
      ->option_text("FILE.json|FILE.jsonl");
  app.footer(
      "With --data, explained is the class that the model predicts: its logit less that of the next likeliest class. With --causes, it is "
      "the logit of the target.\n\n"
      "Examples:\n  evaluate --model examples/models/mamba --data sst2.test --terms recurrence,published,all --limit 300 --out "
      "mamba.json\n  evaluate --model recall-mamba --causes recall-mamba/causes.safetensors --methods relevance,vector-rollout,raw\n"
      "  evaluate --model MODEL --data sst2.test --shard 2/8 --out part.2.jsonl\n"
      "  evaluate --model MODEL --data sst2.test --join part.*.jsonl --out model.json\n");

  return run_program(app, argument_count, arguments, [&] {
    std::vector<MethodRow> rows = method_rows(options.methods, options.terms);
    std::string ending;
    if (given(app, "--out")) {
      std::vector<std::string> inputs{options.model, options.causes.empty() ? options.data : options.causes, options.tokenizer};
      inputs.insert(inputs.end(), options.joined.begin(), options.joined.end());
      ending = given(app, "--causes") || given(app, "--join") ? checked_output("--out", options.out, {".json"}, inputs)
                                                              : checked_output("--out", options.out, {".json", ".jsonl"}, inputs);
    }
    const bool lines = ending == ".jsonl";
    if (given(app, "--shard") && given(app, "--join")) detail::raise(ErrorKind::value, "--shard and --join exclude each other");
    static_cast<void>(share_of(options));
    if (given(app, "--shard") && !lines)
      detail::raise(ErrorKind::value, "--shard: a share's results go to a file, expected --out FILE.jsonl");
    if (lines && options.markdown)
      detail::raise(ErrorKind::value, "--markdown: there is no table of single texts; --join makes one of the files of all shares");
    Ranks ranks;
    ranks.run([&] {
      if (!options.out.empty() && ranks.first()) try_output("--out", options.out);
    });
    Terminal terminal = terminal_of(stdout);
    if (ranks.count() > 1) terminal.interactive = false;  // mpirun reads what is printed, and may do so through a terminal of its own
    const auto answer = [&](const std::string& json, const std::string& markdown, const std::string& text) {
      if (!options.out.empty()) write_file(options.out, json);
      if (options.markdown)
        std::fputs(markdown.c_str(), stdout);
      else
        print(text, terminal);
    };
    if (given(app, "--causes")) {
      for (const char* other : {"--data", "--prepend", "--append", "--edges", "--repeated", "--shard", "--join"})
        if (given(app, other)) detail::raise(ErrorKind::value, other, " and --causes exclude each other");
      if (ranks.count() > 1)
        detail::raise(ErrorKind::value,
                      "--causes: one process evaluates prompts, and mpirun started more; only the texts of --data are shared");
      if (!given(app, "--permutations")) options.permutations = 0;
      const CauseEvaluation evaluation = evaluate_causes({options.model,
                                                          options.causes,
                                                          options.tokenizer,
                                                          options.remove,
                                                          {options.baseline, options.steps},
                                                          options.reduce,
                                                          options.scores,
                                                          options.limit,
                                                          options.permutations,
                                                          options.seed,
                                                          options.threads},
                                                         rows);
      answer(cause_json(evaluation), cause_markdown(evaluation), cause_text(evaluation));
    } else {
      if (!given(app, "--data")) detail::raise(ErrorKind::value, "there is nothing to evaluate on: expected --data FILE or --causes FILE");
      if (given(app, "--scores"))
        detail::raise(ErrorKind::value, "--scores goes with --causes: --data's metrics say which scores they rank");
      ranks.run([&] {
        const std::optional<Evaluation> evaluation = evaluate(options, rows, lines, ranks);
        if (evaluation && ranks.first())
          answer(evaluation_json(*evaluation), evaluation_markdown(*evaluation),
                 evaluation_text(*evaluation, terminal.interactive ? terminal.width : 0));
      });
    }
    if (ranks.first()) note_options_without_effect(app, rows, !given(app, "--causes") && options.edges > 0);
    if (!options.out.empty() && !options.markdown) std::printf("%sWritten to %s\n", lines ? "" : "\n", options.out.c_str());
  });
}
