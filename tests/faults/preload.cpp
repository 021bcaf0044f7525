// Loaded before the C library: the call of a kind that FAULT_CALL names and FAULT_NUMBER counts, from 1, fails, as it does on a full or
// broken disk or without memory. Counting begins where a program installs its signal handlers, at the start of its work.
// With FAULT_SIGNAL or FAULT_PAUSE an fwrite does not fail then: when half of it is in the file that signal comes, or that many
// milliseconds pass. FAULT_COUNT names a file for the number of calls that there were; without FAULT_CALL, a line for each kind: its name and
// its number. Of the kinds malloc and new, those of FAULT_BYTES or more count.
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

extern "C" {
void* __libc_malloc(std::size_t);               // NOLINT(bugprone-reserved-identifier)
void* __libc_calloc(std::size_t, std::size_t);  // NOLINT(bugprone-reserved-identifier)
void* __libc_realloc(void*, std::size_t);       // NOLINT(bugprone-reserved-identifier)
}

namespace {

std::atomic<bool> begun{false};
struct Kind {
  const char* name;
  std::atomic<long> calls{0};
};
Kind kinds[] = {{"fwrite"}, {"fclose"}, {"fopen"}, {"open"}, {"rename"}, {"mmap"}, {"malloc"}, {"new"}};

const char* kind() {
  static const char* const given = std::getenv("FAULT_CALL");
  return given == nullptr ? "" : given;
}
long number() {
  static const char* const given = std::getenv("FAULT_NUMBER");
  return given == nullptr ? 0 : std::atol(given);
}
int signal_number() {
  static const char* const given = std::getenv("FAULT_SIGNAL");
  return given == nullptr ? 0 : std::atoi(given);
}
long pause_milliseconds() {
  static const char* const given = std::getenv("FAULT_PAUSE");
  return given == nullptr ? 0 : std::atol(given);
}
std::size_t least_bytes() {
  static const char* const given = std::getenv("FAULT_BYTES");
  return given == nullptr ? 0 : static_cast<std::size_t>(std::atol(given));
}
/// Whether this call fails.
bool fails(const char* call, std::size_t bytes = ~std::size_t{0}) {
  if (!begun.load(std::memory_order_relaxed) || bytes < least_bytes()) return false;
  for (Kind& one : kinds)
    if (std::strcmp(one.name, call) == 0) {
      const bool last = one.calls.fetch_add(1) + 1 == number();
      return last && std::strcmp(kind(), call) == 0;
    }
  return false;
}
template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

struct Counted {
  ~Counted() {
    const char* const path = std::getenv("FAULT_COUNT");
    if (path == nullptr) return;
    begun = false;
    const int file = ::open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0) return;
    for (const Kind& one : kinds) {
      char text[64];
      int size = 0;
      if (*kind() == '\0') size = std::snprintf(text, sizeof(text), "%s %ld\n", one.name, one.calls.load());
      if (std::strcmp(kind(), one.name) == 0) size = std::snprintf(text, sizeof(text), "%ld", one.calls.load());
      if (::write(file, text, static_cast<std::size_t>(size)) != size) break;
    }
    ::close(file);
  }
} counted;

}  // namespace

