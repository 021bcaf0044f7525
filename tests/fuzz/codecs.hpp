// What the targets of tokenizers share.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/io/tokenizers/labels.hpp>
#include <implicit_attention/io/tokenizers/text_codec.hpp>

#include "harness.hpp"

namespace fuzz {

/// Encodes, decodes and labels; whether all of it is accepted. `exactly`: decoding must give the text again.
inline bool use(const detail::TextCodec& codec, std::string_view text, bool exactly = false) {
  const bool encoded = accepted([&] {
    std::vector<Index> ids;
    codec.encode(text, ids);
    std::vector<detail::TokenText> texts;
    for (const Index id : ids) {
      require(id >= 0 && id <= codec.largest_id(), "an id is within the vocabulary");
      texts.push_back({codec.bytes(id).value_or("?"), codec.special(id)});
    }
    const std::vector<std::string> labels = detail::labels_of(texts);
    require(labels.size() == ids.size(), "every token has a label");
    for (const std::string& label : labels)
      for (const char letter : label) require(static_cast<unsigned char>(letter) >= 0x20 && letter != 0x7F, "labels can be printed");
    const std::string decoded = codec.decode(ids);
    require(!exactly || decoded == text, "decoding gives the text again");
  });
  require(encoded || !exactly, "every text can be encoded");
  (void)codec.find(text);
  (void)codec.bytes(-1);
  (void)codec.bytes(codec.largest_id());
  (void)codec.decode({-1, 0, codec.largest_id()});
  return encoded;
}

}  // namespace fuzz
