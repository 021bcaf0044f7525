// A host that includes one of the installed headers, and with it Eigen; that all of them compile, others prove.
#include <implicit_attention/core/types.hpp>

int main() { return implicit_attention::Matrix<float>::Ones(2, 3).sum() > 5.0F ? 0 : 1; }
