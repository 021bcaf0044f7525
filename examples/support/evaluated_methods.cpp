#include "evaluated_methods.hpp"

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>
#include <utility>

#include <implicit_attention/core/error.hpp>

#include "command_line.hpp"
#include "methods_asked.hpp"
#include "model_input.hpp"

namespace implicit_attention::examples {
void IntegrationPath::set(MethodOptions<float>& how, const LanguageModel<float>& model) const {
  if (baseline == "zero") how.baseline = {};
  if (baseline == "mean") how.baseline = mean_embedding(model);
  how.integration_steps = steps;
}

std::string IntegrationPath::text() const {
  return detail::message(" Integrated gradients begin at ",
                         baseline == "removed" ? "what stands for a token that is taken away"
                         : baseline == "zero"  ? "embeddings of zero"
                                               : "the mean embedding",
                         steps > 0 ? detail::message(", ", steps, steps == 1 ? " point." : " evenly spaced points.")
                                   : std::string(", as many points as 1 % of the sum takes."));
}

std::vector<MethodRow> method_rows(const std::string& methods, const std::string& terms) {
  std::vector<Method> chosen;
  if (methods.empty())
    for (const MethodName& named : method_names) {
      // What it is about is single edges: its maps are held against those that are knocked out, whether it is named or not.
      if (named.method != Method::edge_map) chosen.push_back(named.method);
    }
  else
    for (const std::string& name : split_list(methods)) chosen.push_back(method_named("--methods", name));
  std::vector<MethodRow> rows;
  for (const Method method : chosen) {
    if (!method_info(method).from_attention) {
      rows.push_back({method, "", Terms::all()});
      continue;
    }
    for (std::string name : split_list(terms)) {
      std::string list = name;
      std::replace(list.begin(), list.end(), '+', ',');
      rows.push_back({method, std::move(name), parse_terms("--terms", list)});
    }
  }
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (rows[i].method == rows[j].method && rows[i].terms_name == rows[j].terms_name)
        detail::raise(ErrorKind::value, "--methods, --terms: ", method_info(rows[i].method).name, " is asked for twice");
  return rows;
}

std::vector<std::size_t> drawn(std::size_t count, Index limit, std::uint64_t seed) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto most = static_cast<std::size_t>(limit);
  if (most >= count) return order;
  std::mt19937_64 engine(seed);
  for (std::size_t i = 0; i < most; ++i) std::swap(order[i], order[i + engine() % (count - i)]);
  order.resize(most);
  std::sort(order.begin(), order.end());
  return order;
}

std::string removal_name(const std::string& asked, bool has_unknown, const std::string& model) {
  if (asked == "unk" && !has_unknown)
    detail::raise(ErrorKind::value, "--remove: ", model, " has no <unk> in its vocabulary, expected zero or drop");
  return !asked.empty() ? asked : has_unknown ? "unk" : "zero";
}

Removal removal_named(const std::string& name) { return name == "unk" ? Removal::replace : name == "zero" ? Removal::zero : Removal::drop; }

}  // namespace implicit_attention::examples
