#include "pavise/loading/mpi/mpi_ranks.h"

#include <dlfcn.h>

// The C++ bindings, removed from MPI in 2012, would have to be linked.
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <exception>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/loading/internal/launch.h"

#ifndef OPEN_MPI
#error "The objects behind MPI's constants are looked up by the names that Open MPI gives them."
#endif

namespace pavise::loading {
namespace {

// Counts are int.
constexpr uint64_t kMostBytesACall = uint64_t{1} << 30;
constexpr int kMachineFailed = 3;

#define PAVISE_MPI_FUNCTIONS(F) \
  F(MPI_Initialized)            \
  F(MPI_Init_thread)            \
  F(MPI_Finalize)               \
  F(MPI_Abort)                  \
  F(MPI_Comm_set_errhandler)    \
  F(MPI_Comm_rank)              \
  F(MPI_Comm_size)              \
  F(MPI_Bcast)                  \
  F(MPI_Error_string)

// The functions and objects in use. Open MPI's constants are addresses of objects in the library:
// the header's own names for them would have to be linked.
struct Library {
#define PAVISE_MPI_MEMBER(name) decltype(&::name) name = nullptr;
  PAVISE_MPI_FUNCTIONS(PAVISE_MPI_MEMBER)
#undef PAVISE_MPI_MEMBER
  MPI_Comm world = nullptr;
  MPI_Datatype byte = nullptr;
  MPI_Errhandler errors_return = nullptr;
};

absl::StatusOr<Library> OpenLibrary(const char* file_name) {
  // Global, since the library's own plug-ins look for its symbols; never closed, as it keeps
  // threads and handlers.
  void* handle = dlopen(file_name, RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) {
    const char* error = dlerror();
    return internal::NoWayToSpeak(error == nullptr ? "the library cannot be opened" : error);
  }
  Library library;
  const auto find = [&](const char* name) -> absl::StatusOr<void*> {
    void* symbol = dlsym(handle, name);
    if (symbol == nullptr) {
      return internal::NoWayToSpeak(StrCat(file_name, " is not Open MPI: it has no ", name));
    }
    return symbol;
  };
#define PAVISE_MPI_FIND(name)                                        \
  {                                                                  \
    PAVISE_ASSIGN_OR_RETURN(void* const symbol, find(#name));        \
    library.name = reinterpret_cast<decltype(library.name)>(symbol); \
  }
  PAVISE_MPI_FUNCTIONS(PAVISE_MPI_FIND)
#undef PAVISE_MPI_FIND
  PAVISE_ASSIGN_OR_RETURN(void* const world, find("ompi_mpi_comm_world"));
  library.world = static_cast<MPI_Comm>(world);
  PAVISE_ASSIGN_OR_RETURN(void* const byte, find("ompi_mpi_byte"));
  library.byte = static_cast<MPI_Datatype>(byte);
  PAVISE_ASSIGN_OR_RETURN(void* const errors_return, find("ompi_mpi_errors_return"));
  library.errors_return = static_cast<MPI_Errhandler>(errors_return);
  return library;
}

class MpiRanks final : public RankGroup {
 public:
  explicit MpiRanks(const Library& library) : library_(library) {}
  ~MpiRanks() override {
    if (!is_initialized_) return;
    if (is_broken_ || std::uncaught_exceptions() > 0) {
      library_.MPI_Abort(library_.world, kMachineFailed);
    } else {
      library_.MPI_Finalize();
    }
  }

  absl::Status Initialize(unsigned expected_size) {
    int already = 0;
    PAVISE_RETURN_IF_ERROR(Check("MPI_Initialized", library_.MPI_Initialized(&already)));
    if (already != 0) return MachineFailure("mpi", "somebody in this process uses it already");
    int provided = 0;
    PAVISE_RETURN_IF_ERROR(
        Check("MPI_Init_thread",
              library_.MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided)));
    is_initialized_ = true;
    PAVISE_RETURN_IF_ERROR(
        Check("MPI_Comm_set_errhandler",
              library_.MPI_Comm_set_errhandler(library_.world, library_.errors_return)));
    int rank = -1;
    int size = 0;
    PAVISE_RETURN_IF_ERROR(Check("MPI_Comm_rank", library_.MPI_Comm_rank(library_.world, &rank)));
    PAVISE_RETURN_IF_ERROR(Check("MPI_Comm_size", library_.MPI_Comm_size(library_.world, &size)));
    if (provided < MPI_THREAD_FUNNELED) {
      return internal::NoWayToSpeak("MPI forbids programs that have threads");
    }
    if (rank < 0 || size <= rank || static_cast<unsigned>(size) > kMostRanks) {
      return MachineFailure("mpi", StrCat("says that this is rank ", rank, " of ", size));
    }
    if (expected_size != 0 && static_cast<unsigned>(size) != expected_size) {
      return internal::NoWayToSpeak(
          StrCat("the launcher started ", expected_size, " and the MPI library knows of ", size));
    }
    rank_ = static_cast<unsigned>(rank);
    size_ = static_cast<unsigned>(size);
    return absl::OkStatus();
  }

  unsigned rank() const override { return rank_; }
  unsigned size() const override { return size_; }

  absl::StatusOr<std::vector<Bytes>> AllGather(ByteSpan mine) override {
    if (is_broken_) return MachineFailure("mpi", "failed before");
    absl::StatusOr<std::vector<Bytes>> all = Gather(mine);
    is_broken_ = !all.ok();
    return all;
  }

 private:
  absl::StatusOr<std::vector<Bytes>> Gather(ByteSpan mine) {
    std::vector<Bytes> all(size_);
    all[rank_].assign(mine.begin(), mine.end());
    // One rank after the other speaks to all: its message's length, then the message.
    for (unsigned i = 0; i < size_; ++i) {
      Bytes length;
      AppendLittleEndian64(all[i].size(), length);
      PAVISE_RETURN_IF_ERROR(Broadcast(i, length));
      const uint64_t size_bytes = LoadLittleEndian64(length, 0);
      if (size_bytes > kMostRankMessageBytes) {
        return MachineFailure("mpi", StrCat("rank ", i, " wants to send ", size_bytes, " bytes"));
      }
      all[i].resize(size_bytes);
      PAVISE_RETURN_IF_ERROR(Broadcast(i, all[i]));
    }
    return all;
  }

  absl::Status Broadcast(unsigned root, std::span<uint8_t> bytes) {
    while (!bytes.empty()) {
      const size_t count = std::min<uint64_t>(bytes.size(), kMostBytesACall);
      PAVISE_RETURN_IF_ERROR(Check(
          "MPI_Bcast", library_.MPI_Bcast(bytes.data(), static_cast<int>(count), library_.byte,
                                          static_cast<int>(root), library_.world)));
      bytes = bytes.subspan(count);
    }
    return absl::OkStatus();
  }

  absl::Status Check(std::string_view call, int code) const {
    if (code == MPI_SUCCESS) return absl::OkStatus();
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    const bool is_known = is_initialized_ &&
                          library_.MPI_Error_string(code, text, &length) == MPI_SUCCESS &&
                          length > 0 && length <= MPI_MAX_ERROR_STRING;
    return MachineFailure("mpi", StrCat(call, ": ",
                                        is_known ? std::string(text, static_cast<size_t>(length))
                                                 : StrCat("error ", code)));
  }

  const Library library_;
  bool is_initialized_ = false;
  bool is_broken_ = false;
  unsigned rank_ = 0;
  unsigned size_ = 1;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RankGroup>> JoinLaunchedRanks(const char* library) {
  PAVISE_ASSIGN_OR_RETURN(const unsigned launched, internal::LaunchedRanks());
  if (launched == 1) return nullptr;
  PAVISE_ASSIGN_OR_RETURN(const Library opened, OpenLibrary(library));
  auto ranks = std::make_unique<MpiRanks>(opened);
  PAVISE_RETURN_IF_ERROR(ranks->Initialize(launched));
  return ranks;
}

}  // namespace pavise::loading
