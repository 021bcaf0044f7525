// A model as it was downloaded: a folder or a file, recognised by what is in it.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/io/bodies.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// What open_checkpoint finds.
template <Real Scalar>
struct Checkpoint {
  std::shared_ptr<TensorSource<Scalar>> source;  ///< tensors under the names of the public checkpoints, never null
  Configuration configuration;                   ///< config.json beside them, or what the file itself says, or empty
  std::string format;                            ///< `safetensors`, `PyTorch`, `GGUF` or `rwkv.cpp`
  std::filesystem::path weights;                 ///< the file that was opened: of several, the index or the first
  std::filesystem::path tokenizer;               ///< where a tokenizer may be: the folder, or the GGUF file with its vocabulary
};

namespace detail {

enum class CheckpointFormat { safetensors, torch, torch_legacy, gguf, rwkv_cpp, index, pointer, numpy, unknown };

/// What a file is, by its first bytes.
[[nodiscard]] CheckpointFormat checkpoint_format(std::string_view bytes);

/// The one file of a folder that has the weights: by the names that downloads have, else the only one there is.
[[nodiscard]] std::filesystem::path weights_in_folder(const std::filesystem::path& folder);

}  // namespace detail

/// Opens `path`: a folder as Hugging Face lays it out (`model.safetensors` or `pytorch_model.bin`, in one or in shards), a folder with one
/// file of weights whatever its name, or a file: safetensors, an index of shards, PyTorch's zip archive, GGUF, or rwkv.cpp's binary. Files
/// are told by their content. config.json is read where it lies beside the weights; GGUF and rwkv.cpp have their own.
/// Fails (ErrorKind::file), saying what was expected, and naming the candidates where there are several. So it does where config.json is
/// missing beside Mistral's params.json, which says what shapes cannot tell and is not read, unless the caller is `configured` otherwise.
template <Real Scalar>
[[nodiscard]] Checkpoint<Scalar> open_checkpoint(const std::filesystem::path& path, bool configured = false);

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#if IMPLICIT_ATTENTION_IO_BODIES
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <system_error>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/folder.hpp>
#include <implicit_attention/io/gguf.hpp>
#include <implicit_attention/io/gguf_model.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/pytorch.hpp>
#include <implicit_attention/io/rwkv_cpp.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

IMPLICIT_ATTENTION_IO_BODY CheckpointFormat checkpoint_format(std::string_view bytes) {
  if (bytes.starts_with("GGUF")) return CheckpointFormat::gguf;
  if (bytes.starts_with(std::string_view("PK\x03\x04", 4)) || bytes.starts_with(std::string_view("PK\x05\x06", 4)))
    return CheckpointFormat::torch;
  if (bytes.starts_with("fmgg")) return CheckpointFormat::rwkv_cpp;  // 0x67676d66, little-endian
  if (bytes.starts_with("version https://git-lfs")) return CheckpointFormat::pointer;
  if (bytes.starts_with("\x93NUMPY")) return CheckpointFormat::numpy;
  // A pickle of protocol 2 to 5: torch.save before version 1.6, or pickle.dump.
  if (bytes.size() > 2 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5 && bytes[2] != '\0') return CheckpointFormat::torch_legacy;
  if (bytes.size() >= 9) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof(length));
    const std::size_t first = bytes.find_first_not_of(" \t\r\n", 8);
    if (length <= safetensors_header_limit && first != std::string_view::npos && bytes[first] == '{') return CheckpointFormat::safetensors;
  }
  const std::size_t first = bytes.find_first_not_of(" \t\r\n");
  if (first != std::string_view::npos && bytes[first] == '{') return CheckpointFormat::index;
  return CheckpointFormat::unknown;
}

