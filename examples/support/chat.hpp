// One turn of a conversation, as the models that were trained on conversations read it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/io/tokenizer.hpp>

namespace implicit_attention::examples {

/// The tokens of what a user says, up to where the model answers: ChatML (`<|im_start|>`), Llama 3 (`<|start_header_id|>`) or Gemma
/// (`<start_of_turn>`), whichever the vocabulary has the marks of. There is no system prompt; Llama 3 and Gemma read the text without white
/// space around it, as their templates have it. Fails (value) where the vocabulary has none of these, and on a text that is empty.
[[nodiscard]] std::vector<Index> chat_ids(std::string_view text, const Tokenizer& tokenizer);
/// The tokens that end a turn.
[[nodiscard]] std::vector<Index> chat_ends(const Tokenizer& tokenizer);

}  // namespace implicit_attention::examples
