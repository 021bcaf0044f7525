#include "explanation_files.hpp"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <map>
#include <utility>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>

#include "canvas.hpp"
#include "command_line.hpp"
#include "explanation_view.hpp"
#include "heat_map.hpp"
#include "text.hpp"
#include "token_strip.hpp"
#include "write_file.hpp"
#include "written_json.hpp"

namespace implicit_attention::examples {
namespace {

// --- Pictures -----------------------------------------------------------------------------------------------------------

/// What the colours measure.
std::string value_name(const std::vector<Explanation>& explanations) {
  const std::vector<Answer>& answers = explanations.front().target().answers;
  if (answers.size() > 1) return "score";
  return answers.front().about_target ? answers.front().method + ": " + answers.front().value_name : answers.front().value_name;
}

/// Which model and method a strip or a panel is of.
std::string strip_label(const std::vector<Explanation>& explanations, const Explanation& explanation, const Answer& answer) {
  if (explanations.size() == 1) return answer.method;
  return explanation.target().answers.size() == 1 ? explanation.architecture : explanation.architecture + ", " + answer.method;
}

/// `maps` show every output token, strips one.
std::string caption(const ExplanationOptions& question, const std::vector<Explanation>& explanations, bool maps) {
  const Explanation& first = explanations.front();
  const ExplainedTarget& target = first.target();
  std::string text;
  bool about_target = false, from_attention = false;
  for (const Answer& answer : target.answers) {
    if (target.answers.size() > 1) text += answer.method + ": " + answer.value_name + ". ";
    about_target = about_target || answer.about_target;
    from_attention = from_attention || answer.from_attention;
  }
  if (first.written) {
    const std::string ended = explanations.size() == 1 ? ended_text(first) : std::string();
    text += detail::message("Explained: each token that the model wrote after ", quoted_position(first, target),
                            ended.empty() ? "" : "; " + ended, ". ");
  } else {
    // Models may have predicted different tokens; then the strips themselves say which.
    const bool one_target = std::all_of(explanations.begin(), explanations.end(),
                                        [&](const Explanation& other) { return other.target().target_text == target.target_text; });
    if (about_target)
      text += "Explained: " + (one_target ? target.target_text : std::string("the logit of each model's prediction")) + ", ";
    if (about_target || !maps) text += detail::message(about_target ? "after " : "After ", quoted_position(first, target), ". ");
    // What stands at the right of a strip is not what its colours explain, then.
    const bool other_prediction = std::any_of(explanations.begin(), explanations.end(), [](const Explanation& one) {
      return !one.target().predictions.empty() && one.target().predictions.front().id != one.target().target;
    });
    if (about_target && !maps && other_prediction)
      text += detail::message("At the right: what the model", explanations.size() > 1 ? "s predict. " : " predicts. ");
  }
  if (from_attention) text += detail::message("Terms: ", Terms::parse(question.terms).text(), ".");
  return text;
}

void draw_strips(const Picture& picture, const ExplanationOptions& question, const std::vector<Explanation>& explanations) {
  const Explanation& first = explanations.front();
  TokenStrips strips;
  strips.title = picture.title;
  if (strips.title.empty())
    strips.title = explanations.size() > 1 ? std::string("What the models looked at")
                   : first.written         ? "What made the words of " + first.architecture
                                           : "What " + first.architecture + " looked at";
  strips.value_name = value_name(explanations);
  for (const Explanation& explanation : explanations)
    for (std::size_t method = 0; method < first.target().answers.size(); ++method)
      for (const ExplainedTarget& target : explanation.targets) {
        const Answer& answer = target.answers[method];
        TokenStrip strip;
        if (&target == &explanation.target()) strip.label = strip_label(explanations, explanation, answer);
        strip.tokens = explanation.labels;
        strip.scores = answer.scores;
        if (explanation.written) {  // what comes after a token has no part in it
          strip.tokens.resize(static_cast<std::size_t>(target.position) + 1);
          strip.scores.resize(strip.tokens.size());
        }
        const Prediction& prediction = target.predictions.front();
        strip.prediction = visible(prediction.label);
        strip.probability = prediction.probability;
        strips.strips.push_back(std::move(strip));
      }
  strips.caption = caption(question, explanations, false);
  warn_of_missing_glyphs("explain", write_token_strips(picture.path, strips).missing_glyphs);
}

/// Rows are the tokens that the model wrote, or all tokens of a method's map.
Panel panel_of(const Explanation& explanation, std::size_t method) {
  Panel panel;
  panel.column_labels = explanation.labels;
  const Answer& first = explanation.target().answers[method];
  if (!explanation.written) {
    if (first.map.size() == 0) detail::raise(ErrorKind::value, "--picture: ", first.method, " has no map, expected strips");
    panel.values = first.map;
    panel.row_labels = explanation.labels;
    return panel;
  }
  panel.values.resize(static_cast<Index>(explanation.targets.size()), static_cast<Index>(first.scores.size()));
  panel.causal = false;
  for (std::size_t row = 0; row < explanation.targets.size(); ++row) {
    const ExplainedTarget& target = explanation.targets[row];
    const std::vector<double>& scores = target.answers[method].scores;
    std::copy(scores.begin(), scores.end(), panel.values.row(static_cast<Index>(row)).data());
    panel.row_labels.push_back(explanation.labels[static_cast<std::size_t>(target.position) + 1]);
  }
  return panel;
}

void draw_maps(const Picture& picture, const ExplanationOptions& question, const std::vector<Explanation>& explanations) {
  const Explanation& first = explanations.front();
  HeatMap map;
  map.title = picture.title;
  if (map.title.empty())
    map.title = explanations.size() > 1 ? std::string("Which token looks at which")
                : first.written         ? "What made the words of " + first.architecture
                                        : first.architecture;
  for (const Explanation& explanation : explanations)
    for (std::size_t method = 0; method < explanation.target().answers.size(); ++method) {
      map.panels.push_back(panel_of(explanation, method));
      map.panels.back().subtitle = strip_label(explanations, explanation, explanation.target().answers[method]);
    }
  if (first.written) {
    map.row_axis = "token written";
    map.column_axis = "token read";
  }
  map.shared_scale = false;
  map.value_name = value_name(explanations);
  map.caption = caption(question, explanations, true);
  warn_of_missing_glyphs("explain", write_heat_map(picture.path, map).missing_glyphs);
}

// --- Numbers ------------------------------------------------------------------------------------------------------------

/// A name of the only method's numbers, or of those of one of several.
std::string numbers_name(const char* what, const Explanation& explanation, std::size_t method) {
  const std::vector<Answer>& answers = explanation.target().answers;
  return answers.size() == 1 ? std::string(what) : detail::message(what, ".", answers[method].method);
}

/// Tensors in the precision that was asked for: numbers that were computed in float are floats again, exactly.
class TensorList {
 public:
  explicit TensorList(bool narrow) : narrow_(narrow) {}
  /// Numbers that outlive this.
  void add(std::string name, const Matrix<double>& numbers, std::vector<Index> shape) {
    if (narrow_) {
      const float* data = narrowed_.emplace(name, numbers.cast<float>()).first->second.data();
      tensors_.push_back({std::move(name), {data, std::move(shape)}});
    } else {
      tensors_.push_back({std::move(name), {numbers.data(), std::move(shape)}});
    }
  }
  void add(std::string name, const Matrix<double>& numbers) { add(std::move(name), numbers, {numbers.rows(), numbers.cols()}); }
  void add(std::string name, const std::vector<Index>& ids) { tensors_.push_back({std::move(name), ids}); }
  [[nodiscard]] const std::vector<TensorToWrite>& tensors() const { return tensors_; }

