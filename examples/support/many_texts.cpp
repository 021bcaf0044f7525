#include "many_texts.hpp"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <mutex>
#include <new>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/text.hpp>

#include "explanation_files.hpp"
#include "memory.hpp"
#include "methods_asked.hpp"
#include "model_files.hpp"
#include "numbers.hpp"
#include "resumable_lines.hpp"
#include "progress.hpp"
#include "terminal.hpp"
#include "text_lines.hpp"
#include "working.hpp"

namespace implicit_attention::examples {
namespace {

/// All that results depend on, and the share of the texts that they are of.
nlohmann::ordered_json settings_of(const ExplanationOptions& question, const ManyTexts& many, std::string_view data) {
  const SequenceOptions& sequence = question.sequence;
  nlohmann::ordered_json settings = input_settings(many.model, sequence.tokenizer);
  settings["data"] = bytes_state(data);
  settings["shard"] = many.shard.text();
  settings["method"] = question.methods;
  settings["position"] = question.position;
  settings["target"] = question.target;
  settings["contrast"] = question.contrast;
  settings["layer"] = question.layer ? detail::message(*question.layer) : std::string("all");
  if (!question.heads.empty()) settings["heads"] = question.heads;  // results without are those of versions that knew none
  settings["terms"] = question.terms;
  settings["reduce"] = question.reduce;
  settings["baseline"] = question.baseline;
  settings["steps"] = question.steps;
  settings["precision"] = question.precision;
  settings["chat"] = sequence.chat;
  settings["prepend"] = sequence.prepend;
  settings["append"] = sequence.append;
  settings["longest"] = many.longest.value_or(0);
  return settings;
}

/// The tokens of an object of JSON Lines.
std::vector<Index> object_ids(const SequenceOptions& options, std::string_view line, const Tokenizer& tokenizer) {
  const JsonDocument document = parse_json_object(line, "the line");
  const Json& object = document;
  const auto text = object.find("text"), tokens = object.find("tokens");
  if ((text == object.end()) == (tokens == object.end()))
    detail::raise(ErrorKind::value, "the object has ", text == object.end() ? "neither" : "both", " \"text\" ",
                  text == object.end() ? "nor" : "and", " \"tokens\", expected one of them");
  if (text != object.end()) {
    if (!text->is_string()) detail::raise(ErrorKind::value, "\"text\" is ", json_text(*text), ", expected a string");
    return text_ids(options, text->get_ref<const std::string&>(), tokenizer);
  }
  if (options.chat) detail::raise(ErrorKind::value, "--chat: a turn is made of text, expected \"text\" instead of \"tokens\"");
  if (!tokens->is_array()) detail::raise(ErrorKind::value, "\"tokens\" is ", json_text(*tokens), ", expected a list of ids");
  std::vector<Index> ids;
  for (const Json& token : *tokens) {
    const std::optional<Index> id = json_natural_number(token);
    if (!id) detail::raise(ErrorKind::value, "\"tokens\" has ", json_text(token), ", expected ids");
    ids.push_back(*id);
  }
  tokenizer.check(ids);
  return surrounded_ids(options, ids, tokenizer);
}

std::vector<Index> plain_ids(const SequenceOptions& options, std::string_view line, const Tokenizer& tokenizer) {
  // A tokenizer of byte pairs takes any bytes; in a file of texts they are a mistake.
  if (const std::size_t bad = utf8_error(line); bad != std::string_view::npos && tokenizer.kind() != TokenizerKind::bytes)
    detail::raise(ErrorKind::value, "the text is not valid UTF-8 at byte ", bad);
  return text_ids(options, line, tokenizer);
}

}  // namespace

ManyTextsResult explain_many(const ExplanationOptions& question, const ManyTexts& many, Ranks& ranks) {
  const TextLines file(many.data);
  const auto total = static_cast<Index>(file.lines().size());
  if (total == 0) detail::raise(ErrorKind::file, many.data, ": there are no texts, expected one on each line");
  const std::string ending = std::filesystem::path(many.data).extension().string();
  const bool objects = ending == ".jsonl" || ending == ".ndjson";
  const std::vector<TextLine> lines(file.lines().begin() + many.shard.begin(total), file.lines().begin() + many.shard.end(total));
  std::vector<Index> numbers;
  for (const TextLine& line : lines) numbers.push_back(line.number);

  const TextExplainer explainer(question, many.model, [&](const Tokenizer& opened) {
    if (!objects && opened.kind() == TokenizerKind::none) (void)opened.encode("text");  // fails, and says why
    for (const std::string& name : question.sequence.prepend) static_cast<void>(token_named("--prepend", name, opened));
    for (const std::string& name : question.sequence.append) static_cast<void>(token_named("--append", name, opened));
  });
  const Tokenizer& tokenizer = explainer.tokenizer();

  std::optional<ResumableLines> results;
  if (ranks.first()) results.emplace(many.out, settings_of(question, many, file.bytes()), std::move(numbers));
  ManyTextsResult result;
  result.texts = static_cast<Index>(lines.size());
  result.found = ranks.from_first(results ? results->written() : 0);

  // Work grows with a text's length, or with its square.
  const std::vector<NamedMethod> methods = methods_of(question);
  const bool square =
      std::any_of(methods.begin(), methods.end(), [](const NamedMethod& named) { return method_info(named.method).quadratic; });
  const auto cost = [&](const TextLine& line) {
    const auto bytes = static_cast<Index>(std::min<std::size_t>(line.text.size(), 100'000'000));
    return square ? bytes * (bytes + 100) / 100 + 1 : bytes + 1;
  };
  Index work = 0;
  for (Index i = result.found; i < result.texts; ++i) work += cost(lines[static_cast<std::size_t>(i)]);

  const auto result_of = [&](const TextLine& line, const Executor& executor) {
    try {
      std::vector<Index> ids =
          objects ? object_ids(question.sequence, line.text, tokenizer) : plain_ids(question.sequence, line.text, tokenizer);
      if (many.longest && static_cast<Index>(ids.size()) > *many.longest)
        detail::raise(ErrorKind::value, "the text has ", grouped(static_cast<Index>(ids.size())), " tokens, more than the ",
                      grouped(*many.longest), " of --longest");
      return json_line(line.number, explainer.explain(std::move(ids), executor));
    } catch (const Error& error) {
      return json_error_line(line.number, error.what());
    } catch (const std::bad_alloc&) {
      return json_error_line(line.number, "there is not enough memory for this text");
    }
  };
  keep_freed_memory();
  ThreadPool pool(ranks.threads(question.threads));
  ProgressBar bar(detail::message("explain ", explainer.architecture()), work);
  std::mutex turn;  // of the file and the bar
  Index done = result.found;
  bar.count(done, result.texts);
  const auto put = [&](Index i, std::string text) {
    results->put(i, std::move(text));
    bar.count(++done, result.texts);
    bar.advance(cost(lines[static_cast<std::size_t>(i)]));
  };
  if (ranks.count() == 1) {  // each result is written as soon as those before it are
    for_each_piece(pool, result.texts - result.found, [&](Index i, const Executor& executor) {
      std::string text = result_of(lines[static_cast<std::size_t>(result.found + i)], executor);
      const std::lock_guard<std::mutex> lock(turn);
      put(result.found + i, std::move(text));
    });
  } else {
    const auto several = [&](const std::vector<Index>& pieces) {
      std::vector<std::string> texts(pieces.size());
      for_each_piece(pool, static_cast<Index>(pieces.size()), [&](Index i, const Executor& executor) {
        const auto place = static_cast<std::size_t>(i);
        texts[place] = result_of(lines[static_cast<std::size_t>(pieces[place])], executor);
      });
      return texts;
    };
    ranks.share(
        result.found, result.texts, 8 * std::max(1, question.threads), [&](Index i) { return cost(lines[static_cast<std::size_t>(i)]); },
        several, put);
  }
  bar.finish();
  result.errors = ranks.from_first(results ? results->errors() : 0);
  if (results) result.first_error = results->first_error();
  return result;
}

}  // namespace implicit_attention::examples
