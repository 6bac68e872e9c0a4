#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "pavise/base/clock.h"
#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/log.h"
#include "pavise/base/process_memory.h"
#include "pavise/base/random.h"
#include "pavise/base/strings.h"
#include "pavise/broker/configuration.h"
#include "pavise/broker/http_server.h"
#include "pavise/broker/metrics.h"
#include "pavise/broker/root_key.h"
#include "pavise/broker/service.h"
#include "pavise/broker/tpm/broker_tpm.h"
#include "pavise/cli/broker_connection.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/owner_calls.h"
#include "pavise/cli/sub_verbs.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/dsse.h"
#include "pavise/crypto/secret_sharing.h"
#include "pavise/evidence/collect/session.h"
#include "pavise/ledger/checkpoint.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_split.h"

namespace pavise::cli {
namespace {

constexpr const char* kOperatorGroup = "Operator";
constexpr const char* kProtectionGroup = "Root key";
constexpr const char* kOwnerGroup = "Owner";
constexpr const char* kResultGroup = "Result";
constexpr uint64_t kMostConfigurationBytes = uint64_t{1} << 20;
constexpr uint64_t kMostStatementBytes = uint64_t{24} << 20;
constexpr uint64_t kMostAttachmentBytes = uint64_t{16} << 20;
constexpr uint64_t kMostShareBytes = uint64_t{16} << 10;

absl::StatusOr<broker::Configuration> ReadConfiguration(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path, kMostConfigurationBytes));
  return broker::ParseConfiguration(text, path);
}

// A store with what it needs to stay open.
struct OpenBroker {
  std::unique_ptr<broker::BrokerTpm> tpm;
  std::unique_ptr<broker::Store> store;
};

absl::StatusOr<std::vector<SecretBytes>> ReadShares(const std::vector<std::string>& paths) {
  std::vector<SecretBytes> shares;
  for (const std::string& path : paths) {
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes text, ReadSecretFile(path, kMostShareBytes));
    std::string_view line = text.RevealText();
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.remove_suffix(1);
    shares.emplace_back(line);
  }
  return shares;
}

absl::StatusOr<std::unique_ptr<broker::BrokerTpm>> OpenTpm(
    const broker::Configuration& configuration) {
  if (configuration.tpm.empty()) return nullptr;
  return broker::BrokerTpm::Open(configuration.tpm);
}

broker::StoreOptions StoreOptionsOf(const broker::Configuration& configuration,
                                    broker::BrokerTpm* tpm) {
  broker::StoreOptions options;
  options.kind = configuration.store;
  options.location = configuration.store_location;
  if (configuration.counter) options.counter = tpm;
  return options;
}

absl::StatusOr<OpenBroker> Open(const broker::Configuration& configuration,
                                const std::vector<std::string>& share_files, bool accept_image) {
  OpenBroker open;
  PAVISE_ASSIGN_OR_RETURN(open.tpm, OpenTpm(configuration));
  PAVISE_ASSIGN_OR_RETURN(const std::vector<SecretBytes> shares, ReadShares(share_files));
  broker::StoreOptions options = StoreOptionsOf(configuration, open.tpm.get());
  options.accept_image = accept_image;
  PAVISE_ASSIGN_OR_RETURN(
      open.store, broker::OpenStore(options, configuration.root_key, open.tpm.get(), shares));
  return open;
}

std::string_view RollbackText(broker::RollbackDetection rollback) {
  switch (rollback) {
    case broker::RollbackDetection::kCounter:
      return "detected by a counter of the TPM";
    case broker::RollbackDetection::kCheckpoints:
      return "detected by countersigned checkpoints";
    case broker::RollbackDetection::kNone:
      break;
  }
  return "not detected";
}

// Shares go to files of their own, which owners take away.
struct ProtectionOptions {
  std::string protect = "plain";
  std::string threshold;
  std::vector<std::string> share_files;

