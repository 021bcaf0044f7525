// A layer of your own: written once, from the operations of the library, it has its attention map, its rows, rollout, gradient and
// relevance. This one is a gated moving average: y = silu(u Wz^T) * R(u Wx^T), R[i,j] = sigmoid(f_j) prod_{t=j+1..i} (1 - sigmoid(f_t)).
#include <cstdio>
#include <implicit_attention/models/explainer.hpp>

using namespace implicit_attention;

struct GatedAverage {
  using Scalar = double;
  struct Activations {
    Array<double> x, z, log_decay, write, y, out;
  };
  Array<double> input, gate, forget;  // (width, width) each

  Index width() const { return input.cols(); }
  Index channels() const { return input.rows(); }

  DiagonalRecurrence<double> recurrence(const Activations& act) const {
    DiagonalRecurrence<double> r;
    r.tokens = act.log_decay.rows();
    r.channels = channels();
    r.step = act.log_decay;
    r.key_scale = act.write;
    return r;
  }
  LayerRun<GatedAverage> run(const Value<double>& u, RunContext<double>&) const {
    const Value<double> x = linear(u, input), z = linear(u, gate), f = linear(u, forget);
    const Value<double> log_decay = apply_function(Function::log_sigmoid, times(f, -1.0)), write = sigmoid(f);
    Activations act{x.numbers, z.numbers, log_decay.numbers, write.numbers, {}, {}};
    DiagonalInputs<double> inputs;
    inputs.step = log_decay;
    inputs.key_scale = write;
    const Value<double> y = diagonal_recurrence(recurrence(act), inputs, {Function::silu, z}, {}, x);
    act.y = act.out = y.numbers;
    return {act, x, y, y};
  }
  UnifiedForm<double> lower(const Activations& act, Terms terms) const {
    UnifiedForm<double> form;
    form.recurrence = recurrence(act);
    if (terms.has(Term::gate)) form.gate = silu(act.z.matrix());
    return form;
  }
};

int main() {
  const auto random = [](Index rows, Index columns) { return Array<double>(Matrix<double>(Matrix<double>::Random(rows, columns) * 0.5)); };
  LanguageModelParts<double> parts;
  parts.name = "OwnModel";
  parts.embedding = parts.head = random(20, 8);
  parts.final_norm = Norm<double>::rms(8, 1e-5);
  for (int layer = 0; layer < 3; ++layer)
    parts.blocks.push_back({{{Norm<double>::rms(8, 1e-5), mixer_part(GatedAverage{random(8, 8), random(8, 8), random(8, 8)})}}});
  Explainer<double> explainer(LanguageModel<double>(parts), {3, 1, 4, 1, 5, 9, 2, 6});
  for (const Method method : {Method::raw, Method::rollout, Method::gradient, Method::relevance}) {
    const Attribution<double> why = explainer.explain(method, {7, explainer.most_likely(7), {}});
    std::printf("%-9s", std::string(method_info(method).name).c_str());
    for (const double score : why.scores) std::printf(" %7.3f", score);
    std::printf("\n");
  }
}
