#ifndef PAVISE_BROKER_POSTGRESQL_POSTGRESQL_BACKEND_H_
#define PAVISE_BROKER_POSTGRESQL_POSTGRESQL_BACKEND_H_

#include <memory>
#include <string>

#include "pavise/broker/internal/row_backend.h"

#include "absl/status/statusor.h"

namespace pavise::broker {

// A PostgreSQL database (12 or later) by libpq's connection string, in tables "pavise_..." that
// are made when absent. Brokers side by side take turns at writing: an advisory lock is held from
// the beginning of a write transaction to its end. Connections that were lost are made anew; an
// operation that failed so has the code kUnavailable where it had no effect. kUnsupported: a server
// that does not flush what it commits (fsync off).
absl::StatusOr<std::unique_ptr<internal::RowBackend>> OpenPostgresql(const std::string& connection);

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_POSTGRESQL_POSTGRESQL_BACKEND_H_
