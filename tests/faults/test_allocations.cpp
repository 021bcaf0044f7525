// Memory that runs out at any point: std::bad_alloc or an error, nothing half-written, nothing broken for the next call.
#include <algorithm>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include <faults/failing_allocations.hpp>
#include <io/archives.hpp>
#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/io/npy.hpp>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>
#include <implicit_attention/io/tokenizer.hpp>
#include <implicit_attention/models/load.hpp>
#include <implicit_attention/streaming/streaming_attention.hpp>

using namespace implicit_attention;
using namespace io_test;

namespace {

struct Points {
  long tried = 0, errors = 0;
};

/// Lets the first allocation of `call` fail, then the second, and so on until none is left; after 400, one in 37 of them. `after` checks
/// what a failed call has left, and a call that is let alone must end well after every failure.
Points every_allocation_fails(
    const std::function<void()>& call, const std::function<void()>& after = [] {}) {
  call();
  Points points;
  for (long number = 1;; number += number < 400 ? 1 : 37) {
    bool done = false;
    try {
      const fault_test::FailingAllocation failing(number);
      call();
      done = true;
    } catch (const std::bad_alloc&) {
    } catch (const Error&) {  // a system call that found no memory
      ++points.errors;
    }
    if (!fault_test::allocation_failed) break;
    static_cast<void>(done);  // a failure that something knows how to do without, such as a sort's buffer
    ++points.tried;
    after();
    if (points.tried % 16 == 0) call();
  }
  call();
  return points;
}

std::string numbers(std::size_t count) {
  std::string all;
  for (std::size_t i = 0; i < count; ++i) all += bytes_of<float>({static_cast<float>(i) - 2.5F});
  return all;
}

std::string tokenizer_json() {
  return R"j({"added_tokens":[{"id":20,"content":"<|end|>","special":true,"normalized":false}],"normalizer":{"type":"NFC"},
"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{N}{1,3}|\\s+(?!\\S)"},"behavior":"Isolated","invert":false},
 {"type":"ByteLevel","add_prefix_space":true,"use_regex":true}]},"decoder":{"type":"ByteLevel"},
"model":{"type":"BPE","vocab":{"h":1,"i":2,"hi":3,"Ġ":4,"Ġh":5,"Ġhi":6,"1":7},"merges":["h i","Ġ h","Ġh i"]}})j";
}

}  // namespace

TEST_CASE("allocations fail one after the other: checkpoints are read or not") {
  const TemporaryFolder folder;
  namespace p = pickled;
  write_bytes(folder / "a.safetensors",
              safetensors_bytes(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                                R"("b":{"dtype":"F16","shape":[4],"data_offsets":[24,32]}})",
                                numbers(8)));
  write_bytes(folder / "a.pth",
              torch_bytes(p::dictionary({{"w", p::tensor(p::storage("FloatStorage", "0", 12), 0, {4, 3}, {1, 4})}}), {{"0", numbers(12)}}));
  write_bytes(folder / "a.gguf", gguf::file({gguf::string("general.architecture", "mamba"), gguf::integer("mamba.block_count", 1)},
                                            {{"blk.0.ssm_a", {4, 2}, 0, numbers(8)}}));
  write_bytes(folder / "a.bin", rwkv_header(100, 3, 4, 1) + rwkv_record("blocks.0.att.time_decay", {4}, numbers(4)));
  for (const char* name : {"a.safetensors", "a.pth", "a.gguf", "a.bin"}) {
    INFO(name);
    const fs::path path = folder / name;
    const Points points = every_allocation_fails([&] {
      const Checkpoint<double> checkpoint = open_checkpoint<double>(path);
      for (const std::string& tensor : checkpoint.source->names()) (void)checkpoint.source->read(tensor);
    });
    CHECK(points.tried > 20);
  }
  CHECK(folder.entries() == 4);
}

TEST_CASE("allocations fail one after the other: configurations and tokenizers") {
  const TemporaryFolder folder;
  write_bytes(folder / "config.json", R"({"model_type":"mamba","a":{"b":[1,2]},"c":["x","y"],"d":NaN})");
  CHECK(every_allocation_fails([&] { (void)read_configuration(folder.path()).keys(); }).tried > 20);
  write_bytes(folder / "tokenizer.json", tokenizer_json());
  const std::string chosen = (folder / "tokenizer.json").string();
  std::vector<Index> ids;
  const Points points = every_allocation_fails([&] {
    const Tokenizer tokenizer = Tokenizer::open(folder.path(), chosen);
    ids = tokenizer.encode("hi 1<|end|>hi");
    (void)tokenizer.labels(ids);
    (void)tokenizer.decode(ids);
  });
  CHECK(points.tried > 100);
  CHECK(ids == std::vector<Index>{4, 3, 4, 4, 7, 20, 4, 3});  // as they were before anything failed
}

