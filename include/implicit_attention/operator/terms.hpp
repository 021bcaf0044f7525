// The terms of the unified form, and the named sets of them.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include <implicit_attention/core/error.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
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
///
/// A set is a list of terms, or one of the two named sets, `published()` and `recurrence()`: what the papers' formulas and their public
/// code have. Layers resolve named sets: where the formula has a scale that is `normalization` here (RWKV-4's denominator, RG-LRU's
/// sqrt(1 - a^2)), the named sets have it too. A list of the same terms, `Terms(Term::recurrence)`, is taken as it stands.
class Terms {
 public:
  constexpr Terms() = default;
  constexpr Terms(Term term) : bits_(static_cast<unsigned>(term)) {}  // NOLINT(google-explicit-constructor)

  /// Everything the layer has: `A x + b == y` exactly.
  [[nodiscard]] static constexpr Terms all() { return Terms(127u); }
  /// Zimerman, Ali, Wolf 2025 (arXiv 2405.16504): recurrence, activation, convolution, gate, and what a layer resolves; no skip, no bias.
  [[nodiscard]] static constexpr Terms published() {
    return (Terms(Term::recurrence) | Term::gate | Term::activation | Term::convolution).as_named();
  }
  /// Ali et al. 2024 (arXiv 2403.01590), eq. 12: the bare recurrence, and what a layer resolves.
  [[nodiscard]] static constexpr Terms recurrence() { return Terms(Term::recurrence).as_named(); }

  /// Whether a term is on; of a named set, before a layer has resolved it.
  [[nodiscard]] constexpr bool has(Term term) const { return (bits_ & static_cast<unsigned>(term)) != 0; }
  /// The set without a term. A named set stays one, so that the layer's own scale stays in it; without `normalization` it becomes a list.
  [[nodiscard]] constexpr Terms without(Term term) const {
    return Terms(bits_ & ~static_cast<unsigned>(term) & (term == Term::normalization ? ~named_bit : ~0u));
  }
  [[nodiscard]] friend constexpr Terms operator|(Terms a, Terms b) { return Terms(a.bits_ | b.bits_); }
  /// Whether both are the same set; a named set is not the list of its terms.
  [[nodiscard]] friend constexpr bool operator==(Terms a, Terms b) { return a.bits_ == b.bits_; }

  /// Whether this is a named set, or was made from one.
  [[nodiscard]] constexpr bool named() const { return (bits_ & named_bit) != 0; }
  /// The set as a layer uses it: a named set becomes a list that also holds `own`, further terms of this layer's published formula; a list
  /// stays as it is.
  [[nodiscard]] constexpr Terms resolved(Terms own) const { return named() ? Terms((bits_ | own.bits_) & ~named_bit) : *this; }
  /// The same for a layer that has none.
  [[nodiscard]] constexpr Terms resolved() const { return resolved(Terms()); }

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

  /// Reads `all`, `published`, `recurrence`, or a comma-separated list of term names; `only:` before a list says that it is none of the
  /// named sets, which matters to `only:recurrence`. Fails on anything else, naming it.
  [[nodiscard]] static Terms parse(std::string_view text) {
    if (text == "all") return all();
    if (text == "published") return published();
    if (text == "recurrence") return recurrence();
    constexpr std::string_view only = "only:";
    if (text.substr(0, only.size()) == only) text.remove_prefix(only.size());
    Terms terms;
    std::size_t begin = 0;
    while (begin <= text.size()) {
      const std::size_t end = std::min(text.find(',', begin), text.size());
      terms = terms | parse_one(text.substr(begin, end - begin));
      begin = end + 1;
    }
    return terms;
  }

  /// The set as `parse` reads it; what was made from a named set is told in words.
  [[nodiscard]] std::string text() const {
    if (*this == all()) return "all";
    if (*this == published()) return "published";
    if (*this == recurrence()) return "recurrence";
    if (*this == Terms(Term::recurrence)) return "only:recurrence";
    std::string list;
    for (const Named& term : names())
      if (has(term.term)) list += detail::message(list.empty() ? "" : ",", term.name);
    return named() ? list + ", and the layer's own scale" : list;
  }

 private:
  static constexpr unsigned named_bit = 1u << 7;

  explicit constexpr Terms(unsigned bits) : bits_(bits) {}
  [[nodiscard]] constexpr Terms as_named() const { return Terms(bits_ | named_bit); }
  [[nodiscard]] static Terms parse_one(std::string_view name) {
    for (const Named& term : names())
      if (term.name == name) return term.term;
    detail::raise(ErrorKind::value, "unknown term \"", name,
                  "\", expected all, published, recurrence, or a comma-separated list of recurrence, gate, "
                  "activation, convolution, normalization, skip, bias (only:recurrence for the bare term)");
  }

  unsigned bits_ = 0;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
