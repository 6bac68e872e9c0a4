#include "pavise/evidence/appraise/tpm/ek.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "pavise/base/strings.h"

#include "absl/strings/str_join.h"

namespace pavise::evidence {
namespace {

constexpr char kEkUsage[] = "2.23.133.8.1";  // tcg-kp-EKCertificate
constexpr char kAkUsage[] = "2.23.133.8.3";  // tcg-kp-AIKCertificate
// TCG EK Credential Profile 2.5, 3.2.9.
constexpr char kManufacturerOid[] = "2.23.133.2.1";
constexpr char kModelOid[] = "2.23.133.2.2";
constexpr char kVersionOid[] = "2.23.133.2.3";

struct NamedAttribute {
  uint32_t bit;
  std::string_view name;
};
constexpr NamedAttribute kAttributes[] = {
    {kTpmFixedTpm, "fixedTPM"},     {kTpmFixedParent, "fixedParent"},
    {kTpmRestricted, "restricted"}, {kTpmSensitiveDataOrigin, "sensitiveDataOrigin"},
    {kTpmDecrypt, "decrypt"},       {kTpmSign, "sign"},
};

// The attributes that make a private key the TPM's own.
constexpr uint32_t kBound = kTpmFixedTpm | kTpmFixedParent | kTpmSensitiveDataOrigin;

std::string ShowAttributes(uint32_t bits) {
  std::vector<std::string> names;
  for (const NamedAttribute& attribute : kAttributes) {
    if ((bits & attribute.bit) != 0) names.emplace_back(attribute.name);
  }
  return absl::StrJoin(names, ", ");
}

void CheckAttributes(std::string_view check, const TpmPublic& key, uint32_t required,
                     uint32_t forbidden, std::string_view remedy, CheckList& checks) {
  const uint32_t missing = required & ~key.attributes;
  const uint32_t excess = forbidden & key.attributes;
  if (missing == 0 && excess == 0) {
    checks.Pass(check, ShowAttributes(key.attributes));
    return;
  }
  std::string detail;
  if (missing != 0) detail = StrCat("lacks ", ShowAttributes(missing));
  if (excess != 0) {
    StrAppend(&detail, detail.empty() ? "" : "; ", "has ", ShowAttributes(excess));
  }
  checks.Fail(check, Reason::kPlatformInsecure, key.name.empty() ? check : ToHex(key.name), detail,
              remedy);
}

// Keys are enrolled, certified and protected by their names, so a name must be of one key.
void CheckNameAlgorithm(std::string_view check, const TpmPublic& key, CheckList& checks) {
  if (key.name_algorithm == crypto::DigestAlgorithm::kSha1) {
    checks.Fail(check, Reason::kUnsupported, ToHex(key.name), "a name by SHA-1",
                "make the key with a nameAlg of SHA-256 or longer");
  } else {
    checks.Pass(check, ToHex(key.name));
  }
}

bool IsPinned(const crypto::Certificate& certificate) {
  const std::string fingerprint = certificate.Fingerprint();
  return std::any_of(PinnedTpmRoots().begin(), PinnedTpmRoots().end(),
                     [&](const PinnedTpmRoot& root) { return root.fingerprint == fingerprint; });
}

absl::Status CheckNotRevoked(const std::vector<crypto::Certificate>& chain,
                             const std::set<std::string>& revoked) {
  if (revoked.empty()) return absl::OkStatus();
  for (size_t i = 0; i < chain.size(); ++i) {
    bool is_revoked = revoked.contains(chain[i].Fingerprint());
    // The anchor is trusted as it stands among the roots.
    if (!is_revoked && i + 1 < chain.size()) {
      PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey issuer_key, chain[i + 1].public_key());
      PAVISE_ASSIGN_OR_RETURN(const std::string twin, chain[i].TwinFingerprint(issuer_key));
      is_revoked = revoked.contains(twin);
    }
    if (is_revoked) {
      return Refuse(Reason::kRevoked, StrCat("certificate ", chain[i].Fingerprint()),
                    StrCat("of \"", Printable(chain[i].subject()), "\" is on the revocation list"),
                    "use a machine whose TPM is not revoked, or correct the list");
    }
  }
  return absl::OkStatus();
}

// Everything that the certificates of both kinds of key have in common. Recorded in `checks`; the
// identity is whole where nothing failed.
absl::StatusOr<TpmIdentity> AppraiseCertificate(std::string_view kind, const TpmPublic& key,
                                                const crypto::Certificate& certificate,
                                                const std::vector<std::string>& usages,
                                                const TpmTrust& trust, absl::Time at,
                                                crypto::CertificateMemory* memory,
                                                CheckList& checks) {
  const std::string item = StrCat(kind, " certificate ", certificate.SerialHex());
  TpmIdentity identity;
  identity.certificate_fingerprint = certificate.Fingerprint();

  std::vector<crypto::Certificate> roots = trust.roots;
  std::vector<crypto::Certificate> intermediates = trust.sent;
  for (const crypto::Certificate& other : trust.others) {
    (IsPinned(other) ? roots : intermediates).push_back(other);
  }
  absl::StatusOr<std::vector<crypto::Certificate>> chain =
      crypto::VerifyChain(memory, certificate, intermediates, roots, at, /*partial_chain=*/true);
  if (chain.ok() && chain->size() < 2) {
    // An anchor issues certificates of keys; it is none.
    chain = Refuse(Reason::kCertificateInvalid, item, "is itself one of the trusted roots",
                   "send the certificate that the TPM's maker issued for this key");
  }
  if (chain.ok()) {
    identity.root = chain->back().subject();
    identity.root_fingerprint = chain->back().Fingerprint();
    checks.Pass(StrCat(kind, " certificate chain"),
                StrCat(chain->size(), " certificates to \"", Printable(identity.root), "\""));
    PAVISE_RETURN_IF_ERROR(checks.Record(StrCat(kind, " certificate revocation"),
                                         StrCat(trust.revoked.size(), " revoked certificates"),
                                         CheckNotRevoked(*chain, trust.revoked)));
  } else {
    if (!ReasonOf(chain.status()).has_value()) return chain.status();
    for (const Refusal& finding : RefusalsOf(chain.status())) {
      checks.Fail(StrCat(kind, " certificate chain"), finding.reason, finding.item, finding.detail,
                  "give the certificates of the TPM's maker, and its root if you trust it; check "
                  "the clock that they are held against");
    }
  }

  const std::string usage_check = StrCat(kind, " certificate usage");
  const auto stated = certificate.ExtendedKeyUsages();
  if (!stated.ok()) {
    PAVISE_RETURN_IF_ERROR(checks.Record(usage_check, "", stated.status()));
  } else if (!stated->has_value()) {
    checks.Pass(usage_check, "no usage is stated");
  } else if (std::any_of((*stated)->begin(), (*stated)->end(), [&](const std::string& usage) {
               return std::find(usages.begin(), usages.end(), usage) != usages.end();
             })) {
    checks.Pass(usage_check, absl::StrJoin(**stated, ", "));
  } else {
    checks.Fail(usage_check, Reason::kCertificateInvalid, item,
                StrCat("is for ", absl::StrJoin(**stated, ", "), ", not for ",
                       absl::StrJoin(usages, " or ")),
                "send the certificate that the TPM's maker issued for this key");
  }

  const std::string key_check = StrCat(kind, " certificate key");
  const absl::StatusOr<crypto::PublicKey> certified = certificate.public_key();
  if (!certified.ok()) {
    PAVISE_RETURN_IF_ERROR(checks.Record(key_check, "", certified.status()));
  } else if (*certified == key.key) {
    checks.Pass(key_check, StrCat("certifies ", ToHex(key.name)));
  } else {
    checks.Fail(key_check, Reason::kBindingMismatch, item,
                StrCat("certifies another key than ", ToHex(key.name)),
                "send the public area and the certificate of one and the same key");
  }

  const auto names = certificate.DirectoryNameAttributes();
  if (!names.ok()) {
    PAVISE_RETURN_IF_ERROR(checks.Record(StrCat(kind, " certificate names"), "", names.status()));
    return identity;
  }
  for (const auto& [oid, text] : *names) {
    if (oid == kManufacturerOid) identity.manufacturer = text;
    if (oid == kModelOid) identity.model = text;
    if (oid == kVersionOid) identity.version = text;
  }
  return identity;
}

}  // namespace

