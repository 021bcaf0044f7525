// .npy files byte for byte, and config.json as the models ask for it.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/npy.hpp>
#include <implicit_attention/io/npy_reader.hpp>

#include "files.hpp"

using namespace implicit_attention;
using namespace io_test;

namespace {
// A .npy file taken apart by the format's own description: magic, version 1.0, little-endian length, padded dictionary.
struct Npy {
  std::string dictionary, data;
};
Npy take_apart(const fs::path& path) {
  const std::string bytes = read_bytes(path);
  REQUIRE(bytes.size() >= 10);
  REQUIRE(bytes.substr(0, 8) == std::string("\x93NUMPY\x01\x00", 8));
  const std::size_t length = static_cast<unsigned char>(bytes[8]) + 256U * static_cast<unsigned char>(bytes[9]);
  REQUIRE((10 + length) % 64 == 0);
  REQUIRE(bytes[10 + length - 1] == '\n');
  const std::string header = bytes.substr(10, length);
  return {header.substr(0, header.find('}') + 1), bytes.substr(10 + length)};
}
}  // namespace

TEST_CASE("npy: header and numbers", "[io]") {
  const TemporaryFolder folder;
  Matrix<float> matrix(2, 3);
  matrix << 1, 2, 3, 4, 5, 6;
  write_npy(folder / "a.npy", matrix);
  CHECK(take_apart(folder / "a.npy").dictionary == "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
  CHECK(take_apart(folder / "a.npy").data == bytes_of<float>({1, 2, 3, 4, 5, 6}));
  write_npy(folder / "a.npy", matrix.leftCols(2));  // another file in its place, from rows that are apart
  CHECK(take_apart(folder / "a.npy").data == bytes_of<float>({1, 2, 4, 5}));
  RowVector<double> row(2);
  row << 0.5, -1;
  write_npy(folder / "b.npy", row);
  CHECK(take_apart(folder / "b.npy").dictionary == "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }");
  CHECK(take_apart(folder / "b.npy").data == bytes_of<double>({0.5, -1}));
  write_npy(folder / "c.npy", {std::vector<std::int64_t>{7, 8}, std::vector<Index>{1, 2, 1}});
  CHECK(take_apart(folder / "c.npy").dictionary == "{'descr': '<i8', 'fortran_order': False, 'shape': (1, 2, 1), }");
  CHECK(take_apart(folder / "c.npy").data == bytes_of<std::int64_t>({7, 8}));
  write_npy(folder / "d.npy", {row.data(), {}});
  CHECK(take_apart(folder / "d.npy").dictionary == "{'descr': '<f8', 'fortran_order': False, 'shape': (), }");
  write_npy(folder / "e.npy", {std::vector<float>{}, std::vector<Index>{0, 4}});
  CHECK(take_apart(folder / "e.npy").data.empty());
  CHECK(folder.entries() == 5);
}

TEST_CASE("npy: integers are read", "[io]") {
  using Ids = std::vector<Index>;
  const TemporaryFolder folder;
  write_npy(folder / "a.npy", std::vector<std::int64_t>{7, -8, 1});
  CHECK(parse_npy_integers(read_bytes(folder / "a.npy"), "a.npy") == Ids{7, -8, 1});
  const auto file = [](const std::string& type, const std::string& shape, const std::string& data, char version = 1) {
    const std::string header = "{'descr': '" + type + "', 'fortran_order': False, 'shape': " + shape + ", }\n";
    std::string bytes = std::string("\x93NUMPY") + version + '\0' + static_cast<char>(header.size()) + '\0';
    if (version > 1) bytes += std::string(2, '\0');
    return bytes + header + data;
  };
  const auto read = [&](const std::string& bytes) { return parse_npy_integers(bytes, "a.npy"); };
  CHECK(read(file("|u1", "(2,)", "\xFF\x01")) == Ids{255, 1});
  CHECK(read(file("|i1", "(2,)", "\xFF\x01")) == Ids{-1, 1});
  CHECK(read(file("<u2", "(1, 2)", bytes_of<std::uint16_t>({65535, 3}))) == Ids{65535, 3});
  CHECK(read(file("<i2", "(1,)", bytes_of<std::int16_t>({-2}))) == Ids{-2});
  CHECK(read(file("<u4", "(1,)", bytes_of<std::uint32_t>({4000000000U}), 2)) == Ids{4000000000});
  CHECK(read(file("<i4", "(1,)", bytes_of<std::int32_t>({50000}), 3)) == Ids{50000});
  CHECK(read(file("<i8", "(0,)", "")).empty());
  struct Bad {
    std::string bytes, words;
  };
  for (const Bad& bad : std::vector<Bad>{
           {file("<f4", "(1,)", bytes_of<float>({1})), "elements are '<f4', expected integers"},
           {file(">i4", "(1,)", "abcd"), "elements are '>i4'"},
           {file("<i4", "(2,)", "abcd"), "2 elements of 4 bytes are expected, and the file holds 4 bytes"},
           {file("<i4", "(1,)", "abcde"), "the file holds 5 bytes"},
           {file("<i8", "(4611686018427387904,)", "abcdefgh"), "4611686018427387904 elements"},
           {file("<i8", "(99999999999999999999,)", "abcdefgh"), "has a size above 18446744073709551615"},
           {file("<u8", "(2,)", std::string("\7\0\0\0\0\0\0\0\5\0\0\0\0\0\0\x80", 16)), "element 1 is more than 9223372036854775807"},
           {file("<i4", "(2, 1)", "abcdefgh"), "the shape is (2, 1), expected (tokens,) or (1, tokens)"},
           {file("<i4", "()", "abcd"), "the shape is ()"},
           {file("<i4", "(1,)", "abcd", 4), "version 4 is not read here"},
           {file("<i4", "(1,)", "abcd", 0), "version 0 is not read here"},
           {file("<i4", "(1,)", "").substr(0, 40), "the header is cut short"},
           {std::string("\x93NUMPY\x01"), "the header is cut short"},
           {std::string("\x93NUMPY\x01\0\x02\0{}", 12), "elements are of no type"}}) {
    INFO(bad.words);
    const auto error = error_of([&] { (void)read(bad.bytes); });
    REQUIRE(error);
    CHECK(error->kind == ErrorKind::file);
    CHECK_THAT(error->message, contains_text(bad.words));
  }
  // Any byte changed: an error or numbers, never more of them than there are bytes.
  const std::string good = file("<i4", "(2,)", "abcdefgh");
  for (std::size_t at = 0; at < good.size(); ++at)
    for (int value = 0; value < 256; ++value) {
      std::string changed = good;
      changed[at] = static_cast<char>(value);
      try {
        const Ids numbers = read(changed);
        CHECK(numbers.size() <= changed.size());
      } catch (const Error&) {
      }
    }
}

TEST_CASE("npy: sizes beyond 32 bits are counted", "[io]") {
  const Index many = Index{3} << 31;
  const float one = 1;
  CHECK(ArrayToWrite(&one, {3, Index{1} << 31}).checked_bytes("x") == static_cast<std::size_t>(many) * 4);
  CHECK(ArrayToWrite(ConstView<double>(nullptr, 0, many)).checked_bytes("x") == 0);
}

TEST_CASE("writers leave what stood there when they fail, and nothing of their own", "[io]") {
  const TemporaryFolder folder;
  write_bytes(folder / "a.npy", "before");
  const float one = 1;
  CHECK(error_of([&] { write_npy(folder / "a.npy", {&one, {-1}}); }));
  CHECK(error_of([&] { write_npy(folder / "a.npy", {static_cast<const float*>(nullptr), {3}}); }));
  CHECK(read_bytes(folder / "a.npy") == "before");
  {
    ReplacedFile file(folder / "a.npy");
    file.write("half", 4);
  }  // never committed
  CHECK(read_bytes(folder / "a.npy") == "before");
  CHECK(folder.entries() == 1);
  if (fs::exists("/dev/full")) {  // a device that is always full
    fs::create_symlink("/dev/full", folder / "full.npy");
    CHECK(error_of([&] { write_npy(folder / "full.npy", {&one, {1}}); }));
    CHECK(fs::is_symlink(folder / "full.npy"));
  }
  SECTION("permissions stay what they were") {
    fs::permissions(folder / "a.npy", fs::perms::owner_read | fs::perms::owner_write);
    write_npy(folder / "a.npy", {&one, {1}});
    CHECK(fs::status(folder / "a.npy").permissions() == (fs::perms::owner_read | fs::perms::owner_write));
    ReplacedFile file(folder / "a.npy");  // half written, it is nobody else's either
    file.write("half", 4);
    int partial = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder / "."))
      if (entry.path().filename().string().find(".partial-") != std::string::npos) {
        CHECK(entry.status().permissions() == (fs::perms::owner_read | fs::perms::owner_write));
        ++partial;
      }
    CHECK(partial == 1);
    const auto changed = static_cast<fs::perms>(0666);  // while it is written, and to more than most systems give a new file
    fs::permissions(folder / "a.npy", changed);
    file.commit();
    CHECK(fs::status(folder / "a.npy").permissions() == changed);
  }
  SECTION("what is half written can be removed by a signal handler, several at once, and nothing that is whole") {
    const std::size_t before = folder.entries();
    ReplacedFile first(folder / "a.npy"), second(folder / "b.npy");
    first.write("half", 4);
    CHECK(folder.entries() == before + 2);
    remove_partial_files();
    CHECK(folder.entries() == before);
    CHECK(read_bytes(folder / "a.npy") == "before");
  }
  SECTION("a link stays a link, to the new file") {
    fs::create_symlink(folder / "a.npy", folder / "link.npy");
    write_npy(folder / "link.npy", {&one, {1}});
    CHECK(fs::is_symlink(folder / "link.npy"));
    CHECK(take_apart(folder / "a.npy").data == bytes_of<float>({1}));
  }
  SECTION("a link to nothing leads to the new file, over further links and other folders") {
    fs::create_directory(folder / "below");
    fs::create_symlink("new.npy", folder / "link.npy");
    fs::create_symlink(fs::path("..") / "link.npy", folder / "below" / "far.npy");
    const std::size_t before = folder.entries();
    write_npy(folder / "below" / "far.npy", {&one, {1}});
    CHECK(fs::is_symlink(folder / "below" / "far.npy"));
    CHECK(fs::is_symlink(folder / "link.npy"));
    CHECK(fs::is_regular_file(fs::symlink_status(folder / "new.npy")));
    CHECK(take_apart(folder / "new.npy").data == bytes_of<float>({1}));
    CHECK(folder.entries() == before + 1);
  }
  SECTION("links that lead in a circle are refused") {
    fs::create_symlink("two.npy", folder / "one.npy");
    fs::create_symlink("one.npy", folder / "two.npy");
    CHECK(error_of([&] { write_npy(folder / "one.npy", {&one, {1}}); }));
    CHECK(fs::is_symlink(folder / "one.npy"));
  }
}

