// Token ids as .npy.
#include <implicit_attention/io/npy_reader.hpp>

#include <io/archives.hpp>

#include "../harness.hpp"

static std::vector<std::string> seeds_of_npy() {
  const auto file = [](const std::string& header, const std::string& data, unsigned version = 1) {
    const std::string length = version == 1 ? io_test::u16(static_cast<unsigned>(header.size())) : io_test::u32(header.size());
    return "\x93NUMPY" + io_test::u8(version) + io_test::u8(0) + length + header + data;
  };
  return {file("{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }\n", io_test::u64(3) + io_test::u64(~0ULL)),
          file("{'descr': '<u2', 'fortran_order': False, 'shape': (1, 3), }\n", "abcdef", 2),
          file("{'descr': '|u1', 'fortran_order': True, 'shape': (4,), }\n", "abcd", 3),
          file("{'descr': '<u8', 'fortran_order': False, 'shape': (1,), }\n", io_test::u64(1ULL << 63U))};
}

FUZZ_TARGET(npy) {
  fuzz::accepted([&] {
    const std::vector<fuzz::Index> ids = fuzz::parse_npy_integers(bytes, "fuzzed");
    fuzz::require(ids.size() <= bytes.size(), "there are no more numbers than bytes");
  });
}
