// Runs language models on a text, says what they predict or lets them write, and shows which tokens they looked at.
#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/text.hpp>

#include "support/command_line.hpp"
#include "support/explanation.hpp"
#include "support/explanation_files.hpp"
#include "support/explanation_view.hpp"
#include "support/many_texts.hpp"
#include "support/methods_asked.hpp"
#include "support/numbers.hpp"
#include "support/ranks.hpp"
#include "support/terminal.hpp"

namespace {

using namespace implicit_attention;
using namespace implicit_attention::examples;

struct Options {
  std::vector<std::string> models;
  ExplanationOptions question;
  std::string picture = "strips", out, title, data, shard;
  Index longest = 0;
  bool all_logits = false;
};

/// Fails (value) where two options are given that mean nothing together.
void check_combinations(const CLI::App& app) {
  const auto exclude = [&](const char* option, const char* why, std::initializer_list<const char*> others) {
    if (!given(app, option)) return;
    for (const char* const other : others)
      if (given(app, other)) detail::raise(ErrorKind::value, option, " and ", other, " exclude each other: ", why);
  };
  exclude("--data", "the texts are a file's, and results a line of numbers each",
          {"--text", "--tokens", "--generate", "--picture", "--title", "--all-logits", "--save-gradients"});
  exclude("--generate", "each token that the model writes is explained", {"--position", "--target", "--save-gradients"});
  for (const char* const option : {"--shard", "--longest"})
    if (given(app, option) && !given(app, "--data")) detail::raise(ErrorKind::value, option, ": is about the texts of --data FILE");
}

/// The method where none is named: one that the other options are about, and that has maps where they are to be drawn.
std::string default_method(const CLI::App& app, bool maps) {
  if (given(app, "--reduce")) return "raw";  // which of the methods it can be about needs one row a layer
  for (const char* const option : {"--baseline", "--steps"}) {
    if (!given(app, option)) continue;
    if (given(app, "--layer"))
      detail::raise(ErrorKind::value, option,
                    " and --layer exclude each other: it is for integrated-gradients, which goes through all layers");
    return "integrated-gradients";
  }
  if (given(app, "--heads")) return maps ? "edge-map" : "relevance-attention";
  const bool of_a_token = given(app, "--target") || given(app, "--contrast") || given(app, "--generate");
  if (!of_a_token || maps) return "contribution-norms";
  if (given(app, "--layer")) return "relevance-attention";
  return given(app, "--terms") ? "vector-rollout" : "relevance";
}

/// Says, when the work is done, which options are given that none of the methods looks at.
void note_options_without_effect(const CLI::App& app, const ExplanationOptions& question) {
  const std::vector<NamedMethod> methods = methods_of(question);
  std::vector<std::string> list;
  for (const NamedMethod& named : methods) list.push_back(named.name);
  const std::string names = joined(list, ", ");
  const auto note = [&](std::initializer_list<const char*> options, const char* what_for, const auto& looks_at_it) {
    if (std::any_of(methods.begin(), methods.end(), [&](const NamedMethod& named) { return looks_at_it(named.method); })) return;
    for (const char* const option : options)
      if (given(app, option)) std::fprintf(stderr, "explain: %s has no effect on %s: it is for %s\n", option, names.c_str(), what_for);
  };
  note({"--target", "--contrast"}, "methods that explain a token's logit, such as relevance",
       [](Method method) { return !method_info(method).of_position; });
  note({"--terms"}, "methods made of the implicit attention, such as vector-rollout",
       [](Method method) { return method_info(method).from_attention; });
  note({"--reduce"}, "raw and rollout", [](Method method) { return method == Method::raw || method == Method::rollout; });
  note({"--baseline", "--steps"}, "integrated-gradients", [](Method method) { return method == Method::integrated_gradients; });
}

/// Explains one text and shows it.
void explain_one(Options options, const CLI::App& app) {
  std::vector<std::string> inputs = options.models;
  inputs.insert(inputs.end(), {options.question.sequence.text.value_or(""), options.question.sequence.tokens.value_or(""),
                               options.question.sequence.tokenizer});
  const std::string ending = options.out.empty() ? "" : checked_output("--out", options.out, {".png", ".json", ".safetensors"}, inputs);
  if (!options.out.empty()) try_output("--out", options.out);
  const bool numbers = ending == ".json" || ending == ".safetensors";
  for (const char* const option : {"--picture", "--title"})
    if (ending != ".png" && given(app, option)) detail::raise(ErrorKind::value, option, ": is about a picture, expected --out FILE.png");
  if (options.all_logits && !numbers)
    detail::raise(ErrorKind::value, "--all-logits: logits are written to a file of numbers, expected --out FILE.json or FILE.safetensors");
  if (options.models.size() > 1 && numbers)
    detail::raise(ErrorKind::value, "--out: ", ending, " holds one model's numbers, and --model names ", options.models.size());
  if (options.question.gradients && ending != ".safetensors")
    detail::raise(ErrorKind::value,
                  "--save-gradients: gradients are written to a .safetensors file alone, expected --out FILE.safetensors");
  options.question.all_logits = options.all_logits || ending == ".safetensors";
  const Picture picture{options.out, options.title, options.picture == "maps"};
  options.question.needs_maps = ending == ".png" && picture.maps;
  options.question.maps = numbers || options.question.needs_maps;
  if (ending == ".json") options.question.largest_map = 128;  // a map of 512 tokens would be three megabytes of text

  std::vector<Explanation> explanations;
  for (const std::string& directory : options.models) explanations.push_back(explain(options.question, directory));
  if (ending == ".png") draw(picture, options.question, explanations);
  if (ending == ".json") write_json(options.out, options.question, explanations.front());
  if (ending == ".safetensors") write_tensors(options.out, options.question, explanations.front());
  const Terminal terminal = terminal_of(stdout);
  for (const Explanation& explanation : explanations) {
    if (&explanation != &explanations.front()) std::fputs("\n", stdout);
    print(explanation_text(explanation, terminal), terminal);
  }
  if (!ending.empty()) std::printf("\nWritten to %s\n", options.out.c_str());
}

/// Explains the texts of a file, and says how many there are. Returns the number of those that could not be explained.
Index explain_texts(const Options& options, Ranks& ranks) {
  if (options.models.size() > 1)
    detail::raise(ErrorKind::value, "--data: one model explains the texts, and --model names ", options.models.size());
  if (options.out.empty()) detail::raise(ErrorKind::value, "--data: scores go to a file, expected --out FILE.jsonl");
  ManyTexts many{options.models.front(), options.data, options.out, {}, {}};
  (void)checked_output("--out", many.out, {".jsonl"}, {many.model, many.data, options.question.sequence.tokenizer});
  if (ranks.first()) try_output("--out", many.out);
  if (!options.shard.empty()) many.shard = Shard::parse(options.shard);
  if (options.longest > 0) many.longest = options.longest;
  const ManyTextsResult result = explain_many(options.question, many, ranks);
  std::printf("%s%s%s explained%s\nWritten to %s\n", grouped(result.texts - result.errors).c_str(),
              result.errors > 0 ? detail::message(" of ", grouped(result.texts)).c_str() : "", result.texts == 1 ? " text" : " texts",
              result.found > 0 ? detail::message(", ", grouped(result.found), " of the results were there already").c_str() : "",
              many.out.c_str());
  if (result.errors > 0)
    std::fprintf(stderr, "explain: %s of %s could not be explained; the first: %s\n", grouped(result.errors).c_str(),
                 detail::message(grouped(result.texts), result.texts == 1 ? " text" : " texts").c_str(),
                 printable(result.first_error, 400).c_str());
  return result.errors;
}

}  // namespace

