// What a call fails with.
#pragma once

#include <string>
#include <utility>

#include <support/catch.hpp>

#include <implicit_attention/core/error.hpp>

namespace test_support {

/// The kind and the message of the error that `call` ends in; the test fails where there is none.
template <class Call>
std::pair<implicit_attention::ErrorKind, std::string> error_of(const Call& call) {
  try {
    call();
  } catch (const implicit_attention::Error& error) {
    return {error.kind(), error.what()};
  }
  FAIL("no error came");
  return {};
}

/// Its message alone.
template <class Call>
std::string what_of(const Call& call) {
  return error_of(call).second;
}

}  // namespace test_support
