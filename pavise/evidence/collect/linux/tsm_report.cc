#include "pavise/evidence/collect/linux/tsm_report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string_view>
#include <utility>

#include "pavise/base/file.h"
#include "pavise/base/random.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/evidence/collect/linux/kernel_logs.h"

namespace pavise::evidence {
namespace {

absl::StatusOr<std::string> ReadLine(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, ReadKernelLog(path));
  std::string line(AsText(bytes));
  while (!line.empty() && line.back() == '\n') line.pop_back();
  return line;
}

}  // namespace

absl::StatusOr<TsmReport> CollectTsmReport(const std::array<uint8_t, 64>& report_data,
                                           const std::string& directory) {
  if (access(directory.c_str(), F_OK) != 0) {
    return Refuse(Reason::kUnsupported, directory,
                  "is not there: no confidential guest, a kernel before 6.7, or configfs is not "
                  "mounted",
                  "load tsm and sev-guest or tdx_guest, or leave TEE evidence out");
  }
  std::array<uint8_t, 8> random;
  PAVISE_RETURN_IF_ERROR(SystemRandom().Fill(random));
  const std::string request = StrCat(directory, "/pavise-", ToHex(random));
  if (mkdir(request.c_str(), 0700) != 0) return FromErrno(errno, "creating", request);
  struct Removal {
    const std::string& path;
    ~Removal() { rmdir(path.c_str()); }
  } const removal{request};
  return ReadTsmRequest(report_data, request);
}

absl::StatusOr<TsmReport> ReadTsmRequest(const std::array<uint8_t, 64>& report_data,
                                         const std::string& request) {
  const std::string input = request + "/inblob";
  {
    const FileDescriptor file(open(input.c_str(), O_WRONLY | O_CLOEXEC));
    if (!file.is_open()) return FromErrno(errno, "opening", input);
    // One write: the kernel takes the blob as a whole when the file is closed.
    const ssize_t count = write(file.get(), report_data.data(), report_data.size());
    if (count < 0) return FromErrno(errno, "writing", input);
    if (static_cast<size_t>(count) != report_data.size()) {
      return MachineFailure(input, "took only a part of the request");
    }
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string before, ReadLine(request + "/generation"));
  TsmReport report;
  PAVISE_ASSIGN_OR_RETURN(report.report, ReadKernelLog(request + "/outblob"));
  PAVISE_ASSIGN_OR_RETURN(report.provider, ReadLine(request + "/provider"));
  // Providers without auxiliary data have no such file.
  if (access((request + "/auxblob").c_str(), F_OK) == 0) {
    PAVISE_ASSIGN_OR_RETURN(report.auxiliary, ReadKernelLog(request + "/auxblob"));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string after, ReadLine(request + "/generation"));
  if (before != after) {
    return Refuse(Reason::kFileUnstable, request, "was written to by somebody else meanwhile",
                  "ask again");
  }
  if (report.report.empty()) return MachineFailure(request, "an empty report");
  return report;
}

}  // namespace pavise::evidence
