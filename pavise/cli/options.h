#ifndef PAVISE_CLI_OPTIONS_H_
#define PAVISE_CLI_OPTIONS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/secret_bytes.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/x509.h"
#include "pavise/hash/device.h"
#include "pavise/hash/file_pass.h"
#include "pavise/signing/trust_policy.h"

#include "absl/status/statusor.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

// Options that several verbs share. Each group declares its options, and turns what was given into
// what the areas below take. All errors are usage errors unless said otherwise.
namespace pavise::cli {

inline constexpr std::string_view kMethodPositional = "METHOD";

// One option with a value, at most once. `value_name`: "FILE", or the choices as "a|b|c", which are
// then enforced.
CLI::Option* AddOption(CLI::App& app, const std::string& names, std::string& value,
                       const std::string& value_name, const std::string& description,
                       const std::string& group);
// One option that may be repeated and takes one value each time.
CLI::Option* AddOption(CLI::App& app, const std::string& names, std::vector<std::string>& values,
                       const std::string& value_name, const std::string& description,
                       const std::string& group);
CLI::Option* AddFlag(CLI::App& app, const std::string& names, bool& value,
                     const std::string& description, const std::string& group);

// "[METHOD] MODEL": the reference tool's users write its method word in front of the model.
class ModelArguments {
 public:
  void Declare(CLI::App& app, bool with_method);
  absl::Status Resolve();
  const std::string& model() const { return model_; }
  // "key", "certificate", ...; empty when none was given.
  const std::string& method() const { return method_; }

 private:
  bool with_method_ = false;
  std::string first_;
  std::string second_;
  std::string model_;
  std::string method_;
};

// Where signature and tree lie.
struct SignatureOptions {
  std::string signature = "model.sig";
  std::string tree;
  void Declare(CLI::App& app, const std::string& what_for);
};

// Which files belong to the model.
struct SelectionOptions {
  std::vector<std::string> ignore_paths;
  bool ignore_git_paths = true;
  bool allow_symlinks = false;
  void Declare(CLI::App& app);
  // `ignore_paths` relative to the model: each is taken from the current directory, as the
  // reference tool does, if it leads into the model, else from the model's. A path that is neither
  // is a usage error, where the reference tool drops it silently.
  absl::StatusOr<std::vector<std::string>> RelativeTo(const std::string& model_path) const;
};

// As hash::OpenDevice; "cuda:local" and "opencl:local" are the one of this process's number among
// those that a launcher started on this machine.
absl::StatusOr<std::unique_ptr<hash::Device>> OpenDeviceOfRank(const std::string& name);

// How files are read and hashed.
struct ReadOptions {
  std::string threads;
  std::string read_mode = "auto";
  std::string device = "auto";
  // `any_device`: the verb hashes on whatever OpenDevice opens; else on the CPU alone.
  void Declare(CLI::App& app, bool any_device = false);
  // kUnsupported for a device other than the CPU, unless the verb takes any.
  absl::StatusOr<hash::PassOptions> Resolve(const Session& session) const;
  // nullptr for the CPU ("cpu", and "auto": a model that is only to be verified gains nothing from
  // a copy to a device); otherwise as OpenDeviceOfRank.
  absl::StatusOr<std::unique_ptr<hash::Device>> OpenDevice() const;

 private:
  bool any_device_ = false;
};

// "--threads": a number from 1 to 4,096, or 0 ("" as well) for one a CPU.
absl::StatusOr<unsigned> ParseThreads(const std::string& text);

// Whom to trust: exactly one of a key, certificate roots, a Sigstore identity, or a trust file.
struct TrustOptions {
  std::string public_key;
  std::vector<std::string> certificate_chain;
  bool system_roots = false;
  std::string identity;
  std::string identity_provider;
  std::string trusted_root;
  std::string trust_file;
  std::string model_name;
  bool accept_expired_certificates = false;

  void Declare(CLI::App& app);
  bool AnyGiven() const;
  // `method`: the reference tool's method word, held against the options; may be empty.
  // `default_model_name`: what a trust file's rules are matched with where --model-name is absent;
  // may be empty. Refusals for files that cannot be read or do not parse.
  absl::StatusOr<signing::TrustPolicy> Resolve(const std::string& method,
                                               const std::string& default_model_name) const;
};

// The password of a private key: --password, --password-file or $PAVISE_KEY_PASSWORD.
struct PasswordOptions {
  std::string password;
  std::string password_file;
  ~PasswordOptions();
  void Declare(CLI::App& app, const std::string& group, bool with_password);
  bool AnyGiven() const { return !password.empty() || !password_file.empty(); }
  // Empty when none of the three is given. A file loses one line end.
  absl::StatusOr<SecretBytes> Resolve() const;
};
inline constexpr const char* kPasswordVariable = "PAVISE_KEY_PASSWORD";

// Decimal digits only (no sign, no octal). `option` names it in the error.
absl::StatusOr<uint64_t> ParseCount(std::string_view option, const std::string& text);
// As ParseCount, or with KB, MB, GB (powers of 1,000) or KiB, MiB, GiB (powers of 1,024) after it.
absl::StatusOr<uint64_t> ParseSize(std::string_view option, const std::string& text);

// "NAME=PATH", each name once.
absl::StatusOr<std::map<std::string, std::string>> ParseNamedPaths(
    std::string_view option, const std::vector<std::string>& values);

// Every certificate of the PEM files, in order.
absl::StatusOr<std::vector<crypto::Certificate>> ReadCertificates(
    const std::vector<std::string>& paths);

// Bounds of the small files that options name.
inline constexpr uint64_t kMaxKeyFileBytes = 64u << 10;
inline constexpr uint64_t kMaxCertificateFileBytes = 16u << 20;

}  // namespace pavise::cli

#endif  // PAVISE_CLI_OPTIONS_H_
