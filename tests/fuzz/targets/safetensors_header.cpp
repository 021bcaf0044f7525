// The header of a .safetensors file alone, without a file.
#include <implicit_attention/io/safetensors_header.hpp>

#include <io/files.hpp>

#include "../readers.hpp"

static std::vector<std::string> seeds_of_safetensors_header() {
  return {
      io_test::safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"__metadata__":{"k":"v"}})", fuzz::numbers(2)),
      io_test::safetensors_bytes(R"({"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},"__metadata__":null})", "ab")};
}

FUZZ_TARGET(safetensors_header) {
  fuzz::accepted([&] {
    const fuzz::SafetensorsHeader header = fuzz::parse_safetensors_header(bytes, "fuzzed");
    for (const auto& [name, tensor] : header.tensors)
      fuzz::require(tensor.begin <= bytes.size() && tensor.bytes <= bytes.size() - tensor.begin, "a tensor lies in its file");
  });
}
