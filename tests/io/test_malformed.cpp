// Files and calls that are wrong, one a row, and what the error must say.
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <support/catch.hpp>
#include <support/words.hpp>

#include <implicit_attention/io/io.hpp>

#include "files.hpp"

using namespace implicit_attention;
using namespace io_test;
using test_support::Words;

namespace {

void expect_error(const std::optional<Caught>& error, ErrorKind kind, const Words& needles) {
  REQUIRE(error);
  CHECK(error->kind == kind);
  for (const std::string& needle : needles) CHECK_THAT(error->message, contains_text(needle));
  for (const char letter : error->message) CHECK(static_cast<unsigned char>(letter) >= 0x20);  // one line, nothing a terminal obeys
  CHECK(error->message.size() < 1000);
}

struct BadFile {
  std::string what, bytes;
  Words needles;
};

// A file whose one tensor is `entry`, over eight bytes of data.
std::string with_entry(const std::string& entry) { return safetensors_bytes("{\"x\":" + entry + "}", std::string(8, '\0')); }

std::vector<BadFile> bad_safetensors() {
  const std::string eight(8, '\0'), good = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  std::string deep = "{\"x\":";
  deep.append(1'000'000, '[');
  std::string long_list = R"({"dtype":"F32","shape":[1)";
  for (int i = 0; i < 100; ++i) long_list += ",1";
  return {
      {"empty", "", {"not a safetensors file", "0 bytes", "at least 8"}},
      {"shorter than a length", "abc", {"not a safetensors file", "3 bytes"}},
      {"a length of zero", safetensors_bytes("", eight), {"header", "beginning with {", "found nothing"}},
      {"a length beyond the file", bytes_of<std::uint64_t>({4096}) + "{}", {"header length 4096", "only 2", "cut short"}},
      {"a length beyond the format", bytes_of<std::uint64_t>({100'000'001}) + "{}", {"header length 100000001", "at most 100000000"}},
      {"a length of all ones", bytes_of<std::uint64_t>({~std::uint64_t{0}}) + "{}", {"header length 18446744073709551615"}},
      {"a Git LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", {"Git LFS pointer", "git lfs pull"}},
      {"a PyTorch archive", std::string("PK\x03\x04") + std::string(60, 'x'), {"zip archive", "convert it"}},
      {"not JSON", safetensors_bytes("{\"x\": oh}", eight), {"header", "not valid JSON at byte"}},
      {"JSON cut short", safetensors_bytes("{\"x\":{\"dtype\":\"F32\"", eight), {"not valid JSON"}},
      {"two documents", safetensors_bytes("{} {}", ""), {"not valid JSON"}},
      {"a list", safetensors_bytes("[1]", ""), {"beginning with {", "found ["}},
      {"nothing but blanks", safetensors_bytes(" \n", ""), {"beginning with {", "found nothing"}},
      {"a letter after blanks", safetensors_bytes("  x{}", ""), {"beginning with {", "found x"}},
      {"not UTF-8", safetensors_bytes("{\"\xC3(\":" + good + "}", eight), {"not valid UTF-8 at byte 2"}},
      {"overlong UTF-8", safetensors_bytes("{\"\xC0\xAF\":" + good + "}", eight), {"not valid UTF-8 at byte 2"}},
      {"a million lists deep", safetensors_bytes(deep, eight), {"nested deeper than the 3 levels"}},
      {"a tensor twice", safetensors_bytes("{\"x\":" + good + ",\"x\":" + good + "}", eight), {"key \"x\" appears twice"}},
      {"a field twice", with_entry(R"({"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})"), {"key \"dtype\" appears twice"}},
      {"an entry that is a number", with_entry("7"), {"tensor x", "is 7", "expected an object"}},
      {"an entry that is null", with_entry("null"), {"tensor x", "is null", "expected an object"}},
      {"no dtype", with_entry(R"({"shape":[2],"data_offsets":[0,8]})"), {"tensor x", "has no dtype"}},
      {"no shape", with_entry(R"({"dtype":"F32","data_offsets":[0,8]})"), {"tensor x", "has no shape"}},
      {"no offsets", with_entry(R"({"dtype":"F32","shape":[2]})"), {"tensor x", "has no data_offsets"}},
      {"a dtype that is a number", with_entry(R"({"dtype":32,"shape":[2],"data_offsets":[0,8]})"), {"tensor x", "dtype is 32", "a string"}},
      {"half a byte",
       with_entry(R"({"dtype":"F4","shape":[3],"data_offsets":[0,8]})"),
       {"tensor x", "(3) of F4", "not a whole number of bytes"}},
      {"a shape that is a number",
       with_entry(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"),
       {"tensor x", "shape is 2", "list of integers"}},
      {"a negative size",
       with_entry(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
       {"tensor x", "shape is [-2]", "-2 is not an integer"}},
      {"a broken size", with_entry(R"({"dtype":"F32","shape":[2.5],"data_offsets":[0,8]})"), {"tensor x", "2.5 is not an integer"}},
      {"a size in words", with_entry(R"({"dtype":"F32","shape":["2"],"data_offsets":[0,8]})"), {"tensor x", "\"2\" is not an integer"}},
      {"a size beyond 64 bits",
       with_entry(R"({"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]})"),
       {"tensor x", "is not an integer"}},
      {"a size beyond signed 64 bits",
       with_entry(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]})"),
       {"tensor x", "not an integer"}},
      {"a product that overflows",
       with_entry(R"({"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]})"),
       {"tensor x", "overflows"}},
      {"a product that wraps to 2",
       with_entry(R"({"dtype":"F32","shape":[9223372036854775807,2,9223372036854775807],"data_offsets":[0,8]})"),
       {"tensor x", "overflows"}},
      {"bytes that overflow",
       with_entry(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,8]})"),
       {"tensor x", "overflows"}},
      {"a hundred axes", with_entry(long_list + R"(],"data_offsets":[0,4]})"), {"a list is longer than the 64 elements"}},
      {"offsets that are one number",
       with_entry(R"({"dtype":"F32","shape":[2],"data_offsets":[8]})"),
       {"tensor x", "has 1 numbers", "expected 2"}},
      {"offsets that are three numbers",
       with_entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4,8]})"),
       {"tensor x", "has 3 numbers"}},
      {"offsets that are not a list",
       with_entry(R"({"dtype":"F32","shape":[2],"data_offsets":"0-8"})"),
       {"tensor x", "data_offsets is \"0-8\""}},
      {"offsets backwards",
       with_entry(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"),
       {"tensor x", "(8, 0)", "end before they begin"}},
      {"negative offsets", with_entry(R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})"), {"tensor x", "-8 is not an integer"}},
      {"offsets beyond the file",
       with_entry(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})"),
       {"tensor x", "beyond the 8 bytes of data"}},
      {"offsets far beyond",
       with_entry(R"({"dtype":"F32","shape":[2],"data_offsets":[9223372036854775799,9223372036854775807]})"),
       {"tensor x", "beyond the 8 bytes"}},
      {"fewer bytes than the shape",
       with_entry(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"),
       {"tensor x", "hold 8 bytes", "expected 12 = (3) of F32"}},
      {"more bytes than the shape",
       with_entry(R"({"dtype":"F16","shape":[2],"data_offsets":[0,8]})"),
       {"tensor x", "hold 8 bytes", "expected 4"}},
      {"overlapping tensors",
       safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                         eight),
       {"tensors a and b overlap", "begins at byte 4", "expected 8"}},
      {"the same bytes twice", safetensors_bytes("{\"a\":" + good + ",\"b\":" + good + "}", eight), {"a and b overlap"}},
      {"a gap between tensors",
       safetensors_bytes(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"I8","shape":[2],"data_offsets":[6,8]}})",
                         eight),
       {"tensor b begins at byte 6", "expected 4", "gap"}},
      {"a gap in front", with_entry(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), {"tensor x begins at byte 4", "expected 0"}},
      {"bytes at the end",
       with_entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})"),
       {"8 bytes of data", "expected 4", "at the end"}},
      {"data and no tensor", safetensors_bytes("{}", eight), {"8 bytes of data", "expected 0"}},
      {"metadata that is a list", safetensors_bytes(R"({"__metadata__":[]})", ""), {"__metadata__ is []", "object of strings"}},
      {"metadata that is not text", safetensors_bytes(R"({"__metadata__":{"a":1}})", ""), {"__metadata__: a is 1", "expected a string"}},
      {"a name that a terminal would obey", safetensors_bytes("{\"\\u001b[2J\\n\":7}", ""), {"tensor \\x1B[2J\\n", "is 7"}},
      {"a name without end", safetensors_bytes("{\"" + std::string(100'000, 'n') + "\":7}", ""), {"nnn...", "is 7"}},
  };
}

}  // namespace

