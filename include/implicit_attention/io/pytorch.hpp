// PyTorch's checkpoints (.bin, .pth, .pt, .ckpt), as torch.save writes them: a zip archive of one pickle and the storages it refers to.
// Read strictly and without executing anything; numbers stay where they are in the mapped file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/bodies.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/pickle.hpp>
#include <implicit_attention/io/tensor_table.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/torch_tensors.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Reads one archive into a table: goes through the dictionaries of its pickle, and names what it finds.
class TorchReader {
 public:
  explicit TorchReader(std::shared_ptr<const MappedFile> file)
      : archive_(std::move(file)),
        pickle_(archive_.pickle(), message(archive_.where(), ": ", printable(archive_.root()), "data.pkl")),
        tensors_(archive_, pickle_) {}

  TorchReader(const TorchReader&) = delete;  // its tensors point at its archive and its pickle
  TorchReader& operator=(const TorchReader&) = delete;

  [[nodiscard]] TensorTable read() {
    TensorTable table;
    table.where = archive_.where();
    collect(model_dictionary(), "", 0, table);
    strip_wrappers(table);
    if (table.tensors.empty()) raise(ErrorKind::file, archive_.where(), ": there are no tensors in it");
    return table;
  }

 private:
  using Kind = PickleValue::Kind;

  [[nodiscard]] const PickleValue& value(std::uint32_t position) const { return pickle_[position]; }

  // The dictionary of the weights: the whole, or what training programs put them under.
  [[nodiscard]] std::uint32_t model_dictionary() const {
    std::uint32_t found = pickle_.root();
    if (value(found).kind != Kind::dictionary)
      raise(ErrorKind::file, archive_.where(), ": expected a dictionary of tensors, as model.state_dict() is");
    for (int depth = 0; depth < 4; ++depth) {
      const std::uint32_t before = found;
      for (const std::string_view wrapper : {"state_dict", "model_state_dict", "model", "module"}) {
        const std::vector<std::uint32_t>& items = value(before).items;
        for (std::size_t i = 0; i + 1 < items.size() && found == before; i += 2)
          if (value(items[i]).kind == Kind::text && value(items[i]).text == wrapper && value(items[i + 1]).kind == Kind::dictionary)
            found = items[i + 1];
      }
      if (found == before) break;
    }
    return found;
  }

  // Names are the keys on the way, with dots between. What is not a tensor (step counters, settings) is left out.
  void collect(std::uint32_t position, const std::string& name, int depth, TensorTable& table) {
    const PickleValue& here = value(position);
    const bool dictionary = here.kind == Kind::dictionary;
    if (!dictionary && here.kind != Kind::list && here.kind != Kind::tuple) return;
    if (here.items.empty()) return;
    if (depth > 32) raise(ErrorKind::file, archive_.where(), ": dictionaries nested deeper than the 32 levels that are allowed");
    const auto [seen, fresh_here] = seen_.try_emplace(position, false);
    if (!fresh_here) {
      if (seen->second) raise(ErrorKind::file, archive_.where(), ": the tensors under ", printable(name), " stand in two places");
      return;
    }
    const std::size_t before = table.tensors.size();
    for (std::size_t i = 0; i + (dictionary ? 1 : 0) < here.items.size(); i += dictionary ? 2 : 1) {
      const PickleValue& key = value(here.items[i]);
      std::string full = name.empty() ? "" : name + ".";
      if (!dictionary)
        full += message(i);
      else if (key.kind == Kind::text)
        full += std::string(key.text);
      else if (key.kind == Kind::integer)
        full += message(key.integer);
      else
        continue;
      if (full.size() > 1024) raise(ErrorKind::file, archive_.where(), ": a tensor's name is longer than 1024 bytes: ", printable(full));
      const std::uint32_t child = here.items[i + (dictionary ? 1 : 0)];
      if (value(child).kind != Kind::tensor) {
        collect(child, full, depth + 1, table);
      } else if (const auto [place, fresh] = table.tensors.emplace(full, CheckpointTensor()); !fresh) {
        raise(ErrorKind::file, archive_.where(), ": tensor ", printable(full), " appears twice");
      } else {
        if (table.tensors.size() > 1'000'000)
          raise(ErrorKind::file, archive_.where(), ": more than the 1000000 tensors that are read here");
        place->second = tensors_(value(child), message(archive_.where(), ": tensor ", printable(full)));
      }
    }
    seen->second = table.tensors.size() > before;
  }

  // Removes the prefixes that torch.compile and the data-parallel wrappers put before every name.
  static void strip_wrappers(TensorTable& table) {
    for (bool again = true; again;) {
      again = false;
      for (const std::string_view wrapper : {"_forward_module.", "module.", "_orig_mod."}) {
        if (table.tensors.empty() || !table.tensors.begin()->first.starts_with(wrapper) ||
            !table.tensors.rbegin()->first.starts_with(wrapper))
          continue;  // sorted: where the first and the last have it, all have
        std::map<std::string, CheckpointTensor, std::less<>> renamed;
        for (auto& [name, tensor] : table.tensors) renamed.emplace(name.substr(wrapper.size()), std::move(tensor));
        table.tensors = std::move(renamed);
        again = true;
      }
    }
  }

  TorchArchive archive_;
  Pickle pickle_;
  TorchTensors tensors_;
  std::map<std::uint32_t, bool> seen_;  // containers, and whether tensors are in them
};

}  // namespace detail

/// Reads a file that torch.save has written. Nested dictionaries become names with dots; the weights may stand under `state_dict`,
/// `model_state_dict`, `model` or `module`, and the prefixes `module.`, `_orig_mod.` and `_forward_module.` are removed where all names
/// have them. Fails (ErrorKind::file), naming the file, on anything else.
[[nodiscard]] TensorTable read_pytorch(std::shared_ptr<const MappedFile> file);

#if IMPLICIT_ATTENTION_IO_BODIES
IMPLICIT_ATTENTION_IO_BODY TensorTable read_pytorch(std::shared_ptr<const MappedFile> file) {
  return detail::TorchReader(std::move(file)).read();
}
#endif

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