TEST_CASE("config: keys, nesting, lists, nulls", "[io]") {
  const TemporaryFolder folder;
  write_bytes(folder / "config.json",
              R"({"d_model": 128, "eps": 1e-5, "cap": 30.0, "tied": true, "name": "mamba \u00e9 Infinity", "absent": null,
    "ssm_cfg": {"d_state": 8, "deep": {"layer": "Mamba1"}}, "_block_types": ["recurrent", "attention"], "none": [], "mixed": [1, "a"],
    "limits": [0.0, Infinity], "tagged": [0.5, {"__float__": "Infinity"}], "tag": {"__float__": "-Infinity"},
    "other": {"__float__": "one"}, "low": -Infinity, "odd": NaN, "negative": -3, "backslash": "\\\"NaN", "empty": {}})");
  for (const fs::path& path : {folder.path(), folder / "config.json"}) {
    const Configuration configuration = read_configuration(path);
    CHECK(configuration.where() == (folder / "config.json").string());
    CHECK(configuration.integer({"hidden_size", "d_model"}) == 128);
    CHECK(configuration.number({"eps"}) == 1e-5);
    CHECK(configuration.number({"d_model"}) == 128.0);
    CHECK(configuration.number({"cap"}) == 30.0);
    CHECK(configuration.boolean({"tied"}) == true);
    CHECK(configuration.text({"name"}) == "mamba \xC3\xA9 Infinity");
    CHECK(configuration.text({"backslash"}) == "\\\"NaN");
    CHECK(configuration.integer({"ssm_cfg.d_state"}) == 8);
    CHECK(configuration.text({"ssm_cfg.deep.layer"}) == "Mamba1");
    CHECK(configuration.texts({"_block_types"}) == std::vector<std::string>{"recurrent", "attention"});
    CHECK(configuration.texts({"none"}) == std::vector<std::string>{});
    CHECK(configuration.numbers({"limits"}) == std::vector<double>{0.0, std::numeric_limits<double>::infinity()});
    CHECK(configuration.numbers({"tagged"}) ==
          std::vector<double>{0.5, std::numeric_limits<double>::infinity()});  // as transformers writes it
    CHECK(configuration.text({"other.__float__"}) == "one");
    CHECK(configuration.integer({"negative"}) == -3);
    for (const char* key : {"absent", "mixed", "empty", "ssm_cfg"}) {
      INFO(key);
      CHECK_FALSE(configuration.has(key));
    }
    const std::string where = (folder / "config.json").string();
    for (const auto& [key, name] : {std::pair("low", "-Infinity"), std::pair("odd", "NaN"), std::pair("tag", "-Infinity")}) {
      const auto error = error_of([&, name = key] { (void)configuration.number({"nothing", name}); });
      REQUIRE(error);
      CHECK(error->message == where + ": key " + key + " is " + name + ", expected a finite number");
    }
    const auto negative = error_of([&] { (void)configuration.positive_number({"negative"}); });
    REQUIRE(negative);
    CHECK(negative->message == where + ": key negative is -3, expected a number above 0");
    CHECK(configuration.positive_number({"eps"}) == 1e-5);
    CHECK_FALSE(configuration.positive_number({"absent"}));
  }
}

