// Reading and writing safetensors that are as they should be, and every truncation and many corruptions of one.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include <support/catch.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>

#include "files.hpp"

using namespace implicit_attention;
using namespace io_test;

namespace {

// Reads everything a file offers in every way there is, as a program would that trusts the library's checks.
template <class Scalar>
double read_all(const fs::path& path) {
  const SafetensorsSource<Scalar> source(path);
  double sum = 0;
  for (const std::string& name : source.names()) {
    const TensorInfo& info = *source.checkpoint().find(name);
    if (!detail::readable(info.dtype)) continue;
    const Array<Scalar> numbers = source.read(name);
    for (Index i = 0; i < numbers.rows(); ++i)
      for (Index j = 0; j < numbers.cols(); ++j) sum += static_cast<double>(numbers(i, j));
    if (info.dtype == Dtype::I64 || info.dtype == Dtype::I32)
      for (const std::int64_t number : source.checkpoint().read_integers(name)) sum += static_cast<double>(number);
  }
  return sum;
}

std::string small_file() {
  return safetensors_bytes(
      R"({"__metadata__":{"format":"pt"},"weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("ids":{"dtype":"I32","shape":[2],"data_offsets":[24,32]},"h":{"dtype":"F16","shape":[1],"data_offsets":[32,34]}})",
      bytes_of<float>({1, 2, 3, 4, 5, 6}) + bytes_of<std::int32_t>({7, -8}) + bytes_of<std::uint16_t>({0x3C00}));
}

}  // namespace

