// RWKV's world vocabulary, and after a zero byte a text for it.
#include <implicit_attention/io/tokenizers/world.hpp>

#include "../codecs.hpp"

static std::vector<std::string> seeds_of_world_vocabulary() {
  using namespace std::string_literals;
  return {"1 'a' 1\n2 ' ' 1\n3 ' b' 2\r\n4 b'\\xff' 1\n5 \"it's\" 4\n6 '\\u2003' 3\n\0a b\xFFit's"s,
          "65529 '\\n\\t\\\\' 3\n1 '\\x00' 1\n\0\n"s};
}

FUZZ_TARGET(world_vocabulary) {
  const auto [lines, text] = fuzz::split(bytes);
  fuzz::accepted([&, &text = text, &lines = lines] { fuzz::use(*fuzz::detail::WorldVocabulary::parse(lines, "fuzzed"), text); });
}
