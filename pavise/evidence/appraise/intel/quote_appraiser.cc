#include "pavise/evidence/appraise/intel/quote_appraiser.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/keys.h"
#include "pavise/crypto/x509.h"

#include "absl/strings/str_format.h"

namespace pavise::evidence {
namespace {

using crypto::Certificate;
using crypto::DigestAlgorithm;
using crypto::RevocationList;
using crypto::SignatureScheme;

constexpr std::string_view kQuoteItem = "Intel quote";
constexpr std::string_view kTcbInfoItem = "TCB info";
constexpr std::string_view kQeIdentityItem = "QE identity";
constexpr std::string_view kDownload =
    "download the collateral for this platform again from Intel's PCS";
constexpr size_t kMaxIssuerCertificates = 8;

// Intel names the purpose of a certificate in its subject only; without this a PCK key, which lies
// on the platform, could sign TCB info.
bool HasCommonName(const Certificate& certificate, std::string_view name) {
  return certificate.CommonName() == name;
}

absl::StatusOr<std::vector<Certificate>> VerifyIntelChain(
    const std::vector<Certificate>& certificates, std::string_view root_fingerprint, absl::Time at,
    const std::vector<std::vector<std::string_view>>& names, std::string_view item,
    crypto::CertificateMemory* memory) {
  const auto root = std::ranges::find_if(certificates, [&](const Certificate& certificate) {
    return certificate.Fingerprint() == root_fingerprint;
  });
  if (root == certificates.end()) {
    return Refuse(Reason::kCertificateInvalid, item,
                  StrCat("none of its certificates is the root ", root_fingerprint),
                  "only chains to Intel's SGX root CA are accepted");
  }
  PAVISE_ASSIGN_OR_RETURN(std::vector<Certificate> chain,
                          crypto::VerifyChain(memory, certificates[0], certificates, {*root}, at));
  if (chain.size() != names.size() + 1) {
    return Refuse(Reason::kCertificateInvalid, item,
                  StrCat("the chain has ", chain.size(), " certificates where ", names.size() + 1,
                         " are due"));
  }
  for (size_t i = 0; i < names.size(); ++i) {
    if (std::ranges::none_of(
            names[i], [&](std::string_view name) { return HasCommonName(chain[i], name); })) {
      return Refuse(Reason::kCertificateInvalid, item,
                    StrCat("certificate ", chain[i].subject(), " is not for this purpose"),
                    StrCat("a certificate \"", names[i][0], "\" is due"));
    }
  }
  return chain;
}

absl::Status Missing(std::string_view item) {
  return Refuse(Reason::kEvidenceMissing, item, "it was not given", kDownload);
}

absl::StatusOr<RevocationList> ReadList(ByteSpan bytes, std::string_view item) {
  if (bytes.empty()) return Missing(item);
  if (AsText(bytes).starts_with("-----BEGIN")) return RevocationList::FromPem(AsText(bytes), item);
  return RevocationList::FromDer(bytes, item);
}

bool IsAtLeast(ByteSpan svns, ByteSpan floor) {
  return std::equal(svns.begin(), svns.end(), floor.begin(), floor.end(),
                    [](uint8_t svn, uint8_t least) { return svn >= least; });
}

// (value & mask) == expected.
bool MatchesMasked(ByteSpan value, ByteSpan mask, ByteSpan expected) {
  for (size_t i = 0; i < value.size(); ++i) {
    if ((value[i] & mask[i]) != expected[i]) return false;
  }
  return true;
}

const IsvSvnLevel* FindLevel(const std::vector<IsvSvnLevel>& levels, uint32_t isv_svn) {
  const auto found = std::ranges::find_if(
      levels, [&](const IsvSvnLevel& level) { return level.isv_svn <= isv_svn; });
  return found == levels.end() ? nullptr : &*found;
}

const IntelTcbLevel* FindLevel(const IntelTcbInfo& info, const PckPlatform& platform,
                               const TdReportBody* td) {
  // The SVNs 0 and 1 are those of the TDX module; after version 1.0 its identity speaks of them.
  const size_t first = td != nullptr && td->tee_tcb_svn[1] > 0 ? 2 : 0;
  const auto found = std::ranges::find_if(info.levels, [&](const IntelTcbLevel& level) {
    return IsAtLeast(platform.tcb_component_svns, level.sgx_components) &&
           platform.pce_svn >= level.pce_svn &&
           (td == nullptr || IsAtLeast(ByteSpan(td->tee_tcb_svn).subspan(first),
                                       ByteSpan(level.tdx_components).subspan(first)));
  });
  return found == info.levels.end() ? nullptr : &*found;
}

std::string ShowDate(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d", time, absl::UTCTimeZone());
}

// One appraisal. Its steps record refusals and go on; what they return is a failure of the machine.
class Appraisal {
 public:
  Appraisal(const IntelCollateral& collateral, const IntelExpectations& expectations, absl::Time at,
            std::string_view root_fingerprint, crypto::CertificateMemory* memory, CheckList& checks,
            IntelQuoteClaims& claims)
      : collateral_(collateral),
        expectations_(expectations),
        at_(at),
        root_fingerprint_(root_fingerprint),
        memory_(memory),
        checks_(checks),
        claims_(claims) {}

