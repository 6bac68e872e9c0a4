#ifndef PAVISE_SIGNING_SIGSTORE_H_
#define PAVISE_SIGNING_SIGSTORE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/x509.h"
#include "pavise/signing/bundle.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// Offline verification of Sigstore keyless signatures from a trusted-root file.
namespace pavise::signing {

struct TransparencyLog {
  crypto::PublicKey key;
  Bytes log_key_id;  // as the file states it
  std::string base_url;
  absl::Time valid_from = absl::InfinitePast();
  absl::Time valid_until = absl::InfiniteFuture();
};

struct CertificateAuthority {
  std::vector<crypto::Certificate> chain;  // issuing CA first, root last
  absl::Time valid_from = absl::InfinitePast();
  absl::Time valid_until = absl::InfiniteFuture();
};

// What a trusted-root file names. The timestamp authorities in it are not read: times come from the
// Rekor log (see VerifySigstoreBundle).
struct SigstoreTrustedRoot {
  std::vector<TransparencyLog> rekor_logs;   // at least one
  std::vector<crypto::CtLog> ct_logs;        // none: no certificate can be accepted
  std::vector<CertificateAuthority> fulcio;  // at least one
};

// The largest trusted-root file that is read.
inline constexpr uint64_t kMaxTrustedRootBytes = uint64_t{4} << 20;

// Reads a trusted root (application/vnd.dev.sigstore.trustedroot+json;version=0.1, or .v0.2+json)
// or a client trust configuration that holds one as `trustedRoot`. Unknown members are ignored: the
// format grows. Those used here are checked in full: keys and certificates must parse, a period
// must not end before it begins, a log's identifier must be its key's SHA-256 (Ed25519 keys, which
// only logs of Rekor v2 have, excepted). A log whose kind of key is unknown here is left out.
// kMalformed, kUnsupported (media type), kLimitExceeded.
absl::StatusOr<SigstoreTrustedRoot> ParseSigstoreTrustedRoot(ByteSpan json, std::string_view item);

// Who signed, as Fulcio saw it.
struct SigstoreIdentity {
  std::string identity;  // the SAN: e-mail, URI or other name
  std::string issuer;    // OIDC issuer (1.3.6.1.4.1.57264.1.8, or the older .1.1)
  absl::Time signed_at;  // Rekor's integrated time
  // The signing certificate, the authorities above it, the root last: what a revocation list is
  // held against. At least two.
  std::vector<crypto::Certificate> chain;
};

// Verifies a keyless signature without a network. In this order:
//  1. the bundle has one certificate and one log entry, of a log in `root`, integrated within the
//     period for which that log is trusted;
//  2. the signed entry timestamp (SET), over body, time, log and index. It is required, since
//     nothing else attests the time, and the certificate lives ten minutes;
//  3. the inclusion proof (RFC 6962, 2.1.1), whose root and size must be those of a checkpoint that
//     the log signed. It is required: bundle v0.3 demands it, and a SET is only a promise;
//  4. the entry's body is about this envelope: SHA-256 of the payload, the signature, the
//     certificate. The envelope hash beside them covers a JSON text that the bundle does not carry,
//     so it cannot be checked; the three others leave nothing of the envelope unbound but the key
//     identifier, which nobody trusts. Kinds: dsse 0.0.1 and intoto 0.0.2;
//  5. the certificate chains to an authority in `root` at the integrated time, within the period
//     for which that authority is trusted, and may sign code (keyUsage digitalSignature, extended
//     usage codeSigning, an ECDSA key on P-256, P-384 or P-521);
//  6. at least one signed certificate timestamp of a log in `root` is embedded in it;
//  7. the signature over the envelope;
//  8. the certificate has exactly one name and one issuer.
// kTransparencyInvalid (1 to 4, 6), kCertificateInvalid (5, 8), kKeyUnsupported (5),
// kSignatureInvalid (7), kUnsupported: another kind of entry, several entries, logs of Rekor v2,
// whose entries get their time from RFC 3161 timestamps. It does not judge *who* signed: compare
// `identity` and `issuer` with those expected.
absl::StatusOr<SigstoreIdentity> VerifySigstoreBundle(const Bundle& bundle,
                                                      const SigstoreTrustedRoot& root);

}  // namespace pavise::signing

#endif  // PAVISE_SIGNING_SIGSTORE_H_
