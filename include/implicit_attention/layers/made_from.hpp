// Notes of what an array of a layer's activations was made from, so that one that a host left beside newer sources is found.
#pragma once

#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/error.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// An array that `run()` made of others, and those, which it shares. An array that a host fills in itself is not noted, and is taken as it is.
template <Real Scalar>
class MadeFrom {
 public:
  /// A source, by its name in messages.
  using Source = std::pair<std::string_view, const Array<Scalar>*>;

  MadeFrom() = default;
  MadeFrom(const Array<Scalar>& made, std::initializer_list<Source> sources) : made_(made) {
    sources_.reserve(sources.size());
    for (const auto& [name, source] : sources) sources_.emplace_back(*source);
  }

  /// The name of a source that is filled and is another array than `made` was made from, in the order of the constructor; empty where
  /// there is none, or where `made` is not the array noted.
  [[nodiscard]] std::string_view newer(const Array<Scalar>& made, std::initializer_list<Source> sources) const {
    if (made.empty() || sources_.size() != sources.size() || !made_.is(made)) return {};
    auto noted = sources_.begin();
    for (const auto& [name, source] : sources)
      if (!(noted++)->is(*source) && !source->empty()) return name;
    return {};
  }
  [[nodiscard]] bool stale(const Array<Scalar>& made, std::initializer_list<Source> sources) const { return !newer(made, sources).empty(); }

  /// Fails where `made` is stale, for what cannot be made again.
  void check(std::string_view who, const char* name, const Array<Scalar>& made, std::initializer_list<Source> sources) const {
    if (const std::string_view source = newer(made, sources); !source.empty())
      raise(ErrorKind::value, message(who, ": activations.", name, " was made from another activations.", source,
                                      " than the one that is there now; fill in that of these, or use what activations(u) returns"));
  }

 private:
  /// One array. Another one of the same numbers is as good; views of a host's memory are known by where they are, and not read again.
  class Mark {
   public:
    Mark() = default;
    explicit Mark(const Array<Scalar>& array) : array_(array) {}
    [[nodiscard]] bool is(const Array<Scalar>& other) const {
      if (array_.data() == other.data()) return true;
      return array_.owner() != nullptr && array_.rows() == other.rows() && array_.cols() == other.cols() && *array_ == *other;
    }

   private:
    Array<Scalar> array_;
  };

  Mark made_;
  std::vector<Mark> sources_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
