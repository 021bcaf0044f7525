// For programs that take no arguments: --help, and an error for any other.
#pragma once

#include <cstdio>
#include <optional>
#include <string_view>

namespace implicit_attention::examples {

/// What a program ends with at once: 0 behind --help (-h), which prints `help`; 2 where there is another argument; nothing where there is
/// none. Without exceptions, as engines are built.
[[nodiscard]] inline std::optional<int> status_of_arguments(int count, char** arguments, const char* help) {
  if (count < 2) return std::nullopt;
  const std::string_view program = arguments[0], argument = arguments[1];
  if (count == 2 && (argument == "--help" || argument == "-h")) return std::fputs(help, stdout) >= 0 && std::fflush(stdout) == 0 ? 0 : 2;
  std::fprintf(stderr, "%s: it takes no arguments; --help says what it does\n", program.substr(program.find_last_of('/') + 1).data());
  return 2;
}

}  // namespace implicit_attention::examples