  absl::Status CheckSignatures();
  absl::Status CheckTcb();
  void CheckBody();

 private:
  void Require(bool condition, std::string_view name, Reason reason, std::string_view item,
               std::string_view seen, std::string_view detail, std::string_view remedy) {
    if (condition) {
      checks_.Pass(name, seen);
    } else {
      checks_.Fail(name, reason, item, detail, remedy);
    }
  }

  const TdReportBody* td() const { return std::get_if<TdReportBody>(&claims_.quote.body); }

  // The body of a document that Intel signed; nothing of it is looked at before.
  absl::StatusOr<Bytes> OpenCollateral(ByteSpan document, ByteSpan issuer_chain,
                                       std::string_view member, std::string_view item);
  void CheckHeader(const CollateralHeader& header, std::string_view id, std::string_view item);
  void CheckStatus(const IntelTcbVerdict* verdict, std::string_view name, std::string_view seen);
  void CheckPlatform(const IntelTcbInfo& info);
  void CheckModule(const IntelTcbInfo& info, const TdReportBody& body);
  void CheckQuotingEnclave(const IntelEnclaveIdentity& identity);
  void CheckTd(const TdReportBody& body);
  void CheckEnclave(const SgxReportBody& body);

  const IntelCollateral& collateral_;
  const IntelExpectations& expectations_;
  absl::Time at_;
  std::string_view root_fingerprint_;
  crypto::CertificateMemory* memory_;
  CheckList& checks_;
  IntelQuoteClaims& claims_;
  std::vector<RevocationList> lists_;
  bool has_platform_ = false;
};

absl::Status Appraisal::CheckSignatures() {
  const IntelQuote& quote = claims_.quote;
  const auto chain = VerifyIntelChain(
      quote.certificates, root_fingerprint_, at_,
      {{"Intel SGX PCK Certificate"}, {"Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"}},
      "PCK certificate chain", memory_);
  PAVISE_RETURN_IF_ERROR(checks_.Record("PCK certificate chain",
                                        chain.ok() ? StrCat("to ", chain->back().subject()) : "",
                                        chain.status()));
  for (const auto& [bytes, item] : {std::pair(ByteSpan(collateral_.root_crl), "root CA CRL"),
                                    std::pair(ByteSpan(collateral_.pck_crl), "PCK CA CRL")}) {
    absl::StatusOr<RevocationList> list = ReadList(bytes, item);
    if (list.ok()) {
      lists_.push_back(*std::move(list));
    } else {
      PAVISE_RETURN_IF_ERROR(checks_.Record(item, "", list.status()));
    }
  }
  if (chain.ok()) {
    PAVISE_RETURN_IF_ERROR(checks_.Record("PCK revocation", "neither PCK nor its CA is revoked",
                                          crypto::CheckRevocation(*chain, lists_, at_)));
  }

  const Certificate& pck = quote.certificates[0];
  const absl::StatusOr<crypto::PublicKey> pck_key = pck.public_key();
  PAVISE_RETURN_IF_ERROR(checks_.Record(
      "QE report signature", "by the PCK",
      !pck_key.ok() ? pck_key.status()
                    : pck_key->VerifyAs(SignatureScheme::kEcdsaRaw, DigestAlgorithm::kSha256,
                                        quote.quoting_enclave_report,
                                        quote.quoting_enclave_signature, "QE report")));
  Bytes certified(quote.attestation_key.begin(), quote.attestation_key.end());
  certified.insert(certified.end(), quote.authentication_data.begin(),
                   quote.authentication_data.end());
  PAVISE_ASSIGN_OR_RETURN(Bytes expected, crypto::Digest(DigestAlgorithm::kSha256, certified));
  expected.resize(quote.quoting_enclave.report_data.size());
  Require(std::ranges::equal(expected, quote.quoting_enclave.report_data), "attestation key",
          Reason::kBindingMismatch, "attestation key", "certified by the QE's report data",
          "the quoting enclave's report certifies another attestation key",
          "collect the evidence anew");
  const ByteSpan key_bytes = quote.attestation_key;
  const absl::StatusOr<crypto::PublicKey> key = crypto::PublicKey::FromEcCoordinates(
      crypto::KeyType::kEcP256, key_bytes.first(32), key_bytes.subspan(32), "attestation key");
  PAVISE_RETURN_IF_ERROR(
      checks_.Record("quote signature", "ECDSA P-256 with SHA-256 by the attestation key",
                     !key.ok() ? key.status()
                               : key->VerifyAs(SignatureScheme::kEcdsaRaw, DigestAlgorithm::kSha256,
                                               quote.signed_bytes, quote.signature, kQuoteItem)));

  absl::StatusOr<PckPlatform> platform = ReadPckPlatform(pck, "PCK certificate");
  PAVISE_RETURN_IF_ERROR(
      checks_.Record("PCK platform", platform.ok() ? StrCat("FMSPC ", ToHex(platform->fmspc)) : "",
                     platform.status()));
  has_platform_ = platform.ok();
  if (has_platform_) claims_.platform = *std::move(platform);
  return absl::OkStatus();
}

absl::StatusOr<Bytes> Appraisal::OpenCollateral(ByteSpan document, ByteSpan issuer_chain,
                                                std::string_view member, std::string_view item) {
  if (document.empty()) return Missing(item);
  const std::string chain_item = StrCat(item, " issuer chain");
  if (issuer_chain.empty()) return Missing(chain_item);
  PAVISE_ASSIGN_OR_RETURN(SignedCollateral split, SplitSignedCollateral(document, member, item));
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Certificate> certificates,
                          Certificate::ListFromPem(AsText(issuer_chain), chain_item));
  if (certificates.size() > kMaxIssuerCertificates) {
    return Refuse(Reason::kLimitExceeded, chain_item,
                  StrCat("more than ", kMaxIssuerCertificates, " certificates"));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Certificate> chain,
                          VerifyIntelChain(certificates, root_fingerprint_, at_,
                                           {{"Intel SGX TCB Signing"}}, chain_item, memory_));
  PAVISE_RETURN_IF_ERROR(crypto::CheckRevocation(chain, lists_, at_));
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key, chain[0].public_key());
  PAVISE_RETURN_IF_ERROR(key.VerifyAs(SignatureScheme::kEcdsaRaw, DigestAlgorithm::kSha256,
                                      split.body, split.signature, item));
  return std::move(split.body);
}

