// PyTorch's archives: real ones, ones put together here, and ones that are wrong.
#include <cstdint>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/pytorch.hpp>
#include <implicit_attention/io/safetensors.hpp>

#include "files.hpp"
#include "archives.hpp"

using namespace implicit_attention;
using namespace io_test;

namespace {

TableSource<float> open(const fs::path& path) { return TableSource<float>(read_pytorch(MappedFile::open(path))); }

std::vector<float> numbers(const Array<float>& array) {
  std::vector<float> all;
  for (Index i = 0; i < array.rows(); ++i)
    for (Index j = 0; j < array.cols(); ++j) all.push_back(array(i, j));
  return all;
}

}  // namespace

TEST_CASE("PyTorch: public files are read", "[io]") {
  const auto reverse = test_support::shared_data("realdata/rwkv7-reverse/260123_reverse_L2_only_rwkv7.pth");
  if (!reverse) {
    WARN(test_support::shared_data_missing("realdata"));
    return;
  }
  const TableSource<float> source = open(*reverse);
  CHECK(source.names().size() == 99);
  CHECK(source.shape("e.weight") == std::vector<Index>{12, 32});
  const Array<float> weight = source.read("e.weight");
  CHECK(weight.rows() == 12);
  REQUIRE(source.stored("e.weight"));
  CHECK(weight.data() == reinterpret_cast<const float*>(source.stored("e.weight")->data));  // no copy

  const TableSource<float> degenerate = open(*test_support::shared_data("realdata/mamba-degenerate/cmamba_v.ckpt"));
  CHECK(degenerate.shape("model.blocks.0.0.op.A_log"));
  CHECK_FALSE(degenerate.shape("state_dict.model.blocks.0.0.op.A_log"));
  for (const std::string& name : degenerate.names()) CHECK(degenerate.read(name).size() > 0);

  const TableSource<float> mamba = open(*test_support::shared_data("cases/bin-float32/pytorch_model.bin"));
  CHECK(mamba.names().size() == 23);
  CHECK(mamba.shape("backbone.layers.0.mixer.conv1d.weight") == std::vector<Index>{128, 1, 4});
}