TEST_CASE("malformed safetensors say what is wrong", "[io]") {
  const TemporaryFolder folder;
  const fs::path path = folder / "bad.safetensors";
  for (const BadFile& bad : bad_safetensors()) {
    INFO(bad.what);
    write_bytes(path, bad.bytes);
    std::vector<std::string> needles = bad.needles.list();
    needles.push_back(path.string());
    expect_error(error_of([&] { SafetensorsFile file(path); }), ErrorKind::file, needles);
  }
}

TEST_CASE("well-formed safetensors, asked for what they do not hold", "[io]") {
  const TemporaryFolder folder;
  const fs::path path = folder / "good.safetensors";
  write_bytes(path,
              safetensors_bytes(
                  R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"mask":{"dtype":"BOOL","shape":[4],"data_offsets":[4,8]}})",
                  std::string(8, '\0')));
  const SafetensorsSource<float> source(path);
  expect_error(error_of([&] { (void)source.read("y"); }), ErrorKind::file, {path.string(), "tensor y is missing"});
  expect_error(error_of([&] { (void)source.checkpoint().read_integers("y"); }), ErrorKind::file, {"tensor y is missing"});
  expect_error(error_of([&] { (void)source.read("mask"); }), ErrorKind::file, {path.string(), "tensor mask is BOOL", "expected F64, F32"});
  expect_error(error_of([&] { (void)source.checkpoint().read_integers("x"); }), ErrorKind::file, {"tensor x is F32", "expected integers"});
  expect_error(error_of([&] { (void)SafetensorsFile(path).info("y"); }), ErrorKind::file, {path.string(), "tensor y is missing"});
  CHECK(source.shape("mask") == std::vector<Index>{4});
  CHECK_FALSE(source.stored("mask"));
  CHECK_FALSE(source.stored("y"));
}

