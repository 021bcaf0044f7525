#include "command_line.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <limits>
#include <new>
#include <system_error>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <unistd.h>
#endif

#include <CLI/CLI.hpp>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/folder.hpp>
#include <implicit_attention/io/replaced_file.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/version.hpp>

#include "model_files.hpp"
#include "nearest_name.hpp"
#include "terminal.hpp"
#include "text.hpp"

namespace implicit_attention::examples {
namespace {

constexpr std::string_view fewer = "ask for fewer channels, fewer rows, or a reduction over channels";  // as the library says it

/// The library's hints in words of this program's options: one that cannot choose channels and rows needs a shorter text.
std::string with_own_options(std::string text, bool has_channels) {
  constexpr std::string_view raise_limit = "raise byte_limit", shorter = "a shorter text takes less";
  const auto replace = [&](std::string_view old, std::string_view by) {
    if (const std::size_t at = text.find(old); at != std::string::npos) text.replace(at, old.size(), by);
  };
  if (!has_channels) replace(detail::message(fewer, " (or ", raise_limit, ")"), shorter);
  if (!has_channels) replace(fewer, shorter);
  replace(raise_limit, "raise --byte-limit");
  return text;
}

int complain(const std::string& program, const std::string& what) {
  std::string line = what;
  std::replace_if(
      line.begin(), line.end(), [](char letter) { return letter == '\n' || letter == '\r'; }, ' ');
  print(detail::message(program, ": ", printable(line, 2000), "\n"), terminal_of(stderr), stderr);
  return 2;
}

[[noreturn]] void no_list(std::string_view option, std::string_view text) {
  const std::string_view expected = option == "--tokens" ? "is not a list of token ids, expected for example 1,2,3"
                                                         : "is not a list of numbers, expected for example 0,5-7";
  detail::raise(ErrorKind::value, option, ": \"", printable(text, 60), "\" ", expected);
}

std::string too_large(std::string_view digits) {
  return detail::message(printable(digits, 60), " is too large a number, expected at most ", std::numeric_limits<Index>::max());
}

// One index of a list, or an error that shows what a list looks like.
Index parse_index(std::string_view option, std::string_view digits, std::string_view text) {
  Index value = 0;
  const char* const end = digits.data() + digits.size();
  const auto read = std::from_chars(digits.data(), end, value);
  if (digits.starts_with('-')) no_list(option, text);
  if (read.ec == std::errc::result_out_of_range) detail::raise(ErrorKind::value, option, ": ", too_large(digits));
  if (read.ec != std::errc() || read.ptr != end) no_list(option, text);
  return value;
}

constexpr int help_indent = 28;

/// Breaks the options' descriptions into lines that a terminal of `columns` has room for, beside the column of the options' names.
void wrap_help(CLI::App& app, int columns) {
  const auto width = static_cast<std::size_t>(std::clamp(columns - help_indent, 30, 90));
  app.get_formatter()->column_width(help_indent);
  for (CLI::Option* option : app.get_options()) {
    std::string text = option->get_description();
    std::size_t line = 0, space = std::string::npos;
    for (std::size_t i = 0; i <= text.size(); ++i) {
      if (i - line > width && space != std::string::npos && space >= line) {
        text[space] = '\n';
        line = space + 1;
      }
      if (i < text.size() && text[i] == '\n') line = i + 1;
      if (i < text.size() && text[i] == ' ') space = i;
    }
    option->description(text);
  }
}

/// The signals by which people, shells and batch systems end a program that has not asked for them.
constexpr int ending_signals[] = {
    SIGINT,  SIGTERM,
#if defined(__unix__) || defined(__APPLE__)
    SIGHUP,  SIGPIPE,   SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2,
#endif
#ifdef SIGXCPU
    SIGXCPU, SIGVTALRM, SIGPROF,
#endif
};

/// Stopped by the user or the system: what is half written goes away, then the signal does what it always does.
void stop(int signal) {
  remove_partial_files();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}
/// For the line of a handler; `run_program` keeps the characters.
std::string_view running_program = "program";
#ifdef SIGBUS
/// A file in /proc/self/maps, as Linux lists what is mapped: `begin-end access offset device inode   path`, numbers hexadecimal.
/// Calls nothing that a signal handler may not.
class MappedName {
 public:
  /// Finds the path of what is mapped at `address`; empty where the system does not say.
  explicit MappedName(std::uintptr_t address) {
    const int maps = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (maps < 0) return;
    std::array<char, 1024> block{};
    bool found = false;
    for (ssize_t count = 0; !found && (count = ::read(maps, block.data(), block.size())) > 0;)
      for (ssize_t i = 0; !found && i < count; ++i) {
        const char letter = block[static_cast<std::size_t>(i)];
        if (letter == '\n')
          found = lies_here(address);
        else if (size_ < line_.size())
          line_[size_++] = letter;
        if (letter == '\n' && !found) size_ = 0;
      }
    ::close(maps);
    if (!found) size_ = 0;
  }
  [[nodiscard]] std::string_view text() const {
    const std::string_view line(line_.data(), size_);
    const std::size_t path = line.find('/');
    return path == std::string_view::npos ? std::string_view() : line.substr(path);
  }

