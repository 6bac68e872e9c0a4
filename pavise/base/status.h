#ifndef PAVISE_BASE_STATUS_H_
#define PAVISE_BASE_STATUS_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise {

// Why something was refused. One code a cause: a bad signature, a changed file and a failed machine
// never share one. The printed name (ReasonName) is part of the --json output and stays stable.
enum class Reason {
  kSignatureInvalid,     // the signature does not verify under the key
  kSignerUntrusted,      // a valid signature by somebody the verifier does not trust
  kKeyMismatch,          // key hint or certificate key does not belong to the given key
  kKeyUnsupported,       // wrong curve, wrong key type, wrong password
  kCertificateInvalid,   // chain, validity period or purpose
  kIdentityMismatch,     // Sigstore identity or issuer is not the expected one
  kTransparencyInvalid,  // SCT, Rekor SET or inclusion proof
  kRevoked,              // the key or certificate is on the revocation list
  kVersionTooOld,        // signed, but older than the trust policy's minimum version
  kContentMismatch,      // bytes differ from what was signed
  kFileMissing,          // signed, but not there
  kFileUnsigned,         // there, but not signed
  kFileUnreadable,       // permission denied, or vanished
  kFileUnstable,         // changed while it was read
  kFileTypeRefused,      // symbolic link, pipe, socket or device where none is allowed
  kPathUnsafe,           // absolute, "..", or otherwise leaving the model
  kMalformed,            // input that breaks its format's rules
  kLimitExceeded,        // larger or deeper than the stated bound
  kUnsupported,          // well-formed, but a variant this version does not accept
  kStorageFull,          // no room to write the result
  kPolicyDenied,         // a rule of a policy file says no
  kRanksDisagree,        // processes of one run saw different files, signatures or options
  // Of offload:
  kKeyExhausted,  // a key served all the steps or known equations that its scheme allows it
  kResultWrong,   // a worker's result is not the product it was asked for
  kStateMissing,  // a worker has no such layer, version or step (any more), or had the step already
  // Of evidence:
  kEvidenceMissing,      // a part that the policy requires is not there
  kNonceMismatch,        // made for another challenge: replayed, or of another session
  kBindingMismatch,      // parts that do not belong together (another machine, key or session)
  kMeasurementMismatch,  // a log, register or measurement differs from what it is held against
  kMeasurementUnknown,   // measured, and no reference value covers it
  kPlatformInsecure,     // genuine, in a state that protects nothing (debug, no lockdown, ...)
  kPlatformOutOfDate,    // genuine, with firmware or microcode below the floor
};

// "signature-invalid", "content-mismatch", ...
std::string_view ReasonName(Reason reason);
// The reason of that printed name; nullopt for another text.
std::optional<Reason> ReasonFromName(std::string_view name);

// One finding of a refusal.
struct Refusal {
  Reason reason;
  std::string item;    // file, tensor, certificate or field, as the user knows it
  std::string detail;  // what is wrong with it, in words
  std::string remedy;  // what would change the verdict; may be empty

  friend bool operator==(const Refusal&, const Refusal&) = default;
};

// A refusal as a status. Several findings may travel together, the first is the primary one;
// `findings` must not be empty. The status code is kFailedPrecondition; its message is made of the
// first finding (and "and N more").
absl::Status Refuse(std::vector<Refusal> findings);
absl::Status Refuse(Reason reason, std::string_view item, std::string_view detail,
                    std::string_view remedy = "");

// The machine failed (I/O error, no memory, no device): not a verdict on the input. Code kInternal.
absl::Status MachineFailure(std::string_view item, std::string_view detail);

// The status for a failed system call on `item`. Refusals: ENOENT, ENOTDIR, EISDIR, EACCES and
// EPERM (kFileUnreadable), ELOOP and EXDEV (kFileTypeRefused), ENAMETOOLONG (kPathUnsafe), ENOSPC,
// EDQUOT and EFBIG (kStorageFull). All others are machine failures.
absl::Status FromErrno(int error_number, std::string_view operation, std::string_view item);

// The caller asked for something that makes no sense (wrong option). Code kInvalidArgument.
absl::Status UsageError(std::string_view detail);

// The findings of a refusal; empty for OK, machine failures and usage errors.
std::vector<Refusal> RefusalsOf(const absl::Status& status);
// The first finding's reason, if `status` is a refusal.
std::optional<Reason> ReasonOf(const absl::Status& status);

// 0 done, 1 refused, 2 usage, 3 the machine failed. A status that none of the functions above made
// is a machine failure: an unclassified error is never an accept and never a verdict.
int ExitCodeOf(const absl::Status& status);

// A value that went through a verification, and can come from nowhere else: only the verifying
// code named as `Verifier` can construct it. Functions that need checked input take Verified<T>.
template <typename T, typename Verifier>
class Verified {
 public:
  const T& operator*() const { return value_; }
  const T* operator->() const { return &value_; }

 private:
  friend Verifier;
  explicit Verified(T value) : value_(std::move(value)) {}
  T value_;
};

}  // namespace pavise

#define PAVISE_CONCAT_INNER_(a, b) a##b
#define PAVISE_CONCAT_(a, b) PAVISE_CONCAT_INNER_(a, b)

// Returns from the enclosing function if the expression is not OK.
#define PAVISE_RETURN_IF_ERROR(expression)                                  \
  do {                                                                      \
    if (absl::Status pavise_status_ = (expression); !pavise_status_.ok()) { \
      return pavise_status_;                                                \
    }                                                                       \
  } while (false)

// PAVISE_ASSIGN_OR_RETURN(auto x, F()): assigns the value, or returns the error.
#define PAVISE_ASSIGN_OR_RETURN(left, expression) \
  PAVISE_ASSIGN_OR_RETURN_IMPL_(PAVISE_CONCAT_(pavise_or_, __LINE__), left, expression)
#define PAVISE_ASSIGN_OR_RETURN_IMPL_(temporary, left, expression) \
  auto temporary = (expression);                                   \
  if (!temporary.ok()) return std::move(temporary).status();       \
  left = *std::move(temporary)

#endif  // PAVISE_BASE_STATUS_H_
