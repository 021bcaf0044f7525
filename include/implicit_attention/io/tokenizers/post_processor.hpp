// Tokens that go before and after those of a text, as `<bos>` does ("post_processor" in tokenizer.json).
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/io/tokenizers/json_fields.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

struct PostProcessor {
  std::vector<Index> before, after;

  [[nodiscard]] static PostProcessor read(const Json* document, const std::string& where) {
    PostProcessor processor;
    if (document != nullptr) processor.read_step(*document, where);
    return processor;
  }

 private:
  void read_step(const Json& document, const std::string& where) {
    JsonFields fields(document, where);
    const std::string type = fields.text("type");
    if (type == "Sequence") {
      const Json& list = fields.list("processors");
      for (std::size_t i = 0; i < list.size(); ++i) read_step(list[i], json_element(where + ".processors", i));
    } else if (type == "ByteLevel") {  // it changes offsets, which nobody asks for here
      for (const std::string_view key : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.ignore(key);
    } else if (type == "BertProcessing" || type == "RobertaProcessing") {
      before.insert(before.begin(), read_mark(fields, "cls"));
      after.push_back(read_mark(fields, "sep"));
      for (const std::string_view key : {"add_prefix_space", "trim_offsets"}) fields.ignore(key);
    } else if (type == "TemplateProcessing") {
      read_template(fields);
    } else {
      unknown_type(fields, type, "TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel, Sequence");
    }
    fields.finish();
  }
  /// `["[CLS]", 101]`.
  [[nodiscard]] static Index read_mark(JsonFields& fields, std::string_view key) {
    const Json& mark = fields.list(key);
    const std::optional<Index> id = mark.size() == 2 ? json_natural_number(mark[1]) : std::nullopt;
    if (!id || !mark[0].is_string()) fields.unexpected(key, mark, "a token and its id");
    return *id;
  }
  /// `single` is a list of `{"SpecialToken": {"id": "<s>", ...}}` and one `{"Sequence": {"id": "A", ...}}`, the text; `pair`, for two
  /// texts, is not needed here.
  void read_template(JsonFields& fields) {
    fields.ignore("pair");
    const Json& special = fields.object("special_tokens");
    const Json& list = fields.list("single");
    std::vector<Index> first, last;
    bool text_seen = false;
    for (std::size_t i = 0; i < list.size(); ++i) {
      JsonFields element(list[i], json_element(fields.path("single"), i));
      if (element.find("Sequence") != nullptr) {
        JsonFields sequence(element.object("Sequence"), element.path("Sequence"));
        if (const std::string id = sequence.text("id"); id != "A" || text_seen)
          sequence.unexpected("id", sequence.at("id"), "A, once: the text");
        sequence.ignore("type_id");
        sequence.finish();
        text_seen = true;
      } else {
        JsonFields token(element.object("SpecialToken"), element.path("SpecialToken"));
        const std::string name = token.text("id");
        token.ignore("type_id");
        token.finish();
        const auto entry = special.find(name);
        if (entry == special.end()) raise(ErrorKind::file, token.path("id"), ": \"", printable(name), "\" is not among the special_tokens");
        JsonFields named(*entry, message(fields.path("special_tokens"), ".", printable(name)));
        const Json& ids = named.list("ids");
        named.ignore("id");
        named.ignore("tokens");
        named.finish();
        for (std::size_t k = 0; k < ids.size(); ++k) {
          const std::optional<Index> id = json_natural_number(ids[k]);
          if (!id) named.unexpected("ids", ids, "token ids");
          (text_seen ? last : first).push_back(*id);
        }
      }
      element.finish();
    }
    if (!text_seen) raise(ErrorKind::file, fields.path("single"), ": there is no {\"Sequence\": {\"id\": \"A\"}}, the text");
    before.insert(before.begin(), first.begin(), first.end());  // a later step stands outside of an earlier one's
    after.insert(after.end(), last.begin(), last.end());
  }
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
