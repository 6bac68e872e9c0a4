#include "pavise/cli/options.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <memory>
#include <system_error>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/hash/devices.h"
#include "pavise/loading/ranks.h"
#include "pavise/model/file_tree.h"
#include "pavise/signing/sigstore.h"

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace pavise::cli {
namespace {

constexpr uint64_t kMaxPasswordFileBytes = 4096;
constexpr uint64_t kMaxTrustedRootBytes = 16u << 20;
constexpr unsigned kMostThreads = 4096;
constexpr std::array<std::string_view, 5> kMethodWords = {"sigstore", "key", "certificate",
                                                          "pkcs11-key", "pkcs11-certificate"};

constexpr const char* kFilesGroup = "Files";
constexpr const char* kHashingGroup = "Reading and hashing";
constexpr const char* kTrustGroup = "Whom to trust (exactly one way)";

bool IsMethodWord(const std::string& word) {
  return std::find(kMethodWords.begin(), kMethodWords.end(), word) != kMethodWords.end();
}

}  // namespace

CLI::Option* AddOption(CLI::App& app, const std::string& names, std::string& value,
                       const std::string& value_name, const std::string& description,
                       const std::string& group) {
  CLI::Option* option = app.add_option(names, value, description);
  if (value_name.find('|') != std::string::npos) {
    const std::vector<std::string> choices = absl::StrSplit(value_name, '|');
    // The choices are the value's name already: without a description the check adds them to no
    // help.
    option->check(CLI::IsMember(choices).description(""));
  }
  return option->type_name(value_name)->group(group);
}

CLI::Option* AddOption(CLI::App& app, const std::string& names, std::vector<std::string>& values,
                       const std::string& value_name, const std::string& description,
                       const std::string& group) {
  // Without extra arguments an option takes one word each time: it neither swallows the model that
  // follows it nor splits values in brackets, which globs may be.
  return app.add_option(names, values, description)
      ->allow_extra_args(false)
      ->type_name(value_name)
      ->group(group);
}

CLI::Option* AddFlag(CLI::App& app, const std::string& names, bool& value,
                     const std::string& description, const std::string& group) {
  return app.add_flag(names, value, description)->group(group);
}

void ModelArguments::Declare(CLI::App& app, bool with_method) {
  with_method_ = with_method;
  if (with_method) {
    AddOption(app, std::string(kMethodPositional), first_, "WORD",
              StrCat("optional, for people used to the reference tool: ",
                     absl::StrJoin(kMethodWords.begin(), kMethodWords.end(), ", ",
                                   [](std::string* out, std::string_view word) { *out += word; }),
                     ". It is only held against the options; a model that is called so is given as "
                     "./key"),
              "Arguments");
    AddOption(app, "MODEL", second_, "PATH", "the model: a directory, or a single file",
              "Arguments");
  } else {
    AddOption(app, "MODEL", first_, "PATH", "the model: a directory, or a single file", "Arguments")
        ->required();
  }
}

absl::Status ModelArguments::Resolve() {
  if (!second_.empty()) {
    if (!IsMethodWord(first_)) {
      return UsageError(StrCat("one model at a time: '", first_, "' and '", second_, "' are two"));
    }
    method_ = first_;
    model_ = second_;
  } else {
    model_ = first_;
    if (with_method_ && IsMethodWord(model_)) {
      return UsageError(StrCat("'", model_,
                               "' is the word for a method, and no model follows it; a ",
                               "model that is called so is given as ./", model_));
    }
  }
  if (model_.empty()) return UsageError("no model given");
  return absl::OkStatus();
}

void SignatureOptions::Declare(CLI::App& app, const std::string& what_for) {
  AddOption(app, "--signature", signature, "FILE",
            StrCat("the signature file ", what_for, " [model.sig]"), kFilesGroup);
  AddOption(app, "--tree", tree, "FILE",
            "the outboard tree file, which locates damage and verifies ranges [SIGNATURE.tree]",
            kFilesGroup);
}

void SelectionOptions::Declare(CLI::App& app) {
  AddOption(app, "--ignore-paths", ignore_paths, "PATH",
            "leave out this file, or all below this directory (repeatable); taken from the current "
            "directory if that leads into the model, else from the model's",
            kFilesGroup);
  AddFlag(app, "--ignore-git-paths,!--no-ignore-git-paths", ignore_git_paths,
          "leave out .git, .gitattributes, .github and .gitignore at the top of the model [yes]",
          kFilesGroup);
  AddFlag(app, "--allow-symlinks", allow_symlinks, "follow symbolic links, which are refused else",
          kFilesGroup);
}

absl::StatusOr<std::vector<std::string>> SelectionOptions::RelativeTo(
    const std::string& model_path) const {
  namespace fs = std::filesystem;
  std::vector<std::string> relative;
  if (ignore_paths.empty()) return relative;
  std::error_code error;
  const fs::path model = fs::canonical(model_path, error);
  if (error) return FromErrno(error.value(), "open", model_path);
  for (const std::string& given : ignore_paths) {
    fs::path path = fs::path(given).lexically_normal();
    if (!path.has_filename()) path = path.parent_path();  // "sub/"
    // The directory's links are resolved; the last component stays as written, since it may be a
    // link itself, and the link is what is to be left out.
    const fs::path parent =
        fs::weakly_canonical(path.has_parent_path() ? path.parent_path() : fs::path("."), error);
    if (error) return FromErrno(error.value(), "resolve", given);
    const std::string absolute = (fs::absolute(parent, error) / path.filename()).string();
    if (error) return FromErrno(error.value(), "resolve", given);
    const std::string prefix = model == "/" ? "/" : model.string() + "/";
    const std::string inside = absl::StartsWith(absolute, prefix) ? absolute.substr(prefix.size())
                               : path.is_absolute()               ? std::string()
                                                                  : path.string();
    if (inside.empty() || inside == "." || absolute == model.string() ||
        !model::CheckRelativePath(inside, given).ok()) {
      return UsageError(StrCat("--ignore-paths ", given, ": no path inside the model"));
    }
    relative.push_back(inside);
  }
  return relative;
}

void ReadOptions::Declare(CLI::App& app, bool any_device) {
  any_device_ = any_device;
  AddOption(app, "--threads", threads, "N", "how many threads hash [one a CPU]", kHashingGroup);
  AddOption(app, "--read-mode", read_mode, "auto|mapped|buffered|direct",
            "how files are read: mapped into memory, by large asynchronous reads, or by those past "
            "the page cache [auto]",
            kHashingGroup);
  AddOption(app, "--device", device, "DEVICE",
            any_device
                ? "where to hash: auto or cpu, or in the memory of opencl:N or cuda:N, where "
                  "--threads and --read-mode do not count [auto]"
                : "where to hash: auto or cpu; this verb uses no other device [auto]",
            kHashingGroup);
}

absl::StatusOr<unsigned> ParseThreads(const std::string& text) {
  if (text.empty()) return 0u;
  PAVISE_ASSIGN_OR_RETURN(const uint64_t threads, ParseCount("--threads", text));
  if (threads > kMostThreads) return UsageError(StrCat("--threads: at most ", kMostThreads));
  return static_cast<unsigned>(threads);
}

absl::StatusOr<hash::PassOptions> ReadOptions::Resolve(const Session& session) const {
  if (!any_device_ && device != "auto" && device != "cpu") {
    if (absl::StartsWith(device, "cuda:") || absl::StartsWith(device, "opencl:")) {
      return Refuse(Reason::kUnsupported, StrCat("--device ", device),
                    "this verb hashes on the CPU only", "use --device cpu");
    }
    return UsageError(StrCat("--device ", device, ": no such kind of device; give auto or cpu"));
  }
  hash::PassOptions pass;
  PAVISE_ASSIGN_OR_RETURN(pass.threads, ParseThreads(threads));
  pass.mode = read_mode == "mapped"     ? hash::ReadMode::kMapped
              : read_mode == "buffered" ? hash::ReadMode::kBuffered
              : read_mode == "direct"   ? hash::ReadMode::kDirect
                                        : hash::ReadMode::kAuto;
  pass.progress = &session.progress;
  return pass;
}

absl::StatusOr<std::unique_ptr<hash::Device>> OpenDeviceOfRank(const std::string& name) {
  if (name != "cuda:local" && name != "opencl:local") return hash::OpenDevice(name);
  PAVISE_ASSIGN_OR_RETURN(const unsigned rank, loading::LocalRank());
  return hash::OpenDevice(StrCat(name.substr(0, name.find(':') + 1), rank));
}

absl::StatusOr<std::unique_ptr<hash::Device>> ReadOptions::OpenDevice() const {
  if (!any_device_ || device == "auto" || device == "cpu") return nullptr;
  return OpenDeviceOfRank(device);
}

void TrustOptions::Declare(CLI::App& app) {
  AddOption(app, "--public-key", public_key, "FILE", "trust the holder of this key (PEM)",
            kTrustGroup);
  AddOption(app, "--certificate-chain", certificate_chain, "FILE",
            "trust signers whose certificate chain ends in one of these roots (PEM, repeatable)",
            kTrustGroup);
  AddFlag(app, "--system-roots", system_roots,
          "trust the operating system's roots as well; needs --identity, since they vouch for "
          "everybody",
          kTrustGroup);
  AddOption(
      app, "--identity", identity, "NAME",
      "the signer's Sigstore identity; with certificates: the subject, its common name, or an "
      "alternative name",
      kTrustGroup);
  AddOption(app, "--identity-provider", identity_provider, "URL",
            "Sigstore: who vouched for the identity (the OIDC issuer)", kTrustGroup);
  AddOption(app, "--trusted-root,--trust-config", trusted_root, "FILE",
            "Sigstore: the trusted root or client trust configuration (JSON); nothing is fetched",
            kTrustGroup);
  AddOption(app, "--trust", trust_file, "FILE",
            "a trust file (YAML): signers per model name, revoked keys, minimum versions",
            kTrustGroup);
  AddOption(app, "--model-name", model_name, "NAME",
            "what the signature must call the model; picks the rule of a trust file [the model's "
            "base name, with --trust]",
            kTrustGroup);
  AddFlag(app, "--accept-expired-certificates", accept_expired_certificates,
          "judge certificates at the start of their validity instead of now, as the reference tool "
          "does",
          kTrustGroup);
}

bool TrustOptions::AnyGiven() const {
  return !public_key.empty() || !certificate_chain.empty() || system_roots || !identity.empty() ||
         !identity_provider.empty() || !trusted_root.empty() || !trust_file.empty();
}

absl::StatusOr<signing::TrustPolicy> TrustOptions::Resolve(
    const std::string& method, const std::string& default_model_name) const {
  const bool key = !public_key.empty();
  const bool certificate = !certificate_chain.empty() || system_roots;
  const bool sigstore =
      !identity_provider.empty() || !trusted_root.empty() || (!identity.empty() && !certificate);
  const bool file = !trust_file.empty();
  const int ways = int{key} + int{certificate} + int{sigstore} + int{file};
  constexpr std::string_view kWays =
      "  --public-key KEY.pub\n"
      "  --certificate-chain ROOT.pem [--identity NAME]\n"
      "  --identity NAME --identity-provider URL --trusted-root ROOT.json   (Sigstore)\n"
      "  --trust TRUST.yaml";
  if (ways == 0) {
    return UsageError(StrCat("say whom to trust, or anybody's signature would do:\n", kWays));
  }
  if (ways > 1) {
    return UsageError(
        StrCat("these options name more than one way to trust; give one of\n", kWays));
  }
  if (method == "pkcs11-key" || method == "pkcs11-certificate") {
    return UsageError(
        StrCat("where the key lies matters to the signer only: verify by the method '",
               method.substr(7), "'"));
  }
  const std::string_view way = key           ? "key"
                               : certificate ? "certificate"
                               : sigstore    ? "sigstore"
                                             : "trust file";
  if (!method.empty() && method != way) {
    return UsageError(StrCat("the method is called '", method, "', but the options are those of a ",
                             way == "sigstore" ? "Sigstore identity" : way));
  }
  if (sigstore && (identity.empty() || identity_provider.empty() || trusted_root.empty())) {
    return UsageError(StrCat(
        "a Sigstore signer takes --identity, --identity-provider and --trusted-root; missing:",
        identity.empty() ? " --identity" : "",
        identity_provider.empty() ? " --identity-provider" : "",
        trusted_root.empty() ? " --trusted-root" : ""));
  }
  if (key && !identity.empty()) {
    return UsageError("a bare key has no identity: leave out --identity");
  }
  if (system_roots && identity.empty()) {
    return UsageError(
        "--system-roots trusts every certificate of every public authority: say whose with "
        "--identity");
  }
  if (file && !identity.empty()) {
    return UsageError("identities are the trust file's matter: leave out --identity");
  }

  signing::TrustPolicy policy;
  if (file) {
    PAVISE_ASSIGN_OR_RETURN(policy, signing::LoadTrustPolicy(trust_file));
    policy.expected_model_name = model_name.empty() ? default_model_name : model_name;
    if (policy.expected_model_name->empty()) {
      return UsageError("a trust file's rules go by the model's name: give --model-name");
    }
  } else {
    signing::TrustedSigners signers;
    if (key) {
      PAVISE_ASSIGN_OR_RETURN(const Bytes pem, ReadFile(public_key, kMaxKeyFileBytes));
      PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey parsed,
                              crypto::PublicKey::FromPem(AsText(pem), public_key));
      signers.keys.push_back({std::move(parsed)});
    } else if (certificate) {
      signing::TrustedCertificate trusted;
      PAVISE_ASSIGN_OR_RETURN(trusted.roots, ReadCertificates(certificate_chain));
      if (system_roots) {
        PAVISE_ASSIGN_OR_RETURN(const std::vector<crypto::Certificate> roots,
                                crypto::SystemRoots());
        trusted.roots.insert(trusted.roots.end(), roots.begin(), roots.end());
      }
      if (!identity.empty()) trusted.identities.push_back(identity);
      signers.certificates.push_back(std::move(trusted));
    } else {
      PAVISE_ASSIGN_OR_RETURN(const Bytes json, ReadFile(trusted_root, kMaxTrustedRootBytes));
      PAVISE_ASSIGN_OR_RETURN(signing::SigstoreTrustedRoot root,
                              signing::ParseSigstoreTrustedRoot(json, trusted_root));
      signers.sigstore.push_back(
          {std::make_shared<const signing::SigstoreTrustedRoot>(std::move(root)), identity,
           identity_provider});
    }
    policy = signing::TrustPolicy::ForSigners(std::move(signers));
    if (!model_name.empty()) policy.expected_model_name = model_name;
  }
  policy.accept_expired_certificates = accept_expired_certificates;
  return policy;
}

