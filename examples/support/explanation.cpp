#include "explanation.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <limits>
#include <mutex>
#include <new>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/core/finite.hpp>

#include "chat.hpp"
#include "command_line.hpp"
#include "continuation.hpp"
#include "memory.hpp"
#include "methods_asked.hpp"
#include "numbers.hpp"
#include "text.hpp"
#include "working.hpp"

namespace implicit_attention::examples {
namespace {

/// Activations that one text may keep, so that layers are not run twice.
constexpr std::size_t activation_memory = std::size_t{256} << 20;

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
  if (!text.empty() && text.find_first_not_of("0123456789") != std::string::npos) return token_named(option, text, tokenizer);
  const std::vector<Index> ids = parse_index_list(option, text);
  if (ids.front() >= tokenizer.vocabulary_size())
    detail::raise(ErrorKind::value, option, ": token ", ids.front(), " is out of range, expected 0 to ", tokenizer.vocabulary_size() - 1);
  return ids.front();
}

/// The tokens that a question names: nothing where it names none.
struct NamedTokens {
  std::optional<Index> target, contrast, baseline;
};
/// The name of what the model predicts.
constexpr std::string_view predicted = "argmax";
NamedTokens named_tokens(const ExplanationOptions& options, const Tokenizer& tokenizer) {
  NamedTokens named;
  if (options.target != predicted) named.target = named_token("--target", options.target, tokenizer);
  if (!options.contrast.empty() && options.contrast != predicted) named.contrast = named_token("--contrast", options.contrast, tokenizer);
  if (options.baseline != "mean" && options.baseline != "zero") named.baseline = named_token("--baseline", options.baseline, tokenizer);
  return named;
}

Index single_position(const ExplanationOptions& options, Index tokens) {
  const std::vector<Index> chosen = parse_indices("--position", options.position).resolve(tokens, "position");
  if (chosen.size() != 1 || options.position == "all")
    detail::raise(ErrorKind::value, "--position: \"", options.position, "\" is not a single position, expected last, or 0 to ", tokens - 1);
  return chosen.front();
}

/// Why a method's map of so many tokens is left out of what is written; empty where it is not, or where there is none. `operations`: what a
/// map by vectors takes for a pair of tokens. Fails (limit) if the map does not fit and is needed.
std::string why_without_map(const ExplanationOptions& options, Method method, std::size_t tokens, double operations = 0) {
  constexpr double most_operations = 1e11;  // a second or two
  if (!method_info(method).has_map) return "";
  if (tokens > IMPLICIT_ATTENTION_DEFAULT_BYTE_LIMIT / sizeof(double) / tokens) {
    const std::size_t limit = IMPLICIT_ATTENTION_DEFAULT_BYTE_LIMIT >> 20U;
    if (options.needs_maps)
      detail::raise(ErrorKind::limit, "--picture: a map of ", tokens, " x ", tokens, " tokens takes more than the limit of ", limit,
                    " MiB, expected strips");
    return detail::message("it takes more than ", limit, " MiB");
  }
  if (options.needs_maps) return "";
  const double pairs = static_cast<double>(tokens) * static_cast<double>(tokens) / 2;
  if (method_info(method).from_vectors && pairs * operations > most_operations)
    return "it takes a product for each pair of tokens; --picture maps draws it all the same";
  if (tokens > options.largest_map)
    return detail::message("of more than ", options.largest_map, " tokens a .safetensors holds it, and a .json does not");
  return "";
}

/// Fails (limit) where the machine has no memory for the logits at every token: numbers as they are computed, and as they are shown. A
/// system may promise more than it has, and end the program when it uses that.
void refuse_large_logits(const ExplanationOptions& options, std::size_t tokens, Index vocabulary) {
  if (!options.all_logits) return;
  const std::size_t each = (options.precision == "float64" ? sizeof(double) : sizeof(float)) + sizeof(double);
  const double bytes = static_cast<double>(tokens) * static_cast<double>(vocabulary) * static_cast<double>(each);
  if (bytes < static_cast<double>(std::size_t{1} << 30U)) return;
  const bool too_many = bytes > physical_memory() || bytes > static_cast<double>(std::numeric_limits<std::ptrdiff_t>::max());
  if (void* const memory = too_many ? nullptr : ::operator new(static_cast<std::size_t>(bytes), std::nothrow)) {
    ::operator delete(memory);
    return;
  }
  detail::raise(ErrorKind::limit, "--out: the logits at all of ", grouped(static_cast<Index>(tokens)), " tokens, ", grouped(vocabulary),
                " numbers each, take ", grouped(static_cast<Index>(bytes / 1073741824.0)),
                " GiB, which this machine does not have; a .json without --all-logits holds those at the position alone");
}

/// All that can be asked of a question without weights, of its text too.
void check_before_weights(const ExplanationOptions& options, const std::vector<Index>& ids, const Tokenizer& tokenizer) {
  static_cast<void>(named_tokens(options, tokenizer));
  refuse_large_logits(options, ids.size(), tokenizer.vocabulary_size());
  if (options.generate > 0) return;  // how long the text becomes is not known yet
  static_cast<void>(single_position(options, static_cast<Index>(ids.size())));
  if (options.maps)
    for (const NamedMethod& named : methods_of(options)) static_cast<void>(why_without_map(options, named.method, ids.size()));
}

}  // namespace

