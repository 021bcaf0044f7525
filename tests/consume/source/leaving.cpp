// A host without exceptions whose handler returns, or exits, out of a loop of some workers; or that has none.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/thread_executor.hpp>

namespace {
void returns(implicit_attention::ErrorKind, const char*) {}
void exits(implicit_attention::ErrorKind, const char* message) {
  std::printf("told: %s\n", message);
  std::exit(3);
}
}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 1;
  if (std::strcmp(arguments[1], "returns") == 0) implicit_attention::set_error_handler(returns);
  if (std::strcmp(arguments[1], "exits") == 0) implicit_attention::set_error_handler(exits);
  implicit_attention::ThreadPool pool(std::atoi(arguments[2]));
  pool.parallel_for(100, [](implicit_attention::Index i) {
    if (i >= 50) implicit_attention::detail::raise(implicit_attention::ErrorKind::value, "the message");
  });
  std::puts("the loop came back");
  return 1;
}
