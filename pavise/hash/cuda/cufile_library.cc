#include "pavise/hash/cuda/cufile_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string_view>
#include <type_traits>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::hash::cuda {
namespace {

constexpr int kSuccess = 0;  // CU_FILE_SUCCESS
// What one call reads at most; cuFile takes no more than 2 GiB less a page.
constexpr uint64_t kMostBytesPerRead = uint64_t{1} << 30;

// Errors that say what cuFile does not do here, as against one that failed.
bool SaysUnsupported(int code) {
  switch (code) {
    case 5007:  // CU_FILE_PLATFORM_NOT_SUPPORTED
    case 5008:  // CU_FILE_IO_NOT_SUPPORTED
    case 5009:  // CU_FILE_DEVICE_NOT_SUPPORTED
    case 5018:  // CU_FILE_INVALID_FILE_TYPE
    case 5020:  // CU_FILE_DIO_NOT_SET: versions before 1.7 take files opened with O_DIRECT only
      return true;
    default:
      return false;
  }
}

absl::Status Absent(std::string_view why) {
  return Refuse(Reason::kUnsupported, "cuFile", why,
                "read through the host's memory (--gds auto or off)");
}

absl::Status Failure(std::string_view call, const CuFileError& error) {
  std::string detail = StrCat(call, ": error ", error.code);
  if (error.cuda_code != 0) StrAppend(&detail, ", CUDA's ", error.cuda_code);
  return SaysUnsupported(error.code) ? Absent(detail) : MachineFailure("cuFile", detail);
}

}  // namespace

absl::StatusOr<CuFileLibrary> OpenCuFile(const char* file_name) {
  // Never closed: it keeps threads that run its code.
  void* const library = dlopen(file_name, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return Absent(StrCat("this machine has no ", file_name));
  CuFileLibrary functions;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    return function != nullptr;
  };
  if (!find(functions.driver_open, "cuFileDriverOpen") ||
      !find(functions.driver_get_properties, "cuFileDriverGetProperties") ||
      !find(functions.handle_register, "cuFileHandleRegister") ||
      !find(functions.handle_deregister, "cuFileHandleDeregister") ||
      !find(functions.read, "cuFileRead")) {
    return Absent(StrCat(file_name, " lacks functions"));
  }
  return functions;
}

absl::StatusOr<bool> StartCuFile(const CuFileLibrary& library) {
  if (const CuFileError error = library.driver_open(); error.code != kSuccess) {
    return Failure("cuFileDriverOpen", error);
  }
  CuFileProperties properties;
  if (const CuFileError error = library.driver_get_properties(&properties);
      error.code != kSuccess) {
    return Failure("cuFileDriverGetProperties", error);
  }
  return properties.driver_major != 0 || properties.driver_minor != 0;
}

absl::StatusOr<std::unique_ptr<CuFileHandle>> CuFileHandle::Register(const CuFileLibrary& library,
                                                                     int fd) {
  CuFileDescription description;
  description.handle.fd = fd;
  void* handle = nullptr;
  if (const CuFileError error = library.handle_register(&handle, &description);
      error.code != kSuccess) {
    return Failure("cuFileHandleRegister", error);
  }
  return std::unique_ptr<CuFileHandle>(new CuFileHandle(library, handle));
}

CuFileHandle::~CuFileHandle() { library_.handle_deregister(handle_); }

absl::StatusOr<uint64_t> CuFileHandle::Read(uint64_t file_offset_bytes, void* memory,
                                            uint64_t memory_offset_bytes,
                                            uint64_t size_bytes) const {
  constexpr uint64_t kMostOffset = std::numeric_limits<off_t>::max();
  if (file_offset_bytes > kMostOffset || memory_offset_bytes > kMostOffset) {
    return UsageError("cuFile: an offset beyond any file");
  }
  const size_t wanted = std::min(size_bytes, kMostBytesPerRead);
  const ssize_t got = library_.read(handle_, memory, wanted, static_cast<off_t>(file_offset_bytes),
                                    static_cast<off_t>(memory_offset_bytes));
  if (got == -1) {
    return MachineFailure("cuFile", StrCat("cuFileRead: errno ", errno));
  }
  if (got < 0) return MachineFailure("cuFile", StrCat("cuFileRead: error ", -got));
  if (static_cast<size_t>(got) > wanted) {
    return MachineFailure("cuFile", StrCat("cuFileRead says ", got, " bytes, of ", wanted));
  }
  return static_cast<uint64_t>(got);
}

}  // namespace pavise::hash::cuda
