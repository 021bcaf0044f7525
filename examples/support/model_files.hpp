// The files that make a model and its tokenizer, and what tells one from another that took its place.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace implicit_attention::examples {

/// Whether a file's name ends as those of weights do: .safetensors, .bin, .pth, .pt, .ckpt or .gguf.
[[nodiscard]] bool is_weights(const std::string& name);
/// Whether a file of this name lies beside weights and is read: a configuration, a tokenizer, or a part of one.
[[nodiscard]] bool is_beside_weights(const std::string& name);

/// What a file is: of weights, which may be many gigabytes, size and time of writing; else size and a hash of its bytes.
[[nodiscard]] std::string file_state(const std::filesystem::path& path);
/// The same of bytes.
[[nodiscard]] std::string bytes_state(std::string_view bytes);

/// Names and states of the files that a model in `path` (a folder or a file) is read from: all shards, and what lies beside them.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> model_state(const std::filesystem::path& path);
/// The same of a tokenizer that --tokenizer names: nothing for `bytes`, `symbols` and `words`.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> tokenizer_state(const std::string& choice);

}  // namespace implicit_attention::examples
