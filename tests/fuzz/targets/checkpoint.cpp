// A file of any format, told by its content; indices of shards are among them.
#include <implicit_attention/io/open_checkpoint.hpp>

#include <io/archives.hpp>

#include "../readers.hpp"

static std::vector<std::string> seeds_of_checkpoint() {
  using namespace io_test;
  namespace p = pickled;
  return {safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", fuzz::numbers(2)),
          torch_bytes(p::dictionary({{"w", p::tensor(p::storage("FloatStorage", "0", 4), 0, {2, 2}, {2, 1})}}), {{"0", fuzz::numbers(4)}}),
          gguf::file({gguf::string("general.architecture", "mamba")}, {{"blk.0.ssm_a", {2, 2}, 0, fuzz::numbers(4)}}),
          rwkv_header(100, 3, 4, 1) + rwkv_record("emb.weight", {3, 4}, fuzz::numbers(12)),
          R"({"metadata":{"total_size":8},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"other"}})",
          std::string("\x80\x02}q\0.", 6),
          "version https://git-lfs.github.com/spec/v1\n",
          "\x93NUMPY"};
}

FUZZ_TARGET(checkpoint) {
  fuzz::accepted([&] {
    const fuzz::Checkpoint<double> checkpoint = fuzz::open_checkpoint<double>(fuzz::file_of(bytes));
    fuzz::require(checkpoint.source != nullptr && !checkpoint.format.empty(), "what is opened has tensors and a format");
    fuzz::read_everything(*checkpoint.source);
  });
}
