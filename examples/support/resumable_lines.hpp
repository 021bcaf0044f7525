// A file of results, a line each, in order, that an interrupted run can go on with.
#pragma once

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <implicit_attention/core/types.hpp>

namespace implicit_attention::examples {

/// Where the settings of a file of results lie.
[[nodiscard]] std::string settings_path(const std::string& path);
/// How the result of text `line` begins: `{"line":4,`.
[[nodiscard]] std::string line_start(Index line);
/// The first setting that is not the same, as a message ends; empty where all are.
[[nodiscard]] std::string settings_difference(const nlohmann::json& before, const nlohmann::ordered_json& now);

/// Lines of JSON that begin with `{"line":N,`, the number of the text that they are about. Beside the file stands `FILE.settings.json`:
/// what the lines were made with. A file that was made with the same is gone on with after its last whole line.
class ResumableLines {
 public:
  /// `numbers`: those of all lines that the file is to have. Fails (value) on a file that was made with other settings, that is none of
  /// ours, or that another run is writing; (file) where nothing can be written.
  ResumableLines(std::string path, const nlohmann::ordered_json& settings, std::vector<Index> numbers);

  /// Lines that are there.
  [[nodiscard]] Index written() const { return written_; }
  /// How many of them are errors, and the first of these.
  [[nodiscard]] Index errors() const { return errors_; }
  [[nodiscard]] const std::string& first_error() const { return first_error_; }

  /// The line of `numbers[index]`, with its line end. It is written once all before it are. Not for several threads at once.
  void put(Index index, std::string line);

 private:
  void read_back(std::string_view text);
  void count(std::string_view line);
  std::string path_;
  std::vector<Index> numbers_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream_;
  [[noreturn]] void failed(int why);

  std::map<Index, std::string> waiting_;
  bool failed_ = false;
  Index written_ = 0, errors_ = 0;
  std::string first_error_;
};

}  // namespace implicit_attention::examples
