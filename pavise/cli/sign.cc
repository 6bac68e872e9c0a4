#include "pavise/signing/sign.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/statement_json.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/keys.h"
#include "pavise/crypto/pkcs11.h"
#include "pavise/crypto/x509.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kKeyGroup = "Key and certificate";
constexpr const char* kStatementGroup = "What is signed";
constexpr const char* kAgainGroup = "Signing again";

class SignVerb final : public Verb {
 public:
  std::string_view name() const override { return "sign"; }
  std::string_view group() const override { return "Sign"; }
  std::string_view summary() const override {
    return "Sign a model: one pass over its files, then an OMS signature and an outboard tree "
           "file.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise sign models/llm --private-key key.pem --signature llm.sig\n"
           "  pavise sign models/llm --private-key key.pem --signing-certificate leaf.pem "
           "--certificate-chain ca.pem\n"
           "  pavise sign models/llm --pkcs11-uri 'pkcs11:token=prod;object=signer'\n"
           "  pavise sign models/llm --private-key key.pem --hash blake3 --incremental "
           "--changed-tensors 'model.layers.3.*'\n"
           "\n"
           "A new signature replaces the old one only when it is complete.";
  }

  void Declare(CLI::App& app) override;
  absl::StatusOr<Outcome> Run(const Session& session) override;

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return StrCat(model_.model(), " was not signed");
  }

 private:
  absl::Status CheckMethod() const;
  absl::StatusOr<std::unique_ptr<crypto::Signer>> OpenSigner() const;
  absl::StatusOr<std::vector<crypto::Certificate>> ReadChain() const;
  absl::StatusOr<signing::SignOptions> ResolveStatement() const;

  ModelArguments model_;
  SignatureOptions files_;
  SelectionOptions selection_;
  ReadOptions read_;
  PasswordOptions password_;
  std::string private_key_;
  std::string pkcs11_uri_;
  std::string signing_certificate_;
  std::vector<std::string> certificate_chain_;
  std::string hash_ = "sha256";
  std::string method_ = "files";
  std::string shard_size_;
  std::string model_name_;
  std::string model_version_;
  bool no_annotations_ = false;
  bool fips_ = false;
  bool incremental_ = false;
  std::vector<std::string> changed_tensors_;
};

void SignVerb::Declare(CLI::App& app) {
  model_.Declare(app, /*with_method=*/true);
  AddOption(app, "--private-key", private_key_, "FILE",
            "the signing key (PEM; P-256, P-384 or P-521)", kKeyGroup);
  password_.Declare(app, kKeyGroup, /*with_password=*/true);
  AddOption(app, "--pkcs11-uri", pkcs11_uri_, "URI",
            "the signing key in a PKCS #11 token (RFC 7512), instead of --private-key", kKeyGroup);
  AddOption(app, "--signing-certificate", signing_certificate_, "FILE",
            "the certificate of the signing key (PEM); chooses the certificate method", kKeyGroup);
  AddOption(app, "--certificate-chain", certificate_chain_, "FILE",
            "the certificates above it, up to the root (PEM, repeatable)", kKeyGroup);
  files_.Declare(app, "to write");
  selection_.Declare(app);
  AddOption(app, "--hash", hash_, "sha256|blake2b|blake3",
            "the digest of the OMS signature; the reference tool's command line knows sha256 only "
            "[sha256]",
            kStatementGroup);
  AddOption(
      app, "--method", method_, "files|shards",
      "one digest a file, or one a shard of it, which spreads large files over threads [files]",
      kStatementGroup);
  AddOption(app, "--shard-size", shard_size_, "SIZE",
            "bytes a shard, or with a unit such as 512MiB [1GB]", kStatementGroup);
  AddOption(app, "--model-name", model_name_, "NAME",
            "what the signature calls the model [its base name]", kStatementGroup);
  AddOption(app, "--model-version", model_version_, "N",
            "a number that counts up, for the minimum version of trust files", kStatementGroup);
  AddFlag(app, "--no-annotations", no_annotations_,
          "sign no BLAKE3 trees and tensor tables, and write no tree file", kStatementGroup);
  AddFlag(app, "--fips", fips_,
          "FIPS 180-4 and 186-5 algorithms only: sha256, and no annotations; the result names the "
          "provider",
          kStatementGroup);
  AddFlag(app, "--incremental", incremental_,
          "reuse what the signature being replaced says of files that were not written since (it "
          "must be of the same key)",
          kAgainGroup);
  AddOption(app, "--changed-tensors", changed_tensors_, "GLOB",
            "with --incremental: in files that were written, only these tensors changed "
            "(repeatable)",
            kAgainGroup);
  read_.Declare(app);
}

