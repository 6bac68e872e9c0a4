#include "pavise/evidence/appraise/snp/snp_appraiser.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/appraise/der_reader.h"
#include "pavise/evidence/appraise/nettle/p384_signature.h"

namespace pavise::evidence {
namespace {

constexpr char kProductNameOid[] = "1.3.6.1.4.1.3704.1.2";
constexpr char kBootLoaderOid[] = "1.3.6.1.4.1.3704.1.3.1";
constexpr char kTeeOid[] = "1.3.6.1.4.1.3704.1.3.2";
constexpr char kSnpOid[] = "1.3.6.1.4.1.3704.1.3.3";
constexpr char kMicrocodeOid[] = "1.3.6.1.4.1.3704.1.3.8";
constexpr char kFmcOid[] = "1.3.6.1.4.1.3704.1.3.9";
constexpr char kChipIdOid[] = "1.3.6.1.4.1.3704.1.4";
constexpr char kProviderIdOid[] = "1.3.6.1.4.1.3704.1.5";
// Turin's chip identifiers have 8 bytes; the report fills up with zeros.
constexpr size_t kTurinChipIdBytes = 8;

// What AMD says in a VCEK's or VLEK's extensions.
struct SigningCertificate {
  std::string product_name;  // "Milan-B0"; without a stepping in a VLEK
  SnpTcb tcb;
  std::optional<Bytes> chip_id;
  std::optional<std::string> provider_id;
};

absl::StatusOr<Bytes> RequireExtension(const crypto::Certificate& certificate,
                                       const std::string& oid, std::string_view item) {
  std::optional<Bytes> value = certificate.Extension(oid);
  if (!value.has_value()) {
    return Refuse(Reason::kCertificateInvalid, item,
                  StrCat("it has no extension ", oid, ", so it is no VCEK or VLEK of this product"),
                  "give the chip's VCEK or the provider's VLEK from AMD");
  }
  return *std::move(value);
}

absl::StatusOr<uint8_t> ReadSvn(const crypto::Certificate& certificate, const std::string& oid,
                                std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes value, RequireExtension(certificate, oid, item));
  DerReader reader(value, item);
  PAVISE_ASSIGN_OR_RETURN(const uint32_t svn, reader.NextUint(255, StrCat("extension ", oid)));
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  return static_cast<uint8_t>(svn);
}

absl::StatusOr<std::string> ReadText(ByteSpan value, const std::string& oid,
                                     std::string_view item) {
  DerReader reader(value, item);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan text,
                          reader.Next(DerTag::kIa5String, StrCat("extension ", oid)));
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  return Printable(AsText(text));
}

absl::StatusOr<SigningCertificate> ReadSigningCertificate(const crypto::Certificate& certificate,
                                                          SnpProduct product,
                                                          std::string_view item) {
  SigningCertificate result;
  PAVISE_ASSIGN_OR_RETURN(const Bytes name, RequireExtension(certificate, kProductNameOid, item));
  PAVISE_ASSIGN_OR_RETURN(result.product_name, ReadText(name, kProductNameOid, item));
  PAVISE_ASSIGN_OR_RETURN(result.tcb.boot_loader, ReadSvn(certificate, kBootLoaderOid, item));
  PAVISE_ASSIGN_OR_RETURN(result.tcb.tee, ReadSvn(certificate, kTeeOid, item));
  PAVISE_ASSIGN_OR_RETURN(result.tcb.snp, ReadSvn(certificate, kSnpOid, item));
  PAVISE_ASSIGN_OR_RETURN(result.tcb.microcode, ReadSvn(certificate, kMicrocodeOid, item));
  if (product == SnpProduct::kTurin) {
    PAVISE_ASSIGN_OR_RETURN(result.tcb.fmc, ReadSvn(certificate, kFmcOid, item));
  }
  result.chip_id = certificate.Extension(kChipIdOid);  // raw, without a DER header
  if (const std::optional<Bytes> provider = certificate.Extension(kProviderIdOid)) {
    PAVISE_ASSIGN_OR_RETURN(result.provider_id, ReadText(*provider, kProviderIdOid, item));
  }
  return result;
}

// Bergamo and Siena are certified under Genoa's root.
bool IsNameOf(SnpProduct product, std::string_view name) {
  name = name.substr(0, name.find('-'));
  return name == SnpProductName(product) ||
         (product == SnpProduct::kGenoa && (name == "Bergamo" || name == "Siena"));
}

