// The terms of the unified form, and the named sets of them.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include <implicit_attention/core/error.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// One factor of `A_e = diag(gate_e) diag(norm_e) (R_h + diag(skip_e)) diag(act_e) Conv_e`, or the affine part `b_e`.
enum class Term : unsigned {
  recurrence = 1u << 0,
  gate = 1u << 1,
  activation = 1u << 2,
  convolution = 1u << 3,
  normalization = 1u << 4,
  skip = 1u << 5,
  bias = 1u << 6
};

/// A set of terms. A term that is off is replaced by the identity; `skip` and `bias` by zero; RWKV-4's denominator and
/// RG-LRU's sqrt(1 - a^2), which are `normalization`, by 1.
class Terms {
 public:
  constexpr Terms() = default;
  constexpr Terms(Term term) : bits_(static_cast<unsigned>(term)) {}  // NOLINT(google-explicit-constructor)

  /// Everything the layer has: `A x + b == y` exactly.
  [[nodiscard]] static constexpr Terms all() { return Terms(127u); }
  /// Zimerman, Ali, Wolf 2025 (arXiv 2405.16504): recurrence, activation, convolution, gate; no skip, no bias.
  [[nodiscard]] static constexpr Terms published() { return Terms(Term::recurrence) | Term::gate | Term::activation | Term::convolution; }
  /// Ali et al. 2024 (arXiv 2403.01590), eq. 12: the bare recurrence.
  [[nodiscard]] static constexpr Terms recurrence() { return Term::recurrence; }

  [[nodiscard]] constexpr bool has(Term term) const { return (bits_ & static_cast<unsigned>(term)) != 0; }
  [[nodiscard]] constexpr Terms without(Term term) const { return Terms(bits_ & ~static_cast<unsigned>(term)); }
  [[nodiscard]] friend constexpr Terms operator|(Terms a, Terms b) { return Terms(a.bits_ | b.bits_); }
  [[nodiscard]] friend constexpr bool operator==(Terms a, Terms b) { return a.bits_ == b.bits_; }

  /// All terms with their names, in the order of the tables.
  struct Named {
    Term term;
    std::string_view name;
  };
  [[nodiscard]] static constexpr std::array<Named, 7> names() {
    return {{{Term::recurrence, "recurrence"},
             {Term::gate, "gate"},
             {Term::activation, "activation"},
             {Term::convolution, "convolution"},
             {Term::normalization, "normalization"},
             {Term::skip, "skip"},
             {Term::bias, "bias"}}};
  }

  /// Reads `all`, `published`, `recurrence`, or a comma-separated list of term names; fails on anything else, naming it.
  [[nodiscard]] static Terms parse(std::string_view text) {
    if (text == "all") return all();
    if (text == "published") return published();
    Terms terms;
    std::size_t begin = 0;
    while (begin <= text.size()) {
      const std::size_t end = std::min(text.find(',', begin), text.size());
      terms = terms | parse_one(text.substr(begin, end - begin));
      begin = end + 1;
    }
    return terms;
  }

  /// The set as `parse` reads it.
  [[nodiscard]] std::string text() const {
    if (*this == all()) return "all";
    if (*this == published()) return "published";
    std::string list;
    for (const Named& named : names())
      if (has(named.term)) list += message(list.empty() ? "" : ",", named.name);
    return list;
  }

 private:
  explicit constexpr Terms(unsigned bits) : bits_(bits) {}
  [[nodiscard]] static Terms parse_one(std::string_view name) {
    for (const Named& named : names())
      if (named.name == name) return named.term;
    raise(ErrorKind::value, message("unknown term \"", name,
                                    "\", expected all, published, or a comma-separated list of recurrence, gate, activation, "
                                    "convolution, normalization, skip, bias"));
  }

  unsigned bits_ = 0;
};

IMPLICIT_ATTENTION_NAMESPACE_END
