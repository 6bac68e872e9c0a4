#include <chrono>
#include <memory>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/unsealing.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/keys.h"
#include "pavise/signing/bundle.h"
#include "pavise/vault/sealed_asset.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kGroup = "Unsealing";

// The signature in the asset is the one that its header names.
absl::Status CheckStatement(const vault::SealedAsset& asset, const vault::UnlockedAsset& unlocked) {
  const std::string item = StrCat(asset.path(), ": signature");
  PAVISE_ASSIGN_OR_RETURN(const Bytes signature, unlocked.ReadSignature());
  PAVISE_ASSIGN_OR_RETURN(const signing::Bundle bundle, signing::ParseBundle(signature, item));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, crypto::Sha256(bundle.payload));
  if (digest == asset.header().statement_sha256) return absl::OkStatus();
  return Refuse(Reason::kBindingMismatch, item,
                "signs another statement than the one that the header names",
                "have its owner seal it again");
}

class UnsealVerb final : public Verb {
 public:
  std::string_view name() const override { return "unseal"; }
  std::string_view group() const override { return "Seal"; }
  std::string_view summary() const override {
    return "Decrypt a sealed file into a new directory; it appears when every byte was found "
           "authentic, or not at all.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise unseal llm.sealed -o llm --private-key key.pem\n"
           "  pavise verify llm --signature llm.sig --public-key signer.pub\n"
           "\n"
           "Unsealing checks that the files are what was sealed, not who sealed them: that is the "
           "signature's part.\n"
           "\n"
           "What was written is removed where unsealing is refused or interrupted. Only a kill -9 "
           "leaves it, as DIR.unfinished-XXXXXX; the next unsealing to DIR removes that, and says "
           "so.";
  }

  void Declare(CLI::App& app) override {
    app.add_option("X.sealed", path_, "the sealed file")->required();
    AddOption(app, "-o,--output", output_, "DIR", "the new directory", kGroup)->required();
    AddOption(app, "--private-key", private_key_, "KEY.pem", "a recipient's private key", kGroup)
        ->required();
    AddOption(app, "--signature", signature_, "FILE",
              "where to write the model's signature [DIR.sig]", kGroup);
    password_.Declare(app, kGroup, /*with_password=*/false);
    AddOption(app, "--threads", threads_, "N", "threads [one a CPU]", kGroup);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override;

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return StrCat(Printable(path_), " was not unsealed");
  }

 private:
  std::string path_;
  std::string output_;
  std::string private_key_;
  std::string signature_;
  PasswordOptions password_;
  std::string threads_;
};

absl::StatusOr<Outcome> UnsealVerb::Run(const Session& session) {
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes password, password_.Resolve());
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes pem, ReadSecretFile(private_key_, kMaxKeyFileBytes));
  PAVISE_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
                          crypto::PrivateKey::FromPemOfAnyType(pem, password, private_key_));
  PAVISE_ASSIGN_OR_RETURN(const vault::SealedAsset asset, vault::SealedAsset::Open(path_));
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes content_key, asset.ContentKey(key));
  return UnsealAsset(asset, content_key,
                     {.directory = output_, .signature = signature_, .threads = threads_},
                     session.progress);
}

}  // namespace

absl::StatusOr<Outcome> UnsealAsset(const vault::SealedAsset& asset, const SecretBytes& content_key,
                                    const UnsealingOptions& options, Progress& progress) {
  vault::UnsealOptions unseal{.directory = options.directory, .progress = &progress};
  PAVISE_ASSIGN_OR_RETURN(unseal.threads, ParseThreads(options.threads));
  const auto begin = std::chrono::steady_clock::now();
  PAVISE_ASSIGN_OR_RETURN(const vault::UnlockedAsset unlocked, asset.Unlock(content_key));
  if (unlocked.signature_bytes() > 0) {
    std::string_view stem = options.directory;
    while (stem.size() > 1 && stem.ends_with('/')) stem.remove_suffix(1);
    unseal.signature_path = options.signature.empty() ? StrCat(stem, ".sig") : options.signature;
    PAVISE_RETURN_IF_ERROR(CheckStatement(asset, unlocked));
  }
  PAVISE_RETURN_IF_ERROR(unlocked.Unseal(unseal));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  uint64_t size_bytes = 0;
  for (const vault::IndexEntry& entry : unlocked.files()) size_bytes += entry.size_bytes;

  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat(Printable(asset.path()), " is unsealed");
  outcome.text = AlignedRows(
      {{"directory", StrCat(options.directory, " (readable by you only)")},
       {"signature", unseal.signature_path},
       {"asset", asset.asset_id()},
       {"name", asset.header().name},
       {"files", StrCat(Counted(unlocked.files().size(), "file"), ", ", HumanBytes(size_bytes))},
       {"unsealing", Throughput(size_bytes, seconds)}});
  outcome.json = {{"directory", options.directory},
                  {"signature", TextOrNull(unseal.signature_path)},
                  {"asset_id", asset.asset_id()},
                  {"name", TextOrNull(asset.header().name)},
                  {"files", unlocked.files().size()},
                  {"size_bytes", size_bytes},
                  {"statement_sha256", asset.header().statement_sha256.has_value()
                                           ? OrderedJson(ToHex(*asset.header().statement_sha256))
                                           : OrderedJson(nullptr)}};
  return outcome;
}

std::unique_ptr<Verb> NewUnsealVerb() { return std::make_unique<UnsealVerb>(); }

}  // namespace pavise::cli
