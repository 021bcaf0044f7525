// ggml's types by the numbers that GGUF has for them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/dtype.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// The type that has this number in ggml and GGUF; nothing if it is not read here.
[[nodiscard]] constexpr std::optional<Dtype> ggml_dtype(std::uint32_t number) {
  switch (number) {
    case 0:
      return Dtype::F32;
    case 1:
      return Dtype::F16;
    case 2:
      return Dtype::Q4_0;
    case 3:
      return Dtype::Q4_1;
    case 6:
      return Dtype::Q5_0;
    case 7:
      return Dtype::Q5_1;
    case 8:
      return Dtype::Q8_0;
    case 12:
      return Dtype::Q4_K;
    case 13:
      return Dtype::Q5_K;
    case 14:
      return Dtype::Q6_K;
    case 24:
      return Dtype::I8;
    case 25:
      return Dtype::I16;
    case 26:
      return Dtype::I32;
    case 27:
      return Dtype::I64;
    case 28:
      return Dtype::F64;
    case 30:
      return Dtype::BF16;
    default:
      return std::nullopt;
  }
}

/// The name of a type that is not read here, for messages.
[[nodiscard]] inline std::string ggml_type_text(std::uint32_t number) {
  constexpr std::array<std::pair<std::uint32_t, std::string_view>, 18> others{{{9, "Q8_1"},
                                                                               {10, "Q2_K"},
                                                                               {11, "Q3_K"},
                                                                               {15, "Q8_K"},
                                                                               {16, "IQ2_XXS"},
                                                                               {17, "IQ2_XS"},
                                                                               {18, "IQ3_XXS"},
                                                                               {19, "IQ1_S"},
                                                                               {20, "IQ4_NL"},
                                                                               {21, "IQ3_S"},
                                                                               {22, "IQ2_S"},
                                                                               {23, "IQ4_XS"},
                                                                               {29, "IQ1_M"},
                                                                               {34, "TQ1_0"},
                                                                               {35, "TQ2_0"},
                                                                               {39, "MXFP4"},
                                                                               {40, "NVFP4"},
                                                                               {41, "Q1_0"}}};
  for (const auto& [known, name] : others)
    if (known == number) return std::string(name);
  return message("ggml type ", number);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
