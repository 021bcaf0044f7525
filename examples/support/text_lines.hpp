// The lines of a file of texts.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/core/types.hpp>
#include <implicit_attention/io/mapped_file.hpp>

namespace implicit_attention::examples {

/// A line without its end; `number` is from 1.
struct TextLine {
  Index number = 0;
  std::string_view text;
};

/// The lines of a file that hold more than white space: `\n` or `\r\n` ends a line, a byte order mark is passed over.
class TextLines {
 public:
  /// Fails (file) where the file cannot be read, and where it is UTF-16.
  explicit TextLines(const std::string& path);

  [[nodiscard]] const std::vector<TextLine>& lines() const { return lines_; }
  /// All bytes of the file.
  [[nodiscard]] std::string_view bytes() const { return file_->text(); }

 private:
  std::shared_ptr<const MappedFile> file_;  // the lines are views of it
  std::vector<TextLine> lines_;
};

}  // namespace implicit_attention::examples