  void Declare(CLI::App& app) {
    AddOption(app, "--protect", protect, "plain|tpm|shares",
              "how the root key is kept: a file of mode 0600, sealed to the TPM, or in shares only "
              "[plain]",
              kProtectionGroup);
    AddOption(app, "--threshold", threshold, "K", "shares: how many recover the key",
              kProtectionGroup);
    AddOption(app, "--share-out", share_files, "FILE",
              "where to write a share, once for each owner; also with plain and tpm, for recovery",
              kProtectionGroup);
  }

  absl::StatusOr<broker::RootKeyProtection> Prepare(const SecretBytes& key,
                                                    broker::BrokerTpm* tpm) const {
    broker::RootKeyProtection protection;
    if (protect == "tpm") {
      if (tpm == nullptr) return UsageError("--protect tpm: the configuration names no tpm");
      protection.kind = broker::RootKeyProtection::Kind::kTpm;
      protection.tpm = tpm;
    }
    if (protect == "shares") protection.kind = broker::RootKeyProtection::Kind::kShares;
    if (share_files.empty()) {
      if (protect == "shares")
        return UsageError("--protect shares needs --share-out and --threshold");
      return protection;
    }
    PAVISE_ASSIGN_OR_RETURN(const uint64_t needed, ParseCount("--threshold", threshold));
    if (needed == 0 || needed > share_files.size()) {
      return UsageError("--threshold: from 1 to the number of shares");
    }
    PAVISE_ASSIGN_OR_RETURN(
        const crypto::SecretShares shares,
        crypto::SplitSecret(key, static_cast<int>(needed), static_cast<int>(share_files.size())));
    for (size_t i = 0; i < share_files.size(); ++i) {
      PAVISE_RETURN_IF_ERROR(WriteFileAtomically(share_files[i], shares.shares[i].Reveal(), 0600));
    }
    protection.share_set = shares.set_id;
    return protection;
  }
};

// ---- broker init ----

struct InitArguments {
  std::string configuration;
  ProtectionOptions protection;

  void Declare(CLI::App& app) {
    AddOption(app, "--config", configuration, "FILE", "the broker's configuration", kOperatorGroup)
        ->required();
    protection.Declare(app);
  }

  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const broker::Configuration config, ReadConfiguration(configuration));
    OpenBroker open;
    PAVISE_ASSIGN_OR_RETURN(open.tpm, OpenTpm(config));
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes key, broker::NewRootKey());
    PAVISE_ASSIGN_OR_RETURN(const broker::RootKeyProtection kept,
                            protection.Prepare(key, open.tpm.get()));
    PAVISE_RETURN_IF_ERROR(broker::SaveRootKey(config.root_key, key, kept));
    broker::StoreOptions options = StoreOptionsOf(config, open.tpm.get());
    options.create = true;
    PAVISE_ASSIGN_OR_RETURN(open.store, broker::Store::Open(options, key));
    broker::ServiceOptions service;
    service.store = open.store.get();
    PAVISE_RETURN_IF_ERROR(broker::Service::Initialize(service, config.name));
    PAVISE_ASSIGN_OR_RETURN(const broker::StoreStatus status, open.store->GetStatus());
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat("a broker in ", Printable(config.store_location));
    outcome.text =
        AlignedRows({{"name", config.name},
                     {"root key", StrCat(config.root_key, " (", protection.protect, ")")},
                     {"old images", std::string(RollbackText(status.rollback))},
                     {"next", StrCat("pavise broker serve --config ", configuration)}});
    outcome.json = {{"name", config.name},
                    {"root_key", config.root_key},
                    {"protection", protection.protect},
                    {"rollback", RollbackText(status.rollback)}};
    return outcome;
  }
};

// ---- broker serve ----

// This machine's evidence, for owners.
class MachineAttester final : public broker::BrokerAttester {
 public:
  explicit MachineAttester(evidence::CollectionOptions options) : options_(std::move(options)) {}
  absl::StatusOr<evidence::CompositeEvidence> Collect(const Digest32& nonce,
                                                      const crypto::PublicKey& key) override {
    return evidence::CollectEvidence(options_, nonce, key);
  }