TEMPLATE_TEST_CASE("safetensors: what is written is read back, exactly", "[io]", float, double) {
  using Scalar = TestType;
  const TemporaryFolder folder;
  Matrix<Scalar> matrix(3, 4);
  for (Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<Scalar>(i) / Scalar(3);
  RowVector<Scalar> row(5);
  row << 1, -2, std::numeric_limits<Scalar>::denorm_min(), std::numeric_limits<Scalar>::max(), -std::numeric_limits<Scalar>::infinity();
  const std::vector<std::int64_t> ids{3, -1, std::numeric_limits<std::int64_t>::max()};
  const Scalar one = 42;
  const ConstView<Scalar> columns(matrix.data() + 1, 3, 2, 4);  // columns 1 and 2: rows that are not next to each other

  write_safetensors(folder / "a.safetensors",
                    {{"matrix", matrix},
                     {"cube", {matrix.data(), {2, 3, 2}}},
                     {"row", row},
                     {"part", columns},
                     {"scalar", {&one, {}}},
                     {"none", {&one, {0, 7}}},
                     {"ids", ids},
                     {"na\xC3\xAFve \"quoted\"\n", {std::vector<Scalar>{1, 2}, std::vector<Index>{1, 2}}}},
                    {{"case", "a \"text\"\n"}, {"b", ""}});
  CHECK(folder.entries() == 1);

  const SafetensorsSource<Scalar> source(folder / "a.safetensors");
  CHECK(source.names() == std::vector<std::string>{"cube", "ids", "matrix", "na\xC3\xAFve \"quoted\"\n", "none", "part", "row", "scalar"});
  CHECK(source.shape("cube") == std::vector<Index>{2, 3, 2});
  CHECK(source.shape("scalar") == std::vector<Index>{});
  CHECK(source.shape("absent") == std::nullopt);
  CHECK(*source.read("matrix") == matrix);
  CHECK(*source.read("row") == row);
  const Array<Scalar> cube = source.read("cube");
  CHECK((cube.rows() == 6 && cube.cols() == 2));
  CHECK(std::equal(cube.data(), cube.data() + 12, matrix.data()));
  CHECK(*source.read("part") == matrix.middleCols(1, 2));
  CHECK(source.read("scalar")(0, 0) == one);
  CHECK((source.read("none").rows() == 0 && source.read("none").cols() == 7));
  CHECK(source.read("na\xC3\xAFve \"quoted\"\n")(0, 1) == 2);
  CHECK(source.checkpoint().read_integers("ids") == ids);
  CHECK(source.checkpoint().files()[0].metadata().at("case") == "a \"text\"\n");

  SECTION("the same tensors give the same bytes") {
    write_safetensors(folder / "b.safetensors", {{"x", matrix}, {"ids", ids}});
    write_safetensors(folder / "c.safetensors", {{"x", matrix}, {"ids", ids}});
    CHECK(read_bytes(folder / "b.safetensors") == read_bytes(folder / "c.safetensors"));
  }
  SECTION("the other precision widens or rounds") {
    using Other = std::conditional_t<std::is_same_v<Scalar, float>, double, float>;
    const Array<Other> other = SafetensorsFile(folder / "a.safetensors").template read<Other>("matrix");
    CHECK(*other == matrix.template cast<Other>());
  }
}

TEST_CASE("safetensors: numbers stored as asked for are views of the mapped file, which they keep", "[io]") {
  const TemporaryFolder folder;
  Matrix<float> matrix = Matrix<float>::Constant(4, 4, 2.5F);
  write_safetensors(folder / "a.safetensors", {{"odd", std::vector<float>{1}}, {"x", matrix}, {"ids", std::vector<std::int64_t>{5}}});
  Array<float> first, second;
  {
    const SafetensorsFile file(folder / "a.safetensors");
    first = file.read<float>("x");
    second = file.read<float>("x");
    CHECK(file.read<double>("x")(3, 3) == 2.5);  // a copy
    CHECK(reinterpret_cast<std::uintptr_t>(first.data()) % alignof(float) == 0);
  }
  CHECK(first.data() == second.data());
  fs::remove(folder / "a.safetensors");  // the mapping outlives the name
  CHECK(*first == matrix);

  SECTION("numbers that are not aligned are copied") {
    const std::string header =
        R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
    std::string padded = header;
    padded.resize((padded.size() + 7) / 8 * 8, ' ');
    write_bytes(folder / "odd.safetensors", safetensors_bytes(padded, "!" + bytes_of<float>({1.5F, -3})));
    const SafetensorsFile file(folder / "odd.safetensors");
    CHECK(file.read<float>("x")(0, 1) == -3);
    const Array<float> copy = file.read<float>("x"), another = file.read<float>("x");
    CHECK(reinterpret_cast<std::uintptr_t>(copy.data()) % alignof(float) == 0);
    CHECK(copy.data() != another.data());
  }
}

TEMPLATE_TEST_CASE("safetensors: every element type", "[io]", float, double) {
  using Scalar = TestType;
  const TemporaryFolder folder;
  const auto read = [&](const std::string& dtype, const std::string& data, std::size_t bytes) {
    write_bytes(folder / "x.safetensors",
                safetensors_bytes(detail::message(R"({"x":{"dtype":")", dtype, R"(","shape":[)", data.size() / bytes,
                                                  R"(],"data_offsets":[0,)", data.size(), "]}}"),
                                  data));
    const Array<Scalar> array = SafetensorsFile(folder / "x.safetensors").template read<Scalar>("x");
    return std::vector<Scalar>(array.data(), array.data() + array.size());
  };
  const Scalar infinity = std::numeric_limits<Scalar>::infinity();
  CHECK(read("F64", bytes_of<double>({1.0 / 3, -1e-300, 1e300}), 8) ==
        std::vector<Scalar>{static_cast<Scalar>(1.0 / 3), static_cast<Scalar>(-1e-300), static_cast<Scalar>(1e300)});
  CHECK(read("F32", bytes_of<float>({1.0F / 3, 1e-45F}), 4) ==
        std::vector<Scalar>{static_cast<Scalar>(1.0F / 3), static_cast<Scalar>(1e-45F)});
  CHECK(read("I64", bytes_of<std::int64_t>({-5, 1LL << 40}), 8) == std::vector<Scalar>{-5, static_cast<Scalar>(1LL << 40)});
  CHECK(read("I32", bytes_of<std::int32_t>({-5, 2147483647}), 4) == std::vector<Scalar>{-5, static_cast<Scalar>(2147483647)});
  // 1, -2, largest, smallest normal, largest and smallest subnormal, zeros, infinities.
  CHECK(read("F16", bytes_of<std::uint16_t>({0x3C00, 0xC000, 0x7BFF, 0x0400, 0x03FF, 0x8001, 0x0000, 0x7C00, 0xFC00}), 2) ==
        std::vector<Scalar>{1, -2, 65504, Scalar(0x1p-14), Scalar(0x3FFp-24), -Scalar(0x1p-24), 0, infinity, -infinity});
  CHECK(read("BF16", bytes_of<std::uint16_t>({0x3F80, 0xC000, 0x3EAB, 0x7F80, 0xFF80, 0x0001}), 2) ==
        std::vector<Scalar>{1, -2, Scalar(0.333984375), infinity, -infinity, Scalar(std::bit_cast<float>(0x00010000U))});
  for (const std::string dtype : {"F16", "BF16"}) {
    const std::vector<Scalar> numbers = read(dtype, bytes_of<std::uint16_t>({0x7FFF, 0x8000}), 2);
    CHECK(std::isnan(numbers[0]));
    CHECK((numbers[1] == 0 && std::signbit(numbers[1])));
  }
}

TEST_CASE("safetensors: all 65536 halves, against arithmetic", "[io]") {
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const int exponent = static_cast<int>((bits >> 10U) & 31U), fraction = static_cast<int>(bits & 1023U);
    const float got = half_to_float(static_cast<std::uint16_t>(bits));
    const double sign = (bits & 0x8000U) != 0 ? -1 : 1;
    const bool right = exponent == 31 && fraction != 0 ? std::isnan(got)
                       : exponent == 31                ? static_cast<double>(got) == sign * HUGE_VAL
                       : exponent == 0                 ? static_cast<double>(got) == sign * std::ldexp(fraction, -24)
                                                       : static_cast<double>(got) == sign * std::ldexp(1024 + fraction, exponent - 25);
    if (!right || std::signbit(got) != ((bits & 0x8000U) != 0)) FAIL("bits " << bits << " give " << got);
  }
  SUCCEED();
}

