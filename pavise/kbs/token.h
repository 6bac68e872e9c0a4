#ifndef PAVISE_KBS_TOKEN_H_
#define PAVISE_KBS_TOKEN_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/crypto/keys.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::kbs {

// An attestation result as a client or a relying party reads it: an EAR in the names of
// draft-ietf-rats-ear-04 (profile tag:ietf.org,2026:rats/ear#04), or in those of Veraison's and
// Trustee's earlier readers (tag:github.com,2023:veraison/ear): docs/formats/evidence.md.
struct TokenAppraisal {
  std::string status;  // none, affirming, warning, contraindicated
  std::map<std::string, int> trust_vector;
  std::string policy_id;  // may be empty
};
struct TokenClaims {
  std::string profile;
  absl::Time issued_at;
  absl::Time expires;
  std::string status;               // of the whole; "" where the token has none
  Bytes nonce;                      // empty: the token has none
  crypto::PublicKey confirmed_key;  // cnf, or tee-pubkey
  std::map<std::string, TokenAppraisal> parts;
  Json claims;  // all of them
};

// The token's form and times, without its signature: for the one whom the token is about. At most
// 1 MiB. kMalformed, kLimitExceeded; kUnsupported: another profile; kPolicyDenied: expired at
// `now`, or issued more than a minute after it.
absl::StatusOr<TokenClaims> ReadToken(std::string_view token, absl::Time now,
                                      std::string_view item);
// The same of a token that `issuer` signed: as VerifyJwt, then as ReadToken.
absl::StatusOr<TokenClaims> VerifyToken(std::string_view token, const crypto::PublicKey& issuer,
                                        absl::Time now, std::string_view item);

}  // namespace pavise::kbs

#endif  // PAVISE_KBS_TOKEN_H_
