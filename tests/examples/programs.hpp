// Runs the example programs as a person does, and keeps what they say.
#pragma once

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

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

/// The first norm's weight in a shipped model.
inline std::string first_norm(const std::string& model) {
  return model == "mamba"   ? "backbone.layers.0.norm.weight"
         : model == "rwkv4" ? "rwkv.blocks.0.ln1.weight"
                            : "model.layers.0.temporal_pre_norm.weight";
}
/// A copy of a shipped model, in a folder that begins with `begin`, in which the first number of a tensor's row is NaN: one half, of two
/// bytes.
inline fs::path model_with_nan(const TemporaryFolder& folder, const std::string& model, const std::string& tensor,
                               const std::string& begin = "broken", std::size_t row = 0) {
  const fs::path broken = folder / (begin + "_" + model);
  fs::copy(fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / models / model, broken);
  std::string bytes = io_test::read_bytes(broken / "model.safetensors");
  std::uint64_t length = 0;
  for (std::size_t k = 8; k-- > 0;) length = 256 * length + static_cast<unsigned char>(bytes[k]);
  const nlohmann::json header = nlohmann::json::parse(bytes.substr(8, length));
  REQUIRE(header.at(tensor).at("dtype") == "F16");
  const std::size_t begin_of_row = row == 0 ? 0 : 2 * row * header.at(tensor).at("shape").at(1).get<std::size_t>();
  const std::size_t at = 8 + length + header.at(tensor).at("data_offsets").at(0).get<std::size_t>() + begin_of_row;
  bytes.replace(at, 2, std::string("\x00\x7e", 2));
  io_test::write_bytes(broken / "model.safetensors", bytes);
  return broken;
}

/// Starts an example program in the repository's folder, without a shell: these tests do it some thousand times, and a shell and env took a
/// fifth of each. It reads nothing; what it says goes to the files `out` and `err`, -1: nowhere. `environment`: NAME=value, or NAME alone for
/// a variable that it shall not have. -1: it does not start. Signals do what they do by default, also where these tests run under nohup.
inline pid_t start(const std::string& program, std::vector<std::string> arguments, const std::vector<std::string>& environment, int out,
                   int err) {
  const std::string path = (fs::path(IMPLICIT_ATTENTION_EXAMPLES_DIR) / program).string();
  arguments.insert(arguments.begin(), path);
  std::vector<char*> words, variables;
  for (std::string& argument : arguments) words.push_back(argument.data());
  words.push_back(nullptr);
  const auto name = [](const std::string& variable) { return variable.substr(0, variable.find('=')); };
  for (char** variable = ::environ; *variable != nullptr; ++variable)
    if (std::none_of(environment.begin(), environment.end(), [&](const std::string& other) { return name(other) == name(*variable); }))
      variables.push_back(*variable);
  for (const std::string& variable : environment)
    if (variable.find('=') != std::string::npos) variables.push_back(const_cast<char*>(variable.c_str()));
  variables.push_back(nullptr);

  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDWR, 0);
  ::posix_spawn_file_actions_adddup2(&files, out < 0 ? STDIN_FILENO : out, STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&files, err < 0 ? STDIN_FILENO : err, STDERR_FILENO);
  ::posix_spawn_file_actions_addchdir_np(&files, IMPLICIT_ATTENTION_SOURCE_DIR);
  posix_spawnattr_t how;
  ::posix_spawnattr_init(&how);
  sigset_t signals;
  ::sigfillset(&signals);
  ::posix_spawnattr_setsigdefault(&how, &signals);
  ::posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSIGDEF);
  pid_t child = -1;
  const int failed = ::posix_spawn(&child, path.c_str(), &files, &how, words.data(), variables.data());
  ::posix_spawnattr_destroy(&how);
  ::posix_spawn_file_actions_destroy(&files);
  return failed == 0 ? child : -1;
}

/// Waits until a program ends, and gives what waitpid says of it; -1 where there is none.
inline int end_of(pid_t child) {
  if (child < 0) return -1;
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return -1;
  return status;
}

/// Runs an example program; `environment` as `start` takes it.
inline Outcome run(const TemporaryFolder& folder, const std::string& program, const std::vector<std::string>& arguments,
                   const std::vector<std::string>& environment = {}) {
  const fs::path out = folder / ".stdout", err = folder / ".stderr";
  const auto open = [](const fs::path& path) { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666); };
  const int to_out = open(out), to_err = open(err);
  const pid_t child = start(program, arguments, environment, to_out, to_err);
  ::close(to_out);
  ::close(to_err);
  const int status = end_of(child);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, io_test::read_bytes(out), io_test::read_bytes(err)};
}

/// Runs a program that must do its work without a complaint.
inline Outcome run_well(const TemporaryFolder& folder, const std::string& program, const std::vector<std::string>& arguments,
                        const std::vector<std::string>& environment = {}) {
  Outcome outcome = run(folder, program, arguments, environment);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  return outcome;
}

/// What a program says but for its progress, which slow runs show: lines such as `reading examples/models/mamba` and `explain Mamba: 3 %`.
inline std::string without_progress(const std::string& err) {
  std::string kept;
  for (std::size_t begin = 0; begin < err.size();) {
    const std::size_t end = std::min(err.find('\n', begin), err.size() - 1) + 1;
    const std::string line = err.substr(begin, end - begin);
    if (line.rfind("reading ", 0) != 0 && line.find(" %") == std::string::npos) kept += line;
    begin = end;
  }
  return kept;
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
  const std::string err = without_progress(outcome.err);
  CHECK_THAT(err, contains_text(words));
  CHECK(err.rfind(program + ": ", 0) == 0);
  CHECK(err.find('\n') + 1 == err.size());
  CHECK(folder.entries() == 2);  // what it said, and nothing else
}

}  // namespace example_test
