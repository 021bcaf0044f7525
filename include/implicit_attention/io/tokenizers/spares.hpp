// Things to work in that are dear to make, kept from one call for the next.
#pragma once

#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include <implicit_attention/config.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Threads may take from one and give back at once; each works in a thing of its own. What is lost on the way, by an exception, is made anew.
template <class Thing>
class Spares {
 public:
  /// One that was given back, or what `make` makes, a std::unique_ptr.
  template <class Make>
  [[nodiscard]] std::unique_ptr<Thing> take(Make make) const {
    {
      const std::lock_guard<std::mutex> lock(turn_);
      if (!list_.empty()) {
        std::unique_ptr<Thing> last = std::move(list_.back());
        list_.pop_back();
        return last;
      }
    }
    return make();
  }
  /// What there is no memory to keep is let go: destructors give things back.
  void give(std::unique_ptr<Thing> thing) const noexcept {
    const std::lock_guard<std::mutex> lock(turn_);
    try {
      list_.push_back(std::move(thing));
    } catch (const std::bad_alloc&) {
    }
  }

 private:
  mutable std::mutex turn_;
  mutable std::vector<std::unique_ptr<Thing>> list_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
