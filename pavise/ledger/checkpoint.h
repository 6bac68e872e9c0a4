#ifndef PAVISE_LEDGER_CHECKPOINT_H_
#define PAVISE_LEDGER_CHECKPOINT_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/crypto/keys.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// Signed checkpoints of a ledger: C2SP tlog-checkpoint in a C2SP signed-note, with cosignatures as
// of C2SP tlog-cosignature (cosignature/v1).
namespace pavise::ledger {

inline constexpr size_t kMaxNoteBytes = 64u << 10;
inline constexpr size_t kMaxNoteSignatures = 64;
inline constexpr size_t kMaxKeyNameBytes = 128;

// What signs a note: its text (Ed25519, type 0x01), or its text and a time (cosignature/v1, 0x04).
enum class NoteKeyKind : uint8_t { kLog = 0x01, kCosigner = 0x04 };

// A named Ed25519 key. In text "NAME+HASH+KEY": the hash 8 hex digits, the key base64 of the type
// byte and the 32 bytes of the key, as signed-note proposes. Immutable; thread-safe.
class NoteKey {
 public:
  // Names are visible ASCII characters but "+", best a URL without scheme (signed-note allows other
  // characters, too). kMalformed: another name; kLimitExceeded: one over kMaxKeyNameBytes;
  // kKeyUnsupported: not an Ed25519 key.
  static absl::StatusOr<NoteKey> Create(std::string_view name, NoteKeyKind kind,
                                        const crypto::PublicKey& key);
  // kMalformed, kKeyUnsupported (another type byte), kKeyMismatch (the hash is not the key's). One
  // line end is accepted after it.
  static absl::StatusOr<NoteKey> Parse(std::string_view text, std::string_view item);
  std::string Format() const;

  const std::string& name() const { return name_; }
  NoteKeyKind kind() const { return kind_; }
  const crypto::PublicKey& key() const { return key_; }
  // First 4 bytes of SHA-256 of name, line feed, type byte and key.
  const std::array<uint8_t, 4>& hash() const { return hash_; }

 private:
  NoteKey(std::string name, NoteKeyKind kind, crypto::PublicKey key, std::array<uint8_t, 4> hash)
      : name_(std::move(name)), kind_(kind), key_(std::move(key)), hash_(hash) {}
  std::string name_;
  NoteKeyKind kind_;
  crypto::PublicKey key_;
  std::array<uint8_t, 4> hash_;
};

// One state of a ledger.
struct Checkpoint {
  std::string origin;  // the log's name; not empty, no line feed
  uint64_t size = 0;   // entries
  Digest32 root{};

  friend bool operator==(const Checkpoint&, const Checkpoint&) = default;
};

struct NoteSignature {
  std::string key_name;
  std::array<uint8_t, 4> key_hash{};
  Bytes signature;

  friend bool operator==(const NoteSignature&, const NoteSignature&) = default;
};

// A checkpoint and who signed it, whether or not that is true: only the form is checked.
struct CheckpointNote {
  Checkpoint checkpoint;
  std::vector<std::string> extensions;  // further lines of the text; signed, not interpreted
  std::vector<NoteSignature> signatures;

  // The lines that are signed.
  std::string Text() const;
  // Text, an empty line, the signature lines. FormatNote(ParseNote(x)) is x.
  std::string Format() const;
};

// Strict: UTF-8, no control characters but line feeds, sizes in decimal without leading zeros,
// base64 canonical, at least one signature, no bytes after the last. kMalformed, kLimitExceeded.
absl::StatusOr<CheckpointNote> ParseCheckpointNote(ByteSpan note, std::string_view item);

// The note with the log's signature alone, whose key name is the origin. kMalformed and so on: an
// origin that is no NoteKey's name; kLimitExceeded: a size above kMaxTreeSize; kKeyUnsupported: not
// an Ed25519 key; whatever the signer returns.
absl::StatusOr<CheckpointNote> SignCheckpoint(const Checkpoint& checkpoint, crypto::Signer& signer);

struct Cosignature {
  NoteKey key;
  absl::Time time;
};

struct CheckpointTrust {
  NoteKey log;  // of kind kLog; its name is the origin that is expected
  std::vector<NoteKey> cosigners;
  // How many of them must have signed. A checkpoint without cosignatures says only what the log
  // said to this reader.
  size_t cosigners_required = 0;
};

struct SignedCheckpoint {
  CheckpointNote note;
  std::vector<Cosignature> cosignatures;  // by trusted keys, each once
  const Checkpoint& checkpoint() const { return note.checkpoint; }
};

class CheckpointVerifier;
using VerifiedCheckpoint = Verified<SignedCheckpoint, CheckpointVerifier>;

// Stateless; thread-safe.
class CheckpointVerifier {
 public:
  // kIdentityMismatch: of another origin; kSignerUntrusted: no signature by the log's key, or too
  // few by cosigners; kSignatureInvalid: a signature under a trusted key's name and hash that does
  // not verify, or two by one key. Signatures by other keys are passed over, as signed-note says. A
  // usage error: trust that names one key twice, or keys of the wrong kind.
  static absl::StatusOr<VerifiedCheckpoint> Verify(const CheckpointNote& note,
                                                   const CheckpointTrust& trust,
                                                   std::string_view item);
};

// The cosignature to add to the note's: an owner or a witness says that this is the largest
// checkpoint of the log that it saw until `time` (whole seconds are kept), and that it continues
// all that it saw before, which is for the caller to have verified (VerifyConsistency). A usage
// error: a time before 1970.
absl::StatusOr<NoteSignature> Cosign(const VerifiedCheckpoint& checkpoint,
                                     std::string_view key_name, crypto::Signer& signer,
                                     absl::Time time);

}  // namespace pavise::ledger

#endif  // PAVISE_LEDGER_CHECKPOINT_H_
