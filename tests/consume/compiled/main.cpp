#include <implicit_attention/instantiations.hpp>
#include <implicit_attention/io/instantiations.hpp>

#if defined(NLOHMANN_JSON_VERSION_MAJOR) || defined(PCRE2_MAJOR)
#error "what io reads files with is included, though its functions are compiled elsewhere"
#endif

double plugin_entry();

int main() {
  using namespace implicit_attention;
  if (plugin_entry() != 1) return 1;
  DiagonalRecurrence<float> recurrence;
  recurrence.tokens = 4;
  recurrence.channels = 2;
  recurrence.step = Matrix<float>(Matrix<float>::Zero(4, 2));
  UnifiedForm<float> form;
  form.recurrence = recurrence;
  const Matrix<float> map = ImplicitAttention<float>(form).reduce();
  try {
    open_checkpoint<float>("/nothing/here");
    return 2;
  } catch (const Error&) {
  }
  return map(3, 0) == 1 && map(0, 3) == 0 ? 0 : 3;
}
