// Whole models on several threads: the same bits for any number of workers, in every family there is.
#include <algorithm>
#include <cmath>
#include <vector>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/trace/walk_back.hpp>
#include <models/golden_models.hpp>

using namespace models_test;

TEST_CASE("operations on long, wide arrays give the same bits for any number of workers", "[models]") {
  // Long and wide enough for several tiles of a product and several panels of rows, none of which divides the sizes.
  const Index tokens = 613, width = 411;
  const auto numbers = [](Index rows, Index columns, double step) {
    Matrix<double> all(rows, columns);
    for (Index i = 0; i < all.size(); ++i) all.data()[i] = std::sin(step * static_cast<double>(i + 1));
    return Array<double>(std::move(all));
  };
  const Array<double> x = numbers(tokens, width, 0.37), other = numbers(tokens, width, 1.13), weight = numbers(width, width, 0.71),
                      row = numbers(1, width, 0.29);
  const Norm<double> rms = Norm<double>::rms(row, 1e-5), layer = Norm<double>::layer(row, numbers(1, width, 0.53), 1e-5);
  const auto run = [&](const Executor& executor, WayBack way) {
    std::vector<Matrix<double>> results;
    Trace<double> trace(true, executor);
    const Value<double> a = trace.input(x), b = trace.input(other);
    const std::vector<Value<double>> outs = {linear(a, weight, row),
                                             silu(a),
                                             add(a, b),
                                             product(a, b),
                                             gated_product(Function::silu, a, b),
                                             token_mix(a, token_shift(a), row),
                                             normalize(rms, a),
                                             normalize(layer, b)};
    for (const Value<double>& out : outs) {
      results.emplace_back(*out);
      for (Matrix<double>& gradient : trace.walk_back(way, {{out, Matrix<double>(*other)}}, {a, b}).gradients)
        results.push_back(std::move(gradient));
    }
    if (way == WayBack::gradient) {
      const Value<double> soft = softplus(a);
      results.emplace_back(*soft);
      results.push_back(trace.walk_back(way, {{soft, Matrix<double>(*other)}}, {a}).gradients.front());
      CHECK(relative_error(results.back(), (*other).cwiseProduct(function_slopes<double>(Function::softplus, *x)).eval()) <= 1e-14);
    }
    return results;
  };
  for (const WayBack way : {WayBack::gradient, WayBack::relevance}) {
    const std::vector<Matrix<double>> serial = run(serial_executor(), way);
    for (const int workers : {2, 3}) {
      INFO(workers << " workers");
      const std::vector<Matrix<double>> shared = run(thread_executor(workers), way);
      REQUIRE(shared.size() == serial.size());
      for (std::size_t k = 0; k < serial.size(); ++k) CHECK(shared[k] == serial[k]);
    }
  }
}

TEST_CASE("every family's model gives the same bits for any number of workers", "[models]") {
  for (const std::filesystem::path& path : golden_models()) {
    INFO(path.filename().string());
    const Golden golden(path);
    const LanguageModel<double> model = load_language_model<double>(golden.weights<double>(), golden.configuration);
    std::vector<Index> ids;  // longer than a tile of a product is high
    while (ids.size() < 400) ids.insert(ids.end(), golden.ids.begin(), golden.ids.end());
    const Index last = static_cast<Index>(ids.size()) - 1;
    struct Numbers {
      Matrix<double> logits, gradient, relevance;
    };
    const auto run = [&](const Executor& executor) {
      ForwardOptions options;
      options.executor = executor;
      options.logit_positions = Indices({last});
      const ForwardPass<double> pass = model.forward(ids, options);
      Numbers numbers{pass.logits, {}, {}};
      BackwardOptions<double> walk;
      walk.keep_layers = false;
      walk.executor = executor;
      numbers.gradient = *backward(model, pass, logit_gradient(pass, last, 1), walk).embeddings;
      walk.way = WayBack::relevance;
      numbers.relevance = *backward(model, pass, logit_gradient(pass, last, 1), walk).embeddings;
      return numbers;
    };
    const Numbers serial = run(serial_executor());
    for (const int workers : {2, 3}) {
      INFO(workers << " workers");
      const Numbers shared = run(thread_executor(workers));
      CHECK(shared.logits == serial.logits);
      CHECK(shared.gradient == serial.gradient);
      CHECK(shared.relevance == serial.relevance);
    }
  }
}
