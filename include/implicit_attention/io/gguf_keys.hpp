// The keys of a GGUF file that belong to its architecture, and the check that all of them were understood.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/gguf.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The keys of one model's architecture: `block_count` is read as `mamba.block_count`. The file must outlive it.
class GgufKeys {
 public:
  explicit GgufKeys(const GgufFile& file) : file_(&file), architecture_(file.architecture()) {}

  [[nodiscard]] const std::string& architecture() const { return architecture_; }
  [[nodiscard]] const std::string& where() const { return file_->where(); }
  /// A key's value, or null. The key counts as understood.
  [[nodiscard]] const GgufFile::Value* find(std::string_view key) const {
    if (asked_.find(key) == asked_.end()) asked_.emplace(key);  // most are asked for once a layer
    return file_->find(whole(key));
  }
  [[nodiscard]] bool has(std::string_view key) const { return find(key) != nullptr; }
  [[nodiscard]] std::optional<double> number(std::string_view key) const {
    static_cast<void>(find(key));
    return file_->get<double>(whole(key));
  }
  [[nodiscard]] std::optional<bool> boolean(std::string_view key) const {
    static_cast<void>(find(key));
    return file_->get<bool>(whole(key));
  }
  /// An integer. A list has one number a layer, and all that are not 0 must agree.
  [[nodiscard]] std::optional<Index> integer(std::string_view key) const {
    const GgufFile::Value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (const auto* all = std::get_if<std::vector<std::int64_t>>(value)) {
      if (all->empty()) return std::nullopt;
      if (const auto found = agreed_.find(key); found != agreed_.end()) return found->second;
      const std::int64_t most = *std::max_element(all->begin(), all->end());
      for (const std::int64_t each : *all) {
        if (each == most || each == 0) continue;
        if (key == "feed_forward_length") return std::nullopt;  // the tensors tell
        raise(ErrorKind::file, where(), ": metadata key ", printable(whole(key)), " is ", each, " for one layer and ", most,
              " for another, expected one number for all that have it");
      }
      return agreed_.emplace(key, sensible(most, key)).first->second;
    }
    return sensible(*file_->get<std::int64_t>(whole(key)), key);
  }
  /// An integer that must be there and above 0.
  [[nodiscard]] Index size(std::string_view key) const {
    const std::optional<Index> value = integer(key);
    if (!value || *value < 1 || *value > 1'000'000'000)
      raise(ErrorKind::file, where(), ": metadata key ", printable(architecture_), ".", key, " is ", value ? message(*value) : "missing",
            ", expected a size");
    return *value;
  }
  /// An integer of a layer: the same for all, or one of a list.
  [[nodiscard]] Index of_layer(std::string_view key, Index layer) const {
    const GgufFile::Value* value = find(key);
    if (value == nullptr) return 0;
    if (const auto* all = std::get_if<std::vector<std::int64_t>>(value)) {
      if (layer >= static_cast<Index>(all->size()))
        raise(ErrorKind::file, where(), ": metadata key ", printable(whole(key)), " is a list of ", all->size(),
              ", expected one number a layer");
      return static_cast<Index>((*all)[static_cast<std::size_t>(layer)]);
    }
    return *integer(key);
  }
  /// True or false of a layer: the same for all, or one of a list.
  [[nodiscard]] bool flag_of_layer(std::string_view key, Index layer) const {
    const GgufFile::Value* value = find(key);
    if (value != nullptr)
      if (const bool* all = std::get_if<bool>(value)) return *all;
    return of_layer(key, layer) != 0;
  }
  /// Layers of the model, without those for multi-token prediction that follow.
  [[nodiscard]] Index layers() const { return all_layers() - extra_layers(); }
  /// Layers with those.
  [[nodiscard]] Index all_layers() const {
    const Index all = size("block_count"), extra = extra_layers();
    if (extra < 0 || extra >= all || all > 100000)
      raise(ErrorKind::file, where(), ": metadata has ", all, " layers, ", extra, " of them for multi-token prediction");
    return all;
  }

  /// Fails on a key of the architecture that was not read: it may change the model. Keys that only describe are ignored, and so are
  /// values that switch something off; `rotary` says whether the model has rotary positions, without which their keys mean nothing.
  void expect_all_understood(bool rotary) const {
    const std::string begin = architecture_ + ".";
    for (const auto& [name, value] : file_->metadata()) {
      if (name.compare(0, begin.size(), begin) != 0) continue;
      const std::string_view key = std::string_view(name).substr(begin.size());
      if (asked_.find(key) != asked_.end() || describes_only(key) || (!rotary && key.starts_with("rope.")) || is_off(key, value)) continue;
      raise(ErrorKind::file, where(), ": metadata key ", printable(name), value_text(value),
            " is not understood, expected no key that may change the model");
    }
  }

 private:
  [[nodiscard]] std::string whole(std::string_view key) const { return message(architecture_, ".", key); }
  [[nodiscard]] Index extra_layers() const { return integer("nextn_predict_layers").value_or(0); }

  // Sizes and numbers of experts that the tensors have, ranks, lengths of training, and what concerns images.
  [[nodiscard]] static bool describes_only(std::string_view key) {
    for (const std::string_view known :
         {"context_length", "vocab_size", "expert_count", "expert_used_count", "attention.layer_norm_epsilon", "feed_forward_length",
          "expert_feed_forward_length", "expert_shared_feed_forward_length", "attention.head_count", "attention.key_length",
          "attention.value_length", "time_mix_extra_dim", "time_decay_extra_dim", "attention.decay_lora_rank", "attention.iclr_lora_rank",
          "attention.value_residual_mix_lora_rank", "attention.gate_lora_rank", "rope.scaling.finetuned",
          "rope.scaling.original_context_length"})
      if (key == known) return true;
    return key.starts_with("vision.") || key.ends_with("_token_id") || key.find("deepstack") != std::string_view::npos;
  }
  // False, 0, an empty text or list; a factor of 1; experts in one group; positions without scaling, or scaled by a factor (another key).
  [[nodiscard]] static bool is_off(std::string_view key, const GgufFile::Value& value) {
    const bool factor =
        key.ends_with("scale") || key.ends_with("scale_linear") || key.ends_with("factor") || key.starts_with("expert_group_");
    return std::visit(
        [&](const auto& typed) {
          using Type = std::decay_t<decltype(typed)>;
          if constexpr (std::is_same_v<Type, std::string_view>)
            return typed.empty() || (key == "rope.scaling.type" && (typed == "none" || typed == "linear"));
          else if constexpr (std::is_arithmetic_v<Type>)
            return typed == Type(0) || (factor && typed == Type(1));
          else
            return typed.empty();
        },
        value);
  }
  [[nodiscard]] static std::string value_text(const GgufFile::Value& value) {
    return std::visit(
        [](const auto& typed) -> std::string {
          using Type = std::decay_t<decltype(typed)>;
          if constexpr (std::is_same_v<Type, bool>)
            return typed ? " (true)" : " (false)";
          else if constexpr (std::is_arithmetic_v<Type>)
            return message(" (", typed, ")");
          else if constexpr (std::is_same_v<Type, std::string_view>)
            return message(" (", printable(typed), ")");
          else
            return message(" (a list of ", typed.size(), ")");
        },
        value);
  }
  [[nodiscard]] Index sensible(std::int64_t value, std::string_view key) const {
    constexpr std::int64_t most = std::int64_t{1} << 53U;
    if (value < -most || value > most)
      raise(ErrorKind::file, where(), ": metadata key ", printable(architecture_), ".", key, " is ", value,
            ", expected an integer of at most 53 bits");
    return static_cast<Index>(value);
  }
  const GgufFile* file_;
  std::string architecture_;
  mutable std::set<std::string, std::less<>> asked_;
  mutable std::map<std::string, Index, std::less<>> agreed_;  // of lists, which may be long
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
