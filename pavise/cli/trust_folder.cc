#include "pavise/cli/trust_folder.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_split.h"

namespace pavise::cli {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMostFileBytes = uint64_t{64} << 20;

// Sorted, regular files only; empty where the folder is absent.
absl::StatusOr<std::vector<std::string>> FilesOf(const fs::path& folder) {
  std::vector<std::string> files;
  std::error_code error;
  if (!fs::exists(folder, error)) return files;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->is_regular_file(error)) files.push_back(it->path().string());
  }
  if (error) return FromErrno(error.value(), "reading", folder.string());
  std::sort(files.begin(), files.end());
  return files;
}

absl::StatusOr<Bytes> Optional(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return Bytes();
  return ReadFile(path.string(), kMostFileBytes);
}

absl::Status AddCertificates(const std::string& path, std::vector<crypto::Certificate>& out) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(path, kMostFileBytes));
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

absl::Status ReadTpm(const fs::path& folder, evidence::TpmTrust& tpm) {
  PAVISE_ASSIGN_OR_RETURN(const std::vector<std::string> files, FilesOf(folder));
  for (const std::string& file : files) {
    if (fs::path(file).filename() == "revoked") {
      PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(file, kMostFileBytes));
      for (const std::string& line :
           std::vector<std::string>(absl::StrSplit(std::string(AsText(content)), '\n'))) {
        if (line.empty() || line[0] == '#') continue;
        PAVISE_ASSIGN_OR_RETURN(const Digest32 fingerprint, Digest32FromHex(line, file));
        tpm.revoked.insert(ToHex(fingerprint));
      }
      continue;
    }
    std::vector<crypto::Certificate> certificates;
    PAVISE_RETURN_IF_ERROR(AddCertificates(file, certificates));
    for (crypto::Certificate& certificate : certificates) {
      (certificate.is_self_issued() ? tpm.roots : tpm.others).push_back(std::move(certificate));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadIntel(const fs::path& folder, const char* tee, evidence::IntelCollateral& out) {
  const fs::path of_tee = folder / tee;
  PAVISE_ASSIGN_OR_RETURN(out.tcb_info, Optional(of_tee / "tcb_info.json"));
  PAVISE_ASSIGN_OR_RETURN(out.tcb_info_issuer_chain, Optional(of_tee / "tcb_info_chain.pem"));
  PAVISE_ASSIGN_OR_RETURN(out.qe_identity, Optional(of_tee / "qe_identity.json"));
  PAVISE_ASSIGN_OR_RETURN(out.qe_identity_issuer_chain, Optional(of_tee / "qe_identity_chain.pem"));
  PAVISE_ASSIGN_OR_RETURN(out.root_crl, Optional(folder / "root.crl"));
  PAVISE_ASSIGN_OR_RETURN(out.pck_crl, Optional(folder / "pck.crl"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<evidence::MachineTrust> ReadTrustFolder(const std::string& folder) {
  evidence::MachineTrust trust;
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    return Refuse(Reason::kFileUnreadable, folder, "is no folder",
                  "give the folder with the endorsements (docs/formats/appraisal_policy.md)");
  }
  const fs::path root(folder);
  PAVISE_RETURN_IF_ERROR(ReadTpm(root / "tpm", trust.tpm));
  PAVISE_ASSIGN_OR_RETURN(const std::vector<std::string> amd, FilesOf(root / "amd"));
  for (const std::string& file : amd) {
    if (!file.ends_with(".crl")) {
      PAVISE_RETURN_IF_ERROR(AddCertificates(file, trust.amd));
      continue;
    }
    PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(file, kMostFileBytes));
    PAVISE_ASSIGN_OR_RETURN(crypto::RevocationList list,
                            AsText(content).starts_with("-----BEGIN ")
                                ? crypto::RevocationList::FromPem(AsText(content), file)
                                : crypto::RevocationList::FromDer(content, file));
    trust.amd_revocation_lists.push_back(std::move(list));
  }
  PAVISE_RETURN_IF_ERROR(ReadIntel(root / "intel", "tdx", trust.tdx));
  PAVISE_RETURN_IF_ERROR(ReadIntel(root / "intel", "sgx", trust.sgx));
  PAVISE_ASSIGN_OR_RETURN(const std::vector<std::string> nvidia, FilesOf(root / "nvidia"));
  for (const std::string& file : nvidia) {
    PAVISE_RETURN_IF_ERROR(AddCertificates(file, trust.gpu.endorsements));
  }
  return trust;
}

}  // namespace pavise::cli
