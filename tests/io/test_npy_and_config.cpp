// .npy files byte for byte, and config.json as the models ask for it.
#include <cstdint>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/npy.hpp>

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
  SECTION("a link stays a link, to the new file") {
    fs::create_symlink(folder / "a.npy", folder / "link.npy");
    write_npy(folder / "link.npy", {&one, {1}});
    CHECK(fs::is_symlink(folder / "link.npy"));
    CHECK(take_apart(folder / "a.npy").data == bytes_of<float>({1}));
  }
}

TEST_CASE("config: keys, nesting, lists, nulls", "[io]") {
  const TemporaryFolder folder;
  write_bytes(folder / "config.json",
              R"({"d_model": 128, "eps": 1e-5, "cap": 30.0, "tied": true, "name": "mamba \u00e9 Infinity", "absent": null,
    "ssm_cfg": {"d_state": 8, "deep": {"layer": "Mamba1"}}, "_block_types": ["recurrent", "attention"], "none": [], "mixed": [1, "a"],
    "limits": [0.0, Infinity], "low": -Infinity, "odd": NaN, "negative": -3, "backslash": "\\\"NaN", "empty": {}})");
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
    CHECK(configuration.integer({"negative"}) == -3);
    for (const char* key : {"absent", "mixed", "limits", "low", "odd", "empty", "ssm_cfg"}) {
      INFO(key);
      CHECK_FALSE(configuration.has(key));
    }
  }
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
