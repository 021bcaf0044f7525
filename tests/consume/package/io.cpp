// A host that reads files.
#include <cstdio>

#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/tokenizers/regex.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>

int main() {
  // What PCRE2 and utf8proc are linked for.
  const implicit_attention::detail::Regex word("\\w+", "here");
  implicit_attention::detail::Regex::Scratch scratch(word);
  if (!word.find(implicit_attention::detail::lower_case("\u00C9"), 0, scratch)) return 1;
  std::puts("io is there");
  return 0;
}
