#ifndef PAVISE_BASE_LOG_H_
#define PAVISE_BASE_LOG_H_

#include <string_view>

namespace pavise {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines on standard error, "pavise: warning: ...", made Printable. Thread-safe. Results go to
// standard output and never through here; secrets never come here.
void SetLogLevel(LogLevel lowest_shown);
void Log(LogLevel level, std::string_view message);

}  // namespace pavise

#endif  // PAVISE_BASE_LOG_H_
