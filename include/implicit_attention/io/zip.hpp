// Zip archives as PyTorch writes them, read strictly: stored entries are handed out where they stand in the mapped file.
//
// Compressed (deflated) entries need zlib: define IMPLICIT_ATTENTION_IO_ZLIB as 1 and link it. Without it they are an error that says so;
// no PyTorch writes them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
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

#ifndef IMPLICIT_ATTENTION_IO_ZLIB
#define IMPLICIT_ATTENTION_IO_ZLIB 0
#endif
#if IMPLICIT_ATTENTION_IO_ZLIB
#include <zlib.h>
#endif

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The entries of one archive.
class ZipFile {
 public:
  struct Entry {
    std::uint64_t header = 0;      ///< where the local header stands
    std::uint64_t compressed = 0;  ///< bytes in the archive
    std::uint64_t size = 0;        ///< bytes when unpacked
    std::uint16_t method = 0;      ///< 0 stored, 8 deflated
    std::uint16_t flags = 0;
  };
  /// Bytes of an entry, and what keeps them alive.
  struct Bytes {
    std::string_view text;
    std::shared_ptr<const void> keep_alive;
  };

  /// Reads the directory at the end. Fails (ErrorKind::file) on anything that is not as the format has it.
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
    reader.seek(checked(entry.header, who));
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
    return inflate(raw, entry.size, who);
  }

 private:
  [[nodiscard]] std::size_t checked(std::uint64_t position, std::string_view who) const {
    if (position > file_->size())
      detail::raise(ErrorKind::file, who, ": stands at byte ", position, ", but the file has only ", file_->size(), "; is it cut short?");
    return static_cast<std::size_t>(position);
  }

  void read_directory() {
    const std::string_view bytes = file_->text();
    constexpr std::size_t end_size = 22, longest_comment = 65535;
    const std::size_t earliest = bytes.size() > end_size + longest_comment ? bytes.size() - end_size - longest_comment : 0;
    const auto mark_up_to = [&](std::size_t last) {
      if (last < earliest) return std::string_view::npos;
      const std::size_t found = bytes.substr(earliest).rfind("PK\x05\x06", last - earliest);  // not through a file of gigabytes
      return found == std::string_view::npos ? found : earliest + found;
    };
    // The mark may stand in the comment behind the record, too: the record is the one whose comment ends with the file.
    const auto ends_file = [&](std::size_t at) {
      ByteReader length(bytes.substr(at + end_size - 2), where_);
      return length.number<std::uint16_t>() == bytes.size() - at - end_size;
    };
    const std::size_t last_mark = bytes.size() >= end_size ? mark_up_to(bytes.size() - end_size) : std::string_view::npos;
    std::size_t end = last_mark;
    while (end != std::string_view::npos && !ends_file(end)) end = end == 0 ? std::string_view::npos : mark_up_to(end - 1);
    if (end == std::string_view::npos) end = last_mark;  // none: the message is about the last
    if (end == std::string_view::npos)
      detail::raise(ErrorKind::file, where_, ": the zip archive has no directory at its end; is the file cut short?");
    ByteReader reader(bytes, where_);
    reader.seek(end + 4);
    const auto disk = reader.number<std::uint16_t>(), directory_disk = reader.number<std::uint16_t>();
    std::uint64_t on_disk = reader.number<std::uint16_t>(), count = reader.number<std::uint16_t>();
    std::uint64_t size = reader.number<std::uint32_t>(), begin = reader.number<std::uint32_t>();
    if (reader.number<std::uint16_t>() != bytes.size() - end - end_size)
      detail::raise(ErrorKind::file, where_, ": bytes behind the zip archive's end");
    if (count == 0xFFFF || size == 0xFFFFFFFF || begin == 0xFFFFFFFF) {
      // Archives of 4 GiB and more have a second end record, with a pointer to it right before the first.
      constexpr std::size_t locator = 20;
      if (end < locator || bytes.substr(end - locator, 4) != "PK\x06\x07")
        detail::raise(ErrorKind::file, where_, ": the zip archive's large directory is missing");
      reader.seek(end - locator + 8);
      reader.seek(checked(reader.number<std::uint64_t>(), where_));
      if (reader.number<std::uint32_t>() != 0x06064b50U)
        detail::raise(ErrorKind::file, where_, ": the zip archive's large directory is not where it should be");
      (void)reader.take(20);
      on_disk = reader.number<std::uint64_t>();
      count = reader.number<std::uint64_t>();
      size = reader.number<std::uint64_t>();
      begin = reader.number<std::uint64_t>();
    }
    if (disk != directory_disk || on_disk != count) detail::raise(ErrorKind::file, where_, ": a zip archive in several volumes");
    if (begin > bytes.size() || size > bytes.size() - begin)
      detail::raise(ErrorKind::file, where_, ": the zip directory, ", size, " bytes at ", begin,
                    ", is not within the file; is it cut short?");
    ByteReader directory(bytes.substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(size)), where_);
    for (std::uint64_t i = 0; i < count; ++i) read_entry(directory);
    if (directory.left() != 0)
      detail::raise(ErrorKind::file, where_, ": ", directory.left(), " bytes in the zip directory belong to no entry");
  }

  void read_entry(ByteReader& directory) {
    if (directory.number<std::uint32_t>() != 0x02014b50U)
      detail::raise(ErrorKind::file, where_, ": entry ", entries_.size(), " of the zip directory is malformed");
    (void)directory.take(4);
    Entry entry;
    entry.flags = directory.number<std::uint16_t>();
    entry.method = directory.number<std::uint16_t>();
    (void)directory.take(8);  // time, date, checksum
    entry.compressed = directory.number<std::uint32_t>();
    entry.size = directory.number<std::uint32_t>();
    const auto name_length = directory.number<std::uint16_t>(), extra_length = directory.number<std::uint16_t>(),
               comment_length = directory.number<std::uint16_t>();
    (void)directory.take(8);  // disk, attributes
    entry.header = directory.number<std::uint32_t>();
    const std::string_view name = directory.take(name_length);
    ByteReader extra(directory.take(extra_length), where_);
    (void)directory.take(comment_length);
    while (extra.left() >= 4) {
      const auto kind = extra.number<std::uint16_t>(), length = extra.number<std::uint16_t>();
      ByteReader field(extra.take(length), where_);
      if (kind != 1) continue;  // the sizes that did not fit above, in this order
      if (entry.size == 0xFFFFFFFF) entry.size = field.number<std::uint64_t>();
      if (entry.compressed == 0xFFFFFFFF) entry.compressed = field.number<std::uint64_t>();
      if (entry.header == 0xFFFFFFFF) entry.header = field.number<std::uint64_t>();
    }
    if (!entries_.emplace(std::string(name), entry).second)
      detail::raise(ErrorKind::file, where_, ": entry ", printable(name), " is in the archive twice");
  }

