#include "pavise/evidence/appraise/machine/machine_appraiser.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "pavise/base/byte_reader.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/evidence/appraise/boot/host_protections.h"
#include "pavise/evidence/appraise/eventlog/event_log_appraiser.h"
#include "pavise/evidence/appraise/ima/ima_appraiser.h"
#include "pavise/evidence/appraise/intel/tdx_event_log.h"
#include "pavise/evidence/appraise/tpm/pcr_json.h"
#include "pavise/evidence/appraise/tpm/quote.h"

namespace pavise::evidence {
namespace {

constexpr PcrBank kBank = PcrBank::kSha256;
constexpr size_t kMostTableEntries = 32;

// What is common to the parts of one appraisal.
struct Session {
  const CompositeEvidence& evidence;
  const AppraisalPolicy& policy;
  const ReferenceValues& references;
  const MachineTrust& trust;
  absl::Time at;
  const ImaPolicy* ima;                     // of the references, or nullptr
  const RecordedTee* recorded;              // nullptr but in tests
  ImaPrefixes* prefixes;                    // accepted under `ima`, or nullptr
  crypto::CertificateMemory* certificates;  // or nullptr
  std::vector<std::string>& unused;
  std::set<std::string>& signed_by;
};

const Bytes* Item(const EvidencePart& part, const std::string& name) {
  const auto found = part.items.find(name);
  return found == part.items.end() ? nullptr : &found->second;
}

// None where the item was not sent.
absl::StatusOr<std::vector<crypto::Certificate>> ReadCertificates(
    const EvidencePart& part, const std::string& name, const Session& session,
    crypto::CertificateMemory::Reader reader) {
  const Bytes* const sent = Item(part, name);
  if (sent == nullptr) return std::vector<crypto::Certificate>();
  return session.certificates != nullptr ? session.certificates->Read(*sent, reader)
                                         : reader(*sent);
}

absl::StatusOr<std::vector<crypto::Certificate>> AkCertificates(ByteSpan pem) {
  return crypto::Certificate::ListFromPem(AsText(pem), "attestation_certificates");
}

// What a TEE must have signed for its guest.
Bytes ReportData(const Digest32& bound, const Session& session, CheckList& checks) {
  if (session.recorded != nullptr && session.recorded->report_data.has_value()) {
    checks.Pass("report data of a test",
                "taken in place of the binding value: neither this challenge, nor this session "
                "key, nor the parts before are bound");
    return *session.recorded->report_data;
  }
  Bytes data(bound.begin(), bound.end());
  data.resize(64, 0);
  return data;
}

// ---- TPM ----

constexpr uint32_t kLinuxRegister = 9;  // what Linux's EFI stub got: its command line, the initrd
constexpr uint32_t kOverrideRegister =
    12;  // lines and credentials beside those in the kernel image

// The command lines that the kernel got must be known word by word, and hold what protects a host.
// Labels of events are not measured, so what they say does not count:
// - PCR 2, 3, 4, 9, 11, 12 and 13 need reference values, which AppraiseBoot compares: no option ROM
//   ran before, the kernel image is an approved one and no register holds more than its owner
//   predicted.
// - Linux's EFI stub measures the line that it got in PCR 9, whoever started it, and the initrd.
//   Exactly one digest there must be of a known text (listed, or proven by the log), whatever its
//   label: that is the line, and is held against the protections. None: the line is unknown. Two:
//   it cannot be told which.
// - Every event of PCR 12 must be a known text too, and hold the protections.
// Other registers say nothing here: an approved kernel image measures no line in them, and root may
// extend them with any.
void CheckProtections(const VerifiedEventLog& boot, const PcrValues& quoted, const Session& session,
                      CheckList& checks) {
  constexpr std::string_view kName = "host protections";
  const auto listed = session.references.registers.find(boot->bank);
  for (const uint32_t index : {2u, 3u, 4u, kLinuxRegister, 11u, kOverrideRegister, 13u}) {
    if (listed == session.references.registers.end() || !listed->second.contains(index)) {
      checks.Fail(kName, Reason::kPolicyDenied, PcrName(boot->bank, index),
                  "has no reference value, so that the command line could be another one",
                  "add the reference values of the host's image to the policy, or switch "
                  "host_protections off there");
      return;
    }
  }
  for (const uint32_t index : {kLinuxRegister, kOverrideRegister}) {
    const Bytes* const value = quoted.Get(boot->bank, index);
    if (!boot->registers.contains(index) &&
        (value == nullptr || *value != InitialPcrValue(boot->bank, index))) {
      checks.Fail(kName, Reason::kEvidenceMissing, PcrName(boot->bank, index),
                  "is not quoted, or the log does not replay to it",
                  "quote it, and send the whole event log");
    }
  }
  std::vector<std::string> lines;
  const auto look_at = [&](uint32_t index, const Bytes& digest,
                           const std::optional<std::string>& proven) {
    const std::optional<std::string> text =
        proven.has_value() ? proven : ListedText(digest, boot->bank, session.references);
    if (index == kLinuxRegister && text.has_value()) lines.push_back(*text);
    if (index != kOverrideRegister) return;
    if (text.has_value()) {
      CheckHostProtections(*text, session.policy.tpm.protection_exceptions, checks);
      return;
    }
    checks.Fail(kName, Reason::kMeasurementUnknown, PcrName(boot->bank, index),
                StrCat("holds ", ToHex(digest), ", which may be a command line of unknown text"),
                "add its text to the reference values (command_lines)");
  };
  for (const CommandLine& line : boot->command_lines) {
    look_at(line.register_index, line.digest, line.text);
  }
  for (const NamedMeasurement& measurement : boot->measurements) {
    look_at(measurement.register_index, measurement.digest, std::nullopt);
  }
  if (lines.size() == 1) {
    CheckHostProtections(lines[0], session.policy.tpm.protection_exceptions, checks);
  } else {
    checks.Fail(kName, Reason::kMeasurementUnknown, "kernel command line",
                StrCat(PcrName(boot->bank, kLinuxRegister), " holds ", lines.size(),
                       " command lines of known text, where one is expected"),
                "start a unified kernel image, and add the text of its command line to the "
                "reference values (command_lines)");
  }
}

constexpr std::string_view kImaLog = "IMA log";

// The entries after `prefix`, or all of them.
absl::StatusOr<VerifiedImaLog> AppraiseImaEntries(ByteSpan bytes, const ImaPrefix& prefix,
                                                  const VerifiedQuote& quote,
                                                  const ImaPolicy& policy, ImaState& state,
                                                  CheckList& checks) {
  // Of the log, not of its end.
  ImaLogLimits limits;
  limits.max_bytes -= prefix.size_bytes;
  limits.max_entries -= prefix.state.entries();
  const absl::StatusOr<ImaLog> log =
      ParseImaLog(bytes.subspan(prefix.size_bytes), ImaForm::kLittleEndian, kImaLog, limits);
  PAVISE_RETURN_IF_ERROR(checks.Add("IMA log form", "", log.status()));
  state = prefix.state;
  return ImaAppraiser::Appraise(*log, kBank, quote->pcrs, policy, kImaLog, state, checks);
}

absl::StatusOr<VerifiedImaLog> AppraiseImaLog(ByteSpan bytes, const VerifiedQuote& quote,
                                              const ImaPolicy& policy, ImaPrefixes* prefixes,
                                              ImaState& state, CheckList& checks) {
  if (prefixes == nullptr) return AppraiseImaEntries(bytes, {}, quote, policy, state, checks);
  const std::string machine = ToHex(quote->ak.name);
  // A log that goes on behind the quote is not kept: where the quote's entries end is not known.
  const auto keep = [&](const VerifiedImaLog& measured) {
    if (measured->later_entries == 0) prefixes->Keep(machine, bytes, state);
  };
  if (const auto prefix = prefixes->Find(machine, bytes); prefix.has_value()) {
    CheckList attempt = checks;
    auto added = AppraiseImaEntries(bytes, *prefix, quote, policy, state, attempt);
    if (added.ok()) {
      checks = std::move(attempt);
      if (prefix->size_bytes != bytes.size()) keep(*added);
      return added;
    }
  }
  auto whole = AppraiseImaEntries(bytes, {}, quote, policy, state, checks);
  if (whole.ok()) keep(*whole);
  return whole;
}

absl::Status AppraiseLogs(const EvidencePart& part, const VerifiedQuote& quote,
                          const Session& session, PartClaims& claims, CheckList& checks) {
  const TpmRules& rules = session.policy.tpm;
  const Bytes* const event_log = Item(part, "event_log");
  if (rules.event_log && event_log == nullptr) {
    checks.Fail("event log", Reason::kEvidenceMissing, "event log", "was not sent",
                "collect it (pavise attest), or allow its absence in the policy");
  }
  std::optional<VerifiedEventLog> boot;
  if (event_log != nullptr) {
    const absl::StatusOr<EventLog> log = ParseEventLog(*event_log, "event log");
    PAVISE_RETURN_IF_ERROR(checks.Record("event log form", "", log.status()));
    if (log.ok()) {
      EventLogRequest request;
      request.bank = kBank;
      if (const auto quoted = quote->pcrs.banks().find(kBank);
          quoted != quote->pcrs.banks().end()) {
        std::erase_if(request.required,
                      [&](uint32_t index) { return !quoted->second.contains(index); });
      }
      const absl::StatusOr<VerifiedEventLog> verified =
          EventLogAppraiser::Appraise(*log, request, quote->pcrs, "event log", checks);
      if (!verified.ok() && !ReasonOf(verified.status()).has_value()) return verified.status();
      if (verified.ok()) boot = *verified;
    }
  }
  // A log that was sent and refused has its findings already.
  if (boot.has_value() || event_log == nullptr) {
    for (std::string& unused : AppraiseBoot(boot.has_value() ? &*boot : nullptr, quote->pcrs,
                                            session.references, checks)) {
      session.unused.push_back(std::move(unused));
    }
  }
  // Whether what was started is known; with any check failed, no claim is made at all.
  const auto listed = session.references.registers.find(kBank);
  const bool is_boot_listed =
      boot.has_value() &&
      (!session.references.images.empty() ||
       (listed != session.references.registers.end() && listed->second.contains(4)));
  if (boot.has_value()) {
    if (rules.host_protections) CheckProtections(*boot, quote->pcrs, session, checks);
    if ((*boot)->secure_boot.has_value()) {
      claims.claims["secure_boot"] = *(*boot)->secure_boot;
    }
    Json images = Json::array();
    for (const BootImage& image : (*boot)->images) images.push_back(ToHex(image.digest));
    claims.claims["boot_images"] = std::move(images);
    if (rules.host_protections && is_boot_listed) claims.trust.configuration = 2;
  }
  const Bytes* const ima_log = Item(part, "ima_log");
  if (rules.ima && ima_log == nullptr) {
    checks.Fail("IMA log", Reason::kEvidenceMissing, "IMA log", "was not sent",
                "collect it (pavise attest), or allow its absence in the policy");
  }
  if (ima_log != nullptr && rules.ima) {
    std::optional<ImaPolicy> own;
    if (session.ima == nullptr) {
      absl::StatusOr<ImaPolicy> made = ImaPolicyOf(session.references);
      PAVISE_RETURN_IF_ERROR(checks.Record("IMA rules", "", made.status()));
      if (made.ok()) own = *std::move(made);
    }
    const ImaPolicy* const ima = session.ima != nullptr ? session.ima : own ? &*own : nullptr;
    if (ima == nullptr) return absl::OkStatus();
    ImaState state;
    const absl::StatusOr<VerifiedImaLog> measured =
        AppraiseImaLog(*ima_log, quote, *ima, session.prefixes, state, checks);
    if (!measured.ok() && !ReasonOf(measured.status()).has_value()) return measured.status();
    if (measured.ok()) {
      for (std::string& unused : state.UnusedRules(*ima)) {
        session.unused.push_back(std::move(unused));
      }
      claims.claims["ima_entries"] = (*measured)->entries;
      claims.claims["ima_later_entries"] = (*measured)->later_entries;
      claims.claims["ima_excluded"] = (*measured)->excluded;
      // Recognised at start and while running. What an unknown kernel measured says nothing.
      if (is_boot_listed) claims.trust.executables = 3;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PartClaims> AppraiseTpm(const EvidencePart& part, const Digest32& bound,
                                       const Session& session, CheckList& checks) {
  const TpmRules& rules = session.policy.tpm;
  QuoteEvidence evidence;
  evidence.ak_public = part.items.at("attestation_key");
  evidence.quote = part.items.at("quote");
  evidence.signature = part.items.at("signature");
  absl::StatusOr<PcrValues> pcrs = ParsePcrValues(part.items.at("pcr_values"), "PCR values");
  PAVISE_RETURN_IF_ERROR(checks.Add("PCR values", "", pcrs.status()));
  evidence.pcrs = *std::move(pcrs);

  QuoteExpectation expected;
  expected.nonce.assign(bound.begin(), bound.end());
  expected.pcrs = rules.registers;
  expected.pinned_ak_names = rules.attestation_keys;
  // Cloud providers certify attestation keys; others enrol them, which pins their names.
  std::optional<VerifiedCertifiedAk> certified;
  const absl::StatusOr<std::vector<crypto::Certificate>> certificates =
      ReadCertificates(part, "attestation_certificates", session, AkCertificates);
  PAVISE_RETURN_IF_ERROR(checks.Add("AK certificates", "", certificates.status()));
  if (!certificates->empty() && rules.attestation_keys.empty()) {
    TpmTrust trust = session.trust.tpm;
    auto& kind = rules.accept_pinned_roots ? trust.others : trust.sent;
    kind.insert(kind.end(), certificates->begin() + 1, certificates->end());
    absl::StatusOr<VerifiedCertifiedAk> ak = AkCertificateAppraiser::Appraise(
        evidence.ak_public, certificates->front(), trust, session.at, checks, session.certificates);
    if (!ak.ok()) return ak.status();
    certified = *std::move(ak);
    expected.certified = &*certified;
  }
  PAVISE_ASSIGN_OR_RETURN(const VerifiedQuote quote,
                          QuoteAppraiser::Appraise(evidence, expected, checks));
  PartClaims claims;
  claims.kind = PartKind::kTpm;
  claims.label = "tpm";
  claims.bound = bound;
  claims.machine_ids = {StrCat("ak:", ToHex(quote->ak.name))};
  claims.claims = {{"attestation_key", ToHex(quote->ak.name)},
                   {"attestation_key_bound_to", std::string(AkBindingName(quote->ak_bound_to))},
                   {"reset_count", quote->clock.reset_count},
                   {"restart_count", quote->clock.restart_count}};
  if (quote->tpm.has_value()) {
    claims.claims["tpm_manufacturer"] = quote->tpm->manufacturer;
    claims.claims["tpm_root"] = quote->tpm->root;
    claims.machine_ids.push_back(StrCat("tpm:", quote->tpm->certificate_fingerprint));
  }
  if (quote->ak_bound_to != AkBinding::kNone) {
    checks.Pass("AK binding", AkBindingName(quote->ak_bound_to));
    claims.trust.instance_identity = 2;
    claims.trust.hardware = 2;
  } else if (rules.allow_unbound_key) {
    checks.Pass("AK binding", "none: anybody's key may have signed, and the policy allows it");
    claims.trust.instance_identity = 32;
  } else {
    checks.Fail("AK binding", Reason::kBindingMismatch,
                StrCat("attestation key ", ToHex(quote->ak.name)),
                "is none that the owners enrolled, and nothing certifies it",
                "enrol the machine, and add the key's name to attestation_keys in the policy");
  }
  if (quote->ak_bound_to != AkBinding::kNone) {
    session.signed_by.insert(claims.machine_ids.begin(), claims.machine_ids.end());
  }
  PAVISE_RETURN_IF_ERROR(AppraiseLogs(part, quote, session, claims, checks));
  PAVISE_RETURN_IF_ERROR(checks.Verdict());
  return claims;
}

// ---- TEE ----

// The certificate table that an SNP host gives its guest (GHCB specification 2.03, 4.1.8.1):
// entries of a GUID, offset and length, ended by a zero GUID. What a certificate is says the
// certificate.
absl::StatusOr<std::vector<crypto::Certificate>> CertificateTable(ByteSpan table) {
  constexpr std::string_view kItem = "SNP certificate table";
  std::vector<crypto::Certificate> certificates;
  ByteReader reader(table, kItem);
  for (size_t i = 0; i < kMostTableEntries; ++i) {
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan guid, reader.Take(16, "GUID"));
    PAVISE_ASSIGN_OR_RETURN(const uint32_t offset, reader.LittleEndian32("offset"));
    PAVISE_ASSIGN_OR_RETURN(const uint32_t size_bytes, reader.LittleEndian32("length"));
    if (std::all_of(guid.begin(), guid.end(), [](uint8_t byte) { return byte == 0; })) {
      return certificates;
    }
    if (uint64_t{offset} + size_bytes > table.size()) {
      return reader.Malformed("an entry lies beyond the table");
    }
    PAVISE_ASSIGN_OR_RETURN(crypto::Certificate certificate,
                            crypto::Certificate::FromDer(table.subspan(offset, size_bytes), kItem));
    certificates.push_back(std::move(certificate));
  }
  return reader.Malformed("more than 32 entries");
}

absl::StatusOr<std::vector<crypto::Certificate>> SnpCertificates(ByteSpan sent) {
  return AsText(sent).starts_with("-----BEGIN ")
             ? crypto::Certificate::ListFromPem(AsText(sent), "SNP certificates")
             : CertificateTable(sent);
}

absl::StatusOr<PartClaims> AppraiseSnp(const EvidencePart& part, const Digest32& bound,
                                       const Session& session, CheckList& checks) {
  std::vector<crypto::Certificate> certificates = session.trust.amd;
  const absl::StatusOr<std::vector<crypto::Certificate>> sent =
      ReadCertificates(part, "certificates", session, SnpCertificates);
  if (Item(part, "certificates") != nullptr) {
    PAVISE_RETURN_IF_ERROR(checks.Add("SNP certificates", "", sent.status()));
  }
  // What was sent comes first: the trust folder may hold another chip's key.
  certificates.insert(certificates.begin(), sent->begin(), sent->end());
  const auto leaf = std::find_if(certificates.begin(), certificates.end(),
                                 [](const crypto::Certificate& certificate) {
                                   const std::string subject = certificate.subject();
                                   return subject.find("SEV-VCEK") != std::string::npos ||
                                          subject.find("SEV-VLEK") != std::string::npos;
                                 });
  if (leaf == certificates.end()) {
    checks.Fail("SNP certificates", Reason::kEvidenceMissing, "VCEK or VLEK certificate",
                "was neither sent nor is it in the trust folder",
                "fetch it from AMD's key distribution service for this chip and TCB");
    return checks.Verdict();
  }
  SnpEndorsements endorsements{.signing_certificate = *leaf,
                               .authorities = {},
                               .revocation_lists = session.trust.amd_revocation_lists};
  for (const crypto::Certificate& certificate : certificates) {
    if (certificate.der() != leaf->der()) endorsements.authorities.push_back(certificate);
  }
  SnpExpectations expectations = session.policy.snp;
  expectations.report_data = ReportData(bound, session, checks);
  PAVISE_ASSIGN_OR_RETURN(
      const VerifiedSnpReport report,
      SnpAppraiser::Appraise(
          part.items.at("report"), endorsements, expectations, session.at, checks,
          session.recorded != nullptr ? session.recorded->snp_roots : PinnedSnpRoots(),
          session.certificates));
  PartClaims claims;
  claims.kind = PartKind::kTee;
  claims.label = "tee";
  claims.bound = bound;
  // Hosts may hide the chip's ID (MaskChipId): zero is nobody's, and joins no two parts.
  if (const auto& id = report->report.chip_id;
      std::any_of(id.begin(), id.end(), [](uint8_t byte) { return byte != 0; })) {
    claims.machine_ids = {StrCat("snp:", ToHex(id))};
  }
  claims.claims = {{"kind", "AMD SEV-SNP"},
                   {"product", std::string(SnpProductName(report->product))},
                   {"measurement", ToHex(report->report.measurement)},
                   {"host_data", ToHex(report->report.host_data)},
                   {"vmpl", report->report.vmpl},
                   {"reported_tcb", ShowTcb(report->product, report->reported_tcb)},
                   {"revocation_checked", report->revocation_checked}};
  claims.trust.instance_identity = 2;
  claims.trust.hardware = 2;
  claims.trust.runtime_opaque = 2;
  if (expectations.measurement.has_value()) claims.trust.executables = 3;
  return claims;
}

absl::StatusOr<PartClaims> AppraiseIntel(const EvidencePart& part, const Digest32& bound,
                                         const Session& session, CheckList& checks) {
  const bool is_tdx = part.format == "intel-tdx";
  IntelExpectations expectations = session.policy.intel;
  expectations.report_data = ReportData(bound, session, checks);
  expectations.accept_tdx = is_tdx;
  expectations.accept_sgx = !is_tdx;
  PAVISE_ASSIGN_OR_RETURN(
      const VerifiedIntelQuote quote,
      IntelQuoteAppraiser::Appraise(
          part.items.at("quote"), is_tdx ? session.trust.tdx : session.trust.sgx, expectations,
          session.at, checks,
          session.recorded != nullptr ? session.recorded->intel_root_fingerprint
                                      : kIntelRootFingerprint,
          session.certificates));
  PartClaims claims;
  claims.kind = PartKind::kTee;
  claims.label = "tee";
  claims.bound = bound;
  claims.machine_ids = {StrCat("intel:", ToHex(quote->platform.ppid))};
  claims.claims = {{"kind", is_tdx ? "Intel TDX" : "Intel SGX"},
                   {"fmspc", ToHex(quote->platform.fmspc)},
                   {"platform_status", std::string(IntelTcbStatusName(quote->platform_tcb.status))},
                   {"tcb_evaluation_data_number", quote->tcb_evaluation_data_number}};
  claims.trust.instance_identity = 2;
  claims.trust.hardware = 2;
  claims.trust.runtime_opaque = 2;
  if (const auto* const td = std::get_if<TdReportBody>(&quote->quote.body)) {
    claims.claims["mr_td"] = ToHex(td->mr_td);
    Json registers = Json::array();
    for (const auto& value : td->rtmr) registers.push_back(ToHex(value));
    claims.claims["rtmr"] = std::move(registers);
    if (expectations.td.mr_td.has_value()) claims.trust.executables = 3;
  }
  if (const auto* const enclave = std::get_if<SgxReportBody>(&quote->quote.body)) {
    claims.claims["mr_enclave"] = ToHex(enclave->mr_enclave);
    claims.claims["mr_signer"] = ToHex(enclave->mr_signer);
    if (expectations.sgx.mr_enclave.has_value()) claims.trust.executables = 3;
  }
  if (const Bytes* const log = Item(part, "event_log"); log != nullptr) {
    const absl::StatusOr<VerifiedEventLog> boot = AppraiseTdxEventLog(*log, quote, checks);
    if (!boot.ok()) return boot.status();
    if ((*boot)->secure_boot.has_value()) claims.claims["secure_boot"] = *(*boot)->secure_boot;
  }
  return claims;
}

// ---- GPU ----

absl::StatusOr<std::vector<crypto::Certificate>> GpuCertificates(ByteSpan pem) {
  return crypto::Certificate::ListFromPem(AsText(pem), "certificates");
}

absl::StatusOr<PartClaims> AppraiseGpu(const EvidencePart& part, const Digest32& bound,
                                       const std::string& label, const Session& session,
                                       CheckList& checks) {
  const absl::StatusOr<std::vector<crypto::Certificate>> certificates =
      ReadCertificates(part, "certificates", session, GpuCertificates);
  PAVISE_RETURN_IF_ERROR(checks.Add("GPU certificates", "", certificates.status()));
  const GpuEvidence evidence{part.items.at("report"), *certificates};
  // The manifests of the versions that the report names; of none, the first says what is wrong.
  std::optional<VerifiedGpu> accepted;
  std::optional<CheckList> first;
  const std::vector<Bytes> none(1);
  const auto& drivers = session.trust.driver_rims.empty() ? none : session.trust.driver_rims;
  const auto& vbioses = session.trust.vbios_rims.empty() ? none : session.trust.vbios_rims;
  for (const Bytes& driver : drivers) {
    for (const Bytes& vbios : vbioses) {
      CheckList attempt;
      absl::StatusOr<VerifiedGpu> gpu =
          GpuAppraiser::Appraise(evidence, {driver, vbios}, bound, session.at, session.trust.gpu,
                                 attempt, session.certificates);
      if (!gpu.ok() && !ReasonOf(gpu.status()).has_value()) return gpu.status();
      if (!first.has_value() || gpu.ok()) first = attempt;
      if (gpu.ok()) accepted = *std::move(gpu);
      if (accepted.has_value()) break;
    }
    if (accepted.has_value()) break;
  }
  checks = *first;
  if (!accepted.has_value()) return checks.Verdict();
  return FromGpu(*accepted, label, checks);
}

absl::StatusOr<PartClaims> AppraisePart(const EvidencePart& part, PartKind kind,
                                        const Digest32& bound, const std::string& label,
                                        const Session& session, CheckList& checks) {
  if (kind == PartKind::kGpu) return AppraiseGpu(part, bound, label, session, checks);
  if (kind == PartKind::kTpm) return AppraiseTpm(part, bound, session, checks);
  if (part.format == "amd-sev-snp") return AppraiseSnp(part, bound, session, checks);
  return AppraiseIntel(part, bound, session, checks);
}

}  // namespace

absl::StatusOr<ImaPolicy> ImaPolicyOf(const ReferenceValues& references) {
  PAVISE_ASSIGN_OR_RETURN(const ImaRules rules, ImaRulesOf(references));
  return ImaPolicy::Create(rules);
}

MachineAppraisal AppraiseMachine(const CompositeEvidence& evidence, const AppraisalPolicy& policy,
                                 const ReferenceValues& references, const MachineTrust& trust,
                                 const Digest32& nonce, absl::Time at, const ImaPolicy* ima,
                                 const RecordedTee* recorded, ImaPrefixes* prefixes,
                                 crypto::CertificateMemory* certificates) {
  MachineAppraisal result;
  result.status = CheckForm(evidence);
  if (!result.status.ok()) return result;
  // Of another challenge it is no word on this one.
  std::set<std::string> of_another;
  const Session session{evidence,
                        policy,
                        references,
                        trust,
                        at,
                        ima,
                        recorded,
                        prefixes,
                        certificates,
                        result.unused,
                        evidence.nonce == nonce ? result.signed_by : of_another};
  std::vector<PartClaims> parts;
  std::vector<Digest32> collected;
  std::vector<Refusal> findings;
  std::vector<ReportSection> refused;
  size_t gpus = 0;
  for (const EvidencePart& part : evidence.parts) {
    const absl::StatusOr<PartKind> kind = KindOf(part);
    if (!kind.ok()) {
      result.status = kind.status();
      return result;
    }
    const absl::StatusOr<Digest32> bound =
        BindingValue(*kind, evidence.nonce, evidence.session_key, collected);
    // The parts behind this one are bound to it.
    const bool is_last = &part == &evidence.parts.back();
    const absl::StatusOr<Digest32> digest = is_last ? Digest32{} : PartDigest(part);
    if (!bound.ok() || !digest.ok()) {
      result.status = bound.ok() ? digest.status() : bound.status();
      return result;
    }
    const std::string label =
        *kind == PartKind::kGpu ? StrCat("gpu", gpus++) : std::string(PartKindName(*kind));
    CheckList checks;
    absl::StatusOr<PartClaims> claims = AppraisePart(part, *kind, *bound, label, session, checks);
    collected.push_back(*digest);
    if (claims.ok()) {
      claims->checks = checks.checks();
      parts.push_back(*std::move(claims));
      continue;
    }
    std::vector<Refusal> refusals = RefusalsOf(claims.status());
    if (refusals.empty()) {
      result.status = claims.status();
      return result;
    }
    findings.insert(findings.end(), refusals.begin(), refusals.end());
    refused.push_back({label, {{"status", "refused"}}, checks.checks()});
  }
  if (!findings.empty()) {
    for (const PartClaims& part : parts) {
      result.sections.push_back({part.label, {{"status", "by itself sound"}}, part.checks});
    }
    result.sections.insert(result.sections.end(), refused.begin(), refused.end());
    result.status = Refuse(std::move(findings));
    return result;
  }
  CheckList checks;
  absl::StatusOr<VerifiedComposite> composite =
      CompositeAppraiser::Appraise(evidence, parts, nonce, policy.composite, at, checks);
  result.status = composite.status();
  if (composite.ok()) {
    result.sections = ReportOf(*composite);
    result.accepted = *std::move(composite);
    return result;
  }
  result.sections.push_back({"machine", {{"status", "refused"}}, checks.checks()});
  for (const PartClaims& part : parts) {
    result.sections.push_back({part.label, {{"status", "by itself sound"}}, part.checks});
  }
  return result;
}

}  // namespace pavise::evidence
