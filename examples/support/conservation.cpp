#include "conservation.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

#include <implicit_attention/attribution/method_options.hpp>
#include <implicit_attention/attribution/result.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/metrics/bootstrap.hpp>

#include "command_line.hpp"
#include "methods_asked.hpp"
#include "numbers.hpp"

namespace implicit_attention::examples {
namespace {

/// Whether a row's scores sum to what is explained.
enum class Sum : std::size_t { whole, to_tolerance, to_given_steps, without_left_out_terms, need_not, of_no_logit };

/// How that is told: by a word in a file, and in a sentence.
struct SumWords {
  const char *word, *sentence;
};
constexpr std::array<SumWords, 6> sum_words = {{
    {"yes", "yes, including the biases' share"},
    {"to_tolerance", "yes, with the baseline's, up to the error of the integral"},
    {"to_given_steps", "yes, with the baseline's, up to the error that the given number of points leaves"},
    {"terms_left_out", "no, even including the biases' share: what the terms left out give is missing"},
    {"need_not", "need not"},
    {"no_logit", "no logit is explained"},
}};
const SumWords& words_of(Sum sum) { return sum_words[static_cast<std::size_t>(sum)]; }

double mean_alone(const std::vector<double>& values) { return bootstrap_mean(values, 0, 1).mean; }

/// By the row's method and its terms, and whether anything is missing: some layers have no other terms than those of a smaller set.
Sum sum_of(const RowSums& row, Index steps) {
  constexpr double rounding = 1e-4;  // float's, through all layers
  const Method method = parse_method(row.method);
  std::string terms(row.terms.empty() ? "all" : row.terms);
  std::replace(terms.begin(), terms.end(), '+', ',');
  if (conserves(method, Terms::parse(terms))) return Sum::whole;
  if (method == Method::integrated_gradients) return steps > 0 ? Sum::to_given_steps : Sum::to_tolerance;
  if (method == Method::vector_rollout)
    return mean_alone(row.gaps) <= rounding * mean_alone(row.explained) ? Sum::whole : Sum::without_left_out_terms;
  return method_info(method).of_position ? Sum::of_no_logit : Sum::need_not;
}

}  // namespace

std::string conservation_text(const std::vector<RowSums>& rows, Index steps, std::string_view counted, bool markdown) {
  const char* const bullet = markdown ? "- " : "  ";
  std::string lines;
  std::array<std::vector<std::string>, sum_words.size()> without_sum;
  for (const RowSums& row : rows) {
    const Sum sum = sum_of(row, steps);
    if (sum == Sum::need_not || sum == Sum::of_no_logit) {  // with any terms: named once
      detail::append_new(without_sum[static_cast<std::size_t>(sum)], {std::string(row.method)});
      continue;
    }
    const std::string name = row.terms.empty() ? std::string(row.method) : detail::message(row.method, " (", row.terms, ")");
    lines += detail::message(bullet, name, ": ", words_of(sum).sentence, "; off by ", significant(mean_alone(row.gaps)), " of ",
                             significant(mean_alone(row.explained)), "\n");
  }
  for (std::size_t sum = 0; sum < without_sum.size(); ++sum)
    if (!without_sum[sum].empty()) lines += detail::message(bullet, joined(without_sum[sum], ", "), ": ", sum_words[sum].sentence, "\n");
  return detail::message("Do scores sum to what is explained? Means over ", counted, ", of absolute values:\n", markdown ? "\n" : "",
                         lines);
}

void add_conservation(nlohmann::ordered_json& result, const RowSums& row, Index steps) {
  result["sums_to_explained"] = words_of(sum_of(row, steps)).word;
  if (!row.explained.empty()) result["conservation"] = {{"mean_explained", mean_alone(row.explained)}, {"mean_gap", mean_alone(row.gaps)}};
}

}  // namespace implicit_attention::examples
