// Qwen3.5 as it is released, and the GGUF file that the public converter makes of it: the same logits.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <support/catch.hpp>
#include <support/every_logit.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/models/load.hpp>

#include "archives.hpp"
#include "files.hpp"

using namespace implicit_attention;
using namespace io_test;

namespace {

struct Numbers {
  std::vector<std::uint64_t> shape;
  std::vector<float> data;
};

std::string bytes(const std::vector<float>& numbers) {
  std::string all(numbers.size() * sizeof(float), '\0');
  std::memcpy(all.data(), numbers.data(), all.size());
  return all;
}

/// Rows, or with `columns` the numbers of each row, in the order of `from`.
Numbers in_order(const Numbers& numbers, const std::vector<std::size_t>& from, bool columns = false) {
  Numbers out{numbers.shape, {}};
  const std::size_t width = numbers.data.size() / static_cast<std::size_t>(numbers.shape[0]);
  if (!columns) {
    for (const std::size_t row : from)
      out.data.insert(out.data.end(), numbers.data.begin() + static_cast<std::ptrdiff_t>(row * width),
                      numbers.data.begin() + static_cast<std::ptrdiff_t>((row + 1) * width));
    return out;
  }
  for (std::size_t row = 0; row < numbers.shape[0]; ++row)
    for (const std::size_t column : from) out.data.push_back(numbers.data[row * width + column]);
  return out;
}

/// The value heads, `width` rows each, as the converter tiles them: head k R + r, which reads key head k, becomes head r K + k.
std::vector<std::size_t> tiled(std::size_t keys, std::size_t each, std::size_t width, std::size_t before = 0) {
  std::vector<std::size_t> from;
  for (std::size_t i = 0; i < before; ++i) from.push_back(i);
  for (std::size_t r = 0; r < each; ++r)
    for (std::size_t k = 0; k < keys; ++k)
      for (std::size_t i = 0; i < width; ++i) from.push_back(before + (k * each + r) * width + i);
  return from;
}

Matrix<double> logits(const fs::path& path, const std::vector<Index>& ids) {
  const Checkpoint<double> checkpoint = open_checkpoint<double>(path);
  return load_language_model<double>(*checkpoint.source, checkpoint.configuration).forward(ids, test_support::every_logit()).logits;
}

}  // namespace

