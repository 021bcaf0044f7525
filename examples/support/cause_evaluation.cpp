#include "cause_evaluation.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/metrics/cached_model.hpp>
#include <implicit_attention/metrics/ceilings.hpp>
#include <implicit_attention/metrics/known_cause.hpp>

#include "command_line.hpp"
#include "model_input.hpp"
#include "progress.hpp"
#include "working.hpp"

namespace implicit_attention::examples {
namespace {

/// The two sets of one comparison, one flag per token of the prefix.
struct ComparedSets {
  MarkedTokens causes, against;
};

std::array<ComparedSets, comparison_count> compared_sets(const KnownCause& cause, const std::vector<Index>& ids,
                                                         const std::set<Index>& source_tokens) {
  const MarkedTokens none(cause.negatives.size(), false);
  const auto only = [&](Index token) {
    MarkedTokens flags = none;
    flags[static_cast<std::size_t>(token)] = true;
    return flags;
  };
  MarkedTokens alike = cause.negatives;
  for (std::size_t token = 0; token < alike.size(); ++token) alike[token] = alike[token] && source_tokens.count(ids[token]) != 0;
  const MarkedTokens source = only(cause.source), address = cause.address ? only(*cause.address) : none;
  std::array<ComparedSets, comparison_count> sets;
  sets[source_against_negatives] = {source, cause.negatives};
  sets[source_against_alike] = {source, std::move(alike)};
  sets[source_against_all] = {source, all_others(source)};
  sets[address_against_negatives] = {address, cause.negatives};
  return sets;
}

Scores with_sign(Scores scores, ScoreSign sign) {
  if (sign == ScoreSign::absolute) return scores.absolute();
  if (sign == ScoreSign::as_is) return scores;
  std::vector<double> positive = scores.numbers();
  for (double& score : positive) score = std::max(score, 0.0);
  return positive;
}

/// Everything that stays the same from prompt to prompt.
struct CauseSetting {
  LanguageModel<float> model;
  const std::vector<MethodRow>& rows;
  MethodOptions<float> how;
  ScoreSign sign;
  std::set<Index> source_tokens;
  Index permutations;
};

/// One output's scores by one method, compared.
void compare(const CauseSetting& setting, const std::vector<Index>& ids, const KnownCause& cause, const Scores& scores,
             CauseMethod& method) {
  const Scores ranked = with_sign(scores, setting.sign);
  const auto sets = compared_sets(cause, ids, setting.source_tokens);
  for (std::size_t comparison = 0; comparison < comparison_count; ++comparison) {
    const auto& [marked, against] = sets[comparison];
    auto& values = method.values[comparison];
    values[cause_auc].push_back(area_under_roc(ranked, marked, against));
    values[cause_top_one].push_back(top_one(ranked, marked, against));
    values[cause_average_precision].push_back(average_precision(ranked, marked, against));
  }
}

/// Shapley values of every output of a prompt; one run on a set of tokens serves all outputs.
void compare_shapley(const CauseSetting& setting, const std::vector<Index>& ids, const std::vector<const KnownCause*>& causes,
                     std::uint64_t seed, const Executor& executor, CauseMethod& method) {
  const LanguageModel<float>& model = setting.model;
  const Matrix<float> whole = model.embed(ids);
  const Matrix<float> removed = setting.how.removal == Removal::replace ? model.embed({setting.how.replacement})
                                                                        : Matrix<float>(Matrix<float>::Zero(1, model.width()));
  std::vector<Index> positions;
  for (const KnownCause* cause : causes) positions.push_back(cause->position);
  CachedModel logits([&](const KeptTokens& kept) {
    Matrix<float> embeddings = whole;
    for (std::size_t token = 0; token < kept.size(); ++token)
      if (!kept[token]) embeddings.row(static_cast<Index>(token)) = removed.row(0);
    ForwardOptions forward;
    forward.keep = Keep::logits;
    forward.logit_positions = Indices(positions);
    forward.executor = executor;
    const ForwardPass<float> pass = model.forward_embeddings(embeddings, forward);
    std::vector<float> values;
    for (const KnownCause* cause : causes) values.push_back(pass.logits_at(cause->position)(0, cause->target));
    return values;
  });
  for (std::size_t output = 0; output < causes.size(); ++output) {
    const Scores all = shapley_values(
        static_cast<Index>(ids.size()), [&](const KeptTokens& kept) { return logits(kept)[output]; }, setting.permutations, seed);
    const auto seen = static_cast<std::ptrdiff_t>(causes[output]->position) + 1;
    compare(setting, ids, *causes[output], std::vector<double>(all.numbers().begin(), all.numbers().begin() + seen), method);
  }
}

/// Of the results of a prompt those of all prompts so far.
void append(CauseEvaluation& all, const CauseEvaluation& one) {
  all.prompt_of.insert(all.prompt_of.end(), one.prompt_of.begin(), one.prompt_of.end());
  all.predicted += one.predicted;
  const auto append_rows = [](std::vector<CauseMethod>& to, const std::vector<CauseMethod>& from) {
    for (std::size_t row = 0; row < to.size(); ++row) {
      detail::append_new(to[row].untreated, from[row].untreated);
      const auto append_numbers = [](std::vector<double>& numbers, const std::vector<double>& more) {
        numbers.insert(numbers.end(), more.begin(), more.end());
      };
      append_numbers(to[row].explained, from[row].explained);
      append_numbers(to[row].gaps, from[row].gaps);
      for (std::size_t comparison = 0; comparison < comparison_count; ++comparison)
        for (std::size_t metric = 0; metric < cause_metric_count; ++metric)
          append_numbers(to[row].values[comparison][metric], from[row].values[comparison][metric]);
    }
  };
  append_rows(all.methods, one.methods);
  append_rows(all.ceilings, one.ceilings);
}

/// All outputs of one prompt.
void evaluate_prompt(const CauseSetting& setting, const std::vector<Index>& prompt, const std::vector<const KnownCause*>& causes,
                     std::uint64_t seed, const Executor& executor, CauseEvaluation& evaluation, ProgressBar& bar) {
  std::vector<Target> targets;
  std::set<Index> positions;
  for (const KnownCause* cause : causes) {
    targets.push_back({cause->position, cause->target, std::nullopt});
    positions.insert(cause->position);
  }
  ForwardOptions forward;  // no output sees what stands behind the last one
  forward.logit_positions = std::vector<Index>(positions.begin(), positions.end());
  forward.executor = executor;
  const std::vector<Index> ids(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(*positions.rbegin()) + 1);
  Explainer<float> explainer(setting.model, ids, forward);
  for (const KnownCause* cause : causes) {
    evaluation.prompt_of.push_back(cause->prompt);
    evaluation.predicted += explainer.most_likely(cause->position) == cause->target ? 1 : 0;
  }
  for (std::size_t row = 0; row < setting.rows.size(); ++row) {
    CauseMethod& method = evaluation.methods[row];
    MethodOptions<float> how = setting.how;
    how.terms = setting.rows[row].terms;
    Matrix<float> scores;
    if (setting.rows[row].method == Method::random) {  // each output has draws of its own
      scores.resize(static_cast<Index>(causes.size()), static_cast<Index>(ids.size()));
      for (Index output = 0; output < scores.rows(); ++output) {
        how.seed = seed + static_cast<std::uint64_t>(output);
        scores.row(output) = explainer.explain(Method::random, targets[static_cast<std::size_t>(output)], how).scores;
      }
    } else {
      const AttributionMatrix<float> answers = explainer.explain_each(setting.rows[row].method, targets, how);
      scores = answers.scores;
      detail::append_new(method.untreated, answers.untreated);
      for (Index output = 0; output < scores.rows(); ++output) {
        if (std::isnan(answers.explained(output))) continue;
        const float sum = scores.row(output).sum() + answers.bias_share(output) + answers.baseline(output);
        method.explained.push_back(std::abs(static_cast<double>(answers.explained(output))));
        method.gaps.push_back(std::abs(static_cast<double>(sum - answers.explained(output))));
      }
    }
    for (std::size_t output = 0; output < causes.size(); ++output) {
      const KnownCause& cause = *causes[output];
      compare(setting, ids, cause, Scores(scores.row(static_cast<Index>(output)).head(cause.position + 1)), method);
    }
    bar.advance();
  }
  if (setting.permutations > 0) {
    compare_shapley(setting, ids, causes, seed, executor, evaluation.ceilings.front());
    bar.advance();
  }
}

}  // namespace

const std::array<CauseComparison, comparison_count>& cause_comparisons() {
  static constexpr std::array<CauseComparison, comparison_count> comparisons = {{
      {"source_against_negatives", "Source against negatives",
       "the token that the output copies, against those that were shown to change nothing"},
      {"source_against_alike", "Source against negatives of its kind",
       "the same, against those negatives alone whose token is the source of some output of the file"},
      {"source_against_all", "Source against all other tokens",
       "against every other token up to the explained position: also the address and the explained token itself, causes of another kind"},
      {"address_against_negatives", "Address against negatives",
       "the token that says where the source stands, against those that change nothing"},
  }};
  return comparisons;
}

const std::array<CauseMetric, cause_metric_count>& cause_metrics() {
  static constexpr std::array<CauseMetric, cause_metric_count> metrics = {{
      {"auc", "AUC", "share of the tokens compared against that score below the cause, ties counted half; random: 0.5"},
      {"top_1", "top-1", "share of outputs whose cause has the highest score of all compared, ties shared"},
      {"average_precision", "AP", "average precision: with one cause 1 / its rank, ranked last among equals"},
  }};
  return metrics;
}

ScoreSign parse_score_sign(const std::string& text) {
  if (text == "signed") return ScoreSign::as_is;
  if (text == "positive") return ScoreSign::positive;
  if (text == "absolute") return ScoreSign::absolute;
  detail::raise(ErrorKind::value, "--scores: \"", text, "\", expected signed, positive or absolute");
}

MeanInterval CauseEvaluation::mean(const CauseMethod& method, std::size_t comparison, std::size_t metric) const {
  return bootstrap_mean_by_group(method.values[comparison][metric], prompt_of, seed);
}

MeanInterval CauseEvaluation::difference(const CauseMethod& a, const CauseMethod& b, std::size_t comparison, std::size_t metric) const {
  const std::vector<double>&of_a = a.values[comparison][metric], &of_b = b.values[comparison][metric];
  std::vector<double> differences;
  for (std::size_t output = 0; output < of_a.size(); ++output) differences.push_back(of_a[output] - of_b[output]);
  return bootstrap_mean_by_group(differences, prompt_of, seed);
}

bool CauseEvaluation::has(std::size_t comparison) const {
  return std::any_of(methods.begin(), methods.end(), [&](const CauseMethod& method) {
    const std::vector<double>& values = method.values[comparison][cause_auc];
    return std::any_of(values.begin(), values.end(), [](double value) { return !std::isnan(value); });
  });
}

CauseEvaluation evaluate_causes(const CauseOptions& options, const std::vector<MethodRow>& rows) {
  const auto begin = std::chrono::steady_clock::now();
  const KnownCauses causes = read_known_causes(options.causes);
  CauseEvaluation evaluation;
  std::optional<Index> unknown;
  const LoadedModel<float> loaded = LoadedModel<float>::open(options.model, options.tokenizer, std::nullopt, [&](const Tokenizer& opened) {
    check_vocabulary(causes, opened.vocabulary_size());
    unknown = opened.find("<unk>");
    evaluation.removal = removal_name(options.remove, unknown.has_value(), options.model);
    // With tokens dropped, sets of them have their outputs at other positions: no ceiling then.
    if (evaluation.removal == "drop" && options.permutations > 0)
      detail::raise(ErrorKind::value, "--permutations: with --remove drop there is no ceiling, expected 0");
  });
  if (!loaded.model.causal())
    detail::raise(ErrorKind::value, "--causes: ", loaded.model.name(), " looks at later tokens, expected a causal model");
  CauseSetting setting{loaded.model, rows, {}, parse_score_sign(options.scores), {}, options.permutations};
  setting.how.reduction = parse_reduction(options.reduce);
  setting.how.removal = removal_named(evaluation.removal);
  if (setting.how.removal == Removal::replace) {
    setting.how.replacement = *unknown;
    setting.how.baseline = detail::row_of(loaded.model.parts().embedding, *unknown);
  }
  options.integration.set(setting.how, loaded.model);
  evaluation.model = options.model;
  evaluation.architecture = architecture_text(loaded.model.name());
  evaluation.causes = std::filesystem::path(options.causes).filename().string();
  evaluation.integration = options.integration;
  evaluation.reduce = options.reduce;
  evaluation.scores = options.scores;
  evaluation.seed = options.seed;
  evaluation.unread = causes.unread;
  for (const MethodRow& row : rows) evaluation.methods.push_back({std::string(method_info(row.method).name), row.terms_name});
  if (setting.permutations > 0) evaluation.ceilings.push_back({"shapley", detail::message(setting.permutations, " permutations")});

  std::vector<std::vector<const KnownCause*>> by_prompt(causes.prompts.size());
  for (const KnownCause& cause : causes.rows) {
    by_prompt[static_cast<std::size_t>(cause.prompt)].push_back(&cause);
    setting.source_tokens.insert(causes.prompts[static_cast<std::size_t>(cause.prompt)][static_cast<std::size_t>(cause.source)]);
  }
  std::vector<std::size_t> asked;  // prompts with something to explain
  for (std::size_t prompt = 0; prompt < by_prompt.size(); ++prompt)
    if (!by_prompt[prompt].empty()) asked.push_back(prompt);
  const std::vector<std::size_t> chosen = drawn(asked.size(), options.limit, options.seed);
  evaluation.prompts = static_cast<Index>(chosen.size());

  ProgressBar bar(detail::message("explain ", evaluation.architecture),
                  evaluation.prompts * static_cast<Index>(rows.size() + (setting.permutations > 0 ? 1 : 0)));
  keep_freed_memory();
  ThreadPool pool(options.threads);
  std::vector<CauseEvaluation> of_prompts(chosen.size(), evaluation);
  for_each_piece(pool, evaluation.prompts, [&](Index piece, const Executor& executor) {
    const std::size_t place = static_cast<std::size_t>(piece), prompt = asked[chosen[place]];
    try {
      evaluate_prompt(setting, causes.prompts[prompt], by_prompt[prompt],
                      options.seed * 1'000'003U + 1000U * static_cast<std::uint64_t>(prompt), executor, of_prompts[place], bar);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::value) refuse_weights_not_finite<float>(options.model);  // which names the tensor
      throw;
    }
  });
  bar.finish();
  for (const CauseEvaluation& one : of_prompts) append(evaluation, one);
  evaluation.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return evaluation;
}

}  // namespace implicit_attention::examples