TEST_CASE("types that cannot be read are no reason to refuse the other tensors", "[io]") {
  const TemporaryFolder folder;
  const fs::path path = folder / "new.safetensors";
  // White space in front, no metadata, and every type that the format has or may yet get.
  for (const auto& [dtype, bytes] : std::vector<std::pair<std::string, int>>{
           {"F8_E4M3", 2}, {"F8_E5M2", 2}, {"F8_E8M0", 2}, {"F4", 1}, {"C64", 16}, {"BOOL", 2}, {"U64", 16}, {"F3_NEW", 5}}) {
    INFO(dtype);
    write_bytes(path, safetensors_bytes(
                          detail::message(" \n\t{\"__metadata__\":null,\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                                          "\"odd\":{\"dtype\":\"",
                                          dtype, "\",\"shape\":[2],\"data_offsets\":[4,", 4 + bytes, "]}}"),
                          bytes_of<float>({1.5F}) + std::string(static_cast<std::size_t>(bytes), '\x11')));
    const SafetensorsSource<double> source(path);
    CHECK(source.read("a")(0, 0) == 1.5);
    CHECK(source.shape("odd") == std::vector<Index>{2});
    expect_error(error_of([&] { (void)source.read("odd"); }), ErrorKind::file, {path.string(), "tensor odd is " + dtype, "expected F64"});
  }
}

