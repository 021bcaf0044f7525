#include "evaluation_shares.hpp"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <system_error>
#include <utility>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/json.hpp>
#include <implicit_attention/io/mapped_file.hpp>

#include "numbers.hpp"
#include "resumable_lines.hpp"
#include "shard.hpp"
#include "written_json.hpp"

namespace implicit_attention::examples {
namespace {

std::string packed_of_line(const Json& result) {
  const auto numbers = result.find("numbers");
  if (numbers == result.end() || !numbers->is_array()) detail::raise(ErrorKind::file, "there is no list \"numbers\"");
  std::string bytes;
  for (const Json& entry : *numbers) {
    double number = std::numeric_limits<double>::quiet_NaN();
    if (entry == "inf" || entry == "-inf")
      number = std::copysign(std::numeric_limits<double>::infinity(), entry == "inf" ? 1.0 : -1.0);
    else if (entry.is_number())
      number = entry.get<double>();
    else if (!entry.is_null())
      detail::raise(ErrorKind::file, "\"numbers\" has ", json_text(entry));
    bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
  }
  return bytes;
}

/// What a file's results were made with.
JsonDocument settings_beside(const std::string& path) {
  const std::string beside = settings_path(path);
  std::error_code ignored;
  if (!std::filesystem::exists(beside, ignored))
    detail::raise(ErrorKind::value, "--join: there is no ", beside, ", which says what ", path, " was made with");
  return read_json_object(beside);
}

/// Which share of the texts a file has, by its settings.
Shard shard_of(const std::string& path) {
  const JsonDocument document = settings_beside(path);
  const Json& settings = document;
  const auto shard = settings.find("shard");
  if (shard == settings.end() || !shard->is_string()) detail::raise(ErrorKind::file, settings_path(path), ": there is no share \"shard\"");
  return Shard::parse(shard->get<std::string>(), settings_path(path));
}

void check_settings(const std::string& path, const Shard& shard, nlohmann::ordered_json expected) {
  const JsonDocument document = settings_beside(path);
  expected["shard"] = shard.text();
  if (const std::string what = settings_difference(document, expected); !what.empty())
    detail::raise(ErrorKind::value, "--join: ", path, " was made with ", what);
}

}  // namespace

std::string evaluated_line(Index line, std::string_view packed) {
  return written_json(-1, [&](OrderedJson& json) {
    json["line"] = line;
    OrderedJson& numbers = json["numbers"] = OrderedJson::array();
    for (; packed.size() >= sizeof(double); packed.remove_prefix(sizeof(double))) {
      double number = 0;
      std::memcpy(&number, packed.data(), sizeof(number));
      if (std::isinf(number))
        numbers.push_back(number > 0 ? "inf" : "-inf");
      else if (std::isnan(number))
        numbers.push_back(nullptr);
      else
        numbers.push_back(number);
    }
  });
}

EvaluationShares shares_of(const std::vector<std::string>& files) {
  EvaluationShares shares;
  for (const std::string& path : files) {
    const Shard shard = shard_of(path);
    if (shares.count != 0 && shard.count != shares.count)
      detail::raise(ErrorKind::value, "--join: ", path, " is share ", shard.text(), ", and another file is one of ", shares.count);
    shares.count = shard.count;
    const auto [place, fresh] = shares.files.emplace(shard.number, path);
    if (!fresh) detail::raise(ErrorKind::value, "--join: ", path, " and ", place->second, " are both share ", shard.text());
  }
  for (Index number = 1; number <= shares.count; ++number)
    if (shares.files.find(number) == shares.files.end())
      detail::raise(ErrorKind::value, "--join: share ", Shard{number, shares.count}.text(), " is missing");
  return shares;
}

void join_shares(Evaluation& evaluation, const EvaluationShares& shares, const nlohmann::ordered_json& settings,
                 const std::vector<Index>& lines) {
  const auto total = static_cast<Index>(lines.size());
  for (const auto& [number, path] : shares.files) {
    const Shard shard{number, shares.count};
    check_settings(path, shard, settings);
  }
  for (const auto& [number, path] : shares.files) {
    const Shard shard{number, shares.count};
    const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
    std::string_view text = file->text();
    const Index end = shard.end(total);
    for (Index k = shard.begin(total); k < end; ++k) {
      const std::size_t length = text.find('\n');
      if (length == std::string_view::npos)
        detail::raise(ErrorKind::value, "--join: ", path, " has the results of ", grouped(k - shard.begin(total)), " texts, expected ",
                      grouped(end - shard.begin(total)), ": its run has not ended; if it was interrupted, start it again");
      const Index line = lines[static_cast<std::size_t>(k)];
      if (!text.starts_with(line_start(line)))
        detail::raise(ErrorKind::value, "--join: ", path, ":", k - shard.begin(total) + 1, ": is not the result of line ", line);
      try {
        const JsonDocument document = parse_json_object(text.substr(0, length), "the line");
        join(evaluation, packed_of_line(document));
      } catch (const Error& error) {
        detail::raise(error.kind(), "--join: ", path, ":", k - shard.begin(total) + 1, ": ", error.what());
      }
      text.remove_prefix(length + 1);
    }
    if (!text.empty()) detail::raise(ErrorKind::value, "--join: ", path, " has more lines than its share has texts");
  }
  const auto whole = [&](const std::vector<double>& values) { return static_cast<Index>(values.size()) == total; };
  for (const auto* methods : {&evaluation.methods, &evaluation.ceilings})
    for (const EvaluatedMethod& method : *methods)
      for (const std::vector<double>& values : method.values)
        if (!whole(values)) detail::raise(ErrorKind::file, "--join: ", method.method, " has no number for some of the texts");
  for (const EvaluatedMap& map : evaluation.maps)
    for (const std::vector<double>& values : map.values)
      if (!whole(values)) detail::raise(ErrorKind::file, "--join: the maps of ", map.method, " have no number for some of the texts");
}

}  // namespace implicit_attention::examples