 private:
  [[nodiscard]] bool lies_here(std::uintptr_t address) const {
    std::uintptr_t begin = 0, end = 0;
    const char* const last = line_.data() + size_;
    const auto first = std::from_chars(line_.data(), last, begin, 16);
    if (first.ec != std::errc() || first.ptr == last) return false;
    return std::from_chars(first.ptr + 1, last, end, 16).ec == std::errc() && begin <= address && address < end;
  }

  std::array<char, 4352> line_{};  // a path, and what stands before it
  std::size_t size_ = 0;
};
/// What was done about the signal before this program began.
struct sigaction before_cut_short {};
/// Bytes of a mapped file are gone. The signal may mean something else, too (somebody sent it, the memory is broken): then it does what it
/// did before.
void cut_short(int signal, siginfo_t* what, void*) {
  if (what->si_code != BUS_ADRERR) {
    const bool sent = what->si_code <= 0, of_others = (before_cut_short.sa_flags & SA_SIGINFO) != 0;
    if (sent && !of_others && before_cut_short.sa_handler == SIG_IGN) return;
    if (!of_others && before_cut_short.sa_handler == SIG_DFL) remove_partial_files();  // it ends the program
    ::sigaction(signal, &before_cut_short, nullptr);
    if (sent) std::raise(signal);  // else the same instruction raises it again
    return;
  }
  static std::atomic_flag said;  // threads may find it at the same time; one says it
  while (said.test_and_set()) ::pause();
  remove_partial_files();
  const MappedName name(reinterpret_cast<std::uintptr_t>(what->si_addr));
  const auto say = [](std::string_view text) { static_cast<void>(!::write(STDERR_FILENO, text.data(), text.size())); };
  say(running_program);
  say(": ");
  say(name.text().empty() ? "a file that is being read" : name.text());
  say(" became shorter while it was read, or its disk fails\n");
  ::_exit(2);
}
#endif
void handle_signals() {
  for (const int signal : ending_signals) {
#if defined(__unix__) || defined(__APPLE__)
    // What is ignored stays so, as nohup wants it, and so does a handler of others: a profiler's, MPI's, a fuzzer's.
    struct sigaction before {};
    if (::sigaction(signal, nullptr, &before) != 0 || (before.sa_flags & SA_SIGINFO) != 0 || before.sa_handler != SIG_DFL) continue;
#endif
    std::signal(signal, stop);
  }
#ifdef SIGXFSZ
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is then an error of the write, which names it
#endif
#ifdef SIGBUS
  struct sigaction action {};
  action.sa_sigaction = cut_short;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, &before_cut_short);
#endif
}

#if defined(__unix__) || defined(__APPLE__)
/// A program that was started with a standard stream closed would be given its number for a file of ours, and progress would go into the
/// results. /dev/null takes the place, opened the other way round, so that using the stream still fails.
void hold_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) >= 0) continue;
    const int got = ::open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    if (got < 0 || got == stream) continue;
    static_cast<void>(::dup2(got, stream));
    ::close(got);
  }
}
#endif

