#include "explanation.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <string_view>
#include <utility>

#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/core/error.hpp>

#include "command_line.hpp"
#include "text.hpp"
#include "working.hpp"

namespace implicit_attention::examples {
namespace {

/// A method, and its name as it was asked for: a dated name stays on what is written.
struct NamedMethod {
  Method method;
  std::string name;
};

std::vector<NamedMethod> methods_of(const ExplanationOptions& options) {
  std::vector<NamedMethod> list;
  for (std::size_t begin = 0; begin <= options.methods.size();) {
    const std::size_t end = std::min(options.methods.find(',', begin), options.methods.size());
    const std::string name = options.methods.substr(begin, end - begin);
    const Method named = parse_method(name);
    if (std::any_of(list.begin(), list.end(), [&](const NamedMethod& other) { return other.method == named; }))
      raise(ErrorKind::value, message("--method: ", name, " is there twice"));
    list.push_back({named, name});
    begin = end + 1;
  }
  return list;
}

bool about_target(Method method) { return method != Method::raw && method != Method::rollout && method != Method::random; }

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

/// A token as --target and --contrast name it: its id, or its name.
Index named_token(const char* option, const std::string& text, const Tokenizer& tokenizer) {
  if (!text.empty() && text.find_first_not_of("0123456789") != std::string::npos) return tokenizer.id(text);
  const std::vector<Index> ids = parse_index_list(option, text);
  if (ids.front() >= tokenizer.vocabulary_size())
    raise(ErrorKind::value, message(option, ": token ", ids.front(), " is out of range, expected 0 to ", tokenizer.vocabulary_size() - 1));
  return ids.front();
}

Index single_position(const ExplanationOptions& options, Index tokens) {
  const std::vector<Index> chosen = parse_indices("--position", options.position).resolve(tokens, "position");
  if (chosen.size() != 1 || options.position == "all")
    raise(ErrorKind::value, message("--position: \"", options.position, "\" is no single position, expected last, or 0 to ", tokens - 1));
  return chosen.front();
}

/// What a method's numbers are.
template <Real Scalar>
std::string value_name(Method method, const ExplanationOptions& options, const MethodOptions<Scalar>& how) {
  const std::string map = reduction_text(how.reduction), logit = options.contrast.empty() ? "the logit" : "the difference of logits";
  switch (method) {
    case Method::raw:
      return map + (options.layer ? message(" of layer ", *options.layer) : std::string(" and layers"));
    case Method::rollout:
      return "row of the rollout of " + map;
    case Method::gradient:
      return "row of the rollout of gradient times attention, where positive";
    case Method::gradient_mean:
      return "rollout of mean gradient times mean attention";
    case Method::gradient_maximum:
      return "rollout of attention times the largest gradient of each token";
    case Method::relevance:
      return "share of " + logit;
    case Method::vector_rollout:
      return "share of " + logit + ", attention held";
    case Method::relevance_attention:
      return "what attention moves of " + logit + ", mean over layers";
    case Method::gradient_x_input:
      return "gradient times embedding";
    case Method::integrated_gradients:
      return "share of " + logit + ", from " +
             (options.baseline == "zero"   ? std::string("embeddings of zero")
              : options.baseline == "mean" ? std::string("the mean embedding")
                                           : "the embedding of " + options.baseline) +
             " on";
    case Method::leave_one_out:
      return std::string(how.removal == Removal::replace ? "what <unk>" : "what a zero embedding") + " in its place takes from " + logit;
    case Method::random:
      break;
  }
  return "random numbers";
}

template <Real Scalar>
Explanation explain_in(const ExplanationOptions& options, const std::string& directory) {
  Explanation explanation;
  const LoadedModel<Scalar> loaded = LoadedModel<Scalar>::open(
      directory, options.sequence.tokenizer, [&](const Tokenizer& opened) { explanation.ids = sequence_ids(options.sequence, opened); });
  loaded.tokenizer.check(explanation.ids);
  const LanguageModel<Scalar>& model = loaded.model;
  explanation.directory = directory;
  explanation.architecture = architecture_text(model.name());
  explanation.separator = separator_of(loaded.tokenizer);
  explanation.layers = model.layer_count();
  explanation.subwords = loaded.tokenizer.kind() == TokenizerKind::subwords;
  explanation.labels = loaded.tokenizer.labels(explanation.ids);
  explanation.unknown = std::count(explanation.labels.begin(), explanation.labels.end(), "<unk>");
  const Index position = single_position(options, static_cast<Index>(explanation.ids.size()));
  if (options.layer && (*options.layer < 0 || *options.layer >= model.layer_count()))
    raise(ErrorKind::value,
          message("--layer: ", *options.layer, " is out of range, expected 0 to ", model.layer_count() - 1, " for ", directory));

  const std::vector<NamedMethod> methods = methods_of(options);
  const Index loops = 4 * model.layer_count();
  Work work(message(explanation.architecture, " reads"), 1 + static_cast<Index>(methods.size()));
  work.begin_piece(loops);
  ForwardOptions forward;
  forward.keep = Keep::residuals;
  forward.executor = work.executor();
  if (!options.all_logits) forward.logit_positions = Indices({position});
  Explainer<Scalar> explainer(model, explanation.ids, forward);
  Target target;
  target.position = position;
  target.token = explainer.most_likely(position);
  if (options.target != "argmax") target.token = named_token("--target", options.target, loaded.tokenizer);
  if (!options.contrast.empty()) target.contrast = named_token("--contrast", options.contrast, loaded.tokenizer);
  explanation.predictions = predictions_of(explainer.pass().logits_at(position).row(0).template cast<double>(), loaded.tokenizer, 5);
  explanation.target_text = message("the logit of \"", visible(loaded.tokenizer.label(target.token)), "\"");
  if (target.contrast) explanation.target_text += message(" less that of \"", visible(loaded.tokenizer.label(*target.contrast)), "\"");

  MethodOptions<Scalar> how;
  how.terms = Terms::parse(options.terms);
  how.reduction = parse_reduction(options.reduce);
  how.layer = options.layer;
  how.integration_steps = options.steps;
  if (options.baseline == "mean")
    how.baseline = RowVector<Scalar>(model.parts().embedding.matrix().colwise().mean());
  else if (options.baseline != "zero")
    how.baseline = RowVector<Scalar>(model.parts().embedding.matrix().row(named_token("--baseline", options.baseline, loaded.tokenizer)));

  if (const std::optional<Index> unknown = loaded.tokenizer.find("<unk>")) {
    how.removal = Removal::replace;
    how.replacement = *unknown;
  }
  for (const auto& [method, asked_name] : methods) {
    const MethodName& info = method_info(method);
    how.with_map = options.maps && info.has_map;
    work.begin_piece(method == Method::leave_one_out          ? 1
                     : method == Method::integrated_gradients ? (how.integration_steps > 0 ? how.integration_steps : 49) * 2 * loops
                                                              : 2 * loops);
    const Attribution<Scalar> attribution = explainer.explain(method, target, how);
    Answer answer;
    answer.method = asked_name;
    answer.value_name = value_name(method, options, how);
    answer.about_target = about_target(method);
    answer.from_attention = info.from_attention;
    const RowVector<double> scores = attribution.scores.template cast<double>();
    answer.scores.assign(scores.data(), scores.data() + scores.size());
    answer.map = attribution.map.template cast<double>();
    answer.explained = static_cast<double>(attribution.explained);
    answer.bias_share = static_cast<double>(attribution.bias_share);
    answer.baseline = static_cast<double>(attribution.baseline);
    answer.conserves = method == Method::relevance;
    answer.integrates = method == Method::integrated_gradients;
    answer.points = attribution.points;
    answer.converged = attribution.converged;
    answer.untreated = attribution.untreated;
    answer.zero_rows = static_cast<Index>(attribution.zero_rows.size());
    answer.constant_layers = static_cast<Index>(attribution.constant_layers.size());
    explanation.answers.push_back(std::move(answer));
  }
  if (options.gradients) {
    // A layer's first mixer is layerN.y; one beside it is named by its kind. A layer that mixes no tokens has none.
    const BackwardPass<Scalar>& backward_pass = explainer.gradients(target);
    for (Index layer = 0; layer < model.layer_count(); ++layer) {
      const LayerPass<Scalar> layer_pass = model.layer_pass(explainer.pass(), layer, forward.executor, false);
      for (std::size_t index = 0; index < layer_pass.mixers.size(); ++index) {
        const MixerRun<Scalar>& mixer = layer_pass.mixers[index];
        const std::string kind = mixer.kind.empty() ? "" : mixer.kind + "_";
        const Array<Scalar>& gradient = backward_pass.layers[static_cast<std::size_t>(layer)].mixers_y[index];
        explanation.gradients.push_back({message("layer", layer, ".", kind, "y"), (*mixer.y).template cast<double>()});
        explanation.gradients.push_back({message("layer", layer, ".grad_", kind, "y"), (*gradient).template cast<double>()});
      }
    }
    explanation.gradients.push_back({"grad_embeddings", (*backward_pass.embeddings).template cast<double>()});
  }
  explanation.position = target.position;
  explanation.target = target.token;
  explanation.contrast = target.contrast;
  explanation.logits = explainer.pass().logits.template cast<double>();
  return explanation;
}

}  // namespace

std::string attribution_method_names() {
  std::string names;
  for (const MethodName& method : method_names) names += message(names.empty() ? "" : "|", method.name);
  return names;
}

void check_question(const ExplanationOptions& options) {
  (void)Terms::parse(options.terms);
  (void)parse_indices("--position", options.position);
  for (const NamedMethod& named : methods_of(options))
    if (options.layer && named.method != Method::raw)
      raise(ErrorKind::value, message("--layer: ", named.name, " goes through all layers; raw can look at one"));
}

Explanation explain(const ExplanationOptions& options, const std::string& directory) {
  return options.precision == "float64" ? explain_in<double>(options, directory) : explain_in<float>(options, directory);
}

}  // namespace implicit_attention::examples
