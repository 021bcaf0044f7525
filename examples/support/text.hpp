// Text from elsewhere (vocabularies, users' sentences) made safe and measurable before it is drawn or written to a terminal.
// UTF-8 itself is the library's, io/text.hpp; that one makes error messages safe, this one keeps what a reader can read.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace implicit_attention::examples {

/// The code points of UTF-8 text; each byte that is not valid UTF-8 (overlong forms and surrogates included) becomes U+FFFD.
[[nodiscard]] std::vector<char32_t> code_points(std::string_view utf8);
/// One code point as UTF-8.
[[nodiscard]] std::string utf8(char32_t code_point);

/// `text` with everything invisible or dangerous made visible: control characters, invalid bytes and direction overrides escaped
/// (`\n`, `\x1b`, `\u202e`), a token of spaces alone as `␣`. The result holds no control character.
[[nodiscard]] std::string visible(std::string_view text);
/// `text` for a locale that has nothing but ASCII: what has a usual spelling there gets it (an ellipsis as `...`), the rest is escaped
/// (`\u00e9`).
[[nodiscard]] std::string ascii(std::string_view text);
/// How many terminal columns `text` takes: 0 for combining marks, 2 for East Asian wide characters and emoji, else 1 (utf8proc's tables).
[[nodiscard]] int display_width(std::string_view text);
/// `text` if it takes at most `columns` columns, else its beginning and an ellipsis, `columns` wide at most.
[[nodiscard]] std::string shorten(std::string_view text, int columns);
/// `text` and spaces up to `columns` columns: before it (`right` aligned) or after it.
[[nodiscard]] std::string pad(std::string_view text, int columns, bool right = false);
/// `text` without the white space around it.
[[nodiscard]] std::string_view trimmed(std::string_view text);

}  // namespace implicit_attention::examples