TEST_CASE("config: an object or a mixed list in the place of a number is no absent key", "[io]") {
  const TemporaryFolder folder;
  write_bytes(folder / "config.json",
              R"({"width": {"a": 1}, "empty": {}, "mixed": [1, "a"], "nested": [[1]], "objects": [{"a": 1}], "holes": [null], "deep":
    {"mixed": [true], "width": 5}, "flags": [true, false], "top": 3, "text_config": {"top": {}, "width": 4}})");
  const Configuration configuration = read_configuration(folder.path());
  const std::string where = (folder / "config.json").string();
  const auto said = [&](const auto& ask) {
    const auto error = error_of([&] { ask(); });
    return error ? error->message : std::string("nothing");
  };
  CHECK(said([&] { (void)configuration.integer({"other", "width"}); }) == where + ": key width is an object, expected an integer");
  CHECK(said([&] { (void)configuration.number({"empty"}); }) == where + ": key empty is an object, expected a number");
  CHECK(said([&] { (void)configuration.texts({"mixed"}); }) ==
        where + ": key mixed is a list that holds neither numbers nor texts alone, expected a list of strings");
  CHECK(said([&] { (void)configuration.find("deep.mixed"); }) ==
        where + ": key deep.mixed is a list that holds neither numbers nor texts alone, expected a number, a string or a list of either");
  for (const char* key : {"mixed", "nested", "objects", "holes", "flags"}) {
    INFO(key);
    CHECK_THAT(said([&] { (void)configuration.numbers({key}); }),
               contains_text(detail::message("key ", key, " is a list that holds neither numbers nor texts alone")));
  }
  // What is below an object overrides what is on top, whatever either is.
  CHECK(configuration.below("text_config").integer({"width"}) == 4);
  CHECK_THAT(said([&] { (void)configuration.below("text_config").integer({"top"}); }), contains_text("key top is an object"));
  // A list that nothing asks for may change the model; the keys of an object speak for themselves.
  const std::vector<std::string> keys = configuration.keys();
  CHECK(std::count(keys.begin(), keys.end(), "mixed") == 1);
  CHECK(std::count(keys.begin(), keys.end(), "width") == 0);
  CHECK(std::count(keys.begin(), keys.end(), "width.a") == 1);
}

