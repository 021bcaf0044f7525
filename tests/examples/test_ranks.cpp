// Several processes of one MPI run: the files that one process would write, byte for byte; mistakes said once.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <sys/wait.h>

#include <support/catch.hpp>
#include <support/shared_data.hpp>

#include <implicit_attention/io/json.hpp>

#include "programs.hpp"

using namespace implicit_attention;
using namespace example_test;

#ifndef IMPLICIT_ATTENTION_MPIEXEC
#define IMPLICIT_ATTENTION_MPIEXEC ""
#endif

namespace {

const std::string mpiexec = IMPLICIT_ATTENTION_MPIEXEC;
const std::string shipped_models = std::string(IMPLICIT_ATTENTION_SOURCE_DIR) + "/examples/models/";

/// Runs a program in several processes, the first with an environment of its own. Open MPI wants to be told that it may do so as root, and
/// on fewer cores. Processes that wait for each other are stopped, with status 124.
Outcome run_ranks(const TemporaryFolder& folder, int ranks, const std::string& program, const std::vector<std::string>& arguments,
                  const std::vector<std::string>& environment_of_first = {}) {
  const fs::path out = folder / ".stdout", err = folder / ".stderr";
  std::string one = quoted((fs::path(IMPLICIT_ATTENTION_EXAMPLES_DIR) / program).string()), first = " env";
  for (const std::string& argument : arguments) one += " " + quoted(argument);
  for (const std::string& variable : environment_of_first) first += " " + quoted(variable);
  std::string command = "cd " + quoted(folder.path().string()) +
                        " && timeout 120 env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 "
                        "OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_odls_base_sigkill_timeout=0 "
                        "OMPI_MCA_btl_vader_single_copy_mechanism=none " +
                        quoted(mpiexec) + " -n 1" + first + " " + one + " : -n " + std::to_string(ranks - 1) + " " + one;
  command += " >" + quoted(out.string()) + " 2>" + quoted(err.string()) + " </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, io_test::read_bytes(out), io_test::read_bytes(err)};
}
std::size_t occurrences(const std::string& text, const std::string& words) {
  std::size_t count = 0;
  for (std::size_t at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++count;
  return count;
}
bool no_mpi() {
  if (!mpiexec.empty()) return false;
  test_support::data_was_missing() = true;
  WARN("the programs were built without MPI (IMPLICIT_ATTENTION_MPI, Debian's libopenmpi-dev and openmpi-bin): nothing was tested");
  return true;
}

}  // namespace

TEST_CASE("ranks: explain --data writes what one process writes", "[ranks]") {
  if (no_mpi()) return;
  const TemporaryFolder folder;
  std::string texts;
  for (int i = 0; i < 60; ++i) {
    texts += "it is film number " + std::to_string(i);
    for (int k = 0; k < i % 7; ++k) texts += " and never dull";
    texts += i == 20 ? " \xFF\n" : " <cls>\n";
  }
  io_test::write_bytes(folder / "texts.txt", texts);
  const auto arguments = [&](const std::string& out) {
    return std::vector<std::string>{"--model",  shipped_models + "mamba", "--data", (folder / "texts.txt").string(),
                                    "--method", "raw,relevance",          "--out",  (folder / out).string()};
  };
  const Outcome alone = run(folder, "explain", arguments("alone.jsonl"));
  CHECK(alone.status == 1);  // one text is no UTF-8
  const std::string bytes = io_test::read_bytes(folder / "alone.jsonl");
  for (const int ranks : {2, 3}) {
    INFO(ranks << " processes");
    const std::string name = std::to_string(ranks) + ".jsonl";
    const Outcome shared = run_ranks(folder, ranks, "explain", arguments(name));
    CHECK(shared.status == 1);
    CHECK(io_test::read_bytes(folder / name) == bytes);
    CHECK(occurrences(shared.out, "59 of 60 texts explained") == 1);
    CHECK(occurrences(shared.err, "explain: 1 of 60 texts could not be explained; the first: line 21: ") == 1);
  }
  // A run that was interrupted is gone on with, by however many processes.
  io_test::write_bytes(folder / "2.jsonl", bytes.substr(0, bytes.size() / 3));
  const Outcome resumed = run_ranks(folder, 2, "explain", arguments("2.jsonl"));
  CHECK(io_test::read_bytes(folder / "2.jsonl") == bytes);
  CHECK(occurrences(resumed.out, "of the results were there already") == 1);
  // A share of the texts is shared.
  std::vector<std::string> shard = arguments("share.jsonl");
  shard.insert(shard.end(), {"--shard", "2/2"});
  CHECK(run_ranks(folder, 2, "explain", shard).status == 0);
  CHECK(bytes.ends_with(io_test::read_bytes(folder / "share.jsonl")));
  CHECK(occurrences(io_test::read_bytes(folder / "share.jsonl"), "\n") == 30);
}

TEST_CASE("ranks: what is wrong in one process is said once, and ends all", "[ranks]") {
  if (no_mpi()) return;
  const TemporaryFolder folder;
  io_test::write_bytes(folder / "texts.txt", "a film <cls>\n");
  io_test::write_bytes(folder / "taken.jsonl", "{\"line\":9}\n");
  const auto mistake = [&](const std::string& program, std::vector<std::string> arguments, const std::string& words) {
    arguments.insert(arguments.begin(), {"--data", (folder / "texts.txt").string()});
    const Outcome outcome = run_ranks(folder, 2, program, arguments);
    INFO(outcome.err);
    CHECK(outcome.status == 2);
    CHECK(occurrences(outcome.err, words) == 1);
    CHECK(occurrences(outcome.err, program + ": ") == 1);
  };
  // Only the first process writes the file; the second would wait for it forever.
  mistake("explain", {"--model", shipped_models + "mamba", "--out", (folder / "taken.jsonl").string()}, "is there, but not");
  mistake("explain", {"--model", (folder / "nothing").string(), "--out", (folder / "a.jsonl").string()}, "nothing");
  mistake("evaluate", {"--model", shipped_models + "mamba", "--methods", "raw"}, "label");
  CHECK_FALSE(fs::exists(folder / "a.jsonl"));
}

#ifdef IMPLICIT_ATTENTION_FAULT_LIBRARY
TEST_CASE("ranks: the first process without memory ends all", "[ranks]") {
  if (no_mpi()) return;
  const TemporaryFolder folder;
  std::string texts;
  for (int i = 0; i < 8; ++i) {
    for (int k = 0; k < 40 + i; ++k) texts += "never dull ";
    texts += "<cls>\n";
  }
  io_test::write_bytes(folder / "texts.txt", texts);
  const std::vector<std::string> arguments{
      "--model", shipped_models + "mamba",       "--data", (folder / "texts.txt").string(), "--method", "raw",
      "--out",   (folder / "out.jsonl").string()};
  // Results are the longest of what is allocated: at least one for each text that the other process explains.
  const std::vector<std::string> counted{std::string("LD_PRELOAD=") + IMPLICIT_ATTENTION_FAULT_LIBRARY, "FAULT_CALL=new",
                                         "FAULT_BYTES=2000"};
  std::vector<std::string> environment = counted;
  environment.push_back("FAULT_COUNT=" + (folder / "count").string());
  REQUIRE(run_ranks(folder, 2, "explain", arguments, environment).status == 0);
  const long calls = std::atol(io_test::read_bytes(folder / "count").c_str());
  const std::string whole = io_test::read_bytes(folder / "out.jsonl");
  REQUIRE(calls > 8);
  int refused = 0;
  // Of the last, with those for what other processes send, every second (IMPLICIT_ATTENTION_TESTS_EVERY_FAULT=1: each); of others, some.
  const long step = std::getenv("IMPLICIT_ATTENTION_TESTS_EVERY_FAULT") == nullptr ? 2 : 1;
  for (long number = 1; number <= calls; number += std::max(step, (calls - number - 12) / 3)) {
    fs::remove(folder / "out.jsonl");
    environment = counted;
    environment.push_back("FAULT_NUMBER=" + std::to_string(number));
    const Outcome outcome = run_ranks(folder, 2, "explain", arguments, environment);
    INFO(number << " of " << calls << ": " << outcome.status << " " << outcome.err);
    // A text that takes too much is a line of the results.
    CHECK((outcome.status == 0 || outcome.status == 1 || outcome.status == 2));
    if (outcome.status == 0) CHECK(io_test::read_bytes(folder / "out.jsonl") == whole);
    if (outcome.status != 2) continue;
    ++refused;
    CHECK(occurrences(outcome.err, "explain: there is not enough memory for this\n") == 1);
    CHECK(occurrences(outcome.err, "explain: ") == 1);
  }
  CHECK(refused >= 4);
}
#endif

TEST_CASE("ranks: evaluate gives the same numbers", "[ranks]") {
  if (no_mpi()) return;
  const TemporaryFolder folder;
  io_test::write_bytes(folder / "texts.txt",
                       "1 a gripping and moving film\n0 a dull mess\n1 never dull\n0 it is a mess\n1 moving\n0\tdull and long\t0,2\n");
  const auto arguments = [&](const std::string& out) {
    return std::vector<std::string>{
        "--model", shipped_models + "mamba", "--data", (folder / "texts.txt").string(), "--methods", "raw,random", "--terms", "all",
        "--out",   (folder / out).string()};
  };
  const auto results = [&](const std::string& name) {
    const JsonDocument document = read_json_object(folder / name);
    Json json = *document;
    json.erase("seconds");
    return json.dump();
  };
  const Outcome alone = run_well(folder, "evaluate", arguments("alone.json"));
  const Outcome shared = run_ranks(folder, 2, "evaluate", arguments("shared.json"));
  CHECK(shared.status == 0);
  CHECK(results("shared.json") == results("alone.json"));
  CHECK(shared.out.substr(0, shared.out.find("Written to")) == alone.out.substr(0, alone.out.find("Written to")));
  // A share of the texts is shared, and gone on with.
  run_well(folder, "evaluate", arguments("whole.jsonl"));
  const std::string whole = io_test::read_bytes(folder / "whole.jsonl");
  std::vector<std::string> shard = arguments("part.jsonl");
  shard.insert(shard.end(), {"--shard", "2/2"});
  CHECK(run_ranks(folder, 2, "evaluate", shard).status == 0);
  const std::string part = io_test::read_bytes(folder / "part.jsonl");
  CHECK(occurrences(part, "\n") == 3);
  CHECK(whole.ends_with(part));
  io_test::write_bytes(folder / "part.jsonl", part.substr(0, part.find('\n') + 4));
  CHECK(occurrences(run_ranks(folder, 3, "evaluate", shard).out, "3 texts evaluated, 1 of the results were there already") == 1);
  CHECK(io_test::read_bytes(folder / "part.jsonl") == part);
}
