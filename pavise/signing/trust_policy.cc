#include "pavise/signing/trust_policy.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>

#include "pavise/base/file.h"
#include "pavise/base/glob.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/yaml.h"
#include "pavise/crypto/digest.h"

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"

namespace pavise::signing {
namespace {

constexpr uint64_t kMaxTrustFileBytes = uint64_t{1} << 20;
constexpr uint64_t kMaxKeyFileBytes = 64 << 10;
constexpr uint64_t kMaxCertificateFileBytes = 16 << 20;
constexpr uint64_t kTrustFileVersion = 1;
constexpr size_t kFingerprintDigits = 2 * sizeof(Digest32);

bool IsFingerprint(std::string_view text) {
  return text.size() == kFingerprintDigits &&
         text.find_first_not_of("0123456789abcdefABCDEF") == text.npos;
}

// From the tree to a policy. The members' names are those of docs/formats/trust.md.
class TrustFileReader {
 public:
  explicit TrustFileReader(const std::string& file)
      : file_(file), directory_(std::filesystem::path(file).parent_path()) {}

  absl::StatusOr<TrustPolicy> Read(const YamlNode& root) {
    PAVISE_RETURN_IF_ERROR(RequireMap(root, "", {"version", "models", "revoked"}));
    PAVISE_ASSIGN_OR_RETURN(const YamlNode* version, Get(root, "", "version"));
    PAVISE_ASSIGN_OR_RETURN(const uint64_t number, Integer(*version, "version"));
    if (number != kTrustFileVersion) {
      return Refuse(Reason::kUnsupported, Where(*version, "version"),
                    StrCat("version ", number, " of the format; this program knows version ",
                           kTrustFileVersion));
    }
    TrustPolicy policy;
    policy.trust_file = file_;
    PAVISE_ASSIGN_OR_RETURN(const YamlNode* models, Get(root, "", "models"));
    PAVISE_RETURN_IF_ERROR(RequireList(*models, "models"));
    std::set<std::string> patterns;
    for (size_t i = 0; i < models->items.size(); ++i) {
      const std::string path = StrCat("models[", i, "]");
      PAVISE_ASSIGN_OR_RETURN(ModelRule rule, ReadRule(models->items[i], path));
      if (!patterns.insert(rule.model).second) {
        return Refuse(
            Reason::kMalformed, Where(models->items[i], path),
            StrCat("a second rule for \"", Printable(rule.model), "\", which would never be used"),
            "put all its signers into one rule");
      }
      policy.rules.push_back(std::move(rule));
    }
    if (const YamlNode* revoked = Find(root, "revoked"); revoked != nullptr) {
      PAVISE_RETURN_IF_ERROR(ReadRevoked(*revoked, policy));
    }
    return policy;
  }

 private:
  std::string Where(const YamlNode& node, std::string_view path) const {
    return StrCat(file_, ", line ", node.line, path.empty() ? "" : ", ", path);
  }
  absl::Status Malformed(const YamlNode& node, std::string_view path,
                         std::string_view detail) const {
    return Refuse(Reason::kMalformed, Where(node, path), detail,
                  "the format is described in docs/formats/trust.md");
  }
  static std::string Member(std::string_view path, std::string_view key) {
    return path.empty() ? std::string(key) : StrCat(path, ".", key);
  }
  static const YamlNode* Find(const YamlNode& map, std::string_view key) {
    const auto it = std::find(map.keys.begin(), map.keys.end(), key);
    if (it == map.keys.end()) return nullptr;
    return &map.items[static_cast<size_t>(it - map.keys.begin())];
  }
  absl::StatusOr<const YamlNode*> Get(const YamlNode& map, std::string_view path,
                                      std::string_view key) const {
    const YamlNode* node = Find(map, key);
    if (node == nullptr) return Malformed(map, Member(path, key), "is missing");
    return node;
  }
  absl::Status RequireMap(const YamlNode& node, std::string_view path,
                          std::initializer_list<std::string_view> known) const {
    if (node.kind != YamlNode::Kind::kMap || node.keys.size() != node.items.size()) {
      return Malformed(node, path, "names and values (name: value) belong here");
    }
    for (const std::string& key : node.keys) {
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        return Malformed(node, Member(path, Printable(key)), "unknown name");
      }
    }
    return absl::OkStatus();
  }
  absl::Status RequireList(const YamlNode& node, std::string_view path) const {
    if (node.kind == YamlNode::Kind::kSequence && !node.items.empty()) return absl::OkStatus();
    return Malformed(node, path, "a list with at least one entry belongs here");
  }
  absl::StatusOr<std::string> Text(const YamlNode& node, std::string_view path) const {
    if (node.kind == YamlNode::Kind::kScalar && !node.text.empty()) return node.text;
    return Malformed(node, path, "a text belongs here");
  }
  absl::StatusOr<uint64_t> Integer(const YamlNode& node, std::string_view path) const {
    uint64_t value = 0;
    // One spelling: no sign, no leading zero, no quotes.
    if (node.kind == YamlNode::Kind::kScalar && node.is_plain &&
        absl::SimpleAtoi(node.text, &value) && StrCat(value) == node.text) {
      return value;
    }
    return Malformed(node, path, "an integer belongs here");
  }
  absl::StatusOr<std::string> Path(const YamlNode& node, std::string_view path) const {
    PAVISE_ASSIGN_OR_RETURN(const std::string text, Text(node, path));
    return (directory_ / text).string();  // an absolute path replaces the directory
  }

