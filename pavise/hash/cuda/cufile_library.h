#ifndef PAVISE_HASH_CUDA_CUFILE_LIBRARY_H_
#define PAVISE_HASH_CUDA_CUFILE_LIBRARY_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// GPUDirect Storage: NVIDIA's cuFile library reads files into device memory. It is found at run
// time; the few declarations that are needed of its interface (cuFile API Reference Guide) are
// here, so that no header of it is. They are a value, so that tests can put another machine in
// their place.
namespace pavise::hash::cuda {

// CUfileError_t: a CUfileOpError, and CUDA's own where that is CU_FILE_CUDA_DRIVER_ERROR.
struct CuFileError {
  int code = 0;
  int cuda_code = 0;
};
// CUfileDescr_t.
struct CuFileDescription {
  int type = 1;  // CU_FILE_HANDLE_TYPE_OPAQUE_FD
  union {
    int fd;
    void* pointer;
  } handle = {.pointer = nullptr};
  const void* file_system = nullptr;
};
// CUfileDrvProps_t, of which the beginning is all that is looked at.
struct CuFileProperties {
  unsigned int driver_major = 0;  // of nvidia-fs; 0.0 where that is not loaded
  unsigned int driver_minor = 0;
  unsigned char rest[504] = {};  // more than any version of it has
};

struct CuFileLibrary {
  CuFileError (*driver_open)() = nullptr;
  CuFileError (*driver_get_properties)(CuFileProperties* properties) = nullptr;
  CuFileError (*handle_register)(void** handle, CuFileDescription* description) = nullptr;
  void (*handle_deregister)(void* handle) = nullptr;
  // The number of bytes; -1 with errno set, or the negative of a CUfileOpError.
  ssize_t (*read)(void* handle, void* memory, size_t size_bytes, off_t file_offset_bytes,
                  off_t memory_offset_bytes) = nullptr;
};

// The library, open, which stays so as long as the process. kUnsupported where it is not there or
// lacks a function.
absl::StatusOr<CuFileLibrary> OpenCuFile(const char* file_name = "libcufile.so.0");

// Starts cuFile's driver for this process. Whether nvidia-fs is there, so that bytes bypass the
// host's memory (of file systems that it knows; cuFile itself decides file by file); else cuFile
// stages them ("compatibility mode"). kUnsupported where cuFile has no use for this machine and its
// compatibility mode is off; kInternal for any other failure.
absl::StatusOr<bool> StartCuFile(const CuFileLibrary& library);

// A file that is registered with cuFile. Thread-safe; the descriptor must outlive it.
class CuFileHandle {
 public:
  // kUnsupported for files and file systems that cuFile does not do; kInternal for other failures.
  static absl::StatusOr<std::unique_ptr<CuFileHandle>> Register(const CuFileLibrary& library,
                                                                int fd);
  ~CuFileHandle();
  CuFileHandle(const CuFileHandle&) = delete;
  CuFileHandle& operator=(const CuFileHandle&) = delete;

  // Reads up to `size_bytes` to `memory` + `memory_offset_bytes`, where `memory` is the beginning
  // of an allocation on the current device. The number of bytes, 0 at the file's end. kInternal for
  // a failure, and for a number that was not asked for.
  absl::StatusOr<uint64_t> Read(uint64_t file_offset_bytes, void* memory,
                                uint64_t memory_offset_bytes, uint64_t size_bytes) const;

 private:
  CuFileHandle(const CuFileLibrary& library, void* handle) : library_(library), handle_(handle) {}
  const CuFileLibrary library_;
  void* const handle_;
};

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_CUFILE_LIBRARY_H_
