// GGUF's tensors under their public names: what all families have in common.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/gguf.hpp>
#include <implicit_attention/io/gguf_families.hpp>
#include <implicit_attention/io/gguf_keys.hpp>
#include <implicit_attention/io/tensor_table.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// GGUF's names of a family's tensors, by their public names: those of the file, else those that are learned by renaming all names that
/// GGUF has. Layer 1 stands for all layers (it lacks nothing that another has), and the first expert for all (one tensor holds them).
class GgufFileNames {
 public:
  explicit GgufFileNames(std::string layers) : layers_(std::move(layers)) {}
  /// Where a public name has several names in the file, the first is kept.
  void add(std::string_view name, std::string_view in_file) {
    in_file_.emplace(numbered(numbered(name, layers_, "1"), ".experts.", "0"), numbered(in_file, "blk.", "1"));
  }
  /// Empty for a name that is not one of the family's. Prefixes of layers and patterns such as `model.layers.0.*` have names, too.
  [[nodiscard]] std::string operator()(std::string_view name) const {
    const auto found = in_file_.find(numbered(numbered(name, layers_, "1"), ".experts.", "0"));
    if (found != in_file_.end()) return numbered(found->second, "blk.", number_behind(name, layers_));
    if (name.starts_with(layers_)) {
      const std::string_view number = number_behind(name, layers_), rest = name.substr(layers_.size() + number.size());
      if (number.empty() ? rest.empty() : rest == "." || rest == ".*") return message("blk.", number, rest);
    }
    // Readers ask for the logarithm before the rate.
    return name.ends_with(".A_log") ? (*this)(name.substr(0, name.size() - 4)) : std::string();
  }

 private:
  // The digits behind the first `mark`, with a dot behind them.
  static std::string_view number_behind(std::string_view name, std::string_view mark) {
    const std::size_t at = name.find(mark), begin = at + mark.size(), end = std::min(name.find('.', begin), name.size());
    if (at == std::string_view::npos || end == name.size()) return {};
    const std::string_view number = name.substr(begin, end - begin);
    return number.find_first_not_of("0123456789") == std::string_view::npos ? number : std::string_view();
  }
  // The same with another number there.
  static std::string numbered(std::string_view name, std::string_view mark, std::string_view number) {
    const std::string_view old = number_behind(name, mark);
    if (old.empty()) return std::string(name);
    const auto at = static_cast<std::size_t>(old.data() - name.data());
    return message(name.substr(0, at), number, name.substr(at + old.size()));
  }

  std::string layers_;
  std::map<std::string, std::string, std::less<>> in_file_;
};

/// Fails (shape): a tensor's shape is not the one that its name stands for.
[[noreturn]] inline void wrong_shape(std::string_view who, const CheckpointTensor& tensor, std::string_view expected) {
  raise(ErrorKind::shape, who, " is ", shape_text(tensor.shape), ", expected ", expected);
}

/// Goes through one model's tensors; a family says what each becomes. The model and its keys must outlive it.
class GgufRenamer {
 public:
  using Tensor = CheckpointTensor;

  GgufRenamer(const GgufModel& model, const GgufKeys& keys) : model_(&model), keys_(&keys), where_(keys.where()) {}
  GgufRenamer(const GgufRenamer&) = delete;
  GgufRenamer& operator=(const GgufRenamer&) = delete;
  virtual ~GgufRenamer() = default;

  [[nodiscard]] TensorTable translate() {
    table_.where = where_;
    const Index layers = keys_->layers(), with_extra = keys_->all_layers();
    bool has_layers = false, has_extra = false;
    for (const auto& [name, tensor] : model_->tensors) {
      name_ = name;
      who_ = message(where_, ": tensor ", printable(name));
      unreadable_ = tensor.unreadable;
      std::string_view rest = name;
      if (rest.starts_with("blk.")) {
        Index layer = 0;
        const auto read = std::from_chars(name.data() + 4, name.data() + name.size(), layer);
        if (read.ec != std::errc() || read.ptr == name.data() + name.size() || *read.ptr != '.' || layer < 0) {
          keep(name, tensor);
          continue;
        }
        rest.remove_prefix(static_cast<std::size_t>(read.ptr - name.data()) + 1);
        if (layer >= with_extra) {  // nothing says what it is for
          keep(name, tensor);
          continue;
        }
        (layer < layers ? has_layers : has_extra) = true;
        if (layer >= layers) {
          keep(message("mtp.layers.", layer - layers, ".", rest), tensor);
          continue;
        }
        if (!below_layer(layer, rest, tensor)) keep(name, tensor);
      } else if (rest.starts_with("v.") || rest.starts_with("mm.")) {
        keep(message("visual.", rest), tensor);  // vision encoder and projector, which a text does not use
      } else {
        outer(name, tensor);
      }
    }
    if (has_extra && !has_layers)
      raise(ErrorKind::file, where_, ": has only the layers for multi-token prediction, expected the model's layers");
    table_.name_of_absent = names_in_file();
    return std::move(table_);
  }