  absl::StatusOr<crypto::PublicKey> Key(const YamlNode& node, std::string_view path) const {
    PAVISE_ASSIGN_OR_RETURN(const std::string file, Path(node, path));
    PAVISE_ASSIGN_OR_RETURN(const Bytes pem, ReadFile(file, kMaxKeyFileBytes));
    return crypto::PublicKey::FromPem(AsText(pem), file);
  }
  absl::StatusOr<std::vector<crypto::Certificate>> Certificates(const YamlNode& node,
                                                                std::string_view path) const {
    PAVISE_ASSIGN_OR_RETURN(const std::string file, Path(node, path));
    PAVISE_ASSIGN_OR_RETURN(const Bytes pem, ReadFile(file, kMaxCertificateFileBytes));
    return crypto::Certificate::ListFromPem(AsText(pem), file);
  }

  absl::StatusOr<ModelRule> ReadRule(const YamlNode& node, const std::string& path) {
    PAVISE_RETURN_IF_ERROR(RequireMap(node, path, {"model", "minimum_version", "signers"}));
    ModelRule rule;
    PAVISE_ASSIGN_OR_RETURN(const YamlNode* model, Get(node, path, "model"));
    PAVISE_ASSIGN_OR_RETURN(rule.model, Text(*model, Member(path, "model")));
    if (const YamlNode* minimum = Find(node, "minimum_version"); minimum != nullptr) {
      PAVISE_ASSIGN_OR_RETURN(rule.minimum_version,
                              Integer(*minimum, Member(path, "minimum_version")));
    }
    PAVISE_ASSIGN_OR_RETURN(const YamlNode* signers, Get(node, path, "signers"));
    const std::string signers_path = Member(path, "signers");
    PAVISE_RETURN_IF_ERROR(RequireList(*signers, signers_path));
    for (size_t i = 0; i < signers->items.size(); ++i) {
      PAVISE_RETURN_IF_ERROR(
          ReadSigner(signers->items[i], StrCat(signers_path, "[", i, "]"), rule.signers));
    }
    return rule;
  }

  absl::Status ReadSigner(const YamlNode& node, const std::string& path, TrustedSigners& signers) {
    PAVISE_RETURN_IF_ERROR(RequireMap(node, path, {"key", "certificate", "sigstore"}));
    if (node.keys.size() != 1) {
      return Malformed(node, path, "exactly one of key, certificate and sigstore belongs here");
    }
    const std::string& kind = node.keys[0];
    const YamlNode& value = node.items[0];
    const std::string value_path = Member(path, kind);
    if (kind == "key") return ReadKey(value, value_path, signers);
    if (kind == "certificate") return ReadCertificate(value, value_path, signers);
    return ReadSigstore(value, value_path, signers);
  }

  absl::Status ReadKey(const YamlNode& node, const std::string& path,
                       TrustedSigners& signers) const {
    PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey key, Key(node, path));
    if (!crypto::IsOmsKey(key.type())) {
      return Refuse(Reason::kKeyUnsupported, Where(node, path),
                    StrCat("a key of type ", crypto::KeyTypeName(key.type()),
                           "; models are signed with P-256, P-384 or P-521"));
    }
    signers.keys.push_back({std::move(key)});
    return absl::OkStatus();
  }

