#include "pavise/evidence/appraise/ima/ima_replay.h"

#include <algorithm>
#include <map>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"

namespace pavise::evidence {
namespace {

std::string EntryName(std::string_view item, uint64_t number, const ImaEntry& entry) {
  return StrCat(item, ": entry ", number, " (", Printable(entry.name), ")");
}

}  // namespace

std::string_view ImaBankRuleName(ImaBankRule rule) {
  return rule == ImaBankRule::kOwnHash ? "the bank's own hash of each entry"
                                       : "the SHA-1 hash of each entry, padded with zeros";
}

// One digest object a bank: making one costs more than hashing an entry.
class ImaReplay::Hasher {
 public:
  absl::StatusOr<Bytes> Hash(PcrBank bank, ByteSpan first, ByteSpan second = {}) {
    auto digester = digesters_.find(bank);
    if (digester == digesters_.end()) {
      PAVISE_ASSIGN_OR_RETURN(crypto::Digester made, crypto::Digester::Create(PcrBankDigest(bank)));
      digester = digesters_.emplace(bank, std::move(made)).first;
    }
    PAVISE_RETURN_IF_ERROR(digester->second.Update(first));
    PAVISE_RETURN_IF_ERROR(digester->second.Update(second));
    return digester->second.Finish();
  }

 private:
  std::map<PcrBank, crypto::Digester> digesters_;
};

std::optional<ImaBankRule> ImaReplay::rule(PcrBank bank) const {
  std::optional<ImaBankRule> result;
  for (const Track& track : tracks_) {
    if (track.bank != bank || bank == PcrBank::kSha1) continue;
    if (result.has_value()) return std::nullopt;  // both still fit
    result = track.rule;
  }
  return result;
}

bool ImaReplay::Matches(PcrBank bank, ByteSpan value) const {
  return std::any_of(tracks_.begin(), tracks_.end(), [&](const Track& track) {
    return track.bank == bank &&
           std::equal(value.begin(), value.end(), track.value.begin(), track.value.end());
  });
}

absl::Status ImaReplay::Extend(const ImaEntry& entry, uint64_t number, Hasher& hasher,
                               std::string_view item) {
  if (entry.register_index != kImaRegister) {
    return Refuse(Reason::kUnsupported, EntryName(item, number, entry),
                  StrCat("extends PCR ", entry.register_index, ", not ", kImaRegister),
                  "use an IMA policy without pcr=");
  }
  const bool violation = entry.is_violation();
  if (!violation) {
    PAVISE_ASSIGN_OR_RETURN(const Bytes hash, hasher.Hash(PcrBank::kSha1, entry.template_data));
    if (!std::equal(hash.begin(), hash.end(), entry.template_hash.begin(),
                    entry.template_hash.end())) {
      return Refuse(Reason::kMeasurementMismatch, EntryName(item, number, entry),
                    "the template hash is not that of the entry's data",
                    "send the log as the kernel gives it");
    }
  }
  for (Track& track : tracks_) {
    Bytes extended;
    if (violation) {
      extended.assign(PcrSizeBytes(track.bank), 0xff);
    } else if (track.bank == PcrBank::kSha1 || track.rule == ImaBankRule::kPaddedSha1) {
      extended.assign(entry.template_hash.begin(), entry.template_hash.end());
      extended.resize(PcrSizeBytes(track.bank));
    } else {
      PAVISE_ASSIGN_OR_RETURN(extended, hasher.Hash(track.bank, entry.template_data));
    }
    PAVISE_ASSIGN_OR_RETURN(track.value, hasher.Hash(track.bank, track.value, extended));
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> ImaReplay::Continue(std::span<const ImaEntry> entries, PcrBank bank,
                                           const PcrValues& quoted, std::string_view item) {
  const Bytes* value = quoted.Get(bank, kImaRegister);
  const std::string name = PcrName(bank, kImaRegister);
  if (value == nullptr || *value == InitialPcrValue(bank, kImaRegister)) {
    return Refuse(Reason::kEvidenceMissing, name,
                  value == nullptr ? "is not quoted" : "is zero: IMA measured nothing",
                  "boot with ima_policy=tcb and quote PCR 10 in this bank");
  }
  if (entries_ == 0) tracks_.clear();
  for (const auto& [of_bank, values] : quoted.banks()) {
    if (!values.contains(kImaRegister)) continue;
    const bool known = std::any_of(tracks_.begin(), tracks_.end(),
                                   [&](const Track& track) { return track.bank == of_bank; });
    if (known) continue;
    if (entries_ > 0) {
      return Refuse(Reason::kMeasurementMismatch, PcrName(of_bank, kImaRegister),
                    "was not quoted for the first part of this log", "appraise the whole log");
    }
    const Bytes zero = InitialPcrValue(of_bank, kImaRegister);
    tracks_.push_back({of_bank, ImaBankRule::kOwnHash, zero});
    if (of_bank != PcrBank::kSha1) tracks_.push_back({of_bank, ImaBankRule::kPaddedSha1, zero});
  }
  Hasher hasher;
  size_t taken = 0;
  while (!Matches(bank, *value)) {
    if (taken == entries.size()) {
      return Refuse(Reason::kMeasurementMismatch, StrCat(item, ": ", name),
                    StrCat("none of the log's ", entries_,
                           " entries, replayed in order, leads to the quoted ", ToHex(*value)),
                    "send the log of this boot, whole and in order, read after the quote was made");
    }
    PAVISE_RETURN_IF_ERROR(Extend(entries[taken], entries_, hasher, item));
    ++taken;
    ++entries_;
  }
  for (const auto& [of_bank, values] : quoted.banks()) {
    const auto other = values.find(kImaRegister);
    if (other == values.end()) continue;
    if (!Matches(of_bank, other->second)) {
      return Refuse(
          Reason::kMeasurementMismatch, StrCat(item, ": ", PcrName(of_bank, kImaRegister)),
          StrCat("the log's first ", entries_, " entries lead to the quoted ", PcrBankName(bank),
                 " value, and not to this bank's ", ToHex(other->second)),
          "quote both banks in one quote");
    }
    std::erase_if(tracks_, [&](const Track& track) {
      return track.bank == of_bank && track.value != other->second;
    });
  }
  return taken;
}

}  // namespace pavise::evidence
