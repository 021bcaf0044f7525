// Programs on bad days: no memory, a disk that fails at any call, files that may not grow, signals at any moment. Nothing is half-written,
// and what is said is one line. Of thousands of points some are tried; IMPLICIT_ATTENTION_TESTS_EVERY_FAULT=1: about three times as many.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <map>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <examples/programs.hpp>

namespace {

using namespace example_test;

struct Program {
  std::string name;
  std::vector<std::string> arguments;
  std::string out;
};
const std::vector<Program>& programs() {
  static const std::vector<Program> all{
      {"explain", {"--model", mamba, "--tokens", "5,6,7,2", "--method", "rollout"}, "out.json"},
      {"explain", {"--model", mamba, "--tokens", "5,6,7,2", "--method", "raw"}, "out.png"},
      {"explain", {"--model", mamba, "--text", "a dull film", "--method", "raw"}, "out.safetensors"},
      {"materialize", {"--model", mamba, "--layer", "1", "--tokens", "5,6,7,2"}, "out.safetensors"},
      {"materialize", {"--model", mamba, "--layer", "0", "--tokens", "5,6,7,2", "--reduce", "mean"}, "out.png"},
      {"materialize", {"--model", mamba, "--layer", "0", "--tokens", "5,6,7,2"}, "out.npy"}};
  return all;
}

/// All signals that end a program unless it says otherwise, and that may come from outside.
const std::vector<int>& ending_signals() {
  static const std::vector<int> all{SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2, SIGXCPU, SIGVTALRM, SIGPROF};
  return all;
}

/// A limit of this process while it lives, which the programs that start then take over.
class Limit {
 public:
  Limit(int resource, std::size_t most) : resource_(resource) {
    REQUIRE(::getrlimit(resource_, &before_) == 0);
    const rlimit limit{std::min<rlim_t>(most, before_.rlim_max), before_.rlim_max};
    REQUIRE(::setrlimit(resource_, &limit) == 0);
  }
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;
  ~Limit() { ::setrlimit(resource_, &before_); }

 private:
  int resource_;
  rlimit before_{};
};

/// Starts a program that leaves no core. What it says on stderr goes to `said`; -1: nowhere. `file_bytes`: no file may grow beyond.
pid_t start(const Program& program, const fs::path& out, const std::vector<std::string>& environment, int said,
            std::optional<std::size_t> file_bytes = std::nullopt) {
  const Limit no_core(RLIMIT_CORE, 0);
  std::optional<Limit> file_limit;
  if (file_bytes) file_limit.emplace(RLIMIT_FSIZE, *file_bytes);
  return example_test::start(program.name, with(program.arguments, {"--out", out.string()}), environment, -1, said);
}

/// The whole file, written undisturbed.
const std::string& whole(const Program& program) {
  static std::map<const Program*, std::string> files;
  if (const auto written = files.find(&program); written != files.end()) return written->second;
  const TemporaryFolder folder;
  REQUIRE(end_of(start(program, folder / program.out, {}, -1)) == 0);
  return files[&program] = io_test::read_bytes(folder / program.out);
}

bool every_fault() { return std::getenv("IMPLICIT_ATTENTION_TESTS_EVERY_FAULT") != nullptr; }

/// Which of so many calls fail, one at a time: each where there are few; of thousands of allocations the first, the last, and some between.
/// Of each three programs, `turn` says which third of the points between the first and the last is tried: until they write, they do much the
/// same.
std::vector<long> failing(long calls, std::size_t turn) {
  std::vector<long> all, some;
  for (long number = 1; number <= calls; number += std::max(1L, std::min(number / 2, std::max(1L, (calls - number) / 2))))
    all.push_back(number);
  if (every_fault()) return all;
  for (std::size_t n = 0; n < all.size(); ++n)
    if (n < 3 || n + 3 >= all.size() || n % 3 == turn % 3) some.push_back(all[n]);
  return some;
}

/// Runs over a file that is there. It must end well with the new file, or with status 2, one line, and the old file or all of the new one.
Outcome run_over(const Program& program, const std::string& expected, const std::vector<std::string>& environment,
                 std::optional<std::size_t> file_bytes = std::nullopt) {
  const TemporaryFolder folder;
  const fs::path out = folder / program.out;
  io_test::write_bytes(out, "before");
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  ::fcntl(ends[0], F_SETFD, FD_CLOEXEC);
  const pid_t child = start(program, out, environment, ends[1], file_bytes);
  ::close(ends[1]);
  Outcome outcome;
  char block[512];
  for (ssize_t size = 0; (size = ::read(ends[0], block, sizeof(block))) > 0;) outcome.err.append(block, static_cast<std::size_t>(size));
  ::close(ends[0]);
  const int status = end_of(child);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  std::string settings;
  for (const std::string& one : environment) settings += one + " ";
  INFO(program.name << " to " << program.out << ", " << settings << ": " << status << " " << outcome.err);
  const std::string after = io_test::read_bytes(out);
  CHECK((outcome.status == 0 || outcome.status == 2));
  if (outcome.status == 0) {
    CHECK(after == expected);
  } else {
    CHECK((after == "before" || after == expected));  // what fails after the file is whole is what is said about it
    const std::string err = without_progress(outcome.err);
    CHECK(err.rfind(program.name + ": ", 0) == 0);
    CHECK(err.find('\n') + 1 == err.size());
  }
  CHECK(folder.entries() == 1);
  return outcome;
}

}  // namespace

