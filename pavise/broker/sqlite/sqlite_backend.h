#ifndef PAVISE_BROKER_SQLITE_SQLITE_BACKEND_H_
#define PAVISE_BROKER_SQLITE_SQLITE_BACKEND_H_

#include <memory>
#include <string>

#include "pavise/broker/internal/row_backend.h"

#include "absl/status/statusor.h"

namespace pavise::broker {

// A database file of SQLite in WAL mode with synchronous=FULL: one connection writes, others read
// beside it. `path` is made with mode 0600 when absent; `path`.lock keeps other processes out
// (kFileUnstable while one has it open). kContentMismatch: no database, or a damaged one.
absl::StatusOr<std::unique_ptr<internal::RowBackend>> OpenSqlite(const std::string& path);

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_SQLITE_SQLITE_BACKEND_H_