// The options decide the method; the reference tool's word for it is held against them.
absl::Status SignVerb::CheckMethod() const {
  const std::string& word = model_.method();
  if (word == "sigstore") {
    return UsageError(
        "this version verifies Sigstore signatures but does not make them (that takes a network "
        "log-in); sign with --private-key or --pkcs11-uri");
  }
  if (private_key_.empty() == pkcs11_uri_.empty()) {
    return UsageError(private_key_.empty()
                          ? "no key to sign with: give --private-key or --pkcs11-uri"
                          : "two keys to sign with: give --private-key or --pkcs11-uri, not both");
  }
  if (signing_certificate_.empty() && !certificate_chain_.empty()) {
    return UsageError("--certificate-chain goes above a --signing-certificate, which is missing");
  }
  if (private_key_.empty() && password_.AnyGiven()) {
    return UsageError("a token's PIN is part of its URI (pin-source or pin-value), not a password");
  }
  const std::string inferred = StrCat(pkcs11_uri_.empty() ? "" : "pkcs11-",
                                      signing_certificate_.empty() ? "key" : "certificate");
  if (!word.empty() && word != inferred) {
    return UsageError(
        StrCat("the method is called '", word, "', but the options are those of '", inferred, "'"));
  }
  if (!changed_tensors_.empty() && !incremental_) {
    return UsageError(
        "--changed-tensors says what changed since the signature that --incremental "
        "reuses: give both");
  }
  if (!shard_size_.empty() && method_ != "shards") {
    return UsageError("--shard-size goes with --method shards");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<crypto::Signer>> SignVerb::OpenSigner() const {
  if (!pkcs11_uri_.empty()) return crypto::OpenPkcs11Signer(pkcs11_uri_);
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes password, password_.Resolve());
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes pem, ReadSecretFile(private_key_, kMaxKeyFileBytes));
  PAVISE_ASSIGN_OR_RETURN(crypto::PrivateKey key,
                          crypto::PrivateKey::FromPem(pem, password, private_key_));
  return std::make_unique<crypto::PrivateKey>(std::move(key));
}

absl::StatusOr<std::vector<crypto::Certificate>> SignVerb::ReadChain() const {
  std::vector<crypto::Certificate> chain;
  if (signing_certificate_.empty()) return chain;
  std::vector<std::string> paths = {signing_certificate_};
  paths.insert(paths.end(), certificate_chain_.begin(), certificate_chain_.end());
  PAVISE_ASSIGN_OR_RETURN(const std::vector<crypto::Certificate> listed, ReadCertificates(paths));
  // A signing certificate's file often holds the chain already.
  for (const crypto::Certificate& certificate : listed) {
    const bool known = std::any_of(
        chain.begin(), chain.end(),
        [&](const crypto::Certificate& earlier) { return earlier.der() == certificate.der(); });
    if (!known) chain.push_back(certificate);
  }
  return chain;
}

