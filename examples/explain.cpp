// Runs language models on a text, says what they predict, and shows which tokens they looked at.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <nlohmann/json.hpp>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/replaced_file.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>

#include "support/command_line.hpp"
#include "support/heat_map.hpp"
#include "support/methods.hpp"
#include "support/model_input.hpp"
#include "support/numbers.hpp"
#include "support/terminal.hpp"
#include "support/text.hpp"
#include "support/token_strip.hpp"

namespace {

using namespace implicit_attention;
using namespace implicit_attention::examples;

struct Options {
  std::vector<std::string> models;
  SequenceOptions sequence;
  std::string position = "last", method = "raw", terms = "all", reduce = "mean-abs", precision = "float32", picture = "strips", out, title;
  std::optional<Index> layer;

  [[nodiscard]] std::vector<std::string> method_list() const {
    std::vector<std::string> names;
    for (std::size_t begin = 0; begin <= method.size();) {
      const std::size_t end = std::min(method.find(',', begin), method.size());
      names.push_back(method.substr(begin, end - begin));
      begin = end + 1;
    }
    return names;
  }
};

struct Prediction {
  Index id = 0;
  std::string label;
  double probability = 0;
};

/// One method's answer.
template <Real Scalar>
struct Answer {
  std::string method, value_name;
  Attribution<Scalar> attribution;
  [[nodiscard]] std::vector<double> scores() const {
    const RowVector<double> numbers = attribution.scores.template cast<double>();
    return {numbers.data(), numbers.data() + numbers.size()};
  }
};

/// One model's.
template <Real Scalar>
struct Explanation {
  std::string directory, architecture, separator;
  Index layers = 0, position = 0, unknown = 0;
  std::vector<Index> ids;
  std::vector<std::string> labels;
  Matrix<Scalar> logits;                ///< (tokens, vocabulary)
  std::vector<Prediction> predictions;  ///< the likeliest first
  std::vector<Answer<Scalar>> answers;
};

std::vector<Prediction> predictions_of(const RowVector<double>& logits, const Tokenizer& tokenizer, std::size_t most) {
  const RowVector<double> weights = (logits.array() - logits.maxCoeff()).exp().matrix();
  std::vector<Index> order(static_cast<std::size_t>(logits.size()));
  std::iota(order.begin(), order.end(), Index(0));
  most = std::min(most, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(most), order.end(),
                    [&](Index a, Index b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  std::vector<Prediction> predictions;
  for (std::size_t k = 0; k < most; ++k) predictions.push_back({order[k], tokenizer.label(order[k]), weights[order[k]] / weights.sum()});
  return predictions;
}

template <Real Scalar>
Explanation<Scalar> explain(const Options& options, const std::string& directory, bool all_logits, bool maps) {
  const LoadedModel<Scalar> loaded = LoadedModel<Scalar>::open(directory, options.sequence.tokenizer);
  const LanguageModel<Scalar>& model = loaded.model;
  Explanation<Scalar> explanation;
  explanation.directory = directory;
  explanation.architecture = architecture_text(model.name());
  explanation.separator = separator_of(loaded.tokenizer);
  explanation.layers = model.layer_count();
  explanation.ids = sequence_ids(options.sequence, loaded.tokenizer);
  explanation.labels = loaded.tokenizer.labels(explanation.ids);
  explanation.unknown = std::count(explanation.labels.begin(), explanation.labels.end(), "<unk>");
  const auto tokens = static_cast<Index>(explanation.ids.size());
  const Indices positions = parse_indices("--position", options.position);
  if (const std::vector<Index> chosen = positions.resolve(tokens, "position"); chosen.size() == 1 && options.position != "all")
    explanation.position = chosen.front();
  else
    raise(ErrorKind::value, message("--position: \"", options.position, "\" is no single position, expected last, or 0 to ", tokens - 1));
  if (options.layer && (*options.layer < 0 || *options.layer >= model.layer_count()))
    raise(ErrorKind::value,
          message("--layer: ", *options.layer, " is out of range, expected 0 to ", model.layer_count() - 1, " for ", directory));

  const std::vector<std::string> names = options.method_list();
  Work work(message(explanation.architecture, " reads"), 1 + model.layer_count() * static_cast<Index>(names.size()));
  work.begin_piece();
  ForwardOptions forward;
  forward.keep = Keep::residuals;
  forward.executor = work.executor();
  if (!all_logits) forward.logit_positions = Indices({explanation.position});
  ForwardPass<Scalar> pass = model.forward(explanation.ids, forward);
  const RowVector<double> logits = pass.logits_at(explanation.position).row(0).template cast<double>();
  if (!logits.allFinite())
    raise(ErrorKind::value, message(directory, ": the logits are not finite numbers; are there NaN or infinities in the weights?"));
  explanation.predictions = predictions_of(logits, loaded.tokenizer, 5);

  for (const std::string& name : names) {
    const Method<Scalar>& method = find_method<Scalar>(name);
    const Question<Scalar> question{model,
                                    pass,
                                    explanation.position,
                                    explanation.predictions.front().id,
                                    options.layer,
                                    Terms::parse(options.terms),
                                    parse_reduction(options.reduce),
                                    maps,
                                    work};
    explanation.answers.push_back({name, method.value_name(question), method.answer(question)});
  }
  explanation.logits = std::move(pass.logits);
  return explanation;
}

// --- Showing ------------------------------------------------------------------------------------------------------------

template <Real Scalar>
std::string quoted_position(const Explanation<Scalar>& explanation) {
  return "\"" + visible(explanation.labels[static_cast<std::size_t>(explanation.position)]) + "\"";
}

template <Real Scalar>
void show(const Explanation<Scalar>& explanation, const Terminal& terminal) {
  const bool colours = terminal.colours != ColourDepth::none;
  const auto bold = [&](const std::string& text) { return colours ? "\x1b[1m" + text + "\x1b[0m" : text; };
  std::string out = bold(explanation.architecture) + ", " + explanation.directory + ", " + message(explanation.layers, " layers, ") +
                    grouped(static_cast<Index>(explanation.ids.size())) + " tokens\n" + "After " + quoted_position(explanation) +
                    message(" (position ", explanation.position, ") it expects\n");
  int width = 0;
  for (const Prediction& prediction : explanation.predictions) width = std::max(width, display_width(visible(prediction.label)));
  for (std::size_t k = 0; k < explanation.predictions.size(); ++k) {
    const Prediction& prediction = explanation.predictions[k];
    const std::string line = "  " + pad(visible(prediction.label), width) + "  " + pad(percent(prediction.probability), 7, true);
    out += (k == 0 ? bold(line) : line) + "\n";
  }
  for (const Answer<Scalar>& answer : explanation.answers) {
    out += "\n";
    TokenScores scores;
    scores.title = message("What it looked at, by ", answer.method, answer.value_name.empty() ? "" : " (", answer.value_name,
                           answer.value_name.empty() ? "" : ")");
    scores.tokens = explanation.labels;
    scores.scores = answer.scores();
    scores.value_name = "score";
    scores.separator = explanation.separator;
    out += show_tokens(scores, terminal);
    if (!answer.attribution.zero_rows.empty())
      out += message("(", answer.attribution.zero_rows.size(), " rows of maps sum to zero and were left undivided)\n");
  }
  if (explanation.unknown > 0)
    out += message("(", explanation.unknown, explanation.unknown == 1 ? " token is" : " tokens are",
                   " not in this model's vocabulary and read as <unk>; words and punctuation stand apart in it: it 's good .)\n");
  std::fputs(out.c_str(), stdout);
}

// --- Writing ------------------------------------------------------------------------------------------------------------

template <Real Scalar>
std::string strip_label(const Options& options, const Explanation<Scalar>& explanation, const Answer<Scalar>& answer) {
  if (options.models.size() == 1) return answer.method;
  return explanation.answers.size() == 1 ? explanation.architecture : explanation.architecture + ", " + answer.method;
}

template <Real Scalar>
std::string caption(const Options& options, const std::vector<Explanation<Scalar>>& explanations) {
  std::string text;
  for (const Answer<Scalar>& answer : explanations.front().answers)
    text += (text.empty() ? "" : "; ") + answer.method + (answer.value_name.empty() ? "" : ": " + answer.value_name);
  return text + message(". Output token: ", quoted_position(explanations.front()), ". Terms: ", Terms::parse(options.terms).text(), ".");
}

template <Real Scalar>
void draw_strips(const Options& options, const std::vector<Explanation<Scalar>>& explanations) {
  TokenStrips strips;
  strips.title = options.title;
  if (strips.title.empty())
    strips.title =
        explanations.size() == 1 ? "What " + explanations.front().architecture + " looked at" : std::string("What the models looked at");
  strips.value_name = explanations.front().answers.size() == 1 ? explanations.front().answers.front().value_name : "score";
  for (const Explanation<Scalar>& explanation : explanations)
    for (const Answer<Scalar>& answer : explanation.answers) {
      const Prediction& prediction = explanation.predictions.front();
      strips.strips.push_back({strip_label(options, explanation, answer), explanation.labels, answer.scores(), visible(prediction.label),
                               prediction.probability});
    }
  strips.caption = caption(options, explanations);
  write_token_strips(options.out, strips);
}

template <Real Scalar>
void draw_maps(const Options& options, const std::vector<Explanation<Scalar>>& explanations) {
  HeatMap map;
  map.title = options.title;
  if (map.title.empty())
    map.title = explanations.size() == 1 ? explanations.front().architecture : std::string("Which token looks at which");
  for (const Explanation<Scalar>& explanation : explanations)
    for (const Answer<Scalar>& answer : explanation.answers) {
      if (answer.attribution.map.size() == 0)
        raise(ErrorKind::value, message("--picture: ", answer.method, " has no map, expected strips"));
      Panel panel;
      panel.subtitle = strip_label(options, explanation, answer);
      panel.values = answer.attribution.map.template cast<double>();
      panel.row_labels = panel.column_labels = explanation.labels;
      map.panels.push_back(std::move(panel));
    }
  map.shared_scale = false;
  map.value_name = explanations.front().answers.size() == 1 ? explanations.front().answers.front().value_name : "score";
  map.caption = message("Terms: ", Terms::parse(options.terms).text(), ".");
  write_heat_map(options.out, map);
}

/// A name of the only answer's numbers, or of one of several.
template <Real Scalar>
std::string numbers_name(const char* what, const Explanation<Scalar>& explanation, const Answer<Scalar>& answer) {
  return explanation.answers.size() == 1 ? std::string(what) : message(what, ".", answer.method);
}

template <Real Scalar>
void write_tensors(const Options& options, const Explanation<Scalar>& explanation) {
  std::vector<TensorToWrite> tensors{{"input_ids", explanation.ids}, {"logits", explanation.logits}};
  for (const Answer<Scalar>& answer : explanation.answers) {
    tensors.push_back({numbers_name("scores", explanation, answer), answer.attribution.scores});
    if (answer.attribution.map.size() != 0) tensors.push_back({numbers_name("map", explanation, answer), answer.attribution.map});
  }
  write_safetensors(options.out, tensors,
                    {{"method", options.method}, {"position", message(explanation.position)}, {"terms", options.terms}});
}

template <class Numbers>
nlohmann::ordered_json row_json(const Numbers& row) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (Index i = 0; i < row.size(); ++i) list.push_back(row[i]);
  return list;
}
template <Real Scalar>
nlohmann::ordered_json matrix_json(const Matrix<Scalar>& matrix) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (Index i = 0; i < matrix.rows(); ++i) list.push_back(row_json(matrix.row(i)));
  return list;
}

template <Real Scalar>
void write_json(const Options& options, const Explanation<Scalar>& explanation) {
  nlohmann::ordered_json json;
  json["model"] = explanation.directory;
  json["architecture"] = explanation.architecture;
  json["input_ids"] = explanation.ids;
  json["tokens"] = explanation.labels;
  json["position"] = explanation.position;
  for (const Prediction& prediction : explanation.predictions)
    json["predictions"].push_back({{"id", prediction.id}, {"token", prediction.label}, {"probability", prediction.probability}});
  json["method"] = options.method;
  json["terms"] = options.terms;
  for (const Answer<Scalar>& answer : explanation.answers) {
    json[numbers_name("scores", explanation, answer)] = row_json(answer.attribution.scores);
    if (answer.attribution.map.size() != 0) json[numbers_name("map", explanation, answer)] = matrix_json(answer.attribution.map);
  }
  json["logits"] = matrix_json(explanation.logits);
  const std::string text = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  ReplacedFile file(options.out);
  file.write(text.data(), text.size());
  file.commit();
}

template <Real Scalar>
void run(const Options& options, const std::string& ending) {
  const bool numbers = ending == ".json" || ending == ".safetensors", maps = numbers || (ending == ".png" && options.picture == "maps");
  std::vector<Explanation<Scalar>> explanations;
  for (const std::string& directory : options.models) explanations.push_back(explain<Scalar>(options, directory, numbers, maps));
  if (ending == ".png") options.picture == "maps" ? draw_maps(options, explanations) : draw_strips(options, explanations);
  if (ending == ".json") write_json(options, explanations.front());
  if (ending == ".safetensors") write_tensors(options, explanations.front());
  const Terminal terminal = terminal_of(stdout);
  for (const Explanation<Scalar>& explanation : explanations) {
    if (&explanation != &explanations.front()) std::fputs("\n", stdout);
    show(explanation, terminal);
  }
  if (!ending.empty()) std::printf("\nWritten to %s\n", options.out.c_str());
}

}  // namespace

