#include "pavise/base/log.h"

#include <atomic>
#include <cstdio>
#include <string>

#include "pavise/base/bytes.h"
#include "pavise/base/strings.h"

namespace pavise {
namespace {

std::atomic<LogLevel> lowest_level{LogLevel::kWarning};
constexpr std::string_view kLevelNames[] = {"debug", "info", "warning", "error"};

}  // namespace

void SetLogLevel(LogLevel lowest_shown) { lowest_level = lowest_shown; }

void Log(LogLevel level, std::string_view message) {
  if (level < lowest_level.load()) return;
  const std::string line =
      StrCat("pavise: ", kLevelNames[static_cast<int>(level)], ": ", Printable(message), "\n");
  // One call, so that lines of several threads do not mix.
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace pavise
