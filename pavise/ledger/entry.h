#ifndef PAVISE_LEDGER_ENTRY_H_
#define PAVISE_LEDGER_ENTRY_H_

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/random.h"
#include "pavise/base/status.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// What a ledger holds: one canonical JSON text (RFC 8785) an entry, docs/formats/ledger.md. Nothing
// in an entry is secret from the owners of its agreement; to everybody else it shows as its leaf
// hash only, which the salt keeps from being guessed.
namespace pavise::ledger {

inline constexpr size_t kMaxEntryBytes = 32u << 10;
inline constexpr size_t kMaxEntryReasons = 16;
inline constexpr size_t kMaxEntryKeys = 64;
inline constexpr size_t kMaxEntryNameBytes = 128;  // of stages, modes, assets, reasons
inline constexpr size_t kMaxEntryTextBytes = 256;  // of rules, details, machines

enum class EntryKind : uint8_t {
  kAgreementProposed,  // a version, by `actor`
  kApproval,           // of a version, by `actor`
  kAgreementInForce,   // a version has all approvals that it needs
  kWithdrawal,         // of consent, by `actor`
  kDeposit,            // an asset's key came to the broker, from `actor`
  kRunBegun,           // first release to a session for a stage
  kRelease,            // an asset's key went to a session
  kRefusal,            // ... did not, for `reasons`
  kReattested,         // a session's machine was appraised again and accepted
  kRevocation,         // a run was stopped, for `reasons`
  kRunEnded,           // by its session, or with its limits
  kOutputDeposited,    // an output's key came to the broker
  kOutputApproval,     // an owner, `actor`, lets an output go to its recipients
  kOutputReleased,     // an output's key went to `recipients`
  kKeyRotation,        // `previous_key` of the broker became `key`
  kBrokerStarted,      // with token key `key`
  kCheckpointCosigned  // `statement`: SHA-256 of the cosigned note; `actor`: the cosigner's key
};

// "agreement-proposed", "release", ...
std::string_view EntryKindName(EntryKind kind);
absl::StatusOr<EntryKind> EntryKindFrom(std::string_view name, std::string_view item);

// Why something was refused or stopped, as an owner reads it.
struct EntryReason {
  std::string reason;  // a ReasonName
  std::string rule;    // which rule, or which item
  std::string detail;  // in words; may be empty

  friend bool operator==(const EntryReason&, const EntryReason&) = default;
};

// Empty strings, empty lists, 0 and nullopt mean absent. Which members a kind needs and which it
// may have is docs/formats/ledger.md's table. Key ids are fingerprints of public keys, 64
// lower-case hex digits.
struct LedgerEntry {
  EntryKind kind = EntryKind::kBrokerStarted;
  absl::Time time;                 // the broker's clock, whole microseconds, not before 1970
  std::array<uint8_t, 16> salt{};  // random, one an entry
  std::optional<Digest32> agreement;
  // Counts the entries of one agreement from 1, so that a missing one shows. With `agreement`.
  uint64_t sequence = 0;
  uint64_t version = 0;  // of the agreement
  std::string stage;
  std::string mode;
  std::optional<std::array<uint8_t, 16>> run;
  std::string asset;                    // or output: its name in the agreement
  std::optional<Digest32> sealed;       // vault asset id
  std::string actor;                    // key id of who acted
  std::vector<std::string> owners;      // key ids of the owners concerned; sorted, each once
  std::vector<std::string> recipients;  // key ids; sorted, each once
  std::string session;                  // key id of the attested session
  std::string machine;               // what the evidence calls it: an EK's fingerprint, a chip's id
  std::optional<Digest32> evidence;  // SHA-256 of the composite evidence's CBOR
  std::optional<Digest32> decision;  // SHA-256 of the decision that owners can read
  std::optional<Digest32> statement;  // SHA-256 of the signed envelope
  std::string key;                    // key ids of the broker
  std::string previous_key;
  std::vector<EntryReason> reasons;

  friend bool operator==(const LedgerEntry&, const LedgerEntry&) = default;
};

// Findings as an entry holds them: texts made Printable and cut to the limits, the first
// kMaxEntryReasons of them; the item is the rule.
std::vector<EntryReason> EntryReasons(std::span<const Refusal> findings);

// A salt for a new entry.
absl::StatusOr<std::array<uint8_t, 16>> NewSalt(RandomSource& random);

// The entry's text, whose LeafHash the tree holds. A usage error for what ParseEntry would refuse.
absl::StatusOr<std::string> FormatEntry(const LedgerEntry& entry);
// Strict: the canonical text and no other, unknown members and those that the kind does not have
// refused (kMalformed), kUnsupported for a later format, kLimitExceeded.
absl::StatusOr<LedgerEntry> ParseEntry(ByteSpan text, std::string_view item);

}  // namespace pavise::ledger

#endif  // PAVISE_LEDGER_ENTRY_H_
