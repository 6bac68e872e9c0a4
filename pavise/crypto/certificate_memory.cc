#include "pavise/crypto/certificate_memory.h"

#include <algorithm>
#include <limits>

#include "pavise/base/status.h"
#include "pavise/crypto/digest.h"

namespace pavise::crypto {
namespace {

// All that VerifyChain's answer depends on but the time. Lengths go first, so that no two lists
// make the same bytes.
absl::StatusOr<Digest32> ChainKey(const Certificate& leaf,
                                  const std::vector<Certificate>& intermediates,
                                  const std::vector<Certificate>& roots, bool partial_chain) {
  Bytes text = {partial_chain};
  const auto append = [&text](const Certificate& certificate) {
    AppendLittleEndian64(certificate.der().size(), text);
    text.insert(text.end(), certificate.der().begin(), certificate.der().end());
  };
  append(leaf);
  for (const std::vector<Certificate>* const list : {&intermediates, &roots}) {
    AppendLittleEndian64(list->size(), text);
    for (const Certificate& certificate : *list) append(certificate);
  }
  return Sha256(text);
}

}  // namespace

absl::StatusOr<std::vector<Certificate>> CertificateMemory::Read(ByteSpan text, Reader reader) {
  if (text.size() > kMaxTextBytes) return reader(text);
  PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, Sha256(text));
  const std::pair key(reader, digest);
  {
    const std::scoped_lock lock(mutex_);
    if (const auto* const kept = texts_.Find(key); kept != nullptr) return *kept;
  }
  PAVISE_ASSIGN_OR_RETURN(std::vector<Certificate> certificates, reader(text));
  const std::scoped_lock lock(mutex_);
  texts_.Keep(key, certificates);
  return certificates;
}

absl::StatusOr<std::vector<Certificate>> CertificateMemory::Verify(
    const Certificate& leaf, const std::vector<Certificate>& intermediates,
    const std::vector<Certificate>& roots, absl::Time at, bool partial_chain) {
  PAVISE_ASSIGN_OR_RETURN(const Digest32 key, ChainKey(leaf, intermediates, roots, partial_chain));
  // Periods are held against whole seconds.
  const int64_t at_seconds = absl::ToUnixSeconds(at);
  {
    const std::scoped_lock lock(mutex_);
    if (const VerifiedChain* const kept = chains_.Find(key);
        kept != nullptr && kept->from_seconds <= at_seconds && at_seconds < kept->until_seconds) {
      return kept->certificates;
    }
  }
  PAVISE_ASSIGN_OR_RETURN(std::vector<Certificate> chain,
                          VerifyChain(leaf, intermediates, roots, at, partial_chain));
  // Time enters the answer by comparisons with these dates alone, also in the choice between two
  // issuers of one name: from the last of them to the next it stays what it is. No time before 1970
  // is ever accepted.
  int64_t from_seconds = 1;
  int64_t until_seconds = std::numeric_limits<int64_t>::max();
  const auto narrow = [&](const Certificate& certificate) {
    for (const absl::Time date : {certificate.not_before(), certificate.not_after()}) {
      const int64_t seconds = absl::ToUnixSeconds(date);
      (seconds <= at_seconds ? from_seconds : until_seconds) =
          seconds <= at_seconds ? std::max(from_seconds, seconds)
                                : std::min(until_seconds, seconds);
    }
  };
  narrow(leaf);
  for (const Certificate& certificate : intermediates) narrow(certificate);
  for (const Certificate& certificate : roots) narrow(certificate);
  const std::scoped_lock lock(mutex_);
  chains_.Keep(key, {chain, from_seconds, until_seconds});
  return chain;
}

absl::StatusOr<std::vector<Certificate>> VerifyChain(CertificateMemory* memory,
                                                     const Certificate& leaf,
                                                     const std::vector<Certificate>& intermediates,
                                                     const std::vector<Certificate>& roots,
                                                     absl::Time at, bool partial_chain) {
  return memory != nullptr ? memory->Verify(leaf, intermediates, roots, at, partial_chain)
                           : VerifyChain(leaf, intermediates, roots, at, partial_chain);
}

}  // namespace pavise::crypto
