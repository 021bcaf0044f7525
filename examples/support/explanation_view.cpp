#include "explanation_view.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include <implicit_attention/core/error.hpp>

#include "numbers.hpp"
#include "text.hpp"

namespace implicit_attention::examples {
namespace {

/// What the model expects at the position asked about.
std::string predictions_text(const Explanation& explanation, bool colours) {
  const ExplainedTarget& target = explanation.target();
  std::string out = "After " + quoted_position(explanation, target) + detail::message(" (position ", target.position, ") it expects\n");
  int width = display_width(visible(target.predictions.front().label));
  for (const Prediction& prediction : target.predictions)
    if (prediction.probability >= 0.0005) width = std::max(width, display_width(visible(prediction.label)));
  for (std::size_t k = 0; k < target.predictions.size(); ++k) {
    const Prediction& prediction = target.predictions[k];
    if (k > 0 && prediction.probability < 0.0005) break;  // it would read 0.0 %
    const std::string line = "  " + pad(visible(prediction.label), width) + "  " + pad(percent(prediction.probability), 7, true) +
                             (explanation.subwords ? detail::message("  (id ", prediction.id, ")") : std::string());
    out += (colours && k == 0 ? "\x1b[1m" + line + "\x1b[0m" : line) + "\n";
  }
  return out;
}

/// What there is to say about a method's numbers besides them; about those of several targets at once.
std::string remarks(const Explanation& explanation, std::size_t method) {
  const std::vector<ExplainedTarget>& targets = explanation.targets;
  const Answer& first = targets.front().answers[method];
  std::string out;
  if (targets.size() == 1) {
    const std::string& target_text = targets.front().target_text;
    double sum = 0;
    for (const double score : first.scores) sum += score;
    if (first.about_target && !first.conserves && !first.integrates)
      out += detail::message(
          "(the scores sum to ", significant(sum), ", and ", target_text, " is ", significant(first.explained), ": ",
          first.terms_left_out ? "what the terms left out and the biases give is missing" : "this method's scores need not add up to it",
          ")\n");
    if (first.about_target && targets.front().contrast == targets.front().target)
      out += "(target and contrast are the same token, and their difference is 0 whatever the model reads)\n";
    if (first.conserves)
      out += detail::message("(the scores sum to ", significant(sum), ", biases take ", significant(first.bias_share), ": together ",
                             target_text, ", ", significant(first.explained), ")\n");
    if (first.integrates)
      out += detail::message("(the scores sum to ", significant(sum), ", the baseline gives ", significant(first.baseline), ": together ",
                             significant(sum + first.baseline), ", and ", target_text, " is ", significant(first.explained),
                             "; the gap is the error of the integral",
                             first.points > 0 ? detail::message(", of ", first.points, " gradients") : std::string(),
                             first.converged ? "" : ", and it has not converged", ")\n");
  } else if (const auto unfinished = std::count_if(targets.begin(), targets.end(),
                                                   [&](const ExplainedTarget& target) { return !target.answers[method].converged; });
             unfinished > 0) {
    out += detail::message("(", unfinished, " of ", targets.size(), " integrals have not converged)\n");
  }
  Index zero_rows = 0, constant_layers = 0;
  for (const ExplainedTarget& target : targets) {
    const Answer& answer = target.answers[method];
    zero_rows = std::max(zero_rows, answer.zero_rows);
    constant_layers = std::max(constant_layers, answer.constant_layers);
  }
  for (const std::string& operation : explanation.untreated(method))
    out += "(relevance reached " + operation + ", which it has no rule for: what went there is missing)\n";
  if (zero_rows > 0) out += detail::message("(", zero_rows, " rows of maps sum to zero and were left undivided)\n");
  if (constant_layers > 0)
    out +=
        detail::message("(in ", constant_layers, " of ", explanation.layers, " layers the map or the gradient is the same everywhere)\n");
  return out;
}

/// One prediction, one method.
std::string answer_text(const Explanation& explanation, const Answer& answer, const Terminal& terminal) {
  TokenScores scores;
  scores.title = detail::message(answer.about_target ? "What made " + explanation.target().target_text : std::string("What it looked at"),
                                 ", by ", answer.method, " (", answer.value_name, ")");
  scores.tokens = explanation.labels;
  if (explanation.subwords) scores.ids = explanation.ids;
  scores.scores = answer.scores;
  scores.value_name = "score";
  scores.separator = explanation.separator;
  return show_tokens(scores, terminal);
}

double probability_of(const ExplainedTarget& target) {
  for (const Prediction& prediction : target.predictions)
    if (prediction.id == target.target) return prediction.probability;
  return 0;
}

/// The tokens that a target's scores are largest at, in words.
std::string largest_scores(const Explanation& explanation, const ExplainedTarget& target, const Answer& answer, std::size_t most) {
  std::vector<std::size_t> order(static_cast<std::size_t>(target.position) + 1);
  std::iota(order.begin(), order.end(), std::size_t{0});
  most = std::min(most, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(most), order.end(), [&](std::size_t a, std::size_t b) {
    const double first = std::abs(answer.scores[a]), second = std::abs(answer.scores[b]);
    return first != second ? first > second : a < b;
  });
  std::string text;
  for (std::size_t k = 0; k < most; ++k)
    text += detail::message(k == 0 ? "" : ", ", shorten(quoted_token(explanation, static_cast<Index>(order[k])), 20), " (", order[k], ") ",
                            significant(answer.scores[order[k]]));
  return text;
}

/// A method's answers about all that the model wrote: a strip of colours for each token, or a line of words.
std::string written_text(const Explanation& explanation, std::size_t method, const Terminal& terminal) {
  const Answer& first = explanation.targets.front().answers[method];
  std::string out = detail::message("What made each token, by ", first.method, " (", first.value_name, ")\n");
  if (terminal.colours == ColourDepth::none) {
    Table table({"position", "token", "probability", "largest scores, and where they are"});
    for (const ExplainedTarget& target : explanation.targets)
      table.add({detail::message(target.position + 1), shorten(quoted_token(explanation, target.position + 1), 28),
                 percent(probability_of(target)), largest_scores(explanation, target, target.answers[method], 3)});
    return out + table.text();
  }
  std::vector<std::string> heads;
  int width = 0;
  for (const ExplainedTarget& target : explanation.targets) {
    heads.push_back(shorten(quoted_token(explanation, target.position + 1), 20));
    width = std::max(width, display_width(heads.back()));
  }
  const std::string indent(static_cast<std::size_t>(width) + 11, ' ');
  Terminal narrow = terminal;
  narrow.width = std::max(20, terminal.width - static_cast<int>(indent.size()));
  const bool negative = std::any_of(explanation.targets.begin(), explanation.targets.end(), [&](const ExplainedTarget& target) {
    const std::vector<double>& numbers = target.answers[method].scores;
    return std::any_of(numbers.begin(), numbers.end(), [](double score) { return score < 0; });
  });
  for (std::size_t k = 0; k < explanation.targets.size(); ++k) {
    const ExplainedTarget& target = explanation.targets[k];
    const auto seen = static_cast<std::ptrdiff_t>(target.position) + 1;
    TokenScores scores;
    scores.tokens.assign(explanation.labels.begin(), explanation.labels.begin() + seen);
    scores.scores.assign(target.answers[method].scores.begin(), target.answers[method].scores.begin() + seen);
    double largest = 0;
    for (const double score : scores.scores) largest = std::max(largest, std::abs(score));
    for (double& score : scores.scores) score /= largest > 0 ? largest : 1;
    scores.separator = explanation.separator;
    if (negative) scores.palette = Palette::diverging;
    scores.value_name = "of the largest score in its line";
    scores.with_legend = k + 1 == explanation.targets.size();
    std::string strip = show_tokens(scores, narrow);
    for (std::size_t end = strip.find('\n'); end != std::string::npos && end + 1 < strip.size(); end = strip.find('\n', end + 1))
      strip.insert(end + 1, indent);
    out += pad(heads[k], width) + "  " + pad(percent(probability_of(target)), 7, true) + "  " + strip;
  }
  return out;
}

}  // namespace

std::string quoted_token(const Explanation& explanation, Index token) {
  return "\"" + visible(explanation.labels[static_cast<std::size_t>(token)]) + "\"";
}

std::string quoted_position(const Explanation& explanation, const ExplainedTarget& target) {
  return quoted_token(explanation, target.position);
}

std::string ended_text(const Explanation& explanation) {
  if (!explanation.written || !explanation.written->ended) return {};
  return detail::message("it stopped at the end-of-text token ",
                         quoted_token(explanation, static_cast<Index>(explanation.labels.size()) - 1), " (id ", *explanation.written->ended,
                         ")");
}

std::string explanation_text(const Explanation& explanation, const Terminal& terminal) {
  const bool colours = terminal.colours != ColourDepth::none;
  const auto bold = [&](const std::string& text) { return colours ? "\x1b[1m" + text + "\x1b[0m" : text; };
  std::string out = bold(explanation.architecture) + ", " + explanation.directory + ", " +
                    detail::message(explanation.layers, " layers, ") + grouped(static_cast<Index>(explanation.ids.size())) +
                    (explanation.ids.size() == 1 ? " token\n" : " tokens\n");
  const ExplainedTarget& first = explanation.target();
  if (explanation.written) {
    const Written& written = *explanation.written;
    const std::string ended = ended_text(explanation);
    out += "After " + quoted_position(explanation, first) +
           detail::message(" (position ", first.position, ") it wrote ",
                           explanation.targets.size() == 1 ? "one token" : detail::message(explanation.targets.size(), " tokens"),
                           ended.empty() ? "" : "; " + ended, "\n") +
           (written.text.empty() ? "" : "  " + bold("\"" + visible(written.text) + "\"") + "\n");
    if (!written.repeated.empty()) out += "(" + written.repeated + " returns no state, so the text was read again for every token)\n";
  } else {
    out += predictions_text(explanation, colours);
  }
  for (std::size_t method = 0; method < first.answers.size(); ++method) {
    out += "\n" +
           (explanation.written ? written_text(explanation, method, terminal) : answer_text(explanation, first.answers[method], terminal));
    out += remarks(explanation, method);
  }
  for (const auto& [method, why] : explanation.maps_left_out)
    out += detail::message("(the map of every token pair", first.answers.size() > 1 ? " by " + method : std::string(),
                           " is left out of the file: ", why, ")\n");
  if (explanation.unknown > 0)
    out += detail::message("(", explanation.unknown, explanation.unknown == 1 ? " token is" : " tokens are",
                           " not in this model's vocabulary and read as <unk>; words and punctuation stand apart in it: it 's good .)\n");
  return out;
}

}  // namespace implicit_attention::examples
