#include "pavise/evidence/appraise/ima/ima_replay.h"

#include <algorithm>
#include <array>
#include <map>
#include <span>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"

namespace pavise::evidence {
namespace {

constexpr size_t kMaxPcrBytes = 64;  // SHA-512

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
  // `hash` has the bank's length, and may be one of the others.
  absl::Status Hash(PcrBank bank, ByteSpan first, ByteSpan second, std::span<uint8_t> hash) {
    auto digester = digesters_.find(bank);
    if (digester == digesters_.end()) {
      PAVISE_ASSIGN_OR_RETURN(crypto::Digester made, crypto::Digester::Create(PcrBankDigest(bank)));
      digester = digesters_.emplace(bank, std::move(made)).first;
    }
    PAVISE_RETURN_IF_ERROR(digester->second.Update(first));
    PAVISE_RETURN_IF_ERROR(digester->second.Update(second));
    return digester->second.FinishInto(hash);
  }

 private:
  std::map<PcrBank, crypto::Digester> digesters_;
};

absl::Status ImaReplay::Extend(const ImaEntry& entry, ImaBankRule rule, Hasher& hasher,
                               std::string_view item) {
  if (entry.register_index != kImaRegister) {
    return Refuse(Reason::kUnsupported, EntryName(item, entries_, entry),
                  StrCat("extends PCR ", entry.register_index, ", not ", kImaRegister),
                  "use an IMA policy without pcr=");
  }
  const bool violation = entry.is_violation();
  if (!violation) {
    std::array<uint8_t, 20> hash;
    PAVISE_RETURN_IF_ERROR(hasher.Hash(PcrBank::kSha1, entry.template_data, {}, hash));
    if (!std::equal(hash.begin(), hash.end(), entry.template_hash.begin(),
                    entry.template_hash.end())) {
      return Refuse(Reason::kMeasurementMismatch, EntryName(item, entries_, entry),
                    "the template hash is not that of the entry's data",
                    "send the log as the kernel gives it");
    }
  }
  for (auto& [bank, value] : values_) {
    std::array<uint8_t, kMaxPcrBytes> extended{};
    const std::span with(extended.data(), PcrSizeBytes(bank));
    if (violation) {
      std::ranges::fill(with, 0xff);
    } else if (bank == PcrBank::kSha1 || rule == ImaBankRule::kPaddedSha1) {
      std::ranges::copy(entry.template_hash, with.begin());
    } else {
      PAVISE_RETURN_IF_ERROR(hasher.Hash(bank, entry.template_data, {}, with));
    }
    PAVISE_RETURN_IF_ERROR(hasher.Hash(bank, value, with, value));
  }
  ++entries_;
  return absl::OkStatus();
}

absl::StatusOr<size_t> ImaReplay::ContinueUnder(ImaBankRule rule, std::span<const ImaEntry> entries,
                                                PcrBank bank, const PcrValues& quoted,
                                                Hasher& hasher, std::string_view item) {
  const Bytes& wanted = *quoted.Get(bank, kImaRegister);
  const auto of_bank = std::find_if(values_.begin(), values_.end(),
                                    [&](const auto& value) { return value.first == bank; });
  size_t taken = 0;
  for (; of_bank->second != wanted; ++taken) {
    if (taken == entries.size()) {
      return Refuse(Reason::kMeasurementMismatch, StrCat(item, ": ", PcrName(bank, kImaRegister)),
                    StrCat("none of the log's ", entries_,
                           " entries, replayed in order, leads to the quoted ", ToHex(wanted)),
                    "send the log of this boot, whole and in order, read after the quote was made");
    }
    PAVISE_RETURN_IF_ERROR(Extend(entries[taken], rule, hasher, item));
  }
  for (const auto& [other, value] : values_) {
    if (value == *quoted.Get(other, kImaRegister)) continue;
    return Refuse(Reason::kMeasurementMismatch, StrCat(item, ": ", PcrName(other, kImaRegister)),
                  StrCat("the log's first ", entries_, " entries lead to the quoted ",
                         PcrBankName(bank), " value, and in this bank to ", ToHex(value),
                         ", not to the quoted ", ToHex(*quoted.Get(other, kImaRegister))),
                  "quote both banks in one quote");
  }
  if (bank != PcrBank::kSha1) rule_ = rule;
  return taken;
}

absl::StatusOr<size_t> ImaReplay::Continue(std::span<const ImaEntry> entries, PcrBank bank,
                                           const PcrValues& quoted, std::string_view item) {
  const Bytes* value = quoted.Get(bank, kImaRegister);
  if (value == nullptr || *value == InitialPcrValue(bank, kImaRegister)) {
    return Refuse(Reason::kEvidenceMissing, PcrName(bank, kImaRegister),
                  value == nullptr ? "is not quoted" : "is zero: IMA measured nothing",
                  "boot with ima_policy=tcb and quote PCR 10 in this bank");
  }
  if (entries_ == 0) {
    values_.clear();
    for (const auto& [of_bank, values] : quoted.banks()) {
      if (!values.contains(kImaRegister)) continue;
      values_.emplace_back(of_bank, InitialPcrValue(of_bank, kImaRegister));
    }
  }
  size_t quoted_banks = 0;
  for (const auto& [of_bank, values] : quoted.banks()) quoted_banks += values.count(kImaRegister);
  if (quoted_banks != values_.size() ||
      std::any_of(values_.begin(), values_.end(), [&](const auto& known) {
        return quoted.Get(known.first, kImaRegister) == nullptr;
      })) {
    return Refuse(Reason::kMeasurementMismatch, PcrName(bank, kImaRegister),
                  "is quoted in other banks than for the first part of this log",
                  "appraise the whole log");
  }
  // A kernel has one rule; the common one first. SHA-1 alone does not tell them apart.
  Hasher hasher;
  ImaReplay own = *this;
  const ImaBankRule first_rule = rule_.value_or(ImaBankRule::kOwnHash);
  const auto taken = own.ContinueUnder(first_rule, entries, bank, quoted, hasher, item);
  if (taken.ok() || rule_.has_value() || ReasonOf(taken.status()) != Reason::kMeasurementMismatch) {
    *this = std::move(own);
    return taken;
  }
  ImaReplay padded = *this;
  auto by_padded =
      padded.ContinueUnder(ImaBankRule::kPaddedSha1, entries, bank, quoted, hasher, item);
  if (!by_padded.ok()) return taken;
  *this = std::move(padded);
  return by_padded;
}

}  // namespace pavise::evidence