#ifdef IMPLICIT_ATTENTION_FAULT_LIBRARY
TEST_CASE("programs: every call that may fail, failing once", "[faults]") {
  const std::string preload = std::string("LD_PRELOAD=") + IMPLICIT_ATTENTION_FAULT_LIBRARY;
  std::size_t turn = 0;
  for (const Program& program : programs()) {
    const std::string& expected = whole(program);
    const TemporaryFolder counting;
    run_over(program, expected, {preload, "FAULT_COUNT=" + (counting / "count").string()});
    std::map<std::string, long> counted;
    std::istringstream lines(io_test::read_bytes(counting / "count"));
    for (std::string call; lines >> call;) lines >> counted[call];
    ++turn;
    for (const std::string call : {"fwrite", "fclose", "fopen", "open", "rename", "mmap", "malloc", "new"}) {
      REQUIRE(counted.count(call) == 1);
      const long calls = counted[call];
      INFO(program.name << ": " << calls << " calls of " << call);
      CHECK((call == "fwrite" || calls > 0));
      long failed = 0, tried = 0;
      for (const long number : failing(calls, turn)) {
        const Outcome outcome = run_over(program, expected, {preload, "FAULT_CALL=" + call, "FAULT_NUMBER=" + std::to_string(number)});
        failed += outcome.status == 2;
        ++tried;
      }
      if (call == "fclose" || call == "fopen" || call == "open" || call == "rename") CHECK(failed > 0);
      if (call == "malloc" || call == "new") CHECK(failed > tried / 2);
    }
  }
}

TEST_CASE("programs: each signal while a file is half written", "[faults]") {
  std::string preload = "LD_PRELOAD=";
  preload += IMPLICIT_ATTENTION_FAULT_LIBRARY;
  const Program& program = programs()[3];
  std::vector<int> signals = ending_signals();
  signals.push_back(SIGBUS);  // sent, as it is no sign of a file that became shorter
  for (const int signal : signals) {
    const TemporaryFolder folder;
    const fs::path out = folder / program.out;
    io_test::write_bytes(out, "before");
    const std::vector<std::string> environment{preload, "FAULT_CALL=fwrite", "FAULT_NUMBER=2", "FAULT_SIGNAL=" + std::to_string(signal)};
    const int status = end_of(start(program, out, environment, -1));
    INFO("signal " << signal << ", status " << status);
    CHECK(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == signal);
    CHECK(io_test::read_bytes(out) == "before");
    CHECK(folder.entries() == 1);
  }
}
#endif

