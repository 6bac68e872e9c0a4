#include "pavise/evidence/appraise/ima/ima_prefixes.h"

#include <algorithm>
#include <utility>

#include "pavise/crypto/digest.h"

namespace pavise::evidence {

std::optional<ImaPrefix> ImaPrefixes::Find(const std::string& machine, ByteSpan log) const {
  std::optional<ImaPrefix> prefix;
  {
    const std::scoped_lock lock(mutex_);
    const auto found = kept_.find(machine);
    if (found == kept_.end() || found->second.size_bytes > log.size() ||
        !std::ranges::equal(found->second.begin, log.first(found->second.begin.size()))) {
      return std::nullopt;
    }
    prefix = found->second;
  }
  const auto digest = crypto::Sha256(log.first(prefix->size_bytes));
  if (!digest.ok() || *digest != prefix->digest) return std::nullopt;
  return prefix;
}

void ImaPrefixes::Keep(const std::string& machine, ByteSpan log, ImaState state) {
  const auto digest = crypto::Sha256(log);
  if (!digest.ok()) return;
  const ByteSpan begin = log.first(std::min(log.size(), kBeginBytes));
  ImaPrefix prefix{log.size(), *digest, {begin.begin(), begin.end()}, std::move(state)};
  const std::scoped_lock lock(mutex_);
  // Any will do: what is forgotten costs its machine one whole appraisal.
  if (kept_.size() >= kMaxMachines && !kept_.contains(machine)) kept_.erase(kept_.begin());
  kept_[machine] = std::move(prefix);
}

}  // namespace pavise::evidence
