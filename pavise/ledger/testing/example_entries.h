#ifndef PAVISE_LEDGER_TESTING_EXAMPLE_ENTRIES_H_
#define PAVISE_LEDGER_TESTING_EXAMPLE_ENTRIES_H_

#include <string>

#include "pavise/ledger/entry.h"

namespace pavise::ledger::testing {

inline constexpr EntryKind kAllKinds[] = {
    EntryKind::kAgreementProposed, EntryKind::kApproval,          EntryKind::kAgreementInForce,
    EntryKind::kWithdrawal,        EntryKind::kDeposit,           EntryKind::kRunBegun,
    EntryKind::kRelease,           EntryKind::kRefusal,           EntryKind::kReattested,
    EntryKind::kRevocation,        EntryKind::kRunEnded,          EntryKind::kOutputDeposited,
    EntryKind::kOutputApproval,    EntryKind::kOutputReleased,    EntryKind::kKeyRotation,
    EntryKind::kBrokerStarted,     EntryKind::kCheckpointCosigned};

inline std::string KeyId(char digit) { return std::string(64, digit); }

inline Digest32 FilledDigest(uint8_t byte) {
  Digest32 digest;
  digest.fill(byte);
  return digest;
}

// An entry of this kind with all that the kind needs, and owners where it may have them.
inline LedgerEntry ExampleEntry(EntryKind kind) {
  LedgerEntry entry;
  entry.kind = kind;
  entry.time = absl::FromUnixMicros(1'767'225'600'000'001);  // 2026-01-01
  entry.salt = {1, 2, 3};
  const bool of_broker = kind == EntryKind::kKeyRotation || kind == EntryKind::kBrokerStarted ||
                         kind == EntryKind::kCheckpointCosigned;
  if (!of_broker) {
    entry.agreement = FilledDigest(0xaa);
    entry.sequence = 3;
    entry.version = 2;
    if (kind != EntryKind::kRefusal) entry.owners = {KeyId('a'), KeyId('b')};
  }
  const auto in_stage = [&] {
    entry.stage = "train";
    entry.mode = "measured";
  };
  const auto of_session = [&] {
    entry.run.emplace().fill(0x77);
    entry.session = KeyId('5');
  };
  const auto signed_by_owner = [&] {
    entry.actor = KeyId('a');
    entry.statement = FilledDigest(0x51);
  };
  switch (kind) {
    case EntryKind::kAgreementInForce:
      break;
    case EntryKind::kAgreementProposed:
    case EntryKind::kApproval:
    case EntryKind::kWithdrawal:
    case EntryKind::kCheckpointCosigned:
      signed_by_owner();
      break;
    case EntryKind::kDeposit:
      signed_by_owner();
      entry.asset = "scans";
      entry.sealed = FilledDigest(0x5e);
      break;
    case EntryKind::kRunBegun:
    case EntryKind::kReattested:
      in_stage();
      of_session();
      entry.evidence = FilledDigest(0xe1);
      break;
    case EntryKind::kRelease:
      in_stage();
      of_session();
      entry.asset = "scans";
      entry.sealed = FilledDigest(0x5e);
      entry.machine = "tpm:3b7a";
      entry.evidence = FilledDigest(0xe1);
      entry.decision = FilledDigest(0xde);
      break;
    case EntryKind::kRefusal:
      entry.reasons = {{"measurement-unknown", "/usr/bin/python3", "no reference value covers it"}};
      break;
    case EntryKind::kRevocation:
      of_session();
      entry.reasons = {{"policy-denied", "withdrawal", ""}};
      break;
    case EntryKind::kRunEnded:
      of_session();
      break;
    case EntryKind::kOutputDeposited:
      of_session();
      entry.asset = "model";
      break;
    case EntryKind::kOutputApproval:
      of_session();
      entry.session.clear();
      signed_by_owner();
      entry.asset = "model";
      break;
    case EntryKind::kOutputReleased:
      of_session();
      entry.session.clear();
      entry.asset = "model";
      entry.recipients = {KeyId('c')};
      break;
    case EntryKind::kKeyRotation:
      entry.key = KeyId('e');
      entry.previous_key = KeyId('d');
      break;
    case EntryKind::kBrokerStarted:
      entry.key = KeyId('d');
      break;
  }
  return entry;
}

}  // namespace pavise::ledger::testing

#endif  // PAVISE_LEDGER_TESTING_EXAMPLE_ENTRIES_H_