/// The long names of all options.
std::vector<std::string> long_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) names.insert(names.end(), option->get_lnames().begin(), option->get_lnames().end());
  return names;
}

/// Fails (value) on the first argument that is written as an option and is none of the program's, or that is no option's value: whatever
/// else is wrong with the command line may follow from it. Values are passed over as the parser does it.
void refuse_unknown_arguments(const CLI::App& app, int argument_count, char** arguments) {
  const std::vector<const CLI::Option*> options = app.get_options();
  const std::string see = detail::message("; ", app.get_name(), " --help lists all options");
  const auto option_of = [&](const std::string& name, bool is_long) {
    const auto found = std::find_if(options.begin(), options.end(), [&](const CLI::Option* option) {
      return is_long ? option->check_lname(name) : option->check_sname(name);
    });
    return found == options.end() ? nullptr : *found;
  };
  std::vector<const CLI::Option*> seen;
  for (int i = 1; i < argument_count; ++i) {
    const std::string_view argument = arguments[i];
    if (argument == "--") return;
    if (argument.size() < 2 || argument[0] != '-') {
      std::error_code ignored;
      const std::string path(argument);
      const bool model = option_of("model", true) != nullptr &&
                         (std::filesystem::is_directory(path, ignored) || (is_weights(path) && std::filesystem::exists(path, ignored)));
      detail::raise(ErrorKind::value, "\"", printable(argument, 60), "\" belongs to no option",
                    model ? detail::message(", perhaps --model ", argument, " is meant")
                          : std::string(", expected quotes around a value of several words"),
                    see);
    }
    const bool is_long = argument[1] == '-';
    const std::size_t equals = argument.find('=');
    const std::string name(argument.substr(is_long ? 2 : 1, equals == std::string_view::npos ? equals : equals - (is_long ? 2 : 1)));
    const CLI::Option* const known = option_of(name, is_long);
    if (known == nullptr)
      detail::raise(
          ErrorKind::value, "there is no option ", is_long ? "--" : "-", name,
          option_of(name, true) != nullptr ? detail::message(", perhaps --", name, " is meant") : perhaps(name, long_names(app), "--"),
          see);
    if (equals + 1 == argument.size()) detail::raise(ErrorKind::value, argument, " has no value", see);  // the parser takes the next word
    const std::string_view written = argument.substr(0, equals);
    if (known->get_items_expected_max() > 0 && known->get_multi_option_policy() == CLI::MultiOptionPolicy::Throw &&
        std::find(seen.begin(), seen.end(), known) != seen.end())
      detail::raise(ErrorKind::value, written, " appears twice, expected once", see);
    seen.push_back(known);
    // As the parser takes values: the least number whatever they look like, more while they are not written as options.
    const int least = known->get_items_expected_min(), most = known->get_items_expected_max();
    const auto is_option = [](std::string_view word) { return word.size() > 1 && word[0] == '-'; };
    for (int taken = equals == std::string_view::npos ? 0 : 1;
         taken < least || (taken < most && i + 1 < argument_count && !is_option(arguments[i + 1])); ++taken) {
      const std::string_view next = i + 1 < argument_count ? std::string_view(arguments[i + 1]) : std::string_view();
      if (i + 1 == argument_count ||
          (next.starts_with("--") && next.size() > 2 && option_of(std::string(next.substr(2, next.find('=') - 2)), true) != nullptr))
        detail::raise(ErrorKind::value, written, " has no value",
                      next.empty() ? std::string() : detail::message(": ", next, " follows (", written, "=", next, " if that is meant)"),
                      see);
      ++i;
    }
  }
}

