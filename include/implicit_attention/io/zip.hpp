// Zip archives as PyTorch writes them, read strictly: stored entries are handed out where they stand in the mapped file.
//
// Compressed (deflated) entries need zlib: define IMPLICIT_ATTENTION_IO_ZLIB as 1 and link it. Without it they are an error that says so;
// PyTorch does not write them.
#pragma once

#include <algorithm>
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
#include <implicit_attention/io/bytes.hpp>
#include <implicit_attention/io/mapped_file.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/zip_directory.hpp>

#ifndef IMPLICIT_ATTENTION_IO_ZLIB
#define IMPLICIT_ATTENTION_IO_ZLIB 0
#endif
#if IMPLICIT_ATTENTION_IO_ZLIB
#include <zlib.h>
#endif

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Bytes of an entry, and what keeps them alive.
struct ZipBytes {
  std::string_view text;
  std::shared_ptr<const void> keep_alive;
};

namespace detail {

#if IMPLICIT_ATTENTION_IO_ZLIB
/// Unpacks a deflated entry of `size` bytes.
[[nodiscard]] inline ZipBytes zip_inflate(std::string_view raw, std::uint64_t size, std::string_view who) {
  // Deflate expands at most 1032 times, so a larger size is refused: memory is bounded by the size of the file.
  if (size > raw.size() * std::uint64_t{1032} + 64) raise(ErrorKind::file, who, ": ", raw.size(), " compressed bytes cannot hold ", size);
  const auto unpacked = std::make_shared<std::vector<char>>(static_cast<std::size_t>(size));
  z_stream stream{};
  if (::inflateInit2(&stream, -15) != Z_OK) raise(ErrorKind::file, who, ": zlib cannot start");
  std::size_t taken = 0, given = 0;
  int state = Z_OK;
  while (state == Z_OK) {
    const std::size_t piece_in = std::min<std::size_t>(raw.size() - taken, std::size_t{1} << 30U);
    const std::size_t piece_out = std::min<std::size_t>(unpacked->size() - given, std::size_t{1} << 30U);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(raw.data() + taken));
    stream.avail_in = static_cast<uInt>(piece_in);
    stream.next_out = reinterpret_cast<Bytef*>(unpacked->data() + given);
    stream.avail_out = static_cast<uInt>(piece_out);
    state = ::inflate(&stream, Z_NO_FLUSH);
    taken += piece_in - stream.avail_in;
    given += piece_out - stream.avail_out;
    if (state == Z_OK && piece_in == stream.avail_in && piece_out == stream.avail_out) state = Z_BUF_ERROR;
  }
  ::inflateEnd(&stream);
  if (state != Z_STREAM_END || taken != raw.size() || given != unpacked->size())
    raise(ErrorKind::file, who, ": its compressed bytes are damaged");
  return {std::string_view(unpacked->data(), unpacked->size()), unpacked};
}
#else
[[noreturn]] inline ZipBytes zip_inflate(std::string_view /*raw*/, std::uint64_t /*size*/, std::string_view who) {
  raise(ErrorKind::file, who,
        ": is compressed, and this program was built without zlib: unpack the archive and pack it again with "
        "zip -0, or load it in PyTorch and save it again");
}
#endif

}  // namespace detail

/// The entries of one archive.
class ZipFile {
 public:
  using Entry = ZipEntry;
  using Bytes = ZipBytes;

  /// Reads the directory at the end. Fails (ErrorKind::file) on anything that the format does not allow.
  explicit ZipFile(std::shared_ptr<const MappedFile> file) : file_(std::move(file)), where_(path_text(file_->path())) { read_directory(); }

  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }
  [[nodiscard]] bool has(std::string_view name) const { return entries_.find(name) != entries_.end(); }

  /// The bytes of an entry that must be there.
  [[nodiscard]] Bytes read(std::string_view name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) detail::raise(ErrorKind::file, where_, ": there is no entry ", printable(name), " in the archive");
    const Entry& entry = found->second;
    const std::string who = detail::message(where_, ": entry ", printable(name));
    if ((entry.flags & 1U) != 0) detail::raise(ErrorKind::file, who, ": is encrypted");
    ByteReader reader(file_->text(), who);
    reader.seek(detail::zip_position(entry.header, file_->text(), who));
    if (reader.number<std::uint32_t>() != 0x04034b50U)
      detail::raise(ErrorKind::file, who, ": has no local header where the directory says");
    (void)reader.take(22);
    const auto name_length = reader.number<std::uint16_t>(), extra_length = reader.number<std::uint16_t>();
    if (reader.take(name_length) != name) detail::raise(ErrorKind::file, who, ": its local header has another name");
    (void)reader.take(extra_length);
    const std::string_view raw = reader.take(entry.compressed);
    if (entry.method == 0) {
      if (entry.compressed != entry.size)
        detail::raise(ErrorKind::file, who, ": is stored, but takes ", entry.compressed, " bytes for ", entry.size);
      return {raw, file_};
    }
    if (entry.method != 8) detail::raise(ErrorKind::file, who, ": is compressed by method ", entry.method, ", expected stored or deflated");
    return detail::zip_inflate(raw, entry.size, who);
  }

 private:
  void read_directory() {
    const auto [bytes, count] = detail::zip_directory(file_->text(), where_);
    ByteReader directory(bytes, where_);
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto [name, entry] = detail::zip_entry(directory, entries_.size());
      if (!entries_.emplace(name, entry).second)
        detail::raise(ErrorKind::file, where_, ": entry ", printable(name), " is in the archive twice");
    }
    if (directory.left() != 0)
      detail::raise(ErrorKind::file, where_, ": ", directory.left(), " bytes in the zip directory belong to no entry");
  }

  std::shared_ptr<const MappedFile> file_;
  std::string where_;
  std::map<std::string, Entry, std::less<>> entries_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