  absl::Status ReadCertificate(const YamlNode& node, const std::string& path,
                               TrustedSigners& signers) const {
    PAVISE_RETURN_IF_ERROR(RequireMap(node, path, {"roots", "identities"}));
    TrustedCertificate trusted;
    PAVISE_ASSIGN_OR_RETURN(const YamlNode* roots, Get(node, path, "roots"));
    PAVISE_ASSIGN_OR_RETURN(trusted.roots, Certificates(*roots, Member(path, "roots")));
    if (const YamlNode* identities = Find(node, "identities"); identities != nullptr) {
      const std::string list_path = Member(path, "identities");
      // An empty list would read as "nobody" and mean "anybody".
      PAVISE_RETURN_IF_ERROR(RequireList(*identities, list_path));
      for (const YamlNode& identity : identities->items) {
        PAVISE_ASSIGN_OR_RETURN(std::string text, Text(identity, list_path));
        trusted.identities.push_back(std::move(text));
      }
    }
    signers.certificates.push_back(std::move(trusted));
    return absl::OkStatus();
  }

  absl::Status ReadSigstore(const YamlNode& node, const std::string& path,
                            TrustedSigners& signers) {
    PAVISE_RETURN_IF_ERROR(RequireMap(node, path, {"trusted_root", "identity", "issuer"}));
    TrustedSigstore trusted;
    PAVISE_ASSIGN_OR_RETURN(const YamlNode* root, Get(node, path, "trusted_root"));
    PAVISE_ASSIGN_OR_RETURN(const std::string file, Path(*root, Member(path, "trusted_root")));
    std::shared_ptr<const SigstoreTrustedRoot>& parsed = roots_[file];
    if (parsed == nullptr) {
      PAVISE_ASSIGN_OR_RETURN(const Bytes json, ReadFile(file, kMaxTrustedRootBytes));
      PAVISE_ASSIGN_OR_RETURN(SigstoreTrustedRoot value, ParseSigstoreTrustedRoot(json, file));
      parsed = std::make_shared<const SigstoreTrustedRoot>(std::move(value));
    }
    trusted.root = parsed;
    PAVISE_ASSIGN_OR_RETURN(const YamlNode* identity, Get(node, path, "identity"));
    PAVISE_ASSIGN_OR_RETURN(trusted.identity, Text(*identity, Member(path, "identity")));
    PAVISE_ASSIGN_OR_RETURN(const YamlNode* issuer, Get(node, path, "issuer"));
    PAVISE_ASSIGN_OR_RETURN(trusted.issuer, Text(*issuer, Member(path, "issuer")));
    signers.sigstore.push_back(std::move(trusted));
    return absl::OkStatus();
  }

  absl::Status ReadRevoked(const YamlNode& node, TrustPolicy& policy) const {
    PAVISE_RETURN_IF_ERROR(RequireMap(node, "revoked", {"keys", "certificates"}));
    if (const YamlNode* keys = Find(node, "keys"); keys != nullptr) {
      PAVISE_RETURN_IF_ERROR(RequireList(*keys, "revoked.keys"));
      for (size_t i = 0; i < keys->items.size(); ++i) {
        const std::string path = StrCat("revoked.keys[", i, "]");
        PAVISE_ASSIGN_OR_RETURN(const std::string text, Text(keys->items[i], path));
        if (IsFingerprint(text)) {
          policy.revoked_keys.insert(absl::AsciiStrToLower(text));
          continue;
        }
        PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key, Key(keys->items[i], path));
        policy.revoked_keys.insert(key.Fingerprint());
      }
    }
    if (const YamlNode* certificates = Find(node, "certificates"); certificates != nullptr) {
      PAVISE_RETURN_IF_ERROR(RequireList(*certificates, "revoked.certificates"));
      for (size_t i = 0; i < certificates->items.size(); ++i) {
        const std::string path = StrCat("revoked.certificates[", i, "]");
        PAVISE_ASSIGN_OR_RETURN(const std::string text, Text(certificates->items[i], path));
        if (IsFingerprint(text)) {
          policy.revoked_certificates.insert(absl::AsciiStrToLower(text));
          continue;
        }
        PAVISE_ASSIGN_OR_RETURN(const std::vector<crypto::Certificate> list,
                                Certificates(certificates->items[i], path));
        // A chain file would take its authorities down with it.
        if (list.size() != 1) {
          return Malformed(certificates->items[i], path,
                           StrCat("the file holds ", list.size(),
                                  " certificates where exactly the revoked one belongs"));
        }
        policy.revoked_certificates.insert(list[0].Fingerprint());
      }
    }
    return absl::OkStatus();
  }

  const std::string file_;
  const std::filesystem::path directory_;
  std::map<std::string, std::shared_ptr<const SigstoreTrustedRoot>> roots_;
};

// Verification.

const std::string kNameConstraintsOid = "2.5.29.30";
const std::string kAlternativeNamesOid = "2.5.29.17";

