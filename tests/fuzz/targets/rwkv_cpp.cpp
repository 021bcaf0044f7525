// rwkv.cpp's binary.
#include <implicit_attention/io/rwkv_cpp.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <io/archives.hpp>

#include "../readers.hpp"

static std::vector<std::string> seeds_of_rwkv_cpp() {
  using namespace io_test;
  const auto record = [](const std::string& name, const std::vector<std::uint32_t>& shape) {
    std::uint32_t count = 1;
    for (const std::uint32_t size : shape) count *= size;
    return rwkv_record(name, shape, fuzz::numbers(count));
  };
  const std::string att = "blocks.0.att.";
  return {rwkv_header(100, 3, 4, 1) + record("emb.weight", {3, 4}) + record(att + "time_decay", {4}) + record(att + "time_mix_k", {4}),
          rwkv_header(101, 3, 4, 1) + record(att + "time_decay", {2, 1, 1}) + record(att + "time_first", {2, 1, 1}) +
              record(att + "ln_x.weight", {4}),
          rwkv_header(101, 3, 4, 1) + record(att + "time_maa_x", {4}) + record(att + "time_maa_w1", {5, 4}) +
              record(att + "time_maa_w2", {5, 4, 1}) + record(att + "time_faaaa", {2, 2, 1}) + record(att + "time_decay", {2, 2, 1}) +
              record(att + "ln_x.weight", {4}),
          rwkv_header(101, 3, 4, 1, 8) + record(att + "r_k", {2, 2}) + record(att + "x_rwkvag", {6, 1, 4}) + record(att + "w1", {3, 4}) +
              rwkv_record("head.weight", {1, 32}, std::string(24, '\x2c'), 8)};
}

FUZZ_TARGET(rwkv_cpp) {
  fuzz::accepted([&] {
    auto [table, configuration] = fuzz::read_rwkv_cpp(fuzz::MappedFile::open(fuzz::file_of(bytes)));
    (void)configuration.keys();
    fuzz::read_everything(fuzz::TableSource<float>(std::move(table)));
  });
}
