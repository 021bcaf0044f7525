// The tensors in an archive that torch.save has written; numbers stay where they are in the mapped file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/io/pickle.hpp>
#include <implicit_attention/io/tensor_table.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/zip.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The type of a storage class (`torch.FloatStorage`) or of a constant (`torch.float32`); nothing for an unknown name.
[[nodiscard]] inline std::optional<Dtype> torch_dtype(std::string_view name) {
  struct Names {
    std::string_view storage, constant;
    Dtype dtype;
  };
  constexpr std::array<Names, 18> known{{{"torch.DoubleStorage", "torch.float64", Dtype::F64},
                                         {"torch.FloatStorage", "torch.float32", Dtype::F32},
                                         {"torch.HalfStorage", "torch.float16", Dtype::F16},
                                         {"torch.BFloat16Storage", "torch.bfloat16", Dtype::BF16},
                                         {"torch.LongStorage", "torch.int64", Dtype::I64},
                                         {"torch.IntStorage", "torch.int32", Dtype::I32},
                                         {"torch.ShortStorage", "torch.int16", Dtype::I16},
                                         {"torch.CharStorage", "torch.int8", Dtype::I8},
                                         {"torch.ByteStorage", "torch.uint8", Dtype::U8},
                                         {"torch.BoolStorage", "torch.bool", Dtype::BOOL},
                                         {"torch.UInt64Storage", "torch.uint64", Dtype::U64},
                                         {"torch.UInt32Storage", "torch.uint32", Dtype::U32},
                                         {"torch.UInt16Storage", "torch.uint16", Dtype::U16},
                                         {"torch.Float8_e4m3fnStorage", "torch.float8_e4m3fn", Dtype::F8_E4M3},
                                         {"torch.Float8_e5m2Storage", "torch.float8_e5m2", Dtype::F8_E5M2},
                                         {"torch.ComplexFloatStorage", "torch.complex64", Dtype::C64},
                                         {"torch.ComplexDoubleStorage", "torch.complex128", Dtype::C128},
                                         {"torch.storage.UntypedStorage", "torch.UntypedStorage", Dtype::U8}}};
  for (const Names& names : known)
    if (names.storage == name || names.constant == name) return names.dtype;
  return std::nullopt;
}

/// An archive that torch.save has written: the pickle, and the storages that it refers to.
class TorchArchive {
 public:
  explicit TorchArchive(std::shared_ptr<const MappedFile> file) : zip_(std::move(file)), root_(find_root()) {
    if (zip_.has(root_ + "byteorder"))
      if (const ZipBytes order = zip_.read(root_ + "byteorder"); order.text != "little")  // `order` keeps the text alive
        raise(ErrorKind::file, zip_.where(), ": its numbers are in ", printable(order.text, 20), "-endian order, expected little");
    pickle_ = zip_.read(root_ + "data.pkl");
  }

  [[nodiscard]] const std::string& where() const { return zip_.where(); }
  /// The folder that everything in it is in, with a slash behind.
  [[nodiscard]] const std::string& root() const { return root_; }
  [[nodiscard]] std::string_view pickle() const { return pickle_.text; }
  /// The entry of a storage by its key in the pickle.
  [[nodiscard]] std::string storage_name(std::string_view key) const { return message(root_, "data/", key); }
  /// Its bytes, which are read once.
  [[nodiscard]] const ZipBytes& storage(const std::string& entry) {
    const auto [place, fresh] = opened_.try_emplace(entry);
    if (fresh) place->second = zip_.read(entry);
    return place->second;
  }

 private:
  // The folder in the archive that everything lies in.
  [[nodiscard]] std::string find_root() const {
    std::vector<std::string> roots;
    for (const auto& [name, entry] : zip_.entries()) {
      if (name == "data.pkl" || name.ends_with("/data.pkl")) roots.push_back(name.substr(0, name.size() - 8));
      if (name.ends_with("/constants.pkl"))
        raise(ErrorKind::file, zip_.where(),
              ": is a TorchScript program, expected saved weights; in PyTorch: "
              "torch.save(torch.jit.load(file).state_dict(), other_file)");
    }
    if (roots.size() != 1)
      raise(ErrorKind::file, zip_.where(), ": is a zip archive with ", roots.size(),
            " entries data.pkl, expected one, as torch.save writes it");
    return roots.front();
  }

  ZipFile zip_;
  std::string root_;
  ZipBytes pickle_;
  std::map<std::string, ZipBytes> opened_;
};

/// Says where the rows of a tensor stand, `offset` numbers behind `data`: all axes but the last are rows, evenly spaced or one by one.
inline void place_torch_rows(const std::vector<Index>& shape, const std::vector<Index>& strides, const std::byte* data, Index offset,
                             StoredTensor& stored) {
  const std::size_t bytes = dtype_bytes(stored.dtype);
  stored.data = data + static_cast<std::size_t>(offset) * bytes;
  if (stored.columns > 1) stored.column_stride = strides.back();
  Index row_stride = 0, expected = 0;
  bool even = true;
  for (std::size_t axis = shape.empty() ? 0 : shape.size() - 1; axis-- > 0;) {
    if (shape[axis] == 1) continue;
    if (expected == 0) row_stride = expected = strides[axis];
    even = even && strides[axis] == expected && expected > 0;
    expected = expected > 0 && strides[axis] == expected ? expected * shape[axis] : -1;
  }
  stored.row_bytes = static_cast<std::size_t>(row_stride) * bytes;
  if (even) return;
  std::vector<const std::byte*> starts;
  starts.reserve(static_cast<std::size_t>(stored.rows));
  std::vector<Index> at(shape.size() - 1, 0);
  Index first = 0;
  for (Index row = 0; row < stored.rows; ++row) {
    starts.push_back(stored.data + static_cast<std::size_t>(first) * bytes);
    for (std::size_t axis = at.size(); axis-- > 0;) {
      if (shape[axis] == 1) continue;
      first += strides[axis];
      if (++at[axis] < shape[axis]) break;
      first -= at[axis] * strides[axis];
      at[axis] = 0;
    }
  }
  stored.row_starts = shared_row_starts(std::move(starts));
}