/// Whether a file of this name is one that a model is read from, in a folder that holds `names`.
bool is_of_model(const std::string& name, const std::vector<std::string>& names) {
  if (is_beside_weights(name)) return true;
  for (const char* begin : {"model", "pytorch_model", "consolidated"})
    if (name.starts_with(begin) && (is_weights(name) || name.ends_with(".index.json"))) return true;
  return is_weights(name) && std::count_if(names.begin(), names.end(), is_weights) == 1;
}

/// Whether writing `file` would overwrite `input`, or what lies in its folder and makes it a model; by whatever links it is named. Of texts
/// and lists, which need not be files, the folder is nobody's.
bool overwrites(const std::filesystem::path& file, const std::filesystem::path& input) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::exists(file, ignored) || !fs::exists(input, ignored)) return false;
  if (fs::equivalent(file, input, ignored)) return true;
  const bool is_folder = fs::is_directory(input, ignored);
  const std::string own_name = input.filename().string();
  if (!is_folder && !is_weights(own_name) && !is_of_model(own_name, {})) return false;
  const fs::path folder = is_folder ? input : input.has_parent_path() ? input.parent_path() : fs::path(".");
  const std::vector<std::string> names = detail::names_in(folder, ignored);
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return is_of_model(name, names) && fs::equivalent(file, folder / name, ignored); });
}

}  // namespace

void add_threads_option(CLI::App& app, int& threads, bool shared) {
  app.add_option("--threads", threads,
                 std::string("how many threads work (all cores") + (shared ? "; under mpirun 1 in each process" : "") +
                     "); results do not depend on it")
      ->check(between(1, 4096))
      ->option_text("N");
}

void add_terms_option(CLI::App& app, std::string& terms, bool several) {
  std::string names;
  for (const Terms::Named& term : Terms::names()) names += detail::message(names.empty() ? "" : ", ", term.name);
  app.add_option("--terms", terms,
                 detail::message(
                     several ? "formulations for the methods from attention (all), separated by commas, the terms of a list joined by +"
                             : "which terms of the unified form",
                     ": all, published (arXiv 2405.16504), recurrence (arXiv 2403.01590), or a list of ", names,
                     "; the two papers' forms keep RWKV-4's denominator and Griffin's input scale, a list does not (only:recurrence: the "
                     "one term by itself, in RWKV-4 of an arbitrary scale per channel)"))
      ->check(not_empty())
      ->option_text(several ? "all|published|recurrence|LIST,..." : "all|published|recurrence|LIST");
}

void add_steps_option(CLI::App& app, Index& steps) {
  app.add_option("--steps", steps,
                 "integrated gradients: this many evenly spaced points (without it, as many as an error of 1 % of their sum needs)")
      ->check(between(1, 100000))
      ->option_text("N");
}

bool given(const CLI::App& app, std::string_view option) {
  for (const CLI::Option* known : app.get_options()) {
    if (known->count() == 0) continue;
    for (const std::string& name : known->get_lnames())
      if (option.starts_with("--") && option.substr(2) == name) return true;
  }
  return false;
}

namespace {
thread_local int without_memory_ends = 0;
/// Memory has run out: an exception, but where that would abort.
void no_memory() {
  if (without_memory_ends == 0) throw std::bad_alloc();
  remove_partial_files();
  for (const std::string_view text : {running_program, std::string_view(": there is not enough memory for this\n")})
    std::fwrite(text.data(), 1, text.size(), stderr);
  std::_Exit(2);
}
}  // namespace

EndWithoutMemory::EndWithoutMemory() { ++without_memory_ends; }
EndWithoutMemory::~EndWithoutMemory() { --without_memory_ends; }

