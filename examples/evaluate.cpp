// Which explanations tell the truth: attribution methods by metrics of faithfulness, over texts with labels.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <implicit_attention/attribution/methods.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/replaced_file.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/metrics/metrics.hpp>
#include <implicit_attention/models/load.hpp>

#include "support/command_line.hpp"
#include "support/evaluation.hpp"
#include "support/labelled_text.hpp"
#include "support/model_input.hpp"
#include "support/redrawn_tensors.hpp"
#include "support/terminal.hpp"

namespace {

using namespace implicit_attention;
using namespace implicit_attention::examples;

constexpr Index noise_samples = 10;       // captum's default for sensitivity
constexpr double noise_radius = 0.02;     // so is this
constexpr Index integration_steps = 16;   // Gauss-Legendre points
constexpr Index removal_samples = 32;     // random removals for infidelity
constexpr double removal_share = 0.25;    // of the tokens, in each of them

struct Options {
  std::string model, data, methods, terms = "all", remove, reduce = "mean-abs", tokenizer, out;
  std::vector<std::string> prepend, append;
  Index limit = std::numeric_limits<Index>::max();
  std::uint64_t seed = 1;
  bool markdown = false;
};

/// One row of the table, before it is filled.
struct Row {
  Method method;
  std::string terms_name;
  Terms terms;
};

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    parts.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

/// Methods times formulations, for those that depend on them.
std::vector<Row> rows_of(const Options& options) {
  std::vector<Method> methods;
  if (options.methods.empty())
    for (const MethodName& named : method_names) methods.push_back(named.method);
  else
    for (const std::string& name : split(options.methods)) methods.push_back(parse_method(name));
  std::vector<Row> rows;
  for (const Method method : methods) {
    if (!method_info(method).from_attention) {
      rows.push_back({method, "", Terms::all()});
      continue;
    }
    for (std::string name : split(options.terms)) {
      std::string list = name;
      std::replace(list.begin(), list.end(), '+', ',');
      rows.push_back({method, std::move(name), Terms::parse(list)});
    }
  }
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (rows[i].method == rows[j].method && rows[i].terms_name == rows[j].terms_name)
        raise(ErrorKind::value, message("--methods, --terms: ", method_info(rows[i].method).name, " is asked for twice"));
  return rows;
}

/// What the model says about a text or a part of it.
struct Output {
  double difference = 0;   ///< what is explained
  double probability = 0;  ///< of the predicted class among the classes
  Index best = 0;          ///< the likeliest class
};

/// One text in one model.
///
/// The model is given the few rows of its vocabulary that the text needs, under new ids: the classes are 0, 1, ... in the head, and the
/// text's tokens are 0, 1, ... in the embedding, position by position, so that each can have a noise of its own; one more row is what
/// stands for a token that is gone. The numbers are those of the whole vocabulary, and a run costs no more than it must.
class Subject {
 public:
  Subject(std::vector<Index> ids, Index first, Index words, const Classes& classes, Removal removal, std::optional<Index> unknown)
      : ids_(std::move(ids)), first_(first), words_(words), class_tokens_(classes.tokens), removal_(removal), unknown_(unknown) {}

  [[nodiscard]] Index tokens() const { return static_cast<Index>(ids_.size()); }
  [[nodiscard]] Index words() const { return words_; }

  /// The model over this text's own vocabulary; `noise_seed`, if given, perturbs the text's embeddings.
  [[nodiscard]] LanguageModel<float> own_model(const LanguageModel<float>& model, std::optional<std::uint64_t> noise_seed = std::nullopt) const {
    const Index size = std::max(tokens() + 1, static_cast<Index>(class_tokens_.size()));
    Matrix<float> embedding = Matrix<float>::Zero(size, model.width()), head = Matrix<float>::Zero(size, model.width());
    embedding.topRows(tokens()) = model.embed(ids_);
    if (noise_seed) embedding.topRows(tokens()) = perturbed_within<float>(Matrix<float>(embedding.topRows(tokens())), static_cast<float>(noise_radius), *noise_seed);
    if (removal_ == Removal::replace) embedding.row(tokens()) = model.parts().embedding.matrix().row(*unknown_);
    for (std::size_t c = 0; c < class_tokens_.size(); ++c) head.row(static_cast<Index>(c)) = model.parts().head.matrix().row(class_tokens_[c]);
    LanguageModelParts<float> parts = model.parts();
    parts.embedding = std::move(embedding);
    parts.head = std::move(head);
    return LanguageModel<float>(std::move(parts));
  }