// Appends one check for each of what a report says, held against what is asked.
class ReportChecks {
 public:
  ReportChecks(const SnpReport& report, const SnpExpectations& expectations, CheckList& checks)
      : report_(report), expectations_(expectations), checks_(checks) {}

  void CheckGuest();
  void CheckTcb(SnpProduct product);
  // That the certificate is this chip's, at this TCB.
  void CheckBinding(const SigningCertificate& certificate, SnpProduct product);

 private:
  void Require(bool condition, std::string_view name, Reason reason, std::string_view seen,
               std::string_view detail, std::string_view remedy) {
    if (condition) {
      checks_.Pass(name, seen);
    } else {
      checks_.Fail(name, reason, "SNP report", detail, remedy);
    }
  }

  const SnpReport& report_;
  const SnpExpectations& expectations_;
  CheckList& checks_;
};

void ReportChecks::CheckGuest() {
  const SnpPolicy& policy = report_.policy;
  CheckReportData(report_.report_data, expectations_.report_data, checks_);
  Require(!policy.debug_allowed, "debug", Reason::kPlatformInsecure, "the policy forbids it",
          "the guest's policy allows debugging: the host can read and write its memory",
          "launch the guest with bit 19 of its policy clear");
  Require(expectations_.allow_migration_agent || !policy.migration_agent_allowed, "migration",
          Reason::kPlatformInsecure, policy.migration_agent_allowed ? "allowed" : "forbidden",
          "the guest's policy lets a migration agent take its memory to other machines",
          "launch the guest with bit 18 of its policy clear");
  Require(expectations_.allow_smt || (!policy.smt_allowed && !report_.smt_enabled()), "SMT",
          Reason::kPlatformInsecure, report_.smt_enabled() ? "on" : "off",
          StrCat("simultaneous multithreading is ", report_.smt_enabled() ? "on" : "off", " and ",
                 policy.smt_allowed ? "allowed" : "not allowed", " by the guest's policy"),
          "switch it off in the host's firmware and launch with bit 16 of the policy clear");
  if (expectations_.require_single_socket) {
    Require(policy.single_socket_required, "single socket", Reason::kPlatformInsecure, "required",
            "the guest's policy lets it run on several sockets",
            "launch the guest with bit 20 of its policy set");
  }
  if (expectations_.require_ciphertext_hiding) {
    Require(policy.ciphertext_hiding_required, "ciphertext hiding", Reason::kPlatformInsecure,
            "required", "the guest's policy lets the host read its memory's ciphertext",
            "launch the guest with bit 24 of its policy set");
  }
  Require(report_.vmpl <= expectations_.max_vmpl, "VMPL", Reason::kPlatformInsecure,
          StrCat(report_.vmpl),
          StrCat("requested at privilege level ", report_.vmpl, ", above ", expectations_.max_vmpl,
                 ": less privileged software spoke for the guest"),
          StrCat("request the report at VMPL ", expectations_.max_vmpl, " or below"));
  Require(report_.guest_svn >= expectations_.min_guest_svn, "guest SVN", Reason::kPlatformOutOfDate,
          StrCat(report_.guest_svn),
          StrCat("the guest's security version is ", report_.guest_svn, ", below ",
                 expectations_.min_guest_svn),
          "run a newer image of the guest");
  const auto at_least = [this](uint8_t major, uint8_t minor) {
    return major > expectations_.min_abi_major ||
           (major == expectations_.min_abi_major && minor >= expectations_.min_abi_minor);
  };
  const SnpFirmwareVersion& firmware = report_.committed_firmware;
  const std::string versions = StrCat("policy ", policy.abi_major, ".", policy.abi_minor,
                                      ", committed firmware ", firmware.major, ".", firmware.minor);
  Require(at_least(policy.abi_major, policy.abi_minor) && at_least(firmware.major, firmware.minor),
          "firmware interface", Reason::kPlatformOutOfDate, versions,
          StrCat(versions, "; ", expectations_.min_abi_major, ".", expectations_.min_abi_minor,
                 " is the least accepted"),
          "update the host's SEV firmware and launch with a policy that asks for it");
  CheckAcceptedValue("measurement", report_.measurement, expectations_.measurement, checks_);
  CheckAcceptedValue("host data", report_.host_data, expectations_.host_data, checks_);
  CheckAcceptedValue("ID key digest", report_.id_key_digest, expectations_.id_key_digest, checks_);
  CheckAcceptedValue("author key digest", report_.author_key_digest,
                     expectations_.author_key_digest, checks_);
  CheckAcceptedValue("family ID", report_.family_id, expectations_.family_id, checks_);
  CheckAcceptedValue("image ID", report_.image_id, expectations_.image_id, checks_);
  CheckAcceptedValue("chip ID", report_.chip_id, expectations_.chip_id, checks_);
}

