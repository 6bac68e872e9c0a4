#ifndef PAVISE_SIGNING_VERIFY_H_
#define PAVISE_SIGNING_VERIFY_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/clock.h"
#include "pavise/base/status.h"
#include "pavise/hash/file_pass.h"
#include "pavise/signing/statement.h"
#include "pavise/signing/trust_policy.h"

#include "absl/status/statusor.h"

// From a signature file and a model on disk to a VerifiedModel.
namespace pavise::signing {

// A byte range of one file, [begin, end).
struct FileRange {
  std::string path;
  uint64_t begin_bytes = 0;
  uint64_t end_bytes = 0;
};

// Parts of one file, chosen by its signed tensor table.
struct FileParts {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;  // bytes [begin, end), not empty
  // Tensors that are not read as wholes though a glob of VerifyOptions::tensors matches them.
  std::set<std::string> not_whole;
};

enum class DigestChoice {
  kAuto,  // the parallel BLAKE3 tree of every file where it is signed, else the OMS digest
  kOms,   // the OMS digests only
  kAll,   // every signed digest in one pass: OMS, BLAKE3 tree, every tensor
};

struct VerifyOptions {
  std::string model_path;
  std::string signature_path;
  // Empty: "<signature_path>.tree", used where it exists. A path given here must exist.
  std::string outboard_path;
  TrustPolicy policy;

  bool ignore_unsigned_files = false;
  bool allow_symlinks = false;  // counts only where the signature allows them too
  std::vector<std::string>
      ignore_paths;  // beyond those in the signature; never hides a signed file
  DigestChoice digests = DigestChoice::kAuto;
  // FIPS 180-4 / 186-5 algorithms only, by OpenSSL's provider: implies kOms, refuses BLAKE
  // signatures (kUnsupported).
  bool fips = false;

  // Not empty: only these parts are read and proven, and the report says so.
  std::vector<std::string> tensors;  // globs over tensor names
  std::vector<FileRange> ranges;
  // Adds ranges that depend on what is signed: asked once for each annotated file, by its name in
  // messages, after the signature was verified and before the file is read. A file that it chooses
  // ranges of must have the signed tensor table. Its refusals are findings.
  std::function<absl::StatusOr<FileParts>(const std::string& file, const FileAnnotation& signed_as)>
      choose_parts;

  hash::PassOptions pass;
  // Not nullptr: reads and hashes in place of hash::RunFilePass (a DevicePass: in the memory of a
  // device); of `pass` only the progress counts then. Not with `fips`.
  hash::FilePass* file_pass = nullptr;
  const Clock* clock = &SystemClock();
};

struct VerifyReport {
  SignedStatement signed_statement;
  // What the verdict rests on: "oms", "blake3-annotation", "tensor-digests", "outboard".
  std::vector<std::string> digests_read;
  uint64_t files_checked = 0;
  uint64_t bytes_checked = 0;
  // Partial verification: what was proven; everything else was not read.
  bool partial = false;
  std::vector<std::string> tensors_checked;
  std::vector<FileRange> ranges_checked;
  // Present in the directory, not signed, and ignored on request or by the signature.
  std::vector<std::string> unsigned_files_ignored;
  std::string device;          // "CPU, AVX3, 2 threads"
  std::string_view sha256_by;  // as of hash::FileResult
  std::optional<std::string> fips_provider;
  std::vector<std::string> warnings;
};

class ModelVerifier;
using VerifiedModel = Verified<VerifyReport, ModelVerifier>;

// The only way to a VerifiedModel. Stateless.
class ModelVerifier {
 public:
  // Refusals list every missing, unsigned, changed and unreadable file; changed files are located
  // to the tensor where tensor digests are signed and to the MiB where the outboard tree is at
  // hand. Memory: the statement, 32 bytes a MiB of model, and the pass's buffers.
  static absl::StatusOr<VerifiedModel> Verify(const VerifyOptions& options);
};

// "<signature_path>.tree"
std::string DefaultOutboardPath(const std::string& signature_path);

// Paths inside the model that its own signature and outboard files take, relative to the model;
// empty where they lie elsewhere.
std::vector<std::string> OwnFilesInModel(const std::string& model_path,
                                         const std::vector<std::string>& own_files);

}  // namespace pavise::signing

#endif  // PAVISE_SIGNING_VERIFY_H_