/// A question as it is put to one model: what is asked, with tokens and heads by their numbers.
template <Real Scalar>
struct Question {
  ExplanationOptions options;
  std::vector<NamedMethod> methods;
  std::optional<Index> target, contrast;
  MethodOptions<Scalar> how;
};

namespace {

/// The heads that are asked for. Errors in the choice of layer or heads are reported before a text is run.
template <Real Scalar>
std::vector<Index> chosen_heads(const ExplanationOptions& options, const LoadedModel<Scalar>& loaded) {
  if (!options.layer) return {};
  const Index layer = *options.layer;
  const std::vector<Index> mixing = loaded.model.mixing_layers();
  if (std::find(mixing.begin(), mixing.end(), layer) == mixing.end())
    detail::raise(ErrorKind::value, "--layer: layer ", layer, " of ", loaded.directory, " mixes no tokens, expected one of ",
                  shape_text(mixing));
  if (options.heads.empty()) return {};
  const std::vector<Index> counts = detail::head_counts(loaded.model.layer_pass(loaded.model.forward({0}), layer));
  const Index count = std::accumulate(counts.begin(), counts.end(), Index(0));
  if (count == 0)
    detail::raise(ErrorKind::value, "--heads: the channels of layer ", layer, " of ", loaded.directory,
                  " share no matrices, so it has no heads");
  return parse_indices("--heads", options.heads).resolve(count, "--heads: head");
}

template <Real Scalar>
Question<Scalar> question_to(const LoadedModel<Scalar>& loaded, const ExplanationOptions& options) {
  const NamedTokens named = named_tokens(options, loaded.tokenizer);
  Question<Scalar> question{options, methods_of(options), named.target, named.contrast, {}};
  MethodOptions<Scalar>& how = question.how;
  how.terms = Terms::parse(options.terms);
  how.reduction = parse_reduction(options.reduce);
  how.layer = options.layer;
  how.heads = chosen_heads(options, loaded);
  how.integration_steps = options.steps;
  if (options.baseline == "mean")
    how.baseline = mean_embedding(loaded.model);
  else if (named.baseline)
    how.baseline = detail::row_of(loaded.model.parts().embedding, *named.baseline);
  if (const std::optional<Index> unknown = loaded.tokenizer.find("<unk>")) {
    how.removal = Removal::replace;
    how.replacement = *unknown;
  }
  return question;
}

/// What is kept of the run of a text: residual streams, and logits at the targets or everywhere.
ForwardOptions forward_options(const ExplanationOptions& options, const std::vector<Target>& targets, const Executor& executor) {
  ForwardOptions forward;
  forward.keep = Keep::residuals;
  forward.executor = executor;
  forward.logit_positions = options.all_logits ? Indices::all() : Indices(detail::positions_of(targets));
  forward.memory = activation_memory;
  return forward;
}

/// Which methods' maps are written, one a method; the explanation is told which are left out, and why.
template <Real Scalar>
std::vector<bool> maps_written(const Question<Scalar>& question, const LanguageModel<Scalar>& model, std::size_t targets,
                               Explanation& explanation) {
  // A token's vector goes through the output projection, about twice as many channels as the model is wide, in every layer.
  const double width = static_cast<double>(model.width()), operations = 4 * width * width * static_cast<double>(model.layer_count());
  std::vector<bool> maps;
  for (const NamedMethod& named : question.methods) {
    bool written = question.options.maps && targets == 1 && method_info(named.method).has_map;
    if (written) {
      const std::string why = why_without_map(question.options, named.method, explanation.ids.size(), operations);
      written = why.empty();
      if (!written) explanation.maps_left_out.push_back({named.name, why});
    }
    maps.push_back(written);
  }
  return maps;
}

/// One prediction, without the methods' answers.
template <Real Scalar>
ExplainedTarget explained_target(const Explainer<Scalar>& explainer, const Tokenizer& tokenizer, const Target& target) {
  ExplainedTarget explained;
  explained.position = target.position;
  explained.target = target.token;
  explained.contrast = target.contrast;
  explained.predictions = predictions_of(explainer.pass().logits_at(target.position).row(0).template cast<double>(), tokenizer, 5);
  explained.target_text = detail::message("the logit of \"", visible(tokenizer.label(target.token)), "\"");
  if (target.contrast) explained.target_text += detail::message(" less that of \"", visible(tokenizer.label(*target.contrast)), "\"");
  return explained;
}

/// A method's attributions, one a target; `shared`: by one call for all of them.
template <Real Scalar>
std::vector<Attribution<Scalar>> attributions(Explainer<Scalar>& explainer, Method method, const MethodOptions<Scalar>& how,
                                              const std::vector<Target>& targets, bool shared) {
  std::vector<Attribution<Scalar>> answers;
  if (!shared) {
    for (const Target& target : targets) answers.push_back(explainer.explain(method, target, how));
    return answers;
  }
  const AttributionMatrix<Scalar> all = explainer.explain_each(method, targets, how);
  for (Index row = 0; row < all.scores.rows(); ++row) {
    Attribution<Scalar> answer;
    answer.scores = all.scores.row(row);
    answer.explained = all.explained[row];
    answer.zero_rows = all.zero_rows;
    answers.push_back(std::move(answer));
  }
  return answers;
}

template <Real Scalar>
Answer answer_of(const Question<Scalar>& question, const NamedMethod& named, const Attribution<Scalar>& attribution) {
  Answer answer;
  answer.method = named.name;
  answer.value_name = value_name(named.method, question.options, question.how.reduction, question.how.removal);
  answer.about_target = !method_info(named.method).of_position;
  answer.from_attention = method_info(named.method).from_attention;
  const RowVector<double> scores = attribution.scores.template cast<double>();
  answer.scores.assign(scores.data(), scores.data() + scores.size());
  answer.map = attribution.map.template cast<double>();
  answer.explained = static_cast<double>(attribution.explained);
  answer.bias_share = static_cast<double>(attribution.bias_share);
  answer.baseline = static_cast<double>(attribution.baseline);
  answer.conserves = conserves(named.method, question.how.terms);
  answer.terms_left_out = named.method == Method::vector_rollout && !answer.conserves;
  answer.integrates = named.method == Method::integrated_gradients;
  answer.points = attribution.points;
  answer.converged = attribution.converged;
  answer.untreated = attribution.untreated;
  answer.zero_rows = static_cast<Index>(attribution.zero_rows.size());
  answer.constant_layers = static_cast<Index>(attribution.constant_layers.size());
  return answer;
}

/// Adds every layer's output and its gradient, and the gradient of the embeddings.
template <Real Scalar>
void add_gradients(Explainer<Scalar>& explainer, const LanguageModel<Scalar>& model, const Target& target, const Executor& executor,
                   Explanation& explanation) {
  // A layer's first mixer is layerN.y; one beside it has its kind in the name. A layer that mixes no tokens has none.
  const BackwardPass<Scalar>& backward_pass = explainer.gradients(target);
  for (Index layer = 0; layer < model.layer_count(); ++layer) {
    const LayerPass<Scalar> layer_pass = model.layer_pass(explainer.pass(), layer, executor, false);
    for (std::size_t index = 0; index < layer_pass.mixers.size(); ++index) {
      const MixerRun<Scalar>& mixer = layer_pass.mixers[index];
      const std::string kind = mixer.kind.empty() ? "" : mixer.kind + "_";
      const Array<Scalar>& gradient = backward_pass.layers[static_cast<std::size_t>(layer)].mixers_y[index];
      explanation.gradients.push_back({detail::message("layer", layer, ".", kind, "y"), (*mixer.y).template cast<double>()});
      explanation.gradients.push_back({detail::message("layer", layer, ".", kind, "grad_y"), (*gradient).template cast<double>()});
      if (!kind.empty())  // also with grad_ before the kind
        explanation.gradients.push_back({detail::message("layer", layer, ".grad_", kind, "y"), (*gradient).template cast<double>()});
    }
  }
  explanation.gradients.push_back({"grad_embeddings", (*backward_pass.embeddings).template cast<double>()});
}

}  // namespace

