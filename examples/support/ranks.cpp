#include "ranks.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <utility>

#include <implicit_attention/core/error.hpp>

#ifndef IMPLICIT_ATTENTION_MPI
#define IMPLICIT_ATTENTION_MPI 0
#endif
#if IMPLICIT_ATTENTION_MPI
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#endif

namespace implicit_attention::examples {
namespace {

#if IMPLICIT_ATTENTION_MPI

/// A message has at most 2^31 numbers.
constexpr std::size_t most_bytes = std::size_t{1} << 30U;

void send(const void* from, std::size_t size, Index to) {
  const auto* bytes = static_cast<const char*>(from);
  for (std::size_t done = 0; done < size; done += most_bytes)
    MPI_Send(bytes + done, static_cast<int>(std::min(most_bytes, size - done)), MPI_BYTE, static_cast<int>(to), 0, MPI_COMM_WORLD);
}
void receive(void* to, std::size_t size, Index from) {
  auto* const bytes = static_cast<char*>(to);
  for (std::size_t done = 0; done < size; done += most_bytes)
    MPI_Recv(bytes + done, static_cast<int>(std::min(most_bytes, size - done)), MPI_BYTE, static_cast<int>(from), 0, MPI_COMM_WORLD,
             MPI_STATUS_IGNORE);
}

/// Whether mpirun, mpiexec or srun started this process. MPI without them would be one process, and slow to start.
bool under_mpi() {
  for (const char* const name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK", "MPI_LOCALNRANKS"})
    if (std::getenv(name) != nullptr) return true;
  return false;
}

/// The last that a process does: mpirun stops the others as soon as one has ended with a status of its own, and what is wrong must have
/// been said by then.
void finish() {
  MPI_Barrier(MPI_COMM_WORLD);
  MPI_Finalize();
}

#else

/// Whether mpirun started this process beside others: each would do all of the work, and write the same file.
bool beside_others() {
  for (const char* const name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"})
    if (const char* const size = std::getenv(name); size != nullptr && std::atoi(size) > 1) return true;
  return false;
}

#endif

}  // namespace

Ranks::Ranks() {
#if IMPLICIT_ATTENTION_MPI
  if (!under_mpi()) return;
  int provided = 0, rank = 0, size = 1;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  std::atexit(finish);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  number_ = rank;
  count_ = size;
  if (!first())
    for (std::FILE* const stream : {stdout, stderr}) static_cast<void>(!std::freopen("/dev/null", "w", stream));
#else
  if (beside_others())
    detail::raise(ErrorKind::value,
                  "mpirun started several processes, and this program was built without MPI: configure with IMPLICIT_ATTENTION_MPI=ON");
#endif
}

void Ranks::run(const std::function<void()>& work) {
  try {
    work();
    agree("");
  } catch (const std::bad_alloc&) {
    if (!failed_ && count_ > 1) agree("there is not enough memory for this");
    throw;
  } catch (const std::exception& error) {
    const std::string_view why = error.what();
    if (!failed_ && count_ > 1) agree(why.empty() ? "something failed, and did not say why" : why);
    throw;
  }
}

/// Every process says whether it is well ("") or why not. Fails in all where it failed in one. Nothing is allocated before all know: a
/// process without memory must be able to say so.
void Ranks::agree(std::string_view why) {
#if IMPLICIT_ATTENTION_MPI
  if (count_ == 1) return;
  const int own = static_cast<int>(why.empty() ? count_ : number_);
  int lowest = own;
  MPI_Allreduce(&own, &lowest, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  if (lowest == static_cast<int>(count_)) return;
  failed_ = true;
  std::array<char, 4000> text{};
  int size = static_cast<int>(std::min(why.size(), text.size()));
  std::copy_n(why.data(), size, text.data());
  MPI_Bcast(&size, 1, MPI_INT, lowest, MPI_COMM_WORLD);
  MPI_Bcast(text.data(), size, MPI_CHAR, lowest, MPI_COMM_WORLD);
  detail::raise(ErrorKind::value, std::string(text.data(), static_cast<std::size_t>(size)));
#else
  static_cast<void>(why);
#endif
}

Index Ranks::from_first(Index value) {
  agree("");
#if IMPLICIT_ATTENTION_MPI
  auto sent = static_cast<std::int64_t>(value);
  if (count_ > 1) MPI_Bcast(&sent, 1, MPI_INT64_T, 0, MPI_COMM_WORLD);
  return static_cast<Index>(sent);
#else
  return value;
#endif
}

/// The texts of all pieces, in the first process. Each process gives those of its own, `shares[number()]`, counted from the first piece of
/// the round. What may fail for want of memory stands before an agreement; the messages, where each waits for the other, allocate nothing.
std::vector<std::string> Ranks::gather(const std::vector<std::vector<Index>>& shares, std::vector<std::string> own, std::size_t pieces) {
  std::vector<std::string> texts(pieces);
  const std::vector<Index>& mine = shares[static_cast<std::size_t>(number_)];
  for (std::size_t i = 0; i < mine.size(); ++i) texts[static_cast<std::size_t>(mine[i])] = std::move(own[i]);
#if IMPLICIT_ATTENTION_MPI
  if (count_ == 1) return texts;
  std::vector<std::uint64_t> sizes(pieces);
  std::transform(texts.begin(), texts.end(), sizes.begin(), [](const std::string& text) { return text.size(); });
  agree("");
  MPI_Allreduce(MPI_IN_PLACE, sizes.data(), static_cast<int>(pieces), MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
  for (std::size_t i = 0; first() && i < pieces; ++i) texts[i].resize(static_cast<std::size_t>(sizes[i]));
  agree("");
  for (std::size_t rank = 1; rank < shares.size(); ++rank)
    for (const Index piece : shares[rank]) {
      std::string& text = texts[static_cast<std::size_t>(piece)];
      if (first()) receive(text.data(), text.size(), static_cast<Index>(rank));
      if (number_ == static_cast<Index>(rank)) send(text.data(), text.size(), 0);
    }
#endif
  return texts;
}

void Ranks::share(Index begin, Index end, Index per_round, const std::function<Index(Index)>& cost,
                  const std::function<std::vector<std::string>(const std::vector<Index>&)>& work,
                  const std::function<void(Index, std::string)>& take) {
  const auto ranks = static_cast<std::size_t>(count_);
  for (Index round = begin; round < end; round += per_round * count_) {
    std::vector<Index> pieces;
    for (Index piece = round; piece < std::min(end, round + per_round * count_); ++piece) pieces.push_back(piece);
    std::stable_sort(pieces.begin(), pieces.end(), [&](Index a, Index b) { return cost(a) > cost(b); });
    std::vector<std::vector<Index>> shares(ranks);
    std::vector<Index> loads(ranks, 0);
    for (const Index piece : pieces) {
      const auto least = static_cast<std::size_t>(std::min_element(loads.begin(), loads.end()) - loads.begin());
      shares[least].push_back(piece);
      loads[least] += cost(piece);
    }
    std::vector<std::string> own = work(shares[static_cast<std::size_t>(number_)]);
    for (std::vector<Index>& share : shares)
      for (Index& piece : share) piece -= round;
    std::vector<std::string> all = gather(shares, std::move(own), pieces.size());
    for (std::size_t i = 0; first() && i < all.size(); ++i) take(round + static_cast<Index>(i), std::move(all[i]));
  }
}

}  // namespace implicit_attention::examples