 private:
  const evidence::CollectionOptions options_;
};

struct ServeArguments {
  std::string configuration;
  std::vector<std::string> shares;

  void Declare(CLI::App& app) {
    AddOption(app, "--config", configuration, "FILE", "the broker's configuration", kOperatorGroup)
        ->required();
    AddOption(app, "--share", shares, "FILE", "an owner's share of the root key", kProtectionGroup);
  }

  absl::StatusOr<Outcome> Run() const;
};

absl::StatusOr<Outcome> ServeArguments::Run() const {
  PAVISE_ASSIGN_OR_RETURN(const broker::Configuration config, ReadConfiguration(configuration));
  // Before any thread: all of them leave these signals to sigwait below.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  broker::KeepRequestMemory();
  PAVISE_RETURN_IF_ERROR(ForbidDumps());
  const bool is_locked = LockMemory();
  PAVISE_ASSIGN_OR_RETURN(const OpenBroker open, Open(config, shares, /*accept_image=*/false));

  evidence::CollectionOptions collection;
  collection.tee = config.attest_tee;
  collection.event_log = config.attest_logs;
  collection.ima_log = config.attest_logs;
  collection.tcti.reset();
  if (!config.tpm.empty()) collection.tcti = config.tpm;
  MachineAttester attester(collection);
  broker::Metrics metrics;
  std::mutex log_mutex;
  broker::ServiceOptions options;
  options.store = open.store.get();
  options.metrics = &metrics;
  options.attester = config.attest ? &attester : nullptr;
  options.proposers = config.proposers;
  options.log = [&log_mutex](const OrderedJson& event) {
    OrderedJson line = {
        {"time", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone())}};
    line.update(event);
    const std::string text = DumpJson(line, -1);
    const std::scoped_lock lock(log_mutex);
    std::fprintf(stderr, "%s\n", text.c_str());
  };
  PAVISE_ASSIGN_OR_RETURN(const auto service, broker::Service::Create(options));

  broker::HttpServerOptions listening;
  listening.address = config.listen;
  listening.unix_socket = config.unix_socket;
  listening.certificate_file = config.certificate;
  listening.private_key_file = config.private_key;
  listening.body_limit = [&](std::string_view method, std::string_view path) {
    return service->BodyLimit(method, path);
  };
  PAVISE_ASSIGN_OR_RETURN(
      const auto server,
      broker::HttpServer::Start(
          listening, [&](const broker::HttpRequest& request) { return service->Handle(request); }));
  std::unique_ptr<broker::HttpServer> metrics_server;
  if (!config.metrics.empty()) {
    broker::HttpServerOptions inside;
    inside.address = config.metrics;
    inside.worker_threads = 1;
    PAVISE_ASSIGN_OR_RETURN(
        metrics_server, broker::HttpServer::Start(inside, [&](const broker::HttpRequest& request) {
          broker::HttpResponse response;
          if (request.method != "GET" || request.path != "/metrics") {
            response.status = 404;
            return response;
          }
          service->UpdateMetrics();
          const broker::HttpServerCounters counters = server->counters();
          metrics.Set("connections_open", counters.open);
          metrics.Set("connections_refused", static_cast<double>(counters.refused));
          metrics.Set("connections_timed_out", static_cast<double>(counters.timed_out));
          response.content_type = "text/plain; version=0.0.4";
          response.body = metrics.Serialize();
          return response;
        }));
  }
  PAVISE_ASSIGN_OR_RETURN(const broker::StoreStatus status, open.store->GetStatus());
  options.log({{"event", "started"},
               {"port", server->port()},
               {"metrics_port", metrics_server != nullptr ? metrics_server->port() : 0},
               {"signing_key", service->keys().signing.public_key().Fingerprint()},
               {"encryption_key", service->keys().encryption_id},
               {"memory_locked", is_locked},
               {"rollback", RollbackText(status.rollback)}});
  int signal_number = 0;
  sigwait(&signals, &signal_number);
  server->Stop();
  if (metrics_server != nullptr) metrics_server->Stop();
  options.log({{"event", "stopped"}, {"signal", signal_number}});
  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = "stopped";
  outcome.json = {{"signal", signal_number}};
  return outcome;
}

