// What the command lines share: lists of indices, files of tensors, outputs, and errors of one line.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/core/types.hpp>
#include <implicit_attention/operator/reduction.hpp>
#include <implicit_attention/operator/selection.hpp>
#include <implicit_attention/operator/terms.hpp>

namespace CLI {
class App;
class Validator;
}  // namespace CLI

namespace implicit_attention::examples {

/// While one of these lives, a thread that runs out of memory ends the program there, with one line and status 2: nlohmann-json aborts
/// where it cannot allocate a value.
class EndWithoutMemory {
 public:
  EndWithoutMemory();
  EndWithoutMemory(const EndWithoutMemory&) = delete;
  EndWithoutMemory& operator=(const EndWithoutMemory&) = delete;
  ~EndWithoutMemory();
};

/// Runs `work` after `app` has read the command line. Whatever goes wrong, in the command line or in the work, becomes one line on
/// stderr and exit status 2, an unknown option before anything else; `--help` and `--version` print what they say and give 0.
int run_program(CLI::App& app, int argument_count, char** arguments, const std::function<void()>& work);

/// Whether an option (`--out`) stands on the command line. App::count ends the program where there is no memory for a name.
[[nodiscard]] bool given(const CLI::App& app, std::string_view option);

/// For an option that takes a whole number whose range is known later: it must fit an Index, which CLI11 sees to by taking the nearest.
[[nodiscard]] CLI::Validator whole_number();
/// For an option that takes a whole number: it must be `least` or more, and fit an Index.
[[nodiscard]] CLI::Validator at_least(Index least);
[[nodiscard]] CLI::Validator between(Index least, Index most);
/// For an option that takes one of a few words.
[[nodiscard]] CLI::Validator one_of(std::vector<std::string> words);
/// For an option whose empty value, for example of a shell variable that is not set, would count as not given.
[[nodiscard]] CLI::Validator not_empty();
/// Before CLI::AsSizeValue, which takes a negative number for a very large one and names neither what came nor what was expected.
[[nodiscard]] CLI::Validator size_in_bytes();

/// `--threads N`, where nothing is given 0. `shared`: whether mpirun may share the work out, each process with one thread unless told.
void add_threads_option(CLI::App& app, int& threads, bool shared);

/// `--terms`; `several`: sets of them with commas between, for the methods that are compared.
void add_terms_option(CLI::App& app, std::string& terms, bool several);
/// `--steps`: the points of the path of integrated gradients.
void add_steps_option(CLI::App& app, Index& steps);

/// What stands between the commas of `a,b,c`, empty parts too.
[[nodiscard]] std::vector<std::string> split_list(std::string_view list);
/// `0,5-7` as 0, 5, 6, 7; white space separates as commas do, and brackets may stand around. Fails (value) on anything else, naming
/// `option`.
[[nodiscard]] std::vector<Index> parse_index_list(std::string_view option, std::string_view text);
/// `all`, `last`, or a list as above.
[[nodiscard]] Indices parse_indices(std::string_view option, std::string_view text);
/// Terms::parse, whose errors then name the option and the term that is probably meant.
[[nodiscard]] Terms parse_terms(std::string_view option, std::string_view text);
/// The names of `--reduce` but `none`: mean, mean-abs, mean-positive.
[[nodiscard]] ReductionKind parse_reduction(std::string_view text);
/// The name of a reduced map in pictures and tables: `mean of |attention| over channels`.
[[nodiscard]] std::string reduction_text(ReductionKind kind);

/// The ending of an output file, checked before any work. Fails (value) unless it is one of `endings`, (value) where it is one of `inputs`
/// (files, FILE:TENSOR, @FILE, models' folders), (file) where its folder is missing.
[[nodiscard]] std::string checked_output(std::string_view option, const std::string& path, std::initializer_list<std::string_view> endings,
                                         const std::vector<std::string>& inputs);
/// Whether the file can be written there: makes one beside it and removes it again, or opens the lines that are there. For the process that
/// will write it, before any work. Fails (file), naming `option`.
void try_output(std::string_view option, const std::string& path);

/// `FILE` or `FILE:TENSOR`.
struct FileAndTensor {
  std::string file;
  std::string tensor;  ///< empty: not named
};
/// Splits at the first colon that an existing file stands before; a file whose name holds a colon is taken whole.
[[nodiscard]] FileAndTensor parse_file_and_tensor(const std::string& text);

/// All names, one behind the other.
[[nodiscard]] std::string joined(const std::vector<std::string>& names, std::string_view separator);
/// `a, b or c`.
[[nodiscard]] std::string one_of_these(const std::vector<std::string>& names);
/// `a, b and 3 more`: names for a message that must stay one line.
[[nodiscard]] std::string some_of(const std::vector<std::string>& names, std::size_t most = 6);

}  // namespace implicit_attention::examples
