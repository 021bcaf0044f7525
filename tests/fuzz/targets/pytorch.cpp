// PyTorch's zip archive and the pickle in it.
#include <implicit_attention/io/pytorch.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <io/archives.hpp>

#include "../readers.hpp"

static std::vector<std::string> seeds_of_pytorch() {
  using namespace io_test;
  namespace p = pickled;
  const std::string a = p::storage("FloatStorage", "0", 12), b = p::storage("HalfStorage", "1", 4);
  return {torch_bytes(
              p::dictionary(
                  {{"w", p::tensor(a, 0, {3, 4}, {4, 1})}, {"t", p::tensor(a, 1, {2, 2, 2}, {1, 6, 2})}, {"h", p::tensor(b, 0, {4}, {1})}}),
              {{"0", fuzz::numbers(12)}, {"1", fuzz::numbers(2)}}),
          torch_bytes(p::dictionary({{"epoch", p::integer(3)},
                                     {"state_dict", p::dictionary({{"module.x", p::tensor(a, 0, {4, 3}, {1, 4})},
                                                                   {"module.y", p::tensor(a, 11, {}, {})}})}}),
                      {{"0", fuzz::numbers(12)}}),
          torch_bytes(p::name("collections", "OrderedDict") + ")Rq\x01(" + p::text("a") + p::tensor(a, 0, {12}, {1}) + p::text("b") +
                          "h\x01" + "0" + p::tensor(a, 2, {5, 2}, {2, 1}) + "u",
                      {{"0", fuzz::numbers(12)}})};
}

FUZZ_TARGET(pytorch) {
  fuzz::accepted([&] {
    const fuzz::TableSource<float> source(fuzz::read_pytorch(fuzz::MappedFile::open(fuzz::file_of(bytes))));
    fuzz::read_everything(source);
  });
}
