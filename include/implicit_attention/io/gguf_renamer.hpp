// What bringing GGUF's tensors back to their public names has in common for all families.
#pragma once

#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/gguf.hpp>
#include <implicit_attention/io/gguf_configuration.hpp>
#include <implicit_attention/io/tensor_table.hpp>
#include <implicit_attention/io/text.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Walks over one model's tensors; a family says what becomes of each.
class GgufRenamer {
 public:
  GgufRenamer(const GgufModel& model, const GgufKeys& keys) : model_(&model), keys_(&keys), where_(keys.where()) {}
  GgufRenamer(const GgufRenamer&) = delete;
  GgufRenamer& operator=(const GgufRenamer&) = delete;
  virtual ~GgufRenamer() = default;

  [[nodiscard]] TensorTable translate() {
    table_.where = where_;
    const Index layers = keys_->layers(), with_extra = keys_->all_layers();
    bool has_layers = false, has_extra = false;
    for (const auto& [name, tensor] : model_->tensors) {
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
        const std::size_t dot = rest.rfind('.');
        const bool ends = dot != std::string_view::npos && (rest.substr(dot) == ".weight" || rest.substr(dot) == ".bias");
        const std::string_view part = ends ? rest.substr(0, dot) : rest, suffix = ends ? rest.substr(dot) : std::string_view();
        if (!layer_tensor(layer, part, suffix, tensor)) keep(name, tensor);
      } else if (rest.starts_with("v.") || rest.starts_with("mm.")) {
        keep(message("visual.", rest), tensor);  // vision encoder and projector, which a text does not use
      } else {
        outer(name, tensor);
      }
    }
    if (has_extra && !has_layers)
      raise(ErrorKind::file, message(where_, ": has the layers for multi-token prediction alone, expected the model's layers"));
    return std::move(table_);
  }

 protected:
  using Tensor = CheckpointTensor;

  /// One tensor of a layer, `part` without the `suffix` .weight or .bias; false if it is not known.
  virtual bool layer_tensor(Index layer, std::string_view part, std::string_view suffix, const Tensor& tensor) = 0;
  /// One tensor outside the layers.
  virtual void outer(const std::string& name, const Tensor& tensor) = 0;

  void keep(std::string name, Tensor tensor) {
    for (const Tensor::Part& part : tensor.parts)
      if (part.stored.dtype == Dtype::other) tensor.unreadable = unreadable_;
    if (!table_.tensors.emplace(name, std::move(tensor)).second)
      raise(ErrorKind::file, message(who_, ": becomes ", printable(name), ", which is there already"));
  }
  [[noreturn]] void wrong_shape(const Tensor& tensor, std::string_view expected) const {
    raise(ErrorKind::shape, message(who_, " is ", shape_text(tensor.shape), ", expected ", expected));
  }
  [[nodiscard]] const Tensor& sibling(Index layer, std::string_view rest) {
    const auto found = model_->tensors.find(message("blk.", layer, ".", rest));
    if (found == model_->tensors.end()) raise(ErrorKind::file, message(who_, ": is there without blk.", layer, ".", printable(rest)));
    if (unreadable_.empty()) unreadable_ = found->second.unreadable;
    return found->second;
  }
  [[nodiscard]] Tensor shaped(Tensor tensor, std::vector<Index> shape) const {
    reshape(tensor, std::move(shape), who_);
    return tensor;
  }
  [[nodiscard]] Tensor flat(Tensor tensor) const {
    const Index count = *element_count(tensor.shape, 1);
    return shaped(std::move(tensor), {count});
  }

  const GgufModel* model_;
  const GgufKeys* keys_;
  std::string where_, who_, unreadable_;
  TensorTable table_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
