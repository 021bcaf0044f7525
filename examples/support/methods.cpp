#include "methods.hpp"

#include <utility>

#include <implicit_attention/attribution/raw.hpp>
#include <implicit_attention/attribution/rollout.hpp>
#include <implicit_attention/core/error.hpp>

#include "command_line.hpp"

namespace implicit_attention::examples {
namespace {

/// The implicit attention of a layer, made when it is asked for.
template <Real Scalar>
auto attention_of(const Question<Scalar>& question) {
  return [&question](Index layer) {
    question.work.begin_piece();
    return question.model.implicit_attention(question.model.layer_pass(question.pass, layer), layer, question.terms);
  };
}

template <Real Scalar>
Attribution<Scalar> with_scores_of(Attribution<Scalar> answer, Index position) {
  answer.position = position;
  answer.scores = answer.map.row(position);
  return answer;
}

template <Real Scalar>
Attribution<Scalar> raw(const Question<Scalar>& question) {
  const Reduction<Scalar> reduction{question.reduction, {}, {}};
  const auto source = attention_of(question);
  Selection selection;
  selection.executor = question.work.executor();
  if (question.map) {
    Attribution<Scalar> all = question.layer ? raw_attention_map(source(*question.layer), reduction, selection)
                                             : raw_attention_map<Scalar>(question.model.layer_count(), source, reduction, selection);
    return with_scores_of(std::move(all), question.position);
  }
  return question.layer ? raw_attention(source(*question.layer), question.position, reduction, selection.executor)
                        : raw_attention<Scalar>(question.model.layer_count(), source, question.position, reduction, selection.executor);
}

template <Real Scalar>
Attribution<Scalar> rolled_out(const Question<Scalar>& question) {
  const auto source = attention_of(question);
  const auto map_of = [&](Index layer) -> Matrix<Scalar> {
    Selection selection;
    selection.executor = question.work.executor();
    return source(layer).reduce({question.reduction, {}, {}}, selection);
  };
  const Index layers = question.model.layer_count(), tokens = question.pass.tokens();
  if (question.map) return with_scores_of(rollout_map<Scalar>(layers, tokens, map_of), question.position);
  // The signed mean needs no matrix at all.
  if (question.reduction == ReductionKind::mean)
    return rollout_matrix_free<Scalar>(layers, source, question.position, {}, question.work.executor());
  return rollout<Scalar>(layers, tokens, map_of, question.position);
}

template <Real Scalar>
std::string raw_value(const Question<Scalar>& question) {
  return reduction_text(question.reduction) + (question.layer ? message(" of layer ", *question.layer) : std::string(" and layers"));
}
template <Real Scalar>
std::string rollout_value(const Question<Scalar>&) {
  return "share of the output token";
}

}  // namespace

template <Real Scalar>
const std::vector<Method<Scalar>>& methods() {
  static const std::vector<Method<Scalar>> all = {
      {"raw", "the map joined over channels, of one layer or averaged over all", true, raw<Scalar>, raw_value<Scalar>},
      {"rollout", "the product of all layers' maps (Abnar & Zuidema 2020)", false, rolled_out<Scalar>, rollout_value<Scalar>},
  };
  return all;
}

std::string method_names() {
  std::string names;
  for (const Method<float>& method : methods<float>()) names += message(names.empty() ? "" : "|", method.name);
  return names;
}

template <Real Scalar>
const Method<Scalar>& find_method(std::string_view name) {
  std::vector<std::string> names;
  for (const Method<Scalar>& method : methods<Scalar>()) {
    if (method.name == name) return method;
    names.emplace_back(method.name);
  }
  raise(ErrorKind::value, message("--method: \"", name, "\" is unknown, expected ", some_of(names, 100)));
}

template const std::vector<Method<float>>& methods<float>();
template const std::vector<Method<double>>& methods<double>();
template const Method<float>& find_method<float>(std::string_view name);
template const Method<double>& find_method<double>(std::string_view name);

}  // namespace implicit_attention::examples