TEST_CASE("PyTorch: strides, offsets, shared storages, and every number type", "[io]") {
  namespace p = pickled;
  const TemporaryFolder folder;
  const std::string twelve = bytes_of<float>({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}), storage = p::storage("FloatStorage", "0", 12);
  const auto t = [&](std::int64_t offset, const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides) {
    return p::tensor(storage, offset, shape, strides);
  };
  write_bytes(folder / "a.pth", torch_bytes(p::dictionary({{"whole", t(0, {3, 4}, {4, 1})},
                                                           {"transposed", t(0, {4, 3}, {1, 4})},
                                                           {"columns", t(1, {3, 2}, {4, 1})},
                                                           {"axes", t(0, {2, 3, 2}, {2, 4, 1})},
                                                           {"turned axes", t(0, {2, 2, 3}, {1, 6, 2})},
                                                           {"scalar", t(7, {}, {})},
                                                           {"vector", t(2, {3}, {4})},
                                                           {"none", t(12, {0, 3}, {3, 1})},
                                                           {"ones", t(5, {1, 1, 1}, {9999999999, 77, 5})}}),
                                            {{"0", twelve}}));
  const TableSource<float> source = open(folder / "a.pth");
  using V = std::vector<float>;
  CHECK(numbers(source.read("whole")) == V{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  CHECK(numbers(source.read("transposed")) == V{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11});
  CHECK(numbers(source.read("columns")) == V{1, 2, 5, 6, 9, 10});
  CHECK(source.read("columns").row_stride() == 4);  // a view of the file
  CHECK(numbers(source.read("axes")) == V{0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11});
  CHECK(numbers(source.read("turned axes")) == V{0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11});
  CHECK(source.shape("axes") == std::vector<Index>{2, 3, 2});
  CHECK(numbers(source.read("scalar")) == V{7});
  CHECK(numbers(source.read("vector")) == V{2, 6, 10});
  CHECK(source.read("none").size() == 0);
  CHECK(numbers(source.read("ones")) == V{5});
  for (const std::string& name : source.names()) {
    INFO(name);
    const auto stored = source.stored(name);
    REQUIRE(stored);
    Matrix<float> rows(stored->rows, stored->columns);
    stored->widen_rows(0, stored->rows, rows.data(), stored->columns);
    CHECK(rows == Matrix<float>(source.read(name).matrix()));
  }

  const auto number = [&](const std::string& type, const std::string& data, const std::string& wrapped = "") {
    const std::string tensor = p::tensor(p::storage(type, "k", 1), 0, {1}, {1});
    write_bytes(folder / "b.pth", torch_bytes(p::dictionary({{"x", wrapped.empty() ? tensor : wrapped}}), {{"k", data}}));
    return open(folder / "b.pth").read("x")(0, 0);
  };
  CHECK(number("FloatStorage", bytes_of<float>({1.5F})) == 1.5F);
  CHECK(number("DoubleStorage", bytes_of<double>({1.5})) == 1.5F);
  CHECK(number("HalfStorage", bytes_of<std::uint16_t>({0x3E00})) == 1.5F);
  CHECK(number("BFloat16Storage", bytes_of<std::uint16_t>({0x3FC0})) == 1.5F);
  CHECK(number("LongStorage", bytes_of<std::int64_t>({-3})) == -3);
  CHECK(number("IntStorage", bytes_of<std::int32_t>({-3})) == -3);
  CHECK(number("ShortStorage", bytes_of<std::int16_t>({-3})) == -3);
  CHECK(number("CharStorage", bytes_of<std::int8_t>({-3})) == -3);
  CHECK(number("ByteStorage", bytes_of<std::uint8_t>({253})) == 253);
  const auto boolean = error_of([&] { (void)number("BoolStorage", "\1"); });
  REQUIRE(boolean);
  CHECK_THAT(boolean->message, contains_text("tensor x is BOOL"));
  const std::string plain = p::tensor(p::storage("FloatStorage", "k", 1), 0, {1}, {1});
  CHECK(number("", bytes_of<float>({2}),
               p::name("torch._utils", "_rebuild_parameter") + "(" + plain + "\x88" + p::name("collections", "OrderedDict") + ")RtR") == 2);
}

TEST_CASE("PyTorch: untyped storages have their type in the tensor; parameters of a class of their own are tensors", "[io]") {
  namespace p = pickled;
  const TemporaryFolder folder;
  const auto third = [&](const std::string& type) {
    return p::name("torch._utils", "_rebuild_tensor_v3") + "((" + p::text("storage") + p::name("torch.storage", "UntypedStorage") +
           p::text("0") + p::text("cpu") + p::integer(8) + "tQ" + p::integer(0) + p::tuple({2}) + p::tuple({1}) + "\x89" +
           p::name("collections", "OrderedDict") + ")R" + p::name("torch", type) + "}tR";
  };
  const std::string subclass = p::name("torch._tensor", "_rebuild_from_type_v2") + "(" + p::name("torch._utils", "_rebuild_tensor_v2") +
                               p::name("torch.nn.parameter", "Parameter") + "(" + p::storage("FloatStorage", "1", 1) + p::integer(0) +
                               p::tuple({1}) + p::tuple({1}) + "\x89}t}tR";
  write_bytes(folder / "d.pt", torch_bytes(p::dictionary({{"a", third("float32")}, {"b", third("float8_e4m3fn")}, {"c", subclass}}),
                                           {{"0", bytes_of<float>({3, 4})}, {"1", bytes_of<float>({5})}}));
  const TableSource<float> source = open(folder / "d.pt");
  CHECK(numbers(source.read("a")) == std::vector<float>{3, 4});
  CHECK(numbers(source.read("c")) == std::vector<float>{5});
  CHECK(source.shape("b") == std::vector<Index>{2});
  const auto error = error_of([&] { (void)source.read("b"); });
  REQUIRE(error);
  CHECK_THAT(error->message, contains_text("tensor b is F8_E4M3"));
}

TEST_CASE("PyTorch: pickles of protocol 4, and what older ones say in other words", "[io]") {
  namespace p = pickled;
  const TemporaryFolder folder;
  const auto written = [&](const std::string& pickle, const std::string& storage) {
    write_bytes(folder / "p.pt", zip_bytes({{"a/data.pkl", pickle}, {"a/data/0", storage}}));
    return open(folder / "p.pt");
  };
  const std::string four = bytes_of<float>({1, 2, 3, 4}), count = bytes_of<std::int32_t>({4});
  // Short texts, each remembered in the next place, and names from the stack.
  const auto text = [](const std::string& value) { return "\x8c" + u8(static_cast<unsigned>(value.size())) + value + "\x94"; };
  const auto name = [&](const std::string& module, const std::string& what) { return text(module) + text(what) + "\x93\x94"; };
  const std::string storage = "(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + "J" + count + "t\x94Q";
  const std::string tensor = name("torch._utils", "_rebuild_tensor_v2") + "(" + storage + "K" + u8(0) + "K\2K\2\x86\x94" +
                             "K\2K\1\x86\x94" + "\x89" + name("collections", "OrderedDict") + ")R\x94t\x94R\x94";
  const std::string body = "}\x94(" + text("w") + tensor + "u.";
  CHECK(numbers(written("\x80\x04\x95" + u64(body.size()) + body, four).read("w")) == std::vector<float>{1, 2, 3, 4});

  // A dictionary and a list made of what is above the mark, a text of Python 2, a value that is thrown away, keys that are numbers, and one
  // that names nothing.
  const std::string old = p::storage("FloatStorage", "0", 4);
  const auto at = [&](std::int64_t offset) { return p::tensor(old, offset, {1}, {1}); };
  const std::string pairs =
      p::name("collections", "OrderedDict") + "((" + "(U" + u8(1) + "x" + at(2) + "t" + "(" + p::text("y") + at(3) + "ll" + "tR";
  const std::string mixed = "(" + p::text("list") + "(" + at(0) + at(1) + "l" + "J" + bytes_of<std::int32_t>({-7}) + at(1) + "N" + at(0) +
                            p::text("pairs") + pairs + "d" + p::text("thrown away") + "0";
  const TableSource<float> source = written("\x80\x02" + mixed + ".", four);
  CHECK(source.names() == std::vector<std::string>{"-7", "list.0", "list.1", "pairs.x", "pairs.y"});
  CHECK(numbers(source.read("list.1")) == std::vector<float>{2});
  CHECK(numbers(source.read("-7")) == std::vector<float>{2});
  CHECK(numbers(source.read("pairs.x")) == std::vector<float>{3});
  CHECK(numbers(source.read("pairs.y")) == std::vector<float>{4});

  const auto refused = [&](const std::string& pickle) {
    const auto error = error_of([&] { (void)written("\x80\x02" + pickle + ".", four); });
    return error ? error->message : "";
  };
  CHECK_THAT(refused("(" + p::text("1") + at(0) + p::integer(1) + at(1) + "d"), contains_text("tensor 1 appears twice"));
  CHECK_THAT(refused("(" + p::text("1") + "d"), contains_text("a key without a value"));
  const std::vector<std::int64_t> ones(64, 1), one_more(65, 1);
  CHECK(refused("(" + p::text("x") + p::tensor(old, 0, ones, ones) + "d").empty());
  CHECK_THAT(refused("(" + p::text("x") + p::tensor(old, 0, one_more, one_more) + "d"),
             contains_text("has 65 numbers, expected at most 64"));
  CHECK_THAT(refused("K\1K\2\x93"), contains_text("a name that is not a text"));
  CHECK_THAT(refused(p::name("collections", "OrderedDict") + "((K\1ltR"),
             contains_text("collections.OrderedDict: its arguments are not those that are expected"));
}

#if IMPLICIT_ATTENTION_IO_ZLIB
TEST_CASE("PyTorch: archives that someone has compressed", "[io]") {
  namespace p = pickled;
  const TemporaryFolder folder;
  const std::string pickle = p::whole(p::dictionary({{"a", p::tensor(p::storage("FloatStorage", "0", 1), 0, {1}, {1})}}));
  // Deflate has blocks that are stored: 1, length, its complement, bytes.
  const auto packed = [](const std::string& bytes) {
    return "\x01" + u16(static_cast<unsigned>(bytes.size())) + u16(static_cast<unsigned>(~bytes.size() & 0xFFFFU)) + bytes;
  };
  const std::string number = bytes_of<float>({6});
  const auto archive = [&](std::size_t claimed, const std::string& data) {
    std::string bytes = zip_bytes({{"a/data.pkl", packed(pickle)}, {"a/data/0", data}, {"a/byteorder", packed("little")}}, 8);
    // The sizes when unpacked, in the directory.
    std::size_t entry = bytes.find("PK\x01\x02");
    bytes.replace(entry + 24, 4, u32(pickle.size()));
    entry = bytes.find("PK\x01\x02", entry + 4);
    bytes.replace(entry + 24, 4, u32(claimed));
    bytes.replace(bytes.find("PK\x01\x02", entry + 4) + 24, 4, u32(6));
    write_bytes(folder / "z.pt", bytes);
    return folder / "z.pt";
  };
  CHECK(numbers(open(archive(4, packed(number))).read("a")) == std::vector<float>{6});
  const auto fails = [&](std::size_t claimed, const std::string& data, const std::string& needle) {
    const fs::path path = archive(claimed, data);
    const auto error = error_of([&] { (void)open(path); });
    REQUIRE(error);
    CHECK_THAT(error->message, contains_text(needle));
  };
  fails(0x7FFFFFFF, packed(number), "cannot hold 2147483647");
  fails(8, packed(number), "damaged");
  fails(2, packed(number), "damaged");
  fails(4, packed(number) + "x", "damaged");
  fails(4, "\x07", "damaged");
}
#endif

TEST_CASE("PyTorch: weights are found under what training programs wrap them in", "[io]") {
  namespace p = pickled;
  const TemporaryFolder folder;
  const std::string x = p::tensor(p::storage("FloatStorage", "0", 1), 0, {1}, {1});
  const auto names = [&](const std::string& value) {
    write_bytes(folder / "c.ckpt", torch_bytes(value, {{"0", bytes_of<float>({1})}}));
    return open(folder / "c.ckpt").names();
  };
  using N = std::vector<std::string>;
  CHECK(names(p::dictionary({{"a.weight", x}, {"b", p::dictionary({{"c", x}, {"d", "N"}})}})) == N{"a.weight", "b.c"});
  CHECK(names(p::dictionary({{"epoch", "K\7"}, {"optimizer", p::dictionary({{"x", x}})}, {"state_dict", p::dictionary({{"a", x}})}})) ==
        N{"a"});
  CHECK(names(p::dictionary({{"model", p::dictionary({{"module.a", x}, {"module.b", x}})}})) == N{"a", "b"});
  CHECK(names(p::dictionary({{"module._orig_mod.a", x}})) == N{"a"});
  CHECK(names(p::dictionary({{"module.a", x}, {"b", x}})) == N{"b", "module.a"});
  // An ordered dictionary with attributes, as state_dict() returns it.
  CHECK(names(p::name("collections", "OrderedDict") + ")R(" + p::text("a") + x + "u}" + p::text("_metadata") + "}sb") == N{"a"});
  CHECK(names(p::dictionary({{"layers", "](" + x + x + "e"}})) == N{"layers.0", "layers.1"});
}

TEST_CASE("PyTorch: what training programs put beside the weights is no reason to refuse them", "[io]") {
  namespace p = pickled;
  const TemporaryFolder folder;
  const std::string x = p::tensor(p::storage("FloatStorage", "0", 1), 0, {1}, {1});
  const auto read = [&](const std::string& beside, const std::string& weight) {
    write_bytes(folder / "c.ckpt", torch_bytes(p::dictionary({{"beside", beside}, {"a", weight}}), {{"0", bytes_of<float>({3})}}));
    return numbers(open(folder / "c.ckpt").read("a"));
  };
  const std::string parameter = p::name("torch._utils", "_rebuild_parameter_with_state") + "(" + x + "\x88" +
                                p::name("collections", "OrderedDict") + ")R}(" + p::text("_no_weight_decay") + "\x88" + "utR";
  CHECK(read("N", parameter) == std::vector<float>{3});
  for (const std::string& beside :
       {p::name("collections", "Counter") + "}(K\x05K\x01u\x85R", p::name("__builtin__", "set") + "](K\x01K\x02" + "e\x85R",
        std::string("\x8f(K\x01K\x02\x90"), std::string("(K\x01\x91"), "\x96" + u64(3) + "abc", "\x8e" + u64(3) + "abc",
        p::name("_codecs", "encode") + p::text("abc") + p::text("latin1") + "\x86R",
        p::name("__builtin__", "complex") + "K\x01K\x02\x86R"}) {
    INFO(beside);
    CHECK(read(beside, x) == std::vector<float>{3});
  }
  const auto error = error_of([&] { (void)read("K\x01(K\x01\x90", x); });
  REQUIRE(error);
  CHECK_THAT(error->message, contains_text("expected a set to add to"));
}

TEST_CASE("PyTorch: an archive with a comment, even one that has the directory's mark in it", "[io]") {
  namespace p = pickled;
  const TemporaryFolder folder;
  const std::string plain =
      torch_bytes(p::dictionary({{"a", p::tensor(p::storage("FloatStorage", "0", 1), 0, {1}, {1})}}), {{"0", bytes_of<float>({6})}});
  for (const std::string& comment : {std::string("checked"), "PK\x05\x06" + std::string(40, 'x'), std::string(30, 'x') + "PK\x05\x06"}) {
    std::string bytes = plain;
    bytes.replace(bytes.size() - 2, 2, u16(static_cast<unsigned>(comment.size())));
    write_bytes(folder / "c.pt", bytes + comment);
    CHECK(numbers(open(folder / "c.pt").read("a")) == std::vector<float>{6});
    write_bytes(folder / "c.pt", bytes + comment + "y");
    const auto error = error_of([&] { (void)open(folder / "c.pt"); });
    REQUIRE(error);
    CHECK_THAT(error->message, contains_text("bytes behind the zip archive's end"));
  }
}

TEST_CASE("PyTorch: what is wrong is said", "[io]") {
  namespace p = pickled;
  const TemporaryFolder folder;
  const std::string one = bytes_of<float>({1}), storage = p::storage("FloatStorage", "0", 1), good = p::tensor(storage, 0, {1}, {1});
  const auto with = [&](const std::string& value) { return torch_bytes(p::dictionary({{"x", value}}), {{"0", one}}); };
  std::string nested = good;
  for (int i = 0; i < 40; ++i) nested = p::dictionary({{"n", nested}});
  std::string big = with(good);
  const std::size_t end = big.size() - 22;
  std::string lists(1'000'000, ']');
  struct Bad {
    std::string what, bytes;
    std::vector<std::string> needles;
  };
  std::vector<Bad> all{
      {"cut at the end", big.substr(0, big.size() - 1), {"no directory at its end"}},
      {"cut in the middle", big.substr(0, big.size() / 2), {"no directory at its end"}},
      {"only a magic", "PK\x03\x04", {"no directory at its end"}},
      {"bytes behind", big + "x", {"bytes behind the zip archive's end"}},
      {"a directory beyond the file", big.substr(0, end + 16) + u32(0x7FFFFFFF) + u16(0), {"not within the file"}},
      {"a count that is too large", big.substr(0, end + 8) + u16(9) + u16(9) + big.substr(end + 12), {"only 0 are left"}},
      {"a count that is too small", big.substr(0, end + 8) + u16(1) + u16(1) + big.substr(end + 12), {"belong to no entry"}},
      {"several volumes", big.substr(0, end + 4) + u16(1) + big.substr(end + 6), {"several volumes"}},
      {"no pickle", zip_bytes({{"a/b", "c"}}), {"0 entries data.pkl"}},
      {"two pickles", zip_bytes({{"a/data.pkl", "c"}, {"b/data.pkl", "c"}}), {"2 entries data.pkl"}},
      {"an entry twice", zip_bytes({{"a/data.pkl", "c"}, {"a/data.pkl", "c"}}), {"in the archive twice"}},
      {"TorchScript", zip_bytes({{"a/data.pkl", "c"}, {"a/constants.pkl", "c"}}), {"TorchScript", "state_dict"}},
      {"compressed", zip_bytes({{"a/data.pkl", "c"}}, 8), {"compressed"}},
      {"an odd method", zip_bytes({{"a/data.pkl", "c"}}, 99), {"method 99"}},
      {"big-endian", torch_bytes(p::dictionary({{"x", good}}), {{"0", one}}, "big"), {"big-endian", "expected little"}},
      {"an empty pickle", zip_bytes({{"a/data.pkl", ""}}), {"is the file cut short"}},
      {"a pickle without end", zip_bytes({{"a/data.pkl", "\x80\x02}"}}), {"is the file cut short"}},
      {"a system call",
       with(p::name("os", "system") + "(" + p::text("echo") + "tR"),
       {"asks for os.system", "nothing is executed", "state_dict()"}},
      {"eval", with(p::name("__builtin__", "eval") + "(" + p::text("1") + "tR"), {"__builtin__.eval"}},
      {"a class of numpy", with(p::name("numpy.core.multiarray", "scalar") + "(tR"), {"numpy.core.multiarray.scalar"}},
      {"an instruction of old", with("i" + std::string("os\nsystem\n")), {"instruction i"}},
      {"an object by extension", with("\x82\x01"), {"instruction \\x82"}},
      {"a new object", with("\x81"), {"instruction \\x81"}},
      {"calling a storage class", with(p::name("torch", "FloatStorage") + ")R"), {"calls torch.FloatStorage", "makes no tensor"}},
      {"a function that a terminal would obey",
       with(p::name("torch", "complex\x1b[2J") + ")R"),
       {"calls torch.complex\\x1B[2J, which makes no tensor"}},
      {"calling a text", with(p::text("x") + ")R"), {"not a function"}},
      {"a value that was never remembered", with("h\x63"), {"value 99 is recalled"}},
      {"more taken than put", zip_bytes({{"a/data.pkl", "\x80\x02R."}}), {"takes more than it has"}},
      {"a mark never set", zip_bytes({{"a/data.pkl", "\x80\x02t."}}), {"mark that was never set"}},
      {"values left over", zip_bytes({{"a/data.pkl", "\x80\x02}}."}}), {"values left over"}},
      {"a million lists open", zip_bytes({{"a/data.pkl", "\x80\x02" + lists + "."}}), {"values left over"}},
      {"a key without a value", zip_bytes({{"a/data.pkl", "\x80\x02}(" + p::text("a") + "u."}}), {"key without a value"}},
      {"no pickle", zip_bytes({{"a/data.pkl", ""}}), {"at byte 0: 1 byte expected, but only 0 are left"}},
      {"protocol 9", zip_bytes({{"a/data.pkl", "\x80\x09}."}}), {"protocol 9"}},
      {"not a dictionary", torch_bytes(good, {{"0", one}}), {"expected a dictionary"}},
      {"no tensors", torch_bytes("}", {}), {"no tensors"}},
      {"nested deep", with(nested), {"deeper than the 32 levels"}},
      {"a long integer",
       with(p::name("torch._utils", "_rebuild_tensor_v2") + "(" + storage + "\x8a\x09" + std::string(9, '\x7f') + p::tuple({1}) +
            p::tuple({1}) + "tR"),
       {"more than 64 bits"}},
      {"a shape of texts",
       with(p::name("torch._utils", "_rebuild_tensor_v2") + "(" + storage + p::integer(0) + "(" + p::text("1") + "t" + p::tuple({1}) +
            "tR"),
       {"tensor x", "expected integers from 0 as its shape"}},
      {"a negative size", with(p::tensor(storage, 0, {-1}, {1})), {"tensor x", "integers from 0 as its shape"}},
      {"a negative stride", with(p::tensor(storage, 0, {1}, {-1})), {"integers from 0 as its strides"}},
      {"strides for other axes", with(p::tensor(storage, 0, {1}, {1, 1})), {"1 axes and 2 strides"}},
      {"a shape beyond the storage", with(p::tensor(storage, 0, {2}, {1})), {"(2)", "the 1 numbers of its storage"}},
      {"an offset beyond the storage", with(p::tensor(storage, 2, {1}, {1})), {"from number 2 on", "beyond the 1 numbers"}},
      {"a negative offset", with(p::tensor(storage, -1, {1}, {1})), {"from number -1 on"}},
      {"a stride beyond the storage",
       torch_bytes(p::dictionary({{"x", p::tensor(p::storage("FloatStorage", "0", 2), 0, {2}, {9223372036854775807})}}),
                   {{"0", one + one}}),
       {"strides (9223372036854775807)", "beyond the 2"}},
      {"a shape that overflows", with(p::tensor(storage, 0, {4294967296, 4294967296, 4294967296}, {0, 0, 0})), {"beyond the 1 numbers"}},
      {"one number a trillion times", with(p::tensor(storage, 0, {1000000000000}, {0})), {"expanded tensor", ".contiguous()"}},
      {"a storage that is not there",
       torch_bytes(p::dictionary({{"x", p::tensor(p::storage("FloatStorage", "7", 1), 0, {1}, {1})}}), {{"0", one}}),
       {"no entry archive/data/7"}},
      {"a storage of another size",
       torch_bytes(p::dictionary({{"x", p::tensor(p::storage("FloatStorage", "0", 2), 0, {1}, {1})}}), {{"0", one}}),
       {"has 4 bytes, expected 2 numbers of 4"}},
      {"a storage with a huge count",
       torch_bytes(p::dictionary({{"x", p::tensor(p::storage("FloatStorage", "0", 4611686018427387905), 0, {1}, {1})}}), {{"0", one}}),
       {"expected 4611686018427387905 numbers"}},
      {"a storage of an unknown type", with(p::tensor(p::storage("QInt8Storage", "0", 1), 0, {1}, {1})), {"torch.QInt8Storage"}},
      {"a reference of another kind", with(p::tuple({1, 2, 3, 4, 5}) + "Q"), {"reference that is not PyTorch's"}},
      {"a name that a terminal would obey", with(p::name("os\x1b[2J", "system")), {"os\\x1B[2J.system"}},
      {"tensors in two places",
       torch_bytes(p::dictionary({{"x", p::dictionary({{"a", good}}) + "q\x05"}, {"y", "h\x05"}}), {{"0", one}}),
       {"the tensors under y stand in two places"}},
      {"a name beyond all measure",
       torch_bytes(p::dictionary({{std::string(1025, 'n'), good}}), {{"0", one}}),
       {"a tensor's name is longer than 1024 bytes: nnn"}},
  };
  std::string local = big;
  local[0] = 'X';
  all.push_back({"a header that is no header", local, {"no local header"}});
  local = big;
  local[30] = 'X';
  all.push_back({"a header of another entry", local, {"another name"}});
  for (const Bad& bad : all) {
    INFO(bad.what);
    write_bytes(folder / "bad.pth", bad.bytes);
    const auto error = error_of([&] { (void)read_pytorch(MappedFile::open(folder / "bad.pth")); });
    REQUIRE(error);
    CHECK(error->kind == ErrorKind::file);
    CHECK_THAT(error->message, contains_text((folder / "bad.pth").string()));
    for (const std::string& needle : bad.needles) CHECK_THAT(error->message, contains_text(needle));
    for (const char letter : error->message) CHECK(static_cast<unsigned char>(letter) >= 0x20);
  }
}