// "CN=..." or "2.5.4.3=...": an attribute type of a distinguished name.
bool LooksLikeDistinguishedName(std::string_view identity) {
  const size_t equals = identity.find('=');
  return equals != identity.npos && equals > 0 &&
         std::all_of(identity.begin(), identity.begin() + equals, [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '-';
         });
}

// The values of an attribute in a name as RFC 2253 writes it (and OpenSSL prints it: never quoted).
std::vector<std::string> CommonNames(std::string_view subject) {
  std::vector<std::string> names;
  size_t at = 0;
  while (at < subject.size()) {
    const size_t equals = subject.find('=', at);
    if (equals == subject.npos) break;
    const std::string_view type = subject.substr(at, equals - at);
    std::string value;
    size_t i = equals + 1;
    for (; i < subject.size() && subject[i] != ',' && subject[i] != '+'; ++i) {
      if (subject[i] != '\\' || i + 1 >= subject.size()) {
        value.push_back(subject[i]);
        continue;
      }
      const std::string_view pair = subject.substr(i + 1, 2);
      if (const absl::StatusOr<Bytes> byte = FromHex(pair, "subject");
          pair.size() == 2 && byte.ok()) {
        value.push_back(static_cast<char>((*byte)[0]));
        i += 2;
      } else {
        value.push_back(subject[i + 1]);
        i += 1;
      }
    }
    if (type == "CN") names.push_back(std::move(value));
    at = i + 1;
  }
  return names;
}

// Where an identity stands in a certificate, by its form.
crypto::SubjectAlternativeName::Kind KindOf(std::string_view identity) {
  using Kind = crypto::SubjectAlternativeName::Kind;
  if (identity.find("://") != identity.npos || identity.substr(0, 4) == "urn:") return Kind::kUri;
  return identity.find('@') != identity.npos ? Kind::kEmail : Kind::kDns;
}

// A word that a POSIX shell takes as it stands.
std::string ShellWord(std::string_view text) {
  return StrCat("'", absl::StrReplaceAll(Printable(text), {{"'", "'\\''"}}), "'");
}

std::string ShowTime(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}

// What a signature was found to be made with, before the statement is read.
struct Signature {
  SignerIdentity signer;
  bool has_encoding_020 = false;
};

class Verification {
 public:
  Verification(const Bundle& bundle, std::string_view item, const TrustPolicy& policy,
               const ModelRule& rule, absl::Time now)
      : bundle_(bundle), item_(item), policy_(policy), rule_(rule), now_(now) {}

  absl::StatusOr<Signature> VerifySignature() const {
    switch (bundle_.method) {
      case Method::kKey:
        return ByKey();
      case Method::kCertificate:
        return ByCertificate();
      case Method::kSigstore:
        return BySigstore();
    }
    return MachineFailure(item_, "a method of signing that is not in the enumeration");
  }

 private:
  std::string Where() const {
    return policy_.trust_file.empty() ? "the options" : policy_.trust_file;
  }

  absl::Status RefuseMethod(std::string_view made_with, std::string_view remedy) const {
    const TrustedSigners& signers = rule_.signers;
    std::string trusted;
    const auto name = [&](bool is_there, std::string_view kind) {
      if (is_there) StrAppend(&trusted, trusted.empty() ? "" : " and ", kind);
    };
    name(!signers.keys.empty(), "keys");
    name(!signers.certificates.empty(), "certificates");
    name(!signers.sigstore.empty(), "Sigstore identities");
    return Refuse(Reason::kSignerUntrusted, item_,
                  StrCat("is signed with ", made_with, ", while ", Where(), " trusts ",
                         trusted.empty() ? "nobody" : trusted),
                  remedy);
  }

  // The standard's encoding, else that of release 0.2.0; true for the latter.
  absl::StatusOr<bool> CheckSignature(const crypto::PublicKey& key) const {
    const absl::Status verified = key.Verify(
        PreAuthenticationEncoding(bundle_.payload_type, bundle_.payload), bundle_.signature, item_);
    if (verified.ok()) return false;
    if (ReasonOf(verified) != Reason::kSignatureInvalid) return verified;
    const Bytes old = PreAuthenticationEncoding020(bundle_.payload_type, bundle_.payload);
    const absl::Status verified_020 = bundle_.method == Method::kCertificate
                                          ? key.VerifyEcdsaSha256(old, bundle_.signature, item_)
                                          : key.Verify(old, bundle_.signature, item_);
    if (verified_020.ok()) return true;
    return ReasonOf(verified_020).has_value() ? verified : verified_020;
  }

