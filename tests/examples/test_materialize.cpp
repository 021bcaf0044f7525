// `materialize` as people run it: its numbers against the golden cases and against each other, its pictures, its complaints.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <examples/programs.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>

namespace {

using namespace implicit_attention;
using namespace example_test;

const std::string sentence = "a gripping and moving film , though the ending is a little dull <cls>";

std::string architecture_of(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.substr(0, name.find('_'));
}

std::vector<std::string> arguments_for(const fs::path& golden) {
  std::vector<std::string> arguments{"--arch",  architecture_of(golden), "--weights", golden.string(), "--prefix", "weight.",
                                     "--input", golden.string()};
  if (SafetensorsFile(golden).find("input.position_ids")) {
    arguments.push_back("--positions");
    arguments.push_back(golden.string() + ":input.position_ids");
  }
  return arguments;
}

void check_same(const SafetensorsFile& file, const std::string& tensor, const SafetensorsFile& golden, const std::string& expected,
                double tolerance) {
  INFO(golden.where() << ", " << expected);
  REQUIRE(file.info(tensor).shape == golden.info(expected).shape);
  const Matrix<double> a = file.read<double>(tensor).matrix(), b = golden.read<double>(expected).matrix();
  REQUIRE(a.allFinite());  // a NaN might not be the largest
  CHECK((a - b).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <= tolerance * b.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
}

// Tolerances as in the layers' own tests: double, sums of some hundred terms behind exponentials of arguments up to 1e2; float, the same
// in 6e-8.
void check_golden(const fs::path& path) {
  const TemporaryFolder folder;
  const SafetensorsFile golden(path);
  const std::map<std::string, std::string> terms = {{"expected.attention", "all"},
                                                    {"expected.published", "published"},
                                                    {"expected.recurrence", "recurrence"},
                                                    {"expected.published_without_gate", "recurrence,activation,convolution"},
                                                    {"expected.recurrence_and_normalization", "recurrence,normalization"}};
  std::vector<std::pair<std::string, std::string>> asked(terms.begin(), terms.end());
  // The named sets where the published formula has a scale that is a term of its own here.
  if (path.filename().string().rfind("griffin_", 0) == 0)
    asked.insert(asked.end(), {{"expected.recurrence_and_normalization", "recurrence"}, {"expected.attention", "published"}});
  if (path.filename().string().rfind("rwkv4_", 0) == 0)
    asked.insert(asked.end(), {{"expected.without_gate", "recurrence"}, {"expected.attention", "published"}});
  for (const auto& [name, terms_text] : asked) {
    if (!golden.find(name)) continue;
    for (const std::string precision : {"float64", "float32"}) {
      std::vector<std::string> arguments = arguments_for(path);
      const fs::path out = folder / "out.safetensors";
      arguments.insert(arguments.end(), {"--terms", terms_text, "--precision", precision, "--out", out.string()});
      run_well(folder, "materialize", arguments);
      const SafetensorsFile file(out);
      const double tolerance = precision == "float64" ? 1e-12 : 2e-5;
      CHECK(file.info("attention").dtype == (precision == "float64" ? Dtype::F64 : Dtype::F32));
      check_same(file, "attention", golden, name, tolerance);
      for (const char* other : {"linear_input", "y", "out"}) check_same(file, other, golden, std::string("expected.") + other, tolerance);
    }
  }
}

}  // namespace

TEST_CASE("materialize: golden cases kept here", "[materialize]") {
  for (const auto& entry : fs::directory_iterator(fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "tests" / "data"))
    if (entry.path().extension() == ".safetensors" && architecture_of(entry.path()) != "lm" && architecture_of(entry.path()) != "rollout")
      check_golden(entry.path());
}

TEST_CASE("materialize: golden cases of the shared data", "[materialize]") {
  const auto shared = test_support::shared_data("golden");
  if (!shared) {
    WARN(test_support::shared_data_missing("golden"));
    return;
  }
  // One of each architecture with a batch in front: the layers' own tests have all of them.
  for (const char* name :
       {"mamba_seed03_projbias_dconv3_B3_L17", "rwkv4_seed03_attnhidden_ne_hidden_L16", "griffin_seed10_packed_documents_L24"})
    if (const fs::path path = *shared / (std::string(name) + ".safetensors"); fs::exists(path)) check_golden(path);
}

TEST_CASE("materialize: the recurrence of each head is the published one", "[materialize]") {
  const auto shared = test_support::shared_data("golden");
  if (!shared) {
    WARN(test_support::shared_data_missing("golden"));
    return;
  }
  const TemporaryFolder folder;
  for (const char* name : {"mlla_seed00_4x4_B2", "mlla_seed02_5x5_larger", "mlstm_seed00_realistic_B2_L16", "gdn_seed13_fla_convbias_L24",
                           "mamba3_seed08_mimo_rank2_L20", "mamba2_seed00_realistic_B2_L24"}) {
    const fs::path path = *shared / (std::string(name) + ".safetensors"), out = folder / "heads.safetensors";
    if (!fs::exists(path)) continue;
    INFO(name);
    std::vector<std::string> arguments = arguments_for(path);
    arguments.insert(arguments.end(), {"--heads", "all", "--precision", "float64", "--out", out.string()});
    run_well(folder, "materialize", arguments);
    const SafetensorsFile golden(path), file(out);
    CHECK(file.info("recurrence").shape == golden.info("expected.recurrence").shape);
    check_same(file, "recurrence", golden, "expected.recurrence", 1e-12);
    check_same(file, "attention", golden, "expected.attention", 1e-12);
  }
}

TEST_CASE("materialize: every layer of the shipped models reconstructs its output", "[materialize]") {
  const TemporaryFolder folder;
  const fs::path out = folder / "out.safetensors";
  for (const auto& [model, layers] : std::map<std::string, int>{{"mamba", 2}, {"rwkv4", 2}, {"griffin", 3}})
    for (int layer = 0; layer < layers; ++layer) {
      INFO(model << ", layer " << layer);
      run_well(folder, "materialize",
               {"--model", models + model, "--layer", std::to_string(layer), "--text", sentence, "--precision", "float64", "--out",
                out.string()});
      const SafetensorsFile file(out);
      const std::vector<Index> shape = file.info("attention").shape;
      REQUIRE(shape.size() == 3);
      CHECK(shape[1] == 14);
      CHECK(shape[2] == 14);
      CHECK(file.info("bias").shape == std::vector<Index>{shape[0], 14});
      CHECK(file.info("out").shape == std::vector<Index>{14, 48});
      const Matrix<double> A = file.read<double>("attention").matrix(), bias = file.read<double>("bias").matrix(),
                           x = file.read<double>("linear_input").matrix(), y = file.read<double>("y").matrix();
      double difference = 0;
      for (Index e = 0; e < shape[0]; ++e) {
        const Matrix<double> again = A.middleRows(e * 14, 14) * x.col(e) + bias.row(e).transpose();
        difference = larger(difference, (again - y.col(e)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
      }
      CHECK(difference <= 1e-12 * y.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    }
}

TEST_CASE("materialize: channels, rows, reductions and formats are parts of the whole", "[materialize]") {
  const TemporaryFolder folder;
  const std::vector<std::string> start{"--model", models + "mamba", "--layer", "1", "--text", sentence, "--precision", "float64"};
  const auto result = [&](const std::vector<std::string>& more, const std::string& name) {
    run_well(folder, "materialize", with(start, with(more, {"--out", (folder / name).string()})));
    return folder / name;
  };
  const SafetensorsFile whole(result({}, "whole.safetensors"));
  const Matrix<double> A = whole.read<double>("attention").matrix(), bias = whole.read<double>("bias").matrix();

  const SafetensorsFile part(result({"--channels", "7,0-1", "--rows", "last"}, "part.safetensors"));
  REQUIRE(part.info("attention").shape == std::vector<Index>{3, 1, 14});
  const Matrix<double> chosen = part.read<double>("attention").matrix();
  // The walks of one row and of a block may add in another order: a few roundings of the largest entry.
  const double tolerance = 1e-14 * A.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
  CHECK((chosen.row(0) - A.row(7 * 14 + 13)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <= tolerance);
  CHECK((chosen.row(2) - A.row(1 * 14 + 13)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <= tolerance);
  REQUIRE(part.info("bias").shape == std::vector<Index>{3, 1});
  CHECK(part.read<double>("bias")(0, 0) == bias(7, 13));
  CHECK(part.info("y").shape == std::vector<Index>{14, 96});

  const SafetensorsFile reduced(result({"--reduce", "mean-abs", "--rows", "3,5"}, "reduced.safetensors"));
  REQUIRE(reduced.info("attention").shape == std::vector<Index>{2, 14});
  Matrix<double> mean = Matrix<double>::Zero(2, 14);
  for (Index e = 0; e < 96; ++e) {
    mean.row(0) += A.row(e * 14 + 3).cwiseAbs() / 96;
    mean.row(1) += A.row(e * 14 + 5).cwiseAbs() / 96;
  }
  CHECK((reduced.read<double>("attention").matrix() - mean).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <= tolerance);

  const std::string npy = io_test::read_bytes(result({}, "whole.npy"));
  CHECK_THAT(npy.substr(0, 128), contains_text("'descr': '<f8', 'fortran_order': False, 'shape': (96, 14, 14)"));
  const auto bytes = static_cast<std::size_t>(A.size()) * sizeof(double);
  REQUIRE(npy.size() > bytes);
  CHECK(std::equal(npy.end() - static_cast<std::ptrdiff_t>(bytes), npy.end(), reinterpret_cast<const char*>(A.data())));

  const auto is_png = [](const fs::path& path) { return io_test::read_bytes(path).rfind("\x89PNG\r\n", 0) == 0; };
  CHECK(is_png(result({"--reduce", "mean"}, "reduced.png")));
  CHECK(is_png(result({"--channels", "0-3", "--rows", "4,9"}, "panels.png")));
  CHECK(is_png(result({}, "all.png")));  // 96 channels: their mean of absolute values, and it says so
}

TEST_CASE("materialize: input without a batch, tensors by name, weights found without a prefix", "[materialize]") {
  const TemporaryFolder folder;
  const fs::path golden = fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "tests" / "data" / "mamba_seed06_L2_lt_conv.safetensors";
  const Matrix<float> input = SafetensorsFile(golden).read<float>("input.hidden_states").matrix().topRows(2);
  const fs::path states = folder / "states.safetensors", out = folder / "out.safetensors", other = folder / "other.safetensors";
  write_safetensors(states, {{"u", input}, {"v", Matrix<float>(2 * input)}});
  run_well(folder, "materialize",
           {"--arch", "mamba", "--weights", golden.string(), "--input", states.string() + ":u", "--precision", "float64", "--out",
            out.string()});
  run_well(folder, "materialize",
           {"--arch", "mamba", "--weights", golden.string(), "--prefix", "weight", "--input", golden.string(), "--precision", "float64",
            "--out", other.string()});
  const SafetensorsFile one(out), batch(other);
  REQUIRE(one.info("attention").shape.size() == 3);
  REQUIRE(batch.info("attention").shape.size() == 4);
  const Array<double> a = one.read<double>("attention"), b = batch.read<double>("attention");
  CHECK(a.matrix() == b.matrix().topRows(a.rows()));
}

TEST_CASE("materialize: a mask beside the input says which tokens are text", "[materialize]") {
  const TemporaryFolder folder;
  const fs::path golden = fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "tests" / "data" / "mamba_seed06_L2_lt_conv.safetensors";
  const Matrix<double> input = SafetensorsFile(golden).read<double>("input.hidden_states").matrix().topRows(2);
  // Five tokens, of which the golden two are 1 and 2.
  Matrix<double> padded = Matrix<double>::Constant(5, input.cols(), 0.5);
  padded.middleRows(1, 2) = input;
  using Mask = std::vector<std::int64_t>;
  const auto attention = [&](const std::string& name, const Matrix<double>& states, std::vector<TensorToWrite> tensors) {
    const fs::path file = folder / (name + ".safetensors"), out = folder / (name + "_out.safetensors");
    tensors.push_back({"input.hidden_states", states});
    write_safetensors(file, tensors);
    run_well(folder, "materialize",
             {"--arch", "mamba", "--weights", golden.string(), "--prefix", "weight", "--input", file.string(), "--precision", "float64",
              "--out", out.string()});
    return SafetensorsFile(out).read<double>("attention");
  };
  const Array<double> two = attention("two", input, {}), all = attention("all", padded, {});
  REQUIRE(all.cols() == 5);
  // The matrices of the text by itself, and zeros where a row or a column is padding.
  Matrix<double> expected = Matrix<double>::Zero(all.rows(), 5);
  for (Index channel = 0; channel < all.rows() / 5; ++channel)
    expected.block(5 * channel + 1, 1, 2, 2) = two.middle_rows(2 * channel, 2).matrix();
  REQUIRE((all.matrix() - expected).norm() > 1e-3 * expected.norm());  // without a mask the numbers are others
  const Mask middle{0, 1, 1, 0, 0}, other{1, 1, 1, 1, 1};
  CHECK(attention("alone", padded, {{"attention_mask", middle}}).matrix() == expected);
  CHECK(attention("input", padded, {{"input.attention_mask", middle}}).matrix() == expected);
  // Where both are there, the one of the input counts.
  CHECK(attention("both", padded, {{"attention_mask", other}, {"input.attention_mask", middle}}).matrix() == expected);
  // Whatever type the file has for it: truth values, as torch's masks are, are written here, where the library's writer has none.
  const auto rewritten = [&](const std::string& from, const std::string& to) {
    const fs::path file = folder / "typed.safetensors";
    write_safetensors(file, {{"input.hidden_states", padded}, {"attention_mask", middle}});
    std::string bytes = io_test::read_bytes(file);
    std::uint64_t length = 0;
    for (std::size_t k = 8; k-- > 0;) length = 256 * length + static_cast<unsigned char>(bytes[k]);
    nlohmann::json header = nlohmann::json::parse(bytes.substr(8, length));
    const std::string states = bytes.substr(8 + length + header["input.hidden_states"]["data_offsets"][0].get<std::size_t>(),
                                            sizeof(double) * static_cast<std::size_t>(padded.size()));
    header["input.hidden_states"]["data_offsets"] = {0, states.size()};
    header["attention_mask"] = {{"dtype", from}, {"shape", {5}}, {"data_offsets", {states.size(), states.size() + to.size()}}};
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    std::string size(8, '\0');
    for (std::size_t k = 0; k < 8; ++k) size[k] = static_cast<char>(text.size() >> (8 * k) & 255U);
    io_test::write_bytes(file, size + text + states + to);
    return file;
  };
  const std::vector<std::string> ask{"--arch", "mamba", "--weights", golden.string(), "--prefix", "weight", "--precision", "float64"};
  const std::string zero(4, '\0'), one("\0\0\x80\x3f", 4);
  for (const auto& [type, mask] : {std::pair(std::string("BOOL"), std::string("\0\1\1\0\0", 5)),
                                   {"U8", std::string("\0\1\1\0\0", 5)},
                                   {"F32", zero + one + one + zero + zero}}) {
    INFO(type);
    const fs::path out = folder / "typed_out.safetensors";
    run_well(folder, "materialize", with(ask, {"--input", rewritten(type, mask).string(), "--out", out.string()}));
    CHECK(SafetensorsFile(out).read<double>("attention").matrix() == expected);
  }
  check_mistake("materialize", with(ask, {"--input", rewritten("F32", zero + one + std::string("\0\0\0\x3f", 4) + zero + zero).string()}),
                "tensor attention_mask is 0.5 at token 2 of sequence 0, expected 0 where there is padding, else 1", "out.safetensors");
  check_mistake("materialize", with(ask, {"--input", rewritten("U8", std::string("\0\1\1\2\0", 5)).string()}),
                "tensor attention_mask is 2 at token 3 of sequence 0", "out.safetensors");
  CHECK(attention("both_others", padded, {{"attention_mask", middle}, {"input.attention_mask", other}}).matrix() == all.matrix());
}

TEST_CASE("materialize: weights may be a model's folder, and a mask is not taken for the input", "[materialize]") {
  const TemporaryFolder folder;
  const fs::path states = folder / "states.safetensors", named = folder / "named.safetensors", found = folder / "found.safetensors";
  const Matrix<float> input = Matrix<float>::Random(4, 48);
  write_safetensors(states, {{"u", input}, {"attention_mask", std::vector<std::int64_t>{0, 1, 1, 1}}});
  const auto layer = [&](const std::string& weights, const std::string& from, const fs::path& out) {
    run_well(folder, "materialize",
             {"--arch", "mamba", "--weights", weights, "--prefix", "backbone.layers.0.mixer.", "--input", from, "--out", out.string()});
    return SafetensorsFile(out).read<float>("attention");
  };
  const Array<float> expected = layer(models + "mamba/model.safetensors", states.string() + ":u", named);
  CHECK(layer(models + "mamba", states.string(), found).matrix() == expected.matrix());
}

TEST_CASE("materialize: a configuration of a model that has other layers is refused", "[materialize]") {
  const TemporaryFolder folder;
  const std::string golden = (fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "tests" / "data" / "mamba_seed06_L2_lt_conv.safetensors").string();
  const fs::path config = folder / "config.json";
  const std::vector<std::string> ask{"--arch", "mamba", "--weights", golden, "--input", golden, "--config", config.string()};
  for (const char* type : {"rwkv7", "mamba2", "llama"}) {
    io_test::write_bytes(config, detail::message("{\"model_type\": \"", type, "\"}"));
    check_mistake("materialize", ask,
                  detail::message("config.json: key model_type is ", type, ", expected one of mamba, falcon_mamba, jamba"),
                  "out.safetensors");
  }
  io_test::write_bytes(config, R"({"model_type": "mamba"})");
  run_well(folder, "materialize", with(ask, {"--out", (folder / "out.safetensors").string()}));
}

TEST_CASE("materialize: a configuration is taken from the metadata of another file of tensors", "[materialize]") {
  const TemporaryFolder folder;
  const std::string input = (folder / "qkv.safetensors").string(), bare = (folder / "bare.safetensors").string();
  const std::string json = (folder / "config.json").string(), carrier = (folder / "carrier.safetensors").string();
  const std::vector<double> numbers = {0.5, -0.25, 1, 0.5, 0.75, -0.5, 0.25, 2, 1, 0.5, -0.25, 1};
  const auto tensor = [&](const char* name) { return TensorToWrite{name, {numbers.data(), {3, 2, 2}}}; };
  write_safetensors(input, {tensor("input.q"), tensor("input.k"), tensor("input.v")});
  const std::string config = R"({"num_heads": 2, "normalize": false})";
  io_test::write_bytes(json, config);
  write_safetensors(carrier, {tensor("other")}, {{"config", config}});
  write_safetensors(bare, {tensor("other")});
  const auto attention = [&](const std::string& given) {
    const std::string out = (folder / "out.safetensors").string();
    run_well(
        folder, "materialize",
        {"--arch", "linear_attention", "--weights", input, "--input", input, "--config", given, "--precision", "float64", "--out", out});
    return Matrix<double>(SafetensorsFile(out).read<double>("attention").matrix());
  };
  CHECK(attention(carrier) == attention(json));
  check_mistake("materialize", {"--arch", "linear_attention", "--weights", input, "--input", input, "--config", bare},
                "bare.safetensors: its metadata has no config, expected a JSON object under that key", "out.safetensors");
}

TEST_CASE("materialize: a file of a mask alone holds no input", "[materialize]") {
  const TemporaryFolder folder;
  const fs::path golden = fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "tests" / "data" / "mamba_seed06_L2_lt_conv.safetensors";
  for (const std::string name : {"attention_mask", "input.attention_mask"}) {
    INFO(name);
    const std::string file = (folder / "mask.safetensors").string();
    write_safetensors(file, {{name, std::vector<std::int64_t>{0, 1, 1, 1}}});
    check_mistake("materialize", {"--arch", "mamba", "--weights", golden.string(), "--prefix", "weight", "--input", file},
                  "mask.safetensors holds no input; name the input as " + file + ":TENSOR", "out.safetensors");
  }
}

TEST_CASE("materialize: mistakes are one line, status 2, and no file", "[materialize]") {
  const std::string golden = (fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "tests" / "data" / "mamba_seed06_L2_lt_conv.safetensors").string();
  const std::vector<std::string> layer{"--arch", "mamba", "--weights", golden, "--input", golden};
  const std::vector<std::string> model{"--model", models + "mamba", "--layer", "0", "--tokens", "8,1091,2"};
  struct Case {
    std::vector<std::string> arguments;
    std::string words, out = "out.safetensors";
  };
  const std::vector<Case> cases = {
      {{}, "expected --arch, --weights and --input, or --model"},
      {layer, "--out is required", ""},
      {with(layer, {"--terms", "gates"}), "unknown term \"gates\", expected all, published"},
      {with(layer, {"--terms", ""}), "--terms: the value is empty"},
      {with(layer, {"--rows", "2"}), "row 2 is out of range, expected 0 to 1"},
      {with(layer, {"--channels", "16"}), "channel 16 is out of range, expected 0 to 15"},
      {with(layer, {"--channels", "5-3"}), "5-3 is not a range"},
      {with(layer, {"--channels", "1,,2"}), "is not a list of numbers, expected for example 0,5-7"},
      {with(layer, {"--rows", "first"}), "\"first\" is not a list of numbers"},
      {with(layer, {"--rows", "-1"}), "--rows"},
      {with(layer, {"--rows", "99999999999999999999"}), "too large a number, expected at most 9223372036854775807"},
      {with(layer, {"--rows", "-99999999999999999999"}), "\"-99999999999999999999\" is not a list of numbers"},
      {with(layer, {"--rows", "0-99999999999"}), "the list is longer than the 10000000 numbers that one may have"},
      {with(layer, {"--rows", "0-9999998,0-9999998"}), "the list is longer than the 10000000 numbers that one may have"},
      {with(layer, {"--reduce", "sum"}), "--reduce: \"sum\" is unknown, expected none, mean, mean-abs or mean-positive"},
      {with(layer, {"--precision", "float16"}),
       "--precision: \"float16\" is unknown, perhaps float32 is meant, expected float32 or float64"},
      {with(layer, {"--byte-limit", "100"}), "or a reduction over channels (or raise --byte-limit)"},
      {with(layer, {"--byte-limit", "1x"}), "--byte-limit: \"1x\" is not a size, expected for example 4G, 500M or 1000000"},
      {with(layer, {"--byte-limit", "1e400"}), "--byte-limit: \"1e400\" is not a size"},
      {with(layer, {"--byte-limit", "2.5G"}), "--byte-limit: \"2.5G\" is not a size"},
      {with(layer, {"--byte-limit", "99999999999E"}), "--byte-limit: \"99999999999E\" is not a size"},
      {with(layer, {"--byte-limit", "-1"}), "--byte-limit: \"-1\" is not a size"},
      {with(layer, {"--byte-limit", "0 KiB"}), "more than the limit of 0 bytes"},
      {with(layer, {"--prefix", "mixer."}), "no mamba layer has its weights below mixer.; there are weight."},
      {with(layer, {"--positions", golden + ":input.hidden_states"}), "--positions: mamba has none"},
      {with(layer, {"--model", models + "mamba"}), "exclude each other"},
      {with(layer, {"--colour", "red"}), "--colour"},
      {with(layer, {"--config", ""}), "--config: the value is empty"},
      {layer, "expected .safetensors, .npy or .png", "out.txt"},
      {layer, "there is no folder", "nowhere/out.npy"},
      {{"--arch", "mamba9", "--weights", golden, "--input", golden}, "--arch: mamba9"},
      {{"--arch", "mamba2", "--weights", golden, "--input", golden}, "there is no tensor dt_bias"},
      {{"--arch", "rwkv4", "--weights", golden, "--input", golden}, "there is no tensor time_decay, expected the weights of a rwkv4 layer"},
      {{"--arch", "mamba", "--weights", golden}, "--input is missing"},
      {{"--arch", "mamba", "--input", golden}, "--weights is missing"},
      {{"--weights", golden, "--input", golden}, "--arch is missing"},
      {{"--arch", "mamba", "--weights", golden, "--input", golden + ":u"}, "tensor u is missing"},
      {{"--arch", "mamba", "--weights", golden, "--input", golden + ":weight.x_proj.weight"}, "tensor weight.x_proj.weight is ("},
      {{"--arch", "mamba", "--weights", golden, "--input", golden + ":weight.D"}, "expected (tokens, "},
      {{"--arch", "mamba", "--weights", "nothing.safetensors", "--input", golden}, "nothing.safetensors"},
      {{"--arch", "mamba", "--weights", models + "mamba/model.safetensors", "--input", golden}, "several mamba layers are in"},
      {with(model, {"--layer", "2"}), "--layer"},
      {{"--model", models + "mamba", "--layer", "2", "--tokens", "8"}, "--layer: 2 is out of range, expected 0 to 1"},
      {{"--model", models + "mamba", "--layer", "-1", "--tokens", "8"}, "--layer: -1 is out of range, expected 0 to 1"},
      {{"--model", models + "mamba", "--layer", "99999999999999999999", "--tokens", "8"},
       "--layer: 99999999999999999999 is too large a number, expected at most 9223372036854775807"},
      {{"--model", models + "mamba", "--layer", "", "--tokens", "8"}, "--layer: \"\" is not a whole number"},
      {{"--model", models + "mamba", "--layer", "first", "--tokens", "8"}, "--layer"},
      {{"--model", models + "mamba", "--tokens", "8"}, "--layer is missing"},
      {{"--layer", "1", "--tokens", "8"}, "--model is missing"},
      {{"--model", models + "mamba", "--layer", "0"}, "there is nothing to read: expected --text"},
      {{"--model", models + "mamba", "--layer", "0", "--text", ""}, "the text is empty"},
      {{"--model", models + "mamba", "--layer", "0", "--text", " \t "}, "the text is empty"},
      {{"--model", models + "mamba", "--layer", "0", "--tokens", ""}, "is not a list of token ids"},
      {{"--model", models + "mamba", "--layer", "0", "--tokens", "7145"}, "token 0 is 7145, expected 0 to 7144"},
      {{"--model", models + "mamba", "--layer", "0", "--tokens", "1", "--text", "a"}, "--text and --tokens exclude each other"},
      {{"--model", models + "mamba", "--layer", "0", "--text", "a", "--prepend", "<bos>"}, "token \"<bos>\" is not in vocab.json"},
      {{"--model", models + "mamba", "--layer", "0", "--text", "a", "--tokenizer", "bpe"},
       "tokenizer \"bpe\" is neither bytes, symbols or words"},
      {{"--model", "tests", "--layer", "0", "--text", "a"}, "no model here: expected model.safetensors"},
      {{"--model", "no/such/folder", "--layer", "0", "--text", "a"}, "there is no folder no/such/folder"},
      {with(model, {"--reduce", "none"}), "a picture has room for 16 matrices, and these are 96", "out.png"},
      // Before the work that --byte-limit would refuse.
      {with(model, {"--heads", "all", "--byte-limit", "1"}),
       "--heads: every channel of this layer has a matrix of its own, and no head shares one; leave --heads out", "out.safetensors"},
      {with(model, {"--heads", "all", "--terms", "gate"}), "--heads: --terms gate leaves out the recurrence", "out.safetensors"},
  };
  for (const Case& mistake : cases) check_mistake("materialize", mistake.arguments, mistake.words, mistake.out);
}

TEST_CASE("materialize: what stands beside the input is checked as the input is", "[materialize]") {
  const TemporaryFolder folder;
  const double nan = std::nan("");
  const std::vector<double> numbers(16, 0.25), bad = {0.5, nan};
  const std::string cell = (folder / "cell.safetensors").string(), heads = (folder / "heads.safetensors").string(),
                    values = (folder / "values.safetensors").string(), two = (folder / "two.safetensors").string();
  write_safetensors(cell, {{"weight_ih_l0", {numbers.data(), {6, 1}}},
                           {"weight_hh_l0", {numbers.data(), {6, 2}}},
                           {"input.hidden_states", {numbers.data(), {3, 1}}},
                           {"input.h0", {bad.data(), {1, 2}}}});
  write_safetensors(
      heads,
      {{"input.q", {numbers.data(), {2, 2, 2}}}, {"input.k", {numbers.data(), {2, 1, 4}}}, {"input.v", {numbers.data(), {2, 2, 1}}}});
  write_safetensors(
      values, {{"input.q", {numbers.data(), {2, 1, 2}}}, {"input.k", {numbers.data(), {2, 1, 2}}}, {"input.v", {bad.data(), {2, 1, 1}}}});
  check_mistake("materialize", {"--arch", "gru", "--weights", cell, "--input", cell},
                "NaN in the input, row 0, feature 1 (tensor input.h0)", "out.safetensors");
  const auto heads_of = [&](const std::string& count) {
    io_test::write_bytes(folder / ("heads" + count + ".json"), R"({"num_heads": )" + count + "}");
    return (folder / ("heads" + count + ".json")).string();
  };
  const std::string one_head = heads_of("1"), two_heads = heads_of("2");
  check_mistake("materialize", {"--arch", "linear_attention", "--weights", heads, "--input", heads, "--config", two_heads},
                "tensor input.k is (2, 1, 4), expected (2, 2, 2)", "out.safetensors");
  check_mistake("materialize", {"--arch", "linear_attention", "--weights", values, "--input", values, "--config", one_head},
                "(tensor input.v)", "out.safetensors");
  // Finite numbers whose products are not, in float32.
  const std::vector<double> large(16, 1e30);
  const std::string overflows = (folder / "large.safetensors").string();
  write_safetensors(
      overflows,
      {{"input.q", {large.data(), {2, 1, 2}}}, {"input.k", {large.data(), {2, 1, 2}}}, {"input.v", {numbers.data(), {2, 1, 1}}}});
  check_mistake("materialize", {"--arch", "linear_attention", "--weights", overflows, "--input", overflows, "--config", one_head},
                "a number is too large for float32; --precision float64 may hold it", "out.safetensors");
  // Two sequences of three tokens with two heads: the last head of the second sequence's token 1.
  std::vector<double> keys(24, 0.25);
  keys[19] = nan;
  write_safetensors(two, {{"input.q", {std::vector<double>(24, 0.25).data(), {2, 3, 2, 2}}},
                          {"input.k", {keys.data(), {2, 3, 2, 2}}},
                          {"input.v", {std::vector<double>(12, 0.25).data(), {2, 3, 2, 1}}}});
  check_mistake("materialize", {"--arch", "linear_attention", "--weights", two, "--input", two, "--config", two_heads},
                "NaN in the input, token 1, feature 1 (tensor input.k)", "out.safetensors");
}

TEST_CASE("materialize: heads are written where the attention is larger than the limit, which leaves it out and says so", "[materialize]") {
  const TemporaryFolder folder;
  const std::string input = (folder / "qkv.safetensors").string(), config = (folder / "config.json").string();
  std::vector<double> numbers(24);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = 0.1 * static_cast<double>(i % 7) - 0.25;
  write_safetensors(input, {{"input.q", {numbers.data(), {4, 2, 2}}},
                            {"input.k", {numbers.data() + 4, {4, 2, 2}}},
                            {"input.v", {numbers.data() + 8, {4, 2, 2}}}});
  io_test::write_bytes(config, R"({"num_heads": 2})");
  const std::vector<std::string> ask{"--arch", "linear_attention", "--weights", input,     "--input", input, "--config",
                                     config,   "--precision",      "float64",   "--heads", "1"};
  const auto written = [&](const std::vector<std::string>& more) {
    const fs::path out = folder / "out.safetensors";
    const Outcome outcome = run_well(folder, "materialize", with(ask, with(more, {"--out", out.string()})));
    return std::pair(SafetensorsFile(out), without_progress(outcome.err));
  };
  const auto [whole, nothing] = written({});  // 4 channels of 4 x 4 numbers: 512 bytes; one head's 128
  CHECK(nothing.empty());
  const auto recurrence = [](const SafetensorsFile& file) { return Matrix<double>(file.read<double>("recurrence").matrix()); };
  REQUIRE(whole.find("attention") != nullptr);
  const std::vector<std::string> small{"--byte-limit", "200"};
  const auto [heads, said] = written(small);
  CHECK(
      said ==
      "materialize: attention of 16 x 4 numbers takes 512 bytes, more than the limit of 200 bytes, and is left out; --channels 0 adds one "
      "channel's, --reduce mean their mean\n");
  CHECK(heads.find("attention") == nullptr);
  CHECK(heads.info("recurrence").shape == std::vector<Index>{1, 4, 4});
  CHECK(recurrence(heads) == recurrence(whole));
  for (const char* name : {"bias", "linear_input", "y", "out"})
    CHECK(heads.read<double>(name).matrix() == whole.read<double>(name).matrix());
  // What it says, done: both fit, and what was chosen is not left out.
  for (const std::vector<std::string>& way : {std::vector<std::string>{"--channels", "0"}, {"--reduce", "mean"}}) {
    const auto [both, silent] = written(with(small, way));
    CHECK(silent.empty());
    CHECK(both.find("attention") != nullptr);
    CHECK(recurrence(both) == recurrence(whole));
  }
  const std::string out = "out.safetensors";
  check_mistake("materialize", with(ask, with(small, {"--channels", "all"})), "attention of 16 x 4 numbers takes 512 bytes", out);
  check_mistake(
      "materialize", with(ask, {"--byte-limit", "100"}),
      "an array of head maps of 1 x 4 x 4 numbers takes 128 bytes, more than the limit of 100 bytes; ask for fewer heads or fewer rows",
      out);

  // .npy and .png hold the heads alone: options of the attention would do nothing.
  for (const std::string ending : {".npy", ".png"})
    for (const std::vector<std::string>& option :
         {std::vector<std::string>{"--channels", "0"}, {"--reduce", "none"}, {"--terms", "recurrence"}}) {
      check_mistake("materialize", with(ask, option),
                    "--heads and " + option.front() + " exclude each other in " + ending +
                        ", which then holds the heads' recurrence alone; leave one of them out, or write .safetensors, which holds both",
                    "out" + ending);
    }
  CHECK(written({"--terms", "recurrence"}).first.find("attention") != nullptr);
}

TEST_CASE("materialize: linear attention reads q, k and v whichever of its tensors is named, and the model's width is held",
          "[materialize]") {
  const TemporaryFolder folder;
  const std::vector<double> q = {0.5, -0.25, 1, 0.75, 0.25, -1}, k = {1, 0.5, -0.5, 0.25, 0.75, 1}, v = {1, 2, -1};
  const std::string input = (folder / "qkv.safetensors").string(), head = (folder / "head.json").string(),
                    out = (folder / "out.safetensors").string();
  write_safetensors(input, {{"input.q", {q.data(), {3, 1, 2}}}, {"input.k", {k.data(), {3, 1, 2}}}, {"input.v", {v.data(), {3, 1, 1}}}});
  io_test::write_bytes(head, R"({"num_heads": 1})");
  const auto ask = [&](const std::string& named) {
    return std::vector<std::string>{"--arch", "linear_attention", "--weights", input, "--input", named, "--config", head};
  };
  const auto attention = [&](const std::string& named) {
    run_well(folder, "materialize", with(ask(named), {"--precision", "float64", "--out", out}));
    return Matrix<double>(SafetensorsFile(out).read<double>("attention").matrix());
  };
  const Matrix<double> plain = attention(input);
  for (const char* named : {":input.q", ":input.k", ":input.v", ":input.hidden_states"}) CHECK(attention(input + named) == plain);
  check_mistake("materialize", ask(input + ":input.w"), "tensor input.w is missing", "out.safetensors");
  // Side by side, as the layer takes them, whatever the tensor is called; a model's width is not this layer's.
  const std::vector<double> together = {0.5, -0.25, 1, 0.5, 1, 1, 0.75, -0.5, 0.25, 2, 0.25, -1, 0.75, 1, -1};
  const std::string sizes = (folder / "sizes.json").string();
  io_test::write_bytes(sizes, R"({"num_heads": 1, "head_k_dim": 2, "head_v_dim": 1, "hidden_size": 64})");
  for (const std::string name : {"u", "input.hidden_states"}) {
    const std::string beside = (folder / (name + ".safetensors")).string();
    write_safetensors(beside, {{name, {together.data(), {3, 5}}}});
    for (const std::string& named : {beside, beside + ":" + name}) {
      run_well(
          folder, "materialize",
          {"--arch", "linear_attention", "--weights", beside, "--input", named, "--config", sizes, "--precision", "float64", "--out", out});
      CHECK(Matrix<double>(SafetensorsFile(out).read<double>("attention").matrix()) == plain);
    }
  }

  const std::vector<double> numbers(16, 0.25);
  const std::string conv = (folder / "conv.safetensors").string(), wide = (folder / "wide.json").string();
  write_safetensors(conv, {{"in_proj.weight", {numbers.data(), {6, 2}}},
                           {"conv.weight", {numbers.data(), {2, 1, 3}}},
                           {"out_proj.weight", {numbers.data(), {2, 2}}},
                           {"input.hidden_states", {numbers.data(), {3, 2}}}});
  io_test::write_bytes(wide, R"({"hidden_size": 4})");
  check_mistake("materialize", {"--arch", "lfm2", "--weights", conv, "--prefix", "", "--input", conv, "--config", wide},
                "key hidden_size is 4, expected 2", "out.safetensors");
}

TEST_CASE("materialize: NaN in the weights is named, and nothing is written", "[materialize]") {
  const TemporaryFolder folder;
  for (const std::string model : {"mamba", "rwkv4", "griffin"}) {
    const std::string name = first_norm(model), broken = model_with_nan(folder, model, name).string();
    for (const std::string out : {"out.npy", "out.safetensors", "out.png"})
      for (const std::string terms : {"all", "recurrence"})
        check_mistake("materialize", {"--model", broken, "--layer", "0", "--tokens", "8,1091,2", "--reduce", "mean-abs", "--terms", terms},
                      "tensor " + name + " holds NaN at (0, 0), expected finite numbers", out);
  }
}

TEST_CASE("materialize: the help has an example", "[materialize]") {
  const TemporaryFolder folder;
  const Outcome help = run_well(folder, "materialize", {"--help"});
  CHECK(help.err.empty());
  CHECK_THAT(help.out, contains_text("materialize --model examples/models/mamba --layer 1"));
  for (const char* option : {"--arch", "--weights", "--prefix", "--input", "--positions", "--model", "--layer", "--tokens", "--text",
                             "--terms", "--channels", "--rows", "--reduce", "--precision", "--out"})
    CHECK_THAT(help.out, contains_text(option));
}
