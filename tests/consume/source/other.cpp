// The second translation unit: all of the library again, so that whatever is not inline is defined twice and does not link.
#include "other.hpp"

#include <implicit_attention/implicit_attention.hpp>

float sum(implicit_attention::ConstView<float> numbers) { return numbers.sum(); }

implicit_attention::ErrorHandler installed_handler() {
  const implicit_attention::ErrorHandler current = implicit_attention::set_error_handler(nullptr);
  implicit_attention::set_error_handler(current);
  return current;
}

void fail_on_purpose(implicit_attention::ConstView<float> numbers) {
  implicit_attention::check_shape("host", "input", numbers, numbers.rows(), numbers.cols() + 1, "tokens, channels");
}
