// A language model's answer to a text, and why: what `explain` shows and writes. All numbers in double.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/result.hpp>
#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/types.hpp>

#include "model_input.hpp"

namespace implicit_attention::examples {

/// The options of a question, as on the command line. `check_question` checks what it can without a model, the rest is checked with it.
struct ExplanationOptions {
  SequenceOptions sequence;
  std::string position = "last", target = "argmax", contrast;
  std::string methods = "contribution-norms";  ///< names with commas between
  std::string terms = "all", reduce = "mean-abs", precision = "float32";
  std::optional<Index> layer;     ///< methods that are a mean over layers: this one alone
  std::string heads;              ///< relevance-attention, edge-map: a list of the layer's heads; empty: all of it
  std::string baseline = "zero";  ///< integrated gradients: zero, mean (of the embeddings), or a token by its id or name
  Index steps = 0;                ///< integrated gradients: this many even points; 0: as many as it takes
  bool all_logits = false;        ///< logits at every token, not at the position alone
  bool maps = false;              ///< the methods' maps too, where they have one
  bool needs_maps = false;        ///< a map that is too large is an error, and is not left out
  std::size_t largest_map = std::numeric_limits<std::size_t>::max();  ///< the file takes maps of so many tokens; others are left out
  bool gradients = false;                                             ///< every layer's output and its gradient too
  Index generate = 0;  ///< continue the text by so many tokens, and explain those; 0: explain one prediction
  int threads = 0;     ///< 0: all cores that the process may use
};

/// Checks the options before a model is read. Fails (value).
void check_question(const ExplanationOptions& options);

struct Prediction {
  Index id = 0;
  std::string label;
  double probability = 0;
};

/// The answer of one method.
struct Answer {
  std::string method, value_name;  ///< its name, and what its numbers are
  bool about_target = false;       ///< whether it explains one logit, and not the position alone
  bool from_attention = false;     ///< whether the choice of terms matters to it
  std::vector<double> scores;      ///< one per token
  Matrix<double> map;              ///< (tokens, tokens), or empty
  double explained = std::numeric_limits<double>::quiet_NaN(), bias_share = 0, baseline = 0;  ///< as in Attribution
  bool conserves = false;              ///< whether scores and bias_share sum to `explained`
  bool terms_left_out = false;         ///< vector-rollout: whether they do not because terms are missing
  Index points = 0;                    ///< gradients that an integral took
  std::vector<std::string> untreated;  ///< relevance: operations that it has no rule for
  bool converged = true;               ///< whether it is complete to its tolerance
  bool integrates = false;             ///< whether scores and baseline do, up to the error of a quadrature
  Index zero_rows = 0;                 ///< rows of a rollout that could not be divided
  Index constant_layers = 0;           ///< layers whose map or gradient could not be rescaled to 0..1
};

/// A tensor of a layer under its name.
struct NamedMatrix {
  std::string name;
  Matrix<double> numbers;
};

/// One prediction, and why.
struct ExplainedTarget {
  Index position = 0, target = 0;
  std::optional<Index> contrast;
  std::string target_text;              ///< what methods with a target explain: `the logit of "positive"`
  std::vector<Prediction> predictions;  ///< the likeliest first
  std::vector<Answer> answers;          ///< in the order asked for
};

/// What the model wrote after the text that it was given.
struct Written {
  Index prompt_tokens = 0;
  std::string text;
  std::optional<Index> ended;  ///< the end-of-text token that it came to
  std::string repeated;        ///< as in Continuation
};

struct Explanation {
  std::string directory, architecture, separator;
  Index layers = 0, unknown = 0;  ///< unknown: how many tokens are `<unk>`
  std::vector<Index> ids;         ///< with what the model wrote
  std::vector<std::string> labels;
  bool subwords = false;                 ///< labels may be pieces of words, so that ids are worth showing beside them
  Matrix<double> logits;                 ///< (tokens, vocabulary), or (targets, vocabulary)
  std::vector<ExplainedTarget> targets;  ///< one, or one for each token that the model wrote
  std::optional<Written> written;
  std::vector<NamedMatrix> gradients;                              ///< layerN.y and layerN.grad_y, (tokens, channels)
  std::vector<std::pair<std::string, std::string>> maps_left_out;  ///< methods whose maps are left out, and why

  /// The only one, or the first.
  [[nodiscard]] const ExplainedTarget& target() const { return targets.front(); }
  /// Of all targets, what a method has no rule for.
  [[nodiscard]] std::vector<std::string> untreated(std::size_t method) const {
    std::vector<std::string> all;
    for (const ExplainedTarget& one : targets) detail::append_new(all, one.answers[method].untreated);
    return all;
  }
};

/// Reads the model in `directory`, runs it, and asks every method. Fails as the library does, and (value) on a position, layer or token
/// that is not there.
[[nodiscard]] Explanation explain(const ExplanationOptions& options, const std::string& directory);

/// The same question for many texts: the model is read and the question checked once. May be asked by several threads at once.
class TextExplainer {
 public:
  /// `before_weights` may fail on what the tokenizer says already.
  TextExplainer(const ExplanationOptions& options, const std::string& directory,
                const std::function<void(const Tokenizer&)>& before_weights);
  ~TextExplainer();
  [[nodiscard]] const Tokenizer& tokenizer() const;
  [[nodiscard]] const std::string& architecture() const;
  /// Fails as `explain` does on what is wrong with this text.
  [[nodiscard]] Explanation explain(std::vector<Index> ids, const Executor& executor = serial_executor()) const;

  class Implementation;

 private:
  std::unique_ptr<const Implementation> implementation_;
};

}  // namespace implicit_attention::examples