// ---- broker rotate-keys, recover ----

struct RotateArguments {
  std::string configuration;
  std::string use;
  std::vector<std::string> shares;
  ProtectionOptions protection;

  void Declare(CLI::App& app) {
    AddOption(app, "--config", configuration, "FILE", "the broker's configuration", kOperatorGroup)
        ->required();
    AddOption(app, "--key", use, "signing|encryption|root", "which key", kOperatorGroup)
        ->required();
    AddOption(app, "--share", shares, "FILE", "an owner's share of the present root key",
              kProtectionGroup);
    protection.Declare(app);
  }

  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const broker::Configuration config, ReadConfiguration(configuration));
    PAVISE_ASSIGN_OR_RETURN(const OpenBroker open, Open(config, shares, false));
    Outcome outcome;
    outcome.verdict = "OK";
    if (use == "root") {
      PAVISE_ASSIGN_OR_RETURN(const SecretBytes key, broker::NewRootKey());
      PAVISE_ASSIGN_OR_RETURN(const broker::RootKeyProtection kept,
                              protection.Prepare(key, open.tpm.get()));
      PAVISE_RETURN_IF_ERROR(broker::RotateRootKey(*open.store, config.root_key, key, kept));
      outcome.headline = "the store is encrypted under a new root key";
      outcome.json = {{"key", "root"}, {"protection", protection.protect}};
      return outcome;
    }
    broker::ServiceOptions options;
    options.store = open.store.get();
    PAVISE_ASSIGN_OR_RETURN(
        const broker::RotatedKey rotated,
        broker::Service::Rotate(options, use == "signing" ? broker::BrokerKeyUse::kSigning
                                                          : broker::BrokerKeyUse::kEncryption));
    outcome.headline = StrCat("a new ", use, " key");
    outcome.text = AlignedRows({{"before", rotated.previous}, {"now", rotated.current}});
    outcome.json = {{"key", use}, {"previous", rotated.previous}, {"current", rotated.current}};
    return outcome;
  }
};

struct RecoverArguments {
  std::string configuration;
  std::vector<std::string> shares;
  bool accept_image = false;
  ProtectionOptions protection;

  void Declare(CLI::App& app) {
    AddOption(app, "--config", configuration, "FILE", "the broker's configuration", kOperatorGroup)
        ->required();
    AddOption(app, "--share", shares, "FILE", "an owner's share of the root key, once for each",
              kProtectionGroup);
    AddFlag(app, "--accept-image", accept_image,
            "take this image though the counter is lost or says that it is old: what came after it "
            "is gone, withdrawals too",
            kOperatorGroup);
    protection.Declare(app);
  }

  // The store under a new root key, kept as asked, on this machine.
  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const broker::Configuration config, ReadConfiguration(configuration));
    OpenBroker open;
    PAVISE_ASSIGN_OR_RETURN(open.tpm, OpenTpm(config));
    PAVISE_ASSIGN_OR_RETURN(const std::vector<SecretBytes> parts, ReadShares(shares));
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes old_key, crypto::CombineShares(parts));
    broker::StoreOptions options = StoreOptionsOf(config, open.tpm.get());
    options.accept_image = accept_image;
    PAVISE_ASSIGN_OR_RETURN(open.store, broker::Store::Open(options, old_key));
    if (access(config.root_key.c_str(), F_OK) != 0) {
      // Lost with its machine. The key that this writes opens nothing once it is rotated below.
      PAVISE_RETURN_IF_ERROR(broker::SaveRootKey(config.root_key, old_key, {}));
    }
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes key, broker::NewRootKey());
    PAVISE_ASSIGN_OR_RETURN(const broker::RootKeyProtection kept,
                            protection.Prepare(key, open.tpm.get()));
    PAVISE_RETURN_IF_ERROR(broker::RotateRootKey(*open.store, config.root_key, key, kept));
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = "recovered: the store is encrypted under a new root key";
    outcome.json = {{"protection", protection.protect}, {"accepted_image", accept_image}};
    return outcome;
  }
};

