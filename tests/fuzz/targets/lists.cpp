// Lists of indices, and numbers made to be read. The first eight bytes are a number.
#include <cmath>
#include <cstring>

#include <support/command_line.hpp>
#include <support/numbers.hpp>
#include <support/text.hpp>

#include "../harness.hpp"

static std::vector<std::string> seeds_of_lists() {
  const auto number = [](double value) {
    std::string bytes(sizeof(value), '\0');
    std::memcpy(bytes.data(), &value, sizeof(value));
    return bytes;
  };
  return {number(0.1) + "0,5-7",
          number(-1e300) + "[1, 2,\t3]",
          number(5e-324) + "last",
          number(HUGE_VAL) + "9223372036854775807",
          number(9.9995) + "0-9223372036854775807",
          number(std::nan("")) + "3-",
          number(1234567.5) + "4 - 5"};
}

FUZZ_TARGET(lists) {
  namespace ex = implicit_attention::examples;
  double value = 0;
  if (bytes.size() < sizeof(value)) return;
  std::memcpy(&value, bytes.data(), sizeof(value));
  const std::string_view text = bytes.substr(sizeof(value));

  fuzz::accepted([&] {
    const std::vector<fuzz::Index> list = ex::parse_index_list("--list", text);
    fuzz::require(!list.empty(), "a list that is read is not empty");
    for (const fuzz::Index index : list) fuzz::require(index >= 0, "indices begin at 0");
  });
  fuzz::accepted([&] { (void)ex::parse_indices("--list", text); });
  (void)ex::parse_file_and_tensor(std::string(text));

  for (int digits = 1; digits < 20; digits += 6) (void)ex::significant(value, digits);
  (void)ex::fixed(value, static_cast<int>(text.size() % 20));
  (void)ex::percent(value);
  (void)ex::byte_text(value);
  (void)ex::duration_text(value);
  (void)ex::grouped(static_cast<fuzz::Index>(text.size()) - 5);
  const std::vector<double> ticks = ex::nice_ticks(-value, value * (1 + 1e-9 * static_cast<double>(text.size())), 7);
  fuzz::require(ticks.size() <= 7, "there are no more ticks than were asked for");
  fuzz::require(ex::tick_labels(ticks).size() == ticks.size(), "every tick has a label");

  const std::string shown = ex::visible(text);
  for (const char letter : shown)
    fuzz::require(static_cast<unsigned char>(letter) >= 0x20 && letter != 0x7F, "what is visible can be printed");
  fuzz::require(ex::display_width(ex::shorten(shown, 10)) <= 10, "what is shortened is short");
  for (const char letter : ex::ascii(shown)) fuzz::require(static_cast<unsigned char>(letter) < 0x7F, "ASCII is ASCII");
}