  /// The tensor that is being translated, for messages.
  [[nodiscard]] const std::string& who() const { return who_; }
  /// Keeps a tensor under a public name. `make` is called only where there is a tensor, not where names alone are asked for.
  template <class Make>
    requires std::is_invocable_r_v<Tensor, const Make&>
  void keep(const std::string& name, const Make& make) {
    if (learned_ != nullptr) return learned_->add(name, name_);
    keep(name, Tensor(make()));
  }
  void keep(const std::string& name, Tensor tensor) {
    if (learned_ != nullptr) return learned_->add(name, name_);
    tensor.name_in_file = name_;
    for (const Tensor::Part& part : tensor.parts)
      if (part.stored.dtype == Dtype::other) tensor.unreadable = unreadable_;
    if (!table_.tensors.emplace(name, std::move(tensor)).second)
      raise(ErrorKind::file, who_, ": becomes ", printable(name), ", which is there already");
  }
  [[noreturn]] void wrong_shape(const Tensor& tensor, std::string_view expected) const { detail::wrong_shape(who_, tensor, expected); }
  /// Whether only names are asked for: tensors are then empty.
  [[nodiscard]] bool names_alone() const { return learned_ != nullptr; }
  /// Fails where a tensor's partner is missing.
  void expect_sibling(Index layer, std::string_view rest) {
    if (!names_alone()) static_cast<void>(partner(layer, rest));
  }
  /// The partner that this tensor is joined with; the result carries the names of both in the file.
  [[nodiscard]] const Tensor& sibling(Index layer, std::string_view rest) {
    const auto& [name, tensor] = partner(layer, rest);
    if (!unreadable_.empty())
      unreadable_ = message(unreadable_, " in ", name_);
    else if (!tensor.unreadable.empty())
      unreadable_ = message(tensor.unreadable, " in ", name);
    name_ = message(name_, " and ", rest);
    return tensor;
  }
  [[nodiscard]] Tensor shaped(Tensor tensor, std::vector<Index> shape) const {
    reshape(tensor, std::move(shape), who_);
    return tensor;
  }
  [[nodiscard]] Tensor flat(Tensor tensor) const {
    const Index count = *element_count(tensor.shape, 1);
    return shaped(std::move(tensor), {count});
  }

 protected:
  /// One tensor of a layer, `part` without the `suffix` .weight or .bias; false if it is not known.
  virtual bool layer_tensor(Index layer, std::string_view part, std::string_view suffix, const Tensor& tensor) = 0;
  /// One tensor outside the layers.
  virtual void outer(const std::string& name, const Tensor& tensor) = 0;
  /// What stands before a layer's number in public names.
  [[nodiscard]] virtual std::string layers() const = 0;

  const GgufModel* model_;
  const GgufKeys* keys_;
  std::string where_, who_;

 private:
  [[nodiscard]] const std::pair<const std::string, Tensor>& partner(Index layer, std::string_view rest) const {
    const auto found = model_->tensors.find(message("blk.", layer, ".", rest));
    if (found == model_->tensors.end()) raise(ErrorKind::file, who_, ": is there without blk.", layer, ".", printable(rest));
    return *found;
  }
  bool below_layer(Index layer, std::string_view rest, const Tensor& tensor) {
    const std::size_t dot = rest.rfind('.');
    const bool ends = dot != std::string_view::npos && (rest.substr(dot) == ".weight" || rest.substr(dot) == ".bias");
    return layer_tensor(layer, ends ? rest.substr(0, dot) : rest, ends ? rest.substr(dot) : std::string_view(), tensor);
  }
  [[nodiscard]] GgufFileNames names_in_file() {
    GgufFileNames names(layers());
    for (const auto& [name, tensor] : table_.tensors) names.add(name, tensor.name_in_file);
    learned_ = &names;
    const Tensor none;
    const auto learn = [&](bool layer, const std::string& rest) {
      name_ = layer ? "blk.1." + rest : rest;
      if (layer)
        below_layer(1, rest, none);
      else
        outer(name_, none);
    };
    const auto learn_both = [&](bool layer, std::string_view name) {
      learn(layer, std::string(name));
      if (name.ends_with(".weight")) learn(layer, message(name.substr(0, name.size() - 7), ".bias"));
    };
    for (const std::string_view name : gguf_outer_names) learn_both(false, name);
    for (const std::string_view name : gguf_layer_names) learn_both(true, name);
    learned_ = nullptr;
    return names;
  }

  TensorTable table_;
  std::string name_, unreadable_;     // of this tensor: its name in the file, and its type where that cannot be read
  GgufFileNames* learned_ = nullptr;  // where names alone are asked for
};

/// One tensor of a layer, and the public names that it is kept under.
struct GgufLayerTensor {
  GgufRenamer& renamer;
  std::string prefix;  ///< of the layer's public names
  Index layer;
  std::string_view part, suffix;  ///< its name in the file behind `blk.N.`, cut before .weight or .bias, if it ends so
  const CheckpointTensor& tensor;

  /// Keeps `kept`, a tensor or what makes one, as `prefix + below + name + end`. True, as a known name is.
  template <class Kept>
  bool as(std::string_view below, std::string_view name, const Kept& kept, std::string_view end) const {
    renamer.keep(message(prefix, below, name, end), kept);
    return true;
  }
  template <class Kept>
  bool as(std::string_view below, std::string_view name, const Kept& kept) const {
    return as(below, name, kept, suffix);
  }
  bool as(std::string_view below, std::string_view name) const { return as(below, name, tensor); }
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