TEST_CASE("programs: files that may not grow", "[faults]") {
  for (const Program& program : programs()) {
    const std::string& expected = whole(program);
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{100}, expected.size() / 2, expected.size() - 1}) {
      const Outcome outcome = run_over(program, expected, {}, bytes);
      CHECK(outcome.status == 2);
      CHECK_THAT(outcome.err, contains_text("cannot be written: "));
    }
  }
}

TEST_CASE("programs: standard output that is full", "[faults]") {
  if (!fs::exists("/dev/full")) {
    WARN("skipped: this system has no /dev/full");
    return;
  }
  const TemporaryFolder folder;
  for (const std::string& arguments : {std::string(" --help"), " --model " + mamba + " --tokens 5,6,7 --method raw"}) {
    const fs::path said = folder / ".stderr";
    const int status = std::system(("cd " + quoted(IMPLICIT_ATTENTION_SOURCE_DIR) + " && " +
                                    quoted((fs::path(IMPLICIT_ATTENTION_EXAMPLES_DIR) / "explain").string()) + arguments +
                                    " >/dev/full 2>" + quoted(said.string()) + " </dev/null")
                                       .c_str());
    INFO(arguments);
    CHECK(WEXITSTATUS(status) == 2);
    CHECK(io_test::read_bytes(said) == "explain: the output could not be written\n");
  }
}

TEST_CASE("programs: a standard stream that is closed gives its number to no file of ours", "[faults]") {
  const TemporaryFolder folder;
  io_test::write_bytes(folder / "texts.txt", "a film <cls>\na dull film <cls>\n");
  const std::string explain = quoted((fs::path(IMPLICIT_ATTENTION_EXAMPLES_DIR) / "explain").string()) + " --model " + mamba,
                    said = (folder / ".stderr").string();
  const auto status_of = [](const std::string& command) {
    const int status = std::system(("cd " + quoted(IMPLICIT_ATTENTION_SOURCE_DIR) + " && env " + command).c_str());
    REQUIRE(WIFEXITED(status));
    return WEXITSTATUS(status);
  };
  const auto lines = [&](const std::string& name, const std::string& streams, const std::string& environment = "") {
    const fs::path out = folder / name;
    const int status = status_of(environment + " " + explain + " --data " + quoted((folder / "texts.txt").string()) + " --out " +
                                 quoted(out.string()) + streams);
    return std::pair(status, io_test::read_bytes(out));
  };
  const auto [status, expected] = lines("open.jsonl", " >/dev/null 2>/dev/null </dev/null");
  REQUIRE(status == 0);
  CHECK(lines("no_stdout.jsonl", " >&- 2>/dev/null </dev/null") == std::pair(2, expected));  // which has something to say
  CHECK(lines("none.jsonl", " >&- 2>&- <&-") == std::pair(2, expected));
#ifdef IMPLICIT_ATTENTION_FAULT_LIBRARY
  // A disk so slow that progress is shown between two halves of a result: it would go to the first number that is free.
  const std::string slow = "LD_PRELOAD=" + quoted(IMPLICIT_ATTENTION_FAULT_LIBRARY) + " FAULT_CALL=fwrite FAULT_NUMBER=2 FAULT_PAUSE=1000";
  CHECK(lines("slow.jsonl", " >/dev/null 2>" + quoted(said) + " </dev/null", slow) == std::pair(0, expected));
  CHECK_THAT(io_test::read_bytes(said), contains_text(" %"));
  CHECK(lines("no_stderr.jsonl", " >/dev/null 2>&- </dev/null", slow) == std::pair(0, expected));
#endif
  // A standard input that is closed is no empty text.
  CHECK(status_of(explain + " --text - >/dev/null 2>" + quoted(said) + " <&-") == 2);
  CHECK(io_test::read_bytes(said) == "explain: --text: standard input cannot be read\n");
}

