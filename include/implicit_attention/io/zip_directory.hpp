// The directory at the end of a zip archive: where it stands, and what it says of each entry.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/bytes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// What the directory says of an entry.
struct ZipEntry {
  std::uint64_t header = 0;      ///< where the local header stands
  std::uint64_t compressed = 0;  ///< bytes in the archive
  std::uint64_t size = 0;        ///< bytes when unpacked
  std::uint16_t method = 0;      ///< 0 stored, 8 deflated
  std::uint16_t flags = 0;
};

namespace detail {

/// Bytes of the record at an archive's end, without its comment.
inline constexpr std::size_t zip_end_size = 22;

/// Where that record begins.
[[nodiscard]] inline std::size_t zip_end(std::string_view file, std::string_view where) {
  constexpr std::size_t longest_comment = 65535;
  const std::size_t earliest = file.size() > zip_end_size + longest_comment ? file.size() - zip_end_size - longest_comment : 0;
  const auto mark_up_to = [&](std::size_t last) {
    if (last < earliest) return std::string_view::npos;
    const std::size_t found =
        file.substr(earliest).rfind("PK\x05\x06", last - earliest);  // only where it can be: the file may have gigabytes
    return found == std::string_view::npos ? found : earliest + found;
  };
  // The mark may stand in the comment behind the record, too: the record is the one whose comment ends with the file.
  const auto ends_file = [&](std::size_t at) {
    ByteReader length(file.substr(at + zip_end_size - 2), where);
    return length.number<std::uint16_t>() == file.size() - at - zip_end_size;
  };
  const std::size_t last_mark = file.size() >= zip_end_size ? mark_up_to(file.size() - zip_end_size) : std::string_view::npos;
  std::size_t end = last_mark;
  while (end != std::string_view::npos && !ends_file(end)) end = end == 0 ? std::string_view::npos : mark_up_to(end - 1);
  if (end == std::string_view::npos) end = last_mark;  // none does: the error is about the last
  if (end == std::string_view::npos) raise(ErrorKind::file, where, ": the zip archive has no directory at its end; is the file cut short?");
  return end;
}

/// A position that the archive names, which must lie within it.
[[nodiscard]] inline std::size_t zip_position(std::uint64_t position, std::string_view file, std::string_view who) {
  if (position > file.size())
    raise(ErrorKind::file, who, ": stands at byte ", position, ", but the file has only ", file.size(), "; is it cut short?");
  return static_cast<std::size_t>(position);
}

/// The bytes of the directory, and how many entries it says it has.
struct ZipDirectory {
  std::string_view bytes;
  std::uint64_t count = 0;
};
[[nodiscard]] inline ZipDirectory zip_directory(std::string_view file, std::string_view where) {
  const std::size_t end = zip_end(file, where);
  ByteReader reader(file, where);
  reader.seek(end + 4);
  const auto disk = reader.number<std::uint16_t>(), directory_disk = reader.number<std::uint16_t>();
  std::uint64_t on_disk = reader.number<std::uint16_t>(), count = reader.number<std::uint16_t>();
  std::uint64_t size = reader.number<std::uint32_t>(), begin = reader.number<std::uint32_t>();
  if (reader.number<std::uint16_t>() != file.size() - end - zip_end_size)
    raise(ErrorKind::file, where, ": there are bytes behind the zip archive's end");
  if (count == 0xFFFF || size == 0xFFFFFFFF || begin == 0xFFFFFFFF) {
    // Archives of 4 GiB and more have a second end record, with a pointer to it right before the first.
    constexpr std::size_t locator = 20;
    if (end < locator || file.substr(end - locator, 4) != "PK\x06\x07")
      raise(ErrorKind::file, where, ": the zip archive's large directory is missing");
    reader.seek(end - locator + 8);
    reader.seek(zip_position(reader.number<std::uint64_t>(), file, where));
    if (reader.number<std::uint32_t>() != 0x06064b50U)
      raise(ErrorKind::file, where, ": the zip archive's large directory is not where it should be");
    (void)reader.take(20);
    on_disk = reader.number<std::uint64_t>();
    count = reader.number<std::uint64_t>();
    size = reader.number<std::uint64_t>();
    begin = reader.number<std::uint64_t>();
  }
  if (disk != directory_disk || on_disk != count) raise(ErrorKind::file, where, ": is a zip archive in several volumes, expected one file");
  if (begin > file.size() || size > file.size() - begin)
    raise(ErrorKind::file, where, ": the zip directory, ", size, " bytes at ", begin, ", is not within the file; is it cut short?");
  return {file.substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(size)), count};
}

/// The next entry of the directory, the one of number `index`, and its name.
[[nodiscard]] inline std::pair<std::string, ZipEntry> zip_entry(ByteReader& directory, std::size_t index) {
  if (directory.number<std::uint32_t>() != 0x02014b50U)
    raise(ErrorKind::file, directory.where(), ": entry ", index, " of the zip directory is malformed");
  (void)directory.take(4);
  ZipEntry entry;
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
  ByteReader extra(directory.take(extra_length), directory.where());
  (void)directory.take(comment_length);
  while (extra.left() >= 4) {
    const auto kind = extra.number<std::uint16_t>(), length = extra.number<std::uint16_t>();
    ByteReader field(extra.take(length), directory.where());
    if (kind != 1) continue;  // the sizes that did not fit above, in this order
    if (entry.size == 0xFFFFFFFF) entry.size = field.number<std::uint64_t>();
    if (entry.compressed == 0xFFFFFFFF) entry.compressed = field.number<std::uint64_t>();
    if (entry.header == 0xFFFFFFFF) entry.header = field.number<std::uint64_t>();
  }
  return {std::string(name), entry};
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
