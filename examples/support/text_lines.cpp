#include "text_lines.hpp"

#include <algorithm>

#include <implicit_attention/core/error.hpp>

namespace implicit_attention::examples {

TextLines::TextLines(const std::string& path) : file_(MappedFile::open(path)) {
  std::string_view rest = file_->text();
  if (rest.starts_with("\xFF\xFE") || rest.starts_with("\xFE\xFF"))
    detail::raise(ErrorKind::file, path, ": the text is UTF-16, expected UTF-8");
  if (rest.starts_with("\xEF\xBB\xBF")) rest.remove_prefix(3);  // as spreadsheets write it
  for (Index line = 1; !rest.empty(); ++line) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view here = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (!here.empty() && here.back() == '\r') here.remove_suffix(1);
    if (here.find_first_not_of(" \t") != std::string_view::npos) lines_.push_back({line, here});
  }
}

}  // namespace implicit_attention::examples
