// Every reader against small valid files that are changed at random, from a fixed seed: whatever comes, it is read within its bounds or
// refused with one line. IMPLICIT_ATTENTION_FUZZ sets the executions of each reader (20,000), IMPLICIT_ATTENTION_FUZZ_SEED the seed.
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/io/open_checkpoint.hpp>

#include "archives.hpp"
#include "files.hpp"

using namespace implicit_attention;
using namespace io_test;

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

void read_everything(const fs::path& path) {
  const Checkpoint<float> checkpoint = open_checkpoint<float>(path);
  float row[4096];
  for (const std::string& name : checkpoint.source->names()) {
    std::optional<Caught> error = error_of([&] {
      const Array<float> numbers = checkpoint.source->read(name);
      volatile float last = 0;
      for (Index i = 0; i < numbers.rows() && numbers.cols() > 0; ++i) last = numbers(i, numbers.cols() - 1);
      static_cast<void>(last);
    });
    if (error) CHECK(error->kind == ErrorKind::file);
    if (const auto stored = checkpoint.source->stored(name); stored && stored->columns > 0 && stored->columns <= 4096)
      for (Index i = 0; i < stored->rows; ++i) stored->widen_row(i, row);
  }
}

void fuzz(const std::vector<std::string>& seeds) {
  const std::uint64_t executions = from_environment("IMPLICIT_ATTENTION_FUZZ", 20'000);
  std::mt19937_64 random(from_environment("IMPLICIT_ATTENTION_FUZZ_SEED", 1));
  const fs::path memory = "/dev/shm";
  std::error_code ignored;
  const TemporaryFolder folder;
  const fs::path path = fs::is_directory(memory, ignored) ? memory / folder.path().filename() : folder / "x";
  for (const std::string& seed : seeds) {  // unchanged, they are read
    write_bytes(path, seed);
    REQUIRE_FALSE(error_of([&] { read_everything(path); }));
  }
  std::uint64_t read = 0, wrong = 0;
  for (std::uint64_t i = 0; i < executions; ++i) {
    const std::string bytes = changed(seeds[i % seeds.size()], random);
    write_bytes(path, bytes);
    const auto error = error_of([&] { read_everything(path); });
    read += error ? 0U : 1U;
    bool right = !error || error->message.size() < 2000;
    if (error)
      for (const char letter : error->message) right = right && static_cast<unsigned char>(letter) >= 0x20;
    wrong += right ? 0U : 1U;
    if (!right && wrong == 1) WARN(error->message);
  }
  fs::remove(path, ignored);
  INFO(executions << " executions, " << read << " of them read");
  CHECK(wrong == 0);
  CHECK(read < executions);
  if (executions >= 10'000) CHECK(read > 0);
  if (executions > 100'000) WARN(executions << " executions, " << read << " of them read without an error");
}

std::string numbers(std::size_t count) {
  std::string all;
  for (std::size_t i = 0; i < count; ++i) all += bytes_of<float>({static_cast<float>(i) - 2.5F});
  return all;
}

}  // namespace

TEST_CASE("fuzz: safetensors", "[io]") {
  fuzz(
      {safetensors_bytes(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                         R"("b":{"dtype":"F16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"I64","shape":[],"data_offsets":[32,40]}})",
                         numbers(10)),
       safetensors_bytes(
           R"(  {"x":{"dtype":"BF16","shape":[1,2,2],"data_offsets":[0,8]},"y":{"dtype":"F4","shape":[8],"data_offsets":[8,12]}})",
           numbers(3))});
}

TEST_CASE("fuzz: PyTorch", "[io]") {
  namespace p = pickled;
  const std::string a = p::storage("FloatStorage", "0", 12), b = p::storage("HalfStorage", "1", 4);
  fuzz({torch_bytes(
            p::dictionary(
                {{"w", p::tensor(a, 0, {3, 4}, {4, 1})}, {"t", p::tensor(a, 1, {2, 2, 2}, {1, 6, 2})}, {"h", p::tensor(b, 0, {4}, {1})}}),
            {{"0", numbers(12)}, {"1", numbers(2)}}),
        torch_bytes(p::dictionary({{"epoch", p::integer(3)},
                                   {"state_dict", p::dictionary({{"module.x", p::tensor(a, 0, {4, 3}, {1, 4})},
                                                                 {"module.y", p::tensor(a, 11, {}, {})}})}}),
                    {{"0", numbers(12)}}),
        torch_bytes(p::name("collections", "OrderedDict") + ")Rq\x01(" + p::text("a") + p::tensor(a, 0, {12}, {1}) + p::text("b") +
                        "h\x01" + "0" + p::tensor(a, 2, {5, 2}, {2, 1}) + "u",
                    {{"0", numbers(12)}})});
}