TEST_CASE("programs: an output that cannot be is refused before the work", "[faults]") {
  const TemporaryFolder folder;
  const std::string name(300, 'x');
  for (const Program& program : programs()) {
    // The model is not there either, which is found later.
    const Outcome outcome = run(folder, program.name,
                                {"--model", (folder / "gone").string(), "--layer", "0", "--tokens", "1", "--out",
                                 (folder / (name + fs::path(program.out).extension().string())).string()});
    CHECK(outcome.status == 2);
    CHECK_THAT(outcome.err, contains_text("x" + fs::path(program.out).extension().string() + ": cannot be written: "));
    CHECK(folder.entries() == 2);  // what it said
  }
}

TEST_CASE("programs: signals at any moment", "[faults]") {
  std::mt19937 random(20240613);
  const Program& program = programs()[3];
  const std::string& expected = whole(program);
  std::chrono::microseconds longest{0};
  for (int round = 0; round < 3; ++round) {
    const TemporaryFolder folder;
    const auto begin = std::chrono::steady_clock::now();
    REQUIRE(end_of(start(program, folder / program.out, {}, -1)) == 0);
    longest = std::max(longest, std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin));
  }
  int stopped = 0;
  for (int round = 0; round < (every_fault() ? 132 : 44); ++round) {  // each signal at four moments or more
    const int signal = ending_signals()[static_cast<std::size_t>(round) % ending_signals().size()];
    const TemporaryFolder folder;
    const fs::path out = folder / program.out;
    io_test::write_bytes(out, "before");
    const pid_t child = start(program, out, {}, -1);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % static_cast<std::uint32_t>(longest.count() * 5 / 4 + 1)));
    REQUIRE(child > 0);
    ::kill(child, signal);
    const int status = end_of(child);
    const bool ended = WIFEXITED(status) && WEXITSTATUS(status) == 0, by_signal = WIFSIGNALED(status) && WTERMSIG(status) == signal;
    INFO("signal " << signal << ", status " << status);
    CHECK((ended || by_signal));
    stopped += by_signal;
    const std::string after = io_test::read_bytes(out);
    CHECK((after == expected || (!ended && after == "before")));
    CHECK(folder.entries() == 1);
  }
  CHECK(stopped > 10);
}

TEST_CASE("programs: a file of weights that becomes shorter while it is mapped is named", "[faults]") {
  if (!fs::exists("/proc/self/maps")) {
    WARN("skipped: this system has no /proc");
    return;
  }
  const TemporaryFolder folder;
  const fs::path model = folder / "model", weights = model / "model.safetensors", pipe = folder / "ids";
  fs::copy(fs::path(IMPLICIT_ATTENTION_SOURCE_DIR) / mamba, model);
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  Outcome outcome;
  std::thread program([&] {
    outcome = run(folder, "explain", {"--model", model.string(), "--tokens", "@" + pipe.string(), "--out", (folder / "out.json").string()});
  });
  // The tokens are read when the file is mapped and its weights are not touched yet; until then nobody reads the pipe.
  int ids = -1;
  for (int tries = 0; tries < 3000 && ids < 0; ++tries) {
    ids = ::open(pipe.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (ids < 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  if (ids >= 0) {
    fs::resize_file(weights, fs::file_size(weights) / 64);
    static_cast<void>(!::write(ids, "5,6,7,2", 7));
    ::close(ids);
  }
  program.join();
  REQUIRE(ids >= 0);
  CHECK(outcome.status == 2);
  CHECK(outcome.out.empty());
  CHECK_FALSE(fs::exists(folder / "out.json"));
  CHECK(without_progress(outcome.err) ==
        "explain: " + fs::canonical(weights).string() + " became shorter while it was read, or its disk fails\n");
}
