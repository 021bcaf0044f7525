#include "ranks.hpp"

#include <algorithm>
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
  started_ = true;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  number_ = rank;
  count_ = size;
  if (!first())
    for (std::FILE* const stream : {stdout, stderr}) static_cast<void>(!std::freopen("/dev/null", "w", stream));
#else
  if (beside_others())
    raise(ErrorKind::value,
          "mpirun started several processes, and this program was built without MPI: configure with IMPLICIT_ATTENTION_MPI=ON");
#endif
}

Ranks::~Ranks() {
#if IMPLICIT_ATTENTION_MPI
  if (started_) MPI_Finalize();
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
    if (!failed_ && count_ > 1) agree(error.what());
    throw;
  }
}

/// Every process says whether it is well ("") or why not. Fails in all where it failed in one.
void Ranks::agree(const std::string& why) {
#if IMPLICIT_ATTENTION_MPI
  if (count_ == 1) return;
  const bool well = why.empty();
  const int own = static_cast<int>(well ? count_ : number_);
  int lowest = own;
  MPI_Allreduce(&own, &lowest, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  if (lowest == static_cast<int>(count_)) return;
  failed_ = true;
  std::string text = why;
  int size = static_cast<int>(std::min<std::size_t>(text.size(), 100'000));
  MPI_Bcast(&size, 1, MPI_INT, lowest, MPI_COMM_WORLD);
  text.resize(static_cast<std::size_t>(size));
  MPI_Bcast(text.data(), size, MPI_CHAR, lowest, MPI_COMM_WORLD);
  raise(ErrorKind::value, text);
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

/// What process `rank` has, in the first.
std::vector<std::string> Ranks::gather(const std::vector<std::string>& own, Index rank, std::size_t pieces) {
#if IMPLICIT_ATTENTION_MPI
  if (rank == 0) return own;
  std::vector<std::uint64_t> sizes(pieces);
  if (number_ == rank) {
    std::transform(own.begin(), own.end(), sizes.begin(), [](const std::string& text) { return text.size(); });
    send(sizes.data(), sizes.size() * sizeof(std::uint64_t), 0);
    for (const std::string& text : own) send(text.data(), text.size(), 0);
    return {};
  }
  receive(sizes.data(), sizes.size() * sizeof(std::uint64_t), rank);
  std::vector<std::string> texts;
  for (const std::uint64_t size : sizes) receive(texts.emplace_back(static_cast<std::size_t>(size), '\0').data(), size, rank);
  return texts;
#else
  static_cast<void>(rank);
  static_cast<void>(pieces);
  return own;
#endif
}

void Ranks::share(Index begin, Index end, Index per_round, const std::function<Index(Index)>& cost,
                  const std::function<std::vector<std::string>(const std::vector<Index>&)>& work,
                  const std::function<void(Index, std::string)>& take) {
  const auto ranks = static_cast<std::size_t>(count_);
  for (Index round = begin; round < end; round += per_round * count_) {
    std::vector<Index> pieces;
    for (Index piece = round; piece < std::min(end, round + per_round * count_); ++piece) pieces.push_back(piece);
    const Index last = pieces.back();
    std::stable_sort(pieces.begin(), pieces.end(), [&](Index a, Index b) { return cost(a) > cost(b); });
    std::vector<std::vector<Index>> shares(ranks);
    std::vector<Index> loads(ranks, 0);
    for (const Index piece : pieces) {
      const auto least = static_cast<std::size_t>(std::min_element(loads.begin(), loads.end()) - loads.begin());
      shares[least].push_back(piece);
      loads[least] += cost(piece);
    }
    const std::vector<std::string> own = work(shares[static_cast<std::size_t>(number_)]);
    agree("");
    std::vector<std::string> all(static_cast<std::size_t>(last - round + 1));
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      if (shares[rank].empty() || (!first() && static_cast<Index>(rank) != number_)) continue;
      std::vector<std::string> texts = gather(own, static_cast<Index>(rank), shares[rank].size());
      for (std::size_t i = 0; first() && i < texts.size(); ++i)
        all[static_cast<std::size_t>(shares[rank][i] - round)] = std::move(texts[i]);
    }
    for (std::size_t i = 0; first() && i < all.size(); ++i) take(round + static_cast<Index>(i), std::move(all[i]));
  }
}

}  // namespace implicit_attention::examples