int main(int argument_count, char** arguments) {
  Options options;
  CLI::App app("Runs a language model on a text, says what it predicts, and shows which tokens it looked at.", "explain");
  app.add_option("--model", options.models, "a folder with config.json and model.safetensors; several are shown below each other")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->option_text("DIR")
      ->required();
  add_sequence_options(app, options.sequence);
  app.add_option("--position", options.position, "the token after which the model is asked what comes next (last)")->option_text("last|I");
  std::string summaries = "how tokens are scored, several with commas between:";
  for (const Method<float>& method : methods<float>()) summaries += message("\n  ", method.name, ": ", method.summary);
  app.add_option("--method", options.method, summaries)->option_text(method_names());
  app.add_option("--layer", options.layer, "raw: one layer, from 0, instead of all")->option_text("N");
  app.add_option("--terms", options.terms,
                 "which terms of the unified form: all, published (arXiv 2405.16504), recurrence (arXiv 2403.01590), or a list")
      ->option_text("all|published|recurrence|LIST");
  app.add_option("--reduce", options.reduce, "how a layer's channels are joined (mean-abs)")
      ->check(CLI::IsMember({"mean", "mean-abs", "mean-positive"}))
      ->option_text("mean|mean-abs|mean-positive");
  app.add_option("--precision", options.precision, "what is computed and written in (float32)")
      ->check(CLI::IsMember({"float32", "float64"}))
      ->option_text("float32|float64");
  app.add_option("--picture", options.picture, "what a .png shows: the sentence in colours (strips), or which token looks at which (maps)")
      ->check(CLI::IsMember({"strips", "maps"}))
      ->option_text("strips|maps");
  app.add_option("--title", options.title, "the first line of a picture")->option_text("TEXT");
  app.add_option("--out", options.out, "a picture (.png), or numbers (.json, .safetensors: input_ids, logits, scores, map)")
      ->option_text("FILE");
  app.footer(
      "Example:\n  explain --model examples/models/mamba --text \"a gripping and moving film <cls>\" --method rollout --out film.png\n");

  return run_program(app, argument_count, arguments, [&] {
    (void)Terms::parse(options.terms);
    (void)parse_indices("--position", options.position);
    for (const std::string& name : options.method_list())
      if (!find_method<float>(name).one_layer && options.layer)
        raise(ErrorKind::value, message("--layer: ", name, " goes through all layers; raw can look at one"));
    const std::string ending = app.count("--out") > 0 ? checked_output("--out", options.out, {".png", ".json", ".safetensors"}) : "";
    if (options.models.size() > 1 && (ending == ".json" || ending == ".safetensors"))
      raise(ErrorKind::value, message("--out: ", ending, " holds one model's numbers, and --model names ", options.models.size()));
    options.precision == "float64" ? run<double>(options, ending) : run<float>(options, ending);
  });
}