void ReportChecks::CheckTcb(SnpProduct product) {
  const auto floor = expectations_.tcb_floors.find(product);
  if (floor == expectations_.tcb_floors.end()) {
    checks_.Fail("TCB floor", Reason::kPlatformOutOfDate, "SNP report",
                 StrCat("no TCB floor is stated for ", SnpProductName(product)),
                 "state one if the product is accepted");
    return;
  }
  const std::pair<std::string_view, uint64_t> tcbs[] = {{"reported", report_.reported_tcb},
                                                        {"committed", report_.committed_tcb},
                                                        {"current", report_.current_tcb},
                                                        {"launch", report_.launch_tcb}};
  for (const auto& [name, version] : tcbs) {
    const SnpTcb tcb = DecodeTcb(product, version);
    const std::string seen = ShowTcb(product, tcb);
    Require(tcb.IsAtLeast(floor->second), StrCat(name, " TCB"), Reason::kPlatformOutOfDate, seen,
            StrCat("the ", name, " TCB is ", seen, ", below the floor ",
                   ShowTcb(product, floor->second)),
            "update the host's firmware and microcode, commit them, and launch the guest again");
  }
}

void ReportChecks::CheckBinding(const SigningCertificate& certificate, SnpProduct product) {
  Require(
      IsNameOf(product, certificate.product_name) && report_.product.value_or(product) == product,
      "product", Reason::kBindingMismatch, certificate.product_name,
      StrCat("the certificate is for ", certificate.product_name, ", the chain for ",
             SnpProductName(product), ", the report from ",
             report_.product.has_value() ? SnpProductName(*report_.product)
                                         : "a CPU that it does not name"),
      "give the certificates of the machine that made the report");
  const SnpTcb reported = DecodeTcb(product, report_.reported_tcb);
  Require(certificate.tcb == reported, "TCB of the certificate", Reason::kBindingMismatch,
          ShowTcb(product, certificate.tcb),
          StrCat("the certificate is for ", ShowTcb(product, certificate.tcb), ", the report says ",
                 ShowTcb(product, reported)),
          "give the certificate for the reported TCB");
  const bool is_vlek = report_.signing_key == SnpReport::SigningKey::kVlek;
  Require(
      certificate.provider_id.has_value() == is_vlek && certificate.chip_id.has_value() == !is_vlek,
      "kind of key", Reason::kBindingMismatch,
      is_vlek ? StrCat("VLEK of ", certificate.provider_id.value_or("")) : "VCEK",
      StrCat("the report says that a ", is_vlek ? "VLEK" : "VCEK",
             " signed it, and the certificate is none"),
      StrCat("give the ", is_vlek ? "provider's VLEK" : "chip's VCEK"));
  if (is_vlek || !certificate.chip_id.has_value()) return;
  const ByteSpan reported_chip = report_.chip_id;
  const size_t id_bytes =
      product == SnpProduct::kTurin ? kTurinChipIdBytes : report_.chip_id.size();
  const bool same =
      std::ranges::equal(*certificate.chip_id, reported_chip.first(id_bytes)) &&
      std::ranges::all_of(reported_chip.subspan(id_bytes), [](uint8_t byte) { return byte == 0; });
  Require(same, "chip of the certificate", Reason::kBindingMismatch, ToHex(*certificate.chip_id),
          StrCat("the certificate is for chip ", ToHex(*certificate.chip_id), ", the report from ",
                 ToHex(report_.chip_id)),
          "give the VCEK of the chip that made the report");
}

const SnpRoot* FindRoot(const crypto::Certificate& certificate, const std::vector<SnpRoot>& roots) {
  const std::string fingerprint = certificate.Fingerprint();
  const auto found = std::ranges::find(roots, fingerprint, &SnpRoot::fingerprint);
  return found == roots.end() ? nullptr : &*found;
}

struct Chain {
  SnpProduct product;
  std::vector<crypto::Certificate> certificates;  // VCEK or VLEK, ASK or ASVK, ARK
};