int main(int argument_count, char** arguments) {
  Options options;
  ExplanationOptions& question = options.question;
  CLI::App app("Runs a language model on a text, says what it predicts, and shows which tokens it looked at.", "explain");
  app.add_option("--model", options.models,
                 "a model's folder as it was downloaded, or one file of weights (.safetensors, .bin, .pth, .gguf); several are shown below "
                 "each other")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->option_text("DIR")
      ->required();
  add_sequence_options(app, question.sequence);
  app.add_option("--position", question.position, "the token after which the model is asked what comes next (last)")->option_text("last|I");
  app.add_option(
         "--method", question.methods,
         "how tokens are scored; several are separated by commas: " + joined(attribution_method_names(), ", ") +
             ". Default: contribution-norms, which need no target; otherwise the method that fits the options given: with "
             "--target, --contrast or --generate relevance (with --terms too, vector-rollout; with --layer, relevance-attention), with "
             "--heads relevance-attention "
             "(with maps, edge-map), with --baseline or --steps integrated-gradients, with --reduce raw")
      ->option_text("METHOD,...");
  app.add_option("--target", question.target, "the token whose logit is explained, an id or a name (argmax: what the model predicts)")
      ->check(not_empty())
      ->option_text("ID|argmax");
  app.add_option("--contrast", question.contrast,
                 "explain by how much the target's logit exceeds this token's, or that of what the model predicts (argmax)")
      ->check(not_empty())
      ->option_text("ID|argmax");
  app.add_option("--layer", question.layer, joined(layer_method_names(), ", ") + ": one layer, from 0, instead of all")
      ->check(not_empty())
      ->check(whole_number())
      ->option_text("N");
  app.add_option("--heads", question.heads,
                 joined(layer_method_names(true), ", ") +
                     ": these heads of --layer, from 0, where channels share one matrix a head; where a layer has several mixers side by "
                     "side, their heads are numbered in sequence")
      ->check(not_empty())
      ->option_text("LIST");
  add_terms_option(app, question.terms, false);
  app.add_option("--reduce", question.reduce, "raw and rollout: how a layer's channels are combined (mean-abs)")
      ->check(one_of({"mean", "mean-abs", "mean-positive"}))
      ->option_text("mean|mean-abs|mean-positive");
  app.add_option("--baseline", question.baseline,
                 "integrated gradients: where the path begins: embeddings of zero (zero), the mean embedding, or a token's, such as <unk>")
      ->option_text("zero|mean|TOKEN");
  add_steps_option(app, question.steps);
  app.add_option("--precision", question.precision, "of computing and of what is written (float32)")
      ->check(one_of({"float32", "float64"}))
      ->option_text("float32|float64");
  app.add_option("--picture", options.picture, "what a .png shows: the sentence in colours (strips), or which token looks at which (maps)")
      ->check(one_of({"strips", "maps"}))
      ->option_text("strips|maps");
  app.add_option("--title", options.title, "the first line of a picture")->option_text("TEXT");
  app.add_option("--generate", question.generate,
                 "the model continues the text, the likeliest token each time, by at most so many; each of its tokens is explained")
      ->check(between(1, 100000))
      ->option_text("N");
  app.add_option("--data", options.data,
                 "explain each text of a file: one text a line, empty lines are skipped; .jsonl or .ndjson: one object a line, with "
                 "\"text\" or \"tokens\". Each gets a line in --out FILE.jsonl, which also says what is wrong with a text; a run "
                 "that was interrupted continues when it is started again. Under mpirun the processes share the texts")
      ->option_text("FILE");
  app.add_option("--shard", options.shard,
                 "--data: the I-th of N shares of the texts; the shares' files, one after the other, are the whole")
      ->check(not_empty())
      ->option_text("I/N");
  app.add_option("--longest", options.longest, "--data: the most tokens of a text; longer texts are skipped, and their line says so")
      ->check(at_least(1))
      ->option_text("N");
  add_threads_option(app, question.threads, true);
  const CLI::Option* out = app.add_option("--out", options.out,
                                          "a picture (.png), or numbers (.json, .safetensors: input_ids, logits, scores, map, which a "
                                          ".json holds up to 128 tokens; .jsonl with --data)")
                               ->option_text("FILE");
  app.add_flag("--all-logits", options.all_logits,
               ".json holds the logits at every token, as .safetensors does, not at the position alone");
  app.add_flag("--save-gradients", question.gradients, "every layer's output and its gradient go into the .safetensors file, too");
  app.footer(
      "The models in examples/models give their label after <cls>.\n\nExamples:\n"
      "  explain --model examples/models/mamba --text \"a gripping and moving film <cls>\" --method contribution-norms,relevance --out "
      "film.png\n"
      "  explain --model examples/models/rwkv4 --text \"never dull <cls>\" --method relevance --target positive --contrast negative\n"
      "  explain --model MODEL --text \"Once upon a time\" --generate 20 --method relevance\n"
      "  explain --model MODEL --chat --text \"Why is the sky blue?\" --generate 40 --out words.png\n"
      "  explain --model MODEL --data texts.txt --method relevance --shard 2/8 --out scores.2.jsonl\n"
      "\nExit status: 0; 1 if some texts of --data could not be explained (their lines say why); 2 for any other error.\n");

  Index failed = 0;
  const int status = run_program(app, argument_count, arguments, [&] {
    if (out->count() > 0 && options.out.empty()) detail::raise(ErrorKind::value, "--out: the file name is empty");
    if (!given(app, "--method")) question.methods = default_method(app, options.picture == "maps");
    check_question(question);
    check_combinations(app);
    Ranks ranks;
    if (!given(app, "--data")) {
      if (ranks.count() > 1) detail::raise(ErrorKind::value, "mpirun started several processes, and only the texts of --data are shared");
      explain_one(options, app);
      return note_options_without_effect(app, question);
    }
    ranks.run([&] { failed = explain_texts(options, ranks); });
    if (ranks.first()) note_options_without_effect(app, question);
  });
  return status == 0 && failed > 0 ? 1 : status;
}
