// Several processes that share one run, by MPI; one process where the program was built without it, or was not started by mpirun.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/core/types.hpp>

namespace implicit_attention::examples {

class Ranks {
 public:
  /// Starts MPI under mpirun, which ends where the program does: once in a program. All processes but the first fall silent: what is to be
  /// said, the first says.
  Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  [[nodiscard]] Index number() const { return number_; }
  [[nodiscard]] Index count() const { return count_; }
  [[nodiscard]] bool first() const { return number_ == 0; }
  /// Threads of each process where the command line asks for so many; 0, for nothing: one beside others, else 0, for all cores.
  [[nodiscard]] int threads(int asked) const { return asked == 0 && count_ > 1 ? 1 : asked; }

  /// Does `work` in every process. Where it fails in one, it fails in all, with the message of the lowest of those where it failed: nobody
  /// waits for a process that is gone. All calls below stand inside of it, the same in every process.
  void run(const std::function<void()>& work);
  /// The first process's value, in all.
  [[nodiscard]] Index from_first(Index value);
  /// Pieces of work `begin` to `end`. Each is done by one process, `work` doing several and giving what came of each; `take` gets them in
  /// the first process, in order. Rounds of `per_round` pieces a process, dearer pieces first: the split depends on `cost` alone.
  void share(Index begin, Index end, Index per_round, const std::function<Index(Index)>& cost,
             const std::function<std::vector<std::string>(const std::vector<Index>&)>& work,
             const std::function<void(Index, std::string)>& take);

 private:
  void agree(std::string_view why);
  [[nodiscard]] std::vector<std::string> gather(const std::vector<std::vector<Index>>& shares, std::vector<std::string> own,
                                                std::size_t pieces);

  Index number_ = 0, count_ = 1;
  bool failed_ = false;
};

}  // namespace implicit_attention::examples
