// Runs language models on a text, says what they predict, and shows which tokens they looked at.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/replaced_file.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>

#include "support/canvas.hpp"
#include "support/command_line.hpp"
#include "support/explanation.hpp"
#include "support/heat_map.hpp"
#include "support/numbers.hpp"
#include "support/terminal.hpp"
#include "support/text.hpp"
#include "support/token_strip.hpp"

namespace {

using namespace implicit_attention;
using namespace implicit_attention::examples;

struct Options {
  std::vector<std::string> models;
  ExplanationOptions question;
  std::string picture = "strips", out, title;
  bool all_logits = false;
};

// --- Showing ------------------------------------------------------------------------------------------------------------

std::string quoted_position(const Explanation& explanation) {
  return "\"" + visible(explanation.labels[static_cast<std::size_t>(explanation.position)]) + "\"";
}

void show(const Explanation& explanation, const Terminal& terminal) {
  const bool colours = terminal.colours != ColourDepth::none;
  const auto bold = [&](const std::string& text) { return colours ? "\x1b[1m" + text + "\x1b[0m" : text; };
  std::string out = bold(explanation.architecture) + ", " + explanation.directory + ", " + message(explanation.layers, " layers, ") +
                    grouped(static_cast<Index>(explanation.ids.size())) + " tokens\n" + "After " + quoted_position(explanation) +
                    message(" (position ", explanation.position, ") it expects\n");
  int width = display_width(visible(explanation.predictions.front().label));
  for (const Prediction& prediction : explanation.predictions)
    if (prediction.probability >= 0.0005) width = std::max(width, display_width(visible(prediction.label)));
  for (std::size_t k = 0; k < explanation.predictions.size(); ++k) {
    const Prediction& prediction = explanation.predictions[k];
    if (k > 0 && prediction.probability < 0.0005) break;  // it would read 0.0 %
    const std::string line = "  " + pad(visible(prediction.label), width) + "  " + pad(percent(prediction.probability), 7, true) +
                             (explanation.subwords ? message("  (id ", prediction.id, ")") : std::string());
    out += (k == 0 ? bold(line) : line) + "\n";
  }
  for (const Answer& answer : explanation.answers) {
    out += "\n";
    TokenScores scores;
    scores.title = message(answer.about_target ? "What made " + explanation.target_text : std::string("What it looked at"), ", by ",
                           answer.method, " (", answer.value_name, ")");
    scores.tokens = explanation.labels;
    if (explanation.subwords) scores.ids = explanation.ids;
    scores.scores = answer.scores;
    scores.value_name = "score";
    scores.separator = explanation.separator;
    out += show_tokens(scores, terminal);
    double sum = 0;
    for (const double score : answer.scores) sum += score;
    if (answer.conserves)
      out += message("(the scores sum to ", significant(sum), ", biases take ", significant(answer.bias_share), ": together ",
                     explanation.target_text, ", ", significant(answer.explained), ")\n");
    if (answer.integrates)
      out += message("(the scores sum to ", significant(sum), ", the baseline gives ", significant(answer.baseline), ": together ",
                     significant(sum + answer.baseline), ", and ", explanation.target_text, " is ", significant(answer.explained),
                     "; the gap is the error of the integral",
                     answer.points > 0 ? message(", of ", answer.points, " gradients") : std::string(),
                     answer.converged ? "" : ", and it has not converged", ")\n");
    for (const std::string& operation : answer.untreated)
      out += "(relevance reached " + operation + ", which it has no rule for: what went there is missing)\n";
    if (answer.zero_rows > 0) out += message("(", answer.zero_rows, " rows of maps sum to zero and were left undivided)\n");
    if (answer.constant_layers > 0)
      out +=
          message("(in ", answer.constant_layers, " of ", explanation.layers, " layers the map or the gradient is the same everywhere)\n");
  }
  if (explanation.unknown > 0)
    out += message("(", explanation.unknown, explanation.unknown == 1 ? " token is" : " tokens are",
                   " not in this model's vocabulary and read as <unk>; words and punctuation stand apart in it: it 's good .)\n");
  print(out, terminal);
}

// --- Writing ------------------------------------------------------------------------------------------------------------

std::string strip_label(const Options& options, const Explanation& explanation, const Answer& answer) {
  if (options.models.size() == 1) return answer.method;
  return explanation.answers.size() == 1 ? explanation.architecture : explanation.architecture + ", " + answer.method;
}

/// What the colours measure.
std::string value_name(const std::vector<Explanation>& explanations) {
  const std::vector<Answer>& answers = explanations.front().answers;
  if (answers.size() > 1) return "score";
  return answers.front().about_target ? answers.front().method + ": " + answers.front().value_name : answers.front().value_name;
}

/// `maps` show every output token, strips one.
std::string caption(const Options& options, const std::vector<Explanation>& explanations, bool maps) {
  const Explanation& first = explanations.front();
  std::string text;
  bool about_target = false, from_attention = false;
  for (const Answer& answer : first.answers) {
    if (first.answers.size() > 1) text += answer.method + ": " + answer.value_name + ". ";
    about_target = about_target || answer.about_target;
    from_attention = from_attention || answer.from_attention;
  }
  // Models may have predicted different tokens; then the strips themselves say which.
  const bool one_target = std::all_of(explanations.begin(), explanations.end(),
                                      [&](const Explanation& other) { return other.target_text == first.target_text; });
  if (about_target) text += "Explained: " + (one_target ? first.target_text : std::string("the logit of each model's prediction")) + ", ";
  if (about_target || !maps) text += message(about_target ? "after " : "After ", quoted_position(first), ". ");
  if (from_attention) text += message("Terms: ", Terms::parse(options.question.terms).text(), ".");
  return text;
}

void draw_strips(const Options& options, const std::vector<Explanation>& explanations) {
  TokenStrips strips;
  strips.title = options.title;
  if (strips.title.empty())
    strips.title =
        explanations.size() == 1 ? "What " + explanations.front().architecture + " looked at" : std::string("What the models looked at");
  strips.value_name = value_name(explanations);
  for (const Explanation& explanation : explanations)
    for (const Answer& answer : explanation.answers) {
      const Prediction& prediction = explanation.predictions.front();
      strips.strips.push_back({strip_label(options, explanation, answer), explanation.labels, answer.scores, visible(prediction.label),
                               prediction.probability});
    }
  strips.caption = caption(options, explanations, false);
  warn_of_missing_glyphs("explain", write_token_strips(options.out, strips).missing_glyphs);
}

void draw_maps(const Options& options, const std::vector<Explanation>& explanations) {
  HeatMap map;
  map.title = options.title;
  if (map.title.empty())
    map.title = explanations.size() == 1 ? explanations.front().architecture : std::string("Which token looks at which");
  for (const Explanation& explanation : explanations)
    for (const Answer& answer : explanation.answers) {
      if (answer.map.size() == 0) raise(ErrorKind::value, message("--picture: ", answer.method, " has no map, expected strips"));
      Panel panel;
      panel.subtitle = strip_label(options, explanation, answer);
      panel.values = answer.map;
      panel.row_labels = panel.column_labels = explanation.labels;
      map.panels.push_back(std::move(panel));
    }
  map.shared_scale = false;
  map.value_name = value_name(explanations);
  map.caption = caption(options, explanations, true);
  warn_of_missing_glyphs("explain", write_heat_map(options.out, map).missing_glyphs);
}

/// A name of the only answer's numbers, or of one of several.
std::string numbers_name(const char* what, const Explanation& explanation, const Answer& answer) {
  return explanation.answers.size() == 1 ? std::string(what) : message(what, ".", answer.method);
}

/// Tensors in the precision that was asked for: numbers that were computed in float are floats again, exactly.
class TensorList {
 public:
  explicit TensorList(bool narrow) : narrow_(narrow) {}
  void add(std::string name, const Matrix<double>& numbers, std::vector<Index> shape) {
    if (narrow_) {
      const float* data = narrowed_.emplace(name, numbers.cast<float>()).first->second.data();
      tensors_.push_back({std::move(name), {data, std::move(shape)}});
    } else {
      tensors_.push_back({std::move(name), {numbers.data(), std::move(shape)}});
    }
  }
  void add(std::string name, const Matrix<double>& numbers) { add(std::move(name), numbers, {numbers.rows(), numbers.cols()}); }
  void add(std::string name, const std::vector<double>& numbers) {
    const auto count = static_cast<Index>(numbers.size());
    if (narrow_)
      add(std::move(name), Eigen::Map<const Matrix<double>>(numbers.data(), 1, count), {count});
    else
      tensors_.push_back({std::move(name), {numbers.data(), {count}}});
  }
  void add(std::string name, const std::vector<Index>& ids) { tensors_.push_back({std::move(name), ids}); }
  [[nodiscard]] const std::vector<TensorToWrite>& tensors() const { return tensors_; }

