// Runs the example programs as a person does, and keeps what they say.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <sys/wait.h>

#include <io/files.hpp>
#include <support/catch.hpp>

namespace example_test {

namespace fs = std::filesystem;
using io_test::TemporaryFolder;

/// What a program left behind.
struct Outcome {
  int status = -1;
  std::string out, err;
};

/// The shipped models, as a program finds them in the repository's folder.
inline const std::string models = "examples/models/", mamba = models + "mamba";

/// A command line and more of it.
inline std::vector<std::string> with(std::vector<std::string> arguments, const std::vector<std::string>& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

inline std::string quoted(const std::string& word) {
  std::string text = "'";
  for (const char letter : word) text += letter == '\'' ? std::string("'\\''") : std::string(1, letter);
  return text + "'";
}

/// Runs an example program; `environment` stands before it, as in `NO_COLOR=1`.
inline Outcome run(const TemporaryFolder& folder, const std::string& program, const std::vector<std::string>& arguments,
                   const std::string& environment = "") {
  std::string command = "cd " + quoted(IMPLICIT_ATTENTION_SOURCE_DIR) + " && env " + environment + " " +
                        quoted((fs::path(IMPLICIT_ATTENTION_EXAMPLES_DIR) / program).string());
  for (const std::string& argument : arguments) command += " " + quoted(argument);
  const fs::path out = folder / ".stdout", err = folder / ".stderr";
  command += " >" + quoted(out.string()) + " 2>" + quoted(err.string()) + " </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, io_test::read_bytes(out), io_test::read_bytes(err)};
}

/// Runs a program that must do its work without a complaint.
inline Outcome run_well(const TemporaryFolder& folder, const std::string& program, const std::vector<std::string>& arguments,
                        const std::string& environment = "") {
  Outcome outcome = run(folder, program, arguments, environment);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  return outcome;
}

/// A mistake: exit status 2, one line on stderr with these words in it, nothing on stdout, and no file called `out`.
inline void check_mistake(const std::string& program, std::vector<std::string> arguments, const std::string& words,
                          const std::string& out) {
  const TemporaryFolder folder;
  if (!out.empty()) arguments.insert(arguments.end(), {"--out", (folder / out).string()});
  std::string line = program;
  for (const std::string& argument : arguments) line += " " + argument;
  INFO(line);
  const Outcome outcome = run(folder, program, arguments);
  CHECK(outcome.status == 2);
  CHECK(outcome.out.empty());
  CHECK_THAT(outcome.err, contains_text(words));
  CHECK(outcome.err.rfind(program + ": ", 0) == 0);
  CHECK(outcome.err.find('\n') + 1 == outcome.err.size());
  CHECK(folder.entries() == 2);  // what it said, and nothing else
}

}  // namespace example_test
