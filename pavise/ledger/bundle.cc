#include "pavise/ledger/bundle.h"

#include <algorithm>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/strings.h"

namespace pavise::ledger {
namespace {

constexpr std::string_view kFormat = "pavise-ledger-bundle/1";
// Twice the levels of the largest tree: no proof is longer.
constexpr size_t kMaxProofHashes = 96;

OrderedJson ProofJson(const std::vector<Digest32>& proof) {
  OrderedJson json = OrderedJson::array();
  for (const Digest32& hash : proof) json.push_back(ToBase64(hash));
  return json;
}

absl::StatusOr<std::vector<Digest32>> ReadProof(const JsonObject& object) {
  PAVISE_ASSIGN_OR_RETURN(const Json* const array, object.GetArray("proof"));
  const std::string path = object.PathOf("proof");
  if (array->size() > kMaxProofHashes) {
    return Refuse(Reason::kLimitExceeded, path,
                  StrCat("has more than ", kMaxProofHashes, " hashes"));
  }
  std::vector<Digest32> proof;
  for (const Json& value : *array) {
    if (!value.is_string()) return Refuse(Reason::kMalformed, path, "is no list of strings");
    PAVISE_ASSIGN_OR_RETURN(const Bytes hash,
                            FromBase64(value.get_ref<const std::string&>(), path));
    if (hash.size() != sizeof(Digest32)) {
      return Refuse(Reason::kMalformed, path, "holds a hash that is not 32 bytes");
    }
    std::copy(hash.begin(), hash.end(), proof.emplace_back().begin());
  }
  return proof;
}

absl::StatusOr<CheckpointNote> ReadNote(const JsonObject& object) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString("checkpoint"));
  return ParseCheckpointNote(AsBytes(text), object.PathOf("checkpoint"));
}

// The elements of an array as objects, `item` with their number.
template <typename Read>
absl::Status ReadEach(const JsonObject& object, std::string_view name, size_t most, Read read) {
  PAVISE_ASSIGN_OR_RETURN(const Json* const array, object.GetArray(name));
  if (array->size() > most) {
    return Refuse(Reason::kLimitExceeded, object.PathOf(name), StrCat("has more than ", most));
  }
  for (size_t i = 0; i < array->size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(
        const JsonObject element,
        JsonObject::From((*array)[i], StrCat(object.PathOf(name), "[", i, "]")));
    PAVISE_RETURN_IF_ERROR(read(element));
  }
  return absl::OkStatus();
}

absl::Status ReadEarlier(const JsonObject& element, std::vector<EarlierCheckpoint>& all) {
  PAVISE_RETURN_IF_ERROR(element.RequireOnly({"checkpoint", "proof"}));
  EarlierCheckpoint earlier;
  PAVISE_ASSIGN_OR_RETURN(earlier.note, ReadNote(element));
  PAVISE_ASSIGN_OR_RETURN(earlier.proof, ReadProof(element));
  if (!all.empty() && all.back().note.checkpoint.size >= earlier.note.checkpoint.size) {
    return Refuse(Reason::kMalformed, element.path(), "is not of more entries than the last");
  }
  all.push_back(std::move(earlier));
  return absl::OkStatus();
}

absl::Status ReadEntry(const JsonObject& element, std::vector<BundleEntry>& all) {
  PAVISE_RETURN_IF_ERROR(element.RequireOnly({"index", "entry", "proof"}));
  BundleEntry entry;
  PAVISE_ASSIGN_OR_RETURN(entry.index, element.GetUint("index"));
  PAVISE_ASSIGN_OR_RETURN(entry.text, element.GetString("entry"));
  PAVISE_ASSIGN_OR_RETURN(entry.proof, ReadProof(element));
  if (!all.empty() && all.back().index >= entry.index) {
    return Refuse(Reason::kMalformed, element.path(), "does not come after the last");
  }
  all.push_back(std::move(entry));
  return absl::OkStatus();
}

