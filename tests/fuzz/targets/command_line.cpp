// A command line, an argument a line: options, lists, names of files.
#include <CLI/CLI.hpp>

#include <support/command_line.hpp>

#include "../harness.hpp"

static std::vector<std::string> seeds_of_command_line() {
  return {"--rows\n0,5-7\n--channels\nall\n--reduce\nmean", "--tokens\n[1, 2, 3]\n--rows=last\n--flag\n--limit\n-1", "--help",
          "--channels\n9223372036854775807\n--out\n/nowhere/x.png\n--in\na:b", "--prepend\n<cls>\n--prepend\n<x>\n--unknown"};
}

FUZZ_TARGET(command_line) {
  namespace ex = implicit_attention::examples;
  std::vector<std::string> words{"fuzzed"};
  for (std::string_view rest = bytes.substr(0, bytes.find('\0')); !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    words.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());

  std::string rows, channels, tokens, reduction, out, in;
  std::vector<std::string> prepended;
  int limit = 0;
  bool flag = false;
  CLI::App app("what it does", "fuzzed");
  app.add_option("--rows", rows, "rows");
  app.add_option("--channels", channels, "channels");
  app.add_option("--tokens", tokens, "ids")->option_text("IDS");
  app.add_option("--reduce", reduction, "reduction");
  app.add_option("--limit", limit, "a number")->check(CLI::PositiveNumber);
  app.add_option("--out", out, "output");
  app.add_option("--in", in, "input");
  app.add_option("--prepend", prepended, "tokens")->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_flag("--flag", flag, "a flag");
#ifndef IMPLICIT_ATTENTION_LIBFUZZER  // which closes both itself
  std::fflush(stdout);
  const int said = ::dup(STDERR_FILENO), printed = ::dup(STDOUT_FILENO), nothing = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  ::dup2(nothing, STDERR_FILENO);
  ::dup2(nothing, STDOUT_FILENO);
#endif
  const int status = ex::run_program(app, static_cast<int>(arguments.size()), arguments.data(), [&] {
    if (!rows.empty()) (void)ex::parse_indices("--rows", rows);
    if (!channels.empty()) (void)ex::parse_index_list("--channels", channels);
    if (!tokens.empty()) (void)ex::parse_index_list("--tokens", tokens);
    if (!reduction.empty()) (void)ex::reduction_text(ex::parse_reduction(reduction));
    if (!out.empty()) (void)ex::checked_output("--out", out, {".png", ".npy"}, {in});
    (void)ex::some_of(prepended);
  });
#ifndef IMPLICIT_ATTENTION_LIBFUZZER
  std::fflush(stdout);
  ::dup2(said, STDERR_FILENO);
  ::dup2(printed, STDOUT_FILENO);
  ::close(said), ::close(printed), ::close(nothing);
#endif
  fuzz::require(status == 0 || status == 2, "a command line is right, or a mistake of one line");
}
