#ifndef PAVISE_SIGNING_SIGN_H_
#define PAVISE_SIGNING_SIGN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/clock.h"
#include "pavise/crypto/keys.h"
#include "pavise/crypto/x509.h"
#include "pavise/hash/file_pass.h"
#include "pavise/signing/statement.h"

#include "absl/status/statusor.h"

namespace pavise::signing {

// Signing again after a change: what the previous signature says is reused where a file is the one
// hashed before and was not written since (the signed FileStamp: device, inode, size, mtime,
// ctime), so that only what changed is hashed. The previous signature must verify under the
// signer's own key and name the same model. A wrong declaration of changed tensors gives a
// signature that does not verify (docs/decisions/0002).
struct IncrementalOptions {
  std::string previous_signature_path;
  std::string previous_outboard_path;  // empty: the default beside it
  // Globs over tensor names. In a file that was written, only these tensors are taken to have
  // changed (its layout must be the signed one, else the whole file is hashed). Empty: a written
  // file is hashed whole.
  std::vector<std::string> changed_tensors;
};

struct SignOptions {
  std::string model_path;
  std::string signature_path;
  std::string outboard_path;  // empty: "<signature_path>.tree"
  // Method, hash, shard size, links. ignore_paths: the user's, relative to the model.
  Serialization serialization;
  bool ignore_git_paths = true;  // .git, .gitattributes, .github, .gitignore at the top
  std::string model_name;        // empty: the model path's last component
  std::optional<uint64_t> model_version;
  bool annotate = true;  // BLAKE3 root, length, tensor table; and the outboard file
  bool fips = false;     // SHA-256 by OpenSSL only, no annotations, no outboard file
  std::optional<IncrementalOptions> incremental;

  crypto::Signer* signer = nullptr;
  // Certificate method: leaf first; the leaf's key must be the signer's. Empty: key method.
  std::vector<crypto::Certificate> certificate_chain;
  hash::PassOptions pass;
  const Clock* clock = &SystemClock();
};

struct SignReport {
  Statement statement;
  std::string key_fingerprint;
  std::string outboard_path;  // empty when none was written
  uint64_t model_bytes = 0;
  uint64_t bytes_hashed = 0;  // less than model_bytes when signing incrementally
  uint64_t files_reused = 0;
  std::string device;
  std::string_view sha256_by;  // as of hash::FileResult
  std::optional<std::string> fips_provider;
  std::vector<std::string> warnings;
};

// Hashes the model in one pass, signs, writes the outboard and the signature file (each renamed
// into place only when both are safely on disk; nothing is written on any refusal).
absl::StatusOr<SignReport> SignModel(const SignOptions& options);

// The statement that SignModel would sign, without a key (`pavise digest`).
absl::StatusOr<SignReport> DigestModel(const SignOptions& options);

}  // namespace pavise::signing

#endif  // PAVISE_SIGNING_SIGN_H_