std::string Named(const Checkpoint& checkpoint) {
  return StrCat("checkpoint at ", checkpoint.size, " entries");
}

// Findings are kept and the checking goes on; a failure of the machine ends it.
absl::Status Note(const absl::Status& status, std::vector<Refusal>& findings) {
  const std::vector<Refusal> refusals = RefusalsOf(status);
  if (refusals.empty()) return status;
  findings.insert(findings.end(), refusals.begin(), refusals.end());
  return absl::OkStatus();
}

absl::Status VerifyEarlier(const LedgerBundle& bundle, const CheckpointTrust& trust,
                           LedgerExtract& extract, std::vector<Refusal>& findings) {
  const CheckpointTrust log_only{trust.log, {}, 0};
  const Checkpoint& latest = bundle.checkpoint.checkpoint;
  for (const EarlierCheckpoint& earlier : bundle.earlier) {
    const Checkpoint& checkpoint = earlier.note.checkpoint;
    const std::string item = Named(checkpoint);
    const auto verified = CheckpointVerifier::Verify(earlier.note, log_only, item);
    if (!verified.ok()) {
      PAVISE_RETURN_IF_ERROR(Note(verified.status(), findings));
      continue;
    }
    const absl::Status consistent =
        VerifyConsistency(checkpoint.size, checkpoint.root, latest.size, latest.root, earlier.proof,
                          StrCat(item, " and ", Named(latest)));
    PAVISE_RETURN_IF_ERROR(Note(consistent, findings));
    extract.earlier.push_back(**verified);
  }
  return absl::OkStatus();
}

// What the order of one log's entries must be: times do not decrease, and an agreement's entries
// count up.
class OrderCheck {
 public:
  void Add(const ProvenEntry& proven, std::vector<Refusal>& findings) {
    const LedgerEntry& entry = proven.entry;
    const std::string item = StrCat("entry ", proven.index);
    if (entry.time < last_time_) {
      findings.push_back({Reason::kTransparencyInvalid, item,
                          "has an earlier time than an entry before it",
                          "keep the bundle: the log's times cannot be relied on"});
    }
    last_time_ = std::max(last_time_, entry.time);
    if (!entry.agreement.has_value()) return;
    Seen& seen = seen_[*entry.agreement];
    if (entry.sequence <= seen.last) {
      findings.push_back(
          {Reason::kTransparencyInvalid, item,
           StrCat("is number ", entry.sequence, " of its agreement, after number ", seen.last),
           "keep the bundle: the log shows one agreement two histories"});
    }
    seen.last = std::max(seen.last, entry.sequence);
    ++seen.count;
  }

  std::map<Digest32, uint64_t> Missing() const {
    std::map<Digest32, uint64_t> missing;
    for (const auto& [agreement, seen] : seen_) {
      missing[agreement] = seen.last - std::min(seen.last, seen.count);
    }
    return missing;
  }

 private:
  struct Seen {
    uint64_t last = 0;
    uint64_t count = 0;
  };
  absl::Time last_time_ = absl::InfinitePast();
  std::map<Digest32, Seen> seen_;
};

absl::Status VerifyEntries(const LedgerBundle& bundle, LedgerExtract& extract,
                           std::vector<Refusal>& findings) {
  const Checkpoint& latest = bundle.checkpoint.checkpoint;
  OrderCheck order;
  for (const BundleEntry& entry : bundle.entries) {
    const std::string item = StrCat("entry ", entry.index);
    PAVISE_ASSIGN_OR_RETURN(const Digest32 leaf, LeafHash(AsBytes(entry.text)));
    const absl::Status included =
        VerifyInclusion(leaf, entry.index, latest.size, latest.root, entry.proof, item);
    if (!included.ok()) {
      PAVISE_RETURN_IF_ERROR(Note(included, findings));
      continue;  // nothing of an unproven entry is interpreted
    }
    absl::StatusOr<LedgerEntry> parsed = ParseEntry(AsBytes(entry.text), item);
    if (!parsed.ok()) {
      PAVISE_RETURN_IF_ERROR(Note(parsed.status(), findings));
      continue;
    }
    extract.entries.push_back({entry.index, *std::move(parsed)});
    order.Add(extract.entries.back(), findings);
  }
  extract.missing = order.Missing();
  return absl::OkStatus();
}

