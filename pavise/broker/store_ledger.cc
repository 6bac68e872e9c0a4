#include "pavise/broker/store_ledger.h"

#include <algorithm>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::broker {
namespace {

constexpr std::string_view kItem = "ledger";
constexpr std::string_view kGroup = "ledger";
constexpr std::string_view kName = "state";

absl::Status Broken(std::string_view detail) {
  return Refuse(Reason::kContentMismatch, kItem, detail,
                "somebody wrote to the database; restore a backup");
}

}  // namespace

absl::StatusOr<std::vector<Digest32>> StoreNodes::ReadNodes(
    std::span<const uint64_t> positions) const {
  PAVISE_ASSIGN_OR_RETURN(const auto values, reader_.GetLedger(LedgerTable::kNodes, positions));
  std::vector<Digest32> nodes(positions.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!values[i].has_value() || values[i]->size_bytes() != nodes[i].size()) {
      return Broken(StrCat("node ", positions[i], " is missing in the store"));
    }
    std::ranges::copy(values[i]->Reveal(), nodes[i].begin());
  }
  return nodes;
}

absl::StatusOr<LedgerState> ReadLedgerState(StoreReader& reader) {
  PAVISE_ASSIGN_OR_RETURN(const auto value, reader.Get(Table::kMeta, kGroup, kName));
  LedgerState state;
  if (!value.has_value()) {
    PAVISE_ASSIGN_OR_RETURN(state.root, ledger::MerkleFrontier().Root());
    return state;
  }
  ByteReader fields(value->Reveal(), "ledger state");
  PAVISE_ASSIGN_OR_RETURN(state.size, fields.LittleEndian64("size"));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan root, fields.Take(state.root.size(), "root"));
  PAVISE_RETURN_IF_ERROR(fields.RequireEnd());
  std::ranges::copy(root, state.root.begin());
  return state;
}

absl::StatusOr<LedgerState> AppendToLedger(StoreTransaction& transaction,
                                           std::span<const std::string> entries) {
  PAVISE_ASSIGN_OR_RETURN(LedgerState state, ReadLedgerState(transaction));
  const StoreNodes nodes(transaction);
  PAVISE_ASSIGN_OR_RETURN(ledger::MerkleFrontier frontier,
                          ledger::MerkleFrontier::Read(state.size, nodes));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 root, frontier.Root());
  if (root != state.root) return Broken("its nodes do not give its root");
  uint64_t position = ledger::NodeCount(state.size);
  for (const std::string& entry : entries) {
    PAVISE_ASSIGN_OR_RETURN(const Digest32 leaf, ledger::LeafHash(AsBytes(entry)));
    std::vector<Digest32> completed;
    PAVISE_RETURN_IF_ERROR(transaction.PutLedger(LedgerTable::kEntries, frontier.size(),
                                                 SecretBytes(std::string_view(entry))));
    PAVISE_RETURN_IF_ERROR(frontier.Append(leaf, completed));
    for (const Digest32& node : completed) {
      PAVISE_RETURN_IF_ERROR(
          transaction.PutLedger(LedgerTable::kNodes, position++, SecretBytes(ByteSpan(node))));
    }
  }
  state.size = frontier.size();
  PAVISE_ASSIGN_OR_RETURN(state.root, frontier.Root());
  Bytes value;
  AppendLittleEndian64(state.size, value);
  value.insert(value.end(), state.root.begin(), state.root.end());
  PAVISE_RETURN_IF_ERROR(
      transaction.Put(Table::kMeta, kGroup, kName, SecretBytes(std::move(value))));
  return state;
}

absl::StatusOr<std::vector<std::string>> ReadLedgerEntries(StoreReader& reader,
                                                           std::span<const uint64_t> indices) {
  PAVISE_ASSIGN_OR_RETURN(const auto values, reader.GetLedger(LedgerTable::kEntries, indices));
  std::vector<std::string> entries;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!values[i].has_value()) return Broken(StrCat("entry ", indices[i], " is missing"));
    entries.emplace_back(values[i]->RevealText());
  }
  return entries;
}

absl::Status CheckLedger(StoreReader& reader,
                         std::span<const ledger::VerifiedCheckpoint> checkpoints) {
  PAVISE_ASSIGN_OR_RETURN(const LedgerState state, ReadLedgerState(reader));
  const StoreNodes nodes(reader);
  PAVISE_ASSIGN_OR_RETURN(const Digest32 root, ledger::RootOf(state.size, nodes));
  if (root != state.root) return Broken("its nodes do not give its root");
  for (const ledger::VerifiedCheckpoint& verified : checkpoints) {
    const ledger::Checkpoint& checkpoint = verified->checkpoint();
    if (checkpoint.size > state.size) {
      return Refuse(
          Reason::kVersionTooOld, kItem,
          StrCat("this is an old database: it has ", state.size, " entries, and a checkpoint with ",
                 checkpoint.size, " was countersigned"),
          "put the newest database back; if it is lost, the owners decide from their "
          "checkpoints whether to accept this one (broker recover)");
    }
    PAVISE_ASSIGN_OR_RETURN(const Digest32 then, ledger::RootOf(checkpoint.size, nodes));
    if (then != checkpoint.root) {
      return Refuse(Reason::kTransparencyInvalid, kItem,
                    StrCat("its first ", checkpoint.size,
                           " entries are not those of the countersigned checkpoint"),
                    "this database took another course: find out who wrote to it");
    }
  }
  return absl::OkStatus();
}

}  // namespace pavise::broker
