// Text into tokens: each kind of tokenizer over a text made here, against one look at each byte.
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/tokenizer.hpp>

#include "measuring.hpp"

namespace benchmarks {

namespace {

using implicit_attention::ErrorKind;
using implicit_attention::Tokenizer;
using implicit_attention::detail::message;
using implicit_attention::detail::raise;
namespace fs = std::filesystem;

/// Words of syllables, the frequent ones short, drawn as often as in natural text: the k-th by 1 / (k + 2).
std::vector<std::string> words() {
  static constexpr std::array<std::string_view, 16> begins{"t", "s", "w", "b", "m",  "r",  "l",  "n",
                                                           "d", "f", "g", "p", "st", "tr", "ch", "k"};
  static constexpr std::array<std::string_view, 8> middles{"a", "e", "i", "o", "u", "ea", "ou", "\xC3\xA9"};
  std::vector<std::string> all;
  std::set<std::string> there;
  std::mt19937_64 random(5);
  while (all.size() < 8000) {
    std::string word;
    for (int syllables = all.size() < 300 ? 1 : all.size() < 3000 ? 2 : 3; syllables > 0; --syllables) {
      word += begins[random() % begins.size()];
      word += middles[random() % middles.size()];
    }
    word += std::string_view("nst rd").substr(random() % 6, 1);
    while (!word.empty() && word.back() == ' ') word.pop_back();
    if (there.insert(word).second) all.push_back(std::move(word));
  }
  return all;
}
std::string text_of(const std::vector<std::string>& words, std::size_t bytes) {
  std::vector<double> weights;
  for (std::size_t k = 0; k < words.size(); ++k) weights.push_back(1 / (static_cast<double>(k) + 2));
  std::discrete_distribution<std::size_t> draw(weights.begin(), weights.end());
  std::mt19937_64 random(7);
  std::string text;
  while (text.size() < bytes) {
    text += words[draw(random)];
    text += random() % 12 == 0 ? (random() % 4 == 0 ? ".\n" : ", ") : " ";
  }
  text.pop_back();
  return text;
}

/// A character as it stands in a tokenizer's vocabulary.
std::vector<std::string> characters(std::string_view text) {
  std::vector<std::string> all;
  for (const char byte : text)
    if ((static_cast<unsigned char>(byte) & 0xC0U) == 0x80U)
      all.back() += byte;
    else
      all.emplace_back(1, byte);
  return all;
}

/// Files of vocabularies that know every word but each fifth, which comes to pieces.
class Vocabularies {
 public:
  explicit Vocabularies(const std::vector<std::string>& words) : folder_(new_folder()) {
    std::vector<std::string> known;
    for (std::size_t k = 0; k < words.size(); ++k)
      if (k % 5 != 4) known.push_back(words[k]);
    write_byte_pairs(known);
    write_unigram(known);
    write_word_pieces(known);
    write_world(known);
    write_words(words);
  }
  Vocabularies(const Vocabularies&) = delete;
  Vocabularies& operator=(const Vocabularies&) = delete;
  ~Vocabularies() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  [[nodiscard]] fs::path file(const std::string& name) const { return folder_ / name; }