// ---- owners' ----

struct StatusArguments {
  BrokerOptions connection;
  std::string ledger_key;
  std::string signing_key;
  void Declare(CLI::App& app) {
    connection.Declare(app);
    AddOption(app, "--ledger-key-out", ledger_key, "FILE",
              "where to write the key that its checkpoints are verified with (pavise ledger)",
              kResultGroup);
    AddOption(app, "--signing-key-out", signing_key, "FILE",
              "where to write the key that its tokens are verified with (pavise ledger verify "
              "--provenance)",
              kResultGroup);
  }
  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(kbs::Client client, connection.Connect());
    PAVISE_ASSIGN_OR_RETURN(const BrokerDescription broker, DescribeBroker(client));
    PAVISE_ASSIGN_OR_RETURN(const kbs::HttpResponse checkpoint,
                            client.Request("GET", "/pavise/v1/ledger/checkpoint"));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(broker.json, "broker"));
    PAVISE_ASSIGN_OR_RETURN(const std::string name, object.GetString("name"));
    PAVISE_ASSIGN_OR_RETURN(const std::string version, object.GetString("version"));
    PAVISE_ASSIGN_OR_RETURN(const std::string note_key, object.GetString("ledger_key"));
    if (!ledger_key.empty()) {
      PAVISE_RETURN_IF_ERROR(ledger::NoteKey::Parse(note_key, "ledger_key").status());
      PAVISE_RETURN_IF_ERROR(WriteFileAtomically(ledger_key, AsBytes(StrCat(note_key, "\n"))));
    }
    if (!signing_key.empty()) {
      PAVISE_RETURN_IF_ERROR(WriteFileAtomically(signing_key, AsBytes(broker.signing_key.ToPem())));
    }
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat("the broker at ", Printable(connection.url), " answers");
    outcome.text = AlignedRows({{"name", name},
                                {"version", version},
                                {"signing key", broker.signing_key.Fingerprint()},
                                {"encryption key", broker.encryption_key.Fingerprint()},
                                {"ledger key", note_key}});
    outcome.json = {{"broker", broker.json}, {"checkpoint", AsText(checkpoint.body)}};
    return outcome;
  }
};

struct AttestArguments {
  BrokerOptions connection;
  std::string nonce;
  std::string output;
  std::string key_output;
  std::string ledger_key;

  void Declare(CLI::App& app) {
    connection.Declare(app);
    AddOption(app, "--nonce", nonce, "HEX", "the challenge, 32 bytes", kOwnerGroup)->required();
    AddOption(app, "-o,--output", output, "FILE", "where to write the evidence", kResultGroup)
        ->required();
    AddOption(app, "--key-out", key_output, "FILE",
              "where to write the key that the evidence vouches for", kResultGroup);
    AddOption(app, "--ledger-key-out", ledger_key, "FILE",
              "where to write the key of its checkpoints, which the evidence's nonce holds",
              kResultGroup);
  }

  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const Digest32 challenge, Digest32FromHex(nonce, "--nonce"));
    PAVISE_ASSIGN_OR_RETURN(kbs::Client client, connection.Connect());
    PAVISE_ASSIGN_OR_RETURN(const BrokerDescription broker, DescribeBroker(client));
    PAVISE_ASSIGN_OR_RETURN(const BrokerEvidence evidence,
                            AskForEvidence(client, broker, challenge));
    const crypto::PublicKey& key = evidence.session_key;
    if (!ledger_key.empty()) {
      PAVISE_RETURN_IF_ERROR(ledger::NoteKey::Parse(broker.ledger_key, "ledger_key").status());
      PAVISE_RETURN_IF_ERROR(
          WriteFileAtomically(ledger_key, AsBytes(StrCat(broker.ledger_key, "\n"))));
    }
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(output, evidence.text));
    if (!key_output.empty()) {
      PAVISE_RETURN_IF_ERROR(WriteFileAtomically(key_output, AsBytes(key.ToPem())));
    }
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat("the broker's evidence is in ", Printable(output));
    outcome.text = AlignedRows({{"encryption key", key.Fingerprint()},
                                {"signing key", broker.signing_key.Fingerprint()},
                                {"ledger key", broker.ledger_key},
                                {"next", StrCat("pavise appraise evidence ", output, " --nonce ",
                                                ToHex(evidence.nonce), " --policy ...")}});
    outcome.json = {{"output", output},
                    {"encryption_key", key.Fingerprint()},
                    {"signing_key", broker.signing_key.Fingerprint()},
                    {"ledger_key", broker.ledger_key},
                    {"nonce", ToHex(evidence.nonce)}};
    return outcome;
  }
};