/// Makes tensors of what the pickle says of them: storage, first number, shape and strides, all checked against the storage's bytes.
/// The archive and the pickle must outlive it.
class TorchTensors {
 public:
  TorchTensors(TorchArchive& archive, const Pickle& pickle) : archive_(&archive), pickle_(&pickle) {}

  /// `who` names the tensor in errors.
  [[nodiscard]] CheckpointTensor operator()(const PickleValue& made, std::string_view who) {
    Storage from = storage(value(made.items[0]), who);
    if (made.items.size() > 4) {  // of an untyped storage: the tensor has the type
      const std::string_view type = pickle_->name(made.items[4]);
      const std::optional<Dtype> dtype = torch_dtype(type);
      if (!dtype) raise(ErrorKind::file, who, ": is of ", printable(type), ", an unknown type");
      from.count = from.count * static_cast<Index>(dtype_bytes(from.dtype)) / static_cast<Index>(dtype_bytes(*dtype));
      from.dtype = *dtype;
    }
    const std::vector<Index> shape = integers(made.items[2], who, "shape"), strides = integers(made.items[3], who, "strides");
    if (strides.size() != shape.size()) raise(ErrorKind::file, who, ": has ", shape.size(), " axes and ", strides.size(), " strides");
    const std::optional<Index> count = element_count(shape, dtype_bytes(from.dtype));
    const std::int64_t offset = value(made.items[1]).integer;
    const auto beyond = [&]() {
      raise(ErrorKind::file, who, ": shape ", shape_text(shape), " with strides ", shape_text(strides), " from number ", offset,
            " on reaches beyond the ", from.count, " numbers of its storage");
    };
    if (!count || offset < 0 || offset > from.count) beyond();
    if (*count > from.count)
      raise(ErrorKind::file, who, ": shape ", shape_text(shape), " repeats the ", from.count,
            " numbers of its storage, an expanded tensor: call .contiguous() before it is saved");
    StoredTensor stored;
    stored.dtype = from.dtype;
    std::tie(stored.rows, stored.columns) = rows_and_columns(shape);
    if (*count > 0) {
      Index last = offset;
      for (std::size_t axis = 0; axis < shape.size(); ++axis) {
        const Index steps = shape[axis] - 1;
        if (steps > 0 && strides[axis] > (from.count - 1 - last) / steps) beyond();
        last += steps * strides[axis];
      }
      if (last >= from.count) beyond();
      place_torch_rows(shape, strides, reinterpret_cast<const std::byte*>(from.bytes.text.data()), offset, stored);
    }
    stored.keep_alive = from.bytes.keep_alive;
    CheckpointTensor tensor = whole_tensor(shape, std::move(stored));
    if (!readable(from.dtype)) tensor.unreadable = dtype_name(from.dtype);
    return tensor;
  }

 private:
  using Kind = PickleValue::Kind;

  [[nodiscard]] const PickleValue& value(std::uint32_t position) const { return (*pickle_)[position]; }
  [[nodiscard]] std::vector<Index> integers(std::uint32_t position, std::string_view who, std::string_view what) const {
    if (const std::size_t axes = value(position).items.size(); axes > 64)
      raise(ErrorKind::file, who, ": its ", what, " has ", axes, " numbers, expected at most 64");
    std::vector<Index> numbers;
    for (const std::uint32_t item : value(position).items) {
      const PickleValue& number = value(item);
      if (number.kind != Kind::integer) raise(ErrorKind::file, who, ": expected integers from 0 as its ", what);
      if (number.integer < 0) raise(ErrorKind::file, who, ": expected integers from 0 as its ", what, ", one is ", number.integer);
      numbers.push_back(static_cast<Index>(number.integer));
    }
    return numbers;
  }

  struct Storage {
    Dtype dtype = Dtype::F32;
    Index count = 0;
    ZipBytes bytes;
  };
  [[nodiscard]] Storage storage(const PickleValue& reference, std::string_view who) {
    const std::string_view type = pickle_->name(reference.items[0]);
    const std::optional<Dtype> dtype = torch_dtype(type);
    if (!dtype) raise(ErrorKind::file, who, ": its storage is a ", printable(type), ", an unknown type");
    const std::string entry = archive_->storage_name(value(reference.items[1]).text);
    const std::int64_t count = value(reference.items[2]).integer;
    const ZipBytes& bytes = archive_->storage(entry);
    const std::size_t in_file = bytes.text.size();
    if (count < 0 || static_cast<std::uint64_t>(count) > in_file || in_file != static_cast<std::uint64_t>(count) * dtype_bytes(*dtype))
      raise(ErrorKind::file, who, ": its storage ", printable(entry), " has ", in_file, " bytes, expected ", count, " numbers of ",
            dtype_bytes(*dtype));
    return {*dtype, static_cast<Index>(count), bytes};
  }

  TorchArchive* archive_;
  const Pickle* pickle_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
