#include "pavise/evidence/appraise/machine/trust_files.h"

#include <iterator>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_split.h"

namespace pavise::evidence {
namespace {

constexpr std::string_view kRevokedTpm = "tpm/revoked";

absl::Status AddCertificates(ByteSpan content, const std::string& path,
                             std::vector<crypto::Certificate>& out) {
  if (AsText(content).find("-----BEGIN ") != std::string_view::npos) {
    PAVISE_ASSIGN_OR_RETURN(std::vector<crypto::Certificate> list,
                            crypto::Certificate::ListFromPem(AsText(content), path));
    std::move(list.begin(), list.end(), std::back_inserter(out));
    return absl::OkStatus();
  }
  PAVISE_ASSIGN_OR_RETURN(crypto::Certificate certificate,
                          crypto::Certificate::FromDer(content, path));
  out.push_back(std::move(certificate));
  return absl::OkStatus();
}

absl::Status AddTpm(ByteSpan content, const std::string& path, TpmTrust& tpm) {
  std::vector<crypto::Certificate> certificates;
  PAVISE_RETURN_IF_ERROR(AddCertificates(content, path, certificates));
  for (crypto::Certificate& certificate : certificates) {
    (certificate.is_self_issued() ? tpm.roots : tpm.others).push_back(std::move(certificate));
  }
  return absl::OkStatus();
}

absl::Status AddRevokedTpm(ByteSpan content, const std::string& path, TpmTrust& tpm) {
  for (const std::string& line :
       std::vector<std::string>(absl::StrSplit(std::string(AsText(content)), '\n'))) {
    if (line.empty() || line[0] == '#') continue;
    PAVISE_ASSIGN_OR_RETURN(const Digest32 fingerprint, Digest32FromHex(line, path));
    tpm.revoked.insert(ToHex(fingerprint));
  }
  return absl::OkStatus();
}

absl::Status AddAmd(ByteSpan content, const std::string& path, MachineTrust& trust) {
  if (!path.ends_with(".crl")) return AddCertificates(content, path, trust.amd);
  PAVISE_ASSIGN_OR_RETURN(crypto::RevocationList list,
                          AsText(content).starts_with("-----BEGIN ")
                              ? crypto::RevocationList::FromPem(AsText(content), path)
                              : crypto::RevocationList::FromDer(content, path));
  trust.amd_revocation_lists.push_back(std::move(list));
  return absl::OkStatus();
}

// Where Intel's files go; both TEEs take the revocation lists.
std::vector<Bytes*> IntelPlaces(std::string_view name, MachineTrust& trust) {
  if (name == "intel/root.crl") return {&trust.tdx.root_crl, &trust.sgx.root_crl};
  if (name == "intel/pck.crl") return {&trust.tdx.pck_crl, &trust.sgx.pck_crl};
  for (const auto& [folder, collateral] :
       {std::pair{"intel/tdx/", &trust.tdx}, std::pair{"intel/sgx/", &trust.sgx}}) {
    if (!name.starts_with(folder)) continue;
    const std::string_view file = name.substr(std::string_view(folder).size());
    if (file == "tcb_info.json") return {&collateral->tcb_info};
    if (file == "tcb_info_chain.pem") return {&collateral->tcb_info_issuer_chain};
    if (file == "qe_identity.json") return {&collateral->qe_identity};
    if (file == "qe_identity_chain.pem") return {&collateral->qe_identity_issuer_chain};
  }
  return {};
}

bool IsDirectlyIn(std::string_view name, std::string_view folder) {
  return name.starts_with(folder) && name.size() > folder.size() &&
         name.find('/', folder.size()) == name.npos;
}

}  // namespace

bool IsTrustFile(std::string_view name) {
  MachineTrust places;
  return IsDirectlyIn(name, "tpm/") || IsDirectlyIn(name, "amd/") ||
         IsDirectlyIn(name, "nvidia/") || !IntelPlaces(name, places).empty();
}

absl::StatusOr<MachineTrust> ParseTrustFiles(const std::map<std::string, Bytes>& files,
                                             std::string_view folder) {
  MachineTrust trust;
  for (const auto& [name, content] : files) {
    const std::string path = StrCat(folder, "/", name);
    if (name == kRevokedTpm) {
      PAVISE_RETURN_IF_ERROR(AddRevokedTpm(content, path, trust.tpm));
    } else if (IsDirectlyIn(name, "tpm/")) {
      PAVISE_RETURN_IF_ERROR(AddTpm(content, path, trust.tpm));
    } else if (IsDirectlyIn(name, "amd/")) {
      PAVISE_RETURN_IF_ERROR(AddAmd(content, path, trust));
    } else if (IsDirectlyIn(name, "nvidia/")) {
      PAVISE_RETURN_IF_ERROR(AddCertificates(content, path, trust.gpu.endorsements));
    } else if (const std::vector<Bytes*> places = IntelPlaces(name, trust); !places.empty()) {
      for (Bytes* place : places) *place = content;
    } else {
      return Refuse(Reason::kMalformed, path, "is no file of a trust folder",
                    "the names are those of docs/formats/appraisal_policy.md");
    }
  }
  return trust;
}

}  // namespace pavise::evidence
