// A folder or a file as it was downloaded, told by its content.
#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>
#include <implicit_attention/io/tokenizer.hpp>
#include <implicit_attention/models/load.hpp>

#include "archives.hpp"
#include "files.hpp"

using namespace implicit_attention;
using namespace io_test;

namespace {

std::string torch_file(const std::vector<std::string>& names) {
  std::vector<std::pair<std::string, std::string>> items;
  for (const std::string& name : names) items.emplace_back(name, pickled::tensor(pickled::storage("FloatStorage", "0", 2), 0, {2}, {1}));
  return torch_bytes(pickled::dictionary(items), {{"0", bytes_of<float>({1, 2})}});
}
void write_weights(const fs::path& path, const std::string& name = "a") { write_safetensors(path, {{name, std::vector<float>{1, 2}}}); }

std::string format_of(const fs::path& path) {
  const Checkpoint<double> checkpoint = open_checkpoint<double>(path);
  CHECK(checkpoint.source->read(checkpoint.source->names().front()).size() > 0);
  return checkpoint.format;
}
std::string failure_of(const fs::path& path) {
  const auto error = error_of([&] { (void)open_checkpoint<float>(path); });
  REQUIRE(error);
  CHECK(error->kind == ErrorKind::file);
  CHECK(error->message.size() < 1000);
  return error->message;
}

}  // namespace

