// Numerics in their tails, arrays that own and view, messages and errors, configurations.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/core/thread_executor.hpp>

namespace {

using namespace implicit_attention;
using test_support::error_of;

/// What `call` fails with.
/// A function of one number, alone and on matrices, against its value in long double.
template <class Scalar, class Alone, class Whole, class Exact>
void check_function(const char* name, const std::vector<double>& points, const Alone& alone, const Whole& whole, const Exact& exact) {
  Matrix<Scalar> x(1, static_cast<Index>(points.size()));
  for (std::size_t i = 0; i < points.size(); ++i) x(0, static_cast<Index>(i)) = static_cast<Scalar>(points[i]);
  const Matrix<Scalar> vectorised = whole(x);
  for (Index i = 0; i < x.size(); ++i) {
    const long double expected = exact(static_cast<long double>(x(0, i)));
    // Eight roundings; what is below the smallest normal number may be anything as small.
    const long double allowed = static_cast<long double>(std::numeric_limits<Scalar>::epsilon()) * 8 * std::abs(expected) +
                                static_cast<long double>(std::numeric_limits<Scalar>::min());
    INFO(name << "(" << x(0, i) << ") is " << alone(x(0, i)) << " alone and " << vectorised(0, i) << " vectorised, expected "
              << static_cast<double>(expected));
    CHECK(std::abs(static_cast<long double>(alone(x(0, i))) - expected) <= allowed);
    CHECK(std::abs(static_cast<long double>(vectorised(0, i)) - expected) <= allowed);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("elementary functions are right in their tails", "[core]", float, double) {
  using Scalar = TestType;
  const std::vector<double> points = {0,   1e-30, -1e-30, 1e-8, -1e-8, 1e-3, -1e-3, 0.5, -0.5, 1,   -1,   3,    -3,   10,
                                      -10, 20,    -20,    40,   -40,   87,   -87,   700, -700, 1e4, -1e4, 1e30, -1e30};
  check_function<Scalar>(
      "sigmoid", points, [](Scalar x) { return sigmoid(x); }, [](const Matrix<Scalar>& x) { return sigmoid(x); },
      [](long double x) { return 1 / (1 + std::exp(-x)); });
  check_function<Scalar>(
      "softplus", points, [](Scalar x) { return softplus(x); }, [](const Matrix<Scalar>& x) { return softplus(x); },
      [](long double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); });
  check_function<Scalar>(
      "silu", points, [](Scalar x) { return silu(x); }, [](const Matrix<Scalar>& x) { return silu(x); },
      [](long double x) { return x > -11000 ? x / (1 + std::exp(-x)) : 0; });
  const std::vector<double> logs = {0, -1e-30, -1e-12, -1e-8, -1e-5, -1e-3, -0.1, -0.5, -1, -3, -20, -87, -700, -1e30};
  check_function<Scalar>(
      "sqrt(1 - a^2)", logs, [](Scalar x) { return sqrt_one_minus_square(x); },
      [](const Matrix<Scalar>& x) { return sqrt_one_minus_square(x); }, [](long double x) { return std::sqrt(-std::expm1(2 * x)); });
}

TEMPLATE_TEST_CASE("gelu and its derivative", "[core]", float, double) {
  using Scalar = TestType;
  const double tolerance = sizeof(Scalar) == 4 ? 1e-6 : 1e-14;  // a few roundings of numbers near 1
  for (const double point : {0.0, 1e-8, 0.3, -0.3, 1.0, -1.0, 3.0, -3.0, 10.0, -10.0, 100.0, -100.0, 1e10, -1e10}) {
    const Scalar x = static_cast<Scalar>(point);
    const long double wide = static_cast<long double>(x),
                      inner = std::sqrt(2 / 3.14159265358979323846L) * (wide + 0.044715L * wide * wide * wide);
    const double expected = static_cast<double>((1 + std::tanh(inner)) / 2);
    INFO(point);
    CHECK(static_cast<double>(gelu_scale(x)) == Approx(expected).margin(tolerance).epsilon(tolerance));
    CHECK(static_cast<double>(gelu_scale(Matrix<Scalar>::Constant(1, 5, x).eval())(0, 3)) ==
          Approx(expected).margin(tolerance).epsilon(tolerance));
    if (std::abs(point) < 50) {
      const double h = 1e-6, up = point + h, down = point - h;
      const double slope = (up * gelu_scale(up) - down * gelu_scale(down)) / (2 * h);
      CHECK(static_cast<double>(gelu_derivative(x)) == Approx(slope).margin(1e-6).epsilon(1e-6));  // central differences: h^2 and 1e-16 / h
    }
  }
}

TEST_CASE("an array owns its numbers, or views foreign ones", "[core]") {
  const Array<double> absent;
  CHECK(absent.empty());
  CHECK(absent.size() == 0);
  const double one = 1;  // sizes of an engine's that nothing can have are no absence, though their product is 2^64
  CHECK_FALSE(Array<double>::view(ConstView<double>(&one, Index(1) << 61U, 8, 0)).empty());

  Matrix<double> numbers(2, 3);
  numbers << 1, 2, 3, 4, 5, 6;
  const Array<double> owned = numbers, copy = owned;
  CHECK(owned.data() != numbers.data());
  CHECK(copy.data() == owned.data());  // shared, never changed
  CHECK(owned(1, 2) == 6);
  const Array<double> seen = Array<double>::view(numbers);
  CHECK(seen.data() == numbers.data());
  const Array<double> part = Array<double>::view(numbers.middleCols(1, 2));
  CHECK(part.rows() == 2);
  CHECK(part.cols() == 2);
  CHECK(part.row_stride() == 3);
  CHECK(part(1, 0) == 5);
  CHECK(part.row(1)[1] == 6);
  CHECK((*part - numbers.rightCols(2)).isZero(0));

  Eigen::VectorXd column(3);
  column << 7, 8, 9;
  const Array<double> row = Array<double>::view(column);  // contiguous numbers are a row
  CHECK(row.rows() == 1);
  CHECK(row(0, 2) == 9);

  auto owner = std::make_shared<std::vector<double>>(4, 2.5);
  const std::weak_ptr<std::vector<double>> watch = owner;
  Array<double> kept = Array<double>::view(ConstView<double>(owner->data(), 2, 2), owner);
  owner.reset();
  CHECK_FALSE(watch.expired());
  CHECK(kept(1, 1) == 2.5);
  kept = Array<double>();
  CHECK(watch.expired());
}

TEST_CASE("views see rows at any distance, and write through", "[core]") {
  Matrix<float> memory = Matrix<float>::Zero(3, 5);
  View<float> inner(memory.data() + 1, 3, 2, 5);
  inner = Matrix<float>(Matrix<float>::Ones(3, 2));
  CHECK(memory.sum() == 6.0f);
  CHECK(memory(2, 2) == 1.0f);
  CHECK(memory(2, 3) == 0.0f);
  const ConstView<float> read = inner;
  CHECK(read.data() == memory.data() + 1);
  CHECK(read.outerStride() == 5);
  View<float> other(memory.data() + 3, 3, 2, 5);
  other = inner;  // numbers, not the view
  CHECK(memory.sum() == 12.0f);
}

TEST_CASE("errors say what came, to an exception or the host's handler", "[core]") {
  CHECK(shape_text({2, 3}) == "(2, 3)");
  CHECK(shape_text({}) == "()");
  CHECK(detail::message("a ", 1, ' ', 2.5, std::string(" b")) == "a 1 2.5 b");
  const Matrix<double> wrong(3, 2);
  auto [kind, text] = error_of([&] { check_shape("Layer", "weight", wrong, 2, 3, "(channels, width)", "is it transposed?"); });
  CHECK(kind == ErrorKind::shape);
  CHECK(text == "Layer: weight is (3, 2), expected (2, 3) = (channels, width); is it transposed?");
  std::tie(kind, text) = error_of([&] { check_vector("Layer", "bias", Matrix<double>(1, 2), 3, "channels"); });
  CHECK(text == "Layer: bias is (2), expected (3) = (channels)");
  std::tie(kind, text) = error_of([&] { check_vector("Layer", "bias", Matrix<double>(3, 1), 3, "channels"); });
  CHECK(text == "Layer: bias is (3, 1), expected (3) = (channels)");

  struct HostsOwn {
    ErrorKind kind;
    std::string text;
  };
  const ErrorHandler before = set_error_handler([](ErrorKind k, const char* m) { throw HostsOwn{k, m}; });
  try {
    detail::raise(ErrorKind::limit, "too much");
  } catch (const HostsOwn& own) {
    CHECK(own.kind == ErrorKind::limit);
    CHECK(own.text == "too much");
  }
  CHECK(set_error_handler(before) != nullptr);
  CHECK_THROWS_AS(detail::raise(ErrorKind::value, "again an exception"), Error);
  // A name out of a file may have a zero byte, at which every reader of a message stops.
  CHECK_THROWS_WITH(detail::raise(ErrorKind::file, "tensor ", std::string_view("a\0b\0", 4), " is missing"),
                    "tensor a\\x00b\\x00 is missing");
}

TEST_CASE("a host's handler is told where in the library an error was found", "[core]") {
  struct HostsOwn {
    ErrorKind kind;
    std::string text, file;
    int line;
  };
  set_error_handler_at([](ErrorKind kind, const char* text, const char* file, int line) { throw HostsOwn{kind, text, file, line}; });
  bool came = false;
  try {
    check_vector("Layer", "bias", Matrix<double>(1, 2), 3, "channels");
  } catch (const HostsOwn& own) {
    came = true;
    CHECK(own.kind == ErrorKind::shape);
    CHECK(own.text == "Layer: bias is (2), expected (3) = (channels)");
    const std::string_view ending = "implicit_attention/core/shape.hpp";
    CHECK(own.file.substr(own.file.size() - std::min(own.file.size(), ending.size())) == ending);
    CHECK(own.line > 20);
  }
  CHECK(came);
  came = false;
  try {
    detail::raise(ErrorKind::value, "here");
  } catch (const HostsOwn& own) {
    came = true;
    CHECK(own.file == __FILE__);
    CHECK(own.line == __LINE__ - 4);
  }
  CHECK(came);
  set_error_handler_at(nullptr);
  CHECK_THROWS_AS(detail::raise(ErrorKind::value, "again an exception"), Error);
}

TEST_CASE("handlers of either kind are put back as they were", "[core]") {
  const ErrorHandler plain = [](ErrorKind, const char*) { throw 1; };
  const ErrorHandlerAt at = [](ErrorKind, const char*, const char*, int) { throw 2; };
  const auto called = [] {
    try {
      detail::raise(ErrorKind::value, "which?");
    } catch (const int which) {
      return which;
    } catch (const Error&) {
      return 0;
    }
  };
  CHECK(set_error_handler(plain) == nullptr);
  CHECK(called() == 1);
  CHECK(set_error_handler_at(at) == nullptr);  // in place of the other
  CHECK(called() == 2);
  const ErrorHandlers before = set_error_handlers({plain, nullptr});  // a borrower
  CHECK(called() == 1);
  CHECK(set_error_handlers(before).plain == plain);
  CHECK(called() == 2);
  CHECK(set_error_handler_at(nullptr) == at);
  CHECK(called() == 0);
}

TEST_CASE("a handler that returns is followed by the default", "[core]") {
  static int told = 0;
  set_error_handler([](ErrorKind, const char*) { ++told; });
  CHECK_THROWS_AS(detail::raise(ErrorKind::value, "an exception all the same"), Error);
  set_error_handler_at([](ErrorKind, const char*, const char*, int) { ++told; });
  CHECK_THROWS_AS(detail::raise(ErrorKind::value, "an exception all the same"), Error);
  CHECK(told == 2);
  set_error_handler(nullptr);
}

TEST_CASE("a handler's own exception comes out of a loop on any thread", "[core]") {
  struct HostsOwn {
    std::string text;
  };
  set_error_handler([](ErrorKind, const char* text) { throw HostsOwn{text}; });
  for (const int workers : {1, 3}) {
    const Executor executor = thread_executor(workers);
    std::string came;
    try {
      executor(20, [](Index i) {
        if (i >= 7) detail::raise(ErrorKind::value, "a body fails");
      });
    } catch (const HostsOwn& own) {
      came = own.text;
    }
    CHECK(came == "a body fails");
  }
  set_error_handler(nullptr);
}

TEST_CASE("a configuration gives keys under any of their spellings", "[core]") {
  Configuration configuration("config.json");
  configuration.set("d_model", Index(64));
  configuration.set("eps", 1e-5);
  configuration.set("tied", true);
  configuration.set("name", std::string("mamba"));
  configuration.set("blocks", std::vector<std::string>{"recurrent", "attention"});
  CHECK(configuration.integer({"hidden_size", "d_model"}) == 64);
  CHECK_FALSE(configuration.integer({"hidden_size"}).has_value());
  CHECK(configuration.number({"eps"}) == 1e-5);
  CHECK(configuration.number({"d_model"}) == 64.0);
  CHECK(configuration.boolean({"tied"}) == true);
  CHECK(configuration.text({"name"}) == "mamba");
  CHECK(configuration.texts({"blocks"})->size() == 2);
  const auto [kind, text] = error_of([&] { (void)configuration.integer({"name"}); });
  CHECK(kind == ErrorKind::value);
  CHECK_THAT(text, contains_text("config.json") && contains_text("name") && contains_text("integer"));
}

TEST_CASE("a key below one that is no object is not absent", "[core]") {
  Configuration configuration("config.json");
  configuration.set("rope_parameters", std::string());
  configuration.set("a.b", std::vector<std::string>());
  configuration.set_object("c");
  for (const auto& [key, said] : {std::pair("rope_parameters.rope_theta", "config.json: key rope_parameters is \"\", expected an object"),
                                  std::pair("a.b.c", "config.json: key a.b is [], expected an object")}) {
    const auto [kind, text] = error_of([&, name = key] { (void)configuration.number({name}); });
    CHECK(kind == ErrorKind::value);
    CHECK(text == said);
  }
  CHECK_FALSE(configuration.number({"c.d", "a.c", "rope_parameters_of"}).has_value());
}

TEST_CASE("the serial executor calls each index once, in order", "[core]") {
  std::vector<Index> called;
  serial_executor()(5, [&](Index i) { called.push_back(i); });
  CHECK(called == std::vector<Index>{0, 1, 2, 3, 4});
}
