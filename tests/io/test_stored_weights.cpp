// Weights as files store them: products widen the rows they need, and what comes of it does not depend on the format.
#include <bit>
#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <support/catch.hpp>
#include <support/every_logit.hpp>

#include <implicit_attention/core/stored_rows.hpp>
#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/models/load.hpp>
#include <implicit_attention/trace/products.hpp>

#include "archives.hpp"
#include "files.hpp"

using namespace implicit_attention;
using namespace io_test;

namespace {

/// Numbers q 2^power with |q| < 128: every format here holds them exactly.
struct Tensor {
  std::string name, gguf;
  std::vector<std::uint64_t> shape;
  std::vector<int> q;
  int power = 0;
  [[nodiscard]] float number(std::size_t i) const { return std::ldexp(static_cast<float>(q[i]), power); }
};

/// A Mamba language model with tensors on both sides of the size below which they are widened when they are read.
std::vector<Tensor> tensors() {
  std::mt19937 random(11);
  std::vector<Tensor> all;
  const auto add = [&](const std::string& name, const std::string& gguf, std::vector<std::uint64_t> shape, int power, int shift) {
    Tensor tensor{name, gguf, std::move(shape), {}, power};
    std::uint64_t count = 1;
    for (const std::uint64_t size : tensor.shape) count *= size;
    for (std::uint64_t i = 0; i < count; ++i) tensor.q.push_back(shift != 0 ? shift : static_cast<int>(random() % 255) - 127);
    all.push_back(std::move(tensor));
  };
  add("backbone.embeddings.weight", "token_embd.weight", {2100, 256}, -10, 0);
  for (const std::string layer : {"0", "1"}) {
    const std::string prefix = "backbone.layers." + layer + ".", mixer = prefix + "mixer.", block = "blk." + layer + ".";
    add(prefix + "norm.weight", block + "attn_norm.weight", {256}, 0, 1);
    add(mixer + "in_proj.weight", block + "ssm_in.weight", {2048, 256}, -10, 0);
    add(mixer + "conv1d.weight", block + "ssm_conv1d.weight", {1024, 1, 4}, -8, 0);
    add(mixer + "conv1d.bias", block + "ssm_conv1d.bias", {1024}, -10, 0);
    add(mixer + "x_proj.weight", block + "ssm_x.weight", {40, 1024}, -10, 0);
    add(mixer + "dt_proj.weight", block + "ssm_dt.weight", {1024, 8}, -8, 0);
    add(mixer + "dt_proj.bias", block + "ssm_dt.bias", {1024}, -6, 0);
    add(mixer + "A_log", block + "ssm_a", {1024, 16}, -7, 0);
    add(mixer + "D", block + "ssm_d", {1024}, 0, 1);
    add(mixer + "out_proj.weight", block + "ssm_out.weight", {256, 1024}, -10, 0);
  }
  add("backbone.norm_f.weight", "output_norm.weight", {256}, 0, 1);
  return all;
}

std::uint16_t half(float value) {  // of a number that needs no rounding
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value), exponent = bits >> 23U & 0xFFU, sign = bits >> 16U & 0x8000U;
  if (exponent > 112) return static_cast<std::uint16_t>(sign | (exponent - 112U) << 10U | (bits >> 13U & 0x3FFU));
  return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(std::fabs(value) * 0x1p24F));
}

std::string data_of(const Tensor& tensor, Dtype dtype) {
  std::string data;
  for (std::size_t i = 0; i < tensor.q.size(); ++i) {
    const float value = tensor.number(i);
    if (dtype == Dtype::F64) data += bytes_of<double>({static_cast<double>(value)});
    if (dtype == Dtype::F32) data += bytes_of<float>({value});
    if (dtype == Dtype::F16) data += bytes_of<std::uint16_t>({half(value)});
    if (dtype == Dtype::BF16) data += bytes_of<std::uint16_t>({static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16U)});
    if (dtype == Dtype::Q8_0 && i % 32 == 0) data += bytes_of<std::uint16_t>({half(std::ldexp(1.0F, tensor.power))});
    if (dtype == Dtype::Q8_0) data += static_cast<char>(tensor.q[i]);
  }
  return data;
}

