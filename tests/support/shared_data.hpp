// Where the optional data folder is: IMPLICIT_ATTENTION_SHARED in the environment, else ../shared beside the source.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>

namespace test_support {

/// A file or folder of the shared data, e.g. `realdata/protmamba`; nothing if it is not on this machine.
inline std::optional<std::filesystem::path> shared_data(const std::filesystem::path& relative = {}) {
  std::filesystem::path root;
  if (const char* given = std::getenv("IMPLICIT_ATTENTION_SHARED"); given != nullptr && *given != '\0') root = given;
#ifdef IMPLICIT_ATTENTION_SOURCE_DIR
  if (root.empty()) root = std::filesystem::path(IMPLICIT_ATTENTION_SOURCE_DIR) / ".." / "shared";
#endif
  if (root.empty()) return std::nullopt;
  const std::filesystem::path path = relative.empty() ? root : root / relative;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  return path;
}

/// The exit status that ctest shows as skipped (SKIP_RETURN_CODE in tests/CMakeLists.txt).
constexpr int skipped_status = 77;
/// Whether a test of this program could not run.
inline bool& data_was_missing() {
  static bool missing = false;
  return missing;
}

/// What a test says when it cannot run: `WARN(shared_data_missing("realdata/protmamba")); return;`
inline std::string shared_data_missing(const std::string& relative) {
  data_was_missing() = true;
  return "skipped: " + relative + " is not here; set IMPLICIT_ATTENTION_SHARED to the folder that holds it";
}

}  // namespace test_support
