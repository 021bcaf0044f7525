// Catch2's main function, compiled once. Catch2 3 brings its own, so that this file is empty there.
#if !__has_include(<catch2/catch_all.hpp>)
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
#endif