/// The tensors of PyTorch shards under an index (`pytorch_model.bin.index.json`): those that it lists, each from its file.
[[nodiscard]] inline TensorTable read_pytorch_index(const std::filesystem::path& index,
                                                    const std::map<std::string, std::string, std::less<>>& shard_of) {
  TensorTable whole;
  whole.where = path_text(index);
  std::map<std::string, TensorTable> opened;
  for (const auto& [name, shard] : shard_of) {
    const auto [place, fresh] = opened.try_emplace(shard);
    if (fresh) place->second = read_pytorch(MappedFile::open(index.parent_path() / shard));
    const auto found = place->second.tensors.find(name);
    if (found == place->second.tensors.end())
      raise(ErrorKind::file, path_text(index), ": tensor ", printable(name), ": the index has it in ", printable(shard),
            ", but it is not there");
    whole.tensors.emplace(name, found->second);
  }
  return whole;
}

IMPLICIT_ATTENTION_IO_BODY std::filesystem::path weights_in_folder(const std::filesystem::path& folder) {
  check_reachable(folder / "model.safetensors");
  for (const std::string_view name :
       {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"})
    if (is_file(folder / name)) return folder / name;
  if (is_file(folder / "consolidated.safetensors")) return folder / "consolidated.safetensors";
  // Files that training leaves beside the weights, and llama.cpp's image projector, are not the model's weights.
  constexpr std::array<std::string_view, 7> others{"training_args.bin", "optimizer.bin", "optimizer.pt",     "scheduler.pt",
                                                   "rng_state.pth",     "scaler.pt",     "adapter_model.bin"};
  std::vector<std::string> found;
  std::error_code why, ignored;
  for (const std::string& name : names_in(folder, why)) {
    const std::string ending = std::filesystem::path(name).extension().string();
    const bool weights =
        ending == ".safetensors" || ending == ".bin" || ending == ".pth" || ending == ".pt" || ending == ".ckpt" || ending == ".gguf";
    if (!weights || !std::filesystem::is_regular_file(folder / name, ignored) ||
        std::find(others.begin(), others.end(), name) != others.end() || name.starts_with("mmproj"))
      continue;
    if (const auto split = gguf_split(name); split && name.compare(split->first, 7, "-00001-") != 0) continue;
    found.push_back(name);
  }
  if (why) cannot_open(folder, why);
  if (found.empty())
    raise(ErrorKind::file, path_text(folder),
          ": no model here: expected model.safetensors or pytorch_model.bin, or their index.json, or one file "
          ".safetensors, .bin, .pth, .pt, .ckpt or .gguf");
  if (found.size() > 1) {
    std::string all;
    for (std::size_t i = 0; i < found.size(); ++i)
      if (i < 8) all += message(i == 0 ? "" : ", ", printable(found[i]));
    raise(ErrorKind::file, path_text(folder), ": which of ", found.size(), " files has the model is not clear: ", all,
          found.size() > 8 ? ", ..." : "", "; name one of them");
  }
  return folder / found.front();
}

/// What came in the place of a model, in words.
[[nodiscard]] inline std::string unknown_content(std::string_view bytes) {
  if (bytes.empty()) return "it is empty";
  struct Known {
    std::string_view begins, is;
  };
  for (const Known& known :
       {Known{"\x1F\x8B", "gzip"}, Known{"\xFD\x37zXZ", "xz"}, Known{"\x28\xB5\x2F\xFD", "zstd"}, Known{"BZh", "bzip2"}})
    if (bytes.starts_with(known.begins)) return message("it is compressed by ", known.is, "; decompress it first");
  const std::string_view text = bytes.substr(std::min(bytes.find_first_not_of(" \t\r\n"), bytes.size()));
  if (text.starts_with("<!DOCTYPE") || text.starts_with("<!doctype") || text.starts_with("<html"))
    return "it is a web page, as a download that failed leaves it";
  constexpr std::size_t most = 16;
  return message("it begins with \"", printable(bytes.substr(0, most)), "\"");
}

template <Real Scalar>
void open_weights(const std::filesystem::path& path, Checkpoint<Scalar>& made) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  const std::string where = path_text(path);
  switch (checkpoint_format(file->text())) {
    case CheckpointFormat::gguf: {
      const GgufModel model = open_gguf(path);
      auto [table, configuration] = translate_gguf(model);
      made.source = std::make_shared<TableSource<Scalar>>(std::move(table));
      made.configuration = std::move(configuration);
      made.format = "GGUF";
      made.tokenizer = model.metadata().path();
      return;
    }
    case CheckpointFormat::rwkv_cpp: {
      auto [table, configuration] = read_rwkv_cpp(file);
      made.source = std::make_shared<TableSource<Scalar>>(std::move(table));
      made.configuration = std::move(configuration);
      made.format = "rwkv.cpp";
      return;
    }
    case CheckpointFormat::torch:
      made.source = std::make_shared<TableSource<Scalar>>(read_pytorch(file));
      made.format = "PyTorch";
      return;
    case CheckpointFormat::safetensors:
      made.source = std::make_shared<SafetensorsSource<Scalar>>(path);
      made.format = "safetensors";
      return;
    case CheckpointFormat::index: {
      const std::map<std::string, std::string, std::less<>> shards = read_shard_index(path);
      if (!shards.empty() &&
          checkpoint_format(MappedFile::open(path.parent_path() / shards.begin()->second)->text()) == CheckpointFormat::torch) {
        made.source = std::make_shared<TableSource<Scalar>>(read_pytorch_index(path, shards));
        made.format = "PyTorch";
      } else {
        made.source = std::make_shared<SafetensorsSource<Scalar>>(path);
        made.format = "safetensors";
      }
      return;
    }
    case CheckpointFormat::torch_legacy:
      raise(ErrorKind::file, where,
            ": is a pickle outside a zip archive, as PyTorch wrote before version 1.6; nothing is executed here, so save it "
            "again: torch.save(torch.load(file, map_location=\"cpu\", weights_only=True), other_file)");
    case CheckpointFormat::pointer:
      raise(ErrorKind::file, where, ": this is a Git LFS pointer: fetch the file itself with git lfs pull");
    case CheckpointFormat::numpy:
      raise(ErrorKind::file, where, ": this is a NumPy file, expected a model");
    case CheckpointFormat::unknown:
      break;
  }
  raise(ErrorKind::file, where,
        ": is not a model that is known here, expected safetensors, PyTorch's zip archive, GGUF or rwkv.cpp's format; ",
        unknown_content(file->text()));
}

}  // namespace detail

