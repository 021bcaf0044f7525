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

/// A pool of objects: threads may take and give back concurrently, and each works with its own object. One that an exception keeps from
/// coming back is replaced by a new one.
template <class Thing>
class Spares {
 public:
  /// An object that was given back, or a new one: the std::unique_ptr that `make` returns.
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
  /// Destroys the object if there is no memory to keep it, and does not throw: destructors call this.
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
