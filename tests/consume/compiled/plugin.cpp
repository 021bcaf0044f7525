// A shared library with the kernels in it: the compiled library is position-independent.
#include <implicit_attention/instantiations/kernels.hpp>

double plugin_entry() {
  using namespace implicit_attention;
  DiagonalRecurrence<double> recurrence;
  recurrence.tokens = 3;
  recurrence.channels = 1;
  recurrence.step = Matrix<double>(Matrix<double>::Zero(3, 1));
  UnifiedForm<double> form;
  form.recurrence = recurrence;
  return ImplicitAttention<double>(form).materialize()(0, 2, 0);
}
