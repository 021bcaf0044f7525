// GGUF files: their metadata and tensors of every type, and what is no GGUF file.
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/io/gguf.hpp>

#include "archives.hpp"
#include "files.hpp"

namespace gguf_reader_cases {

using namespace implicit_attention;
using namespace io_test;

struct Folder {
  [[nodiscard]] GgufFile open(const std::string& bytes) const {
    write_bytes(folder / "a.gguf", bytes);
    return GgufFile(folder / "a.gguf");
  }
  [[nodiscard]] std::string refused(const std::string& bytes) const {
    const auto error = error_of([&] { (void)open(bytes); });
    return error ? error->message : "";
  }
  TemporaryFolder folder;
};

/// A list of numbers of a type.
std::string list(const std::string& name, unsigned type, std::uint64_t count, const std::string& numbers) {
  return gguf::key(name, 9, u32(type) + u64(count) + numbers);
}

TEST_CASE("GGUF: metadata of every type", "[io]") {
  const Folder folder;
  struct Integer {
    unsigned type;
    std::string bytes;
    std::int64_t value;
  };
  const std::vector<Integer> integers{{0, u8(200), 200},
                                      {1, u8(200), -56},
                                      {2, u16(60000), 60000},
                                      {3, u16(60000), -5536},
                                      {4, u32(4000000000), 4000000000},
                                      {5, u32(4000000000), -294967296},
                                      {10, u64(5), 5},
                                      {10, u64(std::uint64_t{1} << 63U), std::numeric_limits<std::int64_t>::min()},
                                      {11, u64(~std::uint64_t{0}), -1}};
  for (const Integer& one : integers) {
    INFO("type " << one.type);
    const GgufFile file = folder.open(gguf::file({gguf::key("k", one.type, one.bytes), list("l", one.type, 2, one.bytes + one.bytes)}, {}));
    CHECK(file.get<std::int64_t>("k") == one.value);
    CHECK(file.get<double>("k") == static_cast<double>(one.value));
    CHECK(file.get<std::vector<std::int64_t>>("l") == std::vector<std::int64_t>{one.value, one.value});
  }
  for (const auto& [type, bytes] : {std::pair{6U, bytes_of<float>({-1.5F})}, std::pair{12U, bytes_of<double>({-1.5})}}) {
    const GgufFile file = folder.open(gguf::file({gguf::key("k", type, bytes), list("l", type, 2, bytes + bytes)}, {}));
    CHECK(file.get<double>("k") == -1.5);
    CHECK(file.get<std::vector<double>>("l") == std::vector<double>{-1.5, -1.5});
  }
  const GgufFile file = folder.open(gguf::file({gguf::boolean("yes", true), gguf::boolean("no", false), gguf::string("text", "words"),
                                                list("texts", 8, 2, gguf::text("a") + gguf::text("")), list("flags", 7, 2, u8(1) + u8(0))},
                                               {}));
  CHECK(file.get<bool>("yes") == true);
  CHECK(file.get<bool>("no") == false);
  CHECK(file.get<std::string_view>("text") == "words");
  REQUIRE(file.texts("texts") != nullptr);
  CHECK(*file.texts("texts") == std::vector<std::string_view>{"a", ""});
  CHECK(file.texts("text") == nullptr);
  CHECK(file.texts("absent") == nullptr);
  CHECK(file.get<std::vector<std::int64_t>>("flags") == std::vector<std::int64_t>{1, 0});
  CHECK_FALSE(file.get<bool>("absent"));
  CHECK(file.find("absent") == nullptr);
  CHECK_THAT(error_of([&] { (void)file.get<std::int64_t>("text"); })->message,
             contains_text("metadata key text is a text, expected an integer"));
  CHECK_THAT(error_of([&] { (void)file.architecture(); })->message, contains_text("general.architecture is missing"));
}

TEST_CASE("GGUF: tensors of every type have its size, whether it is read or not", "[io]") {
  const Folder folder;
  struct Type {
    unsigned number;
    Dtype dtype;
    std::size_t bytes;  // of 256 numbers
  };
  const std::vector<Type> types{{0, Dtype::F32, 1024},  {1, Dtype::F16, 512},   {2, Dtype::Q4_0, 144},  {3, Dtype::Q4_1, 160},
                                {6, Dtype::Q5_0, 176},  {7, Dtype::Q5_1, 192},  {8, Dtype::Q8_0, 272},  {12, Dtype::Q4_K, 144},
                                {13, Dtype::Q5_K, 176}, {14, Dtype::Q6_K, 210}, {24, Dtype::I8, 256},   {25, Dtype::I16, 512},
                                {26, Dtype::I32, 1024}, {27, Dtype::I64, 2048}, {28, Dtype::F64, 2048}, {30, Dtype::BF16, 512}};
  for (const Type& type : types) {
    INFO(dtype_name(type.dtype));
    const GgufFile file = folder.open(gguf::file({}, {{"t", {1, 256}, type.number, std::string(type.bytes, '\0')}}));
    REQUIRE(file.tensors().size() == 1);
    const CheckpointTensor& tensor = file.tensors().begin()->second;
    REQUIRE(tensor.parts.size() == 1);
    CHECK(tensor.parts[0].stored.dtype == type.dtype);
    CHECK(tensor.shape == std::vector<Index>{1, 256});
    // One byte less is a tensor that is cut short. Its padding goes, too.
    const std::string cut = gguf::file({}, {{"t", {1, 256}, type.number, std::string(type.bytes - 1, '\0')}});
    const std::size_t begin = cut.size() - (type.bytes - 1 + 31) / 32 * 32;
    CHECK_THAT(folder.refused(cut.substr(0, begin + type.bytes - 1)), contains_text("is it cut short?"));
  }
}

TEST_CASE("GGUF: what is no GGUF file is said", "[io]") {
  const Folder folder;
  CHECK_THAT(folder.refused("GGML" + std::string(60, '\0')), contains_text("a.gguf: not a GGUF file"));
  for (const unsigned type : {13U, 4294967295U})
    CHECK_THAT(folder.refused(gguf::file({gguf::key("odd.key", type, u64(0))}, {})),
               contains_text("metadata key odd.key is of type " + std::to_string(type) + ", which the format does not define"));
  CHECK_THAT(folder.refused(gguf::file({list("odd.list", 13, 1, u64(0))}, {})),
             contains_text("metadata key odd.list is a list of type 13, which is not read here"));
  CHECK_THAT(folder.refused(gguf::file({list("odd.list", 9, 1, u64(0))}, {})), contains_text("is a list of type 9"));  // lists of lists
}

}  // namespace gguf_reader_cases
