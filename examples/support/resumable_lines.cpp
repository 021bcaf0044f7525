#include "resumable_lines.hpp"

#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include <sys/file.h>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/mapped_file.hpp>

#include "write_file.hpp"

namespace implicit_attention::examples {
namespace {

[[noreturn]] void cannot_write(const std::string& path, int why) {
  detail::raise(ErrorKind::file, path, ": cannot be written: ", std::generic_category().message(why));
}

}  // namespace

std::string settings_path(const std::string& path) { return path + ".settings.json"; }

std::string line_start(Index line) { return detail::message("{\"line\":", line, ","); }

std::string settings_difference(const Json& before, const nlohmann::ordered_json& now) {
  for (const auto& [key, value] : now.items()) {
    if (!before.contains(key)) return detail::message("no ", key, ", which is ", json_text(Json(value)), " now");
    const Json& other = before.at(key);
    if (other != Json(value)) return detail::message(key, " ", json_text(other), ", and is ", json_text(Json(value)), " now");
  }
  for (const auto& [key, value] : before.items())
    if (!now.contains(key)) return detail::message(key, " ", json_text(value), ", which there is none of now");
  return {};
}

ResumableLines::ResumableLines(std::string path, const nlohmann::ordered_json& settings, std::vector<Index> numbers)
    : path_(std::move(path)), numbers_(std::move(numbers)), stream_(nullptr, std::fclose) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const std::string beside = settings_path(path_);
  const std::string other_file = detail::message("; name another file, or remove ", path_, " and ", beside);
  errno = 0;
  stream_.reset(std::fopen(path_.c_str(), "ab"));
  if (!stream_) cannot_write(path_, errno);
  // Before anything is written. File systems without locks go without.
  if (::flock(::fileno(stream_.get()), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    detail::raise(ErrorKind::value, "--out: another run is writing ", path_);
  if (fs::exists(path_, ignored) && fs::file_size(path_, ignored) > 0) {
    if (!fs::exists(beside, ignored))
      detail::raise(ErrorKind::value, "--out: ", path_, " is there, but not ", beside, ", which says what it was made with", other_file);
    if (const std::string what = settings_difference(*read_json_object(beside), settings); !what.empty())
      detail::raise(ErrorKind::value, "--out: ", path_, " was made with ", what, other_file);
  } else {
    write_file(beside, settings.dump(1) + "\n");
  }
  std::uintmax_t whole = 0;
  {
    const std::shared_ptr<const MappedFile> file = MappedFile::open(path_);
    const std::size_t end = file->text().rfind('\n');
    whole = end == std::string_view::npos ? 0 : end + 1;
    read_back(file->text().substr(0, static_cast<std::size_t>(whole)));
  }
  std::error_code why;
  fs::resize_file(path_, whole, why);  // an interrupted run leaves half a line
  if (why) cannot_write(path_, why.value());
}

void ResumableLines::read_back(std::string_view text) {
  for (; !text.empty(); ++written_) {
    const std::size_t end = text.find('\n') + 1;
    if (written_ == static_cast<Index>(numbers_.size()))
      detail::raise(ErrorKind::value, "--out: ", path_, " has more lines than there are texts, ", numbers_.size(), "; name another file");
    const Index number = numbers_[static_cast<std::size_t>(written_)];
    if (!text.starts_with(line_start(number)))
      detail::raise(ErrorKind::value, "--out: ", path_, ":", written_ + 1, ": is not the result of line ", number,
                    " of the texts; name another file");
    count(text.substr(0, end));
    text.remove_prefix(end);
  }
}

void ResumableLines::count(std::string_view line) {
  constexpr std::string_view mark = ",\"error\":";
  if (line.substr(line.find(',')).substr(0, mark.size()) != mark) return;
  if (errors_++ > 0) return;
  const JsonDocument document = parse_json_object(line, path_);
  const Json& result = document;
  first_error_ = detail::message("line ", json_text(result.at("line")), ": ",
                                 result.at("error").is_string() ? result.at("error").get<std::string>() : "");
}

void ResumableLines::put(Index index, std::string line) {
  if (failed_) return;  // other workers are still at it: nothing stands behind half a line
  waiting_.emplace(index, std::move(line));
  const Index before = written_;
  for (auto next = waiting_.begin(); next != waiting_.end() && next->first == written_; next = waiting_.erase(next)) {
    errno = 0;
    if (std::fwrite(next->second.data(), 1, next->second.size(), stream_.get()) != next->second.size()) failed(errno);
    count(next->second);
    ++written_;
  }
  errno = 0;
  if (written_ > before && std::fflush(stream_.get()) != 0) failed(errno);
}

void ResumableLines::failed(int why) {
  failed_ = true;
  cannot_write(path_, why);
}

}  // namespace implicit_attention::examples
