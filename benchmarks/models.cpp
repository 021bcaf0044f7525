// Whole models: what explaining costs beside the forward pass's own projections, at the rate that Eigen has on those shapes in that run.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <implicit_attention/core/stored_tensor.hpp>
#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv4.hpp>
#include <implicit_attention/models/explainer.hpp>
#include <implicit_attention/models/feed_forward.hpp>

#include "layers.hpp"
#include "measuring.hpp"

namespace benchmarks {

namespace {

using namespace implicit_attention;

/// Smaller than the real ones (50,000): logits at one token are a hundredth of a percent of a run, and the embedding is only read.
constexpr Index vocabulary = 4096;

/// A language model with random weights, and the products that its forward pass consists of.
struct Model {
  std::string name;
  std::optional<LanguageModel<float>> model;
  std::vector<Array<float>> projections;  ///< of every layer, (outputs, inputs)
  Index channels = 0, state = 0, layers = 0;

  /// P: every projection of a forward pass over so many tokens, by Eigen.
  void project(Index tokens) const {
    Index most = 0;
    for (const Array<float>& weight : projections) most = std::max({most, weight.rows(), weight.cols()});
    static Matrix<float> input, output;
    if (input.rows() != tokens || input.cols() < most) {
      input = normal_numbers(tokens, most, 3);
      output = Matrix<float>::Zero(tokens, most);
    }
    for (const Array<float>& weight : projections)
      output.leftCols(weight.rows()).noalias() = input.leftCols(weight.cols()) * weight.matrix().transpose();
    benchmark::DoNotOptimize(output.data());
  }
};

class RandomWeights {
 public:
  /// `stored`: how projections lie in memory, F32 or BF16, as in most released checkpoints.
  explicit RandomWeights(Dtype stored = Dtype::F32) : stored_(stored) {}
  /// Normal numbers of variance 1 / inputs.
  [[nodiscard]] Array<float> projection(Index outputs, Index inputs) {
    Matrix<float> weight = normal_numbers(outputs, inputs, ++seed_);
    weight *= 1 / std::sqrt(static_cast<float>(inputs));
    if (stored_ == Dtype::BF16) return as_bfloat16(weight);
    return weight;
  }
  [[nodiscard]] Array<float> row(Index columns, float from, float to) {
    Matrix<float> numbers(1, columns);
    for (Index c = 0; c < columns; ++c)
      numbers(0, c) = from + (to - from) * (static_cast<float>((c * 37 + 11) % columns) + 0.5f) / static_cast<float>(columns);
    return numbers;
  }

 private:
  /// The upper halves of the bits.
  [[nodiscard]] static Array<float> as_bfloat16(const Matrix<float>& weight) {
    const auto halves = std::make_shared<std::vector<std::uint16_t>>();
    for (Index i = 0; i < weight.size(); ++i)
      halves->push_back(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(weight.data()[i]) >> 16U));
    return Array<float>::of_storage(implicit_attention::detail::stored_rows(Dtype::BF16, weight.rows(), weight.cols(),
                                                                            reinterpret_cast<const std::byte*>(halves->data()), halves));
  }

