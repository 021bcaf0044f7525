// Where io's functions are compiled. They are inline, so that headers are all it takes; but most of them call for nlohmann-json, std::map
// and other templates, which a compiler instantiates in every file that has the function, whether or not anything calls it. A host with
// many files includes io/instantiations.hpp, before other headers of io: its files then see declarations, and one of them has the bodies.
//
// A header whose functions cost that much declares them, without `inline`, and defines them at its end, with headers that they alone need:
//
//     #if IMPLICIT_ATTENTION_IO_BODIES
//     #include <...>
//     IMPLICIT_ATTENTION_IO_BODY Vocabulary Vocabulary::read(const std::filesystem::path& path, Index size) { ... }
//     #endif
#pragma once

#if !defined(IMPLICIT_ATTENTION_IO_ELSEWHERE)  // io/instantiations.hpp did not come first: headers are all there is
#define IMPLICIT_ATTENTION_IO_BODIES 1
#define IMPLICIT_ATTENTION_IO_BODY inline
#elif defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_IO)
#define IMPLICIT_ATTENTION_IO_BODIES 2
#define IMPLICIT_ATTENTION_IO_BODY
#else
#define IMPLICIT_ATTENTION_IO_BODIES 0
#endif