bool Concerns(const LedgerEntry& entry, std::string_view subject) {
  const auto is = [&](const auto& digest) {
    return digest.has_value() && ToHex(*digest) == subject;
  };
  return !subject.empty() &&
         (entry.asset == subject || is(entry.sealed) || entry.session == subject ||
          entry.machine == subject || is(entry.run) ||
          std::find(entry.owners.begin(), entry.owners.end(), subject) != entry.owners.end() ||
          std::find(entry.recipients.begin(), entry.recipients.end(), subject) !=
              entry.recipients.end());
}

// Checkpoints of one reader, the latest last.
std::vector<const Checkpoint*> SeenBy(const LedgerExtract& extract) {
  std::vector<const Checkpoint*> seen;
  for (const SignedCheckpoint& earlier : extract.earlier) seen.push_back(&earlier.checkpoint());
  seen.push_back(&extract.checkpoint.checkpoint());
  return seen;
}

// Whether what `extract` proves contains that `larger` continues `smaller`.
bool Joins(const LedgerExtract& extract, const Checkpoint& smaller, const Checkpoint& larger) {
  return extract.checkpoint.checkpoint() == larger &&
         std::any_of(extract.earlier.begin(), extract.earlier.end(),
                     [&](const SignedCheckpoint& each) { return each.checkpoint() == smaller; });
}

}  // namespace

absl::StatusOr<BundleEntry> MakeBundleEntry(uint64_t index, std::string text, uint64_t size,
                                            const NodeReader& reader) {
  BundleEntry entry{index, std::move(text), {}};
  PAVISE_ASSIGN_OR_RETURN(entry.proof, InclusionProof(index, size, reader));
  return entry;
}

absl::StatusOr<EarlierCheckpoint> MakeEarlierCheckpoint(CheckpointNote note, uint64_t size,
                                                        const NodeReader& reader) {
  EarlierCheckpoint earlier{std::move(note), {}};
  PAVISE_ASSIGN_OR_RETURN(earlier.proof,
                          ConsistencyProof(earlier.note.checkpoint.size, size, reader));
  return earlier;
}

std::string FormatBundle(const LedgerBundle& bundle) {
  OrderedJson json = {{"format", kFormat},
                      {"checkpoint", bundle.checkpoint.Format()},
                      {"earlier", OrderedJson::array()},
                      {"entries", OrderedJson::array()}};
  for (const EarlierCheckpoint& earlier : bundle.earlier) {
    json["earlier"].push_back(
        {{"checkpoint", earlier.note.Format()}, {"proof", ProofJson(earlier.proof)}});
  }
  for (const BundleEntry& entry : bundle.entries) {
    json["entries"].push_back(
        {{"index", entry.index}, {"entry", entry.text}, {"proof", ProofJson(entry.proof)}});
  }
  return DumpJson(json) + "\n";
}

absl::StatusOr<LedgerBundle> ParseBundle(ByteSpan text, std::string_view item) {
  JsonLimits limits;
  limits.max_bytes = kMaxBundleBytes;
  limits.max_depth = 8;
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, item, limits));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_ASSIGN_OR_RETURN(const std::string format, object.GetString("format"));
  if (format != kFormat) {
    return Refuse(Reason::kUnsupported, object.PathOf("format"), StrCat("is not ", kFormat),
                  "a later version of pavise may read it");
  }
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"format", "checkpoint", "earlier", "entries"}));
  LedgerBundle bundle;
  PAVISE_ASSIGN_OR_RETURN(bundle.checkpoint, ReadNote(object));
  PAVISE_RETURN_IF_ERROR(
      ReadEach(object, "earlier", kMaxEarlierCheckpoints,
               [&](const JsonObject& element) { return ReadEarlier(element, bundle.earlier); }));
  PAVISE_RETURN_IF_ERROR(
      ReadEach(object, "entries", kMaxBundleEntries,
               [&](const JsonObject& element) { return ReadEntry(element, bundle.entries); }));
  return bundle;
}

