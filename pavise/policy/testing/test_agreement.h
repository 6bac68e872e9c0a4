#ifndef PAVISE_POLICY_TESTING_TEST_AGREEMENT_H_
#define PAVISE_POLICY_TESTING_TEST_AGREEMENT_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/crypto/keys.h"
#include "pavise/evidence/appraise/composite/composite_evidence.h"
#include "pavise/policy/agreement.h"
#include "pavise/policy/history.h"
#include "pavise/policy/stage_evidence.h"

#include "absl/time/time.h"

// An agreement between owners of the test's, and a machine that fulfils it. Functions abort the
// program where a key cannot be made or a signature cannot be written.
namespace pavise::policy::testing {

inline const absl::Time kTestTime = absl::FromUnixSeconds(1'800'000'000);  // 2027-01-15T08:00:00Z

// One pair of keys a name and purpose, made when first asked for and kept for the whole program.
crypto::PrivateKey& SigningKey(const std::string& name);
crypto::PrivateKey& EncryptionKey(const std::string& name);
Stakeholder StakeholderOf(const std::string& name);

// Files in memory, by name and by digest.
class TestFiles final : public FileSource, public AttachmentSource {
 public:
  void Add(const std::string& name, std::string_view content);
  absl::StatusOr<Bytes> Read(const std::string& name, uint64_t max_bytes) const override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) const override;
  absl::StatusOr<Bytes> Read(const Digest32& digest) const override;
  // By name, for rules.
  Digest32 DigestOf(const std::string& name) const;

 private:
  std::map<std::string, Bytes> by_name_;
  std::map<Digest32, Bytes> by_digest_;
};

// A measured host whose attestation key an appraisal policy lists; PCR 4 and 7 are what it booted.
class TestMachine {
 public:
  explicit TestMachine(std::string_view booted = "the agreed image");
  ~TestMachine();
  // Adds "NAME.json" and "NAME-reference.json", and gives the rules that accept this machine alone.
  EvidenceRules Rules(TestFiles& files, const std::string& name = "policy") const;
  // From now on it has booted this.
  void Boot(std::string_view booted);
  evidence::CompositeEvidence Evidence(const Digest32& nonce) const;
  evidence::CompositeEvidence Evidence(const Digest32& nonce,
                                       const crypto::PublicKey& session_key) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// "vendor" owns the code "trainer" and the model "base", "clinic-a" and "clinic-b" own data
// "scans-a" and "scans-b". The stage "train" uses all of it and gives "tuned" to the vendor;
// "audit" uses the trainer and scans-a, and gives "report" to clinic-a. 2 of 3 decide about
// changes. Both stages run in mode "measured" under `rules`.
Agreement ThreeOwners(const EvidenceRules& rules);

// Version n + 1 of `payload`, changed no further.
Agreement NextOf(const std::string& payload);

std::string Payload(const Agreement& agreement);
Digest32 DigestOf(std::string_view payload);

// Envelopes (JSON), signed by SigningKey(name).
Bytes Signed(std::string_view type, const std::string& payload, const std::string& name);
Bytes Proposed(const Agreement& agreement, const std::string& name);
Bytes Voted(const AgreementHistory& history, const Agreement& agreement, const std::string& name,
            absl::Time at, Vote vote = Vote::kApprove);
Bytes Withdrawn(const AgreementHistory& history, const std::set<std::string>& assets,
                const std::string& name, absl::Time at);
Bytes Deposited(const AgreementHistory& history, const std::string& asset, const std::string& name,
                std::string_view broker_key_id);

// Version 1, proposed by its first stakeholder and approved by every owner at kTestTime.
AgreementHistory InForceHistory(const Agreement& agreement);

}  // namespace pavise::policy::testing

#endif  // PAVISE_POLICY_TESTING_TEST_AGREEMENT_H_