TEST_CASE("safetensors: a checkpoint in shards, and what a directory holds", "[io]") {
  const TemporaryFolder folder;
  const auto open = [&](const fs::path& path) { return SafetensorsSource<float>(path); };
  write_safetensors(folder / "model-1.safetensors", {{"a", std::vector<float>{1, 2}}, {"unlisted", std::vector<float>{9}}});
  write_safetensors(folder / "model-2.safetensors", {{"b", std::vector<std::int64_t>{3}}, {"a", std::vector<float>{-1}}});
  write_bytes(folder / "model.safetensors.index.json",
              R"({"metadata":{"total_size":16},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}})");
  for (const fs::path& path : {folder.path(), folder / "model.safetensors.index.json"}) {
    const SafetensorsSource<float> source = open(path);
    CHECK(source.names() == std::vector<std::string>{"a", "b"});
    CHECK(source.read("a")(0, 1) == 2);
    CHECK(source.checkpoint().read_integers("b") == std::vector<std::int64_t>{3});
    CHECK_FALSE(source.has("unlisted"));
    CHECK(source.where() == path.string());
  }
  SECTION("a single file goes before the index") {
    write_safetensors(folder / "model.safetensors", {{"whole", std::vector<float>{1}}});
    CHECK(open(folder.path()).names() == std::vector<std::string>{"whole"});
  }
}

TEST_CASE("safetensors: an empty file of no tensors, and tensors of no numbers", "[io]") {
  const TemporaryFolder folder;
  write_safetensors(folder / "none.safetensors", {});
  CHECK(SafetensorsFile(folder / "none.safetensors").tensors().empty());
  write_bytes(
      folder / "zeros.safetensors",
      safetensors_bytes(R"({"b":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                        R"("c":{"dtype":"F64","shape":[3,0],"data_offsets":[0,0]}})",
                        bytes_of<float>({7})));
  const SafetensorsFile file(folder / "zeros.safetensors");
  CHECK(file.read<float>("a")(0, 0) == 7);
  CHECK((file.read<float>("c").rows() == 3 && file.read<float>("c").cols() == 0));
}

TEST_CASE("safetensors: a file cut short at any byte is an error, never a crash", "[io]") {
  const TemporaryFolder folder;
  const std::string whole = small_file();
  const fs::path path = folder / "cut.safetensors";
  write_bytes(path, whole);
  CHECK(read_all<float>(path) == 21 + 2 * (7 - 8) + 1);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_bytes(path, whole.substr(0, size));
    const auto error = error_of([&] { read_all<float>(path); });
    if (!error || error->kind != ErrorKind::file || error->message.find(path.string()) == std::string::npos)
      FAIL("cut at " << size << ": " << (error ? error->message : "read as if whole"));
  }
  write_bytes(path, whole + "x");
  REQUIRE(error_of([&] { read_all<double>(path); }));
}

TEST_CASE("safetensors: a byte changed anywhere is an error or other numbers, never a crash", "[io]") {
  const TemporaryFolder folder;
  const std::string whole = small_file();
  const fs::path path = folder / "changed.safetensors";
  std::size_t refused = 0, read = 0;
  const auto attempt = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    const auto error = error_of([&] { read_all<double>(path); });
    ++(error ? refused : read);
    if (error && error->message.find(path.string()) == std::string::npos) FAIL("no file named: " << error->message);
  };
  for (std::size_t at = 0; at < whole.size() - 34; ++at)
    for (const char byte : {'\0', '"', '9', '-', '[', '}', '\\', '\xFF'}) {
      std::string bytes = whole;
      bytes[at] = byte;
      attempt(bytes);
      bytes.erase(at, 1);
      attempt(bytes);
    }
  CHECK(refused > 1000);
  CHECK(read > 0);  // a letter of a name, say
}

TEST_CASE("safetensors: real checkpoints", "[io]") {
  const auto folder = test_support::shared_data("realdata/protmamba");
  if (!folder) {
    WARN(test_support::shared_data_missing("realdata/protmamba"));
    return;
  }
  const SafetensorsSource<float> weights(*folder);
  CHECK(weights.shape("backbone.layers.0.mixer.conv1d.weight") == std::vector<Index>{256, 1, 4});
  const Array<float> embedding = weights.read("backbone.embedding.weight");
  CHECK((embedding.rows() == 40 && embedding.cols() == 128));
  CHECK(weights.read("backbone.embedding.weight").data() == embedding.data());
  CHECK((*embedding).allFinite());

  // Float64 logits, read at their own precision without a copy, say what the file's own target says.
  const SafetensorsFile expected(*folder / "expected.safetensors");
  const auto ids = expected.read_integers("input_ids");
  const Array<double> logits = expected.read<double>("logits");
  REQUIRE(logits.rows() == static_cast<Index>(ids.size()));
  Index best = 0;
  (*logits).row(logits.rows() - 1).maxCoeff(&best);
  CHECK(expected.read_integers("target_token") == std::vector<std::int64_t>{best});
}