int run_program(CLI::App& app, int argument_count, char** arguments, const std::function<void()>& work) {
  const std::string program = app.get_name();
  running_program = program;
#if defined(__unix__) || defined(__APPLE__)
  hold_standard_streams();
#endif
  const bool has_channels = app.get_option_no_throw("--channels") != nullptr;  // before options are added: one half made cannot be asked
  handle_signals();
  std::set_new_handler(no_memory);
  try {
    app.set_version_flag("--version", detail::message(program, " ", IMPLICIT_ATTENTION_VERSION_STRING), "print the version and exit");
    wrap_help(app, terminal_of(stdout).width);
    refuse_unknown_arguments(app, argument_count, arguments);
    app.parse(argument_count, arguments);
    work();
    if (std::fflush(stdout) != 0) return complain(program, "the output could not be written");
    return 0;
  } catch (const CLI::CallForHelp&) {
    const bool written = std::fputs(app.help().c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
    return written ? 0 : complain(program, "the output could not be written");
  } catch (const CLI::CallForVersion& version) {
    const bool written = std::printf("%s\n", version.what()) >= 0 && std::fflush(stdout) == 0;
    return written ? 0 : complain(program, "the output could not be written");
  } catch (const CLI::ConversionError& error) {
    const std::string_view text = error.what(), begin = "Could not convert: ", between = " = ";
    const std::size_t middle = text.find(between);
    if (!text.starts_with(begin) || middle == std::string_view::npos) return complain(program, error.what());
    return complain(program, detail::message(text.substr(begin.size(), middle - begin.size()), ": \"", text.substr(middle + between.size()),
                                             "\" is not a whole number; ", program, " --help lists all options"));
  } catch (const CLI::ParseError& error) {
    return complain(program, detail::message(error.what(), "; ", program, " --help lists all options"));
  } catch (const std::bad_alloc&) {
    return complain(program, with_own_options(detail::message("there is not enough memory for this; ", fewer), has_channels));
  } catch (const std::exception& error) {
    return complain(program, with_own_options(error.what(), has_channels));
  }
}

CLI::Validator whole_number() {
  return CLI::Validator(
      [](const std::string& text) {
        Index value = 0;
        const char* const end = text.data() + text.size();
        const auto read = std::from_chars(text.data(), end, value);
        if (read.ptr != end || read.ec == std::errc::invalid_argument)
          return detail::message("\"", printable(text, 60), "\" is not a whole number");
        if (read.ec == std::errc()) return std::string();
        return text.starts_with('-') ? detail::message(printable(text, 60), " is out of range") : too_large(text);
      },
      "");
}

CLI::Validator at_least(Index least) { return between(least, std::numeric_limits<Index>::max()); }

CLI::Validator between(Index least, Index most) {
  return CLI::Validator(
      [least, most](const std::string& text) {
        Index value = 0;
        const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
        if (read.ec == std::errc() && read.ptr == text.data() + text.size() && value >= least && value <= most) return std::string();
        const std::string range = most == std::numeric_limits<Index>::max() ? detail::message("of at least ", least)
                                                                            : detail::message("from ", least, " to ", most);
        return detail::message("\"", printable(text, 60), "\" is not a whole number ", range);
      },
      "");
}

CLI::Validator one_of(std::vector<std::string> words) {
  return CLI::Validator(
      [words = std::move(words)](const std::string& text) {
        if (std::find(words.begin(), words.end(), text) != words.end()) return std::string();
        return detail::message("\"", printable(text, 60), "\" is unknown", perhaps(text, words), ", expected ", one_of_these(words));
      },
      "");
}

CLI::Validator not_empty() {
  return CLI::Validator([](const std::string& text) { return text.empty() ? std::string("the value is empty") : std::string(); }, "");
}

namespace {
/// Digits, and perhaps a unit as CLI::AsSizeValue has them (k, kb, kib and so on, of 1024), below 2^63 bytes.
bool is_size(std::string_view text) {
  const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  double bytes = 0;
  for (const char digit : text.substr(0, digits)) bytes = 10 * bytes + (digit - '0');
  text.remove_prefix(std::min(text.find_first_not_of(' ', digits), text.size()));
  std::string unit(text);
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  if (const std::size_t power = std::string_view("bkmgtpe").find(unit.empty() ? 'b' : unit.front()); power != std::string_view::npos) {
    bytes = std::ldexp(bytes, static_cast<int>(10 * power));
    unit.erase(0, power == 0 ? 0 : 1);
    if (power > 0 && unit.starts_with('i')) unit.erase(0, 1);
  }
  return digits > 0 && (unit.empty() || unit == "b") && bytes < 0x1p63;
}
}  // namespace

CLI::Validator size_in_bytes() {
  return CLI::Validator(
      [](const std::string& text) {
        return is_size(text) ? std::string()
                             : detail::message("\"", printable(text, 60), "\" is not a size, expected for example 4G, 500M or 1000000");
      },
      "");
}

std::vector<std::string> split_list(std::string_view list) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    parts.emplace_back(trimmed(list.substr(begin, end - begin)));
    begin = end + 1;
  }
  return parts;
}

