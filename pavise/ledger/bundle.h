#ifndef PAVISE_LEDGER_BUNDLE_H_
#define PAVISE_LEDGER_BUNDLE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/ledger/checkpoint.h"
#include "pavise/ledger/entry.h"
#include "pavise/ledger/merkle_tree.h"

#include "absl/status/statusor.h"

// What a broker hands to an owner: a checkpoint, the entries of the owner's agreements with their
// proofs, and earlier checkpoints with proofs that this one continues them. Checked offline.
// docs/formats/ledger.md.
namespace pavise::ledger {

inline constexpr uint64_t kMaxBundleBytes = uint64_t{256} << 20;
inline constexpr size_t kMaxBundleEntries = 100'000;
inline constexpr size_t kMaxEarlierCheckpoints = 1'000;

struct BundleEntry {
  uint64_t index = 0;
  std::string text;  // FormatEntry's
  std::vector<Digest32> proof;
};

struct EarlierCheckpoint {
  CheckpointNote note;
  std::vector<Digest32> proof;  // of consistency with the bundle's checkpoint
};

struct LedgerBundle {
  CheckpointNote checkpoint;
  std::vector<EarlierCheckpoint> earlier;  // ascending by size
  std::vector<BundleEntry> entries;        // ascending by index
};

// The entry's proof in a tree of `size` entries, read from `reader`.
absl::StatusOr<BundleEntry> MakeBundleEntry(uint64_t index, std::string text, uint64_t size,
                                            const NodeReader& reader);
absl::StatusOr<EarlierCheckpoint> MakeEarlierCheckpoint(CheckpointNote note, uint64_t size,
                                                        const NodeReader& reader);

std::string FormatBundle(const LedgerBundle& bundle);
// Form only. kMalformed, kLimitExceeded, kUnsupported.
absl::StatusOr<LedgerBundle> ParseBundle(ByteSpan text, std::string_view item);

struct ProvenEntry {
  uint64_t index = 0;
  LedgerEntry entry;
};

// What a bundle proves.
struct LedgerExtract {
  SignedCheckpoint checkpoint;
  std::vector<SignedCheckpoint> earlier;
  std::vector<ProvenEntry> entries;
  // By agreement: how many entries are missing before the last one that is here. (What came after
  // it, and entries that a broker never wrote, no bundle can show.)
  std::map<Digest32, uint64_t> missing;
};

class BundleVerifier;
using VerifiedBundle = Verified<LedgerExtract, BundleVerifier>;

// Stateless; thread-safe.
class BundleVerifier {
 public:
  // All findings together: the checkpoint as by CheckpointVerifier (earlier ones need the log's
  // signature only); kTransparencyInvalid: an entry that is not in the tree, an earlier checkpoint
  // that this one does not continue, times that decrease, two entries of one place in an agreement.
  static absl::StatusOr<VerifiedBundle> Verify(const LedgerBundle& bundle,
                                               const CheckpointTrust& trust, std::string_view item);
};

// What became of a key, in order: releases, refusals and revocations of an asset (by its name or
// vault asset id), of all assets of an owner, or to a session or a machine.
std::vector<const ProvenEntry*> WhoHad(const LedgerExtract& extract, std::string_view subject);

// Holds two readers' views of one log against each other: equal sizes must have equal roots, and of
// two sizes the larger must be proven to continue the smaller, by one of the views or by `bridge`
// (an extract with the smaller among its earlier checkpoints; may be null). kTransparencyInvalid:
// a fork, or no proof that there is none; names both and says what to do.
absl::Status CompareViews(const LedgerExtract& a, std::string_view a_item, const LedgerExtract& b,
                          std::string_view b_item, const LedgerExtract* bridge);

}  // namespace pavise::ledger

#endif  // PAVISE_LEDGER_BUNDLE_H_
