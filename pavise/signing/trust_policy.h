#ifndef PAVISE_SIGNING_TRUST_POLICY_H_
#define PAVISE_SIGNING_TRUST_POLICY_H_

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/clock.h"
#include "pavise/base/status.h"
#include "pavise/crypto/keys.h"
#include "pavise/crypto/x509.h"
#include "pavise/signing/bundle.h"
#include "pavise/signing/sigstore.h"
#include "pavise/signing/statement.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// Whom to trust: from the command line's options or a trust file (docs/formats/trust.md).
namespace pavise::signing {

struct TrustedKey {
  crypto::PublicKey key;
};

// A certificate chain that ends in one of `roots`; with `identities`, the leaf's subject, a SAN of
// the identity's kind or (without SANs and name constraints) its common name must equal one of
// them. An identity that begins like a distinguished name ("CN=...", RFC 2253) is compared with the
// subject only, so that a common name that merely spells such a name does not count; a subject with
// several common names has none.
struct TrustedCertificate {
  std::vector<crypto::Certificate> roots;
  std::vector<std::string> identities;
};

struct TrustedSigstore {
  std::shared_ptr<const SigstoreTrustedRoot> root;
  std::string identity;  // exact
  std::string issuer;    // exact
};

struct TrustedSigners {
  std::vector<TrustedKey> keys;
  std::vector<TrustedCertificate> certificates;
  std::vector<TrustedSigstore> sigstore;
};

// One entry of a trust file's `models`.
struct ModelRule {
  std::string model;  // glob over the model name
  TrustedSigners signers;
  uint64_t minimum_version = 0;  // 0: none asked for
};

struct TrustPolicy {
  std::vector<ModelRule> rules;  // the first that matches the model name decides
  // Where the policy comes from; empty: options. With a trust file `expected_model_name` must be
  // set before anything is verified.
  std::string trust_file;
  std::set<std::string> revoked_keys;          // hex SHA-256 of the SubjectPublicKeyInfo
  std::set<std::string> revoked_certificates;  // hex SHA-256 of the DER
  // What the model must be called in its signature. Set with a trust file (where the name chooses
  // the rule, so that a signature of another model cannot stand in); unset with signers given by
  // options.
  std::optional<std::string> expected_model_name;
  // Certificates are judged now. On: a chain that is refused now is judged at its leaf's notBefore
  // (never later than now), as the reference tool does, so that one whose validity is over is
  // accepted, with a warning. Sigstore certificates are always judged when the log took them in.
  bool accept_expired_certificates = false;

  // A policy that trusts `signers` for every model.
  static TrustPolicy ForSigners(TrustedSigners signers);
};

// Reads a trust file and every file it names. Relative paths in it are taken from its own
// directory. The YAML is plain: one document of up to 1 MiB and 16 levels; anchors, aliases and
// tags are refused. Unknown or duplicate keys are refused, so is a rule without signers.
// kMalformed, kUnsupported (version), kLimitExceeded, kKeyUnsupported (a trusted key that cannot
// sign models), kFileUnreadable.
absl::StatusOr<TrustPolicy> LoadTrustPolicy(const std::string& path);
// The same for a text that was read from `path`, or would stand there.
absl::StatusOr<TrustPolicy> ParseTrustPolicy(ByteSpan yaml, const std::string& path);

// Who signed, and by which rule they are trusted.
struct SignerIdentity {
  Method method = Method::kKey;
  std::string key_fingerprint;  // hex SHA-256 of the signing key's SubjectPublicKeyInfo
  std::string name;             // certificate subject, or Sigstore identity; "" for a bare key
  std::string issuer;           // certificate issuer, or OIDC issuer
  std::optional<absl::Time> signed_at;  // where a log attests it
  std::vector<std::string> warnings;    // "the bundle has no key hint", ...
};

// A statement whose signature was verified, by a signer that the policy trusts for this model.
struct SignedStatement {
  Statement statement;
  SignerIdentity signer;
  Digest32 payload_sha256 = {};
};

class StatementVerifier;
using VerifiedStatement = Verified<SignedStatement, StatementVerifier>;

// The only way to a VerifiedStatement. Stateless.
class StatementVerifier {
 public:
  // In this order: a rule for the model; a signer that the rule trusts and nothing revokes; the
  // signature; the statement is parsed; its model name and version. Nothing of an unverified
  // payload is interpreted; key hint and certificates only pick the candidate.
  //
  // Key method: the hint picks among the rule's keys; without one each is tried, with a warning.
  // The key that release 0.3.1 carries is held against the trusted one and never trusted itself.
  // Certificate method: the chain is judged as `policy` says; the leaf may sign models and has an
  // ECDSA key. Revocation counts for every certificate of the chain found, and for their keys.
  // The encoding that release 0.2.0 signed (with SHA-256 on every curve in the certificate method)
  // is accepted for that release's predicate only.
  //
  // kPolicyDenied (no rule for the model, other model name), kSignerUntrusted (no trusted key with
  // this hint; a method the rule does not allow), kKeyMismatch (the same, where one key was given
  // as an option), kKeyUnsupported, kCertificateInvalid, kIdentityMismatch, kTransparencyInvalid,
  // kRevoked, kSignatureInvalid, kVersionTooOld, and the parsers' reasons. Usage error: a trust
  // file without an expected model name. Where several signers are trusted and none accepts, the
  // refusal is that of the signer that came furthest.
  static absl::StatusOr<VerifiedStatement> Verify(const Bundle& bundle, std::string_view item,
                                                  const TrustPolicy& policy, const Clock& clock);
};

}  // namespace pavise::signing

#endif  // PAVISE_SIGNING_TRUST_POLICY_H_