PasswordOptions::~PasswordOptions() { WipeMemory(password); }

void PasswordOptions::Declare(CLI::App& app, const std::string& group, bool with_password) {
  AddOption(
      app, "--password-file", password_file, "FILE",
      StrCat("the key's password is this file's first and only line; or set $", kPasswordVariable),
      group);
  if (with_password) {
    AddOption(app, "--password", password, "PASSWORD",
              "the key's password; shell histories keep it, so prefer --password-file", group);
  }
}

absl::StatusOr<SecretBytes> PasswordOptions::Resolve() const {
  if (!password.empty() && !password_file.empty()) {
    return UsageError("give --password or --password-file, not both");
  }
  if (!password.empty()) return SecretBytes(password);
  if (password_file.empty()) {
    const char* variable = std::getenv(kPasswordVariable);
    return variable == nullptr ? SecretBytes() : SecretBytes(std::string_view(variable));
  }
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes content,
                          ReadSecretFile(password_file, kMaxPasswordFileBytes));
  std::string_view text = content.RevealText();
  if (text.ends_with('\n')) text.remove_suffix(1);
  if (text.ends_with('\r')) text.remove_suffix(1);
  if (text.empty()) {
    return Refuse(Reason::kMalformed, password_file, "holds no password",
                  "write the password into it, or leave out --password-file");
  }
  if (text.find('\n') != std::string_view::npos || text.find('\0') != std::string_view::npos) {
    return Refuse(Reason::kMalformed, password_file, "holds more than one line",
                  "a password file is the password and at most one line end");
  }
  return SecretBytes(text);
}

