// What a stream keeps of a form beside its recurrence, and what it refuses.
#include <memory>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/random.hpp>

#include <implicit_attention/streaming/stream_history.hpp>

namespace stream_history_cases {

using namespace implicit_attention;
using test_support::Draw;
using test_support::error_of;

constexpr Index all_tokens = 12, width = 4;

/// One decaying channel each, as a form of tokens first..first+count-1 of a longer sequence.
struct Sequence {
  Matrix<double> step, gate, normalization, activation, input_scale, x;
  Matrix<double> skip, convolution, norm_bias;

  explicit Sequence(std::uint64_t seed = 3) {
    Draw draw(seed);
    step = draw.uniforms<double>(all_tokens, width, -1, 0);
    for (Matrix<double>* one : {&gate, &normalization, &activation, &input_scale, &x}) *one = draw.normals<double>(all_tokens, width);
    skip = draw.normals<double>(1, width);
    convolution = draw.normals<double>(width, 3);
    norm_bias = draw.normals<double>(1, width);
  }
  [[nodiscard]] static Array<double> rows(const Matrix<double>& of, Index first, Index count) {
    return Matrix<double>(of.middleRows(first, count));
  }
  [[nodiscard]] UnifiedForm<double> bare(Index first, Index count) const {
    DiagonalRecurrence<double> recurrence;
    recurrence.tokens = count;
    recurrence.channels = width;
    recurrence.step = rows(step, first, count);
    UnifiedForm<double> form;
    form.recurrence = recurrence;
    return form;
  }
  [[nodiscard]] UnifiedForm<double> whole(Index first, Index count) const {
    UnifiedForm<double> form = bare(first, count);
    form.gate = rows(gate, first, count);
    form.normalization = rows(normalization, first, count);
    form.activation = rows(activation, first, count);
    form.input_scale = rows(input_scale, first, count);
    form.norm_bias = norm_bias;
    form.skip = skip;
    form.convolution = convolution;
    return form;
  }
};

TEST_CASE("a stream keeps what surrounds the recurrence: the last rows, and gate and norm as their product", "[streaming]") {
  const Sequence sequence;
  for (const Index window : {Index(0), Index(1), Index(5), Index(40)})
    for (const Index piece : {1, 2, 5, 12}) {
      INFO("pieces of " << piece << " behind a window of " << window);
      detail::StreamHistory<double> history(window);
      for (Index first = 0; first < all_tokens; first += piece) {
        const Index count = std::min(piece, all_tokens - first);
        history.append(sequence.whole(first, count), Sequence::rows(sequence.x, first, count));
      }
      const Index kept = window > 0 ? std::min(window, all_tokens) : all_tokens, first = all_tokens - kept;
      CHECK(history.tokens() == kept);
      CHECK(history.tokens_seen() == all_tokens);
      CHECK(history.first_token() == first);
      CHECK(history.place_of(all_tokens - 1) == kept - 1);
      const UnifiedForm<double> form = history.form();
      CHECK(form.tokens() == kept);
      CHECK(form.recurrence.diagonal()->step.matrix() == sequence.step.bottomRows(kept));
      CHECK(form.gate.empty());
      CHECK(form.normalization.matrix() == sequence.gate.cwiseProduct(sequence.normalization).bottomRows(kept));
      const Matrix<double> bias = sequence.gate.array().rowwise() * sequence.norm_bias.row(0).array();
      CHECK(form.norm_bias.matrix() == bias.bottomRows(kept));
      CHECK(form.activation.matrix() == sequence.activation.bottomRows(kept));
      CHECK(form.input_scale.matrix() == sequence.input_scale.bottomRows(kept));
      CHECK(form.skip.matrix() == sequence.skip);
      CHECK(form.convolution.matrix() == sequence.convolution);
      CHECK(history.input().matrix() == sequence.x.bottomRows(kept));
      CHECK(history.bytes() > 0);
    }
}

TEST_CASE("a norm's bias of one row stays one row as long as nothing multiplies it", "[streaming]") {
  const Sequence sequence;
  detail::StreamHistory<double> history(0);
  for (Index token = 0; token < 3; ++token) {
    UnifiedForm<double> form = sequence.bare(token, 1);
    form.norm_bias = sequence.norm_bias;
    history.append(form, {});
  }
  CHECK(history.form().norm_bias.matrix() == sequence.norm_bias);
  UnifiedForm<double> form = sequence.bare(3, 2);
  form.norm_bias = Matrix<double>(2 * sequence.norm_bias);
  history.append(form, {});
  Matrix<double> expected = sequence.norm_bias.replicate(5, 1);
  expected.bottomRows(2) *= 2;
  CHECK(history.form().norm_bias.matrix() == expected);
  CHECK(history.input().empty());
}

TEST_CASE("what carries a sequence on stays while its tokens do", "[streaming]") {
  const Sequence sequence;
  UnifiedForm<double> begun = sequence.whole(0, 2);
  begun.initial_state = Matrix<double>(Matrix<double>::Constant(1, width, 3));
  begun.convolution_tail = Matrix<double>(Matrix<double>::Constant(2, width, 5));
  detail::StreamHistory<double> history(4);
  history.append(begun, {});
  history.append(sequence.whole(2, 2), {});
  CHECK(history.form().initial_state.matrix() == begun.initial_state.matrix());
  CHECK(history.form().convolution_tail.matrix() == begun.convolution_tail.matrix());
  history.append(sequence.whole(4, 1), {});
  CHECK(history.form().initial_state.empty());
  CHECK(history.form().convolution_tail.empty());
}

TEST_CASE("documents are counted from the first token that is kept", "[streaming]") {
  const Sequence sequence;
  const std::vector<Index> starts = {0, 3, 4, 9};
  for (const Index window : {Index(0), Index(2), Index(3), Index(6), Index(9)})
    for (const Index piece : {1, 3, 5, 12}) {
      INFO("pieces of " << piece << " behind a window of " << window);
      detail::StreamHistory<double> history(window);
      for (Index first = 0; first < all_tokens; first += piece) {
        UnifiedForm<double> form = sequence.whole(first, std::min(piece, all_tokens - first));
        DiagonalRecurrence<double> recurrence = *form.recurrence.diagonal();
        for (const Index start : starts)
          if (start >= first && start < first + form.tokens()) recurrence.starts.push_back(start - first);
        form.convolution_starts = recurrence.starts;
        form.recurrence = recurrence;
        history.append(form, {});
        const Index end = first + form.tokens(), kept = history.first_token();
        std::vector<Index> expected;
        for (const Index start : starts)
          if (start >= kept && start < end) expected.push_back(start - kept);
        CHECK(history.form().recurrence.diagonal()->starts == expected);
        CHECK(history.form().convolution_starts == expected);
      }
    }
}

TEST_CASE("added forms and a second path go through a stream, and may not come or go", "[streaming]") {
  const Sequence sequence, other(4);
  const auto piece = [&](Index first, Index count, bool added, bool second) {
    UnifiedForm<double> form = sequence.whole(first, count);
    if (added) form.more.push_back(other.whole(first, count));
    if (second)
      form.second =
          std::make_shared<const SecondPath<double>>(SecondPath<double>{other.bare(first, count), Sequence::rows(other.x, first, count)});
    return form;
  };
  for (const bool added : {false, true})
    for (const bool second : {false, true}) {
      INFO((added ? "an added form" : "no added form") << (second ? ", a second path" : ""));
      detail::StreamHistory<double> history(7);
      CHECK(history.bytes() == 0);
      for (Index first = 0; first < all_tokens; first += 4) history.append(piece(first, 4, added, second), {});
      CHECK(history.has_second() == second);
      const UnifiedForm<double> form = history.form();
      REQUIRE(form.more.size() == (added ? 1U : 0U));
      if (added) CHECK(form.more[0].activation.matrix() == other.activation.bottomRows(7));
      CHECK(history.is_finite_diagonal() == !added);
      REQUIRE((form.second != nullptr) == second);
      if (second) {
        CHECK(form.second->input.matrix() == other.x.bottomRows(7));
        CHECK(form.second->form.recurrence.diagonal()->step.matrix() == other.step.bottomRows(7));
      }
      for (const auto& [adds, seconds] : {std::pair{!added, second}, std::pair{added, !second}}) {
        const auto [kind, text] = error_of([&, more = adds, path = seconds] { history.append(piece(0, 1, more, path), {}); });
        CHECK(kind == ErrorKind::shape);
        CHECK_THAT(text, contains_text("other added forms or another second path than the pieces before"));
        CHECK(history.tokens_seen() == all_tokens);
      }
    }
}

TEST_CASE("an added form and a second path are checked before anything is taken", "[streaming]") {
  const Sequence sequence;
  UnifiedForm<double> reversed = sequence.bare(0, 2), form = sequence.whole(0, 2);
  reversed.reversed = true;
  form.more.push_back(reversed);
  detail::StreamHistory<double> history(0);
  CHECK_THAT(error_of([&] { history.append(form, {}); }).second, contains_text("from the last token to the first"));
  form.more.clear();
  form.second = std::make_shared<const SecondPath<double>>(SecondPath<double>{reversed, Sequence::rows(sequence.x, 0, 2)});
  CHECK_THAT(error_of([&] { history.append(form, {}); }).second, contains_text("from the last token to the first"));
  CHECK(history.tokens_seen() == 0);
  CHECK(history.bytes() == 0);
}

TEST_CASE("a gate or a norm that comes or goes is named, though their product is kept as one", "[streaming]") {
  const Sequence sequence;
  const auto piece = [&](Index token, bool gated, bool normalized) {
    UnifiedForm<double> form = sequence.whole(token, 1);
    form.norm_bias = {};
    if (!gated) form.gate = {};
    if (!normalized) form.normalization = {};
    return form;
  };
  for (const bool gated : {false, true})
    for (const bool normalized : {false, true}) {
      INFO((gated ? "a gate, " : "no gate, ") << (normalized ? "a norm" : "no norm"));
      detail::StreamHistory<double> history(0);
      history.append(piece(0, gated, normalized), {});
      const auto [kind, gate_text] = error_of([&, with = !gated, norm = normalized] { history.append(piece(1, with, norm), {}); });
      CHECK(kind == ErrorKind::shape);
      CHECK_THAT(gate_text, contains_text(gated ? "gate is empty, expected it as in the earlier pieces"
                                                : "gate is there, expected it as in the earlier pieces"));
      const std::string norm_text = error_of([&, with = gated, norm = !normalized] { history.append(piece(1, with, norm), {}); }).second;
      CHECK_THAT(norm_text, contains_text(normalized ? "normalization is empty, expected it as in the earlier pieces"
                                                     : "normalization is there, expected it as in the earlier pieces"));
      CHECK(history.tokens_seen() == 1);
      history.append(piece(1, gated, normalized), {});
      CHECK(history.tokens_seen() == 2);
    }
}

TEST_CASE("a piece without tokens is none", "[streaming]") {
  const Sequence sequence;
  detail::StreamHistory<double> history(0);
  history.append(sequence.bare(0, 0), {});
  CHECK(history.tokens_seen() == 0);
  history.append(sequence.whole(0, 3), {});  // of other terms: nothing was said yet
  history.append(sequence.bare(3, 0), {});
  CHECK(history.tokens_seen() == 3);
  CHECK(history.form().tokens() == 3);
}

}  // namespace stream_history_cases
