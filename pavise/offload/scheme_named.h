#ifndef PAVISE_OFFLOAD_SCHEME_NAMED_H_
#define PAVISE_OFFLOAD_SCHEME_NAMED_H_

#include <memory>
#include <string_view>

#include "pavise/offload/scheme.h"

#include "absl/status/statusor.h"

namespace pavise::offload {

// The scheme that people call so, with its default options: "none", "tempo", "orthogonal",
// "shared". A usage error for another name.
absl::StatusOr<std::shared_ptr<const Scheme>> NewSchemeNamed(std::string_view name);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_SCHEME_NAMED_H_
