#include "pavise/agent/vault_files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <utility>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/vault/seal.h"
#include "pavise/vault/sealed_asset.h"

namespace pavise::agent {
namespace {

constexpr size_t kMostFiles = 100'000;
constexpr int kMostLevels = 64;
constexpr size_t kReadBytes = size_t{1} << 20;

// Paths below `root`, relative to it.
absl::StatusOr<std::vector<std::string>> FilesBelow(const std::string& root) {
  std::vector<std::string> files;
  std::error_code error;
  // Follows no links.
  for (std::filesystem::recursive_directory_iterator at(root, error), end; !error && at != end;
       at.increment(error)) {
    const std::string path = at->path().string().substr(root.size() + 1);
    const std::filesystem::file_type type = at->symlink_status(error).type();
    if (type == std::filesystem::file_type::regular) {
      files.push_back(path);
    } else if (type != std::filesystem::file_type::directory) {
      return Refuse(Reason::kFileTypeRefused, path, "is neither a file nor a directory");
    }
    if (files.size() > kMostFiles || at.depth() >= kMostLevels) {
      return Refuse(Reason::kLimitExceeded, path,
                    "an output has at most 100,000 files and 64 levels");
    }
  }
  if (error) return FromErrno(error.value(), "listing", root);
  if (files.empty()) return Refuse(Reason::kFileMissing, BaseName(root), "is empty");
  return files;
}

}  // namespace

absl::StatusOr<Digest32> DigestOfFile(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const FileDescriptor file, OpenRegularFile(path));
  PAVISE_ASSIGN_OR_RETURN(crypto::Digester digester,
                          crypto::Digester::Create(crypto::DigestAlgorithm::kSha256));
  Bytes buffer(kReadBytes);
  for (;;) {
    const ssize_t count = read(file.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FromErrno(errno, "reading", path);
    if (count == 0) break;
    PAVISE_RETURN_IF_ERROR(digester.Update(ByteSpan(buffer).first(static_cast<size_t>(count))));
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, digester.Finish());
  Digest32 digest{};
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return digest;
}

absl::Status VaultFiles::Unseal(const std::string& sealed, const SecretBytes& key,
                                const policy::Asset& expected, const std::string& directory,
                                const std::string& signature) {
  PAVISE_ASSIGN_OR_RETURN(const vault::SealedAsset asset, vault::SealedAsset::Open(sealed));
  if (asset.asset_id() != ToHex(expected.sealed)) {
    return Refuse(
        Reason::kContentMismatch, sealed,
        StrCat("is asset ", asset.asset_id(), ", and the agreement names ", ToHex(expected.sealed)),
        "get the sealed file that its owner has put into the agreement");
  }
  if (asset.header().statement_sha256 != expected.statement) {
    return Refuse(Reason::kContentMismatch, sealed,
                  "was sealed over another signed statement than the agreement names");
  }
  PAVISE_ASSIGN_OR_RETURN(const vault::UnlockedAsset unlocked, asset.Unlock(key));
  return unlocked.Unseal({.directory = directory, .signature_path = signature});
}

absl::StatusOr<SealedOutput> VaultFiles::Seal(const std::string& path, const std::string& sealed) {
  struct stat status;
  if (lstat(path.c_str(), &status) != 0) return FromErrno(errno, "reading", path);
  const bool single = S_ISREG(status.st_mode);
  std::vector<std::string> names = {BaseName(path)};
  const std::string root_path = single ? path.substr(0, path.rfind('/')) : path;
  if (!single) {
    PAVISE_ASSIGN_OR_RETURN(names, FilesBelow(path));
  }
  const FileDescriptor root(open(root_path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root.is_open()) return FromErrno(errno, "opening", root_path);
  vault::SealOptions options{.hide = true};
  for (const std::string& name : names) {
    PAVISE_ASSIGN_OR_RETURN(const FileDescriptor file, OpenBeneath(root, name, false));
    PAVISE_ASSIGN_OR_RETURN(const FileIdentity identity, IdentityOf(file, name));
    options.files.push_back({.path = name, .identity = identity});
  }
  options.open = [&root](const std::string& name) { return OpenBeneath(root, name, false); };
  PAVISE_ASSIGN_OR_RETURN(vault::SealReport report, vault::Seal(options, sealed));
  SealedOutput output;
  PAVISE_ASSIGN_OR_RETURN(output.id, Digest32FromHex(report.asset_id, sealed));
  PAVISE_ASSIGN_OR_RETURN(output.file_sha256, DigestOfFile(sealed));
  output.key = std::move(report.content_key);
  return output;
}

}  // namespace pavise::agent
