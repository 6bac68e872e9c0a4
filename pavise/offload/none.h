#ifndef PAVISE_OFFLOAD_NONE_H_
#define PAVISE_OFFLOAD_NONE_H_

#include <memory>

#include "pavise/offload/scheme.h"

namespace pavise::offload {

// The baseline: everything in the clear, on one worker.
std::unique_ptr<Scheme> NewNoneScheme();

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_NONE_H_
