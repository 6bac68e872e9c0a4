#ifndef PAVISE_LOADING_INTERNAL_LAUNCH_H_
#define PAVISE_LOADING_INTERNAL_LAUNCH_H_

#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::loading::internal {

// How many processes the launcher started beside and with this one, by the environment; 1 without
// one. 0: a launcher did, and does not say. kUnsupported where several were started that cannot
// find each other, or the number is none.
absl::StatusOr<unsigned> LaunchedRanks();

// kUnsupported: several ranks, and no way to speak to them.
absl::Status NoWayToSpeak(std::string_view why);

}  // namespace pavise::loading::internal

#endif  // PAVISE_LOADING_INTERNAL_LAUNCH_H_
