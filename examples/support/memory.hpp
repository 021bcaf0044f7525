// What of the machine's memory there is, and freed memory that stays with the process.
#pragma once

#include <limits>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include <implicit_attention/core/freed_memory.hpp>

namespace implicit_attention::examples {

/// The machine's memory in bytes; infinite where the system does not say.
[[nodiscard]] inline double physical_memory() {
#if defined(_SC_PHYS_PAGES) && defined(_SC_PAGESIZE)
  const long pages = ::sysconf(_SC_PHYS_PAGES), size = ::sysconf(_SC_PAGESIZE);
  if (pages > 0 && size > 0) return static_cast<double>(pages) * static_cast<double>(size);
#endif
  return std::numeric_limits<double>::infinity();
}

}  // namespace implicit_attention::examples
