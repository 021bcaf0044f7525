// Zip archives: what the directory says of entries, and what is refused.
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/io/zip.hpp>

#include "archives.hpp"
#include "files.hpp"

namespace zip_cases {

using namespace implicit_attention;
using namespace io_test;

/// Two stored entries, and the places of the second one's fields.
struct Archive {
  std::string bytes = zip_bytes({{"first", "one"}, {"second", "two!"}});
  std::size_t entry = bytes.rfind("PK\x01\x02"), end = bytes.size() - 22;

  [[nodiscard]] Archive with(std::size_t place, const std::string& other) const {
    Archive changed = *this;
    changed.bytes.replace(place, other.size(), other);
    return changed;
  }
};

TEST_CASE("zip: entries are found by name, and are views of the file", "[io]") {
  const TemporaryFolder folder;
  write_bytes(folder / "a.zip", Archive().bytes);
  const auto file = MappedFile::open(folder / "a.zip");
  const ZipFile zip(file);
  CHECK(zip.where() == (folder / "a.zip").string());
  CHECK(zip.entries().size() == 2);
  CHECK(zip.has("second"));
  CHECK_FALSE(zip.has("third"));
  CHECK(zip.read("first").text == "one");
  CHECK(zip.read("second").text == "two!");
  CHECK(zip.read("second").text.data() == file->text().data() + Archive().bytes.find("two!"));
}

TEST_CASE("zip: archives of 4 GiB and more have a second directory", "[io]") {
  // Its numbers are those of the first, which says that they are too large for it.
  const Archive archive;
  const std::size_t directory = archive.bytes.find("PK\x01\x02");
  const std::string size = u64(archive.end - directory);
  const std::string large = "PK\x06\x06" + u64(44) + u16(45) + u16(45) + u32(0) + u32(0) + u64(2) + u64(2) + size + u64(directory);
  const std::string locator = "PK\x06\x07" + u32(0) + u64(archive.end) + u32(1);
  const std::string first = "PK\x05\x06" + u16(0) + u16(0) + u16(0xFFFF) + u16(0xFFFF) + u32(0xFFFFFFFF) + u32(0xFFFFFFFF) + u16(0);
  const std::string before = archive.bytes.substr(0, archive.end);
  const TemporaryFolder folder;
  const auto entries = [&](const std::string& bytes) {
    write_bytes(folder / "a.zip", bytes);
    return ZipFile(MappedFile::open(folder / "a.zip")).entries().size();
  };
  CHECK(entries(before + large + locator + first) == 2);
  const auto refused = [&](const std::string& bytes) {
    const auto error = error_of([&] { (void)entries(bytes); });
    return error ? error->message : "";
  };
  CHECK_THAT(refused(before + first), contains_text("the zip archive's large directory is missing"));
  CHECK_THAT(refused(before + "XX" + large.substr(2) + locator + first), contains_text("large directory is not where it should be"));
  const std::string beyond = "PK\x06\x07" + u32(0) + u64(1U << 30U) + u32(1);
  CHECK_THAT(refused(before + large + beyond + first), contains_text("stands at byte 1073741824, but the file has only"));
}

TEST_CASE("zip: sizes and places that do not fit 32 bits stand in an extra field, behind others", "[io]") {
  const TemporaryFolder folder;
  const std::string data = "some bytes", none = u32(0xFFFFFFFF);
  const std::string local = "PK\x03\x04" + u16(45) + u16(0) + u16(0) + u32(0) + u32(0) + none + none + u16(1) + u16(0) + "a" + data;
  const auto archive = [&](const std::string& extra) {
    const std::string directory = "PK\x01\x02" + u16(45) + u16(45) + u16(0) + u16(0) + u32(0) + u32(0) + none + none + u16(1) +
                                  u16(static_cast<unsigned>(extra.size())) + u16(3) + u16(0) + u16(0) + u32(0) + none + "a" + extra + "why";
    const std::string end = "PK\x05\x06" + u16(0) + u16(0) + u16(1) + u16(1) + u32(directory.size()) + u32(local.size()) + u16(0);
    write_bytes(folder / "a.zip", local + directory + end);
    return ZipFile(MappedFile::open(folder / "a.zip"));
  };
  const std::string other = u16(0x5455) + u16(5) + "times", size = u64(data.size());
  CHECK(archive(other + u16(1) + u16(24) + size + size + u64(0)).read("a").text == data);
  const auto error = error_of([&] { (void)archive(other + u16(1) + u16(8) + size); });
  REQUIRE(error);
  CHECK_THAT(error->message, contains_text("8 bytes expected, but only 0 are left"));
  const auto beyond = error_of([&] { (void)archive(u16(1) + u16(24) + size + size + u64(1U << 30U)).read("a"); });
  REQUIRE(beyond);
  CHECK_THAT(beyond->message, contains_text("stands at byte 1073741824"));
}

TEST_CASE("zip: what cannot be read is said", "[io]") {
  const TemporaryFolder folder;
  const Archive good;
  struct Bad {
    std::string what;
    Archive archive;
    std::string expected;
  };
  const std::vector<Bad> all{
      {"an encrypted entry", good.with(good.entry + 8, u16(1)), "entry second: is encrypted"},
      {"a stored entry of two sizes", good.with(good.entry + 24, u32(9)), "entry second: is stored, but takes 4 bytes for 9"},
      {"an entry beyond the file", good.with(good.entry + 42, u32(70000)), "entry second: stands at byte 70000, but the file has only"},
      {"a directory entry that is none", good.with(good.entry, "PKxx"), "entry 1 of the zip directory is malformed"},
  };
  for (const Bad& bad : all) {
    INFO(bad.what);
    write_bytes(folder / "bad.zip", bad.archive.bytes);
    const auto error = error_of([&] { (void)ZipFile(MappedFile::open(folder / "bad.zip")).read("second"); });
    REQUIRE(error);
    CHECK(error->kind == ErrorKind::file);
    CHECK_THAT(error->message, contains_text((folder / "bad.zip").string()));
    CHECK_THAT(error->message, contains_text(bad.expected));
  }
  // The other entries of an archive with such a one can be read.
  write_bytes(folder / "bad.zip", all[0].archive.bytes);
  CHECK(ZipFile(MappedFile::open(folder / "bad.zip")).read("first").text == "one");
}

}  // namespace zip_cases
