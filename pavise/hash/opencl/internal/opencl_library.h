#ifndef PAVISE_HASH_OPENCL_INTERNAL_OPENCL_LIBRARY_H_
#define PAVISE_HASH_OPENCL_INTERNAL_OPENCL_LIBRARY_H_

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <memory>
#include <string>
#include <string_view>

#include "pavise/hash/device.h"
#include "pavise/hash/opencl/opencl_device.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// The OpenCL functions in use, found at run time, so that one program starts with and without
// OpenCL. They are a value, so that tests can put a failing machine in their place.
namespace pavise::hash::opencl {

#define PAVISE_OPENCL_FUNCTIONS(F) \
  F(clGetPlatformIDs)              \
  F(clGetPlatformInfo)             \
  F(clGetDeviceIDs)                \
  F(clGetDeviceInfo)               \
  F(clCreateContext)               \
  F(clRetainContext)               \
  F(clReleaseContext)              \
  F(clCreateCommandQueue)          \
  F(clGetCommandQueueInfo)         \
  F(clRetainCommandQueue)          \
  F(clReleaseCommandQueue)         \
  F(clCreateBuffer)                \
  F(clGetMemObjectInfo)            \
  F(clRetainMemObject)             \
  F(clReleaseMemObject)            \
  F(clCreateProgramWithSource)     \
  F(clBuildProgram)                \
  F(clGetProgramBuildInfo)         \
  F(clReleaseProgram)              \
  F(clCreateKernel)                \
  F(clReleaseKernel)               \
  F(clSetKernelArg)                \
  F(clGetKernelWorkGroupInfo)      \
  F(clEnqueueNDRangeKernel)        \
  F(clEnqueueFillBuffer)           \
  F(clEnqueueReadBuffer)           \
  F(clEnqueueWriteBuffer)          \
  F(clEnqueueCopyBuffer)           \
  F(clGetEventInfo)                \
  F(clReleaseEvent)                \
  F(clFlush)                       \
  F(clFinish)

struct Library {
#define PAVISE_OPENCL_MEMBER(name) decltype(&::name) name = nullptr;
  PAVISE_OPENCL_FUNCTIONS(PAVISE_OPENCL_MEMBER)
#undef PAVISE_OPENCL_MEMBER
};

// Opens the loader of that file name, which stays open as long as the process. kUnsupported where
// there is none; kInternal where it lacks a function.
absl::StatusOr<Library> OpenLibrary(const char* file_name = "libOpenCL.so.1");

// "CL_OUT_OF_RESOURCES (-5)"; the number alone where it has no name here.
std::string ErrorText(cl_int code);
// A machine failure that names the device, the call and the code.
absl::Status Failure(std::string_view device, std::string_view call, cl_int code);

// hash::NewOpenClDevice over these functions, which must stay valid as long as the device.
absl::StatusOr<std::unique_ptr<Device>> NewDevice(const Library& library, unsigned index,
                                                  const OpenClOptions& options);
// hash::WrapOpenClQueue over these functions, in the same way.
absl::StatusOr<std::unique_ptr<Device>> WrapQueue(const Library& library, cl_command_queue queue,
                                                  const OpenClOptions& options);
absl::StatusOr<std::unique_ptr<Buffer>> WrapBuffer(Device& device, cl_mem memory,
                                                   uint64_t size_bytes);
// Every device of every platform, in the order in which "opencl:N" counts.
absl::StatusOr<std::vector<OpenClDeviceInfo>> ListDevices(const Library& library);

}  // namespace pavise::hash::opencl

#endif  // PAVISE_HASH_OPENCL_INTERNAL_OPENCL_LIBRARY_H_
