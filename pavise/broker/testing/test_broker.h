#ifndef PAVISE_BROKER_TESTING_TEST_BROKER_H_
#define PAVISE_BROKER_TESTING_TEST_BROKER_H_

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "pavise/base/clock.h"
#include "pavise/base/json.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/broker/service.h"
#include "pavise/broker/testing/test_databases.h"
#include "pavise/policy/testing/test_agreement.h"

#include "absl/time/time.h"

// A broker over a store of its own, the owners of policy::testing's agreement, and machines that
// ask for keys; no sockets.
namespace pavise::broker::testing {

// Stands where a test puts it.
class TestClock final : public Clock {
 public:
  absl::Time Now() const override {
    const std::scoped_lock lock(mutex_);
    return now_;
  }
  void Advance(absl::Duration duration) {
    const std::scoped_lock lock(mutex_);
    now_ += duration;
  }

 private:
  mutable std::mutex mutex_;
  absl::Time now_ = policy::testing::kTestTime;
};

// The content key of an asset, always the same.
SecretBytes ContentKeyOf(std::string_view asset);

class TestBroker {
 public:
  explicit TestBroker(std::unique_ptr<TestDatabase> database = MakeSqliteDatabase());

  // Ends the service and its store, and starts them anew.
  void Restart();
  Service& service() { return *service_; }
  Store& store() { return *store_; }
  ServiceOptions options();

  HttpResponse Send(std::string_view method, std::string_view target, std::string_view body = "",
                    std::map<std::string, std::string> headers = {});
  // Signed by the owner, now.
  HttpResponse Ask(const std::string& owner, std::string_view method, std::string_view target,
                   std::string_view body = "");
  HttpResponse Post(std::string_view target, ByteSpan body);

  // Proposed, its files sent, approved by all owners, every asset's key deposited.
  void Agree(const policy::Agreement& agreement);
  HttpResponse Deposit(const std::string& asset, const std::string& owner);
  std::string Target(std::string_view rest = "") const;  // "/pavise/v1/agreements/ID..."
  // The owner's copy of the history, which statements are made with.
  policy::AgreementHistory& history() { return *history_; }
  // Decisions and entries as an owner reads them.
  Json Decisions(const std::string& owner);

  // Of assets that are sealed in truth; of others ContentKeyOf.
  std::map<std::string, SecretBytes> content_keys;
  policy::testing::TestFiles files;
  policy::testing::TestMachine machine;
  policy::Agreement agreement;
  std::string id;
  TestClock clock;
  Metrics metrics;
  BrokerAttester* attester = nullptr;
  const evidence::RecordedTee* recorded_tee = nullptr;  // from the next Restart on
  std::set<std::string> proposers;
  ServiceOptions limits;           // only its limits are looked at
  std::string peer = "192.0.2.1";  // whom requests come from
  std::string log;
  bool log_requests = true;

 private:
  std::unique_ptr<TestDatabase> database_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Service> service_;
  std::optional<policy::AgreementHistory> history_;
};

// A machine with a session key of its own.
class TestSession {
 public:
  TestSession(TestBroker& broker, std::string stage = "train");

  HttpResponse Auth();
  // Evidence of `machine` for the last challenge.
  std::string Attestation(const policy::testing::TestMachine& machine) const;
  HttpResponse Attest(std::string_view body);
  // Both, with the broker's own agreed machine.
  HttpResponse AuthAndAttest();
  HttpResponse Get(const std::string& asset);
  // The key in Get's answer; a test failure where there is none.
  std::string Key(const HttpResponse& response) const;
  HttpResponse Send(std::string_view method, std::string_view target, std::string_view body = "");

  TestBroker& broker;
  std::string stage;
  std::string mode = "measured";
  std::string agreement;
  crypto::PrivateKey key;
  std::string cookie;
  Digest32 nonce{};
};

// Of a problem; nullopt for everything else.
std::string ReasonOfProblem(const HttpResponse& response);
std::string HeaderOf(const HttpResponse& response, std::string_view name);
Json JsonOf(const HttpResponse& response);

}  // namespace pavise::broker::testing

#endif  // PAVISE_BROKER_TESTING_TEST_BROKER_H_
