#include "chat.hpp"

#include <array>
#include <optional>

#include <implicit_attention/core/error.hpp>

namespace implicit_attention::examples {
namespace {

struct ChatTemplate {
  std::string_view start, end;     ///< its marks, tokens both
  std::string_view begin_of_text;  ///< a token before everything, where the vocabulary has it and puts nothing there itself; empty: none
  std::string_view before, after;  ///< what stands around the text
  bool trims;                      ///< white space around the text goes
};

// The forms of Qwen, Llama 3 and Gemma for one turn of a user, without a system turn.
constexpr std::array<ChatTemplate, 3> templates{{
    {"<|im_start|>", "<|im_end|>", "", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", false},
    {"<|start_header_id|>", "<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>user<|end_header_id|>\n\n",
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", true},
    {"<start_of_turn>", "<end_of_turn>", "<bos>", "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", true},
}};

const ChatTemplate& template_of(const Tokenizer& tokenizer) {
  if (tokenizer.kind() == TokenizerKind::subwords)
    for (const ChatTemplate& known : templates)
      if (tokenizer.find(known.start) && tokenizer.find(known.end)) return known;
  detail::raise(ErrorKind::value,
                "--chat: the vocabulary has none of the known chat markers: <|im_start|> and <|im_end|> (ChatML), "
                "<|start_header_id|> and <|eot_id|> (Llama 3), <start_of_turn> and <end_of_turn> (Gemma)");
}

}  // namespace

std::vector<Index> chat_ids(std::string_view text, const Tokenizer& tokenizer) {
  const ChatTemplate& form = template_of(tokenizer);
  constexpr std::string_view blank = " \t\r\n";
  const std::size_t first = text.find_first_not_of(blank);
  if (text.empty() || (form.trims && first == std::string_view::npos))
    detail::raise(ErrorKind::value, "the text is empty: expected at least one token");
  if (form.trims) text = text.substr(first, text.find_last_not_of(blank) + 1 - first);
  std::vector<Index> ids = tokenizer.before();
  if (ids.empty() && !form.begin_of_text.empty())
    if (const std::optional<Index> begin = tokenizer.find(form.begin_of_text)) ids.push_back(*begin);
  const std::vector<Index> turn = tokenizer.encode(std::string(form.before).append(text).append(form.after), false);
  ids.insert(ids.end(), turn.begin(), turn.end());
  return ids;
}

std::vector<Index> chat_ends(const Tokenizer& tokenizer) { return {tokenizer.id(template_of(tokenizer).end)}; }

}  // namespace implicit_attention::examples
