#include <catch2/catch.hpp>

#include <limits>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/thread_executor.hpp>

using namespace implicit_attention;

namespace {

/// Whether this thread's arithmetic takes subnormal numbers as zeros.
bool as_zero() {
  volatile float smallest = std::numeric_limits<float>::min(), half = 0.5F;
  volatile const float product = smallest * half;
  return product == 0.0F;
}

#if defined(__x86_64__)
constexpr bool switchable = true;
#else
constexpr bool switchable = false;
#endif

}  // namespace

TEST_CASE("subnormal numbers are zeros in a computation, on every thread of it, and nowhere else", "[core]") {
  REQUIRE_FALSE(as_zero());
  ThreadPool pool(3);
  std::vector<char> inside(64), nested(4), after(64);
  detail::with_subnormals_as_zero(pool.executor(), [&](const Executor& executor) {
    CHECK(as_zero() == switchable);
    executor(64, [&](Index index) { inside[static_cast<std::size_t>(index)] = as_zero() ? 1 : 0; });
    executor(2, [&](Index outer) {
      executor(2, [&](Index inner) { nested[static_cast<std::size_t>(2 * outer + inner)] = as_zero() ? 1 : 0; });
    });
    CHECK(as_zero() == switchable);
  });
  CHECK_FALSE(as_zero());
  pool.executor()(64, [&](Index index) { after[static_cast<std::size_t>(index)] = as_zero() ? 1 : 0; });
  CHECK(inside == std::vector<char>(64, switchable ? 1 : 0));
  CHECK(nested == std::vector<char>(4, switchable ? 1 : 0));
  CHECK(after == std::vector<char>(64, 0));
}

TEST_CASE("a host's arithmetic is as it was, however a computation ends", "[core]") {
  SECTION("by an error") {
    try {
      detail::with_subnormals_as_zero(
          serial_executor(), [](const Executor& executor) { executor(1, [](Index) { detail::raise(ErrorKind::value, "of a task"); }); });
      FAIL("nothing was raised");
    } catch (const Error&) {
      CHECK_FALSE(as_zero());
    }
    CHECK_FALSE(as_zero());
    const detail::SubnormalsAsZero again;
    CHECK(as_zero() == switchable);
  }
  SECTION("before its error handler is called, which may leave by longjmp") {
    static bool seen = true;
    const ErrorHandler before = set_error_handler([](ErrorKind, const char*) { seen = as_zero(); });
    CHECK_THROWS(detail::with_subnormals_as_zero(serial_executor(), [](const Executor&) { detail::raise(ErrorKind::value, "here"); }));
    static_cast<void>(set_error_handler(before));
    CHECK_FALSE(seen);
    CHECK_FALSE(as_zero());
  }
#if defined(__x86_64__)
  SECTION("where the host has them as zeros already") {
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040U);
    { const detail::SubnormalsAsZero here; }
    CHECK((_mm_getcsr() & 0x8040U) == 0x8040U);
    _mm_setcsr(mode);
  }
  SECTION("exceptions that were raised stay raised") {
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode & ~0x3FU);
    {
      const detail::SubnormalsAsZero here;
      volatile float zero = 0.0F;
      volatile const float infinite = 1.0F / zero;
      static_cast<void>(infinite);
    }
    CHECK((_mm_getcsr() & 0x4U) != 0);
    _mm_setcsr(mode);
  }
#endif
}
