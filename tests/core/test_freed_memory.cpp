// Memory that stays with the process: what one run has touched, the next need not touch anew, and large arrays have huge pages.
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/resource.h>
#endif

#include <implicit_attention/core/freed_memory.hpp>

#include <support/catch.hpp>
#include <support/sanitizers.hpp>

using namespace implicit_attention;

#if defined(__GLIBC__) && defined(__LP64__) && !defined(TEST_ADDRESS_SANITIZER) && !defined(__SANITIZE_THREAD__)

namespace {

/// Activations of a layer, all alive at once: 60 MiB in arrays of 3 MiB, which is more than the C library keeps by itself.
std::vector<Matrix<float>> layer_activations() {
  std::vector<Matrix<float>> arrays;
  for (int array = 0; array < 20; ++array) {
    arrays.push_back(large_matrix<float>(512, 1536, "an activation"));
    arrays.back().setConstant(1);
  }
  return arrays;
}
long page_faults_of_a_run() {
  rusage before{}, after{};
  ::getrusage(RUSAGE_SELF, &before);
  CHECK(layer_activations().back()(511, 1535) == 1.0f);
  ::getrusage(RUSAGE_SELF, &after);
  return after.ru_minflt - before.ru_minflt;
}

/// Whether the kernel was asked for huge pages where `memory` lies; nothing where it says nothing of its maps.
std::optional<bool> asked_for_huge_pages(const void* memory) {
  std::ifstream maps("/proc/self/smaps");
  const auto place = reinterpret_cast<std::uintptr_t>(memory);
  bool here = false;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t first = 0, last = 0;
    char dash = 0;
    if (std::istringstream range(line); range >> std::hex >> first >> dash >> last && dash == '-') here = first <= place && place < last;
    if (here && line.rfind("VmFlags:", 0) == 0) return (line + " ").find(" hg ") != std::string::npos;
  }
  return std::nullopt;
}

}  // namespace

TEST_CASE("A second run of the same arrays touches no fresh page") {
  if (std::getenv("IMPLICIT_ATTENTION_TESTS_AS_THE_SYSTEM_ALLOCATES") != nullptr) {  // as ctest runs it: else the tests keep memory already
    static_cast<void>(page_faults_of_a_run());
    CHECK(page_faults_of_a_run() > 1000);
  }
  keep_freed_memory();
  static_cast<void>(page_faults_of_a_run());
  // 15,000 pages of 4 KiB where the C library gives memory back; a few are the test's own.
  CHECK(page_faults_of_a_run() < 100);
  keep_freed_memory();  // once more does nothing
  CHECK(page_faults_of_a_run() < 100);
}

TEST_CASE("Arrays too small for huge pages of their own share the heap's") {
  keep_freed_memory();
  const std::vector<Matrix<float>> arrays = layer_activations();
  const std::optional<bool> asked = asked_for_huge_pages(arrays.back().data());
  if (!std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled") || !asked) {
    WARN("this system has no huge pages, or does not say where");
    return;
  }
  CHECK(*asked);
}

#else

TEST_CASE("Where the C library keeps memory its own way nothing happens") {
  keep_freed_memory();
  SUCCEED();
}

#endif