void Appraisal::CheckHeader(const CollateralHeader& header, std::string_view id,
                            std::string_view item) {
  Require(header.id == id, StrCat(item, " kind"), Reason::kBindingMismatch, item, id,
          StrCat("it is for ", header.id, ", the quote needs ", id), kDownload);
  Require(header.issue_date <= at_ && at_ <= header.next_update, StrCat(item, " dates"),
          Reason::kCertificateInvalid, item,
          StrCat("good from ", ShowDate(header.issue_date), " to ", ShowDate(header.next_update)),
          StrCat("good from ", ShowDate(header.issue_date), " to ", ShowDate(header.next_update),
                 "; it is held against ", ShowDate(at_)),
          kDownload);
  Require(header.tcb_evaluation_data_number >= expectations_.min_tcb_evaluation_data_number,
          StrCat(item, " evaluation data number"), Reason::kPlatformOutOfDate, item,
          StrCat(header.tcb_evaluation_data_number),
          StrCat("its TCB evaluation data number is ", header.tcb_evaluation_data_number,
                 ", below ", expectations_.min_tcb_evaluation_data_number),
          kDownload);
}

void Appraisal::CheckStatus(const IntelTcbVerdict* verdict, std::string_view name,
                            std::string_view seen) {
  if (verdict == nullptr) {
    checks_.Fail(name, Reason::kPlatformOutOfDate, name,
                 StrCat("no TCB level of Intel's is as low as ", seen),
                 "update the host's firmware and microcode");
    return;
  }
  std::string detail = StrCat(IntelTcbStatusName(verdict->status), " (", ShowDate(verdict->date));
  for (const std::string& advisory : verdict->advisory_ids) StrAppend(&detail, ", ", advisory);
  StrAppend(&detail, ")");
  const bool is_revoked = verdict->status == IntelTcbStatus::kRevoked;
  Require(!is_revoked && expectations_.accepted_statuses.contains(verdict->status), name,
          is_revoked ? Reason::kRevoked : Reason::kPlatformOutOfDate, name, detail,
          StrCat("Intel says ", detail, " of ", seen),
          is_revoked ? "nothing that this TCB certifies counts; update the host"
                     : "update the host as the advisories say, or accept this status");
}

