#ifndef PAVISE_POLICY_PINNED_FILES_H_
#define PAVISE_POLICY_PINNED_FILES_H_

#include <set>

#include "pavise/base/bytes.h"
#include "pavise/policy/agreement.h"

namespace pavise::policy {

// The digests of all files that an agreement's rules of evidence name: its attachments. Pure.
std::set<Digest32> PinnedFiles(const Agreement& agreement);

}  // namespace pavise::policy

#endif  // PAVISE_POLICY_PINNED_FILES_H_
