// The operator and its kernels, compiled once for all benchmarks.
#include <utility>

#include <implicit_attention/operator/implicit_attention.hpp>

#include "layers.hpp"

namespace benchmarks {

Operator::Operator(UnifiedForm<float> form) : attention_(std::make_shared<const ImplicitAttention<float>>(std::move(form))) {}
const UnifiedForm<float>& Operator::form() const { return attention_->form(); }
AttentionMatrix<float> Operator::materialize(const Selection& selection) const { return attention_->materialize(selection); }
void Operator::materialize_into(View<float> out, const Selection& selection) const { attention_->materialize_into(out, selection); }
void Operator::reduce_into(View<float> out, const Reduction<float>& reduction, const Selection& selection) const {
  attention_->reduce_into(out, reduction, selection);
}
void Operator::apply_into(View<float> out, ConstView<float> x) const { attention_->apply_into(out, x); }
void Operator::apply_transpose_into(View<float> out, ConstView<float> g) const { attention_->apply_transpose_into(out, g); }

}  // namespace benchmarks
