#ifndef PAVISE_CLI_WORK_DIRECTORY_H_
#define PAVISE_CLI_WORK_DIRECTORY_H_

#include <errno.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/status/statusor.h"

namespace pavise::cli {

// A new folder that is removed with all it holds when it goes.
class WorkDirectory {
 public:
  // In `parent`; "": where the process is.
  static absl::StatusOr<std::unique_ptr<WorkDirectory>> Create(const std::string& parent) {
    std::string path = (parent.empty() ? std::string(".") : parent) + "/pavise-bench-XXXXXX";
    if (mkdtemp(path.data()) == nullptr) return FromErrno(errno, "create", path);
    return std::unique_ptr<WorkDirectory>(new WorkDirectory(std::move(path)));
  }
  ~WorkDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  WorkDirectory(const WorkDirectory&) = delete;
  WorkDirectory& operator=(const WorkDirectory&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return StrCat(path_, "/", name); }

 private:
  explicit WorkDirectory(std::string path) : path_(std::move(path)) {}
  const std::string path_;
};

}  // namespace pavise::cli

#endif  // PAVISE_CLI_WORK_DIRECTORY_H_