// Signed statements to where they belong.
struct SendArguments {
  BrokerOptions connection;
  std::vector<std::string> statements;
  std::vector<std::string> attachments;
  std::string agreement;
  SignerOptions signer;

  void Declare(CLI::App& app) {
    app.add_option("STATEMENT", statements, "a signed agreement, approval, withdrawal, deposit ...")
        ->type_name("FILE")
        ->group("Arguments");
    connection.Declare(app);
    AddOption(app, "--attachment", attachments, "FILE", "a file that the agreement pins",
              kOwnerGroup);
    AddOption(app, "--agreement", agreement, "ID", "attachments: of which agreement", kOwnerGroup);
    signer.Declare(app, kOwnerGroup);
  }

  absl::StatusOr<Outcome> Run() const {
    if (statements.empty() && attachments.empty()) return UsageError("nothing to send");
    if (!attachments.empty() && (agreement.empty() || !signer.AnyGiven())) {
      return UsageError("--attachment needs --agreement and --private-key");
    }
    PAVISE_ASSIGN_OR_RETURN(kbs::Client client, connection.Connect());
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat(Counted(statements.size(), "statement"), " and ",
                              Counted(attachments.size(), "attachment"), " taken");
    outcome.json["answers"] = OrderedJson::array();
    for (const std::string& path : statements) {
      PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path, kMostStatementBytes));
      PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope, crypto::ParseEnvelope(text, path));
      PAVISE_ASSIGN_OR_RETURN(const Json answer, SendStatement(client, envelope));
      StrAppend(&outcome.text, AlignedRows(AnswerRows(answer)));
      outcome.json["answers"].push_back(OrderedJson(answer));
    }
    if (attachments.empty()) return outcome;
    PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> key, signer.Read());
    PAVISE_ASSIGN_OR_RETURN(const BrokerDescription broker, DescribeBroker(client));
    for (const std::string& path : attachments) {
      PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(path, kMostAttachmentBytes));
      PAVISE_RETURN_IF_ERROR(SendAttachment(client, broker, agreement, content, *key));
    }
    return outcome;
  }
};

struct ShowArguments {
  BrokerOptions connection;
  std::string agreement;
  std::string what = "agreement";
  std::string output;
  SignerOptions signer;

