#ifndef PAVISE_LEDGER_TESTING_EXAMPLE_LOG_H_
#define PAVISE_LEDGER_TESTING_EXAMPLE_LOG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/crypto/keys.h"
#include "pavise/ledger/bundle.h"
#include "pavise/ledger/testing/example_entries.h"
#include "pavise/ledger/testing/memory_nodes.h"

#include "gtest/gtest.h"

namespace pavise::ledger::testing {

inline constexpr const char* kOrigin = "broker.example/ledger";

// The Ed25519 key whose seed is 32 times this byte: signatures are the same in every run.
inline crypto::PrivateKey KeyOfSeed(uint8_t seed) {
  // RFC 8410: what stands before the seed in a PKCS #8 structure.
  Bytes der = {0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06,
               0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20};
  der.insert(der.end(), 32, seed);
  const std::string pem =
      StrCat("-----BEGIN PRIVATE KEY-----\n", ToBase64(der), "\n-----END PRIVATE KEY-----\n");
  auto key = crypto::PrivateKey::FromPemOfAnyType(SecretBytes(pem), SecretBytes(), "test key");
  if (!key.ok()) abort();
  return *std::move(key);
}

inline NoteKey LogKey(uint8_t seed = 1, const std::string& name = kOrigin) {
  return *NoteKey::Create(name, NoteKeyKind::kLog, KeyOfSeed(seed).public_key());
}
inline NoteKey CosignerKey(uint8_t seed, const std::string& name) {
  return *NoteKey::Create(name, NoteKeyKind::kCosigner, KeyOfSeed(seed).public_key());
}

// A broker's log of whole entries, and what it would hand out.
class ExampleLog {
 public:
  void Append(const LedgerEntry& entry) {
    const auto text = FormatEntry(entry);
    ASSERT_TRUE(text.ok()) << text.status();
    AppendText(*text);
  }
  void AppendText(const std::string& text) {
    texts.push_back(text);
    nodes.Append(text);
  }

  CheckpointNote CheckpointAt(uint64_t size, uint8_t seed = 1) const {
    crypto::PrivateKey key = KeyOfSeed(seed);
    return *SignCheckpoint({kOrigin, size, *RootOf(size, nodes)}, key);
  }
  // All entries at `size`, with the checkpoints of these earlier sizes.
  LedgerBundle BundleAt(uint64_t size, const std::vector<uint64_t>& earlier = {}) const {
    LedgerBundle bundle;
    bundle.checkpoint = CheckpointAt(size);
    for (const uint64_t each : earlier) {
      bundle.earlier.push_back(*MakeEarlierCheckpoint(CheckpointAt(each), size, nodes));
    }
    for (uint64_t i = 0; i < size; ++i) {
      bundle.entries.push_back(*MakeBundleEntry(i, texts[i], size, nodes));
    }
    return bundle;
  }

  std::vector<std::string> texts;
  MemoryLog nodes;
};

// One entry of each kind in order, a second apart: 17 entries, of which 14 are of one agreement.
inline std::vector<LedgerEntry> ExampleHistory() {
  std::vector<LedgerEntry> entries;
  uint64_t sequence = 0;
  for (const EntryKind kind : kAllKinds) {
    LedgerEntry entry = ExampleEntry(kind);
    entry.time += absl::Seconds(entries.size());
    if (entry.agreement.has_value()) entry.sequence = ++sequence;
    entries.push_back(entry);
  }
  return entries;
}

inline ExampleLog LogOf(const std::vector<LedgerEntry>& entries) {
  ExampleLog log;
  for (const LedgerEntry& entry : entries) log.Append(entry);
  return log;
}

}  // namespace pavise::ledger::testing

#endif  // PAVISE_LEDGER_TESTING_EXAMPLE_LOG_H_