std::vector<Index> parse_index_list(std::string_view option, std::string_view text) {
  constexpr Index most = 10'000'000;  // longer lists are mistakes, and would fill the memory before anything can say so
  std::string_view rest = trimmed(text);
  if (rest.size() >= 2 && rest.front() == '[' && rest.back() == ']') rest = trimmed(rest.substr(1, rest.size() - 2));
  std::vector<Index> list;
  for (bool more = true; more;) {
    const std::size_t end = std::min(rest.find_first_of(", \t\r\n"), rest.size());
    const std::string_view part = rest.substr(0, end);
    const std::size_t dash = part.find('-', 1);
    if (part.empty()) no_list(option, text);
    const Index first = parse_index(option, part.substr(0, dash), text);
    const Index last = dash == std::string_view::npos ? first
                       : part.size() == dash + 1      ? -1
                                                      : parse_index(option, part.substr(dash + 1), text);
    if (last < first) detail::raise(ErrorKind::value, option, ": ", part, " is not a range, expected FIRST-LAST, for example 5-7");
    if (last - first >= most - static_cast<Index>(list.size()))
      detail::raise(ErrorKind::value, option, ": the list is longer than the ", most, " numbers that one may have");
    for (Index count = 0; count <= last - first; ++count) list.push_back(first + count);
    rest.remove_prefix(end);
    more = !rest.empty();
    rest = trimmed(rest);  // white space separates, and may stand around a comma
    if (rest.starts_with(',')) rest = trimmed(rest.substr(1));
  }
  return list;
}

Indices parse_indices(std::string_view option, std::string_view text) {
  if (text == "all") return Indices::all();
  if (text == "last") return Indices::last();
  return parse_index_list(option, text);
}

Terms parse_terms(std::string_view option, std::string_view text) {
  const std::string_view prefix = text.starts_with("only:") ? text.substr(0, 5) : std::string_view();
  const std::vector<std::string> words = split_list(text.substr(prefix.size()));
  try {
    return Terms::parse(detail::message(prefix, joined(words, ",")));
  } catch (const Error& error) {
    std::vector<std::string> names{"all", "published"};
    for (const Terms::Named& term : Terms::names()) names.emplace_back(term.name);
    std::string hint;
    for (const std::string& word : words)
      if (hint.empty()) hint = perhaps(word, names);
    detail::raise(error.kind(), option, ": ", error.what(), hint);
  }
}

ReductionKind parse_reduction(std::string_view text) {
  if (text == "mean") return ReductionKind::mean;
  if (text == "mean-abs") return ReductionKind::mean_abs;
  if (text == "mean-positive") return ReductionKind::mean_positive;
  detail::raise(ErrorKind::value, "--reduce: \"", text, "\" is unknown, expected none, mean, mean-abs or mean-positive");
}

