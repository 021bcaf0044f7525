// A pickle by itself, in an archive that is always whole: the archive's checks keep few changed pickles.
#include <implicit_attention/io/pytorch.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <io/archives.hpp>

#include "../readers.hpp"

static std::vector<std::string> seeds_of_pickle() {
  namespace p = io_test::pickled;
  const std::string a = p::storage("FloatStorage", "0", 12);
  return {p::whole(p::dictionary({{"w", p::tensor(a, 0, {3, 4}, {4, 1})}})),
          p::whole(p::name("collections", "OrderedDict") + ")Rq\x01(" + p::text("a") + p::tensor(a, 0, {12}, {1}) + "u"),
          p::whole(p::dictionary({{"state_dict", p::dictionary({{"x", p::tensor(a, 3, {2, 2}, {1, 4})}})}, {"n", p::integer(-7)}})),
          p::whole(p::dictionary({{"f", std::string("G\x3f\xf0\0\0\0\0\0\0", 9)},
                                  {"l",
                                   "](K\x01K\x02"
                                   "e"},
                                  {"t", "K\x01K\x02\x86"}}))};
}

FUZZ_TARGET(pickle) {
  fuzz::accepted([&] {
    const std::string archive = io_test::zip_bytes({{"archive/data.pkl", std::string(bytes)},
                                                    {"archive/byteorder", "little"},
                                                    {"archive/data/0", fuzz::numbers(12)},
                                                    {"archive/data/1", fuzz::numbers(2)},
                                                    {"archive/version", "3\n"}});
    const fuzz::TableSource<float> source(fuzz::read_pytorch(fuzz::MappedFile::open(fuzz::file_of(archive))));
    fuzz::read_everything(source);
  });
}