  absl::Status CheckKeyType(const crypto::PublicKey& key) const {
    if (crypto::IsOmsKey(key.type())) return absl::OkStatus();
    return Refuse(Reason::kKeyUnsupported, item_,
                  StrCat("the signer's key is ", crypto::KeyTypeName(key.type()),
                         "; models are signed with P-256, P-384 or P-521"));
  }

  absl::Status CheckKeyNotRevoked(const crypto::PublicKey& key, std::string_view whose) const {
    // The OMS hint is the other digest that people see of a key.
    if (!policy_.revoked_keys.contains(key.Fingerprint()) &&
        !policy_.revoked_keys.contains(key.OmsHint())) {
      return absl::OkStatus();
    }
    return Refuse(Reason::kRevoked, item_,
                  StrCat("key ", key.Fingerprint(), whose, " is revoked in ", Where()),
                  "have the model signed again with a key that is not revoked");
  }

  // Every certificate of the chain, and its key.
  absl::Status CheckNotRevoked(const std::vector<crypto::Certificate>& chain) const {
    for (size_t i = 0; i < chain.size(); ++i) {
      const crypto::Certificate& certificate = chain[i];
      const std::string name = Printable(certificate.subject());
      bool is_revoked = policy_.revoked_certificates.contains(certificate.Fingerprint());
      if (!is_revoked && !policy_.revoked_certificates.empty()) {
        // The last of the chain is trusted as it stands in the roots file.
        PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey issuer_key,
                                chain[std::min(i + 1, chain.size() - 1)].public_key());
        PAVISE_ASSIGN_OR_RETURN(const std::string twin, certificate.TwinFingerprint(issuer_key));
        is_revoked = policy_.revoked_certificates.contains(twin);
      }
      if (is_revoked) {
        return Refuse(Reason::kRevoked, item_,
                      StrCat("certificate ", certificate.Fingerprint(), " of \"", name,
                             "\" is revoked in ", Where()),
                      "have the model signed again with a certificate that is not revoked");
      }
      if (policy_.revoked_keys.empty()) continue;
      PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key, certificate.public_key());
      PAVISE_RETURN_IF_ERROR(CheckKeyNotRevoked(key, StrCat(" of \"", name, "\"")));
    }
    return absl::OkStatus();
  }

  // Where one key was given as an option, "the wrong key" is what happened; a trust file's keys are
  // a list that this signer is not on.
  Reason ReasonForOtherKey() const {
    return policy_.trust_file.empty() && rule_.signers.keys.size() == 1 ? Reason::kKeyMismatch
                                                                        : Reason::kSignerUntrusted;
  }

  absl::StatusOr<Signature> ByKey() const {
    if (rule_.signers.keys.empty()) {
      return RefuseMethod("a bare key",
                          policy_.trust_file.empty()
                              ? "give the signer's key with --public-key, if you "
                                "trust it"
                              : StrCat("add the signer's key to ", Where(), " if you trust it"));
    }
    std::vector<const crypto::PublicKey*> candidates;
    for (const TrustedKey& trusted : rule_.signers.keys) candidates.push_back(&trusted.key);
    Signature result;
    result.signer.method = Method::kKey;
    if (bundle_.key_hint.has_value()) {
      std::erase_if(candidates,
                    [&](const auto* key) { return key->OmsHint() != *bundle_.key_hint; });
      if (candidates.empty()) {
        const std::string hint = Printable(*bundle_.key_hint);
        return Refuse(
            ReasonForOtherKey(), item_,
            StrCat("names a signing key with the hint ", hint,
                   rule_.signers.keys.size() == 1
                       ? StrCat(", while the trusted key has ", rule_.signers.keys[0].key.OmsHint())
                       : ", which no trusted key has"),
            StrCat("if you trust its holder, get the key (the SHA-256 of its PEM file is "
                   "the hint) and ",
                   policy_.trust_file.empty() ? "give it with --public-key"
                                              : StrCat("add it to ", Where())));
      }
    } else {
      result.signer.warnings.push_back(
          "the bundle has no key hint (an old release of the reference tool signed it); sign again "
          "with a current one");
    }
    if (bundle_.key_pem.has_value()) {
      PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey carried,
                              crypto::PublicKey::FromPem(AsText(*bundle_.key_pem),
                                                         StrCat(item_, ": publicKey.rawBytes")));
      std::erase_if(candidates, [&](const auto* key) { return !(*key == carried); });
      if (candidates.empty()) {
        return Refuse(ReasonForOtherKey(), item_,
                      StrCat("carries the key ", carried.Fingerprint(), ", which is not ",
                             rule_.signers.keys.size() == 1 ? "the trusted one" : "a trusted one"),
                      policy_.trust_file.empty()
                          ? "give that key with --public-key if you trust its holder"
                          : StrCat("add its key ", carried.Fingerprint(), " to ", Where(),
                                   " if you trust its holder"));
      }
    }
    std::optional<absl::Status> refusal;
    for (const crypto::PublicKey* key : candidates) {
      const absl::StatusOr<bool> verified =
          CheckKeyType(*key).ok() ? CheckSignature(*key) : CheckKeyType(*key);
      if (verified.ok()) {
        PAVISE_RETURN_IF_ERROR(CheckKeyNotRevoked(*key, ""));
        result.signer.key_fingerprint = key->Fingerprint();
        result.has_encoding_020 = *verified;
        return result;
      }
      if (!ReasonOf(verified.status()).has_value()) return verified.status();
      if (!refusal.has_value()) refusal = verified.status();
    }
    if (candidates.size() == 1) return *refusal;
    return Refuse(
        Reason::kSignatureInvalid, item_,
        StrCat("the signature verifies under none of the ", candidates.size(), " trusted keys"),
        StrCat("restore the signature file; or, if another key signed and you trust its "
               "holder, add it to ",
               Where()));
  }

  // The identity that the leaf bears, "" where none is asked for.
  absl::StatusOr<std::string> CheckIdentity(const std::vector<crypto::Certificate>& chain,
                                            const std::vector<std::string>& identities) const {
    if (identities.empty()) return std::string();
    const crypto::Certificate& leaf = chain[0];
    const bool has_name_constraints =
        std::any_of(chain.begin(), chain.end(), [](const crypto::Certificate& certificate) {
          return certificate.Extension(kNameConstraintsOid).has_value();
        });
    const std::string subject = leaf.subject();
    PAVISE_ASSIGN_OR_RETURN(const std::vector<crypto::SubjectAlternativeName> alternatives,
                            leaf.SubjectAlternativeNames());
    // The common name speaks only where there are no alternative names (RFC 6125, 6.4.4), and not
    // when there are two: which one the authority vouched for is anybody's guess. Where the chain
    // limits names, alternative names are what it limits.
    std::vector<std::string> common_names = CommonNames(subject);
    if (common_names.size() > 1 || leaf.Extension(kAlternativeNamesOid).has_value() ||
        has_name_constraints) {
      common_names.clear();
    }
    for (const std::string& identity : identities) {
      if (LooksLikeDistinguishedName(identity)) {
        if (identity == subject) return identity;
        continue;
      }
      if (std::find(common_names.begin(), common_names.end(), identity) != common_names.end()) {
        return identity;
      }
      // Each kind of identity is looked for where authorities certify that kind.
      const auto kind = KindOf(identity);
      for (const crypto::SubjectAlternativeName& alternative : alternatives) {
        if (alternative.kind == kind && alternative.value == identity) return identity;
      }
    }
    std::string shown = Printable(subject);
    for (const crypto::SubjectAlternativeName& alternative : alternatives) {
      StrAppend(&shown, ", ", Printable(alternative.value));
    }
    std::string expected;
    for (const std::string& identity : identities) {
      StrAppend(&expected, expected.empty() ? "" : ", ", Printable(identity));
    }
    return Refuse(Reason::kIdentityMismatch, item_,
                  StrCat("is signed by \"", shown, "\", while expected was \"", expected, "\""),
                  StrCat("add the identity to ", Where(), " if you trust it"));
  }

  absl::StatusOr<std::vector<crypto::Certificate>> Chain(
      const std::vector<crypto::Certificate>& certificates,
      const std::vector<crypto::Certificate>& roots, std::vector<std::string>& warnings) const {
    const crypto::Certificate& leaf = certificates[0];
    const std::vector<crypto::Certificate> intermediates(certificates.begin() + 1,
                                                         certificates.end());
    absl::StatusOr<std::vector<crypto::Certificate>> chain =
        crypto::VerifyChain(leaf, intermediates, roots, now_);
    if (chain.ok() || !policy_.accept_expired_certificates ||
        ReasonOf(chain.status()) != Reason::kCertificateInvalid || leaf.not_before() > now_) {
      return chain;
    }
    chain = crypto::VerifyChain(leaf, intermediates, roots, leaf.not_before());
    if (chain.ok()) {
      warnings.push_back(StrCat("the certificate chain is not valid now and was judged at ",
                                ShowTime(leaf.not_before()), ", as asked for"));
    }
    return chain;
  }

  absl::StatusOr<Signature> ByCertificate() const {
    if (rule_.signers.certificates.empty()) {
      return RefuseMethod(
          "a certificate",
          policy_.trust_file.empty()
              ? "give the signer's root certificate with --certificate-chain, if "
                "you trust it"
              : StrCat("add the signer's root certificate to ", Where(), " if you trust it"));
    }
    std::vector<crypto::Certificate> certificates;
    for (size_t i = 0; i < bundle_.certificates.size(); ++i) {
      PAVISE_ASSIGN_OR_RETURN(crypto::Certificate certificate,
                              crypto::Certificate::FromDer(bundle_.certificates[i],
                                                           StrCat(item_, ": certificate ", i + 1)));
      certificates.push_back(std::move(certificate));
    }
    if (certificates.empty()) {
      return Refuse(Reason::kMalformed, item_, "has no certificate");
    }
    const crypto::Certificate& leaf = certificates[0];
    std::optional<absl::Status> chain_refusal;
    std::optional<absl::Status> identity_refusal;
    for (const TrustedCertificate& trusted : rule_.signers.certificates) {
      Signature result;
      const absl::StatusOr<std::vector<crypto::Certificate>> chain =
          Chain(certificates, trusted.roots, result.signer.warnings);
      if (!chain.ok()) {
        if (!ReasonOf(chain.status()).has_value()) return chain.status();
        if (!chain_refusal.has_value()) chain_refusal = chain.status();
        continue;
      }
      // Final, whoever else may be trusted.
      PAVISE_RETURN_IF_ERROR(CheckNotRevoked(*chain));
      const absl::StatusOr<std::string> identity = CheckIdentity(*chain, trusted.identities);
      if (!identity.ok()) {
        if (!ReasonOf(identity.status()).has_value()) return identity.status();
        if (!identity_refusal.has_value()) identity_refusal = identity.status();
        continue;
      }
      if (!leaf.MaySignModels()) {
        return Refuse(Reason::kCertificateInvalid, item_,
                      StrCat("certificate of \"", Printable(leaf.subject()),
                             "\" may not sign models: it has neither the key usage "
                             "digitalSignature nor the extended usage codeSigning"),
                      "sign again with a certificate made for signing");
      }
      PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key, leaf.public_key());
      PAVISE_RETURN_IF_ERROR(CheckKeyType(key));
      PAVISE_ASSIGN_OR_RETURN(result.has_encoding_020, CheckSignature(key));
      result.signer.method = Method::kCertificate;
      result.signer.key_fingerprint = key.Fingerprint();
      result.signer.name = leaf.subject();
      // What was asked for is what must be shown.
      if (!identity->empty() && *identity != result.signer.name) {
        StrAppend(&result.signer.name, result.signer.name.empty() ? "" : ", as ", *identity);
      }
      result.signer.issuer = leaf.issuer();
      return result;
    }
    return identity_refusal.has_value() ? *identity_refusal : *chain_refusal;
  }

  absl::StatusOr<Signature> BySigstore() const {
    if (rule_.signers.sigstore.empty()) {
      return RefuseMethod("a Sigstore identity",
                          policy_.trust_file.empty()
                              ? "give --identity, --identity-provider and --trusted-root, if you "
                                "trust the signer"
                              : StrCat("add the identity to ", Where(), " if you trust it"));
    }
    std::optional<absl::Status> refusal;
    std::optional<absl::Status> identity_refusal;
    std::map<const SigstoreTrustedRoot*, absl::StatusOr<SigstoreIdentity>> seen;
    for (const TrustedSigstore& trusted : rule_.signers.sigstore) {
      if (trusted.root == nullptr || trusted.identity.empty() || trusted.issuer.empty()) {
        return UsageError("a Sigstore signer is trusted by trusted root, identity and issuer");
      }
      auto it = seen.find(trusted.root.get());
      if (it == seen.end()) {
        it = seen.emplace(trusted.root.get(), VerifySigstoreBundle(bundle_, *trusted.root)).first;
      }
      const absl::StatusOr<SigstoreIdentity>& found = it->second;
      if (!found.ok()) {
        if (!ReasonOf(found.status()).has_value()) return found.status();
        if (!refusal.has_value()) refusal = found.status();
        continue;
      }
      PAVISE_RETURN_IF_ERROR(CheckNotRevoked(found->chain));
      if (found->identity != trusted.identity || found->issuer != trusted.issuer) {
        if (identity_refusal.has_value()) continue;
        identity_refusal = Refuse(
            Reason::kIdentityMismatch, item_,
            StrCat(
                "is signed by ", Printable(found->identity), " (as ", Printable(found->issuer),
                " knows them), while expected was ", Printable(trusted.identity), " (",
                Printable(trusted.issuer), ")",
                rule_.signers.sigstore.size() > 1 ? ", or another of the trusted identities" : ""),
            StrCat("add the identity to ", Where(), " if you trust it"));
        continue;
      }
      Signature result;
      PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key, found->chain[0].public_key());
      result.signer.method = Method::kSigstore;
      result.signer.key_fingerprint = key.Fingerprint();
      result.signer.name = found->identity;
      result.signer.issuer = found->issuer;
      result.signer.signed_at = found->signed_at;
      return result;
    }
    return identity_refusal.has_value() ? *identity_refusal : *refusal;
  }

  const Bundle& bundle_;
  const std::string item_;
  const TrustPolicy& policy_;
  const ModelRule& rule_;
  const absl::Time now_;
};

}  // namespace

