// The files that make a model and its tokenizer, and what tells one from another that took its place.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace implicit_attention::examples {

/// Whether a file's name ends as those of weights do: .safetensors, .bin, .pth, .pt, .ckpt or .gguf.
[[nodiscard]] bool is_weights(const std::string& name);
/// Whether a file of this name lies beside weights and is read: a configuration, a tokenizer, or a part of one.
[[nodiscard]] bool is_beside_weights(const std::string& name);

/// What bytes are: how many, and a hash of them.
[[nodiscard]] std::string bytes_state(std::string_view bytes);

/// What results depend on whatever is asked: the version, the model and the tokenizer that --tokenizer names (none for `bytes`, `symbols`
/// and `words`), with a state for each file that they are read from: all shards, and what lies beside them.
[[nodiscard]] nlohmann::ordered_json input_settings(const std::string& model, const std::string& tokenizer);

}  // namespace implicit_attention::examples
