// What the fuzzing targets share. A target takes any bytes, has small valid inputs to begin with, and ends the program where a rule is
// broken. Compiled with IMPLICIT_ATTENTION_LIBFUZZER one target is one program of libFuzzer's (run.sh builds them); without it all of them
// stand in a list, which test_replay.cpp runs in every test run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <implicit_attention/core/error.hpp>

namespace fuzz {

using namespace implicit_attention;  // NOLINT: targets are programs of their own

struct Target {
  std::string name;
  void (*run)(std::string_view bytes);
  std::vector<std::string> (*seeds)();
};

/// All targets of this program, in the order of their files.
inline std::vector<Target>& targets() {
  static std::vector<Target> all;
  return all;
}
inline bool add(Target target) {
  targets().push_back(std::move(target));
  return true;
}

/// A rule that is broken: no exception that the library throws or that a target catches.
struct Broken : std::logic_error {
  using std::logic_error::logic_error;
};
inline void require(bool holds, const std::string& rule) {
  if (!holds) throw Broken(rule);
}

/// Whether `call` ends well. If it ends in the library's error, the message must be one printable line; any other exception goes through.
template <class Call>
bool accepted(Call call) {
  try {
    call();
    return true;
  } catch (const Error& error) {
    const std::string_view text = error.what();
    require(!text.empty() && text.size() < 4000, "a message has a length that a person can read");
    for (const char letter : text)
      require(static_cast<unsigned char>(letter) >= 0x20 && letter != 0x7F, "a message is one line and holds no control character");
    return false;
  }
}

/// The bytes up to the first zero byte, and those after it.
inline std::pair<std::string_view, std::string_view> split(std::string_view bytes) {
  const std::size_t at = bytes.find('\0');
  return at == std::string_view::npos ? std::pair(bytes, std::string_view()) : std::pair(bytes.substr(0, at), bytes.substr(at + 1));
}

/// A file of given bytes, for readers that take a path. There is one, overwritten by the next: whatever maps it must be gone by then.
inline std::filesystem::path file_of(std::string_view bytes) {
#ifdef __linux__
  static const int file = ::memfd_create("fuzz", MFD_CLOEXEC);
  require(file >= 0 && ::ftruncate(file, 0) == 0, "a file in memory can be made");
  require(::pwrite(file, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()), "and written");
  static const std::string path = "/proc/self/fd/" + std::to_string(file);
#else
  static const std::string path = (std::filesystem::temp_directory_path() / ("fuzz_" + std::to_string(::getpid()))).string();
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
#endif
  return path;
}

/// A folder for what is written, gone when the program ends.
inline const std::filesystem::path& scratch_folder() {
  struct Folder {
    std::filesystem::path path;
    Folder() {
      std::error_code ignored;
      const std::filesystem::path memory = "/dev/shm";
      path = (std::filesystem::is_directory(memory, ignored) ? memory : std::filesystem::temp_directory_path()) /
             ("implicit_attention_fuzz_" + std::to_string(::getpid()));
      std::filesystem::create_directories(path);
    }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static const Folder folder;
  return folder.path;
}

/// Writes the inputs that a target begins with, where IMPLICIT_ATTENTION_FUZZ_SEEDS says so, and ends.
inline void write_seeds(const std::vector<std::string>& seeds) {
  const char* const folder = std::getenv("IMPLICIT_ATTENTION_FUZZ_SEEDS");
  if (folder == nullptr) return;
  for (std::size_t i = 0; i < seeds.size(); ++i)
    std::ofstream(std::filesystem::path(folder) / ("seed" + std::to_string(i)), std::ios::binary) << seeds[i];
  std::exit(0);
}

}  // namespace fuzz

/// `FUZZ_TARGET(name) { ... bytes ... }`, after `std::vector<std::string> seeds_of_name()`.
#ifdef IMPLICIT_ATTENTION_LIBFUZZER
#define FUZZ_TARGET(name)                                                             \
  static void run_##name(std::string_view);                                           \
  extern "C" int LLVMFuzzerInitialize(int*, char***);                                 \
  extern "C" int LLVMFuzzerInitialize(int*, char***) {                                \
    fuzz::write_seeds(seeds_of_##name());                                             \
    return 0;                                                                         \
  }                                                                                   \
  extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t*, std::size_t);            \
  extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) { \
    run_##name(std::string_view(reinterpret_cast<const char*>(data), size));          \
    return 0;                                                                         \
  }                                                                                   \
  static void run_##name(std::string_view bytes)
#else
#define FUZZ_TARGET(name)                                                                               \
  static void run_##name(std::string_view);                                                             \
  [[maybe_unused]] static const bool name##_is_there = fuzz::add({#name, run_##name, seeds_of_##name}); \
  static void run_##name(std::string_view bytes)
#endif