/// Says which of a model's weights is not finite, where one is. They are scanned once for all texts.
template <Real Scalar>
class WeightsScan {
 public:
  explicit WeightsScan(std::string directory) : directory_(std::move(directory)) {}

  /// Fails (value), naming the tensor, where weights are not finite.
  void refuse() const {
    std::call_once(asked_, [&] {
      try {
        refuse_weights_not_finite<Scalar>(directory_);
      } catch (const Error& error) {
        wrong_ = error.what();
      }
    });
    if (!wrong_.empty()) detail::raise(ErrorKind::value, wrong_);
  }
  /// Runs `work`. Where that fails by a value, and weights are not finite, the error is about these.
  template <class Work>
  auto around(const Work& work) const {
    try {
      return work();
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::value) refuse();
      throw;
    }
  }

 private:
  std::string directory_;
  mutable std::once_flag asked_;
  mutable std::string wrong_;
};

/// A model and a question about texts: all that can be checked without a text has been.
template <Real Scalar>
class Questioner {
 public:
  /// Where loops run, and what is told of the work: a piece of it begins, of about so many loops.
  struct Run {
    Executor executor = serial_executor();
    std::function<void(Index loops)> begin_piece = [](Index) {};
  };

  Questioner(const ExplanationOptions& options, LoadedModel<Scalar> loaded)
      : loaded_(std::move(loaded)),
        question_(question_to(loaded_, options)),
        architecture_(architecture_text(model().name())),
        weights_(loaded_.directory) {}