template <Real Scalar>
Checkpoint<Scalar> open_checkpoint(const std::filesystem::path& path, bool configured) {
  std::error_code ignored;
  detail::check_reachable(path);
  const bool folder = std::filesystem::is_directory(path, ignored);
  Checkpoint<Scalar> made;
  made.weights = folder ? detail::weights_in_folder(path) : path;
  const std::filesystem::path beside = folder ? path : path.parent_path();
  made.tokenizer = beside.empty() ? std::filesystem::path(".") : beside;
  made.configuration = Configuration(path_text(made.weights));
  const auto lies = [&](const char* name) { return detail::is_file(made.tokenizer / name); };
  const std::string name = path_text(made.weights.filename());
  if (!configured && name.starts_with("consolidated") && lies("params.json") && !lies("config.json"))
    detail::raise(ErrorKind::file, path_text(path), ": these are Mistral's own files, and params.json beside ", name,
                  " is not read; put the model's config.json there, which its page on the Hugging Face Hub has, or download config.json "
                  "and model*.safetensors from it");
  detail::open_weights(made.weights, made);
  const bool own = made.format == "GGUF" || made.format == "rwkv.cpp";
  if (const std::filesystem::path config = made.tokenizer / "config.json"; !own && detail::is_file(config))
    made.configuration = read_configuration(config);
  return made;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
#endif
