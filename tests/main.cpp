// The tests' main function, compiled once. A program in which a test could not run for want of data, and nothing failed, ends with an exit
// status of its own, which ctest shows as skipped.
#include <cstdlib>

#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

#include <implicit_attention/core/freed_memory.hpp>

#include "support/shared_data.hpp"

int main(int argument_count, char** arguments) {
  // Thousands of matrices come and go. What is freed stays with the process: the system would fill every page with zeros again. A test of
  // just that has the process as it comes.
  if (std::getenv("IMPLICIT_ATTENTION_TESTS_AS_THE_SYSTEM_ALLOCATES") == nullptr) implicit_attention::detail::keep_freed_pages();
  const int result = Catch::Session().run(argument_count, arguments);
  return result == 0 && test_support::data_was_missing() ? test_support::skipped_status : result;
}