  [[nodiscard]] const LanguageModel<Scalar>& model() const { return loaded_.model; }
  [[nodiscard]] const Tokenizer& tokenizer() const { return loaded_.tokenizer; }
  [[nodiscard]] const std::string& architecture() const { return architecture_; }
  /// Pieces of work that explaining takes: the run of the text, and each method.
  [[nodiscard]] Index pieces() const { return 1 + static_cast<Index>(question_.methods.size()); }

  /// Explains what comes after one position.
  [[nodiscard]] Explanation explain(std::vector<Index> ids, const Run& run) const {
    Target target;
    target.position = single_position(question_.options, static_cast<Index>(ids.size()));
    return explain(std::move(ids), {target}, question_.target, run);
  }
  /// Lets the model go on after `ids`, and explains each token that it writes.
  [[nodiscard]] Explanation explain_writing(std::vector<Index> ids, const std::vector<Index>& ends, const Run& run) const {
    const Index most = question_.options.generate;
    refuse_large_logits(question_.options, ids.size() + static_cast<std::size_t>(most), model().vocabulary());
    run.begin_piece(loops() * (most + 1));
    const Continuation continuation = weights_.around([&] { return continue_text(model(), ids, most, ends, run.executor, [] {}); });
    Written written{static_cast<Index>(ids.size()), tokenizer().decode(continuation.ids), continuation.ended, continuation.repeated};
    std::vector<Target> targets;
    for (const Index token : continuation.ids) {
      Target target;
      target.position = static_cast<Index>(ids.size()) - 1;
      target.token = token;
      targets.push_back(target);
      ids.push_back(token);
    }
    Explanation explanation = explain(std::move(ids), std::move(targets), std::nullopt, run);
    explanation.written = std::move(written);
    return explanation;
  }

 private:
  /// A pass has some fourteen loops a layer.
  [[nodiscard]] Index loops() const { return 14 * model().layer_count(); }

