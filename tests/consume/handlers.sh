# Two shared libraries of one process that are both built with the headers: each has an error handler of its own.
. "$(dirname "$0")/../compile/common.sh"
[ "$(uname)" = Linux ] || skip "shared libraries are built as on Linux here"

# Compiled with hidden symbols, or each with a tag of its own, everything is apart; without either, an error that a library raises itself.
cat >"$scratch/library.cpp" <<'SOURCE'
// LIBRARY is first or second; what the library's user sees has its name in it.
#ifdef TAGGED
#define IMPLICIT_ATTENTION_ABI_TAG LIBRARY
#endif
#include <implicit_attention/core/shape.hpp>
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
namespace {
struct Own { const char* who; };
}
extern "C" __attribute__((visibility("default"))) void JOIN(LIBRARY, _begin)() {
  implicit_attention::set_error_handler([](implicit_attention::ErrorKind, const char*) {
    throw Own{LIBRARY_NAME};
  });
}
// Whose handler is called: by an error in a function that is no template, and by one in a template that both libraries have.
extern "C" __attribute__((visibility("default"))) const char* JOIN(LIBRARY, _fails)(int in_template) {
  try {
    if (in_template) implicit_attention::check_vector("x", "y", implicit_attention::Matrix<float>(1, 2), 3, "z");
    implicit_attention::detail::raise(implicit_attention::ErrorKind::value, "fails");
  } catch (const Own& own) {
    return own.who;
  } catch (const implicit_attention::Error&) {
    return "nobody";
  } catch (...) {
    return "another";
  }
}
SOURCE
cat >"$scratch/main.cpp" <<'SOURCE'
#include <cstdio>
#include <cstring>
extern "C" void first_begin();
extern "C" void second_begin();
extern "C" const char* first_fails(int);
extern "C" const char* second_fails(int);
int main(int arguments, char**) {
  int wrong = 0;
  const int ways = arguments > 1 ? 1 : 2;  // with or without errors in templates
  const auto expect = [&](const char* when, const char* came, const char* expected) {
    if (std::strcmp(came, expected) == 0) return;
    std::printf("%s: %s, expected %s\n", when, came, expected);
    ++wrong;
  };
  for (int in_template = 0; in_template < ways; ++in_template) {
    expect("none installed", first_fails(in_template), "nobody");
    expect("none installed", second_fails(in_template), "nobody");
  }
  first_begin();
  for (int in_template = 0; in_template < ways; ++in_template) {
    expect("the first's installed, the first fails", first_fails(in_template), "first");
    expect("the first's installed, the second fails", second_fails(in_template), "nobody");
  }
  second_begin();
  for (int in_template = 0; in_template < ways; ++in_template) {
    expect("both installed, the first fails", first_fails(in_template), "first");
    expect("both installed, the second fails", second_fails(in_template), "second");
  }
  return wrong;
}
SOURCE

precompile plain "$eigen" -fPIC -O0
precompile hidden "$eigen" -fPIC -O0 -fvisibility=hidden  # clang++ takes no precompiled header of another visibility
precompile optimised "$eigen" -fPIC -O2
build() { # plain|hidden|optimised flags...: libraries and program
  local headers="$scratch/$1.hpp"
  shift
  local name
  for name in first second; do
    "$CXX" "${flags[@]}" "${strict[@]}" -include "$headers" -fPIC "$@" -shared "-DLIBRARY=$name" "-DLIBRARY_NAME=\"$name\"" "$scratch/library.cpp" -o "$scratch/lib$name.so" \
      >"$scratch/output" 2>&1 || fail "a library does not compile with: $*"
  done
  "$CXX" -std=c++20 "$scratch/main.cpp" -L"$scratch" -lfirst -lsecond -Wl,-rpath,"$scratch" -o "$scratch/program" >"$scratch/output" 2>&1 ||
    fail "the program does not link"
}
for way in "hidden -O0 -fvisibility=hidden" "plain -O0 -DTAGGED" "plain -O0 -DDIRECT" "optimised -O2 -DDIRECT"; do
  # shellcheck disable=SC2086
  build $way
  "$scratch/program" $([[ $way == *DIRECT* ]] && echo direct) >"$scratch/output" 2>&1 || fail "handlers are mixed up $way"
  echo "each its own handler: $way"
done