TrustPolicy TrustPolicy::ForSigners(TrustedSigners signers) {
  TrustPolicy policy;
  policy.rules.push_back({.model = "*", .signers = std::move(signers)});
  return policy;
}

absl::StatusOr<TrustPolicy> LoadTrustPolicy(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path, kMaxTrustFileBytes));
  return ParseTrustPolicy(text, path);
}

absl::StatusOr<TrustPolicy> ParseTrustPolicy(ByteSpan yaml, const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const YamlNode root, ParseYaml(yaml, path));
  return TrustFileReader(path).Read(root);
}

absl::StatusOr<VerifiedStatement> StatementVerifier::Verify(const Bundle& bundle,
                                                            std::string_view item,
                                                            const TrustPolicy& policy,
                                                            const Clock& clock) {
  if (!policy.trust_file.empty() && policy.expected_model_name.value_or("").empty()) {
    return UsageError(
        StrCat(policy.trust_file, " goes by the model's name: say which model is expected"));
  }
  // Without an expected name only a rule for every model applies.
  const std::string expected = policy.expected_model_name.value_or("");
  const ModelRule* rule = nullptr;
  for (const ModelRule& candidate : policy.rules) {
    if (GlobMatches(candidate.model, expected)) {
      rule = &candidate;
      break;
    }
  }
  if (rule == nullptr) {
    return Refuse(Reason::kPolicyDenied, item,
                  StrCat(policy.trust_file.empty() ? "the policy" : policy.trust_file,
                         " has no rule for a model called \"", Printable(expected), "\""),
                  "add a rule for it, or say with --model-name what the model is called");
  }
  PAVISE_ASSIGN_OR_RETURN(Signature signature,
                          Verification(bundle, item, policy, *rule, clock.Now()).VerifySignature());

  SignedStatement result;
  PAVISE_ASSIGN_OR_RETURN(result.statement, ParseStatement(bundle.payload, item));
  const Statement& statement = result.statement;
  if (signature.has_encoding_020) {
    // Nobody who signs today's statements signs them so: what verified under the broken encoding
    // could be bytes that were meant as something else.
    if (!statement.is_release_020) {
      return Refuse(Reason::kSignatureInvalid, item,
                    "is signed in the encoding of release 0.2.0, while its statement is of a later "
                    "release",
                    "have the model signed again");
    }
    signature.signer.warnings.push_back(
        "signed by release 0.2.0 of the reference tool, in an encoding that later ones replaced; "
        "sign again");
  }
  if (policy.expected_model_name.has_value() && statement.model_name != expected) {
    if (statement.model_name.empty()) {
      return Refuse(Reason::kPolicyDenied, item,
                    StrCat("does not say which model it signs, while expected was \"",
                           Printable(expected), "\""),
                    "have the model signed again by a tool that names it");
    }
    return Refuse(Reason::kPolicyDenied, item,
                  StrCat("signs a model called \"", Printable(statement.model_name),
                         "\", while expected was \"", Printable(expected), "\""),
                  StrCat("if that is the model you mean, say so: --model-name ",
                         ShellWord(statement.model_name)));
  }
  if (rule->minimum_version > 0 && statement.model_version.value_or(0) < rule->minimum_version) {
    return Refuse(Reason::kVersionTooOld, item,
                  StrCat(statement.model_version.has_value()
                             ? StrCat("signs version ", *statement.model_version)
                             : "signs no version",
                         " of the model, while ",
                         policy.trust_file.empty() ? "the policy" : policy.trust_file, " asks for ",
                         rule->minimum_version, " or later"),
                  "get the current version of the model, or have it signed with --model-version");
  }
  result.signer = std::move(signature.signer);
  PAVISE_ASSIGN_OR_RETURN(result.payload_sha256, crypto::Sha256(bundle.payload));
  return VerifiedStatement(std::move(result));
}

}  // namespace pavise::signing