  /// `token`: what is explained in the place of the likeliest, where there is one target that names none.
  [[nodiscard]] Explanation explain(std::vector<Index> ids, std::vector<Target> targets, std::optional<Index> token, const Run& run) const {
    return weights_.around([&] {
      Explanation explanation = described(std::move(ids));
      const std::vector<bool> maps = maps_written(question_, model(), targets.size(), explanation);
      // Logits at every token take as long as so many layers more, in one loop.
      run.begin_piece(question_.options.all_logits ? loops() + 14 * model().vocabulary() / (8 * model().width()) : loops());
      Explainer<Scalar> explainer(model(), explanation.ids, forward_options(question_.options, targets, run.executor), plan(maps));
      if (!detail::all_finite(explainer.pass().logits)) weights_.refuse();
      choose_tokens(explainer, targets, token);
      for (const Target& target : targets) explanation.targets.push_back(explained_target(explainer, tokenizer(), target));
      ask(explainer, targets, maps, run, explanation);
      if (question_.options.gradients) add_gradients(explainer, model(), targets.front(), run.executor, explanation);
      explanation.logits = explainer.pass().logits.template cast<double>();
      return explanation;
    });
  }
  /// The model and the text, before anything has run.
  [[nodiscard]] Explanation described(std::vector<Index> ids) const {
    Explanation explanation;
    explanation.directory = loaded_.directory;
    explanation.architecture = architecture_;
    explanation.separator = separator_of(tokenizer());
    explanation.layers = model().layer_count();
    explanation.subwords = tokenizer().kind() == TokenizerKind::subwords;
    explanation.ids = std::move(ids);
    explanation.labels = tokenizer().labels(explanation.ids);
    explanation.unknown = std::count(explanation.labels.begin(), explanation.labels.end(), "<unk>");
    return explanation;
  }
  [[nodiscard]] ExplanationPlan<Scalar> plan(const std::vector<bool>& maps) const {
    ExplanationPlan<Scalar> plan;
    for (const NamedMethod& named : question_.methods) plan.methods.push_back(named.method);
    plan.options = question_.how;
    plan.options.with_map = std::find(maps.begin(), maps.end(), true) != maps.end();
    plan.whole = question_.options.gradients;
    return plan;
  }
  /// What is explained, where that is what the model predicts.
  void choose_tokens(const Explainer<Scalar>& explainer, std::vector<Target>& targets, std::optional<Index> token) const {
    const bool choose = question_.options.generate == 0;
    for (Target& target : targets) {
      const Index likeliest = explainer.most_likely(target.position);  // and fails on NaN
      if (choose) target.token = token.value_or(likeliest);
      target.contrast = question_.options.contrast == predicted ? likeliest : question_.contrast;
    }
  }
  /// Adds every method's answers about the targets.
  void ask(Explainer<Scalar>& explainer, const std::vector<Target>& targets, const std::vector<bool>& maps, const Run& run,
           Explanation& explanation) const {
    MethodOptions<Scalar> how = question_.how;
    for (std::size_t method = 0; method < question_.methods.size(); ++method) {
      const NamedMethod& named = question_.methods[method];
      const Index steps = named.method == Method::integrated_gradients ? (how.integration_steps > 0 ? how.integration_steps : 49) : 1;
      const bool shared = method_info(named.method).serves_targets && targets.size() > 1;
      run.begin_piece(named.method == Method::leave_one_out ? 1 : shared ? loops() : loops() * steps * static_cast<Index>(targets.size()));
      how.with_map = maps[method];
      const std::vector<Attribution<Scalar>> answers = attributions(explainer, named.method, how, targets, shared);
      for (std::size_t k = 0; k < targets.size(); ++k) {
        Answer answer = answer_of(question_, named, answers[k]);
        if (answer.about_target) answer.explained = static_cast<double>(explainer.value(targets[k]));  // not every method asks for it
        explanation.targets[k].answers.push_back(std::move(answer));
      }
    }
  }

  LoadedModel<Scalar> loaded_;
  Question<Scalar> question_;
  std::string architecture_;
  WeightsScan<Scalar> weights_;
};