const std::vector<PinnedTpmRoot>& PinnedTpmRoots() {
  static const auto* const kRoots = new std::vector<PinnedTpmRoot>{
      {"Google Cloud vTPM EK/AK root (tpm_ek_root_1, 2018)",
       "9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf"},
  };
  return *kRoots;
}

void CheckAkAttributes(const TpmPublic& ak, CheckList& checks) {
  CheckNameAlgorithm("AK name", ak, checks);
  constexpr std::string_view kRemedy =
      "make an attestation key in the TPM (restricted, sign, fixedTPM, fixedParent, "
      "sensitiveDataOrigin, not decrypt)";
  CheckAttributes("AK attributes", ak, kBound | kTpmRestricted | kTpmSign, kTpmDecrypt, kRemedy,
                  checks);
  // The TPM demands one of restricted signing keys.
  if (!ak.signing_scheme.has_value()) {
    checks.Fail("AK scheme", Reason::kPlatformInsecure, ToHex(ak.name),
                "an attestation key without a signing scheme", kRemedy);
  }
}

absl::StatusOr<VerifiedEk> EkAppraiser::Appraise(ByteSpan ek_public,
                                                 const crypto::Certificate& certificate,
                                                 const TpmTrust& trust, absl::Time at,
                                                 CheckList& checks) {
  absl::StatusOr<TpmPublic> ek = ParseTpm2bPublic(ek_public, "EK public area");
  PAVISE_RETURN_IF_ERROR(checks.Add("EK public area", "well-formed", ek.status()));
  CheckNameAlgorithm("EK name", *ek, checks);
  CheckAttributes("EK attributes", *ek, kBound | kTpmRestricted | kTpmDecrypt, kTpmSign,
                  "use an endorsement key made from one of TCG's templates", checks);
  if (!ek->symmetric_key_bits.has_value()) {
    checks.Fail("EK cipher", Reason::kPlatformInsecure, ToHex(ek->name),
                "an endorsement key without a cipher for what it protects",
                "use an endorsement key made from one of TCG's templates");
  }
  PAVISE_ASSIGN_OR_RETURN(TpmIdentity tpm, AppraiseCertificate("EK", *ek, certificate, {kEkUsage},
                                                               trust, at, nullptr, checks));
  PAVISE_RETURN_IF_ERROR(checks.Verdict());
  return VerifiedEk(EkClaims{*std::move(ek), std::move(tpm)});
}

absl::StatusOr<VerifiedCertifiedAk> AkCertificateAppraiser::Appraise(
    ByteSpan ak_public, const crypto::Certificate& certificate, const TpmTrust& trust,
    absl::Time at, CheckList& checks, crypto::CertificateMemory* memory) {
  absl::StatusOr<TpmPublic> ak = ParseTpm2bPublic(ak_public, "AK public area");
  PAVISE_RETURN_IF_ERROR(checks.Add("AK public area", "well-formed", ak.status()));
  CheckAkAttributes(*ak, checks);
  PAVISE_ASSIGN_OR_RETURN(
      TpmIdentity tpm,
      AppraiseCertificate("AK", *ak, certificate, {kAkUsage, kEkUsage}, trust, at, memory, checks));
  PAVISE_RETURN_IF_ERROR(checks.Verdict());
  return VerifiedCertifiedAk(CertifiedAkClaims{*std::move(ak), std::move(tpm)});
}

}  // namespace pavise::evidence