void Appraisal::CheckPlatform(const IntelTcbInfo& info) {
  const bool is_same =
      info.fmspc == claims_.platform.fmspc && info.pce_id == claims_.platform.pce_id;
  Require(is_same, "TCB info platform", Reason::kBindingMismatch, kTcbInfoItem,
          StrCat("FMSPC ", ToHex(info.fmspc)),
          StrCat("it is of platforms with FMSPC ", ToHex(info.fmspc), " and PCE ",
                 ToHex(info.pce_id), ", the quote's has ", ToHex(claims_.platform.fmspc), " and ",
                 ToHex(claims_.platform.pce_id)),
          kDownload);
  if (!is_same) return;
  const IntelTcbLevel* level = FindLevel(info, claims_.platform, td());
  if (level != nullptr) claims_.platform_tcb = level->verdict;
  std::string seen = StrCat("SVNs ", ToHex(claims_.platform.tcb_component_svns), ", PCE ",
                            claims_.platform.pce_svn);
  if (td() != nullptr) StrAppend(&seen, ", TDX ", ToHex(td()->tee_tcb_svn));
  CheckStatus(level == nullptr ? nullptr : &level->verdict, "platform TCB", seen);
  if (td() != nullptr) CheckModule(info, *td());
}

void Appraisal::CheckModule(const IntelTcbInfo& info, const TdReportBody& body) {
  const uint8_t version = body.tee_tcb_svn[1];
  const TdxModuleIdentity* module =
      version == 0 && info.tdx_module.has_value() ? &*info.tdx_module : nullptr;
  const std::string id = absl::StrFormat("TDX_%02X", version);
  if (version > 0) {
    const auto found = std::ranges::find(info.tdx_module_identities, id, &TdxModuleIdentity::id);
    if (found != info.tdx_module_identities.end()) module = &*found;
  }
  if (module == nullptr) {
    checks_.Fail("TDX module", Reason::kMeasurementUnknown, "TDX module",
                 StrCat("TCB info knows no module ", id), kDownload);
    return;
  }
  Require(module->mr_signer == body.mr_signer_seam &&
              MatchesMasked(body.seam_attributes, module->attributes_mask, module->attributes),
          "TDX module", Reason::kMeasurementMismatch, "TDX module",
          StrCat("MRSIGNERSEAM ", ToHex(body.mr_signer_seam)),
          StrCat("signer ", ToHex(body.mr_signer_seam), " and attributes ",
                 ToHex(body.seam_attributes), " are not those of Intel's module ", id),
          "load a TDX module of Intel's");
  if (version == 0) return;
  const IsvSvnLevel* level = FindLevel(module->levels, body.tee_tcb_svn[0]);
  if (level != nullptr) claims_.tdx_module_tcb = level->verdict;
  CheckStatus(level == nullptr ? nullptr : &level->verdict, "TDX module TCB",
              StrCat(id, " with SVN ", body.tee_tcb_svn[0]));
}

void Appraisal::CheckQuotingEnclave(const IntelEnclaveIdentity& identity) {
  const SgxReportBody& enclave = claims_.quote.quoting_enclave;
  Require(identity.mr_signer == enclave.mr_signer &&
              identity.isv_product_id == enclave.isv_product_id &&
              (enclave.misc_select & identity.misc_select_mask) == identity.misc_select &&
              MatchesMasked(enclave.attributes, identity.attributes_mask, identity.attributes),
          "quoting enclave", Reason::kMeasurementMismatch, "quoting enclave",
          StrCat("MRSIGNER ", ToHex(enclave.mr_signer), ", product ", enclave.isv_product_id),
          StrCat("signer ", ToHex(enclave.mr_signer), ", product ", enclave.isv_product_id,
                 " and attributes ", ToHex(enclave.attributes),
                 " are not those of Intel's quoting enclave"),
          "have Intel's quoting enclave make the quote");
  const IsvSvnLevel* level = FindLevel(identity.levels, enclave.isv_svn);
  if (level != nullptr) claims_.quoting_enclave_tcb = level->verdict;
  CheckStatus(level == nullptr ? nullptr : &level->verdict, "quoting enclave TCB",
              StrCat("SVN ", enclave.isv_svn));
}