TEST_CASE("checkpoints that are not there or not whole", "[io]") {
  const TemporaryFolder folder;
  write_safetensors(folder / "one.safetensors", {{"a", std::vector<float>{1}}});
  const fs::path index = folder / "model.safetensors.index.json";
  const auto open = [&](const fs::path& path) { return error_of([&] { SafetensorsCheckpoint checkpoint(path); }); };

  expect_error(open(folder / "absent.safetensors"), ErrorKind::file, {"absent.safetensors", "cannot be opened", "No such file"});
  expect_error(open(folder.path()), ErrorKind::file, {folder.path().string(), "no model here", "model.safetensors.index.json"});
  write_bytes(folder / "pytorch_model.bin", "x");
  expect_error(open(folder.path()), ErrorKind::file, {"no model here", "convert it"});
  fs::create_directory(folder / "dir.safetensors");
  expect_error(error_of([&] { SafetensorsFile file(folder / "dir.safetensors"); }), ErrorKind::file,
               {"dir.safetensors", "not a regular file"});

  const std::vector<BadFile> bad{
      {"empty", "", {"not valid JSON"}},
      {"not an object", "[]", {"expected an object, found array"}},
      {"no map", "{}", {"weight_map"}},
      {"a map that is a list", R"({"weight_map":[]})", {"weight_map"}},
      {"a shard that is a number", R"({"weight_map":{"a":1}})", {"tensor a", "its shard is 1"}},
      {"a shard above", R"({"weight_map":{"a":"../one.safetensors"}})", {"tensor a", "../one.safetensors", "plain file name"}},
      {"a shard from the root", R"({"weight_map":{"a":"/etc/passwd"}})", {"tensor a", "/etc/passwd", "plain file name"}},
      {"a shard below", R"({"weight_map":{"a":"sub/one.safetensors"}})", {"plain file name"}},
      {"a shard of another drive", R"({"weight_map":{"a":"C:one"}})", {"plain file name"}},
      {"a shard with a backslash", R"({"weight_map":{"a":"..\\one"}})", {"plain file name"}},
      {"a shard with a hidden end", R"({"weight_map":{"a":"one.safetensors\u0000x"}})", {"one.safetensors\\x00x", "plain file name"}},
      {"a shard of no name", R"({"weight_map":{"a":""}})", {"plain file name"}},
      {"a shard that is the folder", R"({"weight_map":{"a":".."}})", {"plain file name"}},
      {"a shard that is not there", R"({"weight_map":{"a":"two.safetensors"}})", {"two.safetensors", "cannot be opened"}},
      {"a shard of a name with control characters",
       R"({"weight_map":{"a":"two\u001b[31m\u007f.safetensors"}})",
       {"two\\x1B[31m\\x7F.safetensors: cannot be opened"}},
      {"a tensor that is not there",
       R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors"}})",
       {"tensor b", "in one.safetensors", "not there"}},
      {"a tensor twice", R"({"weight_map":{"a":"one.safetensors","a":"one.safetensors"}})", {"key \"a\" appears twice"}},
  };
  for (const BadFile& file : bad) {
    INFO(file.what);
    write_bytes(index, file.bytes);
    std::vector<std::string> needles = file.needles.list();
    if (file.needles.list().back().find("cannot be opened") == std::string::npos) needles.push_back(index.string());
    expect_error(open(folder.path()), ErrorKind::file, needles);
  }
}

TEST_CASE("malformed config.json", "[io]") {
  const TemporaryFolder folder;
  const fs::path path = folder / "config.json";
  expect_error(error_of([&] { (void)read_configuration(folder.path()); }), ErrorKind::file, {path.string(), "cannot be opened"});
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  const std::vector<BadFile> bad{
      {"empty", "", {"is empty"}},
      {"not JSON", "{d_model: 1}", {"not valid JSON at byte 2"}},
      {"a list", "[1]", {"expected an object, found array"}},
      {"a number", "7", {"expected an object, found number"}},
      {"cut short", "{\"a\":", {"not valid JSON"}},
      {"a key twice", R"({"a":1,"a":2})", {"key \"a\" appears twice"}},
      {"a key twice once flattened", R"({"a.b":1,"a":{"b":2}})", {"key a.b appears twice"}},
      {"without bottom", deep, {"nested deeper than the 32 levels"}},
      {"not UTF-8", "{\"a\":\"\xFF\"}", {"not valid UTF-8 at byte 6"}},
      {"an integer beyond reason",
       R"({"a":18446744073709551615})",
       {"key a", "18446744073709551615, expected an integer of at most 9223372036854775807"}},
      {"a number beyond reason", R"({"a":1e999})", {"not valid JSON", "1e999"}},
      {"more behind a zero byte", std::string("{\"a\":1}\0{\"b\":2}", 15), {"not valid JSON at byte 8: a zero byte"}},
  };
  for (const BadFile& file : bad) {
    INFO(file.what);
    write_bytes(path, file.bytes);
    std::vector<std::string> needles = file.needles.list();
    needles.push_back(path.string());
    expect_error(error_of([&] { (void)read_configuration(folder.path()); }), ErrorKind::file, needles);
  }
}

TEST_CASE("malformed vocab.json, and text that cannot become tokens", "[io]") {
  const TemporaryFolder folder;
  const fs::path path = folder / "vocab.json";
  const auto open = [&] { return Tokenizer::open(folder.path(), 10); };
  const std::vector<BadFile> bad{
      {"empty", "", {"not valid JSON"}},
      {"no tokens", "{}", {"holds no tokens"}},
      {"a list", "[\"a\"]", {"expected an object"}},
      {"nested", R"({"a":{"b":1}})", {"nested deeper than the 1 levels"}},
      {"an id twice", R"({"a":1,"b":1})", {"token \"b\"", "id 1 is that of \"a\" too"}},
      {"a token twice", R"({"a":1,"a":2})", {"key \"a\" appears twice"}},
      {"a negative id", R"({"a":-1})", {"token \"a\"", "its id is -1", "an integer from 0"}},
      {"a broken id", R"({"a":1.5})", {"token \"a\"", "its id is 1.5"}},
      {"an id in words", R"({"a":"1"})", {"token \"a\"", "its id is \"1\""}},
      {"an id of nothing", R"({"a":null})", {"its id is null"}},
      {"an id beyond the vocabulary", R"({"a":10})", {"token \"a\"", "id 10 is beyond the model's vocabulary of 10", "0 to 9"}},
      {"an id beyond 64 bits", R"({"a":99999999999999999999})", {"token \"a\"", "its id is"}},
      {"a token of nothing", R"({"":1})", {"must not be empty"}},
      {"not UTF-8", "{\"\xFF\":1}", {"not valid UTF-8"}},
  };
  for (const BadFile& file : bad) {
    INFO(file.what);
    write_bytes(path, file.bytes);
    std::vector<std::string> needles = file.needles.list();
    needles.push_back(path.string());
    expect_error(error_of([&] { (void)open(); }), ErrorKind::file, needles);
  }

  write_bytes(path, R"({"good":0,"film":1,"<cls>":2})");
  expect_error(error_of([&] { (void)open().encode("good fun"); }), ErrorKind::value, {folder.path().string(), "word \"fun\"", "no <unk>"});
  expect_error(error_of([&] { (void)open().encode(""); }), ErrorKind::value, {"text is empty"});
  expect_error(error_of([&] { (void)open().encode(" \n\t"); }), ErrorKind::value, {"text is empty"});
  expect_error(error_of([&] { (void)open().encode("good \xFF"); }), ErrorKind::value, {"not valid UTF-8 at byte 5"});
  expect_error(error_of([&] { (void)open().id("<sep>"); }), ErrorKind::value, {"token \"<sep>\"", "not in vocab.json", "<cls>"});
  expect_error(error_of([&] { open().check({0, 10}); }), ErrorKind::value, {"token 1 is 10", "expected 0 to 9"});
  expect_error(error_of([&] { open().check({-1}); }), ErrorKind::value, {"token 0 is -1"});
  expect_error(error_of([&] { open().check({}); }), ErrorKind::value, {"no tokens"});
  write_bytes(folder / "merges.txt", "a b");
  expect_error(error_of([&] { (void)open().encode("good"); }), ErrorKind::value, {"merges.txt", "token ids"});
  CHECK(Tokenizer::open(folder.path(), 10, TokenizerKind::words).encode("good") == std::vector<Index>{0});
  fs::remove(folder / "merges.txt");
  write_bytes(path, R"({"a":0,"b":1})");
  expect_error(error_of([&] { (void)open().encode("ab\xC3\xA9"); }), ErrorKind::value, {"symbol \"\xC3\xA9\"", "no <unk>"});

  fs::remove(path);
  expect_error(error_of([&] { (void)open().encode("good"); }), ErrorKind::value,
               {folder.path().string(), "no vocab.json", "vocabulary is 10"});
  expect_error(error_of([&] { (void)open().id("<cls>"); }), ErrorKind::value, {"<cls>", "no vocab.json"});
  expect_error(error_of([&] { (void)Tokenizer::open(folder.path(), 10, TokenizerKind::words); }), ErrorKind::file,
               {"no vocab.json", "expected bytes"});
  expect_error(error_of([&] { (void)Tokenizer::open(folder.path(), 10, TokenizerKind::bytes).encode("a"); }), ErrorKind::value,
               {"byte 97", "vocabulary of 10"});
  expect_error(error_of([&] { (void)Tokenizer::open(folder.path(), 256).encode(""); }), ErrorKind::value, {"text is empty"});
  expect_error(error_of([&] { (void)Tokenizer::open(folder.path(), 256).id("<cls>"); }), ErrorKind::value, {"<cls>", "single byte"});
  expect_error(error_of([] { (void)tokenizer_kind("letters"); }), ErrorKind::value, {"letters", "bytes, symbols or words"});
}

TEST_CASE("writing what cannot be written", "[io]") {
  const TemporaryFolder folder;
  const fs::path path = folder / "out.safetensors", npy = folder / "out.npy";
  const float one = 1;
  const auto write = [&](const std::vector<TensorToWrite>& tensors) { return error_of([&] { write_safetensors(path, tensors); }); };
  expect_error(write({{"a", {&one, {1}}}, {"a", {&one, {1}}}}), ErrorKind::value, {path.string(), "tensor a", "appears twice"});
  expect_error(write({{"__metadata__", {&one, {1}}}}), ErrorKind::value, {"__metadata__", "reserved"});
  expect_error(write({{"\xFF", {&one, {1}}}}), ErrorKind::value, {path.string(), "\\xFF", "not valid UTF-8"});
  expect_error(write({{"a", {&one, {-1, 2}}}}), ErrorKind::shape, {"tensor a", "(-1, 2)", "negative"});
  expect_error(write({{"a", {&one, {std::numeric_limits<Index>::max(), 2}}}}), ErrorKind::shape, {"tensor a", "overflows"});
  expect_error(write({{"a", {std::vector<float>{1, 2}, std::vector<Index>{3}}}}), ErrorKind::shape,
               {"tensor a", "(3) is 3 numbers", "but there are 2"});
  expect_error(write({{"a", {static_cast<const float*>(nullptr), {3}}}}), ErrorKind::value, {"tensor a", "no numbers"});
  expect_error(error_of([&] { write_safetensors(path, {}, {{"k", "\xFF"}}); }), ErrorKind::value, {path.string(), "not valid UTF-8"});
  expect_error(error_of([&] {
                 write_safetensors(path, {}, {{"k", std::string(100'000'000, 'x')}});
               }),
               ErrorKind::limit, {path.string(), "the header would be 100000032 bytes", "the format allows 100000000"});
  expect_error(error_of([&] { write_safetensors(folder / "no" / "out.safetensors", {}); }), ErrorKind::file,
               {"out.safetensors", "cannot be written", "No such file"});
  expect_error(error_of([&] { write_npy(folder.path(), {&one, {1}}); }), ErrorKind::file, {folder.path().string(), "is a directory"});
  expect_error(error_of([&] { write_npy("", {&one, {1}}); }), ErrorKind::file, {"not a file name"});
  expect_error(error_of([&] { write_npy(npy, {&one, {-1}}); }), ErrorKind::shape, {npy.string(), "negative"});
  expect_error(error_of([&] {
                 write_npy(npy, {&one, std::vector<Index>(30'000, 1)});
               }),
               ErrorKind::limit, {npy.string(), "30000 axes take a header of ", " bytes, and that of a .npy file has at most 65535"});
  CHECK(folder.entries() == 0);
}

TEST_CASE("UTF-8: surrogates, overlong forms and what is beyond Unicode are no characters", "[io]") {
  using namespace std::string_literals;
  for (const std::string& bad : {"\xED\xA0\x80"s, "\xED\xBF\xBF"s, "\xE0\x9F\xBF"s, "\xF0\x8F\xBF\xBF"s, "\xF4\x90\x80\x80"s,
                                 "\xF5\x80\x80\x80"s, "\xC1\xBF"s, "\x80"s, "\xE2\x82"s}) {
    INFO(printable(bad));
    CHECK(utf8_error("a" + bad) == 1);
  }
  for (const std::string& good : {"\xED\x9F\xBF"s, "\xEE\x80\x80"s, "\xE0\xA0\x80"s, "\xF0\x90\x80\x80"s, "\xF4\x8F\xBF\xBF"s, "\xC2\x80"s})
    CHECK(utf8_error(good) == std::string_view::npos);
  CHECK(printable("a\xC2\x85z") == "a\\xC2\\x85z");  // a control character of two bytes
  CHECK(printable("a\xC2\xA0z") == "a\xC2\xA0z");
}
