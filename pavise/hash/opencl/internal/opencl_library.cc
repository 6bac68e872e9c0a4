#include "pavise/hash/opencl/internal/opencl_library.h"

#include <dlfcn.h>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::hash::opencl {

absl::StatusOr<Library> OpenLibrary(const char* file_name) {
  // Never closed: drivers keep threads that run their code.
  void* handle = dlopen(file_name, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* error = dlerror();
    return Refuse(Reason::kUnsupported, "opencl",
                  StrCat("this machine has no OpenCL loader: ",
                         error == nullptr ? "it cannot be opened" : error),
                  "install it (Debian: ocl-icd-libopencl1) and the driver of the device "
                  "(intel-opencl-icd, mesa-opencl-icd, nvidia-opencl-icd, pocl-opencl-icd)");
  }
  Library library;
#define PAVISE_OPENCL_FIND(name)                                                         \
  library.name = reinterpret_cast<decltype(library.name)>(dlsym(handle, #name));         \
  if (library.name == nullptr) {                                                         \
    return MachineFailure("opencl", StrCat(file_name, " has no function named " #name)); \
  }
  PAVISE_OPENCL_FUNCTIONS(PAVISE_OPENCL_FIND)
#undef PAVISE_OPENCL_FIND
  return library;
}

std::string ErrorText(cl_int code) {
  const char* name = nullptr;
  switch (code) {
#define PAVISE_OPENCL_NAME(code_name) \
  case code_name:                     \
    name = #code_name;                \
    break;
    PAVISE_OPENCL_NAME(CL_DEVICE_NOT_FOUND)
    PAVISE_OPENCL_NAME(CL_DEVICE_NOT_AVAILABLE)
    PAVISE_OPENCL_NAME(CL_COMPILER_NOT_AVAILABLE)
    PAVISE_OPENCL_NAME(CL_MEM_OBJECT_ALLOCATION_FAILURE)
    PAVISE_OPENCL_NAME(CL_OUT_OF_RESOURCES)
    PAVISE_OPENCL_NAME(CL_OUT_OF_HOST_MEMORY)
    PAVISE_OPENCL_NAME(CL_BUILD_PROGRAM_FAILURE)
    PAVISE_OPENCL_NAME(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST)
    PAVISE_OPENCL_NAME(CL_INVALID_VALUE)
    PAVISE_OPENCL_NAME(CL_INVALID_PLATFORM)
    PAVISE_OPENCL_NAME(CL_INVALID_DEVICE)
    PAVISE_OPENCL_NAME(CL_INVALID_CONTEXT)
    PAVISE_OPENCL_NAME(CL_INVALID_COMMAND_QUEUE)
    PAVISE_OPENCL_NAME(CL_INVALID_MEM_OBJECT)
    PAVISE_OPENCL_NAME(CL_INVALID_BUILD_OPTIONS)
    PAVISE_OPENCL_NAME(CL_INVALID_PROGRAM)
    PAVISE_OPENCL_NAME(CL_INVALID_PROGRAM_EXECUTABLE)
    PAVISE_OPENCL_NAME(CL_INVALID_KERNEL_NAME)
    PAVISE_OPENCL_NAME(CL_INVALID_KERNEL)
    PAVISE_OPENCL_NAME(CL_INVALID_ARG_INDEX)
    PAVISE_OPENCL_NAME(CL_INVALID_ARG_VALUE)
    PAVISE_OPENCL_NAME(CL_INVALID_ARG_SIZE)
    PAVISE_OPENCL_NAME(CL_INVALID_KERNEL_ARGS)
    PAVISE_OPENCL_NAME(CL_INVALID_WORK_GROUP_SIZE)
    PAVISE_OPENCL_NAME(CL_INVALID_BUFFER_SIZE)
    PAVISE_OPENCL_NAME(CL_INVALID_GLOBAL_WORK_SIZE)
#undef PAVISE_OPENCL_NAME
    default:
      break;
  }
  return name == nullptr ? StrCat("error ", code) : StrCat(name, " (", code, ")");
}

absl::Status Failure(std::string_view device, std::string_view call, cl_int code) {
  return MachineFailure(device, StrCat(call, ": ", ErrorText(code)));
}

}  // namespace pavise::hash::opencl