absl::Status Appraisal::CheckTcb() {
  const bool is_tdx = claims_.quote.is_tdx();
  const absl::StatusOr<Bytes> tcb_body = OpenCollateral(
      collateral_.tcb_info, collateral_.tcb_info_issuer_chain, "tcbInfo", kTcbInfoItem);
  PAVISE_RETURN_IF_ERROR(
      checks_.Record("TCB info signature", "by Intel's TCB signing key", tcb_body.status()));
  claims_.collateral_expires = absl::InfiniteFuture();
  claims_.tcb_evaluation_data_number = UINT32_MAX;
  const auto note = [this](const CollateralHeader& header) {
    claims_.collateral_expires = std::min(claims_.collateral_expires, header.next_update);
    claims_.tcb_evaluation_data_number =
        std::min(claims_.tcb_evaluation_data_number, header.tcb_evaluation_data_number);
  };
  if (tcb_body.ok()) {
    const absl::StatusOr<IntelTcbInfo> info = ParseIntelTcbInfo(*tcb_body, kTcbInfoItem);
    PAVISE_RETURN_IF_ERROR(checks_.Record(
        "TCB info form", info.ok() ? StrCat("version ", info->header.version) : "", info.status()));
    if (info.ok()) {
      note(info->header);
      // Version 2 is SGX's and has no name.
      const bool is_old_sgx = !is_tdx && info->header.version == 2;
      CheckHeader(info->header, is_tdx ? "TDX" : is_old_sgx ? "" : "SGX", kTcbInfoItem);
      if (has_platform_ && info->is_tdx() == is_tdx) CheckPlatform(*info);
    }
  }
  const ByteSpan identity_chain = collateral_.qe_identity_issuer_chain.empty()
                                      ? collateral_.tcb_info_issuer_chain
                                      : collateral_.qe_identity_issuer_chain;
  const absl::StatusOr<Bytes> identity_body =
      OpenCollateral(collateral_.qe_identity, identity_chain, "enclaveIdentity", kQeIdentityItem);
  PAVISE_RETURN_IF_ERROR(checks_.Record("QE identity signature", "by Intel's TCB signing key",
                                        identity_body.status()));
  if (identity_body.ok()) {
    const absl::StatusOr<IntelEnclaveIdentity> identity =
        ParseIntelEnclaveIdentity(*identity_body, kQeIdentityItem);
    PAVISE_RETURN_IF_ERROR(checks_.Record(
        "QE identity form", identity.ok() ? StrCat("version ", identity->header.version) : "",
        identity.status()));
    if (identity.ok()) {
      note(identity->header);
      CheckHeader(identity->header, is_tdx ? "TD_QE" : "QE", kQeIdentityItem);
      CheckQuotingEnclave(*identity);
    }
  }
  return absl::OkStatus();
}

void Appraisal::CheckTd(const TdReportBody& body) {
  const TdExpectations& expected = expectations_.td;
  Require(expectations_.accept_tdx, "TEE", Reason::kUnsupported, kQuoteItem, "TDX",
          "a TDX quote where none is accepted", "give evidence of an SGX enclave");
  CheckReportData(body.report_data, expectations_.report_data, checks_);
  Require((body.td_attributes & TdReportBody::kUnderDebug) == 0, "debug", Reason::kPlatformInsecure,
          "TDATTRIBUTES", "off",
          "the trust domain runs under debug: the host can read and write its memory",
          "launch it with ATTRIBUTES.DEBUG clear");
  const std::string attributes = absl::StrFormat("%016x", body.td_attributes);
  Require((body.td_attributes & expected.attributes_required) == expected.attributes_required &&
              (body.td_attributes & expected.attributes_forbidden) == 0,
          "TD attributes", Reason::kPlatformInsecure, "TDATTRIBUTES", attributes,
          absl::StrFormat("they are %s; required are %016x, forbidden %016x", attributes,
                          expected.attributes_required, expected.attributes_forbidden),
          "launch the trust domain with the attributes that the policy asks for");
  Bytes xfam;
  AppendLittleEndian64(body.xfam, xfam);
  CheckAcceptedValue("XFAM", xfam, expected.xfam, checks_);
  CheckAcceptedValue("MRTD", body.mr_td, expected.mr_td, checks_);
  CheckAcceptedValue("MRCONFIGID", body.mr_config_id, expected.mr_config_id, checks_);
  CheckAcceptedValue("MROWNER", body.mr_owner, expected.mr_owner, checks_);
  CheckAcceptedValue("MROWNERCONFIG", body.mr_owner_config, expected.mr_owner_config, checks_);
  for (size_t i = 0; i < body.rtmr.size(); ++i) {
    CheckAcceptedValue(StrCat("RTMR ", i), body.rtmr[i], expected.rtmr[i], checks_);
  }
  CheckAcceptedValue("MRSEAM", body.mr_seam, expected.mr_seam, checks_);
}

