// A configuration is an untrusted file: whatever sizes and numbers it holds, a model is refused with a message or runs in the memory that
// its tensors and tokens need.
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <variant>
#include <vector>

#if defined(__linux__)
#include <cstdio>

#include <sys/resource.h>
#include <unistd.h>
#endif

#include <models/golden_models.hpp>

using namespace models_test;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif
#else
constexpr bool sanitized = false;
#endif

/// While it lives, no more than `bytes` beyond what is taken already: an allocation on a file's word alone is std::bad_alloc then, and not
/// gigabytes that nobody sees.
class MemoryLimit {
 public:
  explicit MemoryLimit([[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
    if (sanitized) return;  // whose shadow memory is terabytes
    std::size_t pages = 0;
    if (std::FILE* const file = std::fopen("/proc/self/statm", "r")) {
      if (std::fscanf(file, "%zu", &pages) != 1) pages = 0;
      std::fclose(file);
    }
    if (pages == 0 || ::getrlimit(RLIMIT_AS, &before_) != 0) return;
    rlimit limit = before_;
    limit.rlim_cur = pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) + bytes;
    held_ = ::setrlimit(RLIMIT_AS, &limit) == 0;
#endif
  }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;
  ~MemoryLimit() {
#if defined(__linux__)
    if (held_) ::setrlimit(RLIMIT_AS, &before_);
#endif
  }

 private:
#if defined(__linux__)
  rlimit before_{};
  bool held_ = false;
#endif
};

/// Keys that hold sizes and are in few configurations; those that a family asks for are tried with it.
const std::vector<std::string> sizes{"num_heads",
                                     "num_kv_heads",
                                     "num_attention_heads",
                                     "num_key_value_heads",
                                     "head_dim",
                                     "hidden_size",
                                     "intermediate_size",
                                     "vocab_size",
                                     "num_hidden_layers",
                                     "state_size",
                                     "conv_kernel",
                                     "time_step_rank",
                                     "n_groups",
                                     "ngroups",
                                     "attention_window_size",
                                     "rescale_every",
                                     "num_experts",
                                     "num_experts_per_tok",
                                     "n_group",
                                     "topk_group",
                                     "first_k_dense_replace",
                                     "full_attention_interval",
                                     "decoder_sparse_step",
                                     "attn_layer_period",
                                     "attn_layer_offset",
                                     "expert_layer_period",
                                     "expert_layer_offset",
                                     "num_mem_blocks",
                                     "block_multiple_of",
                                     "norm_groups",
                                     "chunk_size",
                                     "sliding_window",
                                     "mamba_n_heads",
                                     "mamba_d_head",
                                     "mamba_n_groups",
                                     "mamba_d_state",
                                     "mamba_d_conv",
                                     "d_state",
                                     "d_conv",
                                     "expand",
                                     "q_lora_rank",
                                     "kv_lora_rank",
                                     "qk_nope_head_dim",
                                     "qk_rope_head_dim",
                                     "v_head_dim"};

/// Loads, runs forwards, and takes a row of every layer's attention. What is said where that is refused; empty where all of it ran.
std::string run(const Tensors<float>& weights, const Configuration& configuration, const std::vector<Index>& ids) {
  try {
    const MemoryLimit limit(std::size_t{1} << 29U);
    const LanguageModel<float> model = load_language_model<float>(weights, configuration);
    const ForwardPass<float> pass = model.forward(ids);
    Selection selection;
    selection.rows = Indices::last();
    for (Index layer = 0; layer < model.layer_count(); ++layer) {
      try {
        (void)model.implicit_attention(pass, layer).reduce({}, selection);
      } catch (const Error&) {  // a layer that has no matrix says so
      }
    }
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("configurations with sizes and numbers that make no sense are refused or run, in little memory", "[models]") {
  const std::vector<Index> wild{0,
                                -1,
                                1,
                                3,
                                Index{1} << 31U,
                                Index{1} << 32U,
                                Index{1'000'000'000'000},
                                (Index{1} << 62U) + 1,
                                std::numeric_limits<Index>::max(),
                                std::numeric_limits<Index>::min()};
  const std::vector<double> numbers{0, -1, 0.5, 1e-320, 1e19, -1e300, 1.7e308};
  std::size_t refused = 0, ran = 0;
  for (const auto& path : golden_models()) {
    const Golden golden(path);
    const Tensors<float> weights = golden.weights<float>();
    INFO(path.filename().string());
    REQUIRE(run(weights, golden.configuration, golden.ids) == "");
    std::set<std::string> keys;
    for (const std::string& key : golden.configuration.keys())
      if (golden.configuration.asked(key)) keys.insert(key);
    for (const std::string& key : sizes)
      if (golden.configuration.asked(key)) keys.insert(key);
    for (const std::string& key : keys) {
      INFO(key);
      const Configuration::Value* const before = golden.configuration.find(key);
      std::vector<Configuration::Value> values;
      if (before == nullptr || std::holds_alternative<Index>(*before)) values.insert(values.end(), wild.begin(), wild.end());
      if (before != nullptr && std::holds_alternative<double>(*before)) {
        values.insert(values.end(), numbers.begin(), numbers.end());
        values.insert(values.end(), {wild.front(), wild.back()});
      }
      for (const Configuration::Value& value : values) {
        INFO((std::holds_alternative<Index>(value) ? std::to_string(std::get<Index>(value)) : std::to_string(std::get<double>(value))));
        std::string said;
        CHECK_NOTHROW(said = run(weights, with(golden.configuration, key, value), golden.ids));  // std::bad_alloc fails
        CHECK(said.find('\n') == std::string::npos);
        (said.empty() ? ran : refused) += 1;
      }
    }
  }
  CHECK(refused > 100);
  CHECK(ran > 0);
  INFO(refused << " refused, " << ran << " ran");
}
