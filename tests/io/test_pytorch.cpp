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