namespace {

/// An end token that is not an id of the model (its embedding was cut, or -1 for none) is never written, so that it ends nothing.
void leave_out_foreign(const std::string& directory, Index vocabulary, std::vector<Index>& ends) {
  std::erase_if(ends, [&](Index end) {
    if (end >= 0 && end < vocabulary) return false;
    std::fprintf(stderr, "%s: the end-of-text token is %td, the model has 0 to %td: it does not end what is written\n",
                 printable(directory).c_str(), end, vocabulary - 1);
    return true;
  });
}

template <Real Scalar>
Explanation explain_in(const ExplanationOptions& options, const std::string& directory) {
  std::vector<Index> ids;
  const Questioner<Scalar> questioner(
      options, LoadedModel<Scalar>::open(directory, options.sequence.tokenizer, options.layer, [&](const Tokenizer& opened) {
        ids = sequence_ids(options.sequence, opened);
        check_before_weights(options, ids, opened);
      }));
  const bool writes = options.generate > 0;
  Work work(detail::message(questioner.architecture(), writes ? " writes" : " reads"), questioner.pieces() + (writes ? 1 : 0),
            options.threads);
  const typename Questioner<Scalar>::Run run{work.executor(), [&](Index loops) { work.begin_piece(loops); }};
  if (!writes) return questioner.explain(std::move(ids), run);
  std::vector<Index> ends = end_tokens(directory);
  leave_out_foreign(directory, questioner.tokenizer().vocabulary_size(), ends);
  if (options.sequence.chat) detail::append_new(ends, chat_ends(questioner.tokenizer()));
  return questioner.explain_writing(std::move(ids), ends, run);
}

}  // namespace

void check_question(const ExplanationOptions& options) {
  (void)parse_terms("--terms", options.terms);
  const std::string_view position = trimmed(options.position), number = position.substr(position.starts_with('[') ? 1 : 0);
  if (position != "last" && position != "all" && (number.empty() || number.front() < '0' || number.front() > '9'))  // not from the end
    detail::raise(ErrorKind::value, "--position: \"", printable(position, 60), "\" is not a position, expected last, or a number from 0");
  (void)parse_indices("--position", position);
  if (options.contrast == predicted && options.target == predicted)
    detail::raise(ErrorKind::value, "--contrast: ", predicted, " less itself is 0, expected --target TOKEN, or another token here");
  for (const NamedMethod& named : methods_of(options)) {
    if (options.layer && !method_info(named.method).layer_mean)
      detail::raise(ErrorKind::value, "--layer: ", named.name, " goes through all layers; ", some_of(layer_method_names()),
                    " can look at one");
    if (!options.heads.empty() && !method_info(named.method).by_head)
      detail::raise(ErrorKind::value, "--heads: ", named.name, " takes a layer as a whole; ", some_of(layer_method_names(true)),
                    " can look at its heads");
  }
  if (options.heads.empty()) return;
  (void)parse_indices("--heads", options.heads);
  if (!options.layer) detail::raise(ErrorKind::value, "--heads: heads are those of one layer, expected --layer N beside them");
}

Explanation explain(const ExplanationOptions& options, const std::string& directory) {
  return options.precision == "float64" ? explain_in<double>(options, directory) : explain_in<float>(options, directory);
}

class TextExplainer::Implementation {
 public:
  Implementation(const ExplanationOptions& options, const std::string& directory,
                 const std::function<void(const Tokenizer&)>& before_weights) {
    const auto open = [&]<class Scalar>(std::optional<Questioner<Scalar>>& questioner) {
      questioner.emplace(options,
                         LoadedModel<Scalar>::open(directory, options.sequence.tokenizer, options.layer, [&](const Tokenizer& opened) {
                           static_cast<void>(named_tokens(options, opened));
                           before_weights(opened);
                         }));
    };
    options.precision == "float64" ? open(wide_) : open(narrow_);
  }
  /// Calls `use` with the questioner of the precision that was asked for.
  template <class Use>
  decltype(auto) with(Use use) const {
    return wide_ ? use(*wide_) : use(*narrow_);
  }

 private:
  std::optional<Questioner<float>> narrow_;
  std::optional<Questioner<double>> wide_;
};

TextExplainer::TextExplainer(const ExplanationOptions& options, const std::string& directory,
                             const std::function<void(const Tokenizer&)>& before_weights)
    : implementation_(std::make_unique<const Implementation>(options, directory, before_weights)) {}
TextExplainer::~TextExplainer() = default;
const Tokenizer& TextExplainer::tokenizer() const {
  return implementation_->with([](const auto& questioner) -> const Tokenizer& { return questioner.tokenizer(); });
}
const std::string& TextExplainer::architecture() const {
  return implementation_->with([](const auto& questioner) -> const std::string& { return questioner.architecture(); });
}
Explanation TextExplainer::explain(std::vector<Index> ids, const Executor& executor) const {
  return implementation_->with([&](const auto& questioner) { return questioner.explain(std::move(ids), {executor}); });
}

}  // namespace implicit_attention::examples