  Dtype stored_;
  unsigned seed_ = 100;
};

Model random_mamba(bool quick, Dtype stored = Dtype::F32) {
  Model made;
  made.name = "Mamba-130m";
  const Index D = quick ? 192 : 768, E = 2 * D, N = 16, rank = D / 16, layers = quick ? 4 : 24;
  made.channels = E;
  made.state = N;
  made.layers = layers;
  RandomWeights random(stored);
  LanguageModelParts<float> parts;
  parts.name = "MambaForCausalLM";
  parts.embedding = parts.head = random.projection(vocabulary, D);
  for (Index layer = 0; layer < layers; ++layer) {
    Mamba<float>::Weights w;
    w.in_proj_weight = random.projection(2 * E, D);
    w.conv1d_weight = random.projection(E, 4);
    w.conv1d_bias = random.row(E, -0.5f, 0.5f);
    w.x_proj_weight = random.projection(rank + 2 * N, E);
    w.dt_proj_weight = random.projection(E, rank);
    w.dt_proj_bias = random.row(E, -7, -2);  // steps of about 0.001 to 0.1
    Matrix<float> A_log(E, N);
    for (Index n = 0; n < N; ++n) A_log.col(n).setConstant(std::log(static_cast<float>(n + 1)));
    w.A_log = std::move(A_log);
    w.D = random.row(E, 1, 1);
    w.out_proj_weight = random.projection(D, E);
    for (const Array<float>* weight : {&w.in_proj_weight, &w.x_proj_weight, &w.dt_proj_weight, &w.out_proj_weight})
      made.projections.push_back(*weight);
    parts.blocks.push_back({{{Norm<float>::rms(random.row(D, 1, 1), 1e-5), mixer_part(Mamba<float>(std::move(w)))}}});
  }
  parts.final_norm = Norm<float>::rms(random.row(D, 1, 1), 1e-5);
  made.model.emplace(std::move(parts));
  return made;
}

Model random_rwkv4(bool quick) {
  Model made;
  made.name = "RWKV-4-169m";
  const Index D = quick ? 192 : 768, layers = quick ? 4 : 12;
  made.channels = D;
  made.layers = layers;
  RandomWeights random;
  LanguageModelParts<float> parts;
  parts.name = "RwkvForCausalLM";
  parts.embedding = random.projection(vocabulary, D);
  parts.head = random.projection(vocabulary, D);
  const auto norm = [&] { return Norm<float>::layer(random.row(D, 1, 1), random.row(D, 0, 0), 1e-5); };
  parts.embedding_norm = norm();
  for (Index layer = 0; layer < layers; ++layer) {
    Rwkv4<float>::Weights w;
    w.time_decay = random.row(D, -5, 3);
    w.time_first = random.row(D, -1.5f, -0.5f);
    w.time_mix_key = w.time_mix_value = w.time_mix_receptance = random.row(D, 0, 1);
    w.key_weight = random.projection(D, D);
    w.value_weight = random.projection(D, D);
    w.receptance_weight = random.projection(D, D);
    w.output_weight = random.projection(D, D);
    ChannelMixing<float>::Weights f;
    f.time_mix_key = f.time_mix_receptance = random.row(D, 0, 1);
    f.key_weight = random.projection(4 * D, D);
    f.receptance_weight = random.projection(D, D);
    f.value_weight = random.projection(D, 4 * D);
    for (const Array<float>* weight :
         {&w.key_weight, &w.value_weight, &w.receptance_weight, &w.output_weight, &f.key_weight, &f.receptance_weight, &f.value_weight})
      made.projections.push_back(*weight);
    parts.blocks.push_back(
        {{{norm(), mixer_part(Rwkv4<float>(std::move(w)))}, {norm(), feed_forward_part(ChannelMixing<float>(std::move(f)))}}});
  }
  parts.final_norm = norm();
  made.model.emplace(std::move(parts));
  return made;
}

std::vector<Index> some_ids(Index tokens) {
  std::vector<Index> ids;
  for (Index t = 0; t < tokens; ++t) ids.push_back((t * 7919 + 13) % vocabulary);
  return ids;
}

/// As `explain` runs: logits at the position asked for, layers kept for the walk back as far as 256 MiB reach.
ForwardOptions run_options(Index position, const Executor& executor = serial_executor()) {
  ForwardOptions options;
  options.keep = Keep::residuals;
  options.logit_positions = Indices({position});
  options.executor = executor;
  options.memory = std::size_t{256} << 20U;
  return options;
}

/// Runs the model and explains one position by one method, from nothing.
void explain_once(const LanguageModel<float>& model, const std::vector<Index>& ids, Method method, Index position,
                  const Executor& executor = serial_executor(), const MethodOptions<float>& how = {}) {
  Explainer<float> explainer(model, ids, run_options(position, executor), {{method}, how});
  benchmark::DoNotOptimize(explainer.explain(method, {position, 17, std::nullopt}, how).scores.data());
}
void forward_once(const LanguageModel<float>& model, const std::vector<Index>& ids, const Executor& executor = serial_executor()) {
  ForwardOptions options = run_options(static_cast<Index>(ids.size()) - 1, executor);
  options.keep = Keep::logits;
  benchmark::DoNotOptimize(model.forward(ids, options).logits.data());
}

struct Bar {
  double bar, aim;
};

/// The forward pass of a model whose projections are stored in bfloat16 and widened, panel by panel, as they are used.
void stored_weights(benchmark::State& state, int place) {
  const bool quick = settings().quick;
  const Model made = random_mamba(quick), stored = random_mamba(quick, Dtype::BF16);
  const std::vector<Index> ids = some_ids(quick ? 128 : 512);
  Rounds rounds;
  rounds.add("float32", [&] { forward_once(*made.model, ids); });
  rounds.add("bfloat16", [&] { forward_once(*stored.model, ids); });
  rounds.run(quick ? 1 : 3, 0);
  state.SetIterationTime(rounds.seconds("bfloat16"));
  report_at_most(place, "forward, weights in bfloat16, " + made.name + ", " + std::to_string(ids.size()) + " tokens",
                 rounds.ratio("bfloat16", "float32"), 1.2, 1.05, " x the same in float32", time_text(rounds.seconds("bfloat16")));
}

void methods(benchmark::State& state, int place, Model (*make)(bool), bool all) {
  const bool quick = settings().quick;
  const Model made = make(quick);
  const LanguageModel<float>& model = *made.model;
  const Index tokens = quick ? 128 : 512, last = tokens - 1;
  const std::vector<Index> ids = some_ids(tokens);
  Rounds rounds;
  rounds.add("P", [&] { made.project(tokens); });
  rounds.add("forward", [&] { forward_once(model, ids); });
  rounds.add("raw", [&] { explain_once(model, ids, Method::raw, last); });
  rounds.add("relevance", [&] { explain_once(model, ids, Method::relevance, last); });
  rounds.add("gradient x input", [&] { explain_once(model, ids, Method::gradient_x_input, last); });
  if (all) rounds.add("gradient", [&] { explain_once(model, ids, Method::gradient, last); });
  if (all) rounds.add("product", [] { yardstick_product(); });
  // Two points and the two ends of the path.
  MethodOptions<float> two_steps;
  two_steps.integration_steps = 2;
  rounds.add("integrated gradients", [&] { explain_once(model, ids, Method::integrated_gradients, last, serial_executor(), two_steps); });
  rounds.run(quick ? 1 : 3, 0);
  state.SetIterationTime(rounds.seconds("forward"));

  const std::string what = ", " + made.name + ", " + std::to_string(tokens) + " tokens";
  const auto line = [&](const std::string& name, const std::string& text, Bar bar) {
    report_at_most(place++, text + what, rounds.ratio(name, "P"), bar.bar, bar.aim, " P", time_text(rounds.seconds(name)));
  };
  line("forward", "forward, one token's logits", all ? Bar{1.2, 1.1} : Bar{1.08, 1.03});
  line("raw", "forward + raw", {1.45, 1.3});
  line("relevance", "forward + relevance", {2.9, 2.5});
  line("gradient x input", "forward + gradient x input", {2.9, 2.5});
  if (all) {
    const double flops = 24.0 * static_cast<double>(made.layers) / 24 * static_cast<double>(made.channels * made.state) *
                         static_cast<double>(tokens) * static_cast<double>(tokens);
    report_at_most(place++, "forward + gradient" + what, rounds.median_of([&](Rounds::Times& times) {
      return times.at("gradient") / (2.5 * times.at("P") + flops / yardstick_flops * times.at("product"));
    }),
                   1.25, 1.1, " x (2.5 P + its maps' products)", time_text(rounds.seconds("gradient")));
  }
  report_at_most(place++, "integrated gradients, a step" + what, rounds.median_of([&](Rounds::Times& times) {
    return (times.at("integrated gradients") - 3 * times.at("forward")) / 2 / times.at("P");
  }),
                 2.7, 2.3, " P", "");
}

void no_more_than_asked(benchmark::State& state, int place) {
  const bool quick = settings().quick;
  const Model made = random_mamba(quick);
  const LanguageModel<float>& model = *made.model;
  const Index tokens = quick ? 128 : 512, position = tokens / 16 - 1;
  const std::vector<Index> ids = some_ids(tokens), prefix = some_ids(position + 1);
  const std::pair<Method, const char*> asked[] = {{Method::raw, "raw"}, {Method::relevance, "relevance"}, {Method::gradient, "gradient"}};
  Rounds rounds;
  for (const auto& [method, name] : asked) {
    rounds.add(std::string(name), [&, method = method] { explain_once(model, ids, method, position); });
    rounds.add(std::string(name) + " alone", [&, method = method] { explain_once(model, prefix, method, position); });
  }
  rounds.run(5, 5);
  state.SetIterationTime(rounds.seconds("relevance"));
  for (const auto& [method, name] : asked)
    report_at_most(place++, "position " + std::to_string(position) + " of " + std::to_string(tokens) + ", " + name + ", " + made.name,
                   rounds.ratio(name, std::string(name) + " alone"), 1.05, 1.0, " x its prefix alone", time_text(rounds.seconds(name)));
}

/// Leave-one-out costs a run a token: of a long text tokens at even distances are removed, and their mean is that of all.
void removals(benchmark::State& state, int place) {
  const bool quick = settings().quick;
  const Model made = random_mamba(quick);
  const LanguageModel<float>& model = *made.model;
  const Index tokens = quick ? 64 : 512, short_tokens = 16;
  const std::vector<Index> ids = some_ids(tokens), few = some_ids(short_tokens);
  const Target target{tokens - 1, 17, std::nullopt};
  Explainer<float> explainer(model, ids, run_options(target.position));
  std::vector<Index> sample;
  for (Index token = tokens / 16 + 7; token < tokens; token += tokens / 8) sample.push_back(token);
  // What the removals of a text share is one run over it: nothing a token, but an eighth of a run each of eight.
  const double shared = static_cast<double>(sample.back()) / static_cast<double>(tokens);
  Rounds rounds;
  rounds.add("forward", [&] { forward_once(model, ids); });
  rounds.add("P", [&] { made.project(tokens); });
  rounds.add("removals", [&] { benchmark::DoNotOptimize(explainer.values_without(sample, target, {}).data()); });
  rounds.add("short", [&] { explain_once(model, few, Method::leave_one_out, short_tokens - 1); });
  rounds.add("product", [] { yardstick_product(); });
  rounds.run(quick ? 1 : 3, 0);
  state.SetIterationTime(rounds.seconds("removals"));
  report_at_most(place, "leave-one-out, a token, " + made.name + ", " + std::to_string(tokens) + " tokens",
                 rounds.median_of([&](auto& times) {
                   return (times.at("removals") - shared * times.at("forward")) / static_cast<double>(sample.size()) / times.at("P");
                 }),
                 0.7, 0.58, " P", time_text(rounds.seconds("removals") / static_cast<double>(sample.size())));
  double flops = 0;
  for (const Array<float>& weight : made.projections) flops += 2.0 * static_cast<double>(weight.size());
  flops *= static_cast<double>(short_tokens * (short_tokens + 1));  // the run itself, and one for each token
  report_at_most(place + 1, "leave-one-out, " + made.name + ", 16 tokens",
                 rounds.median_of([&](auto& times) { return times.at("short") / (flops / yardstick_flops * times.at("product")); }), 1.6,
                 1.25, " x its products", time_text(rounds.seconds("short")));
}

void two_workers(benchmark::State& state, int place) {
  if (std::thread::hardware_concurrency() < 2) return state.SkipWithError("the machine has one core");
  const bool quick = settings().quick;
  const Model made = random_mamba(quick);
  const LanguageModel<float>& model = *made.model;
  const Index tokens = quick ? 128 : 512, last = tokens - 1;
  const std::vector<Index> ids = some_ids(tokens);
  const Executor pool = thread_executor(2);
  const std::pair<Method, const char*> asked[] = {{Method::raw, "raw"}, {Method::relevance, "relevance"}, {Method::gradient, "gradient"}};
  // What two cores give: as many products side by side as one core does one after the other.
  Matrix<float> a = normal_numbers(1024, 1024, 1), b = normal_numbers(1024, 1024, 2);
  std::vector<Matrix<float>> results(2, Matrix<float>::Zero(1024, 1024));
  const auto products = [&](const Executor& executor) {
    executor(2, [&](Index worker) {
      for (int k = 0; k < 4; ++k) results[static_cast<std::size_t>(worker)].noalias() += a * b;
    });
  };
  Rounds rounds;
  rounds.add("products 1", [&] { products(serial_executor()); });
  rounds.add("products 2", [&] { products(pool); });
  rounds.add("forward 1", [&] { forward_once(model, ids); });
  rounds.add("forward 2", [&] { forward_once(model, ids, pool); });
  for (const auto& [method, name] : asked) {
    rounds.add(std::string(name) + " 1", [&, method = method] { explain_once(model, ids, method, last); });
    rounds.add(std::string(name) + " 2", [&, method = method] { explain_once(model, ids, method, last, pool); });
  }
  rounds.run(quick ? 1 : 3, 0);
  state.SetIterationTime(rounds.seconds("forward 2"));
  for (const std::string name : {"forward", "raw", "relevance", "gradient"})
    report_at_least(place++, "two workers, " + name + ", " + made.name + ", " + std::to_string(tokens) + " tokens",
                    rounds.median_of([&](auto& times) {
                      return times.at(name + " 1") / times.at(name + " 2") / (times.at("products 1") / times.at("products 2"));
                    }),
                    0.85, 0.95, " of what two cores gain", time_text(rounds.seconds(name + " 2")));
}

}  // namespace

