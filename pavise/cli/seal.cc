#include "pavise/vault/seal.h"

#include <fcntl.h>

#include <chrono>
#include <memory>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/keys.h"
#include "pavise/model/file_tree.h"
#include "pavise/signing/bundle.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kGroup = "Sealing";

class SealVerb final : public Verb {
 public:
  std::string_view name() const override { return "seal"; }
  std::string_view group() const override { return "Seal"; }
  std::string_view summary() const override {
    return "Encrypt a model, data or code into one file that only its recipients open.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise seal models/llm -o llm.sealed --recipient broker.pub --signature llm.sig\n"
           "  pavise seal patients.csv -o data.sealed --recipient broker.pub --hide-names\n"
           "\n"
           "A signature travels with its model, and the sealed file names the statement that it "
           "signs.";
  }

  void Declare(CLI::App& app) override {
    app.add_option("PATH", path_, "a directory, or one file")->required();
    AddOption(app, "-o,--output", output_, "X.sealed", "the sealed file", kGroup)->required();
    AddOption(app, "--recipient", recipients_, "KEY.pub",
              "who may open it: a public key on P-256, P-384 or P-521, or RSA (repeatable)", kGroup)
        ->required();
    AddOption(app, "--signature", signature_, "model.sig", "the model's signature, sealed with it",
              kGroup);
    AddOption(app, "--name", name_, "NAME", "a name that everybody can read [none]", kGroup);
    AddFlag(app, "--hide-names", hide_,
            "no readable name, and a length rounded up by up to 12% (PADME); the files' names are "
            "encrypted in any case",
            kGroup);
    AddOption(app, "--threads", threads_, "N", "threads [one a CPU]", kGroup);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override;

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return StrCat(Printable(path_), " was not sealed");
  }

 private:
  std::string path_;
  std::string output_;
  std::vector<std::string> recipients_;
  std::string signature_;
  std::string name_;
  bool hide_ = false;
  std::string threads_;
};

absl::StatusOr<Outcome> SealVerb::Run(const Session& session) {
  if (hide_ && !name_.empty()) return UsageError("--name and --hide-names exclude each other");
  vault::SealOptions options{.name = name_, .hide = hide_, .progress = &session.progress};
  PAVISE_ASSIGN_OR_RETURN(options.threads, ParseThreads(threads_));
  for (const std::string& path : recipients_) {
    PAVISE_ASSIGN_OR_RETURN(const Bytes pem, ReadFile(path, kMaxKeyFileBytes));
    PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey key, crypto::PublicKey::FromPem(AsText(pem), path));
    options.recipients.push_back(std::move(key));
  }
  if (!signature_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(options.signature, ReadFile(signature_, signing::kMaxBundleBytes));
    PAVISE_ASSIGN_OR_RETURN(const signing::Bundle bundle,
                            signing::ParseBundle(options.signature, signature_));
    PAVISE_ASSIGN_OR_RETURN(options.statement_sha256, crypto::Sha256(bundle.payload));
  }
  PAVISE_ASSIGN_OR_RETURN(const model::FileTree tree, model::FileTree::Open(path_, {}));
  // One file is sealed under its name.
  const auto inside = [&](const std::string& path) {
    return tree.is_single_file() ? tree.name() : path;
  };
  uint64_t size_bytes = 0;
  for (const model::FileEntry& entry : tree.files()) {
    PAVISE_ASSIGN_OR_RETURN(const FileDescriptor file, tree.OpenFile(entry.path));
    struct stat status;
    if (fstat(file.get(), &status) != 0) return FromErrno(errno, "stat", entry.path);
    options.files.push_back({.path = inside(entry.path),
                             .identity = entry.identity,
                             .is_executable = (status.st_mode & S_IXUSR) != 0});
    size_bytes += entry.identity.size_bytes;
  }
  options.open = [&](const std::string& path) {
    return tree.OpenFile(tree.is_single_file() ? "." : path);
  };

  const auto begin = std::chrono::steady_clock::now();
  PAVISE_ASSIGN_OR_RETURN(const vault::SealReport report, vault::Seal(options, output_));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();

  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat(Printable(path_), " is sealed");
  std::vector<std::pair<std::string, std::string>> rows = {
      {"sealed file", StrCat(output_, " (", HumanBytes(report.sealed_bytes), ")")},
      {"asset", report.asset_id},
      {"name", name_},
      {"files", StrCat(Counted(options.files.size(), "file"), ", ", HumanBytes(size_bytes))},
      {"statement", options.statement_sha256.has_value() ? ToHex(*options.statement_sha256) : ""}};
  outcome.json = {{"sealed", output_},
                  {"asset_id", report.asset_id},
                  {"name", TextOrNull(name_)},
                  {"files", options.files.size()},
                  {"size_bytes", size_bytes},
                  {"sealed_bytes", report.sealed_bytes},
                  {"statement_sha256", options.statement_sha256.has_value()
                                           ? OrderedJson(ToHex(*options.statement_sha256))
                                           : OrderedJson(nullptr)},
                  {"recipients", OrderedJson::array()}};
  for (const crypto::PublicKey& key : options.recipients) {
    rows.emplace_back("recipient", StrCat(crypto::KeyTypeName(key.type()), " ", key.Fingerprint()));
    outcome.json["recipients"].push_back(key.Fingerprint());
  }
  rows.emplace_back("sealing", Throughput(size_bytes, seconds));
  outcome.text = AlignedRows(rows);
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewSealVerb() { return std::make_unique<SealVerb>(); }

}  // namespace pavise::cli
