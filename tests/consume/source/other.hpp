#pragma once

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/types.hpp>

/// The sum of all entries, computed in the other translation unit.
float sum(implicit_attention::ConstView<float> numbers);
/// The error handler as the other translation unit sees it.
implicit_attention::ErrorHandler installed_handler();
/// Asks the library, in the other translation unit, for something that it must refuse.
void fail_on_purpose(implicit_attention::ConstView<float> numbers);
