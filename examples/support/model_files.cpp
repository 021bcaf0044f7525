#include "model_files.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/folder.hpp>
#include <implicit_attention/io/gguf.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/version.hpp>

namespace implicit_attention::examples {
namespace {

namespace fs = std::filesystem;
using States = std::vector<std::pair<std::string, std::string>>;

fs::path folder_of_file(const fs::path& file) { return file.has_parent_path() ? file.parent_path() : fs::path("."); }

void add_files_beside(const fs::path& folder, std::set<std::string>& names) {
  std::error_code ignored;
  for (const std::string& name : detail::names_in(folder, ignored))
    if (is_beside_weights(name)) names.insert(name);
}

/// What a file is: of weights, which may be many gigabytes, size and time of writing; else size and a hash of its bytes.
std::string file_state(const fs::path& path) {
  if (!is_weights(path.filename().string())) return bytes_state(MappedFile::open(path)->text());
  std::error_code ignored;
  return detail::message(fs::file_size(path, ignored), " bytes, written at ",
                         fs::last_write_time(path, ignored).time_since_epoch().count());
}

States states_of(const fs::path& folder, const std::set<std::string>& names) {
  std::error_code ignored;
  States states;
  for (const std::string& name : names)
    if (fs::is_regular_file(folder / name, ignored)) states.emplace_back(name, file_state(folder / name));
  return states;
}

States model_state(const fs::path& path) {
  std::error_code ignored;
  const fs::path weights = fs::is_directory(path, ignored) ? detail::weights_in_folder(path) : path;
  const fs::path folder = folder_of_file(weights);
  const std::string name = weights.filename().string();
  std::set<std::string> names{name};
  if (detail::checkpoint_format(MappedFile::open(weights)->text()) == detail::CheckpointFormat::index)
    for (const auto& [tensor, shard] : detail::read_shard_index(weights)) names.insert(shard);
  if (const auto split = detail::gguf_split(name))
    for (const std::string& other : detail::names_in(folder, ignored))
      if (detail::gguf_split(other) && other.compare(0, split->first, name, 0, split->first) == 0) names.insert(other);
  add_files_beside(folder, names);
  return states_of(folder, names);
}

States tokenizer_state(const std::string& choice) {
  if (choice.empty() || choice == "bytes" || choice == "symbols" || choice == "words") return {};
  std::error_code ignored;
  const bool is_folder = fs::is_directory(choice, ignored);
  const fs::path folder = is_folder ? fs::path(choice) : folder_of_file(choice);
  std::set<std::string> names;
  add_files_beside(folder, names);  // of one tokenizer's several files some are found beside the one that is named
  if (!is_folder) names.insert(fs::path(choice).filename().string());
  return states_of(folder, names);
}

}  // namespace

bool is_weights(const std::string& name) {
  const std::string ending = fs::path(name).extension().string();
  return ending == ".safetensors" || ending == ".bin" || ending == ".pth" || ending == ".pt" || ending == ".ckpt" || ending == ".gguf";
}

bool is_beside_weights(const std::string& name) {
  constexpr std::array<std::string_view, 11> known{"config.json",
                                                   "generation_config.json",
                                                   "vocab.json",
                                                   "vocab.txt",
                                                   "merges.txt",
                                                   "params.json",
                                                   "added_tokens.json",
                                                   "tokenizer.json",
                                                   "tokenizer.model",
                                                   "tokenizer_config.json",
                                                   "special_tokens_map.json"};
  return std::find(known.begin(), known.end(), name) != known.end() || (name.starts_with("rwkv_vocab") && name.ends_with(".txt"));
}

std::string bytes_state(std::string_view bytes) {
  // FNV-1a: tells files apart that somebody changed, not those that somebody forged.
  std::uint64_t hash = 14695981039346656037U;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 1099511628211U;
  return detail::message(bytes.size(), " bytes, hash ", hash);
}

nlohmann::ordered_json input_settings(const std::string& model, const std::string& tokenizer) {
  nlohmann::ordered_json settings;
  settings["version"] = IMPLICIT_ATTENTION_VERSION_STRING;
  settings["model"] = model;
  for (const auto& [name, state] : model_state(model)) settings["model file " + name] = state;
  settings["tokenizer"] = tokenizer;
  for (const auto& [name, state] : tokenizer_state(tokenizer)) settings["tokenizer file " + name] = state;
  return settings;
}

}  // namespace implicit_attention::examples
