#ifndef PAVISE_OFFLOAD_CUDA_SHARED_LIBRARY_H_
#define PAVISE_OFFLOAD_CUDA_SHARED_LIBRARY_H_

#include <dlfcn.h>

#include <string>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload::cuda {

// A library that this process has already or that the loader finds; never closed, since CUDA's keep
// threads and memory of their own.
class SharedLibrary {
 public:
  // kUnsupported where it is not there.
  static absl::StatusOr<SharedLibrary> Open(const std::string& file_name) {
    void* const handle = dlopen(file_name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) return SharedLibrary(handle, file_name);
    const char* const why = dlerror();
    return Refuse(Reason::kUnsupported, file_name, why == nullptr ? "not found" : why,
                  "install it, or name its folder in LD_LIBRARY_PATH");
  }
  template <typename Function>
  absl::Status Find(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(dlsym(handle_, name));
    if (function != nullptr) return absl::OkStatus();
    return Refuse(Reason::kUnsupported, file_name_, StrCat("it has no ", name),
                  "install the version that Pavise was built for");
  }

 private:
  SharedLibrary(void* handle, std::string file_name)
      : handle_(handle), file_name_(std::move(file_name)) {}
  void* handle_;
  std::string file_name_;
};

}  // namespace pavise::offload::cuda

#endif  // PAVISE_OFFLOAD_CUDA_SHARED_LIBRARY_H_