 private:
  bool narrow_;
  std::map<std::string, Matrix<float>> narrowed_;
  std::vector<TensorToWrite> tensors_;
};

void write_tensors(const Options& options, const Explanation& explanation) {
  TensorList list(options.question.precision == "float32");
  list.add("input_ids", explanation.ids);
  list.add("logits", explanation.logits);
  for (const Answer& answer : explanation.answers) {
    list.add(numbers_name("scores", explanation, answer), answer.scores);
    if (answer.map.size() != 0) list.add(numbers_name("map", explanation, answer), answer.map);
  }
  for (const NamedMatrix& layer : explanation.gradients) list.add(layer.name, layer.numbers);
  write_safetensors(options.out, list.tensors(),
                    {{"method", options.question.methods},
                     {"position", message(explanation.position)},
                     {"target", message(explanation.target)},
                     {"terms", options.question.terms}});
}

nlohmann::ordered_json matrix_json(const Matrix<double>& matrix) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (Index i = 0; i < matrix.rows(); ++i) list.push_back(std::vector<double>(matrix.row(i).data(), matrix.row(i).data() + matrix.cols()));
  return list;
}

void write_json(const Options& options, const Explanation& explanation) {
  nlohmann::ordered_json json;
  json["model"] = explanation.directory;
  json["architecture"] = explanation.architecture;
  json["input_ids"] = explanation.ids;
  json["tokens"] = explanation.labels;
  json["position"] = explanation.position;
  for (const Prediction& prediction : explanation.predictions)
    json["predictions"].push_back({{"id", prediction.id}, {"token", prediction.label}, {"probability", prediction.probability}});
  json["target"] = explanation.target;
  if (explanation.contrast) json["contrast"] = *explanation.contrast;
  json["method"] = options.question.methods;
  json["terms"] = options.question.terms;
  for (const Answer& answer : explanation.answers) {
    json[numbers_name("scores", explanation, answer)] = answer.scores;
    if (answer.integrates || answer.conserves) json[numbers_name("explained", explanation, answer)] = answer.explained;
    if (answer.integrates) json[numbers_name("baseline", explanation, answer)] = answer.baseline;
    if (answer.conserves) json[numbers_name("bias_share", explanation, answer)] = answer.bias_share;
    if (answer.map.size() != 0) json[numbers_name("map", explanation, answer)] = matrix_json(answer.map);
  }
  json["logits"] = matrix_json(explanation.logits);
  const std::string text = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  ReplacedFile file(options.out);
  file.write(text.data(), text.size());
  file.commit();
}