TEST_CASE("config: several spellings of a key must agree, whatever their type is", "[io]") {
  Configuration configuration;
  configuration.set("first", 1.0);
  configuration.set("second", Index(1));
  configuration.set("odd", std::numeric_limits<double>::quiet_NaN());
  CHECK(configuration.number({"none", "first", "second"}) == 1.0);
  CHECK(configuration.positive_number({"second", "none", "first"}) == 1.0);
  for (const char* key : {"first", "second", "none"}) CHECK(configuration.asked(key));  // a file may have several spellings
  CHECK(error_of([&] { (void)configuration.number({"first", "odd"}); }));
  CHECK_FALSE(configuration.number({"none", "nothing"}));
  const auto said = [&](const auto& ask) {
    const auto error = error_of([&] { ask(); });
    if (error) CHECK(error->kind == ErrorKind::value);
    return error ? error->message : std::string("nothing");
  };
  const auto differ = [](const std::string& later, const std::string& came, const std::string& expected) {
    return detail::message("configuration: key ", later, " is ", came, ", expected ", expected,
                           ": key first says so, and both are about the same thing");
  };
  configuration.set("third", 0.25);
  CHECK(said([&] { (void)configuration.number({"first", "second", "third"}); }) == differ("third", "0.25", "1"));
  CHECK(said([&] { (void)configuration.positive_number({"first", "third"}); }) == differ("third", "0.25", "1"));
  const auto both = [&](Configuration::Value first, Configuration::Value second) {
    configuration.set("first", std::move(first));
    configuration.set("second", std::move(second));
  };
  both(Index(3), Index(4));
  CHECK(said([&] { (void)configuration.integer({"first", "second"}); }) == differ("second", "4", "3"));
  CHECK(said([&] { (void)configuration.integer({"first", "third"}); }) == "configuration: key third is 0.25, expected an integer");
  configuration.set("third", 2.0);
  CHECK(said([&] { (void)configuration.integer({"third"}); }) == "configuration: key third is 2.0, expected an integer");
  CHECK(said([&] { (void)configuration.boolean({"third"}); }) == "configuration: key third is 2.0, expected true or false");
  configuration.set("third", std::string("2"));
  CHECK(said([&] { (void)configuration.number({"third"}); }) == "configuration: key third is \"2\", expected a number");
  CHECK(said([&] { (void)configuration.texts({"third"}); }) == "configuration: key third is \"2\", expected a list of strings");
  configuration.set("third", std::vector<double>{1, 2.5});
  CHECK(said([&] { (void)configuration.integer({"third"}); }) == "configuration: key third is [1, 2.5], expected an integer");
  both(true, false);
  CHECK(said([&] { (void)configuration.boolean({"first", "second"}); }) == differ("second", "false", "true"));
  both(std::string("silu"), std::string("ge\x1Blu"));
  CHECK(said([&] { (void)configuration.text({"first", "second"}); }) == differ("second", "ge\\x1Blu", "silu"));
  both(std::vector<std::string>{"a", "b"}, std::vector<std::string>{"a"});
  CHECK(said([&] { (void)configuration.texts({"first", "second"}); }) == differ("second", "[a]", "[a, b]"));
  both(std::vector<double>{1, 2}, std::vector<std::string>{});
  CHECK(said([&] { (void)configuration.numbers({"first", "second"}); }) == differ("second", "[]", "[1, 2]"));
  CHECK(said([&] { (void)configuration.finite_numbers({"first", "second"}); }) == differ("second", "[]", "[1, 2]"));
  both(std::vector<double>(9, 1.0), std::vector<double>(9, 1.0));
  CHECK(configuration.finite_numbers({"first", "second"})->size() == 9);
  configuration.set("list", std::vector<double>{1, std::numeric_limits<double>::infinity()});
  CHECK(configuration.numbers({"list"})->size() == 2);
  const auto error = error_of([&] { (void)configuration.finite_numbers({"list"}); });
  REQUIRE(error);
  CHECK(error->message == "configuration: key list holds Infinity, expected finite numbers");
}