  /// Ids in the own vocabulary, without the words that are gone.
  [[nodiscard]] std::vector<Index> own_ids(const KeptTokens& kept) const {
    std::vector<Index> ids;
    for (Index token = 0; token < tokens(); ++token) {
      const bool word = token >= first_ && token < first_ + words_;
      if (!word || kept[static_cast<std::size_t>(token - first_)])
        ids.push_back(token);
      else if (removal_ != Removal::drop)
        ids.push_back(tokens());
    }
    return ids;
  }

  /// The classes' logits. With no token left there are none, and zeros stand for them.
  [[nodiscard]] RowVector<double> logits(const LanguageModel<float>& own, const KeptTokens& kept) const {
    const auto count = static_cast<Index>(class_tokens_.size());
    const std::vector<Index> ids = own_ids(kept);
    if (ids.empty()) return RowVector<double>::Zero(count);
    ForwardOptions forward;
    forward.keep = Keep::logits;
    forward.logit_positions = Indices::last();
    return own.forward(ids, forward).logits.row(0).head(count).cast<double>();
  }

  /// What is explained: the class predicted from the whole text against the next likeliest.
  void choose_target(const RowVector<double>& whole) {
    if (!whole.allFinite()) raise(ErrorKind::value, "the logits are not finite numbers; are there NaN or infinities in the weights?");
    Index best = 0, next = -1;
    whole.maxCoeff(&best);
    for (Index c = 0; c < whole.size(); ++c)
      if (c != best && (next < 0 || whole[c] > whole[next])) next = c;
    target_ = {tokens() - 1, best, next};
  }
  [[nodiscard]] const Target& target() const { return target_; }

  [[nodiscard]] Output output(const RowVector<double>& logits) const {
    Output output;
    output.difference = logits[target_.token] - logits[*target_.contrast];
    const double largest = logits.maxCoeff(&output.best);
    output.probability = std::exp(logits[target_.token] - largest) / (logits.array() - largest).exp().sum();
    return output;
  }

  /// What the methods are to be told. Integrated gradients begin where leave-one-out ends: at the embedding of a token that is gone.
  [[nodiscard]] MethodOptions<float> method_options(const LanguageModel<float>& own, const Row& row, ReductionKind reduction, std::uint64_t seed) const {
    MethodOptions<float> options;
    options.integration_steps = integration_steps;
    options.baseline = RowVector<float>(own.parts().embedding.matrix().row(tokens()));
    options.terms = row.terms;
    options.reduction = reduction;
    options.removal = removal_;
    options.replacement = tokens();
    options.seed = seed;
    return options;
  }
  /// All tokens, in the own vocabulary.
  [[nodiscard]] std::vector<Index> whole_ids() const { return own_ids(KeptTokens(static_cast<std::size_t>(words_), true)); }
  /// The words' part of scores of all tokens.
  [[nodiscard]] Scores words_of(const RowVector<float>& scores) const { return Scores(scores.segment(first_, words_)); }