absl::StatusOr<Chain> VerifyEndorsements(const SnpEndorsements& endorsements, absl::Time at,
                                         const std::vector<SnpRoot>& roots,
                                         crypto::CertificateMemory* memory) {
  for (const crypto::Certificate& authority : endorsements.authorities) {
    const SnpRoot* root = FindRoot(authority, roots);
    if (root == nullptr) continue;
    PAVISE_ASSIGN_OR_RETURN(std::vector<crypto::Certificate> chain,
                            crypto::VerifyChain(memory, endorsements.signing_certificate,
                                                endorsements.authorities, {authority}, at));
    if (chain.size() != 3) {
      return Refuse(Reason::kCertificateInvalid, "SNP certificate chain",
                    StrCat("it has ", chain.size(), " certificates where VCEK or VLEK, ASK and ARK",
                           " are due"),
                    "give the chip's or the provider's certificate and AMD's chain");
    }
    return Chain{root->product, std::move(chain)};
  }
  return Refuse(Reason::kCertificateInvalid, "SNP certificate chain",
                "none of its certificates is a root of AMD's that Pavise knows",
                "add AMD's ASK and ARK certificates for the product");
}

}  // namespace

const std::vector<SnpRoot>& PinnedSnpRoots() {
  static const std::vector<SnpRoot> roots = {
      {SnpProduct::kMilan, "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"},
      {SnpProduct::kGenoa, "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"},
      {SnpProduct::kTurin, "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"},
  };
  return roots;
}

absl::StatusOr<VerifiedSnpReport> SnpAppraiser::Appraise(ByteSpan bytes,
                                                         const SnpEndorsements& endorsements,
                                                         const SnpExpectations& expectations,
                                                         absl::Time at, CheckList& checks,
                                                         const std::vector<SnpRoot>& roots,
                                                         crypto::CertificateMemory* memory) {
  constexpr std::string_view kItem = "SNP report";
  absl::StatusOr<SnpReport> report = ParseSnpReport(bytes, kItem);
  PAVISE_RETURN_IF_ERROR(checks.Add(
      "report form", report.ok() ? StrCat("version ", report->version) : "", report.status()));
  SnpClaims claims{.report = *report};
  ReportChecks report_checks(claims.report, expectations, checks);

  const absl::StatusOr<Chain> chain = VerifyEndorsements(endorsements, at, roots, memory);
  (void)checks.Add("certificate chain",
                   chain.ok() ? StrCat("to ", chain->certificates.back().subject()) : "",
                   chain.status());
  if (!chain.ok() && !ReasonOf(chain.status()).has_value()) return chain.status();

  const absl::StatusOr<crypto::PublicKey> key = endorsements.signing_certificate.public_key();
  const absl::Status signature =
      !key.ok() ? key.status()
                : VerifyP384(*key, bytes.first(kSnpSignedBytes), report->signature, kItem);
  (void)checks.Add("report signature", "ECDSA P-384 with SHA-384", signature);
  if (!signature.ok() && !ReasonOf(signature).has_value()) return signature;

  report_checks.CheckGuest();
  if (chain.ok()) {
    claims.product = chain->product;
    claims.reported_tcb = DecodeTcb(claims.product, report->reported_tcb);
    claims.committed_tcb = DecodeTcb(claims.product, report->committed_tcb);
    claims.current_tcb = DecodeTcb(claims.product, report->current_tcb);
    claims.launch_tcb = DecodeTcb(claims.product, report->launch_tcb);
    report_checks.CheckTcb(chain->product);
    // AMD publishes lists of the ARK's only: a VCEK is not revoked but outdated by its TCB.
    claims.revocation_checked = !endorsements.revocation_lists.empty();
    if (claims.revocation_checked) {
      const absl::Status revocation = crypto::CheckRevocation(
          {chain->certificates[1], chain->certificates[2]}, endorsements.revocation_lists, at);
      (void)checks.Add("revocation", "the ASK is not on the ARK's list", revocation);
      if (!revocation.ok() && !ReasonOf(revocation).has_value()) return revocation;
    } else {
      checks.Pass("revocation", "not looked at: no revocation list was given");
    }
    const absl::StatusOr<SigningCertificate> certificate = ReadSigningCertificate(
        endorsements.signing_certificate, chain->product, "SNP signing certificate");
    (void)checks.Add("certificate extensions", "of a VCEK or VLEK", certificate.status());
    if (certificate.ok()) {
      report_checks.CheckBinding(*certificate, chain->product);
      claims.provider_id = certificate->provider_id.value_or("");
    }
  }
  PAVISE_RETURN_IF_ERROR(checks.Verdict());
  return VerifiedSnpReport(std::move(claims));
}

}  // namespace pavise::evidence