absl::StatusOr<signing::SignOptions> SignVerb::ResolveStatement() const {
  signing::SignOptions options;
  options.model_path = model_.model();
  options.signature_path = files_.signature;
  options.outboard_path = files_.tree;
  options.serialization.method = method_ == "shards" ? signing::SerializationMethod::kShards
                                                     : signing::SerializationMethod::kFiles;
  options.serialization.hash_type =
      hash::AlgorithmFromName(hash_).value_or(hash::Algorithm::kSha256);
  if (!shard_size_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(options.serialization.shard_size_bytes,
                            ParseSize("--shard-size", shard_size_));
  }
  options.serialization.allow_symlinks = selection_.allow_symlinks;
  PAVISE_ASSIGN_OR_RETURN(options.serialization.ignore_paths,
                          selection_.RelativeTo(model_.model()));
  options.ignore_git_paths = selection_.ignore_git_paths;
  options.model_name = model_name_;
  if (!model_version_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(options.model_version, ParseCount("--model-version", model_version_));
  }
  options.annotate = !no_annotations_;
  options.fips = fips_;
  if (incremental_) options.incremental = {files_.signature, files_.tree, changed_tensors_};
  return options;
}

absl::StatusOr<Outcome> SignVerb::Run(const Session& session) {
  PAVISE_RETURN_IF_ERROR(model_.Resolve());
  PAVISE_RETURN_IF_ERROR(CheckMethod());
  PAVISE_ASSIGN_OR_RETURN(signing::SignOptions options, ResolveStatement());
  PAVISE_ASSIGN_OR_RETURN(options.pass, read_.Resolve(session));
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> signer, OpenSigner());
  options.signer = signer.get();
  PAVISE_ASSIGN_OR_RETURN(options.certificate_chain, ReadChain());

  const auto begin = std::chrono::steady_clock::now();
  PAVISE_ASSIGN_OR_RETURN(const signing::SignReport report, signing::SignModel(options));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();

  signing::SignerIdentity identity;
  identity.key_fingerprint = report.key_fingerprint;
  if (!options.certificate_chain.empty()) {
    identity.method = signing::Method::kCertificate;
    identity.name = options.certificate_chain.front().subject();
    identity.issuer = options.certificate_chain.front().issuer();
  }
  const uint64_t files = FilesOf(report.statement).size();

  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat(Printable(model_.model()), " is signed");
  std::vector<std::pair<std::string, std::string>> rows = {
      {"signature", files_.signature},
      {"tree", report.outboard_path},
      {"model", ModelText(report.statement)},
      {"signed by", SignerText(identity)},
      {"root digest", RootDigestText(report.statement)},
      {"serialization", SerializationText(report.statement.serialization)},
      {"files", StrCat(Counted(files, "file"), ", ", HumanBytes(report.model_bytes))},
      {"hashed", Throughput(report.bytes_hashed, seconds)},
      {"reused", incremental_ ? Counted(report.files_reused, "file") : std::string()},
      {"device", report.device},
      {"FIPS", report.fips_provider.value_or("")}};
  for (const std::string& warning : report.warnings) rows.emplace_back("warning", warning);
  outcome.text = AlignedRows(rows);

  outcome.json = StatementSummaryJson(report.statement);
  outcome.json["model_bytes"] = report.model_bytes;
  outcome.json["model_path"] = model_.model();
  outcome.json["signature"] = files_.signature;
  outcome.json["tree"] = TextOrNull(report.outboard_path);
  outcome.json["signer"] = SignerJson(identity);
  outcome.json["bytes_hashed"] = report.bytes_hashed;
  outcome.json["files_reused"] = report.files_reused;
  outcome.json["seconds"] = seconds;
  outcome.json["gigabytes_per_second"] = GigabytesPerSecond(report.bytes_hashed, seconds);
  outcome.json["device"] = report.device;
  outcome.json["sha256_by"] = TextOrNull(report.sha256_by);
  outcome.json["fips_provider"] =
      report.fips_provider.has_value() ? OrderedJson(*report.fips_provider) : OrderedJson(nullptr);
  outcome.json["warnings"] = report.warnings;
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewSignVerb() { return std::make_unique<SignVerb>(); }

}  // namespace pavise::cli
