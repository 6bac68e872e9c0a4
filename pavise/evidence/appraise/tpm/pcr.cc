#include "pavise/evidence/appraise/tpm/pcr.h"

#include <array>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::evidence {
namespace {

struct BankEntry {
  std::string_view name;
  uint16_t algorithm;
  crypto::DigestAlgorithm digest;
};

// In the order of PcrBank.
constexpr std::array<BankEntry, 4> kBanks = {{
    {"sha1", 0x0004, crypto::DigestAlgorithm::kSha1},
    {"sha256", 0x000b, crypto::DigestAlgorithm::kSha256},
    {"sha384", 0x000c, crypto::DigestAlgorithm::kSha384},
    {"sha512", 0x000d, crypto::DigestAlgorithm::kSha512},
}};

const BankEntry& EntryOf(PcrBank bank) { return kBanks[static_cast<size_t>(bank)]; }

absl::Status CheckArguments(PcrBank bank, uint32_t index, ByteSpan digest) {
  if (index >= kPcrCount) {
    return Refuse(Reason::kMalformed, PcrName(bank, index),
                  StrCat("there are ", kPcrCount, " PCRs"));
  }
  if (digest.size() != PcrSizeBytes(bank)) {
    return Refuse(
        Reason::kMalformed, PcrName(bank, index),
        StrCat("a value of ", digest.size(), " bytes where ", PcrSizeBytes(bank), " are due"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view PcrBankName(PcrBank bank) { return EntryOf(bank).name; }

crypto::DigestAlgorithm PcrBankDigest(PcrBank bank) { return EntryOf(bank).digest; }

size_t PcrSizeBytes(PcrBank bank) { return crypto::DigestSizeBytes(EntryOf(bank).digest); }

std::optional<PcrBank> PcrBankOfAlgorithm(uint16_t tpm_algorithm) {
  for (size_t i = 0; i < kBanks.size(); ++i) {
    if (kBanks[i].algorithm == tpm_algorithm) return static_cast<PcrBank>(i);
  }
  return std::nullopt;
}

uint16_t AlgorithmOfPcrBank(PcrBank bank) { return EntryOf(bank).algorithm; }

std::string PcrName(PcrBank bank, uint32_t index) {
  return StrCat("PCR ", index, " (", PcrBankName(bank), ")");
}

Bytes InitialPcrValue(PcrBank bank, uint32_t index) {
  return Bytes(PcrSizeBytes(bank), index >= 17 && index <= 22 ? 0xff : 0x00);
}

const Bytes* PcrValues::Get(PcrBank bank, uint32_t index) const {
  const auto values = banks_.find(bank);
  if (values == banks_.end()) return nullptr;
  const auto value = values->second.find(index);
  return value == values->second.end() ? nullptr : &value->second;
}

absl::Status PcrValues::Set(PcrBank bank, uint32_t index, ByteSpan digest) {
  PAVISE_RETURN_IF_ERROR(CheckArguments(bank, index, digest));
  banks_[bank][index] = Bytes(digest.begin(), digest.end());
  return absl::OkStatus();
}

absl::Status PcrValues::Extend(PcrBank bank, uint32_t index, ByteSpan digest) {
  PAVISE_RETURN_IF_ERROR(CheckArguments(bank, index, digest));
  const Bytes* old_value = Get(bank, index);
  Bytes joined = old_value != nullptr ? *old_value : InitialPcrValue(bank, index);
  joined.insert(joined.end(), digest.begin(), digest.end());
  PAVISE_ASSIGN_OR_RETURN(Bytes new_value, crypto::Digest(PcrBankDigest(bank), joined));
  banks_[bank][index] = std::move(new_value);
  return absl::OkStatus();
}

}  // namespace pavise::evidence