#if IMPLICIT_ATTENTION_IO_ZLIB
  static Bytes inflate(std::string_view raw, std::uint64_t size, const std::string& who) {
    // Deflate expands at most 1032 times, so a size beyond that is a lie; the memory is bounded by the file.
    if (size > raw.size() * std::uint64_t{1032} + 64)
      detail::raise(ErrorKind::file, who, ": ", raw.size(), " compressed bytes cannot hold ", size);
    const auto unpacked = std::make_shared<std::vector<char>>(static_cast<std::size_t>(size));
    z_stream stream{};
    if (::inflateInit2(&stream, -15) != Z_OK) detail::raise(ErrorKind::file, who, ": zlib cannot start");
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
      detail::raise(ErrorKind::file, who, ": its compressed bytes are damaged");
    return {std::string_view(unpacked->data(), unpacked->size()), unpacked};
  }
#else
  [[noreturn]] static Bytes inflate(std::string_view /*raw*/, std::uint64_t /*size*/, const std::string& who) {
    detail::raise(ErrorKind::file, who,
                  ": is compressed, and this program was built without zlib: unpack the archive and pack it again with "
                  "zip -0, or load it in PyTorch and save it again");
  }
#endif

  std::shared_ptr<const MappedFile> file_;
  std::string where_;
  std::map<std::string, Entry, std::less<>> entries_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
