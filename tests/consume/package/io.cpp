// A host that reads files.
#include <cstdio>

#include <implicit_attention/io/safetensors.hpp>

int main() {
  std::puts("io is there");
  return 0;
}
