// rwkv.cpp's binary format: the public files, blocks, and files that are wrong.
#include <cmath>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/open_checkpoint.hpp>

#include "archives.hpp"
#include "files.hpp"

using namespace implicit_attention;
using namespace io_test;

namespace {

// The records as they stand, read by another few lines.
std::map<std::string, std::vector<float>> records(const std::string& bytes) {
  std::map<std::string, std::vector<float>> all;
  const auto word = [&](std::size_t at) {
    std::uint32_t value;
    std::memcpy(&value, bytes.data() + at, 4);
    return value;
  };
  for (std::size_t at = 24; at < bytes.size();) {
    const std::size_t axes = word(at), length = word(at + 4);
    std::size_t count = 1;
    for (std::size_t axis = 0; axis < axes; ++axis) count *= word(at + 12 + 4 * axis);
    at += 12 + 4 * axes;
    std::vector<float> numbers(count);
    std::memcpy(numbers.data(), bytes.data() + at + length, 4 * count);
    all[bytes.substr(at, length)] = numbers;
    at += length + 4 * count;
  }
  return all;
}

}  // namespace

TEST_CASE("rwkv.cpp: RWKV-4's file is the model that Hugging Face's is", "[io]") {
  const auto binary = test_support::shared_data("realdata/rwkv-tiny/tiny-rwkv-4v0-660K-FP32.bin");
  const auto folder = test_support::shared_data("realdata/rwkv4-tiny");
  if (!binary || !folder) {
    WARN(test_support::shared_data_missing("realdata/rwkv-tiny"));
    return;
  }
  const Checkpoint<float> ours = open_checkpoint<float>(*binary), theirs = open_checkpoint<float>(*folder);
  CHECK(ours.format == "rwkv.cpp");
  CHECK(ours.configuration.text({"model_type"}) == "rwkv");
  CHECK(ours.configuration.text({"rwkv_version"}) == "4");
  CHECK(ours.configuration.integer({"num_hidden_layers"}) == 4);
  double largest = 0;
  const auto compare = [&](const std::string& name, const std::string& public_name) {
    INFO(name);
    REQUIRE(theirs.source->has(public_name));
    CHECK(ours.source->shape(name) == theirs.source->shape(public_name));
    const Array<float> a = ours.source->read(name), b = theirs.source->read(public_name);
    if (name.ends_with("time_decay"))
      largest = larger(largest, static_cast<double>((a.matrix() - b.matrix()).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
    else
      CHECK(a.matrix() == b.matrix());
  };
  compare("emb.weight", "rwkv.embeddings.weight");
  compare("blocks.0.ln0.weight", "rwkv.blocks.0.pre_ln.weight");
  for (int layer = 0; layer < 4; ++layer)
    for (const auto& [name, public_name] :
         std::vector<std::pair<std::string, std::string>>{{"att.time_decay", "attention.time_decay"},
                                                          {"att.time_first", "attention.time_first"},
                                                          {"att.time_mix_k", "attention.time_mix_key"},
                                                          {"att.output.weight", "attention.output.weight"},
                                                          {"ffn.time_mix_r", "feed_forward.time_mix_receptance"},
                                                          {"ffn.value.weight", "feed_forward.value.weight"}})
      compare("blocks." + std::to_string(layer) + "." + name, "rwkv.blocks." + std::to_string(layer) + "." + public_name);
  // The logarithm of what the file rounded to float: half a unit of the rate, relative, and one rounding of the result.
  CHECK(largest < 1e-6);
}

TEST_CASE("rwkv.cpp: versions 5 to 7 come back under BlinkDL's names and shapes", "[io]") {
  struct Case {
    std::string file, version;
    double eps;
  };
  for (const Case& each : {Case{"tiny-rwkv-5v1-730K-FP32.bin", "5.1", 1e-5}, Case{"tiny-rwkv-5v2-730K-FP32.bin", "5.2", 1e-5},
                           Case{"tiny-rwkv-6v0-1m-FP32.bin", "6", 64e-5}, Case{"tiny-rwkv-7v0-834K-FP32.bin", "7", 64e-5}}) {
    INFO(each.file);
    const auto path = test_support::shared_data("realdata/rwkv-tiny/" + each.file);
    if (!path) {
      WARN(test_support::shared_data_missing("realdata/rwkv-tiny"));
      return;
    }
    const Checkpoint<float> checkpoint = open_checkpoint<float>(*path);
    const TensorSource<float>& source = *checkpoint.source;
    const auto raw = records(read_bytes(*path));
    CHECK(checkpoint.configuration.text({"rwkv_version"}) == each.version);
    CHECK(checkpoint.configuration.text({"model_type"}) == "rwkv" + each.version.substr(0, 1));
    CHECK(checkpoint.configuration.number({"group_norm_epsilon"}) == each.eps);
    CHECK(checkpoint.configuration.integer({"head_size"}) == (each.version == "7" ? 64 : 8));
    using S = std::vector<Index>;
    const std::string att = "blocks.11.att.";
    const auto same = [&](const std::string& name, const std::string& own, const S& shape) {
      INFO(name);
      CHECK(source.shape(name) == shape);
      const Array<float> read = source.read(name);
      const std::vector<float>& numbers = raw.at(own);
      REQUIRE(read.size() == static_cast<Index>(numbers.size()));
      for (Index i = 0; i < read.size(); ++i) REQUIRE(read(i / read.cols(), i % read.cols()) == numbers[static_cast<std::size_t>(i)]);
    };
    const auto turned = [&](const std::string& name, Index rows, Index columns) {
      INFO(name);
      CHECK(source.shape(name) == S{rows, columns});
      const Array<float> read = source.read(name);
      REQUIRE(source.stored(name));  // float: no copy is needed to turn it
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < columns; ++j) REQUIRE(read(i, j) == raw.at(name)[static_cast<std::size_t>(j * rows + i)]);
    };
    if (each.version.front() == '5') {
      same(att + "time_decay_factor", att + "time_decay", each.version == "5.1" ? S{8} : S{8, 8});
      const Array<float> factor = source.read(att + "time_decay_factor");
      CHECK(factor.matrix().minCoeff() > 0);
      CHECK(factor.matrix().maxCoeff() < 1);
      CHECK_FALSE(source.has(att + "time_decay"));
      if (each.version == "5.1")
        same(att + "time_first_factor", att + "time_first", {8});
      else
        same(att + "time_faaaa", att + "time_faaaa", {8, 8});
      same(att + "time_mix_r", att + "time_mix_r", {1, 1, 64});
    } else if (each.version == "6") {
      same(att + "time_decay", att + "time_decay", {1, 1, 64});
      same(att + "time_maa_x", att + "time_maa_x", {1, 1, 64});
      turned(att + "time_maa_w1", 64, 160);
      turned(att + "time_decay_w2", 64, 64);
      CHECK(source.shape(att + "time_maa_w2") == S{5, 32, 64});
      const Array<float> w2 = source.read(att + "time_maa_w2");
      for (Index m = 0; m < 5; ++m)
        for (Index i = 0; i < 32; ++i)
          for (Index j = 0; j < 64; ++j)
            REQUIRE(w2(m * 32 + i, j) == raw.at(att + "time_maa_w2")[static_cast<std::size_t>((m * 64 + j) * 32 + i)]);
    } else {
      for (int i = 0; i < 6; ++i) {
        const std::string name = att + "x_" + std::string("rwkvag").substr(static_cast<std::size_t>(i), 1);
        CHECK(source.shape(name) == S{1, 1, 64});
        const Array<float> mix = source.read(name);
        for (Index j = 0; j < 64; ++j) REQUIRE(mix(0, j) == raw.at(att + "x_rwkvag")[static_cast<std::size_t>(i * 64 + j)]);
      }
      turned(att + "g1", 64, 32);
      turned(att + "v2", 32, 64);
      same(att + "r_k", att + "r_k", {1, 64});
      same(att + "w0", att + "w0", {1, 1, 64});
      same("blocks.11.ffn.x_k", "blocks.11.ffn.x_k", {1, 1, 64});
    }
  }
}

TEST_CASE("rwkv.cpp: blocks are read, and turned when they have to be", "[io]") {
  const TemporaryFolder folder;
  const auto q8 = [](int rows, int columns) {
    std::string all;
    for (int row = 0; row < rows; ++row)
      for (int block = 0; block < columns / 32; ++block) {
        all += u16(0x3C00);  // a scale of 1
        for (int i = 0; i < 32; ++i) all += static_cast<char>(row + i + 32 * block);
      }
    return all;
  };
  const std::string width(4 * 64, '\0');
  write_bytes(folder / "q.bin", rwkv_header(101, 2, 64, 1, 9) + rwkv_record("blocks.0.att.r_k", {1, 64}, width) +
                                    rwkv_record("blocks.0.att.w1", {3, 64}, q8(3, 64), 9) +
                                    rwkv_record("head.weight", {2, 64}, q8(2, 64), 9));
  const Checkpoint<float> checkpoint = open_checkpoint<float>(folder.path());
  CHECK(checkpoint.source->stored("head.weight")->dtype == Dtype::Q8_0);
  CHECK(checkpoint.source->read("head.weight")(1, 40) == 41);
  CHECK(checkpoint.source->shape("blocks.0.att.w1") == std::vector<Index>{64, 3});
  CHECK(checkpoint.source->read("blocks.0.att.w1")(40, 2) == 42);
  CHECK_FALSE(checkpoint.source->stored("blocks.0.att.w1"));
}

TEST_CASE("rwkv.cpp: what is wrong is said", "[io]") {
  const TemporaryFolder folder;
  const std::string header = rwkv_header(101, 2, 4, 1), row = bytes_of<float>({1, 2, 3, 4}),
                    decay = rwkv_record("blocks.0.att.time_decay", {4}, row);
  struct Bad {
    std::string what, bytes;
    std::vector<std::string> needles;
  };
  for (const Bad& bad : std::vector<Bad>{
           {"a header cut", header.substr(0, 10), {"cut short"}},
           {"another version", rwkv_header(102, 2, 4, 1) + decay, {"format 102", "100 or 101"}},
           {"a size of 0", rwkv_header(101, 2, 0, 1) + decay, {"a size of 0"}},
           {"an unknown type in the header", rwkv_header(101, 2, 4, 1, 66) + decay, {"header says type 66"}},
           {"no tensors", header, {"no RWKV known here"}},
           {"five axes", header + u32(5) + u32(1) + u32(0), {"5 axes"}},
           {"a long name", header + u32(1) + u32(100000) + u32(0) + u32(4), {"name of 100000 bytes"}},
           {"an unknown type", header + rwkv_record("x", {4}, row, 42), {"tensor x", "type 42"}},
           {"numbers cut", header + decay.substr(0, decay.size() - 1), {"cut short"}},
           {"a shape that is too large", header + rwkv_record("x", {4294967295, 4294967295, 4294967295}, row), {"tensor x", "shape"}},
           {"a large shape", header + rwkv_record("x", {65536, 65536}, row), {"cut short"}},
           {"a size of 0 in a shape", header + rwkv_record("x", {0, 4}, ""), {"tensor x", "(0, 4)"}},
           {"half a block", header + rwkv_record("x", {4}, row, 2), {"tensor x", "(4) of Q4_0"}},
           {"blocks of old",
            rwkv_header(100, 2, 4, 1) + rwkv_record("x", {32}, std::string(18, '\0'), 2),
            {"tensor x", "quantise the model again"}},
           {"a tensor twice", header + decay + decay, {"appears twice"}},
           {"a mix of another width",
            header + decay + rwkv_record("blocks.0.att.time_mix_k", {3}, row.substr(4)),
            {"time_mix_k", "(3)", "(1, 1, 4)"}},
           {"joined mixes of another width",
            header + rwkv_record("blocks.0.att.r_k", {1, 4}, row) + rwkv_record("blocks.0.att.x_rwkvag", {4}, row),
            {"x_rwkvag", "(6, 4)"}},
           {"joined mixes beside one of them",
            header + rwkv_record("blocks.0.att.r_k", {1, 4}, row) + rwkv_record("blocks.0.att.x_k", {4}, row) +
                rwkv_record("blocks.0.att.x_rwkvag", {6, 4}, row + row + row + row + row + row),
            {"tensor blocks.0.att.x_rwkvag: appears twice, once as its parts"}}}) {
    INFO(bad.what);
    write_bytes(folder / "bad.bin", bad.bytes);
    const auto error = error_of([&] { (void)open_checkpoint<float>(folder / "bad.bin"); });
    REQUIRE(error);
    CHECK_THAT(error->message, contains_text((folder / "bad.bin").string()));
    for (const std::string& needle : bad.needles) CHECK_THAT(error->message, contains_text(needle));
  }
}