std::optional<double> model_memory(const std::string& which, Index tokens) {
  if (which != "model-raw" && which != "model-gradient-x-input") return std::nullopt;
  const Model made = random_mamba(settings().quick);
  const Method method = which == "model-raw" ? Method::raw : Method::gradient_x_input;
  explain_once(*made.model, some_ids(8), method, 7);
  const MemoryMark mark;
  explain_once(*made.model, some_ids(tokens), method, tokens - 1);
  return mark.bytes();
}

void add_models() {
  add_benchmark("table/models/mamba", [](auto& state) {
    methods(
        state, 120, [](bool quick) { return random_mamba(quick); }, true);
  });
  add_benchmark("table/models/rwkv4", [](auto& state) { methods(state, 130, random_rwkv4, false); });
  add_benchmark("table/models/stored", [](auto& state) { stored_weights(state, 139); });
  add_benchmark("table/models/prefix", [](auto& state) { no_more_than_asked(state, 140); });
  add_benchmark("table/models/removals", [](auto& state) { removals(state, 145); });
  add_benchmark("table/models/workers", [](auto& state) { two_workers(state, 150); });
  int place = 155;
  for (const auto& [which, text, bar, aim] :
       {std::tuple{"model-raw", "raw", 280.0, 150.0}, std::tuple{"model-gradient-x-input", "gradient x input", 450.0, 300.0}}) {
    add_benchmark("table/models/memory/" + std::string(text),
                  [which = std::string(which), text = std::string(text), bar = bar, aim = aim, place](auto& state) {
                    report_memory(state, which, settings().quick ? 256 : 2048, place,
                                  "memory beside the weights, forward + " + text + ", Mamba-130m", bar, aim);
                  });
    ++place;
  }
}

}  // namespace benchmarks
