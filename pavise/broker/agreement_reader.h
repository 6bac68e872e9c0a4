#ifndef PAVISE_BROKER_AGREEMENT_READER_H_
#define PAVISE_BROKER_AGREEMENT_READER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/broker/store.h"
#include "pavise/policy/history.h"
#include "pavise/policy/stage_evidence.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::broker {

// An agreement as of one view of the store. Immutable.
struct AgreementView {
  std::string id;  // hexadecimal
  std::optional<policy::AgreementInForce> in_force;
  std::vector<policy::OpenProposal> open;
  std::map<std::string, crypto::PublicKey> readers;  // by key id

  // What all versions in force or open pin.
  std::set<Digest32> PinnedFiles() const;
};

// A statement that was taken: a row of Table::kAgreements under the agreement's id, named by the
// SHA-256 of its envelope's text.
struct StoredStatement {
  absl::Time received;
  std::string envelope;
};
absl::StatusOr<std::vector<StoredStatement>> ReadStatements(StoreReader& reader,
                                                            const std::string& id);
absl::Status PutStatement(StoreTransaction& transaction, const std::string& id,
                          const std::string& name, const StoredStatement& statement);
// All statements of one agreement, one after the other. There must be one.
absl::StatusOr<policy::AgreementHistory> Replay(const std::vector<StoredStatement>& statements);
AgreementView ViewOf(const policy::AgreementHistory& history);

// Agreements as they stand in the store, which alone says what they are: another broker may have
// written to it. Keeps what it has replayed while no statement was added. Thread-safe.
class AgreementReader {
 public:
  // nullptr: there is none of that id. `is_durable`: the reader shows what is committed and nothing
  // else (Store::Read), so that the view may be kept.
  absl::StatusOr<std::shared_ptr<const AgreementView>> Load(StoreReader& reader,
                                                            const std::string& id, absl::Time now,
                                                            bool is_durable);
  // What was kept last, without a look at the store: it may have changed since. nullptr: nothing.
  std::shared_ptr<const AgreementView> Known(const std::string& id) const;

 private:
  static constexpr size_t kMostKept = 1024;
  struct Kept {
    uint64_t last_sequence = 0;
    std::shared_ptr<const AgreementView> view;
  };
  mutable std::mutex mutex_;
  std::map<std::string, Kept> kept_;
};

// An agreement's attachments in the store: rows of Table::kAttachments under its id, named by their
// digest. Borrows the reader.
class StoredAttachments final : public policy::AttachmentSource {
 public:
  StoredAttachments(StoreReader& reader, std::string agreement)
      : reader_(reader), agreement_(std::move(agreement)) {}
  absl::StatusOr<Bytes> Read(const Digest32& digest) const override;

 private:
  StoreReader& reader_;
  const std::string agreement_;
};

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_AGREEMENT_READER_H_