void Appraisal::CheckEnclave(const SgxReportBody& body) {
  const SgxExpectations& expected = expectations_.sgx;
  Require(expectations_.accept_sgx, "TEE", Reason::kUnsupported, kQuoteItem, "SGX",
          "an SGX quote where none is accepted", "give evidence of a TDX trust domain");
  CheckReportData(body.report_data, expectations_.report_data, checks_);
  Require((body.flags() & SgxReportBody::kDebug) == 0, "debug", Reason::kPlatformInsecure,
          "ATTRIBUTES", "off",
          "the enclave runs under debug: the host can read and write its memory",
          "launch it with ATTRIBUTES.DEBUG clear");
  const std::string flags = absl::StrFormat("%016x", body.flags());
  Require((body.flags() & expected.flags_required) == expected.flags_required &&
              (body.flags() & expected.flags_forbidden) == 0,
          "enclave attributes", Reason::kPlatformInsecure, "ATTRIBUTES", flags,
          absl::StrFormat("they are %s; required are %016x, forbidden %016x", flags,
                          expected.flags_required, expected.flags_forbidden),
          "launch the enclave with the attributes that the policy asks for");
  CheckAcceptedValue("MRENCLAVE", body.mr_enclave, expected.mr_enclave, checks_);
  CheckAcceptedValue("MRSIGNER", body.mr_signer, expected.mr_signer, checks_);
  CheckAcceptedValue("CONFIGID", body.config_id, expected.config_id, checks_);
  if (expected.isv_product_id.has_value()) {
    Require(body.isv_product_id == *expected.isv_product_id, "ISVPRODID",
            Reason::kMeasurementMismatch, "ISVPRODID", StrCat(body.isv_product_id),
            StrCat("it is ", body.isv_product_id, ", not ", *expected.isv_product_id),
            "run the product that the policy names");
  }
  Require(body.isv_svn >= expected.min_isv_svn, "ISVSVN", Reason::kPlatformOutOfDate, "ISVSVN",
          StrCat(body.isv_svn), StrCat("it is ", body.isv_svn, ", below ", expected.min_isv_svn),
          "run a newer version of the enclave");
}

void Appraisal::CheckBody() {
  if (td() != nullptr) {
    CheckTd(*td());
  } else {
    CheckEnclave(std::get<SgxReportBody>(claims_.quote.body));
  }
}

}  // namespace

absl::StatusOr<VerifiedIntelQuote> IntelQuoteAppraiser::Appraise(
    ByteSpan bytes, const IntelCollateral& collateral, const IntelExpectations& expectations,
    absl::Time at, CheckList& checks, std::string_view root_fingerprint,
    crypto::CertificateMemory* memory) {
  absl::StatusOr<IntelQuote> quote = ParseIntelQuote(bytes, kQuoteItem);
  PAVISE_RETURN_IF_ERROR(checks.Add(
      "quote form",
      quote.ok() ? StrCat("version ", quote->version, ", ", quote->is_tdx() ? "TDX" : "SGX") : "",
      quote.status()));
  IntelQuoteClaims claims{.quote = *std::move(quote)};
  Appraisal appraisal(collateral, expectations, at, root_fingerprint, memory, checks, claims);
  PAVISE_RETURN_IF_ERROR(appraisal.CheckSignatures());
  PAVISE_RETURN_IF_ERROR(appraisal.CheckTcb());
  appraisal.CheckBody();
  PAVISE_RETURN_IF_ERROR(checks.Verdict());
  return VerifiedIntelQuote(std::move(claims));
}

}  // namespace pavise::evidence
