// `pavise broker serve`, the whole program, killed (SIGKILL) again and again while machines get
// keys of it: SQLite with a counter in a TPM (swtpm). What owners read in the ledger of the next
// start is held against what the machines got.

#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pavise/agent/kbs_broker.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/broker/root_key.h"
#include "pavise/broker/testing/test_broker.h"
#include "pavise/broker/testing/test_databases.h"
#include "pavise/broker/tpm/broker_tpm.h"
#include "pavise/cli/broker_connection.h"
#include "pavise/cli/testing/broker_process.h"
#include "pavise/cli/testing/command.h"
#include "pavise/evidence/testing/swtpm.h"
#include "pavise/ledger/bundle.h"

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using broker::testing::ContentKeyOf;
using broker::testing::TestBroker;
using broker::testing::TestRootKey;
using evidence::testing::Swtpm;
using ledger::EntryKind;
using testing::BrokerProcess;

// How often the broker is killed: 20 times, or $PAVISE_CRASH_ROUNDS (make test-long).
int Rounds() {
  const char* rounds = getenv("PAVISE_CRASH_ROUNDS");
  return rounds != nullptr ? std::max(1, atoi(rounds)) : 20;
}

// Stands between broker and TPM and kills the broker at a moment that nobody meets by chance: when
// its batch is durable and the counter has not moved, or has moved and the broker has not heard of
// it.
class TpmTap {
 public:
  enum class Moment { kBeforeCount, kAfterCount };