TEST_CASE("fuzz: GGUF", "[io]") {
  using namespace gguf;
  const auto keys = [](const std::string& name, const std::vector<std::pair<std::string, unsigned>>& sizes) {
    std::vector<std::string> all{string("general.architecture", name), integer(name + ".block_count", 2),
                                 integer(name + ".embedding_length", 4)};
    for (const auto& [key, value] : sizes) all.push_back(integer(name + "." + key, value));
    return all;
  };
  const auto t = [](const std::string& name, const std::vector<std::uint64_t>& shape) {
    std::uint64_t count = 1;
    for (const std::uint64_t size : shape) count *= size;
    return Tensor{name, shape, 0, numbers(count)};
  };
  const std::vector<std::pair<std::string, unsigned>> heads{
      {"ssm.group_count", 2},      {"ssm.time_step_rank", 4},      {"ssm.inner_size", 8}, {"ssm.state_size", 2},
      {"attention.head_count", 2}, {"attention.head_count_kv", 1}, {"wkv.head_size", 2},  {"rescale_every_n_layers", 1}};
  const std::string blocks(210, '\x2c');
  fuzz({file(keys("mamba", {}), {t("token_embd.weight", {3, 4}),
                                 t("blk.0.ssm_a", {4, 2}),
                                 t("blk.0.ssm_conv1d.weight", {4, 2}),
                                 {"blk.0.ssm_in.weight", {1, 32}, 8, blocks.substr(0, 34)},
                                 {"blk.1.ssm_out.weight", {1, 256}, 14, blocks}}),
        file(keys("qwen35", heads),
             {t("blk.0.attn_qkv.weight", {16, 4}), t("blk.0.attn_gate.weight", {8, 4}), t("blk.0.ssm_out.weight", {4, 8}),
              t("blk.0.ssm_a", {4}), t("blk.0.ssm_conv1d.weight", {16, 3}), t("blk.1.ssm_alpha.weight", {4, 4})}),
        file(keys("qwen3next", heads),
             {t("blk.0.ssm_in.weight", {24, 2}), t("blk.0.ssm_ba.weight", {8, 2}), t("blk.0.ffn_up_exps.weight", {2, 3, 2})}),
        file(keys("granitehybrid", heads),
             {t("blk.0.attn_q.weight", {8, 2}), t("blk.0.attn_k.bias", {4}), t("blk.0.ffn_gate.weight", {2, 4}),
              t("blk.0.ffn_up.weight", {2, 4}), t("blk.1.ssm_norm.weight", {2, 4}), t("blk.1.ssm_d", {4, 1})}),
        file(keys("kimi-linear", heads),
             {t("blk.0.attn_k_b.weight", {2, 2, 3}), t("blk.0.attn_v_b.weight", {2, 2, 2}), t("blk.1.ssm_a", {1, 1, 2, 1})}),
        file(keys("rwkv6", heads), {t("blk.1.time_mix_w1.weight", {5, 4}), t("blk.1.time_mix_w2.weight", {5, 4, 1}),
                                    t("blk.1.time_mix_lerp_fused.weight", {5, 1, 1, 4}), t("blk.1.time_mix_output.weight", {4, 4}),
                                    t("blk.1.time_mix_first.weight", {2, 2})}),
        file(keys("rwkv7", heads), {t("blk.1.time_mix_r_k.weight", {4}), t("blk.1.time_mix_lerp_fused.weight", {6, 1, 1, 4}),
                                    t("blk.1.time_mix_w1.weight", {3, 4})})});
}

TEST_CASE("fuzz: rwkv.cpp", "[io]") {
  const auto record = [](const std::string& name, const std::vector<std::uint32_t>& shape) {
    std::uint32_t count = 1;
    for (const std::uint32_t size : shape) count *= size;
    return rwkv_record(name, shape, numbers(count));
  };
  const std::string att = "blocks.0.att.";
  fuzz({rwkv_header(100, 3, 4, 1) + record("emb.weight", {3, 4}) + record(att + "time_decay", {4}) + record(att + "time_mix_k", {4}),
        rwkv_header(101, 3, 4, 1) + record(att + "time_decay", {2, 1, 1}) + record(att + "time_first", {2, 1, 1}) +
            record(att + "ln_x.weight", {4}),
        rwkv_header(101, 3, 4, 1) + record(att + "time_maa_x", {4}) + record(att + "time_maa_w1", {5, 4}) +
            record(att + "time_maa_w2", {5, 4, 1}) + record(att + "time_faaaa", {2, 2, 1}) + record(att + "time_decay", {2, 2, 1}) +
            record(att + "ln_x.weight", {4}),
        rwkv_header(101, 3, 4, 1, 8) + record(att + "r_k", {2, 2}) + record(att + "x_rwkvag", {6, 1, 4}) + record(att + "w1", {3, 4}) +
            rwkv_record("head.weight", {1, 32}, std::string(24, '\x2c'), 8)});
}