extern "C" {

using Handler = void (*)(int);
Handler signal(int which, Handler handler) noexcept {
  static const auto real = next<Handler (*)(int, Handler)>("signal");
  (void)kind();  // the environment is read before anything counts
  (void)number();
  (void)signal_number();
  (void)pause_milliseconds();
  (void)least_bytes();
  begun = true;
  return real(which, handler);
}
std::size_t fwrite(const void* bytes, std::size_t size, std::size_t count, std::FILE* file) {
  static const auto real = next<std::size_t (*)(const void*, std::size_t, std::size_t, std::FILE*)>("fwrite");
  if (file == stdout || file == stderr || !fails("fwrite")) return real(bytes, size, count, file);
  if (signal_number() != 0 || pause_milliseconds() != 0) {
    const std::size_t half = real(bytes, size, count / 2, file);
    std::fflush(file);
    if (signal_number() != 0) std::raise(signal_number());
    std::this_thread::sleep_for(std::chrono::milliseconds(pause_milliseconds()));
    return half + real(static_cast<const char*>(bytes) + half * size, size, count - half, file);
  }
  errno = ENOSPC;
  return count == 0 ? 0 : real(bytes, size, count / 2, file);  // half of it is there
}
int fclose(std::FILE* file) {
  static const auto real = next<int (*)(std::FILE*)>("fclose");
  const bool failing = fails("fclose");
  const int result = real(file);
  if (!failing) return result;
  errno = EIO;
  return EOF;
}
std::FILE* fopen(const char* path, const char* mode) {
  static const auto real = next<std::FILE* (*)(const char*, const char*)>("fopen");
  if (!fails("fopen")) return real(path, mode);
  errno = EMFILE;
  return nullptr;
}
std::FILE* fopen64(const char* path, const char* mode) { return fopen(path, mode); }
std::FILE* fdopen(int file, const char* mode) noexcept {
  static const auto real = next<std::FILE* (*)(int, const char*)>("fdopen");
  if (!fails("fopen")) return real(file, mode);
  errno = ENOMEM;
  return nullptr;
}
int open(const char* path, int flags, ...) {
  static const auto real = next<int (*)(const char*, int, ...)>("open");
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  if (!fails("open")) return real(path, flags, mode);
  errno = EMFILE;
  return -1;
}
int rename(const char* from, const char* to) noexcept {
  static const auto real = next<int (*)(const char*, const char*)>("rename");
  if (!fails("rename")) return real(from, to);
  errno = EIO;
  return -1;
}
void* mmap(void* address, std::size_t size, int protection, int flags, int file, off_t offset) noexcept {
  static const auto real = next<void* (*)(void*, std::size_t, int, int, int, off_t)>("mmap");
  if (!fails("mmap")) return real(address, size, protection, flags, file, offset);
  errno = ENOMEM;
  return reinterpret_cast<void*>(-1);
}
void* malloc(std::size_t bytes) noexcept {
  if (!fails("malloc", bytes)) return __libc_malloc(bytes);
  errno = ENOMEM;
  return nullptr;
}
void* calloc(std::size_t count, std::size_t bytes) noexcept {
  if (!fails("malloc", count * bytes)) return __libc_calloc(count, bytes);
  errno = ENOMEM;
  return nullptr;
}
void* realloc(void* before, std::size_t bytes) noexcept {
  if (!fails("malloc", bytes)) return __libc_realloc(before, bytes);
  errno = ENOMEM;
  return nullptr;
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
  static const auto real = next<void* (*)(std::size_t, std::size_t)>("aligned_alloc");
  if (!fails("malloc", bytes)) return real(alignment, bytes);
  errno = ENOMEM;
  return nullptr;
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t bytes) noexcept {
  static const auto real = next<int (*)(void**, std::size_t, std::size_t)>("posix_memalign");
  return fails("malloc", bytes) ? ENOMEM : real(memory, alignment, bytes);
}
}

// The program's own allocations alone: what libraries written in C do without memory is theirs. The forms that throw nothing call these.
namespace {
template <class Allocate>
void* fails_or(std::size_t bytes, Allocate allocate) {
  for (;;) {
    if (!fails("new", bytes))
      if (void* const memory = allocate()) return memory;
    const std::new_handler handler = std::get_new_handler();  // as the language has it: a program may end there
    if (handler == nullptr) throw std::bad_alloc();
    handler();
  }
}
}  // namespace
void* operator new(std::size_t bytes) {
  return fails_or(bytes, [&] { return std::malloc(bytes == 0 ? 1 : bytes); });
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto to = static_cast<std::size_t>(alignment);
  if (bytes > SIZE_MAX - to) throw std::bad_alloc();
  return fails_or(bytes, [&] { return std::aligned_alloc(to, (bytes + to - 1) / to * to); });
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
