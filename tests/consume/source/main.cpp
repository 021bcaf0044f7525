// A host's program in two translation units that both see the whole library.
#include <cstdio>
#include <cstdlib>

#include <implicit_attention/implicit_attention.hpp>

#include "other.hpp"

namespace {
// A host without exceptions leaves the library its own way; here by ending well, for the error is what is wanted.
[[noreturn]] void expected_error(implicit_attention::ErrorKind, const char* message) {
  std::printf("the handler was told: %s\n", message);
  std::exit(0);
}
}  // namespace

int main() {
  const implicit_attention::Matrix<float> input = implicit_attention::Matrix<float>::Constant(5, 2, 0.5F);
  const float total = sum(input);
  if (!(total > 4.9F && total < 5.1F)) {
    std::printf("the sum is %g, expected 5\n", static_cast<double>(total));
    return 1;
  }
  implicit_attention::set_error_handler(expected_error);
  if (installed_handler() != expected_error) {
    std::puts("the two units have an error handler each");
    return 1;
  }
  fail_on_purpose(input);
  std::puts("a wrong shape was not reported");
  return 1;
}
