#include "pavise/offload/scheme_named.h"

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/none.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/shared.h"
#include "pavise/offload/tempo.h"

namespace pavise::offload {

absl::StatusOr<std::shared_ptr<const Scheme>> NewSchemeNamed(std::string_view name) {
  if (name == "none") return NewNoneScheme();
  if (name == "tempo") return NewTempoScheme();
  if (name == "orthogonal") return NewOrthogonalScheme();
  if (name == "shared") return NewSharedScheme();
  return UsageError(StrCat("--scheme: there is no '", name, "'"));
}

}  // namespace pavise::offload
