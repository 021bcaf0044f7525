// Every fuzzing target in every test run: what it begins with, what is kept in corpus/, and both changed at random from a fixed seed.
// IMPLICIT_ATTENTION_FUZZ sets the changed inputs of each target (4,000), IMPLICIT_ATTENTION_FUZZ_SEED the seed, and
// IMPLICIT_ATTENTION_FUZZ_CORPUS a second folder like corpus/. run.sh searches on.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <io/files.hpp>
#include <support/catch.hpp>

#include "harness.hpp"

namespace fs = std::filesystem;

namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* given = std::getenv(name);
  return given == nullptr ? otherwise : std::strtoull(given, nullptr, 10);
}

// One to eight changes: bits, bytes, numbers of two to eight bytes that are at a border, pieces cut, doubled or taken from another place.
std::string changed(std::string bytes, std::mt19937_64& random) {
  const auto below = [&](std::uint64_t limit) { return static_cast<std::size_t>(limit == 0 ? 0 : random() % limit); };
  static const std::vector<std::uint64_t> borders{
      0,          1,          2,           3,           4,           7,           8,           16,    31,        32,       33,
      63,         64,         127,         128,         255,         256,         32767,       32768, 65535,     65536,    0x7FFFFFFF,
      0x80000000, 0xFFFFFFFF, 0x100000000, 1ULL << 40U, 1ULL << 61U, 1ULL << 62U, 1ULL << 63U, ~0ULL, ~0ULL - 1, ~0ULL / 2};
  for (std::size_t changes = 1 + below(8); changes > 0 && !bytes.empty(); --changes) {
    const std::size_t at = below(bytes.size());
    switch (below(8)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 1:
        bytes[at] = static_cast<char>(random());
        break;
      case 2:
      case 3: {
        const std::size_t width = std::size_t{1} << below(4);
        const std::uint64_t value = borders[below(borders.size())];
        for (std::size_t i = 0; i < width && at + i < bytes.size(); ++i) bytes[at + i] = static_cast<char>(value >> (8 * i));
        break;
      }
      case 4:
        bytes.erase(at, 1 + below(16));
        break;
      case 5:
        bytes.insert(at, bytes.substr(below(bytes.size()), 1 + below(24)));
        break;
      case 6: {
        const std::string piece = bytes.substr(below(bytes.size()), 1 + below(24));
        bytes.replace(at, piece.size(), piece);
        break;
      }
      default:
        if (below(4) == 0) bytes.resize(at);
        break;
    }
  }
  return bytes;
}

/// What went wrong with these bytes; empty if nothing did.
std::string fault(const fuzz::Target& target, const std::string& bytes) {
  try {
    target.run(bytes);
    return {};
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("fuzz: what is kept is taken or refused as it should be, and so is whatever it is changed to") {
  REQUIRE(fuzz::targets().size() >= 15);
  for (const fuzz::Target& target : fuzz::targets()) {
    DYNAMIC_SECTION(target.name) {
      std::vector<std::string> inputs = target.seeds();
      REQUIRE_FALSE(inputs.empty());
      std::vector<fs::path> kept;
      std::error_code ignored;
      std::vector<fs::path> folders{fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "tests/fuzz/corpus"};
      if (const char* const found = std::getenv("IMPLICIT_ATTENTION_FUZZ_CORPUS")) folders.emplace_back(found);
      for (const fs::path& folder : folders)
        for (const auto& entry : fs::directory_iterator(folder / target.name, ignored)) kept.push_back(entry.path());
      std::sort(kept.begin(), kept.end());
      for (const fs::path& path : kept) inputs.push_back(io_test::read_bytes(path));
      inputs.emplace_back();
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        INFO("input " << i);
        CHECK(fault(target, inputs[i]) == "");
      }
      inputs.pop_back();

      std::mt19937_64 random(from_environment("IMPLICIT_ATTENTION_FUZZ_SEED", 1));
      const std::uint64_t executions = from_environment("IMPLICIT_ATTENTION_FUZZ", 4'000);
      for (std::uint64_t i = 0; i < executions; ++i) {
        const std::string bytes = changed(inputs[i % inputs.size()], random);
        const std::string wrong = fault(target, bytes);
        if (wrong.empty()) continue;
        const fs::path where = fs::path(IMPLICIT_ATTENTION_BINARY_DIR) / ("fault-" + target.name);
        io_test::write_bytes(where, bytes);
        FAIL("changed input " << i << ", kept in " << where.string() << ": " << wrong);
      }
      SUCCEED();
    }
  }
}
