#include "pavise/evidence/appraise/ima/ima_appraiser.h"

#include <algorithm>
#include <span>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"

namespace pavise::evidence {
namespace {

constexpr std::string_view kBootAggregate = "boot_aggregate";

std::optional<PcrBank> BankNamed(std::string_view name) {
  for (const PcrBank bank :
       {PcrBank::kSha1, PcrBank::kSha256, PcrBank::kSha384, PcrBank::kSha512}) {
    if (PcrBankName(bank) == name) return bank;
  }
  return std::nullopt;
}

// Linux, ima_crypto.c, ima_calc_boot_aggregate_tfm: PCR 0 to 7, and with other digests than SHA-1
// 8 and 9 too.
void CheckBootAggregate(PcrBank bank, ByteSpan aggregate, const PcrValues& quoted,
                        std::string_view item, CheckList& checks) {
  const auto fail = [&](Reason reason, std::string_view detail, std::string_view remedy) {
    checks.Fail(kBootAggregate, reason, StrCat(item, ": ", kBootAggregate), detail, remedy);
  };
  Bytes joined;
  for (uint32_t index = 0; index < (bank == PcrBank::kSha1 ? 8 : 10); ++index) {
    const Bytes* value = quoted.Get(bank, index);
    if (value == nullptr) {
      return fail(Reason::kEvidenceMissing, StrCat(PcrName(bank, index), " is not quoted"),
                  "quote PCR 0 to 9 in the bank of ima_hash, so that IMA is tied to the boot");
    }
    joined.insert(joined.end(), value->begin(), value->end());
  }
  const auto digest = crypto::Digest(PcrBankDigest(bank), joined);
  const std::string text = StrCat(PcrBankName(bank), ":", ToHex(aggregate));
  if (!digest.ok()) return fail(Reason::kUnsupported, digest.status().ToString(), "");
  if (!std::equal(digest->begin(), digest->end(), aggregate.begin(), aggregate.end())) {
    return fail(
        Reason::kMeasurementMismatch,
        StrCat("is ", text, ", the quoted registers give ", PcrBankName(bank), ":", ToHex(*digest)),
        "send log and quote of the same boot");
  }
  checks.Pass(kBootAggregate, StrCat("ties the log to the boot: ", text));
}

std::string EntryName(std::string_view item, const ImaEntry& entry) {
  return StrCat(item, ": ", Printable(entry.name));
}

// nullopt: of an algorithm that Pavise does not compute.
std::optional<bool> BufferMatches(const ImaEntry& entry) {
  const std::optional<PcrBank> bank = BankNamed(entry.algorithm);
  if (!bank.has_value()) return std::nullopt;
  const auto digest = crypto::Digest(PcrBankDigest(*bank), entry.buffer);
  return digest.ok() &&
         std::equal(digest->begin(), digest->end(), entry.digest.begin(), entry.digest.end());
}

}  // namespace

std::vector<std::string> ImaState::UnusedRules(const ImaPolicy& policy) const {
  std::vector<std::string> unused;
  for (size_t rule = 0; rule < policy.rule_count(); ++rule) {
    if (rule >= used_.size() || !used_[rule]) unused.push_back(policy.RuleName(rule));
  }
  return unused;
}

absl::StatusOr<VerifiedImaLog> ImaAppraiser::Appraise(const ImaLog& log, PcrBank bank,
                                                      const PcrValues& quoted,
                                                      const ImaPolicy& policy,
                                                      std::string_view item, ImaState& state,
                                                      CheckList& checks) {
  if (state.policy_.has_value() && *state.policy_ != policy.fingerprint()) {
    checks.Fail("IMA policy", Reason::kBindingMismatch, item,
                "the entries so far were appraised under other rules", "appraise the whole log");
    return checks.Verdict();
  }
  ImaState next = state;
  next.policy_ = policy.fingerprint();
  next.used_.resize(policy.rule_count());
  const auto taken = next.replay_.Continue(log.entries, bank, quoted, item);
  if (!taken.ok()) {
    PAVISE_RETURN_IF_ERROR(checks.Add("IMA log", "", taken.status()));
  }
  ImaClaims& claims = next.claims_;
  claims.bank = bank;
  claims.rule = next.replay_.rule();
  claims.entries = next.replay_.entries();
  claims.later_entries = log.entries.size() - *taken;
  checks.Pass("IMA log", StrCat(claims.entries, " entries replay to the quoted ",
                                PcrName(bank, kImaRegister), claims.rule.has_value() ? " by " : "",
                                claims.rule.has_value() ? ImaBankRuleName(*claims.rule) : "", "; ",
                                claims.later_entries, " later ones are not appraised"));

  uint64_t findings = 0;
  const auto find = [&](Refusal refusal) {
    if (++findings <= kMaxFindings) {
      checks.Fail("IMA entry", refusal.reason, refusal.item, refusal.detail, refusal.remedy);
    }
  };
  const std::span<const ImaEntry> covered(log.entries.data(), *taken);
  for (size_t i = 0; i < covered.size(); ++i) {
    const ImaEntry& entry = covered[i];
    const uint64_t number = state.entries() + i;
    if (number == 0) {
      const std::optional<PcrBank> of = BankNamed(entry.algorithm);
      if (entry.name != kBootAggregate || entry.is_violation() || !of.has_value()) {
        checks.Fail(
            kBootAggregate, Reason::kMeasurementMismatch, StrCat(item, ": ", kBootAggregate),
            "the log does not begin with boot_aggregate", "send the log from its first entry");
        continue;
      }
      next.aggregate_bank_ = of;
      next.aggregate_.assign(entry.digest.begin(), entry.digest.end());
      claims.boot_aggregate = entry.DigestText();
      continue;
    }
    const auto appraised = [&]() -> absl::Status {
      if (entry.name == kBootAggregate) {
        return Refuse(Reason::kPlatformInsecure, EntryName(item, entry),
                      StrCat("entry ", number,
                             " is a second boot_aggregate: another kernel was "
                             "started by kexec"),
                      "boot through the firmware, with kexec_load_disabled=1");
      }
      if (entry.kind == ImaTemplate::kImaBuf && !entry.is_violation() &&
          !BufferMatches(entry).value_or(true)) {
        return Refuse(Reason::kMeasurementMismatch, EntryName(item, entry),
                      StrCat("the buffer of entry ", number, " is not what its digest measured"));
      }
      PAVISE_ASSIGN_OR_RETURN(const ImaPolicy::Answer answer, policy.Appraise(entry, item));
      next.used_[answer.rule] = true;
      switch (answer.verdict) {
        case ImaPolicy::Verdict::kListed:
          ++claims.listed;
          break;
        case ImaPolicy::Verdict::kSigned:
          ++claims.signed_by_key;
          break;
        case ImaPolicy::Verdict::kExcluded:
          ++claims.excluded;
          break;
        case ImaPolicy::Verdict::kViolationAllowed:
          ++claims.violations;
          break;
      }
      return absl::OkStatus();
    }();
    if (appraised.ok()) continue;
    std::vector<Refusal> refusals = RefusalsOf(appraised);
    if (refusals.empty()) return appraised;  // the machine failed
    for (Refusal& refusal : refusals) find(std::move(refusal));
  }
  if (next.aggregate_bank_.has_value()) {
    CheckBootAggregate(*next.aggregate_bank_, next.aggregate_, quoted, item, checks);
  }
  if (findings > kMaxFindings) {
    checks.Fail("IMA entry", Reason::kLimitExceeded, item,
                StrCat(findings - kMaxFindings, " more entries are refused"));
  }
  PAVISE_RETURN_IF_ERROR(checks.Verdict());
  checks.Pass("IMA entries",
              StrCat(claims.listed, " listed, ", claims.signed_by_key, " signed, ", claims.excluded,
                     " excluded, ", claims.violations, " allowed violations"));
  state = std::move(next);
  return VerifiedImaLog(state.claims_);
}

}  // namespace pavise::evidence