void run(Options options) {
  check_question(options.question);
  std::vector<std::string> inputs = options.models;
  inputs.insert(inputs.end(), {options.question.sequence.text.value_or(""), options.question.sequence.tokens.value_or("")});
  const std::string ending = options.out.empty() ? "" : checked_output("--out", options.out, {".png", ".json", ".safetensors"}, inputs);
  const bool numbers = ending == ".json" || ending == ".safetensors";
  if (options.models.size() > 1 && numbers)
    raise(ErrorKind::value, message("--out: ", ending, " holds one model's numbers, and --model names ", options.models.size()));
  if (options.question.gradients && ending != ".safetensors")
    raise(ErrorKind::value, "--save-gradients: gradients are written to a .safetensors file alone, expected --out FILE.safetensors");
  options.question.all_logits = options.all_logits || ending == ".safetensors";
  options.question.maps = numbers || (ending == ".png" && options.picture == "maps");

  std::vector<Explanation> explanations;
  for (const std::string& directory : options.models) explanations.push_back(explain(options.question, directory));
  if (ending == ".png") options.picture == "maps" ? draw_maps(options, explanations) : draw_strips(options, explanations);
  if (ending == ".json") write_json(options, explanations.front());
  if (ending == ".safetensors") write_tensors(options, explanations.front());
  const Terminal terminal = terminal_of(stdout);
  for (const Explanation& explanation : explanations) {
    if (&explanation != &explanations.front()) std::fputs("\n", stdout);
    show(explanation, terminal);
  }
  if (!ending.empty()) std::printf("\nWritten to %s\n", options.out.c_str());
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
  app.add_option("--method", question.methods, "how tokens are scored (raw); several with commas between: " + attribution_method_names())
      ->option_text("METHOD,...");
  app.add_option("--target", question.target, "the token whose logit is explained, an id or a name (argmax: what the model predicts)")
      ->option_text("ID|argmax");
  app.add_option("--contrast", question.contrast, "explain by how much the target's logit exceeds this token's")->option_text("ID");
  app.add_option("--layer", question.layer, "raw: one layer, from 0, instead of all")->option_text("N");
  app.add_option("--terms", question.terms,
                 "which terms of the unified form: all, published (arXiv 2405.16504), recurrence (arXiv 2403.01590), or a list; the two "
                 "papers' forms "
                 "keep RWKV-4's denominator and Griffin's input scale, a list (only:recurrence, recurrence,gate) does not")
      ->option_text("all|published|recurrence|LIST");
  app.add_option("--reduce", question.reduce, "raw and rollout: how a layer's channels are joined (mean-abs)")
      ->check(CLI::IsMember({"mean", "mean-abs", "mean-positive"}))
      ->option_text("mean|mean-abs|mean-positive");
  app.add_option("--baseline", question.baseline,
                 "integrated gradients: where the path begins: embeddings of zero (zero), the mean embedding, or a token's, such as <unk>")
      ->option_text("zero|mean|TOKEN");
  app.add_option("--steps", question.steps, "integrated gradients: a number of even points (without it, as many as 1 % takes)")
      ->check(CLI::Range(Index{1}, Index{100000}))
      ->option_text("N");
  app.add_option("--precision", question.precision, "what is computed and written in (float32)")
      ->check(CLI::IsMember({"float32", "float64"}))
      ->option_text("float32|float64");
  app.add_option("--picture", options.picture, "what a .png shows: the sentence in colours (strips), or which token looks at which (maps)")
      ->check(CLI::IsMember({"strips", "maps"}))
      ->option_text("strips|maps");
  app.add_option("--title", options.title, "the first line of a picture")->option_text("TEXT");
  const CLI::Option* out =
      app.add_option("--out", options.out, "a picture (.png), or numbers (.json, .safetensors: input_ids, logits, scores, map)")
          ->option_text("FILE");
  app.add_flag("--all-logits", options.all_logits,
               ".json holds the logits at every token, as .safetensors does, not at the position alone");
  app.add_flag("--save-gradients", question.gradients, "every layer's output and its gradient go into the .safetensors file, too");
  app.footer(
      "The models in examples/models give their label after <cls>.\n\nExamples:\n"
      "  explain --model examples/models/mamba --text \"a gripping and moving film <cls>\" --method raw,relevance --out film.png\n"
      "  explain --model examples/models/rwkv4 --text \"never dull <cls>\" --method relevance --target positive --contrast negative\n");

  return run_program(app, argument_count, arguments, [&] {
    if (out->count() > 0 && options.out.empty()) raise(ErrorKind::value, "--out: the file name is empty");
    run(options);
  });
}
