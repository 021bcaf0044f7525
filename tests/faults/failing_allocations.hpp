// Every allocation of this program, counted; the one that is asked for fails. Include it in one file of a program.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace fault_test {

/// How many allocations of this thread are left until one fails; 0: none fails.
inline thread_local long allocations_left = 0;
/// Whether it has failed.
inline thread_local bool allocation_failed = false;

inline bool fails_now() noexcept {
  if (allocations_left == 0 || --allocations_left != 0) return false;
  allocation_failed = true;
  return true;
}

/// While it lives, this thread's allocation of that number fails, counted from 1, and no other.
class FailingAllocation {
 public:
  explicit FailingAllocation(long number) {
    allocation_failed = false;
    allocations_left = number;
  }
  FailingAllocation(const FailingAllocation&) = delete;
  FailingAllocation& operator=(const FailingAllocation&) = delete;
  ~FailingAllocation() { allocations_left = 0; }
};

}  // namespace fault_test

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FAULT_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FAULT_TEST_SANITIZED 1
#endif
#endif

#if defined(__GLIBC__) && !defined(FAULT_TEST_SANITIZED)
// Of C, too: Eigen's matrices and other libraries take memory there. glibc lets a program have its own.
extern "C" {
void* __libc_malloc(std::size_t);                 // NOLINT(bugprone-reserved-identifier)
void* __libc_calloc(std::size_t, std::size_t);    // NOLINT(bugprone-reserved-identifier)
void* __libc_realloc(void*, std::size_t);         // NOLINT(bugprone-reserved-identifier)
void* __libc_memalign(std::size_t, std::size_t);  // NOLINT(bugprone-reserved-identifier)

void* malloc(std::size_t bytes) noexcept {
  if (!fault_test::fails_now()) return __libc_malloc(bytes);
  errno = ENOMEM;
  return nullptr;
}
void* calloc(std::size_t count, std::size_t bytes) noexcept {
  if (!fault_test::fails_now()) return __libc_calloc(count, bytes);
  errno = ENOMEM;
  return nullptr;
}
void* realloc(void* before, std::size_t bytes) noexcept {
  if (!fault_test::fails_now()) return __libc_realloc(before, bytes);
  errno = ENOMEM;
  return nullptr;
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {  // of large arrays, by operator new
  if (!fault_test::fails_now()) return __libc_memalign(alignment, bytes);
  errno = ENOMEM;
  return nullptr;
}
}
#else
void* operator new(std::size_t bytes) {
  if (fault_test::fails_now()) throw std::bad_alloc();
  if (void* const memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {  // of the standard library's temporary buffers
  return fault_test::fails_now() ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto to = static_cast<std::size_t>(alignment);
  if (fault_test::fails_now()) throw std::bad_alloc();
  if (void* const memory = std::aligned_alloc(to, (bytes + to - 1) / to * to)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
#endif
