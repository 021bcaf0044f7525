#include "continuation.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>
#include <variant>

#include <implicit_attention/attribution/result.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/io/tokenizers/gguf_metadata.hpp>

namespace implicit_attention::examples {
namespace {

/// The tokens under `key`; nothing where it is not there.
std::optional<std::vector<Index>> ends_of(const Configuration& configuration, const char* key) {
  const Configuration::Value* const value = configuration.find(key);
  if (value == nullptr) return std::nullopt;
  if (const Index* const one = std::get_if<Index>(value)) return std::vector<Index>{*one};
  const auto* const none = std::get_if<std::vector<std::string>>(value);  // what an empty list is read as
  const auto* const several = std::get_if<std::vector<double>>(value);
  const auto is_id = [](double number) { return number == std::floor(number) && std::abs(number) < 1e15; };
  std::vector<Index> ends;
  if (several != nullptr && std::all_of(several->begin(), several->end(), is_id))
    for (const double number : *several) ends.push_back(static_cast<Index>(number));
  if (ends.empty() && (none == nullptr || !none->empty()))
    detail::raise(ErrorKind::file, configuration.where(), ": key ", key, " is neither a token's id nor a list of them");
  return ends;
}

}  // namespace

std::vector<Index> end_tokens(const std::string& directory) {
  const Checkpoint<float> checkpoint = open_checkpoint<float>(directory);
  if (checkpoint.format == "GGUF") {
    const std::optional<Index> end = read_gguf_vocabulary(checkpoint.tokenizer).eos;
    return end ? std::vector<Index>{*end} : std::vector<Index>();
  }
  if (const std::filesystem::path file = checkpoint.tokenizer / "generation_config.json"; detail::is_file(file))
    if (auto ends = ends_of(read_configuration(file), "eos_token_id")) return std::move(*ends);
  for (const char* const key : {"eos_token_id", "text_config.eos_token_id"})
    if (auto ends = ends_of(checkpoint.configuration, key)) return std::move(*ends);
  return {};
}

template <Real Scalar>
Continuation continue_text(const LanguageModel<Scalar>& model, const std::vector<Index>& prompt, Index count,
                           const std::vector<Index>& ends, const Executor& executor, const std::function<void()>& advance) {
  Continuation made;
  std::vector<Index> all = prompt;
  CarriedStates states;
  Matrix<Scalar> logits = model.next_logits(prompt, states, executor);
  if (!states.refusals().empty()) made.repeated = states.refusals().front();
  while (true) {
    detail::check_finite("--generate", "the logits", logits);
    Index next = 0;
    logits.row(0).maxCoeff(&next);
    all.push_back(next);
    made.ids.push_back(next);
    advance();
    if (std::find(ends.begin(), ends.end(), next) != ends.end()) made.ended = next;
    if (made.ended || static_cast<Index>(made.ids.size()) == count) return made;
    if (made.repeated.empty()) {
      logits = model.next_logits({next}, states, executor);
    } else {
      ForwardOptions whole;
      whole.keep = Keep::logits;
      whole.logit_positions = Indices::last();
      whole.executor = executor;
      logits = model.forward(all, whole).logits;
    }
  }
}
template Continuation continue_text(const LanguageModel<float>&, const std::vector<Index>&, Index, const std::vector<Index>&,
                                    const Executor&, const std::function<void()>&);
template Continuation continue_text(const LanguageModel<double>&, const std::vector<Index>&, Index, const std::vector<Index>&,
                                    const Executor&, const std::function<void()>&);

}  // namespace implicit_attention::examples
