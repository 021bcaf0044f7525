// A .safetensors file, header and numbers.
#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/safetensors.hpp>

#include <io/files.hpp>

#include "../readers.hpp"

static std::vector<std::string> seeds_of_safetensors() {
  using io_test::safetensors_bytes;
  return {
      safetensors_bytes(R"({"__metadata__":{"format":"pt","config":"{\"a\":1}"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                        R"("b":{"dtype":"F16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"I64","shape":[],"data_offsets":[32,40]}})",
                        fuzz::numbers(10)),
      safetensors_bytes(
          R"(  {"x":{"dtype":"BF16","shape":[1,2,2],"data_offsets":[0,8]},"y":{"dtype":"F4","shape":[8],"data_offsets":[8,12]}})",
          fuzz::numbers(3)),
      safetensors_bytes(R"({"t":{"dtype":"BOOL","shape":[3,0],"data_offsets":[0,0]},"u":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},)"
                        R"("v":{"dtype":"U8","shape":[2,2],"data_offsets":[8,12]},"w":{"dtype":"I32","shape":[1],"data_offsets":[12,16]}})",
                        fuzz::numbers(4))};
}

FUZZ_TARGET(safetensors) {
  fuzz::accepted([&] {
    const fuzz::SafetensorsSource<float> source{fuzz::SafetensorsCheckpoint(fuzz::file_of(bytes))};
    fuzz::read_everything(source);
    for (const std::string& name : source.names()) fuzz::accepted([&] { (void)source.checkpoint().read_integers(name); });
    (void)fuzz::read_metadata_configuration(source.checkpoint().files().front());
  });
}