absl::StatusOr<uint64_t> ParseCount(std::string_view option, const std::string& text) {
  uint64_t count = 0;
  const bool digits = !text.empty() && std::all_of(text.begin(), text.end(),
                                                   [](char c) { return c >= '0' && c <= '9'; });
  if (!digits || !absl::SimpleAtoi(text, &count)) {
    return UsageError(StrCat(option, " ", text, ": not a whole number below 2^64"));
  }
  return count;
}

absl::StatusOr<uint64_t> ParseSize(std::string_view option, const std::string& text) {
  struct Unit {
    std::string_view suffix;
    uint64_t factor;
  };
  constexpr Unit kUnits[] = {{"KiB", uint64_t{1} << 10}, {"MiB", uint64_t{1} << 20},
                             {"GiB", uint64_t{1} << 30}, {"KB", 1'000},
                             {"MB", 1'000'000},          {"GB", 1'000'000'000}};
  for (const Unit& unit : kUnits) {
    if (!std::string_view(text).ends_with(unit.suffix)) continue;
    PAVISE_ASSIGN_OR_RETURN(const uint64_t count,
                            ParseCount(option, text.substr(0, text.size() - unit.suffix.size())));
    if (count > std::numeric_limits<uint64_t>::max() / unit.factor) {
      return UsageError(StrCat(option, " ", text, ": too large"));
    }
    return count * unit.factor;
  }
  return ParseCount(option, text);
}

absl::StatusOr<std::vector<crypto::Certificate>> ReadCertificates(
    const std::vector<std::string>& paths) {
  std::vector<crypto::Certificate> certificates;
  for (const std::string& path : paths) {
    PAVISE_ASSIGN_OR_RETURN(const Bytes pem, ReadFile(path, kMaxCertificateFileBytes));
    PAVISE_ASSIGN_OR_RETURN(const std::vector<crypto::Certificate> listed,
                            crypto::Certificate::ListFromPem(AsText(pem), path));
    certificates.insert(certificates.end(), listed.begin(), listed.end());
  }
  return certificates;
}

absl::StatusOr<std::map<std::string, std::string>> ParseNamedPaths(
    std::string_view option, const std::vector<std::string>& values) {
  std::map<std::string, std::string> paths;
  for (const std::string& value : values) {
    const size_t equals = value.find('=');
    if (equals == 0 || equals == std::string::npos || equals + 1 == value.size()) {
      return UsageError(StrCat(option, " takes NAME=FILE, not ", Printable(value)));
    }
    if (!paths.emplace(value.substr(0, equals), value.substr(equals + 1)).second) {
      return UsageError(StrCat(option, " names ", Printable(value.substr(0, equals)), " twice"));
    }
  }
  return paths;
}

}  // namespace pavise::cli
