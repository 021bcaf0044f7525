// config.json, and whatever else is JSON here.
#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/text.hpp>

#include "../harness.hpp"

static std::vector<std::string> seeds_of_config() {
  return {R"({"model_type":"mamba","hidden_size":16,"a":{"b":{"c":[1,2.5,null]},"d":["x","y"]},"e":null,"f":true,"g":-1,"h":1e300})",
          R"({"limit":[0.0,Infinity],"n":NaN,"m":-Infinity,"t":"NaN \" Infinity","u":"\u00e9\ud83d\ude00"})",
          R"( {"attention_window_size":9223372036854775807,"k":18446744073709551615})", R"({"a.b":1,"a":{"b":2}})", "{}"};
}

FUZZ_TARGET(config) {
  fuzz::accepted([&] {
    const fuzz::Configuration configuration = fuzz::read_configuration(fuzz::file_of(bytes));
    for (const std::string& key : configuration.keys()) {
      fuzz::require(configuration.has(key), "a key that is listed is there");
      if (fuzz::printable(key, 10'000) != key) continue;  // nobody asks for such a key, and what is asked for stands in messages
      fuzz::accepted([&] { (void)configuration.integer({key}); });
      fuzz::accepted([&] { (void)configuration.number({key}); });
      fuzz::accepted([&] { (void)configuration.numbers({key}); });
      fuzz::accepted([&] { (void)configuration.texts({key}); });
      (void)configuration.below(key).keys();
    }
  });
}