absl::StatusOr<VerifiedBundle> BundleVerifier::Verify(const LedgerBundle& bundle,
                                                      const CheckpointTrust& trust,
                                                      std::string_view item) {
  // Without a checkpoint that the log signed, the rest has nothing to be held against.
  PAVISE_ASSIGN_OR_RETURN(
      const VerifiedCheckpoint checkpoint,
      CheckpointVerifier::Verify(bundle.checkpoint, trust, StrCat(item, ": checkpoint")));
  LedgerExtract extract;
  extract.checkpoint = *checkpoint;
  std::vector<Refusal> findings;
  PAVISE_RETURN_IF_ERROR(VerifyEarlier(bundle, trust, extract, findings));
  PAVISE_RETURN_IF_ERROR(VerifyEntries(bundle, extract, findings));
  if (!findings.empty()) return Refuse(std::move(findings));
  return VerifiedBundle(std::move(extract));
}

std::vector<const ProvenEntry*> WhoHad(const LedgerExtract& extract, std::string_view subject) {
  std::vector<const ProvenEntry*> found;
  for (const ProvenEntry& proven : extract.entries) {
    switch (proven.entry.kind) {
      case EntryKind::kRelease:
      case EntryKind::kRefusal:
      case EntryKind::kRevocation:
      case EntryKind::kOutputReleased:
        if (Concerns(proven.entry, subject)) found.push_back(&proven);
        break;
      default:
        break;
    }
  }
  return found;
}

absl::Status CompareViews(const LedgerExtract& a, std::string_view a_item, const LedgerExtract& b,
                          std::string_view b_item, const LedgerExtract* bridge) {
  const std::string both = StrCat(a_item, " and ", b_item);
  const Checkpoint& a_latest = a.checkpoint.checkpoint();
  const Checkpoint& b_latest = b.checkpoint.checkpoint();
  if (a_latest.origin != b_latest.origin) {
    return Refuse(Reason::kIdentityMismatch, both, "are of different logs",
                  "compare checkpoints of one log");
  }
  for (const Checkpoint* ours : SeenBy(a)) {
    for (const Checkpoint* theirs : SeenBy(b)) {
      if (ours->size == theirs->size && ours->root != theirs->root) {
        return Refuse(Reason::kTransparencyInvalid, both,
                      StrCat("show two roots of the log at ", ours->size,
                             " entries: the log told its readers different histories"),
                      "a fork, proven by the log's own signatures: keep both files, stop trusting "
                      "this broker, and show them to the other owners");
      }
    }
  }
  if (a_latest.size == b_latest.size) return absl::OkStatus();
  const bool a_smaller = a_latest.size < b_latest.size;
  const Checkpoint& smaller = a_smaller ? a_latest : b_latest;
  const Checkpoint& larger = a_smaller ? b_latest : a_latest;
  if (Joins(a_smaller ? b : a, smaller, larger) ||
      (bridge != nullptr && Joins(*bridge, smaller, larger))) {
    return absl::OkStatus();
  }
  return Refuse(Reason::kTransparencyInvalid, both,
                StrCat("are of ", smaller.size, " and ", larger.size,
                       " entries, and nothing proves that one continues the other"),
                StrCat("ask the broker for a bundle at ", larger.size,
                       " entries with the checkpoint at ", smaller.size,
                       " among its earlier ones; if it has none to give, that is a fork: keep both "
                       "files"));
}

}  // namespace pavise::ledger