TEST_CASE("a file is told by its content, whatever it is called", "[io]") {
  const TemporaryFolder folder;
  write_weights(folder / "weights");
  CHECK(format_of(folder / "weights") == "safetensors");
  write_bytes(folder / "a.safetensors", torch_file({"a"}));
  CHECK(format_of(folder / "a.safetensors") == "PyTorch");
  write_bytes(folder / "b.bin", gguf::file({gguf::string("general.architecture", "mamba"), gguf::integer("mamba.block_count", 1)},
                                           {{"token_embd.weight", {1, 2}, 0, bytes_of<float>({1, 2})}}));
  CHECK(format_of(folder / "b.bin") == "GGUF");
  write_bytes(folder / "c.gguf", rwkv_header(101, 1, 2, 1) + rwkv_record("blocks.0.att.time_decay", {2}, bytes_of<float>({-1, -2})));
  CHECK(format_of(folder / "c.gguf") == "rwkv.cpp");
  CHECK(open_checkpoint<double>(folder / "c.gguf").source->read("blocks.0.att.time_decay")(0, 1) == std::log(2.0));
  CHECK(open_checkpoint<double>(folder / "c.gguf").tokenizer == folder.path());

  const auto says = [&](const std::string& bytes, const std::string& needle) {
    INFO(needle);
    write_bytes(folder / "x", bytes);
    CHECK_THAT(failure_of(folder / "x"), contains_text(needle));
  };
  says("", "it is empty");
  says("hello, this is no model",
       "is not a model that is known here, expected safetensors, PyTorch's zip archive, GGUF or rwkv.cpp's format; it "
       "begins with \"hello, this is n\"");
  says(std::string("\x01\x02\x1b[2J\0\0\0", 9), "begins with \"\\x01\\x02\\x1B[2J\\x00");
  says(" \n<!DOCTYPE html>\n<html lang=\"en\">", "it is a web page, as a download that failed leaves it");
  says("<html><head><title>404</title>", "it is a web page");
  says("\x1F\x8B\x08\x08model.safetensors", "it is compressed by gzip; decompress it first");
  says("\x28\xB5\x2F\xFD\x24\x10\x11\x12\x13", "compressed by zstd");
  says("\xFD\x37zXZ\x01\x02\x03\x04", "compressed by xz");
  says("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "before version 1.6");
  says("\x80\x04\x95\x10", "weights_only=True");
  says("version https://git-lfs.github.com/spec/v1\n", "git lfs pull");
  says("\x93NUMPY\x01", "NumPy file");
  says("{\"weight_map\":{}}x", "not valid JSON");
  CHECK_THAT(failure_of(folder / "nothing"), contains_text("cannot be opened"));
}

TEST_CASE("a folder's weights are found by the names that downloads have", "[io]") {
  const auto folder_with = [](const std::vector<std::string>& names) {
    auto folder = std::make_unique<TemporaryFolder>();
    for (const std::string& name : names) {
      if (name.ends_with(".safetensors"))
        write_weights(*folder / name, name);
      else if (name.ends_with(".bin") || name.ends_with(".pth"))
        write_bytes(*folder / name, torch_file({name}));
      else
        write_bytes(*folder / name, "{}");
    }
    return folder;
  };
  const auto first = [&](const std::vector<std::string>& names) {
    const auto folder = folder_with(names);
    return open_checkpoint<float>(folder->path()).source->names().front();
  };
  CHECK(first({"model.safetensors", "pytorch_model.bin", "x.pth"}) == "model.safetensors");
  CHECK(first({"pytorch_model.bin", "x.pth", "training_args.bin"}) == "pytorch_model.bin");
  CHECK(first({"x.pth", "training_args.bin", "README.md"}) == "x.pth");
  CHECK(first({"odd.safetensors"}) == "odd.safetensors");
  CHECK(first({"consolidated.safetensors"}) == "consolidated.safetensors");
  CHECK(first({"consolidated.safetensors", "config.json", "params.json"}) == "consolidated.safetensors");
  const auto fails = [&](const std::vector<std::string>& names) {
    const auto folder = folder_with(names);
    return failure_of(folder->path());
  };
  CHECK_THAT(fails({"consolidated.safetensors", "params.json"}), contains_text("Mistral's own files"));
  {  // Named itself, too: without params.json's n_groups it would be another model.
    const auto folder = folder_with({"consolidated.safetensors", "params.json"});
    CHECK_THAT(failure_of(*folder / "consolidated.safetensors"), contains_text("params.json beside consolidated.safetensors is not read"));
    CHECK(open_checkpoint<float>(*folder / "consolidated.safetensors", true).source->has("consolidated.safetensors"));
    CHECK(open_checkpoint<float>(folder->path(), true).weights.filename() == "consolidated.safetensors");
  }
  CHECK_THAT(fails({"a.safetensors", "b.pth"}), contains_text("which of 2 files has the model is not clear: a.safetensors, b.pth"));
  CHECK_THAT(fails({}), contains_text("no model here"));
  CHECK_THAT(fails({"training_args.bin", "optimizer.pt"}), contains_text("no model here"));
}

TEST_CASE("config.json is read where it is; without it the configuration is empty", "[io]") {
  const TemporaryFolder folder;
  write_weights(folder / "model.safetensors");
  CHECK_FALSE(open_checkpoint<float>(folder.path()).configuration.has("hidden_size"));
  write_bytes(folder / "config.json", "{\"hidden_size\": 7}");
  CHECK(open_checkpoint<float>(folder.path()).configuration.integer({"hidden_size"}) == 7);
  CHECK(open_checkpoint<float>(folder / "model.safetensors").configuration.integer({"hidden_size"}) == 7);
  write_bytes(folder / "config.json", "{");
  CHECK_THAT(failure_of(folder.path()), contains_text("config.json"));
}

TEST_CASE("a link to nothing in the place of a model's file is no missing file", "[io]") {
  const TemporaryFolder folder;
  write_weights(folder / "model.safetensors");
  const auto linked = [&](const char* name, const fs::path& target) {
    fs::remove_all(folder / name);
    fs::create_symlink(target, folder / name);
    return failure_of(folder.path());
  };
  // As a download leaves it whose blobs are not all there.
  CHECK(linked("config.json", "../blobs/gone") == (folder / "config.json").string() + ": is a link to nothing");
  CHECK_THAT(linked("config.json", "config.json"), contains_text("config.json: cannot be opened: "));
  CHECK(linked("config.json", "/dev/null") == (folder / "config.json").string() + ": is not a regular file");
  fs::remove(folder / "config.json");
  fs::create_directory(folder / "config.json");
  CHECK(failure_of(folder.path()) == (folder / "config.json").string() + ": is not a regular file");
  fs::remove(folder / "config.json");
  CHECK(linked("model.safetensors", "gone") == (folder / "model.safetensors").string() + ": is a link to nothing");
  fs::remove(folder / "model.safetensors");
  write_weights(folder / "model.safetensors");
  // Another tokenizer must not take its place; who gives ids needs none.
  fs::create_symlink("gone", folder / "tokenizer.json");
  write_bytes(folder / "vocab.json", R"({"a": 0, "b": 1})");
  const Tokenizer none = Tokenizer::open(folder.path());
  const auto said = error_of([&] { (void)none.encode("a b"); });
  REQUIRE(said);
  CHECK_THAT(said->message, contains_text("tokenizer.json: is a link to nothing"));
  fs::remove(folder / "tokenizer.json");
  fs::remove(folder / "vocab.json");
  fs::create_symlink("gone", folder / "vocab.json");
  const auto words = error_of([&] { (void)Tokenizer::open(folder.path()); });
  REQUIRE(words);
  CHECK_THAT(words->message, contains_text("vocab.json: is a link to nothing"));
}

TEST_CASE("shards of either kind under an index", "[io]") {
  const TemporaryFolder folder;
  write_bytes(folder / "s-1.bin", torch_file({"a", "b"}));
  write_bytes(folder / "s-2.bin", torch_file({"c"}));
  write_bytes(folder / "pytorch_model.bin.index.json", R"({"metadata":{},"weight_map":{"a":"s-1.bin","c":"s-2.bin"}})");
  const Checkpoint<float> checkpoint = open_checkpoint<float>(folder.path());
  CHECK(checkpoint.format == "PyTorch");
  CHECK(checkpoint.source->names() == std::vector<std::string>{"a", "c"});
  CHECK(checkpoint.source->read("c")(0, 1) == 2);
  const auto index = [&](const std::string& text) { write_bytes(folder / "pytorch_model.bin.index.json", text); };
  index(R"({"weight_map":{"a":"s-1.bin","d":"s-2.bin"}})");
  CHECK_THAT(failure_of(folder.path()), contains_text("tensor d: the index has it in s-2.bin"));
  index(R"({"weight_map":{"a":"../s-1.bin"}})");
  CHECK_THAT(failure_of(folder.path()), contains_text("plain file name"));
  index(R"({"weight_map":{"a":"s-3.bin"}})");
  CHECK_THAT(failure_of(folder.path()), contains_text("s-3.bin"));
  index(R"({})");
  CHECK_THAT(failure_of(folder.path()), contains_text("expected an object weight_map"));
}

TEST_CASE("a PyTorch folder gives the logits that its safetensors would", "[io]") {
  const auto folder = test_support::shared_data("cases/bin-float32");
  if (!folder) {
    WARN(test_support::shared_data_missing("cases/bin-float32"));
    return;
  }
  const Checkpoint<double> checkpoint = open_checkpoint<double>(*folder);
  CHECK(checkpoint.format == "PyTorch");
  CHECK(checkpoint.weights == *folder / "pytorch_model.bin");
  CHECK(checkpoint.tokenizer == *folder);
  const LanguageModel<double> model = load_language_model<double>(*checkpoint.source, checkpoint.configuration);
  const SafetensorsFile expected(*folder / "expected.safetensors");
  std::vector<Index> ids;
  for (const std::int64_t id : expected.read_integers("input_ids")) ids.push_back(static_cast<Index>(id));
  CHECK((model.forward(ids, test_support::every_logit()).logits - expected.read<double>("logits").matrix())
            .cwiseAbs()
            .template maxCoeff<Eigen::PropagateNaN>() < 1e-10);
}

TEST_CASE("the same numbers come out of every format, and are there as they are stored", "[io]") {
  const TemporaryFolder folder;
  // Numbers that float16 and bfloat16 both hold exactly.
  std::string f32, f16, bf16, f64;
  std::vector<double> expected;
  for (int i = 0; i < 64; ++i) {
    const float value = static_cast<float>(i - 32) / 16;
    expected.push_back(static_cast<double>(value));
    f32 += bytes_of<float>({value});
    f64 += bytes_of<double>({static_cast<double>(value)});
    bf16 += bytes_of<std::uint16_t>({static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16U)});
    // binary16 from binary32 of a number that needs no rounding: another bias, a shorter fraction.
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value), exponent = bits >> 23U & 0xFFU;
    f16 += bytes_of<std::uint16_t>(
        {static_cast<std::uint16_t>(value == 0 ? 0U : (bits >> 16U & 0x8000U) | ((exponent - 112U) << 10U) | (bits >> 13U & 0x3FFU))});
  }
  const auto check = [&](const fs::path& path, Dtype dtype) {
    INFO(path.string() << " " << dtype_name(dtype));
    const Checkpoint<double> checkpoint = open_checkpoint<double>(path);
    const std::string name = checkpoint.source->names().front();
    CHECK(checkpoint.source->shape(name) == std::vector<Index>{2, 32});
    const Array<double> numbers = checkpoint.source->read(name);
    const auto stored = checkpoint.source->stored(name);
    REQUIRE(stored);
    CHECK(stored->dtype == dtype);
    Matrix<double> rows(2, 32);
    stored->widen_rows(0, 2, rows.data(), 32);
    CHECK(rows == Matrix<double>(numbers.matrix()));
    for (Index i = 0; i < 64; ++i) CHECK(numbers(i / 32, i % 32) == expected[static_cast<std::size_t>(i)]);
    const Array<float> narrow = open_checkpoint<float>(path).source->read(name);
    CHECK(narrow.matrix().cast<double>() == numbers.matrix());
  };
  struct Type {
    Dtype dtype;
    const std::string* data;
    unsigned ggml;
    std::string torch;
  };
  for (const Type& type : {Type{Dtype::F32, &f32, 0, "FloatStorage"}, Type{Dtype::F16, &f16, 1, "HalfStorage"},
                           Type{Dtype::BF16, &bf16, 30, "BFloat16Storage"}, Type{Dtype::F64, &f64, 28, "DoubleStorage"}}) {
    const fs::path path = folder / "x";
    write_bytes(path, safetensors_bytes(detail::message("{\"emb.weight\":{\"dtype\":\"", dtype_name(type.dtype),
                                                        "\",\"shape\":[2,32],\"data_offsets\":[0,", type.data->size(), "]}}"),
                                        *type.data));
    check(path, type.dtype);
    write_bytes(
        path,
        torch_bytes(pickled::dictionary({{"emb.weight", pickled::tensor(pickled::storage(type.torch, "0", 64), 0, {2, 32}, {32, 1})}}),
                    {{"0", *type.data}}));
    check(path, type.dtype);
    write_bytes(path, gguf::file({gguf::string("general.architecture", "mamba"), gguf::integer("mamba.block_count", 1)},
                                 {{"token_embd.weight", {2, 32}, type.ggml, *type.data}}));
    check(path, type.dtype);
  }
}