TEST_CASE("config: a key appears twice once flattened, whatever its values are", "[io]") {
  const TemporaryFolder folder;
  for (const std::string text : {R"({"a":{"b":1},"a.b":3})", R"({"a":{"b":[1,"x"]},"a.b":3})", R"({"a":{"b":{}},"a.b":3})",
                                 R"({"a":{"b":3},"a.b":[[1]]})", R"({"a":{"b":3},"a.b":{}})", R"({"a":{"b":{"c":1}},"a.b":{"d":1}})"}) {
    INFO(text);
    write_bytes(folder / "config.json", text);
    const auto error = error_of([&] { (void)read_configuration(folder.path()); });
    REQUIRE(error);
    CHECK(error->kind == ErrorKind::file);
    CHECK_THAT(error->message, contains_text("key a.b appears twice"));
  }
  write_bytes(folder / "config.json", R"({"a":{"b":null},"a.b":3})");
  CHECK(read_configuration(folder.path()).integer({"a.b"}) == 3);
  Configuration made;
  made.set_object("object");
  made.set_mixed_list("list");
  made.set("number", Index(1));
  for (const char* key : {"object", "list", "number"}) CHECK(made.holds(key));
  CHECK_FALSE(made.holds("none"));
  CHECK_FALSE(made.asked("object"));
}

TEST_CASE("config: real ones", "[io]") {
  const auto folder = test_support::shared_data("realdata");
  if (!folder) {
    WARN(test_support::shared_data_missing("realdata"));
    return;
  }
  CHECK(read_configuration(*folder / "protmamba").integer({"hidden_size", "d_model"}) == 128);
  CHECK(read_configuration(*folder / "rwkv4-tiny").number({"layer_norm_epsilon"}) == 1e-5);
  CHECK(read_configuration(*folder / "griffin-shakespeare").texts({"block_types", "_block_types"})->size() == 3);
}