 private:
  std::vector<Index> ids_;
  Index first_, words_;
  std::vector<Index> class_tokens_;
  Removal removal_;
  std::optional<Index> unknown_;
  Target target_;
};

/// Everything that stays the same from text to text.
struct Setting {
  LanguageModel<float> model;
  std::vector<LanguageModel<float>> redrawn;  ///< stage by stage
  std::vector<Row> rows;
  ReductionKind reduction;
};

/// The scores of every row in one model; `draw` numbers the draws of random scores.
std::vector<Attribution<float>> explain_all(const Setting& setting, const Subject& subject, LanguageModel<float> own, std::uint64_t draw) {
  ForwardOptions forward;
  forward.logit_positions = Indices::last();
  Explainer<float> explainer(std::move(own), subject.whole_ids(), forward);
  std::vector<Attribution<float>> answers;
  for (const Row& row : setting.rows) answers.push_back(explainer.explain(row.method, subject.target(), subject.method_options(explainer.model(), row, setting.reduction, draw)));
  return answers;
}

/// All metrics of all rows for one text.
void evaluate_text(const Setting& setting, Subject& subject, Index label, std::uint64_t seed, Evaluation& evaluation) {
  const LanguageModel<float> own = subject.own_model(setting.model);
  RememberedModel logits([&](const KeptTokens& kept) { return subject.logits(own, kept); });
  const RowVector<double> whole = logits(KeptTokens(static_cast<std::size_t>(subject.words()), true));
  subject.choose_target(whole);
  evaluation.right += subject.target().token == label ? 1 : 0;
  RememberedModel output([&](const KeptTokens& kept) { return subject.output(logits(kept)); });
  const auto difference = [&](const KeptTokens& kept) { return output(kept).difference; };
  const auto probability = [&](const KeptTokens& kept) { return output(kept).probability; };
  const auto accuracy = [&](const KeptTokens& kept) { return output(kept).best == label ? 1.0 : 0.0; };
  const std::vector<KeptTokens> removals = random_perturbations(subject.words(), removal_samples, removal_share, seed);
  const Scores effects = leave_one_out_effects(subject.words(), difference);

  // Scores of this text, of it under noise, and of it in the shuffled models.
  std::uint64_t draw = seed;
  const std::vector<Attribution<float>> answers = explain_all(setting, subject, own, draw);
  std::vector<std::vector<Attribution<float>>> noisy, redrawn;
  for (Index sample = 0; sample < noise_samples; ++sample)
    noisy.push_back(explain_all(setting, subject, subject.own_model(setting.model, seed + static_cast<std::uint64_t>(sample)), ++draw));
  for (const LanguageModel<float>& stage : setting.redrawn) redrawn.push_back(explain_all(setting, subject, subject.own_model(stage), ++draw));

  for (std::size_t row = 0; row < setting.rows.size(); ++row) {
    EvaluatedMethod& method = evaluation.methods[row];
    const Scores scores = subject.words_of(answers[row].scores);
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
    add(metric_sensitivity, sensitivity_max(scores, noise_samples, [&](Index sample) { return subject.words_of(noisy[static_cast<std::size_t>(sample)][row].scores); }));
    const auto at_stage = [&](Index stage) { return stage == 0 ? scores : subject.words_of(redrawn[static_cast<std::size_t>(stage - 1)][row].scores); };
    const RandomizationCheck check = randomized_model_check(static_cast<Index>(redrawn.size()), at_stage);
    add(metric_randomized, check.absolute_similarity.back());
    method.randomized.resize(redrawn.size());
    for (std::size_t stage = 0; stage < redrawn.size(); ++stage) method.randomized[stage].push_back(check.absolute_similarity[stage]);
    const Attribution<float>& answer = answers[row];
    if (!std::isnan(answer.explained)) {
      method.explained.push_back(std::abs(static_cast<double>(answer.explained)));
      method.gaps.push_back(std::abs(static_cast<double>(answer.scores.sum() + answer.bias_share + answer.baseline - answer.explained)));
    }
    method.texts_with_zero_rows += answer.zero_rows.empty() ? 0 : 1;
    method.texts_with_constant_layers += answer.constant_layers.empty() ? 0 : 1;
  }
}

Removal removal_of(const std::string& name) { return name == "unk" ? Removal::replace : name == "zero" ? Removal::zero : Removal::drop; }

/// Token ids of names; without any, `<cls>` for the end where the vocabulary has it.
std::vector<Index> extra_tokens(const std::vector<std::string>& names, const Tokenizer& tokenizer, bool usual_end) {
  std::vector<Index> ids;
  for (const std::string& name : names)
    if (!name.empty()) ids.push_back(tokenizer.id(name));
  if (names.empty() && usual_end)
    if (const std::optional<Index> end = tokenizer.vocabulary().id("<cls>")) ids.push_back(*end);
  return ids;
}

Evaluation evaluate(const Options& options, std::vector<Row> rows) {
  const auto begin = std::chrono::steady_clock::now();
  const LoadedModel<float> loaded = LoadedModel<float>::open(options.model, options.tokenizer);
  const Tokenizer& tokenizer = loaded.tokenizer;
  const std::vector<LabelledText> all = read_labelled_texts(options.data);
  const Classes classes = classes_of(all, tokenizer);
  const std::vector<LabelledText> texts = some_texts(all, options.limit, options.seed);
  const std::vector<Index> prefix = extra_tokens(options.prepend, tokenizer, false), suffix = extra_tokens(options.append, tokenizer, true);

  Evaluation evaluation;
  const std::optional<Index> unknown = tokenizer.vocabulary().id("<unk>");
  evaluation.removal = !options.remove.empty() ? options.remove : unknown ? "unk" : "zero";
  if (evaluation.removal == "unk" && !unknown) raise(ErrorKind::value, message("--remove: ", options.model, " has no <unk> in its vocabulary, expected zero or drop"));
  evaluation.model = options.model;
  evaluation.architecture = architecture_text(loaded.model.name());
  evaluation.data = std::filesystem::path(options.data).filename().string();
  evaluation.reduce = options.reduce;
  evaluation.seed = options.seed;
  evaluation.texts = static_cast<Index>(texts.size());
  for (const Row& row : rows) evaluation.methods.push_back({std::string(method_info(row.method).name), row.terms_name});

  Setting setting{loaded.model, {}, std::move(rows), parse_reduction(options.reduce)};
  const SafetensorsSource<float> tensors(options.model);
  const Configuration configuration = read_configuration(options.model);
  for (Index first_layer = loaded.model.layer_count() - 1; first_layer >= -1; --first_layer)
    setting.redrawn.push_back(load_language_model<float>(RedrawnTensors<float>(tensors, first_layer, options.seed), configuration));

  ProgressBar bar(message("evaluate ", evaluation.architecture), evaluation.texts);
  for (const LabelledText& text : texts) {
    std::vector<Index> ids = prefix;
    std::vector<Index> words;
    try {
      words = tokenizer.encode(text.text);
    } catch (const Error& error) {
      raise(error.kind(), message(options.data, ":", text.line, ": ", error.what()));
    }
    ids.insert(ids.end(), words.begin(), words.end());
    ids.insert(ids.end(), suffix.begin(), suffix.end());
    Subject subject(std::move(ids), static_cast<Index>(prefix.size()), static_cast<Index>(words.size()), classes, removal_of(evaluation.removal), unknown);
    evaluate_text(setting, subject, classes.of(text.label), options.seed * 1'000'003U + 1000U * static_cast<std::uint64_t>(text.line), evaluation);
    bar.advance();
  }
  bar.finish();
  evaluation.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return evaluation;
}

void write(const std::string& path, const std::string& text) {
  ReplacedFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

}  // namespace

int main(int argument_count, char** arguments) {
  Options options;
  CLI::App app("Measures which explanations of a language model are faithful: attribution methods by metrics, over texts with labels.", "evaluate");
  std::string names;
  for (const MethodName& named : method_names) names += (names.empty() ? "" : ",") + std::string(named.name);
  app.add_option("--model", options.model, "a folder with config.json and model.safetensors")->option_text("DIR")->required();
  app.add_option("--data", options.data,
                 "a text a line, its label in front and a tab or a space between; labels 0 and 1 are the tokens negative and positive where the vocabulary has "
                 "them, else labels are tokens or ids")
      ->option_text("FILE")
      ->required();
  app.add_option("--methods", options.methods, "which methods (all): " + names)->option_text("LIST");
  app.add_option("--terms", options.terms, "formulations for the methods from attention (all), several with commas between: recurrence, published, all, or terms joined by +")
      ->option_text("LIST");
  app.add_option("--limit", options.limit, "no more than this many of the texts, drawn by the seed (all)")->check(CLI::PositiveNumber)->option_text("N");
  app.add_option("--seed", options.seed, "for everything drawn: texts, removals, noise, random scores, shuffled weights, intervals (1)")->option_text("S");
  app.add_option("--remove", options.remove, "how a token is taken away: replaced by <unk> (where the vocabulary has it), by an embedding of zeros, or dropped")
      ->check(CLI::IsMember({"unk", "zero", "drop"}))
      ->option_text("unk|zero|drop");
  app.add_option("--reduce", options.reduce, "raw, rollout: how a layer's channels are joined (mean-abs)")
      ->check(CLI::IsMember({"mean", "mean-abs", "mean-positive"}))
      ->option_text("mean|mean-abs|mean-positive");
  app.add_option("--tokenizer", options.tokenizer, "how text becomes tokens; without it, by what the directory holds")
      ->check(CLI::IsMember({"bytes", "symbols", "words"}))
      ->option_text("bytes|symbols|words");
  app.add_option("--prepend", options.prepend, "a token by its name before each text; never taken away; may be repeated")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->option_text("TOKEN");
  app.add_option("--append", options.append, "the same after each text (<cls> where the vocabulary has it; \"\" for none)")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->option_text("TOKEN");
  app.add_flag("--markdown", options.markdown, "tables in Markdown");
  app.add_option("--out", options.out, "means, intervals, and differences to random and between formulations, paired by text")->option_text("FILE.json");
  app.footer("Explained is the class that the model predicts: its logit less that of the next likeliest class.\n\n"
             "Example:\n  evaluate --model examples/models/mamba --data sst2.test --terms recurrence,published,all --limit 300 --out mamba.json\n");

  return run_program(app, argument_count, arguments, [&] {
    std::vector<Row> rows = rows_of(options);
    if (app.count("--out") > 0) (void)checked_output("--out", options.out, {".json"});
    const Evaluation evaluation = evaluate(options, std::move(rows));
    if (!options.out.empty()) write(options.out, evaluation_json(evaluation));
    const Terminal terminal = terminal_of(stdout);
    std::fputs((options.markdown ? evaluation_markdown(evaluation) : evaluation_text(evaluation, terminal.interactive ? terminal.width : 0)).c_str(), stdout);
    if (!options.out.empty() && !options.markdown) std::printf("\nWritten to %s\n", options.out.c_str());
  });
}