fs::path write_model(const TemporaryFolder& folder, Dtype dtype) {
  std::string header = "{", data;
  for (const Tensor& tensor : tensors()) {
    std::string shape;
    for (const std::uint64_t size : tensor.shape) shape += detail::message(shape.empty() ? "" : ",", size);
    const std::string own = data_of(tensor, dtype);
    header += detail::message(data.empty() ? "" : ",", "\"", tensor.name, "\":{\"dtype\":\"", dtype_name(dtype), "\",\"shape\":[", shape,
                              "],\"data_offsets\":[", data.size(), ",", data.size() + own.size(), "]}");
    data += own;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const fs::path path = folder / (std::string(dtype_name(dtype)) + ".safetensors");
  write_bytes(path, safetensors_bytes(header, data));
  return path;
}
fs::path write_torch_model(const TemporaryFolder& folder, Dtype dtype, const std::string& storage) {
  std::vector<std::pair<std::string, std::string>> items, storages;
  for (const Tensor& tensor : tensors()) {
    const std::string key = std::to_string(items.size());
    std::vector<std::int64_t> shape(tensor.shape.begin(), tensor.shape.end()), strides(shape.size(), 1);
    for (std::size_t axis = shape.size() - 1; axis-- > 0;) strides[axis] = strides[axis + 1] * shape[axis + 1];
    const auto count = static_cast<std::int64_t>(tensor.q.size());
    items.emplace_back(tensor.name, pickled::tensor(pickled::storage(storage, key, count), 0, shape, strides));
    storages.emplace_back(key, data_of(tensor, dtype));
  }
  const fs::path path = folder / (std::string(dtype_name(dtype)) + ".bin");
  write_bytes(path, torch_bytes(pickled::dictionary(items), storages));
  return path;
}
fs::path write_gguf_model(const TemporaryFolder& folder, Dtype dtype, unsigned ggml) {
  std::vector<gguf::Tensor> all;
  for (const Tensor& tensor : tensors()) {
    std::vector<std::uint64_t> shape;
    for (const std::uint64_t size : tensor.shape)
      if (size != 1) shape.push_back(size);
    // The converter keeps vectors, rates and convolutions in float32.
    const bool plain = shape.size() == 1 || tensor.gguf.ends_with("ssm_a") || tensor.gguf.find("conv1d") != std::string::npos ||
                       (dtype == Dtype::Q8_0 && shape.back() % 32 != 0);
    std::string data = data_of(tensor, plain ? Dtype::F32 : dtype);
    if (tensor.gguf.ends_with("ssm_a")) {
      data.clear();
      for (std::size_t i = 0; i < tensor.q.size(); ++i) data += bytes_of<float>({-std::exp(tensor.number(i))});
    }
    all.push_back({tensor.gguf, shape, plain ? 0 : ggml, data});
  }
  std::vector<std::string> keys{gguf::string("general.architecture", "mamba")};
  for (const auto& [key, value] : std::map<std::string, std::uint32_t>{{"block_count", 2},
                                                                       {"embedding_length", 256},
                                                                       {"ssm.inner_size", 1024},
                                                                       {"ssm.state_size", 16},
                                                                       {"ssm.time_step_rank", 8},
                                                                       {"ssm.conv_kernel", 4}})
    keys.push_back(gguf::integer("mamba." + key, value));
  keys.push_back(gguf::real("mamba.attention.layer_norm_rms_epsilon", 1e-5F));
  const fs::path path = folder / (std::string(dtype_name(dtype)) + ".gguf");
  write_bytes(path, gguf::file(keys, all));
  return path;
}

/// Logits at every token, and what relevance and gradient say of the last: all weights forwards and backwards.
template <class Scalar>
std::vector<Matrix<Scalar>> answers(const fs::path& path, int threads = 1) {
  const Checkpoint<Scalar> checkpoint = open_checkpoint<Scalar>(path);
  const LanguageModel<Scalar> model = load_language_model<Scalar>(*checkpoint.source, checkpoint.configuration);
  ThreadPool pool(threads);
  ForwardOptions options = test_support::every_logit();
  options.executor = pool.executor();
  const std::vector<Index> ids{5, 699, 17, 0, 256, 3, 3, 41};
  std::vector<Matrix<Scalar>> all{model.forward(ids, options).logits};
  Explainer<Scalar> explainer(model, ids, options);
  for (const Method method : {Method::relevance, Method::gradient_x_input})
    all.push_back(explainer.explain(method, {7, 12, std::nullopt}, {}).scores);
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("stored weights: every format of the same numbers gives the same logits and scores, bit for bit", "[io]", float,
                   double) {
  const TemporaryFolder folder;
  const auto same = [](const std::vector<Matrix<TestType>>& a, const std::vector<Matrix<TestType>>& b) {
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == b[i]);
    CHECK(a[0].allFinite());
    CHECK(a[0].cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > TestType(0.01));
  };
  const std::vector<Matrix<TestType>> expected = answers<TestType>(write_model(folder, Dtype::F32));
  for (const Dtype dtype : {Dtype::F64, Dtype::F16, Dtype::BF16}) {
    INFO(dtype_name(dtype));
    same(answers<TestType>(write_model(folder, dtype)), expected);
  }
  same(answers<TestType>(write_model(folder, Dtype::BF16), 3), expected);
  same(answers<TestType>(write_torch_model(folder, Dtype::F32, "FloatStorage")), expected);
  same(answers<TestType>(write_torch_model(folder, Dtype::BF16, "BFloat16Storage")), expected);
  // GGUF has exp(A_log) where the others have A_log, so its files are compared among themselves.
  const std::vector<Matrix<TestType>> of_gguf = answers<TestType>(write_gguf_model(folder, Dtype::F32, 0));
  CHECK((of_gguf[0] - expected[0]).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <
        TestType(1e-3) * expected[0].cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  same(answers<TestType>(write_gguf_model(folder, Dtype::F16, 1)), of_gguf);
  same(answers<TestType>(write_gguf_model(folder, Dtype::BF16, 30)), of_gguf);
  same(answers<TestType>(write_gguf_model(folder, Dtype::Q8_0, 8)), of_gguf);
}

TEST_CASE("stored weights: an array in storage, and everything that is asked of it", "[io]") {
  const TemporaryFolder folder;
  const Checkpoint<float> checkpoint = open_checkpoint<float>(write_model(folder, Dtype::BF16)),
                          plain = open_checkpoint<float>(write_model(folder, Dtype::F32));
  const std::string name = "backbone.layers.1.mixer.in_proj.weight";
  const Array<float> stored = checkpoint.source->read(name), numbers = plain.source->read(name);
  REQUIRE(stored.storage() != nullptr);
  CHECK(numbers.storage() == nullptr);
  CHECK(checkpoint.source->read("backbone.layers.1.mixer.conv1d.weight").storage() == nullptr);
  CHECK((stored.rows() == 2048 && stored.cols() == 256 && stored.size() == 2048 * 256 && !stored.empty()));
  CHECK(detail::row_of(stored, 2047) == detail::row_of(numbers, 2047));
  Matrix<float> panel;
  CHECK(detail::numbers_of(stored, 3, 5, 7, 9, panel) == numbers.matrix().block(3, 7, 5, 9));

  const Matrix<float> u = Matrix<float>::Random(9, 256), g = Matrix<float>::Random(9, 2048);
  ThreadPool pool(2);
  CHECK(detail::project<float>(u, stored, {}, pool.executor()) == detail::project<float>(u, numbers));
  const auto back = [&](const Array<float>& weight, Matrix<float> gradient, const Executor& executor = serial_executor()) {
    detail::project_back<float>(g, weight, gradient, executor);
    return gradient;
  };
  const Matrix<float> alone = back(numbers, {});
  CHECK(back(stored, {}, pool.executor()) == alone);
  CHECK((detail::project<float>(u, stored) - u * numbers.matrix().transpose()).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-4F);
  CHECK((alone - g * numbers.matrix()).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-4F);
  CHECK((back(stored, u, pool.executor()) - u - alone).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-4F);

  const Array<float> rows = stored.middle_rows(600, 40);
  CHECK(rows.storage() != nullptr);
  CHECK(rows.matrix() == numbers.matrix().middleRows(600, 40));
  Array<float> columns = Array<float>(stored).middle_columns(5, 6);
  CHECK(columns.matrix() == numbers.matrix().middleCols(5, 6));
  CHECK(columns.middle_rows(1, 2).matrix() == numbers.matrix().block(1, 5, 2, 6));
  CHECK(stored(2047, 255) == numbers(2047, 255));
  CHECK(stored.matrix() == numbers.matrix());
  CHECK(stored.data() == stored.data());  // widened once

  SECTION("several threads may ask for all numbers at once") {
    const Array<float> fresh = checkpoint.source->read(name);
    std::vector<const float*> seen(8);
    std::vector<std::thread> threads;
    for (const float*& place : seen) threads.emplace_back([&place, &fresh] { place = fresh.data(); });
    for (std::thread& thread : threads) thread.join();
    for (const float* const place : seen) CHECK(place == seen.front());
    CHECK(fresh.matrix() == numbers.matrix());
  }
  SECTION("parts of rows of blocks begin and end anywhere") {
    const Checkpoint<float> blocks = open_checkpoint<float>(write_gguf_model(folder, Dtype::Q8_0, 8));
    const Array<float> quantised = blocks.source->read(name);
    REQUIRE(quantised.storage() != nullptr);
    CHECK(quantised.storage()->dtype == Dtype::Q8_0);
    for (const Index first : {0, 1, 31, 32, 33, 100})
      for (const Index count : {1, 2, 27, 28})
        CHECK(detail::numbers_of(quantised, 11, 1, first, count, panel) == numbers.matrix().block(11, first, 1, count));
  }
}