 private:
  /// Of this run alone: what another user put into a folder that all may write to is not written over.
  static fs::path new_folder() {
    std::string name = (fs::temp_directory_path() / "implicit_attention_benchmarks_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr)
      raise(ErrorKind::file, name, " cannot be made: ", std::error_code(errno, std::generic_category()).message());
    return name;
  }
  /// `"token":id,...` in the order given.
  static std::string numbered(const std::vector<std::string>& tokens) {
    std::string text;
    for (std::size_t id = 0; id < tokens.size(); ++id) text += (id == 0 ? "\"" : ",\"") + tokens[id] + "\":" + std::to_string(id);
    return text;
  }
  void write(const std::string& name, const std::string& text) const { std::ofstream(file(name), std::ios::binary) << text; }

  /// A word is merged from its beginning on; é is two letters of the byte alphabet.
  void write_byte_pairs(const std::vector<std::string>& known) const {
    std::vector<std::string> tokens;
    std::set<std::string> there;
    const auto add = [&](const std::string& token) {
      if (there.insert(token).second) tokens.push_back(token);
    };
    for (char letter = 'a'; letter <= 'z'; ++letter) add(std::string(1, letter));
    for (const char* other : {"\xC4\xA0", "\xC4\x8A", ".", ",", "\xC3\x83", "\xC2\xA9"}) add(other);
    std::string merges;
    for (const std::string& word : known) {
      std::string left = "\xC4\xA0";
      for (const std::string& character : characters(word))
        for (const std::string& letter :
             character.size() == 1 ? std::vector<std::string>{character} : std::vector<std::string>{"\xC3\x83", "\xC2\xA9"}) {
          if (there.count(left + letter) == 0) merges += (merges.empty() ? "\"" : ",\"") + left + " " + letter + "\"";
          add(left + letter);
          left += letter;
        }
    }
    write("byte_pairs.json", R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
        "model":{"type":"BPE","vocab":{)" +
                                 numbered(tokens) + R"(},"merges":[)" + merges + "]}}");
  }
  void write_unigram(const std::vector<std::string>& known) const {
    const std::string mark = "\xE2\x96\x81";
    std::string vocab = R"(["<unk>",0])";
    for (const std::string& character : characters(mark + "abcdefghijklmnopqrstuvwxyz.,\xC3\xA9")) vocab += ",[\"" + character + "\",-12]";
    for (std::size_t k = 0; k < known.size(); ++k)
      vocab += ",[\"" + mark + known[k] + "\"," + std::to_string(-5 - static_cast<double>(k) / 2000) + "]";
    write("unigram.json", R"({"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always"},
        "model":{"type":"Unigram","unk_id":0,"vocab":[)" +
                              vocab + "]}}");
  }
  void write_word_pieces(const std::vector<std::string>& known) const {
    std::vector<std::string> tokens{"[UNK]", ".", ","};
    for (const std::string& letter : characters("abcdefghijklmnopqrstuvwxyz\xC3\xA9"))
      for (const char* before : {"", "##"}) tokens.push_back(before + letter);
    std::set<std::string> there(tokens.begin(), tokens.end());
    for (const std::string& word : known)
      if (there.insert(word).second) tokens.push_back(word);
    write("word_pieces.json", R"({"normalizer":{"type":"BertNormalizer","strip_accents":false},"pre_tokenizer":{"type":"BertPreTokenizer"},
        "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{)" +
                                  numbered(tokens) + "}}}");
  }
  void write_world(const std::vector<std::string>& known) const {
    std::string lines;
    std::size_t id = 1;
    const auto add = [&](const std::string& literal, std::size_t bytes) {
      lines += std::to_string(id++) + " " + literal + " " + std::to_string(bytes) + "\n";
    };
    for (unsigned byte = 0; byte < 256; ++byte) {
      char literal[16];
      std::snprintf(literal, sizeof literal, "b'\\x%02x'", byte);
      add(literal, 1);
    }
    for (const std::string& word : known) add("' " + word + "'", word.size() + 1);
    write("rwkv_vocab_world.txt", lines);
  }
  void write_words(const std::vector<std::string>& words) const {
    std::vector<std::string> tokens{"<unk>"};
    tokens.insert(tokens.end(), words.begin(), words.end());
    write("vocab.json", "{" + numbered(tokens) + "}");
  }

  fs::path folder_;
};

/// One look at each byte, in a table.
std::uint64_t look_at(std::string_view text) {
  static const std::array<std::uint8_t, 256> classes = [] {
    std::array<std::uint8_t, 256> all{};
    for (std::size_t byte = 0; byte < all.size(); ++byte) all[byte] = static_cast<std::uint8_t>(byte * 7 % 11);
    return all;
  }();
  std::uint64_t sum = 0;
  for (const char byte : text) sum += classes[static_cast<unsigned char>(byte)];
  return sum;
}

void table_lines(benchmark::State& state) {
  const std::vector<std::string> all = words();
  const std::string text = text_of(all, std::size_t{1} << (settings().quick ? 16U : 20U));
  const Vocabularies files(all);
  struct Kind {
    std::string name, file;
    double bar, aim;
  };
  const std::vector<Kind> kinds{{"byte pairs with GPT-2's pattern", "byte_pairs.json", 160, 100},
                                {"unigrams", "unigram.json", 180, 120},
                                {"word pieces with BERT's normalizer", "word_pieces.json", 240, 160},
                                {"RWKV's world vocabulary", "rwkv_vocab_world.txt", 60, 40},
                                {"words of vocab.json", "words", 170, 110},
                                {"bytes", "bytes", 8, 5}};
  Rounds rounds;
  std::uint64_t sum = 0;
  rounds.add("pass", [&] { sum += look_at(text); });
  std::vector<std::optional<Tokenizer>> opened(kinds.size());
  std::vector<std::size_t> tokens(kinds.size());
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    const std::string& file = kinds[k].file;
    // A tokenizer that has seen no word yet.
    const auto open = [&, k] {
      opened[k] = file == "bytes" || file == "words" ? Tokenizer::open(files.file(""), file)
                                                     : Tokenizer::open(files.file(""), files.file(file).string());
    };
    rounds.add(
        kinds[k].name, [&, k] { tokens[k] = opened[k]->encode(text).size(); }, [&, k] { opened[k].reset(); }, open);
  }
  rounds.run(5, 3);
  benchmark::DoNotOptimize(sum);

  const auto bytes = static_cast<double>(text.size());
  int place = 300;
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    const double seconds = rounds.seconds(kinds[k].name);
    report_at_most(place++,
                   "tokens of a text, " + kinds[k].name + ", " + figures(bytes / static_cast<double>(tokens[k])) + " bytes a token",
                   rounds.ratio(kinds[k].name, "pass"), kinds[k].bar, kinds[k].aim, " x one look at each byte",
                   figures(bytes / seconds * 1e-6) + " MB/s");
    state.counters[kinds[k].name] = rounds.ratio(kinds[k].name, "pass");
  }
  state.SetIterationTime(rounds.seconds("pass"));
}

}  // namespace

void add_tokenizers() { add_benchmark("table/tokenizers", table_lines); }

}  // namespace benchmarks