TEST_CASE("allocations fail one after the other: a file that is replaced is the old one or the new one") {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.out";
  const std::vector<float> values{1, 2, 3};
  const auto whole = [&](const std::function<void()>& write) {
    write();
    const std::string expected = read_bytes(path);
    const Points points = every_allocation_fails(
        [&] {
          write_bytes(path, "before");
          write();
        },
        [&] {
          const std::string came = read_bytes(path);
          CHECK((came == "before" || came == expected || came.empty()));
          CHECK(folder.entries() == 1);
        });
    CHECK(points.tried > 5);
    CHECK(read_bytes(path) == expected);
    CHECK(folder.entries() == 1);
  };
  whole([&] { write_npy(path, ArrayToWrite(values.data(), {3})); });
  whole([&] {
    write_safetensors(path, {{"a", ArrayToWrite(values.data(), {1, 3})}, {"b", ArrayToWrite(values.data(), {2})}}, {{"k", "v"}});
  });
}

TEST_CASE("allocations fail one after the other: a model is loaded, run and explained, on threads too") {
  const fs::path path = fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / "tests/data/lm_mamba_seed04_L3_lt_conv_layers2_hidden32.safetensors";
  struct Weights final : TensorSource<float> {
    explicit Weights(const fs::path& file) : source(file) {}
    std::string where() const override { return source.where(); }
    std::vector<std::string> names() const override {
      std::vector<std::string> all;
      for (const std::string& name : source.names())
        if (name.starts_with("weight.")) all.push_back(name.substr(7));
      return all;
    }
    std::optional<std::vector<Index>> shape(std::string_view name) const override { return source.shape("weight." + std::string(name)); }
    Array<float> read(std::string_view name) const override { return source.read("weight." + std::string(name)); }
    SafetensorsSource<float> source;
  };
  const Executor executor = thread_executor(2);
  Matrix<float> expected, came;
  const auto run = [&] {
    const Weights weights(path);
    const SafetensorsFile file(path);
    const Configuration configuration = read_metadata_configuration(file, file.metadata().count("config") != 0 ? "config" : "case");
    const LanguageModel<float> model = load_language_model<float>(weights, configuration);
    ForwardOptions options;
    options.executor = executor;
    const ForwardPass<float> pass = model.forward({1, 2, 0}, options);
    Selection selection;
    selection.executor = executor;
    came = model.implicit_attention(pass, 0).reduce({}, selection);
  };
  run();
  expected = came;
  const Points points = every_allocation_fails(run);
  CHECK(points.tried > 200);
  CHECK(came == expected);
}

TEST_CASE("allocations fail one after the other: a stream is as it was, goes on, or says that it is half-taken") {
  const Index tokens = 40, channels = 18, state = 3;
  test_support::Draw draw(21);
  DiagonalRecurrence<float> all;
  all.tokens = tokens, all.channels = channels, all.state = state;
  all.step = draw.uniforms<float>(tokens, channels, 0.05, 0.6);
  all.rate = draw.uniforms<float>(state, channels, -2, -0.2);
  all.query = draw.normals<float>(tokens, state);
  all.key = draw.normals<float>(tokens, state);
  all.key_scale = all.step;
  const Matrix<float> gate = draw.normals<float>(tokens, channels), norm = draw.normals<float>(tokens, channels);
  const auto piece = [&](Index first, Index count) {
    DiagonalRecurrence<float> some = all;
    some.tokens = count;
    for (Array<float>* array : {&some.step, &some.query, &some.key, &some.key_scale}) *array = array->middle_rows(first, count);
    UnifiedForm<float> form;
    form.recurrence = some;
    form.gate = Matrix<float>(gate.middleRows(first, count));
    form.normalization = Matrix<float>(norm.middleRows(first, count));
    return form;
  };
  const Matrix<float> x = draw.normals<float>(tokens, channels);
  int half_taken = 0;
  for (const Index begun : {Index(0), Index(16)})  // an empty stream, and one whose memory is full
    for (long number = 1;; ++number) {
      StreamingAttention<float> stream;
      if (begun > 0) stream.append(piece(0, begun), Matrix<float>(x.topRows(begun)));
      const Index count = begun == 0 ? tokens : 1;
      const UnifiedForm<float> next = piece(begun, count);
      const Array<float> input = Matrix<float>(x.middleRows(begun, count));
      bool failed = false;
      try {
        const fault_test::FailingAllocation failing(number);
        stream.append(next, input);
      } catch (const std::bad_alloc&) {
        failed = true;
      } catch (const Error& error) {
        failed = true;
        CHECK(error.kind() == ErrorKind::limit);
      }
      if (!fault_test::allocation_failed) break;
      REQUIRE(failed);
      try {
        stream.append(next, input);  // a host that tries again
        const Index taken = begun + count;
        REQUIRE(stream.tokens() == taken);
        Selection last;
        last.rows = Indices::last();
        const Matrix<float> expected = ImplicitAttention<float>(piece(0, taken)).materialize(last).stacked();
        CHECK((stream.newest_row() - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
              1e-5F * expected.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
      } catch (const Error& error) {
        CHECK_THAT(error.what(), contains_text("ended half-way"));
        CHECK_THROWS_AS(stream.newest_row(), Error);
        CHECK_THROWS_AS(stream.attention(), Error);
        CHECK_THROWS_AS(stream.input(), Error);
        ++half_taken;
      }
    }
  CHECK(half_taken > 3);
}
