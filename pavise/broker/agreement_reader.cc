#include "pavise/broker/agreement_reader.h"

#include <iterator>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/policy/pinned_files.h"

namespace pavise::broker {
namespace {

constexpr std::string_view kItem = "stored statement";
constexpr size_t kPage = 1000;

absl::StatusOr<StoredStatement> ParseStatement(const Row& row) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(row.value.Reveal(), kItem));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, kItem));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t received, object.GetUint("received"));
  StoredStatement statement;
  statement.received = absl::FromUnixMicros(static_cast<int64_t>(received));
  PAVISE_ASSIGN_OR_RETURN(statement.envelope, object.GetString("envelope"));
  return statement;
}

absl::StatusOr<std::vector<Row>> ReadRows(StoreReader& reader, const std::string& id) {
  std::vector<Row> rows;
  while (true) {
    PAVISE_ASSIGN_OR_RETURN(
        std::vector<Row> page,
        reader.List(Table::kAgreements, id, rows.empty() ? 0 : rows.back().sequence, kPage));
    const bool is_last = page.size() < kPage;
    std::move(page.begin(), page.end(), std::back_inserter(rows));
    if (is_last) return rows;
  }
}

absl::StatusOr<std::vector<StoredStatement>> ParseStatements(const std::vector<Row>& rows) {
  std::vector<StoredStatement> statements;
  for (const Row& row : rows) {
    PAVISE_ASSIGN_OR_RETURN(StoredStatement statement, ParseStatement(row));
    statements.push_back(std::move(statement));
  }
  return statements;
}

}  // namespace

std::set<Digest32> AgreementView::PinnedFiles() const {
  std::set<Digest32> files;
  if (in_force.has_value()) {
    for (const auto& [version, agreement] : (*in_force)->versions) {
      files.merge(policy::PinnedFiles(*agreement));
    }
    files.merge(policy::PinnedFiles(*(*in_force)->agreement));
  }
  for (const policy::OpenProposal& proposal : open) {
    files.merge(policy::PinnedFiles(*proposal.agreement));
  }
  return files;
}

absl::StatusOr<std::vector<StoredStatement>> ReadStatements(StoreReader& reader,
                                                            const std::string& id) {
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows, ReadRows(reader, id));
  return ParseStatements(rows);
}

absl::Status PutStatement(StoreTransaction& transaction, const std::string& id,
                          const std::string& name, const StoredStatement& statement) {
  const OrderedJson row = {{"received", absl::ToUnixMicros(statement.received)},
                           {"envelope", statement.envelope}};
  return transaction.Put(Table::kAgreements, id, name, SecretBytes(DumpJson(row, -1)));
}

absl::StatusOr<policy::AgreementHistory> Replay(const std::vector<StoredStatement>& statements) {
  if (statements.empty()) return MachineFailure(kItem, "an agreement without statements");
  PAVISE_ASSIGN_OR_RETURN(policy::AgreementHistory history,
                          policy::AgreementHistory::Begin(AsBytes(statements.front().envelope),
                                                          statements.front().received));
  for (size_t i = 1; i < statements.size(); ++i) {
    PAVISE_RETURN_IF_ERROR(
        history.Append(AsBytes(statements[i].envelope), statements[i].received).status());
  }
  return history;
}

AgreementView ViewOf(const policy::AgreementHistory& history) {
  return {history.IdHex(), history.InForce(), history.Open(), history.Readers()};
}

absl::StatusOr<std::shared_ptr<const AgreementView>> AgreementReader::Load(StoreReader& reader,
                                                                           const std::string& id,
                                                                           absl::Time now,
                                                                           bool is_durable) {
  Kept kept;
  {
    const std::scoped_lock lock(mutex_);
    if (const auto found = kept_.find(id); found != kept_.end()) kept = found->second;
  }
  if (kept.view != nullptr) {
    PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> newer,
                            reader.List(Table::kAgreements, id, kept.last_sequence, 1));
    if (newer.empty()) return kept.view;
  }
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows, ReadRows(reader, id));
  if (rows.empty()) return std::shared_ptr<const AgreementView>();
  PAVISE_ASSIGN_OR_RETURN(const std::vector<StoredStatement> statements, ParseStatements(rows));
  PAVISE_ASSIGN_OR_RETURN(policy::AgreementHistory history, Replay(statements));
  history.Settle(now);
  auto view = std::make_shared<const AgreementView>(ViewOf(history));
  // A proposal that waits may come in force as time passes, so that its view is not kept.
  if (is_durable && view->open.empty()) {
    const std::scoped_lock lock(mutex_);
    if (kept_.size() >= kMostKept) kept_.clear();
    kept_[id] = {rows.back().sequence, view};
  }
  return view;
}

std::shared_ptr<const AgreementView> AgreementReader::Known(const std::string& id) const {
  const std::scoped_lock lock(mutex_);
  const auto found = kept_.find(id);
  return found == kept_.end() ? nullptr : found->second.view;
}

absl::StatusOr<Bytes> StoredAttachments::Read(const Digest32& digest) const {
  const std::string name = ToHex(digest);
  PAVISE_ASSIGN_OR_RETURN(const auto row, reader_.Get(Table::kAttachments, agreement_, name));
  if (!row.has_value()) {
    return Refuse(Reason::kFileMissing, name, "the agreement pins this file, and nobody sent it",
                  "send it with pavise policy propose --broker");
  }
  const ByteSpan content = row->Reveal();
  return Bytes(content.begin(), content.end());
}

}  // namespace pavise::broker