std::string reduction_text(ReductionKind kind) {
  switch (kind) {
    case ReductionKind::mean:
      return "mean attention over channels";
    case ReductionKind::mean_abs:
      return "mean |attention| over channels";
    case ReductionKind::mean_positive:
      return "mean positive attention over channels";
    case ReductionKind::max:
      return "largest attention over channels";
    case ReductionKind::min:
      return "smallest attention over channels";
  }
  return "attention";
}

std::string checked_output(std::string_view option, const std::string& path, std::initializer_list<std::string_view> endings,
                           const std::vector<std::string>& inputs) {
  namespace fs = std::filesystem;
  const fs::path file(path);
  const std::string ending = file.extension().string();
  if (std::find(endings.begin(), endings.end(), ending) == endings.end())
    detail::raise(ErrorKind::value, option, ": \"", path, "\" ends in ", ending.empty() ? "nothing known" : ending, ", expected ",
                  one_of_these({endings.begin(), endings.end()}));
  std::error_code why, ignored;
  if (file.has_parent_path() && !fs::is_directory(file.parent_path(), why) && why == std::errc::permission_denied)
    detail::raise(ErrorKind::file, option, ": ", path, " cannot be written: ", why.message());
  if (file.has_parent_path() && !fs::is_directory(file.parent_path(), ignored))
    detail::raise(ErrorKind::file, option, ": ", path, " cannot be written: there is no folder ", file.parent_path().string());
  if (fs::is_directory(file, ignored)) detail::raise(ErrorKind::file, option, ": ", path, " is a folder, expected a file name");
  // Standard input may be a file, too.
  const auto file_of = [](const std::string& input) {
    return input == "-" ? std::string("/dev/stdin") : parse_file_and_tensor(input.starts_with('@') ? input.substr(1) : input).file;
  };
  for (const std::string& input : inputs)
    if (!input.empty() && overwrites(file, file_of(input)))
      detail::raise(ErrorKind::value, option, ": ", path, " is read in this run (", input, "), expected another file");
  return ending;
}

void try_output(std::string_view option, const std::string& path) {
  try {
    std::error_code ignored;
    // Lines are added to what is there; everything else is written beside it and takes its place.
    if (path.ends_with(".jsonl") && std::filesystem::is_regular_file(path, ignored)) {
      std::FILE* const file = std::fopen(path.c_str(), "ab");
      if (file == nullptr) detail::raise(ErrorKind::file, path, ": cannot be written: ", std::generic_category().message(errno));
      std::fclose(file);
    } else {
      const ReplacedFile tried(path);
    }
  } catch (const Error& error) {
    detail::raise(error.kind(), option, ": ", error.what());
  }
}

FileAndTensor parse_file_and_tensor(const std::string& text) {
  std::error_code ignored;
  if (std::filesystem::exists(text, ignored)) return {text, ""};
  for (std::size_t colon = text.find(':'); colon != std::string::npos; colon = text.find(':', colon + 1))
    if (std::filesystem::is_regular_file(text.substr(0, colon), ignored)) return {text.substr(0, colon), text.substr(colon + 1)};
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) return {text, ""};
  return {text.substr(0, colon), text.substr(colon + 1)};
}

std::string joined(const std::vector<std::string>& names, std::string_view separator) {
  std::string list;
  for (const std::string& name : names) list += detail::message(list.empty() ? "" : separator, name);
  return list;
}

std::string one_of_these(const std::vector<std::string>& names) {
  std::string list;
  for (std::size_t i = 0; i < names.size(); ++i) list += detail::message(i == 0 ? "" : i + 1 == names.size() ? " or " : ", ", names[i]);
  return list;
}

std::string some_of(const std::vector<std::string>& names, std::size_t most) {
  std::string list;
  const std::size_t shown = names.size() > most ? most - 1 : names.size();
  for (std::size_t i = 0; i < shown; ++i)
    list += detail::message(i == 0 ? "" : i + 1 == names.size() ? " and " : ", ", printable(names[i]));
  if (shown < names.size()) list += detail::message(" and ", names.size() - shown, " more");
  return list;
}

}  // namespace implicit_attention::examples
