#ifndef PAVISE_VAULT_SEAL_H_
#define PAVISE_VAULT_SEAL_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/progress.h"
#include "pavise/base/random.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/crypto/keys.h"
#include "pavise/vault/format.h"

#include "absl/status/statusor.h"

namespace pavise::vault {

struct InputFile {
  std::string path;  // in the asset; as ParseIndex wants it
  FileIdentity identity;
  bool is_executable = false;
};

struct SealOptions {
  std::vector<InputFile> files;  // in any order, no path twice
  // Opens one of them. Called from many threads.
  std::function<absl::StatusOr<FileDescriptor>(const std::string& path)> open;
  std::string name;  // readable by all who see the file; "": none
  // Pads the payload's length to PADME's and writes no name. The files' names and sizes are
  // encrypted in any case.
  bool hide = false;
  // The model's OMS signature and the SHA-256 of the statement that it signs: both or neither.
  Bytes signature;
  std::optional<Digest32> statement_sha256;
  std::vector<crypto::PublicKey> recipients;  // may be empty: the content key goes elsewhere
  unsigned threads = 0;                       // 0: one a CPU
  Progress* progress = nullptr;
  RandomSource* random = nullptr;  // tests only
};

struct SealReport {
  std::string asset_id;
  SecretBytes content_key;
  uint64_t payload_bytes = 0;
  uint64_t sealed_bytes = 0;
};

// Seals the files under a new content key into `output`, which appears whole or not at all.
// kFileUnstable: a file changed meanwhile; kKeyUnsupported: a recipient's key; kMalformed: a
// recipient or path given twice; as ParseIndex; usage error: no files, or half of a signature.
absl::StatusOr<SealReport> Seal(const SealOptions& options, const std::string& output);

// Writes the sealed file with other recipients to `output` (which may be the same path): the
// asset's id and payload stay. kContentMismatch: not its content key.
absl::Status ReplaceRecipients(const std::string& path, const SecretBytes& content_key,
                               const std::vector<crypto::PublicKey>& recipients,
                               const std::string& output);

}  // namespace pavise::vault

#endif  // PAVISE_VAULT_SEAL_H_