TEST_CASE("Qwen3.5: the released folder and its GGUF file give the golden logits", "[io]") {
  const auto golden = test_support::shared_data("golden/lm_qwen35_seed00_hybrid4_hidden32_L16.safetensors");
  if (!golden) {
    WARN(test_support::shared_data_missing("golden"));
    return;
  }
  const SafetensorsFile file(*golden);
  std::map<std::string, Numbers> weights;
  for (const auto& [name, info] : file.tensors()) {
    if (name.rfind("weight.", 0) != 0) continue;
    const Array<float> read = file.read<float>(name);
    Numbers numbers;
    for (const Index size : info.shape) numbers.shape.push_back(static_cast<std::uint64_t>(size));
    for (Index i = 0; i < read.rows(); ++i)
      for (Index j = 0; j < read.cols(); ++j) numbers.data.push_back(read(i, j));
    weights[name.substr(7)] = std::move(numbers);
  }
  std::vector<Index> ids;
  for (const std::int64_t id : file.read_integers("input.input_ids")) ids.push_back(static_cast<Index>(id));
  const Matrix<double> expected = file.read<double>("expected.logits").matrix();
  REQUIRE(expected.rows() == 16);
  const TemporaryFolder folder;

  SECTION("the folder: shards, a text model within one that sees, keys that say nothing of its numbers") {
    std::map<std::string, Numbers> tensors;
    for (const auto& [name, numbers] : weights)
      tensors[name.rfind("model.", 0) == 0 ? "model.language_model." + name.substr(6) : name] = numbers;
    tensors["model.visual.blocks.0.attn.qkv.weight"] = {{4, 2}, std::vector<float>(8)};
    tensors["mtp.fc.weight"] = {{2, 2}, std::vector<float>(4)};
    nlohmann::json map;
    std::vector<std::string> headers(2, "{"), data(2);
    std::size_t place = 0;
    for (const auto& [name, numbers] : tensors) {
      const std::size_t shard = place++ * 2 / tensors.size();
      const std::string own = bytes(numbers.data);
      nlohmann::json entry{
          {"dtype", "F32"}, {"shape", numbers.shape}, {"data_offsets", {data[shard].size(), data[shard].size() + own.size()}}};
      headers[shard] += (headers[shard].size() > 1 ? ",\"" : "\"") + name + "\":" + entry.dump();
      data[shard] += own;
      map[name] = "model.safetensors-0000" + std::to_string(shard + 1) + "-of-00002.safetensors";
    }
    for (std::size_t shard = 0; shard < 2; ++shard) {
      std::string header = headers[shard] + "}";
      header.resize((header.size() + 7) / 8 * 8, ' ');
      write_bytes(folder / ("model.safetensors-0000" + std::to_string(shard + 1) + "-of-00002.safetensors"),
                  safetensors_bytes(header, data[shard]));
    }
    write_bytes(folder / "model.safetensors.index.json", nlohmann::json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump());
    const std::string configuration =
        R"({"architectures":["Qwen3_5ForConditionalGeneration"],"image_token_id":248056,"model_type":"qwen3_5",
      "text_config":{"attention_bias":false,"attention_dropout":0.0,"attn_output_gate":true,"dtype":"bfloat16","eos_token_id":248044,
        "full_attention_interval":4,"head_dim":16,"hidden_act":"silu","hidden_size":32,"initializer_range":0.02,"intermediate_size":48,
        "layer_types":["linear_attention","linear_attention","linear_attention","full_attention"],"linear_conv_kernel_dim":4,
        "linear_key_head_dim":8,"linear_num_key_heads":2,"linear_num_value_heads":4,"linear_value_head_dim":8,
        "mamba_ssm_dtype":"float32","max_position_embeddings":262144,"mlp_only_layers":[],"model_type":"qwen3_5_text",
        "mtp_num_hidden_layers":1,"mtp_use_dedicated_embeddings":false,"num_attention_heads":2,"num_hidden_layers":4,
        "num_key_value_heads":1,"output_gate_type":"swish","rms_norm_eps":1e-06,"tie_word_embeddings":false,"use_cache":true,
        "vocab_size":50,"rope_parameters":{"mrope_interleaved":true,"mrope_section":[1,1,0],"partial_rotary_factor":0.25,
          "rope_theta":10000.0,"rope_type":"default"}},
      "tie_word_embeddings":false,"transformers_version":"4.57.0.dev0","video_token_id":248057,
      "vision_config":{"depth":12,"model_type":"qwen3_5"},"vision_end_token_id":248054,"vision_start_token_id":248053})";
    write_bytes(folder / "config.json", configuration);
    CHECK((logits(folder.path(), ids) - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-5);
    // Another gate would be another model.
    std::string other = configuration;
    other.replace(other.find("\"swish\""), 7, "\"tanh\"");
    write_bytes(folder / "config.json", other);
    const auto error = error_of([&] { (void)logits(folder.path(), ids); });
    REQUIRE(error);
    CHECK_THAT(error->message, contains_text("output_gate_type is tanh, expected swish"));
  }
  SECTION("GGUF: rates, norms with the 1 added, value heads tiled") {
    constexpr std::size_t keys = 2, each = 2, key_width = 8, width = 8, before = 2 * keys * key_width;
    const std::map<std::string, std::string> renamed{
        {"input_layernorm.weight", "attn_norm.weight"},    {"post_attention_layernorm.weight", "post_attention_norm.weight"},
        {"mlp.gate_proj.weight", "ffn_gate.weight"},       {"mlp.up_proj.weight", "ffn_up.weight"},
        {"mlp.down_proj.weight", "ffn_down.weight"},       {"self_attn.q_proj.weight", "attn_q.weight"},
        {"self_attn.k_proj.weight", "attn_k.weight"},      {"self_attn.v_proj.weight", "attn_v.weight"},
        {"self_attn.o_proj.weight", "attn_output.weight"}, {"self_attn.q_norm.weight", "attn_q_norm.weight"},
        {"self_attn.k_norm.weight", "attn_k_norm.weight"}, {"linear_attn.norm.weight", "ssm_norm.weight"}};
    std::vector<gguf::Tensor> tensors;
    for (const auto& [name, original] : weights) {
      Numbers numbers = original;
      std::string gguf_name;
      if (name.ends_with("norm.weight") && name.find("linear_attn") == std::string::npos)
        for (float& number : numbers.data) number += 1;
      if (name.rfind("model.layers.", 0) != 0) {
        gguf_name = name == "lm_head.weight" ? "output.weight" : name == "model.norm.weight" ? "output_norm.weight" : "token_embd.weight";
      } else {
        const std::size_t dot = name.find('.', 13);
        const std::string rest = name.substr(dot + 1);
        std::string own;
        if (const auto found = renamed.find(rest); found != renamed.end()) {
          own = found->second;
        } else if (rest == "linear_attn.in_proj_qkv.weight") {
          own = "attn_qkv.weight";
          numbers = in_order(numbers, tiled(keys, each, width, before));
        } else if (rest == "linear_attn.conv1d.weight") {
          own = "ssm_conv1d.weight";
          numbers = in_order(numbers, tiled(keys, each, width, before));
          numbers.shape = {numbers.shape[0], numbers.shape[2]};
        } else if (rest == "linear_attn.in_proj_z.weight") {
          own = "attn_gate.weight";
          numbers = in_order(numbers, tiled(keys, each, width));
        } else if (rest == "linear_attn.out_proj.weight") {
          own = "ssm_out.weight";
          numbers = in_order(numbers, tiled(keys, each, width), true);
        } else {
          own = rest == "linear_attn.in_proj_b.weight"   ? "ssm_beta.weight"
                : rest == "linear_attn.in_proj_a.weight" ? "ssm_alpha.weight"
                : rest == "linear_attn.dt_bias"          ? "ssm_dt.bias"
                                                         : "ssm_a";
          if (own == "ssm_a")
            for (float& number : numbers.data) number = -std::exp(number);
          numbers = in_order(numbers, tiled(keys, each, 1));
        }
        gguf_name = "blk." + name.substr(13, dot - 13) + "." + own;
      }
      tensors.push_back({gguf_name, numbers.shape, 0, bytes(numbers.data)});
    }
    std::vector<std::string> all{gguf::string("general.architecture", "qwen35"),
                                 gguf::real("qwen35.attention.layer_norm_rms_epsilon", 1e-6F), gguf::real("qwen35.rope.freq_base", 1e4F)};
    for (const auto& [key, value] : std::map<std::string, std::uint32_t>{{"block_count", 4},
                                                                         {"embedding_length", 32},
                                                                         {"feed_forward_length", 48},
                                                                         {"attention.head_count", 2},
                                                                         {"attention.head_count_kv", 1},
                                                                         {"attention.key_length", 16},
                                                                         {"attention.value_length", 16},
                                                                         {"rope.dimension_count", 4},
                                                                         {"ssm.conv_kernel", 4},
                                                                         {"ssm.state_size", 8},
                                                                         {"ssm.group_count", 2},
                                                                         {"ssm.time_step_rank", 4},
                                                                         {"ssm.inner_size", 32},
                                                                         {"full_attention_interval", 4},
                                                                         {"context_length", 4096}})
      all.push_back(gguf::integer("qwen35." + key, value));
    write_bytes(folder / "model.gguf", gguf::file(all, tensors));
    CHECK((logits(folder / "model.gguf", ids) - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <
          1e-5);  // 1 + w and exp(A_log) are rounded to float
  }
}
