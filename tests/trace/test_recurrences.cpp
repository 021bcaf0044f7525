// Recurrences, attention and what looks at the tokens before, as operations, against plain double loops.
#include <cmath>
#include <string>
#include <vector>

#include <support/errors.hpp>

#include <implicit_attention/trace/causal_convolution.hpp>
#include <implicit_attention/trace/recurrences.hpp>

#include "operation_checks.hpp"

namespace recurrence_cases {

using namespace operation_checks;
using test_support::what_of;

Numbers drawn(std::uint64_t seed, Index rows, Index columns) { return Draw(seed).normals<double>(rows, columns); }
Array<double> constant(const Numbers& numbers) { return Numbers(numbers); }
/// The first token of the document that `token` is in.
Index document(const std::vector<Index>& starts, Index token) {
  Index first = 0;
  for (const Index start : starts)
    if (start <= token) first = start;
  return first;
}
bool starts_at(const std::vector<Index>& starts, Index token) { return std::find(starts.begin(), starts.end(), token) != starts.end(); }

TEST_CASE("the token before, mixed with the token itself", "[trace]") {
  const Numbers x = drawn(1, 6, 3), before = drawn(2, 1, 3), mix = drawn(3, 1, 3);
  for (const bool carried : {false, true})
    for (const std::vector<Index>& starts : {std::vector<Index>{}, {3}, {0, 2, 5}}) {
      Numbers shifted = Numbers::Zero(6, 3);
      if (carried && !starts_at(starts, 0)) shifted.row(0) = before.row(0);
      for (Index t = 1; t < 6; ++t)
        if (!starts_at(starts, t)) shifted.row(t) = x.row(t - 1);
      const auto shift = [&](const Value<double>& value) {
        return token_shift(value, carried ? constant(before) : Array<double>(), starts);
      };
      check_operation({"token_shift", [&](const Values& v) { return shift(v[0]); }, {x}, shifted});
      Numbers mixed = shifted;
      for (Index t = 0; t < 6; ++t)
        for (Index c = 0; c < 3; ++c) mixed(t, c) = mix(0, c) * x(t, c) + (1 - mix(0, c)) * shifted(t, c);
      check_operation({"token_mix", [&](const Values& v) { return token_mix(v[0], shift(v[0]), constant(mix)); }, {x}, mixed});
    }
  const Numbers one = drawn(4, 1, 3);
  Trace<double> trace;
  CHECK(*token_shift(trace.input(constant(one)), constant(before)) == before);
  CHECK_THAT(what_of([&] { (void)token_mix(trace.input(constant(x)), trace.input(constant(x)), constant(drawn(3, 1, 2))); }),
             contains_text("token_mix: the mix is"));
}

TEST_CASE("a causal convolution, with tokens before the first and within documents", "[trace]") {
  const Index tokens = 7, channels = 3;
  const Numbers x = drawn(5, tokens, channels), bias = drawn(6, 1, channels);
  for (const Index width : {1, 2, 4, 9})
    for (const bool whole : {false, true})  // with a bias and tokens before the first
      for (const std::vector<Index>& starts : {std::vector<Index>{}, {0, 3}, {2}}) {
        const Numbers weight = drawn(7, channels, width), tail = drawn(8, width - 1, channels);
        Numbers expected(tokens, channels);
        for (Index t = 0; t < tokens; ++t)
          for (Index c = 0; c < channels; ++c) {
            double& sum = expected(t, c);
            sum = whole ? bias(0, c) : 0;
            // Before the first document's start lies what was carried in.
            const Index first = starts_at(starts, 0) || (!starts.empty() && t >= starts.front()) ? document(starts, t) : -width;
            for (Index lag = 0; lag < width && t - lag >= first; ++lag) {
              const Index from = t - lag;
              if (from >= 0)
                sum += weight(c, width - 1 - lag) * x(from, c);
              else if (whole)
                sum += weight(c, width - 1 - lag) * tail(width - 1 + from, c);
            }
          }
        const auto run = [&](const Values& v) {
          return whole ? convolution(v[0], constant(weight), constant(bias), width > 1 ? constant(tail) : Array<double>(), starts)
                       : convolution(v[0], constant(weight), {}, {}, starts);
        };
        INFO("width " << width);
        check_operation({"convolution", run, {x}, expected});
        // What the next piece needs: the last rows of the tail and these tokens.
        Numbers joined(width - 1 + tokens, channels);
        joined << (whole ? tail : Numbers(Numbers::Zero(width - 1, channels))), x;
        CHECK(next_tail<double>(x, whole && width > 1 ? constant(tail) : Array<double>(), width) == joined.bottomRows(width - 1));
      }
  Trace<double> trace;
  CHECK_THAT(what_of([&] { (void)convolution(trace.input(constant(x)), constant(drawn(7, 2, 4))); }),
             contains_text("convolution: the weight is (2, 4), expected (3, 4)"));
}

TEST_CASE("a recurrence of heads, whatever of it is recorded", "[trace]") {
  const Index tokens = 6, heads = 2, state = 3, values = 2;
  const std::vector<Numbers> inputs = {drawn(9, tokens, heads * values), drawn(10, tokens, heads * state), drawn(11, tokens, heads * state),
                                       drawn(12, tokens, heads), Draw(13).uniforms<double>(tokens, heads * state, -1, -0.1)};
  const Numbers carried = drawn(14, heads * state, values);
  for (const std::vector<Index>& starts : {std::vector<Index>{}, {0, 4}, {2}})
    for (const bool begun : {false, true}) {
      Numbers expected = Numbers::Zero(tokens, heads * values), final_state(heads * state, values);
      for (Index h = 0; h < heads; ++h) {
        Numbers kept = begun ? Numbers(carried.middleRows(h * state, state)) : Numbers(Numbers::Zero(state, values));
        for (Index t = 0; t < tokens; ++t) {
          if (starts_at(starts, t)) kept.setZero();
          for (Index n = 0; n < state; ++n)
            for (Index c = 0; c < values; ++c) {
              kept(n, c) = std::exp(inputs[4](t, h * state + n)) * kept(n, c) +
                           inputs[2](t, h * state + n) * inputs[3](t, h) * inputs[0](t, h * values + c);
              expected(t, h * values + c) += inputs[1](t, h * state + n) * kept(n, c);
            }
        }
        final_state.middleRows(h * state, state) = kept;
      }
      const auto run = [&](const Values& v, Matrix<double>* last) {
        HeadRecurrence<double> recurrence;
        recurrence.tokens = tokens, recurrence.channels = heads * values, recurrence.heads = recurrence.groups = heads;
        recurrence.state = state;
        recurrence.query = v[1].numbers, recurrence.key = v[2].numbers, recurrence.key_scale = v[3].numbers;
        recurrence.log_decay = v[4].numbers;
        recurrence.starts = starts;
        HeadInputs<double> of;
        of.query = v[1], of.key = v[2], of.key_scale = v[3], of.log_decay = v[4];
        return head_recurrence(recurrence, of, v[0], begun ? constant(carried) : Array<double>(), last);
      };
      INFO(starts.size() << " documents" << (begun ? ", a state carried in" : ""));
      check_operation({"head_recurrence", [&](const Values& v) { return run(v, nullptr); }, inputs, expected, {1, 2, 3, 4}});
      Matrix<double> last;
      const Pass pass({"", [&](const Values& v) { return run(v, &last); }, inputs, {}}, false, std::vector<bool>(5, false));
      CHECK(difference(last, final_state) < 1e-13);
    }
}

TEST_CASE("a gated recurrence of channels: its gradient, and relevance that holds everything but x and a homogeneous gate", "[trace]") {
  const Index tokens = 6, channels = 3, state = 2;
  const Numbers x = drawn(30, tokens, channels), z = drawn(31, tokens, channels),
                step = Draw(32).uniforms<double>(tokens, channels, 0.1, 1), query = drawn(33, tokens, state),
                key = drawn(34, tokens, state), query_scale = drawn(35, tokens, channels), key_scale = drawn(36, tokens, channels),
                rate = Draw(37).uniforms<double>(state, channels, -1, -0.1), skip = drawn(38, 1, channels),
                carried = drawn(39, state, channels);
  const auto sigmoid_of = [](double number) { return 1 / (1 + std::exp(-number)); };
  const auto silu_of = [&](double number) { return number * sigmoid_of(number); };
  for (const bool one_step : {false, true})       // keys scaled by the steps themselves
    for (const bool function_of : {false, true})  // x is made of something that is kept anyway
      for (const Function function : {Function::silu, Function::sigmoid})
        for (const std::vector<Index>& starts : {std::vector<Index>{}, {3}}) {
          INFO("steps shared: " << one_step << ", x a function: " << function_of << ", documents: " << starts.size());
          const Numbers keys_by = one_step ? step : key_scale, in = function_of ? each_number(x, silu_of) : x;
          Numbers expected(tokens, channels), last(state, channels);
          for (Index c = 0; c < channels; ++c) {
            RowVector<double> kept = carried.col(c).transpose();
            for (Index t = 0; t < tokens; ++t) {
              if (starts_at(starts, t)) kept.setZero();
              double read = 0;
              for (Index n = 0; n < state; ++n) {
                kept[n] = std::exp(rate(n, c) * step(t, c)) * kept[n] + key(t, n) * keys_by(t, c) * in(t, c);
                read += query(t, n) * kept[n];
              }
              const double gate = function == Function::silu ? silu_of(z(t, c)) : sigmoid_of(z(t, c));
              expected(t, c) = gate * (query_scale(t, c) * read + skip(0, c) * in(t, c));
            }
            last.col(c) = kept.transpose();
          }
          const auto run = [&](const Values& v, Matrix<double>* final_state) {
            DiagonalRecurrence<double> recurrence;
            recurrence.tokens = tokens, recurrence.channels = channels, recurrence.state = state;
            recurrence.rate = constant(rate), recurrence.starts = starts;
            DiagonalInputs<double> of;
            of.step = v[2], of.query = v[3], of.key = v[4], of.query_scale = v[5], of.key_scale = one_step ? v[2] : v[6];
            recurrence.step = of.step.numbers, recurrence.query = of.query.numbers, recurrence.key = of.key.numbers;
            recurrence.query_scale = of.query_scale.numbers, recurrence.key_scale = of.key_scale.numbers;
            return diagonal_recurrence(recurrence, of, {function, v[1]}, constant(skip), function_of ? silu(v[0]) : v[0], constant(carried),
                                       final_state, function_of ? FunctionOf<double>{Function::silu, v[0]} : FunctionOf<double>{});
          };
          std::vector<Numbers> inputs = {x, z, step, query, key, query_scale};
          std::vector<std::size_t> held = {2, 3, 4, 5};
          if (!one_step) {
            inputs.push_back(key_scale);
            held.push_back(6);
          }
          if (function == Function::sigmoid) held.push_back(1);
          const Operation operation{"diagonal_recurrence", [&](const Values& v) { return run(v, nullptr); }, inputs, expected, held};
          check_operation(operation);
          Matrix<double> final_state;
          const std::vector<bool> none(inputs.size(), false), all(inputs.size(), true);
          const Pass plain({"", [&](const Values& v) { return run(v, &final_state); }, inputs, {}}, false, none);
          CHECK(difference(final_state, last) < 1e-13);
          // The operator of the mixer holds its gate whatever that is: all of the relevance goes to x and to what was carried in.
          const Numbers g = drawn(40, tokens, channels);
          const WalkResult<double> walked = Pass(operation, true, all).walk(WayBack::attention, g);
          CHECK(walked.gradients[1].isZero(0));
          CHECK(std::abs(walked.bias_share + test_support::dot(walked.gradients[0], x) - test_support::dot(g, expected)) < 1e-12);
        }
}

TEST_CASE("softmax attention, by documents and with tokens of the past", "[trace]") {
  const Index tokens = 7, heads = 4, key_heads = 2, size = 3, values = 2;
  const Numbers x = drawn(15, tokens, heads * values), query = drawn(16, tokens, heads * size), key = drawn(17, tokens, key_heads * size);
  const Numbers past_key = drawn(18, 3, key_heads * size), past_value = drawn(19, 3, key_heads * values);
  const auto attend = [&](const Values& v, double soft_cap, Index window, bool past) {
    SoftmaxRecurrence<double> recurrence;
    recurrence.tokens = tokens, recurrence.channels = heads * values, recurrence.heads = heads, recurrence.key_heads = key_heads;
    recurrence.query = v[1].numbers, recurrence.key = v[2].numbers;
    recurrence.scale = 0.7, recurrence.soft_cap = soft_cap, recurrence.window = window;
    if (past) recurrence.past_key = constant(past_key), recurrence.past_value = constant(past_value);
    return softmax_attention(recurrence, v[1], v[2], v[0]);
  };
  const auto expected = [&](double soft_cap, Index window, bool past, const std::vector<Index>& starts) {
    Numbers out = Numbers::Zero(tokens, heads * values);
    for (Index h = 0; h < heads; ++h)
      for (Index i = 0; i < tokens; ++i) {
        double sum = 0;
        RowVector<double> joined = RowVector<double>::Zero(values);
        for (Index j = past ? -3 : document(starts, i); j <= i; ++j) {
          if (window >= 0 && j < i - window) continue;
          const RowVector<double> keys = (j < 0 ? past_key.row(3 + j) : key.row(j)).segment(h / 2 * size, size);
          double score = 0.7 * query.row(i).segment(h * size, size).dot(keys);
          if (soft_cap > 0) score = soft_cap * std::tanh(score / soft_cap);
          sum += std::exp(score);
          joined +=
              std::exp(score) * (j < 0 ? past_value.row(3 + j).segment(h / 2 * values, values) : x.row(j).segment(h * values, values));
        }
        out.row(i).segment(h * values, values) = joined / sum;
      }
    return out;
  };
  for (const double soft_cap : {0.0, 1.5})
    for (const Index window : {Index(-1), Index(0), Index(2)})
      for (const bool past : {false, true}) {
        INFO("a cap of " << soft_cap << ", a window of " << window << (past ? ", with a past" : ""));
        check_operation({"softmax_attention",
                         [&](const Values& v) { return attend(v, soft_cap, window, past); },
                         {x, query, key},
                         expected(soft_cap, window, past, {}),
                         {1, 2}});
      }
  // Documents that stand one behind the other see nothing of each other, on both ways back.
  const std::vector<Index> starts = {0, 3, 4};
  Trace<double> packed(true, thread_executor(2), starts);
  const Values inputs = {packed.input(constant(x)), packed.input(constant(query)), packed.input(constant(key))};
  const Value<double> out = attend(inputs, 1.5, 2, false);
  CHECK(difference(*out, expected(1.5, 2, false, starts)) < 1e-13);
  const Numbers g = drawn(20, tokens, heads * values);
  const std::vector<Numbers> gradients = packed.walk_back(WayBack::gradient, {{out, g}}, inputs).gradients;
  const Numbers relevance = packed.walk_back(WayBack::relevance, {{out, g}}, inputs).gradients[0];
  for (std::size_t document_index = 0; document_index < starts.size(); ++document_index) {
    const Index first = starts[document_index], count = (document_index + 1 < starts.size() ? starts[document_index + 1] : tokens) - first;
    Trace<double> alone(true);
    const auto rows = [&](const Numbers& of) { return alone.input(constant(of.middleRows(first, count))); };
    const Values of = {rows(x), rows(query), rows(key)};
    SoftmaxRecurrence<double> recurrence;
    recurrence.tokens = count, recurrence.channels = heads * values, recurrence.heads = heads, recurrence.key_heads = key_heads;
    recurrence.query = of[1].numbers, recurrence.key = of[2].numbers;
    recurrence.scale = 0.7, recurrence.soft_cap = 1.5, recurrence.window = 2;
    const Value<double> part = softmax_attention(recurrence, of[1], of[2], of[0]);
    const Numbers of_g = g.middleRows(first, count);
    const std::vector<Numbers> parts = alone.walk_back(WayBack::gradient, {{part, of_g}}, of).gradients;
    for (std::size_t k = 0; k < 3; ++k) CHECK(difference(gradients[k].middleRows(first, count), parts[k]) < 1e-13);
    CHECK(difference(relevance.middleRows(first, count), alone.walk_back(WayBack::relevance, {{part, of_g}}, of).gradients[0]) < 1e-13);
  }
  CHECK_THAT(what_of([&] { (void)attend(inputs, 0, -1, true); }),
             contains_text("carried-in keys cannot be combined with several documents"));
  CHECK_THAT(what_of([&] {
               (void)attend({packed.input(constant(drawn(1, 7, 6))), inputs[1], inputs[2]}, 0, -1, false);
             }),
             contains_text("softmax_attention: x is (7, 6), expected (7, 8)"));
}

TEST_CASE("a filter as an operation, its kernel a value or a constant", "[trace]") {
  const Index tokens = 6, channels = 3;
  const Numbers x = drawn(21, tokens, channels);
  for (const Index length : {1, 4, 6, 9}) {  // the last is longer than the sequence: what is beyond it is not read
    const Numbers kernel = drawn(22, channels, length);
    Numbers expected = Numbers::Zero(tokens, channels);
    for (Index i = 0; i < tokens; ++i)
      for (Index j = 0; j <= i; ++j)
        for (Index e = 0; e < channels && i - j < length; ++e) expected(i, e) += kernel(e, i - j) * x(j, e);
    const auto run = [&](const Values& v) {
      ToeplitzRecurrence<double> recurrence;
      recurrence.tokens = tokens, recurrence.channels = recurrence.heads = channels;
      recurrence.kernel = v[0].numbers;
      return toeplitz(recurrence, v[0], v[1]);
    };
    check_operation({"toeplitz", run, {kernel, x}, expected, {0}});
  }
}

}  // namespace recurrence_cases
