#ifndef PAVISE_VAULT_SEALED_ASSET_H_
#define PAVISE_VAULT_SEALED_ASSET_H_

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/progress.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/crypto/keys.h"
#include "pavise/vault/format.h"

#include "absl/status/statusor.h"

namespace pavise::vault {

struct UnsealOptions {
  std::string directory;       // made by Unseal; must not exist
  std::string signature_path;  // for the asset's OMS signature; "": not written
  unsigned threads = 0;        // 0: one a CPU
  Progress* progress = nullptr;
};

// An asset whose key and index are good. Thread-safe.
class UnlockedAsset {
 public:
  ~UnlockedAsset();
  UnlockedAsset(UnlockedAsset&&) noexcept;
  UnlockedAsset& operator=(UnlockedAsset&&) noexcept;

  const std::vector<IndexEntry>& files() const;
  uint64_t signature_bytes() const;
  // The OMS signature; empty where there is none.
  absl::StatusOr<Bytes> ReadSignature() const;

  // Bytes of one file from `offset_bytes` on; only the segments that hold them are read, and none
  // is given out before it is authentic. kFileMissing: no such file; kLimitExceeded: beyond its
  // end; kContentMismatch: a changed segment. `out` is zeroed where it fails.
  absl::Status ReadRange(std::string_view path, uint64_t offset_bytes,
                         std::span<uint8_t> out) const;

  // Writes all files, readable by the owner only. They appear under `directory` when the last
  // segment was found good, or not at all. kContentMismatch, kStorageFull, kPathUnsafe.
  absl::Status Unseal(const UnsealOptions& options) const;

 private:
  friend class SealedAsset;
  struct State;
  explicit UnlockedAsset(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// A sealed file, opened: what everybody who holds it can read. Thread-safe.
class SealedAsset {
 public:
  // Reads header and recipients and holds the file's length against them. kMalformed, kUnsupported,
  // kLimitExceeded; kContentMismatch: cut short, or bytes after the end.
  static absl::StatusOr<SealedAsset> Open(const std::string& path);

  const Header& header() const { return header_; }
  // Lower-case hex SHA-256 of the header's text.
  const std::string& asset_id() const { return asset_id_; }
  const std::vector<Recipient>& recipients() const { return recipients_; }
  const std::string& path() const { return path_; }

  // The content key, unwrapped. kKeyMismatch: not sealed for this key; else as crypto::DecryptJwe.
  absl::StatusOr<SecretBytes> ContentKey(const crypto::PrivateKey& key) const;

  // Checks the key against the commitment before anything is decrypted, then reads the index.
  // kContentMismatch: another key, or a changed segment.
  absl::StatusOr<UnlockedAsset> Unlock(const SecretBytes& content_key) const;

 private:
  friend absl::Status ReplaceRecipients(const std::string&, const SecretBytes&,
                                        const std::vector<crypto::PublicKey>&, const std::string&);
  SealedAsset() = default;
  absl::Status CheckKey(const SecretBytes& content_key) const;

  std::string path_;
  std::shared_ptr<const FileDescriptor> file_;
  Header header_;
  std::string header_text_;
  std::string asset_id_;
  std::vector<Recipient> recipients_;
  uint64_t segments_offset_bytes_ = 0;
};

}  // namespace pavise::vault

#endif  // PAVISE_VAULT_SEALED_ASSET_H_
