#include <sys/stat.h>

#include <memory>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/keys.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kKeyGroup = "Key";
constexpr mode_t kPrivateMode = 0600;

// "key.pem" -> "key.pub", "key" -> "key.pub".
std::string PublicKeyPath(const std::string& private_path) {
  constexpr std::string_view kSuffix = ".pem";
  std::string_view stem = private_path;
  if (stem.ends_with(kSuffix) && stem.size() > kSuffix.size()) stem.remove_suffix(kSuffix.size());
  return StrCat(stem, ".pub");
}

class KeygenVerb final : public Verb {
 public:
  std::string_view name() const override { return "keygen"; }
  std::string_view group() const override { return "Sign"; }
  std::string_view summary() const override {
    return "Make a key pair: KEY.pem (private, readable by you only) and KEY.pub.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise keygen -o key.pem\n"
           "  pavise keygen -o key.pem --curve p384 --password-file password.txt\n"
           "\n"
           "Models are signed, and files sealed, with keys on p256, p384 or p521; ed25519 signs "
           "agreements and logs only. Use a key for one of the two: signing or sealing.";
  }

  void Declare(CLI::App& app) override {
    AddOption(app, "-o,--output", output_, "KEY.pem",
              "where to write the private key (PKCS #8 PEM); the public key goes beside it",
              kKeyGroup)
        ->required();
    AddOption(app, "--curve", curve_, "p256|p384|p521|ed25519", "the elliptic curve [p256]",
              kKeyGroup);
    AddFlag(app, "--force", force_, "overwrite files that exist", kKeyGroup);
    password_.Declare(app, kKeyGroup, /*with_password=*/false);
  }

  absl::StatusOr<Outcome> Run(const Session&) override;

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return "no key was made";
  }

 private:
  std::string output_;
  std::string curve_ = "p256";
  bool force_ = false;
  PasswordOptions password_;
};

absl::StatusOr<Outcome> KeygenVerb::Run(const Session&) {
  const std::string public_path = PublicKeyPath(output_);
  for (const std::string& path : {output_, public_path}) {
    struct stat status;
    if (!force_ && lstat(path.c_str(), &status) == 0) {
      return UsageError(StrCat(path, " exists: give another name, or --force to overwrite it"));
    }
  }
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes password, password_.Resolve());
  const crypto::KeyType type = curve_ == "p384"      ? crypto::KeyType::kEcP384
                               : curve_ == "p521"    ? crypto::KeyType::kEcP521
                               : curve_ == "ed25519" ? crypto::KeyType::kEd25519
                                                     : crypto::KeyType::kEcP256;
  PAVISE_ASSIGN_OR_RETURN(const crypto::PrivateKey key, crypto::PrivateKey::Generate(type));
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes pem, key.ToPem(password));

  // Both are on the disk before either gets its name.
  PAVISE_ASSIGN_OR_RETURN(AtomicFileWriter private_file,
                          AtomicFileWriter::Create(output_, kPrivateMode));
  PAVISE_RETURN_IF_ERROR(private_file.Append(pem.Reveal()));
  PAVISE_RETURN_IF_ERROR(private_file.Prepare());
  PAVISE_ASSIGN_OR_RETURN(AtomicFileWriter public_file, AtomicFileWriter::Create(public_path));
  PAVISE_RETURN_IF_ERROR(public_file.Append(AsBytes(key.public_key().ToPem())));
  PAVISE_RETURN_IF_ERROR(public_file.Prepare());
  PAVISE_RETURN_IF_ERROR(public_file.Commit());
  PAVISE_RETURN_IF_ERROR(private_file.Commit());

  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = "a new key";
  outcome.text = AlignedRows(
      {{"private key", StrCat(output_, password.empty() ? " (not encrypted, readable by you only)"
                                                        : " (encrypted, readable by you only)")},
       {"public key", StrCat(public_path, " (give it to those who verify)")},
       {"curve", std::string(crypto::KeyTypeName(type))},
       {"SHA-256", key.public_key().Fingerprint()}});
  outcome.json = {{"private_key", output_},
                  {"public_key", public_path},
                  {"curve", curve_},
                  {"encrypted", !password.empty()},
                  {"key_sha256", key.public_key().Fingerprint()},
                  {"oms_hint", key.public_key().OmsHint()}};
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewKeygenVerb() { return std::make_unique<KeygenVerb>(); }

}  // namespace pavise::cli