  TpmTap(std::string tpm_socket, const std::string& path) : tpm_socket_(std::move(tpm_socket)) {
    listener_ = FileDescriptor(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = AddressOf(path);
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
    EXPECT_EQ(listen(listener_.get(), 4), 0);
    thread_ = std::thread([this] { Run(); });
  }
  ~TpmTap() {
    shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }

  bool is_armed() {
    const std::scoped_lock lock(mutex_);
    return armed_.has_value();
  }

  // At the `occurrence`-th time from now on that the counter is to move.
  void KillAt(Moment moment, int occurrence, pid_t process) {
    const std::scoped_lock lock(mutex_);
    armed_ = Armed{moment, occurrence, process};
  }

 private:
  struct Armed {
    Moment moment;
    int left;
    pid_t process;
  };

  static sockaddr_un AddressOf(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    return address;
  }

  // One command or answer (TPM 2.0 Library, part 1, 18.4): tag, size of the whole, code, the rest.
  static std::optional<Bytes> ReadMessage(int from) {
    constexpr size_t kHeaderBytes = 10;
    Bytes message(kHeaderBytes);
    if (recv(from, message.data(), kHeaderBytes, MSG_WAITALL) != kHeaderBytes) return std::nullopt;
    const size_t size_bytes = NumberAt(message, 2);
    if (size_bytes < kHeaderBytes || size_bytes > 1u << 16) return std::nullopt;
    message.resize(size_bytes);
    const auto rest = static_cast<ssize_t>(size_bytes - kHeaderBytes);
    if (rest > 0 &&
        recv(from, message.data() + kHeaderBytes, static_cast<size_t>(rest), MSG_WAITALL) != rest) {
      return std::nullopt;
    }
    return message;
  }
  static uint32_t NumberAt(const Bytes& message, size_t offset) {
    return uint32_t{message[offset]} << 24 | uint32_t{message[offset + 1]} << 16 |
           uint32_t{message[offset + 2]} << 8 | message[offset + 3];
  }
  static bool Send(int to, const Bytes& message) {
    return send(to, message.data(), message.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(message.size());
  }

  // Whether `moment` of this command is the one to kill at; does so.
  bool Kills(const Bytes& command, Moment moment) {
    constexpr uint32_t kNvIncrement = 0x134;  // TPM_CC_NV_Increment
    if (NumberAt(command, 6) != kNvIncrement) return false;
    const std::scoped_lock lock(mutex_);
    if (!armed_.has_value() || armed_->moment != moment || --armed_->left > 0) return false;
    kill(armed_->process, SIGKILL);
    armed_.reset();
    return true;
  }

  void Run() {
    while (true) {
      const FileDescriptor client(accept(listener_.get(), nullptr, nullptr));
      if (!client.is_open()) return;
      const FileDescriptor tpm(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      const sockaddr_un address = AddressOf(tpm_socket_);
      if (connect(tpm.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        continue;
      }
      while (true) {
        const std::optional<Bytes> command = ReadMessage(client.get());
        if (!command.has_value() || Kills(*command, Moment::kBeforeCount)) break;
        if (!Send(tpm.get(), *command)) break;
        const std::optional<Bytes> answer = ReadMessage(tpm.get());
        if (!answer.has_value() || Kills(*command, Moment::kAfterCount)) break;
        if (!Send(client.get(), *answer)) break;
      }
    }
  }

  const std::string tpm_socket_;
  FileDescriptor listener_;
  std::mutex mutex_;
  std::optional<Armed> armed_;
  std::thread thread_;
};

// A database with a TPM's counter, where the program will find it.
class CountedDatabase final : public broker::testing::TestDatabase {
 public:
  CountedDatabase(std::string path, const std::string& tcti)
      : path_(std::move(path)), tpm_(broker::BrokerTpm::Open(tcti).value()) {}
  broker::StoreOptions options() const override {
    broker::StoreOptions options;
    options.location = path_;
    options.counter = tpm_.get();
    return options;
  }
  void Execute(const std::string&) override { ADD_FAILURE() << "not here"; }
  std::string Content() override { return ""; }

 private:
  const std::string path_;
  const std::unique_ptr<broker::BrokerTpm> tpm_;
};

// Machines that attest and get a key of it, each time as a new session, until the broker is gone.
class Load {
 public:
  static constexpr int kMachines = 4;

  Load(const policy::testing::TestMachine& machine, std::string agreement, const std::string& url) {
    for (int i = 0; i < kMachines; ++i) {
      threads_.emplace_back([this, &machine, agreement, url] {
        while (Release(machine, agreement, url)) {
        }
        const std::scoped_lock lock(mutex_);
        --running_;
        changed_.notify_all();
      });
    }
  }

  // Returns when so many keys were released, or no broker answers any more.
  void AwaitReleases(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return sessions_.size() >= count || running_ == 0; });
  }
  // Waits until no broker answers any more. Key ids of the sessions that got the key.
  const std::set<std::string>& Join() {
    for (std::thread& thread : threads_) thread.join();
    return sessions_;
  }

 private:
  bool Release(const policy::testing::TestMachine& machine, const std::string& agreement,
               const std::string& url) {
    kbs::ClientOptions client_options;
    client_options.base_url = url;
    client_options.allow_plain_loopback = true;
    kbs::Client client = kbs::Client::Create(client_options).value();
    const crypto::PrivateKey key = crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value();
    agent::RunOptions options;
    options.agreement = agreement;
    options.stage = "train";
    agent::KbsBroker run(client, key, options);
    const absl::Status released = [&]() -> absl::Status {
      PAVISE_ASSIGN_OR_RETURN(const Digest32 nonce, run.Challenge());
      std::optional<evidence::CompositeEvidence> evidence;
      {
        const std::scoped_lock lock(machine_mutex_);
        evidence = machine.Evidence(nonce, key.public_key());
      }
      PAVISE_RETURN_IF_ERROR(run.Attest(*evidence).status());
      PAVISE_RETURN_IF_ERROR(run.Agreement().status());
      PAVISE_ASSIGN_OR_RETURN(const SecretBytes content_key, run.Key("base"));
      EXPECT_TRUE(content_key.Equals(ContentKeyOf("base")));
      return absl::OkStatus();
    }();
    if (!released.ok()) {
      // Gone in the middle of it, and no refusal.
      EXPECT_FALSE(ReasonOf(released).has_value()) << released;
      return false;
    }
    const std::scoped_lock lock(mutex_);
    sessions_.insert(key.public_key().Fingerprint());
    changed_.notify_all();
    return true;
  }

  std::mutex machine_mutex_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int running_ = kMachines;
  std::set<std::string> sessions_;
  std::vector<std::thread> threads_;
};

class BrokerCrashTest : public testing::CommandTest {
 protected:
  void SetUp() override {
    const std::string missing = evidence::testing::SwtpmMissing();
    if (!missing.empty()) GTEST_SKIP() << missing;
    swtpm_ = Swtpm::Start(authority_);
    ASSERT_NE(swtpm_, nullptr);
    tap_.emplace(swtpm_->path() + "/socket", Path("tpm"));
    std::filesystem::create_symlink(swtpm_->path() + "/socket.ctrl", Path("tpm.ctrl"));

    TestBroker made(std::make_unique<CountedDatabase>(Path("broker.db"), swtpm_->tcti()));
    made.clock.Advance(absl::Now() - made.clock.Now());
    policy::Agreement agreement = policy::testing::ThreeOwners(machine_.Rules(made.files));
    for (auto& [name, stage] : agreement.stages) {
      stage.limits.not_after = made.clock.Now() + absl::Hours(24);
      stage.limits.runs = 1'000'000;
    }
    made.Agree(agreement);
    id_ = made.id;
    ASSERT_TRUE(broker::SaveRootKey(Path("root_key.json"), TestRootKey(1), {}).ok());
    WriteConfiguration("broker.json", "broker.db");
    WriteConfiguration("old.json", "old.db");
  }

  void WriteConfiguration(const std::string& name, const std::string& database) const {
    Write(name, Json({{"pavise_broker", 1},
                      {"name", "broker.example/ledger"},
                      {"listen", "127.0.0.1:0"},
                      {"metrics", ""},
                      {"sqlite", Path(database)},
                      {"root_key", Path("root_key.json")},
                      {"tpm", "swtpm:path=" + Path("tpm")},
                      {"counter", true}})
                    .dump());
  }

  // What an owner is shown, verified, and proven to go on from the ledger of `size` entries.
  absl::StatusOr<ledger::VerifiedBundle> Ledger(const std::string& url, uint64_t size) const {
    kbs::ClientOptions options;
    options.base_url = url;
    options.allow_plain_loopback = true;
    PAVISE_ASSIGN_OR_RETURN(kbs::Client client, kbs::Client::Create(options));
    PAVISE_ASSIGN_OR_RETURN(const BrokerDescription described, DescribeBroker(client));
    PAVISE_ASSIGN_OR_RETURN(const ledger::NoteKey log,
                            ledger::NoteKey::Parse(described.ledger_key, "ledger key"));
    const std::string rest = size == 0 ? "/ledger" : StrCat("/ledger?earlier=", size);
    PAVISE_ASSIGN_OR_RETURN(const std::string target, AgreementTarget(id_, rest));
    PAVISE_ASSIGN_OR_RETURN(const kbs::HttpResponse shown,
                            SignedRequest(client, described, "GET", target, {},
                                          policy::testing::SigningKey("clinic-a")));
    PAVISE_ASSIGN_OR_RETURN(const ledger::LedgerBundle bundle,
                            ledger::ParseBundle(shown.body, "bundle"));
    return ledger::BundleVerifier::Verify(bundle, {.log = log, .cosigners = {}}, "bundle");
  }

  void CopyDatabase() const {
    for (const std::string end : {"", "-wal"}) {
      std::filesystem::remove(Path("old.db" + end));
      if (std::filesystem::exists(Path("broker.db" + end))) {
        std::filesystem::copy_file(Path("broker.db" + end), Path("old.db" + end));
      }
    }
  }

  evidence::testing::SwtpmAuthority authority_;
  std::unique_ptr<Swtpm> swtpm_;
  std::optional<TpmTap> tap_;
  std::string id_;
  policy::testing::TestMachine machine_;
};

TEST_F(BrokerCrashTest, NoReleaseIsMissingAndNoneIsWithoutItsEntry) {
  constexpr unsigned kSeed = 20261122;
  SCOPED_TRACE(StrCat("seed ", kSeed));
  std::minstd_rand random(kSeed);
  std::set<std::string> released;
  uint64_t size = 0;
  std::chrono::steady_clock::duration slowest{};
  for (int round = 0; round <= Rounds(); ++round) {
    SCOPED_TRACE(StrCat("round ", round));
    const auto begun = std::chrono::steady_clock::now();
    BrokerProcess broker(directory_.path(), "broker.json");
    slowest = std::max(slowest, std::chrono::steady_clock::now() - begun);
    ASSERT_TRUE(broker.is_running());
    const absl::StatusOr<ledger::VerifiedBundle> shown = Ledger(broker.url(), size);
    ASSERT_TRUE(shown.ok()) << shown.status();
    const ledger::VerifiedBundle& seen = *shown;
    size = seen->checkpoint.checkpoint().size;
    EXPECT_TRUE(std::ranges::all_of(seen->missing, [](const auto& each) { return !each.second; }));
    std::set<std::string> entries;
    for (const ledger::ProvenEntry& proven : seen->entries) {
      if (proven.entry.kind != EntryKind::kRelease) continue;
      EXPECT_EQ(proven.entry.asset, "base");
      EXPECT_TRUE(entries.insert(proven.entry.session).second) << proven.entry.session;
    }
    EXPECT_TRUE(std::ranges::includes(entries, released));
    // Each machine may have been answered by a broker that was killed before it had said so.
    EXPECT_LE(entries.size(), released.size() + static_cast<size_t>(round) * Load::kMachines);
    if (round == Rounds()) break;  // stopped by SIGTERM

    Load load(machine_, id_, broker.url());
    const int count = 1 + static_cast<int>(random() % 16);
    switch (round % 3) {
      case 0:
        tap_->KillAt(TpmTap::Moment::kBeforeCount, count, broker.id());
        break;
      case 1:
        tap_->KillAt(TpmTap::Moment::kAfterCount, count, broker.id());
        break;
      default:
        load.AwaitReleases(static_cast<size_t>(count));
        kill(broker.id(), SIGKILL);
    }
    for (const std::string& session : load.Join()) {
      EXPECT_TRUE(released.insert(session).second) << session;
    }
    ASSERT_FALSE(tap_->is_armed()) << "the machines gave up before the broker was killed";
    broker.ExpectKilled();
    if (round % 5 == 4) {
      // The disk of four rounds ago, put back.
      const testing::CommandOutput refused =
          ExpectExit(1, {"broker", "serve", "--config", "old.json", "--json"});
      EXPECT_EQ(refused.reasons(), std::vector<std::string>{"version-too-old"}) << refused.error;
    }
    if (round % 5 == 0) CopyDatabase();
  }
  EXPECT_GT(released.size(), static_cast<size_t>(Rounds()));
  RecordProperty("releases", static_cast<int>(released.size()));
  const auto slowest_ms = std::chrono::duration_cast<std::chrono::milliseconds>(slowest).count();
  RecordProperty("slowest_restart_ms", static_cast<int>(slowest_ms));
  printf("%d kills, %zu releases, slowest restart %lld ms\n", Rounds(), released.size(),
         static_cast<long long>(slowest_ms));
}

}  // namespace
}  // namespace pavise::cli
