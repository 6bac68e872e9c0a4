#ifndef PAVISE_EVIDENCE_APPRAISE_NETTLE_P384_SIGNATURE_H_
#define PAVISE_EVIDENCE_APPRAISE_NETTLE_P384_SIGNATURE_H_

#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/crypto/keys.h"

#include "absl/status/status.h"

namespace pavise::evidence {

// Verifies what an SNP processor or a GPU signs: ECDSA on P-384 (FIPS 186-5, 6.4.2) with SHA-384,
// `signature` r || s of 48 bytes each. Answers as key.VerifyAs(kEcdsaRaw, kSha384, ...) of OpenSSL,
// in half of its time: Nettle is asked first, and whatever it does not accept OpenSSL verifies
// again, so that each refusal is OpenSSL's (docs/decisions/0014-verified-chains-are-remembered.md).
// Nothing in it is secret: Nettle's arithmetic need not be of constant time here. Thread-safe.
absl::Status VerifyP384(const crypto::PublicKey& key, ByteSpan message, ByteSpan signature,
                        std::string_view item);

namespace nettle {
// Nettle's answer alone. `point`: x || y; `digest`: of the message. False also for a point that is
// not on the curve, and r or s outside of it.
bool AcceptsP384(ByteSpan point, ByteSpan digest, ByteSpan signature);
}  // namespace nettle

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_NETTLE_P384_SIGNATURE_H_