TEST_CASE("GGUF: what is wrong is said", "[io]") {
  using namespace gguf;
  const TemporaryFolder folder;
  const std::vector<std::string> keys{string("general.architecture", "mamba"), integer("mamba.block_count", 1)};
  const std::string row = bytes_of<float>({1, 2});
  const std::string good = file(keys, {{"token_embd.weight", {1, 2}, 0, row}});
  const auto with_key = [&](const std::string& key) {
    std::vector<std::string> all = keys;
    all.push_back(key);
    return file(all, {{"token_embd.weight", {1, 2}, 0, row}});
  };
  const auto head = [&](std::uint64_t tensors, std::uint64_t count) { return "GGUF" + u32(3) + u64(tensors) + u64(count); };
  const auto one = [&](const std::string& info) { return head(1, 2) + keys[0] + keys[1] + info + std::string(256, '\0'); };
  const auto info = [&](const std::string& name, const std::string& axes, unsigned type, std::uint64_t offset) {
    return text(name) + axes + u32(type) + u64(offset);
  };
  const std::string two = u32(1) + u64(2);
  struct Bad {
    std::string what, bytes;
    std::vector<std::string> needles;
  };
  for (const Bad& bad : std::vector<Bad>{
           {"a magic alone", "GGUF", {"cut short"}},
           {"version 1", file(keys, {}, 1), {"version 1, expected 2 or 3"}},
           {"version 4", file(keys, {}, 4), {"version 4"}},
           {"big-endian", "GGUF" + std::string("\0\0\0\3", 4) + good.substr(8), {"big-endian"}},
           {"more keys than bytes", head(0, ~std::uint64_t{0}) + keys[0], {"cut short"}},
           {"more tensors than bytes", head(~std::uint64_t{0}, 2) + keys[0] + keys[1], {"cut short"}},
           {"a text of all bytes", head(0, 1) + u64(~std::uint64_t{0}) + "x", {"18446744073709551615 bytes expected"}},
           {"a key without a name", with_key(key("", 4, u32(1))), {"a name of 0 bytes"}},
           {"a key twice", with_key(keys[1]), {"mamba.block_count appears twice"}},
           {"a type that there is not", with_key(key("x", 13, u32(1))), {"key x", "type 13"}},
           {"a bool of 7", with_key(key("x", 7, "\7")), {"key x is 7", "true or false"}},
           {"a list of lists", with_key(key("x", 9, u32(9) + u64(1) + u32(4) + u64(0))), {"key x", "list of type 9"}},
           {"a long list", with_key(key("x", 9, u32(4) + u64(1ULL << 60U))), {"list of 1152921504606846976"}},
           {"an alignment of 24", with_key(integer("general.alignment", 24)), {"general.alignment is 24"}},
           {"an alignment of 0", with_key(integer("general.alignment", 0)), {"general.alignment is 0"}},
           {"an alignment that is text",
            with_key(string("general.alignment", "x")),
            {"general.alignment", "is a text, expected an integer"}},
           {"no architecture", file({}, {{"a", {2}, 0, row}}), {"general.architecture is missing"}},
           {"an unknown architecture",
            file({string("general.architecture", "llama")}, {}),
            {"architecture is llama", "expected one of rwkv6"}},
           {"an architecture that is not read",
            file({string("general.architecture", "llama"), integer("llama.block_count", 1)}, {}),
            {"architecture is llama", "expected one of", "qwen35"}},
           {"no layers", file({keys[0]}, {}), {"mamba.block_count is missing"}},
           {"0 layers", file({keys[0], integer("mamba.block_count", 0)}, {}), {"mamba.block_count is 0"}},
           {"layers without number", file({keys[0], key("mamba.block_count", 10, u64(~std::uint64_t{0}))}, {}), {"block_count is -1"}},
           {"layers that are text",
            file({keys[0], string("mamba.block_count", "2")}, {}),
            {"mamba.block_count", "is a text, expected an integer"}},
           {"a tensor without a name", one(info("", two, 0, 0)), {"its name has 0 bytes"}},
           {"a hundred axes", one(info("a", u32(100), 0, 0)), {"tensor a", "100 axes"}},
           {"an axis of 0", one(info("a", u32(1) + u64(0), 0, 0)), {"tensor a", "axis of size 0"}},
           {"axes that overflow", one(info("a", u32(2) + u64(1ULL << 40U) + u64(1ULL << 40U), 0, 0)), {"tensor a", "overflows"}},
           {"a tensor beyond the file", one(info("a", u32(1) + u64(1000), 0, 0)), {"tensor a", "beyond the"}},
           {"an offset beyond the file", one(info("a", two, 0, 1ULL << 60U)), {"tensor a", "beyond the"}},
           {"an offset off the alignment", one(info("a", two, 0, 4)), {"tensor a begins at byte 4", "multiple of 32"}},
           {"half a block", one(info("a", two, 8, 0)), {"tensor a", "whole number of blocks of 32", "Q8_0"}},
           {"a huge tensor of a type that is not read", one(info("a", u32(1) + u64(1ULL << 50U), 16, 0)), {"tensor a", "IQ2_XXS"}},
           {"overlapping tensors",
            head(2, 2) + keys[0] + keys[1] + info("a", two, 0, 0) + info("b", two, 0, 0) + std::string(99, '\0'),
            {"within the one before it"}},
           {"a tensor twice",
            head(2, 2) + keys[0] + keys[1] + info("a", two, 0, 0) + info("a", two, 0, 32) + std::string(199, '\0'),
            {"tensor a appears twice"}},
           {"data cut", good.substr(0, good.size() - 30), {"token_embd.weight", "cut short"}},
           {"two names that become one",
            file(keys, {{"blk.0.ssm_in.weight", {1, 2}, 0, row}, {"blk.00.ssm_in.weight", {1, 2}, 0, row}}),
            {"which is there already"}},
           {"one of two files under another name", with_key(key("split.count", 2, u16(2))), {"one of 2 files", "00001-of-"}},
           {"a convolution of three axes",
            file(keys, {{"blk.0.ssm_conv1d.bias", {1, 2}, 0, row}, {"blk.0.ssm_conv1d.weight", {2, 2, 2}, 0, row + row + row + row}}),
            {"ssm_conv1d", "(channels, taps)"}},
           {"a convolution that lost its bias",
            file(keys, {{"blk.0.ssm_conv1d.weight", {1, 2}, 0, row}}),
            {"tensor blk.0.ssm_conv1d.weight: is there without blk.0.ssm_conv1d.bias"}}}) {
    INFO(bad.what);
    write_bytes(folder / "bad.gguf", bad.bytes);
    const auto error = error_of([&] { (void)open_checkpoint<float>(folder / "bad.gguf"); });
    REQUIRE(error);
    CHECK_THAT(error->message, contains_text((folder / "bad.gguf").string()));
    for (const std::string& needle : bad.needles) CHECK_THAT(error->message, contains_text(needle));
    for (const char letter : error->message) CHECK(static_cast<unsigned char>(letter) >= 0x20);
  }
}