 private:
  bool narrow_;
  std::map<std::string, Matrix<float>> narrowed_;
  std::vector<TensorToWrite> tensors_;
};

/// A method's scores, (targets, tokens).
Matrix<double> scores_of(const Explanation& explanation, std::size_t method) {
  Matrix<double> scores(static_cast<Index>(explanation.targets.size()), static_cast<Index>(explanation.ids.size()));
  for (Index row = 0; row < scores.rows(); ++row) {
    const std::vector<double>& from = explanation.targets[static_cast<std::size_t>(row)].answers[method].scores;
    std::copy(from.begin(), from.end(), scores.row(row).data());
  }
  return scores;
}

OrderedJson matrix_json(const Matrix<double>& matrix) {
  OrderedJson list = OrderedJson::array();
  for (Index i = 0; i < matrix.rows(); ++i) list.push_back(std::vector<double>(matrix.row(i).data(), matrix.row(i).data() + matrix.cols()));
  return list;
}

OrderedJson predictions_json(const ExplainedTarget& target) {
  OrderedJson list = OrderedJson::array();
  for (const Prediction& prediction : target.predictions)
    list.push_back({{"id", prediction.id}, {"token", prediction.label}, {"probability", prediction.probability}});
  return list;
}

/// Tokens, predictions and scores: numbers of one target as they are, of what the model wrote a list, one a token.
void add_answers(OrderedJson& json, const Explanation& explanation) {
  const bool one = !explanation.written;
  const auto put = [&](const std::string& name, const auto& value_of) {
    if (one) {
      json[name] = value_of(explanation.target());
      return;
    }
    OrderedJson list = OrderedJson::array();
    for (const ExplainedTarget& target : explanation.targets) list.push_back(value_of(target));
    json[name] = std::move(list);
  };
  json["input_ids"] = explanation.ids;
  json["tokens"] = explanation.labels;
  if (explanation.written) {
    json["prompt_tokens"] = explanation.written->prompt_tokens;
    json["written"] = explanation.written->text;
    if (explanation.written->ended) json["ended"] = *explanation.written->ended;
  }
  put(one ? "position" : "positions", [](const ExplainedTarget& target) { return target.position; });
  put("predictions", predictions_json);
  put(one ? "target" : "targets", [](const ExplainedTarget& target) { return target.target; });
  if (explanation.target().contrast) json["contrast"] = *explanation.target().contrast;
  for (std::size_t method = 0; method < explanation.target().answers.size(); ++method) {
    const Answer& first = explanation.target().answers[method];
    const auto put_number = [&](const char* what, double Answer::*number) {
      put(numbers_name(what, explanation, method), [&](const ExplainedTarget& target) { return target.answers[method].*number; });
    };
    put(numbers_name("scores", explanation, method), [&](const ExplainedTarget& target) { return target.answers[method].scores; });
    if (first.about_target) put_number("explained", &Answer::explained);
    if (first.integrates) put_number("baseline", &Answer::baseline);
    if (first.conserves) put_number("bias_share", &Answer::bias_share);
    if (const std::vector<std::string> untreated = explanation.untreated(method); !untreated.empty())
      json[numbers_name("untreated", explanation, method)] = untreated;
    if (first.map.size() != 0) json[numbers_name("map", explanation, method)] = matrix_json(first.map);
  }
}

}  // namespace

void draw(const Picture& picture, const ExplanationOptions& question, const std::vector<Explanation>& explanations) {
  picture.maps ? draw_maps(picture, question, explanations) : draw_strips(picture, question, explanations);
}

void write_tensors(const std::string& path, const ExplanationOptions& question, const Explanation& explanation) {
  std::deque<Matrix<double>> all_scores;
  TensorList list(question.precision == "float32");
  list.add("input_ids", explanation.ids);
  list.add("logits", explanation.logits);
  std::vector<Index> positions, targets;
  for (const ExplainedTarget& target : explanation.targets) {
    positions.push_back(target.position);
    targets.push_back(target.target);
  }
  if (explanation.written) {
    list.add("positions", positions);
    list.add("targets", targets);
  }
  for (std::size_t method = 0; method < explanation.target().answers.size(); ++method) {
    const Answer& first = explanation.target().answers[method];
    const Matrix<double>& scores = all_scores.emplace_back(scores_of(explanation, method));
    const std::string name = numbers_name("scores", explanation, method);
    explanation.written ? list.add(name, scores) : list.add(name, scores, {scores.cols()});
    if (first.map.size() != 0) list.add(numbers_name("map", explanation, method), first.map);
  }
  for (const NamedMatrix& layer : explanation.gradients) list.add(layer.name, layer.numbers);
  std::map<std::string, std::string> metadata{{"method", question.methods}, {"terms", question.terms}};
  if (question.layer) metadata["layer"] = detail::message(*question.layer);
  if (!question.heads.empty()) metadata["heads"] = question.heads;
  for (std::size_t method = 0; method < explanation.target().answers.size(); ++method)
    if (const std::vector<std::string> untreated = explanation.untreated(method); !untreated.empty())
      metadata[numbers_name("untreated", explanation, method)] = joined(untreated, ", ");
  if (explanation.written) {
    metadata["prompt_tokens"] = detail::message(explanation.written->prompt_tokens);
  } else {
    metadata["position"] = detail::message(positions.front());
    metadata["target"] = detail::message(targets.front());
  }
  write_safetensors(path, list.tensors(), metadata);
}

void write_json(const std::string& path, const ExplanationOptions& question, const Explanation& explanation) {
  write_file(path, written_json(-1, [&](OrderedJson& json) {
               json["model"] = explanation.directory;
               json["architecture"] = explanation.architecture;
               json["method"] = question.methods;
               json["terms"] = question.terms;
               if (question.layer) json["layer"] = *question.layer;
               if (!question.heads.empty()) json["heads"] = question.heads;
               add_answers(json, explanation);
               json["logits"] = matrix_json(explanation.logits);
             }));
}

std::string json_line(Index line, const Explanation& explanation) {
  return written_json(-1, [&](OrderedJson& json) {
    json["line"] = line;
    add_answers(json, explanation);
  });
}

std::string json_error_line(Index line, const std::string& error) {
  return written_json(-1, [&](OrderedJson& json) {
    json["line"] = line;
    json["error"] = error;
  });
}

}  // namespace implicit_attention::examples