  void Declare(CLI::App& app) {
    connection.Declare(app);
    AddOption(app, "--agreement", agreement, "ID", "which agreement [a list of yours]",
              kOwnerGroup);
    AddOption(app, "--what", what, "agreement|statements|decisions|runs|ledger",
              "what to show of it [agreement]", kOwnerGroup);
    AddOption(app, "-o,--output", output, "FILE",
              "where to write the answer (a ledger for pavise ledger verify)", kResultGroup);
    signer.Declare(app, kOwnerGroup);
  }

  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> key, signer.Read());
    PAVISE_ASSIGN_OR_RETURN(kbs::Client client, connection.Connect());
    PAVISE_ASSIGN_OR_RETURN(const BrokerDescription broker, DescribeBroker(client));
    std::string target = "/pavise/v1/agreements";
    if (what != "agreement" && agreement.empty()) {
      return UsageError(StrCat("--what ", what, " needs --agreement"));
    }
    if (!agreement.empty()) {
      PAVISE_ASSIGN_OR_RETURN(
          target, AgreementTarget(agreement, what == "agreement" ? "" : StrCat("/", what)));
    }
    PAVISE_ASSIGN_OR_RETURN(const kbs::HttpResponse answer,
                            SignedRequest(client, broker, "GET", target, {}, *key));
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat(what, " as the broker has it");
    if (!output.empty()) {
      PAVISE_RETURN_IF_ERROR(WriteFileAtomically(output, answer.body));
      outcome.json = {{"output", output}};
      return outcome;
    }
    PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(answer.body, "answer"));
    const std::vector<std::string> lines = absl::StrSplit(json.dump(2), '\n');
    for (const std::string& line : lines) {
      StrAppend(&outcome.text, Printable(line), "\n");
    }
    outcome.json["answer"] = json;
    return outcome;
  }
};

class BrokerVerb final : public Verb {
 public:
  std::string_view name() const override { return "broker"; }
  std::string_view group() const override { return "Agreements"; }
  std::string_view summary() const override {
    return "Run a key broker (broker init, serve, rotate-keys, recover), and talk to one as an "
           "owner (broker status, attest, deposit, send, show, fetch-output).";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise broker init --config broker.json --protect tpm --threshold 2 \\\n"
           "    --share-out a.share --share-out b.share --share-out c.share\n"
           "  pavise broker serve --config broker.json\n"
           "  pavise broker attest --broker https://broker.example --nonce $CHALLENGE \\\n"
           "    -o broker-evidence.json --key-out broker.pub\n"
           "  pavise broker deposit scans.sealed --broker https://broker.example --agreement $ID "
           "\\\n"
           "    --asset scans --private-key clinic.pem --encryption-key clinic-enc.pem \\\n"
           "    --policy broker-policy.json\n"
           "  pavise broker fetch-output tuned.sealed --broker https://broker.example \\\n"
           "    --agreement $ID --run $RUN --name tuned --private-key vendor.pem \\\n"
           "    --encryption-key vendor-enc.pem -o tuned\n"
           "  pavise broker send --broker https://broker.example agreement.signed.json\n"
           "  pavise broker show --broker https://broker.example --agreement $ID \\\n"
           "    --what decisions --private-key owner.pem\n"
           "\n"
           "Exit codes: 0 done, 1 refused, 2 wrong usage, 3 the machine failed.";
  }

  void Declare(CLI::App& app) override {
    const auto add = [&](const char* verb, const char* description, auto& arguments) {
      verbs_.Add(app, verb, description, arguments);
    };
    add("init", "make a broker's store and keys", init_);
    add("serve", "run the broker until SIGTERM", serve_);
    add("rotate-keys", "give a broker that is not running a new key", rotate_);
    add("recover", "open a store by owners' shares, and keep it under a new root key", recover_);
    add("status", "ask a broker for its keys and checkpoint", status_);
    add("attest", "ask a broker for evidence of itself", attest_);
    add("deposit", "give a broker, appraised, the key of an asset of yours", deposit_);
    add("send", "send signed statements and the files that they pin", send_);
    add("show", "read an agreement, its decisions, runs and ledger", show_);
    add("fetch-output", "fetch the key of an output that was approved for you, and unseal it",
        fetch_output_);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override { return verbs_.Run(session); }

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return "nothing was done";
  }

 private:
  SubVerbs verbs_;
  InitArguments init_;
  ServeArguments serve_;
  RotateArguments rotate_;
  RecoverArguments recover_;
  StatusArguments status_;
  AttestArguments attest_;
  DepositArguments deposit_;
  SendArguments send_;
  ShowArguments show_;
  FetchOutputArguments fetch_output_;
};

}  // namespace

std::unique_ptr<Verb> NewBrokerVerb() { return std::make_unique<BrokerVerb>(); }

}  // namespace pavise::cli
