#include "pavise/broker/root_key.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "pavise/base/canonical_json.h"
#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/secret_sharing.h"

namespace pavise::broker {
namespace {

constexpr std::string_view kFormat = "pavise-root-key/1";
constexpr uint64_t kMostFileBytes = 64 << 10;

// The member of the file that keeps one key. JSON values are not wiped: what a plain file holds is
// as secret as the file.
absl::StatusOr<Json> Protected(const SecretBytes& key, const RootKeyProtection& protection) {
  if (key.size_bytes() != kRootKeyBytes) return UsageError("a root key has 32 bytes");
  switch (protection.kind) {
    case RootKeyProtection::Kind::kPlain:
      return Json{{"kind", "plain"}, {"key", ToBase64(key.Reveal())}};
    case RootKeyProtection::Kind::kTpm: {
      if (protection.tpm == nullptr) return UsageError("no TPM to seal the root key to");
      PAVISE_ASSIGN_OR_RETURN(const Bytes sealed, protection.tpm->Seal(key, protection.pcrs));
      return Json{{"kind", "tpm"}, {"sealed", ToBase64(sealed)}};
    }
    case RootKeyProtection::Kind::kShares:
      if (protection.share_set.empty()) return UsageError("no set of shares was named");
      return Json{{"kind", "shares"}, {"set", protection.share_set}};
  }
  return UsageError("no such protection");
}

absl::Status WriteFile(const std::string& path, const Json& current, const Json* next) {
  Json file = {{"format", kFormat}, {"current", current}};
  if (next != nullptr) file["next"] = *next;
  PAVISE_ASSIGN_OR_RETURN(std::string text, CanonicalJson(file, path));
  const absl::Status written = WriteFileAtomically(path, AsBytes(text), 0600);
  WipeMemory(text);
  return written;
}

absl::StatusOr<Json> ReadRootKeyFile(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return FromErrno(errno, "stat", path);
  if ((status.st_mode & 077) != 0) {
    return Refuse(Reason::kPlatformInsecure, path, "others than its owner may read or write it",
                  "chmod 600, and rotate the root key: it may be known");
  }
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes text, ReadSecretFile(path, kMostFileBytes));
  PAVISE_ASSIGN_OR_RETURN(Json file, ParseJson(text.Reveal(), path));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(file, path));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"format", "current", "next"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string format, object.GetString("format"));
  if (format != kFormat) {
    return Refuse(Reason::kUnsupported, path, StrCat("is of the format ", format));
  }
  PAVISE_RETURN_IF_ERROR(object.GetObject("current").status());
  if (object.Has("next")) PAVISE_RETURN_IF_ERROR(object.GetObject("next").status());
  return file;
}

// The shares of one set; all of them where none says what set it is of, so that combining them
// says what is wrong.
std::vector<SecretBytes> SharesOf(const std::string& set, std::span<const SecretBytes> shares) {
  std::vector<SecretBytes> own;
  for (const SecretBytes& share : shares) {
    const auto described = crypto::DescribeShare(share, "share");
    if (!described.ok() || described->set_id == set) own.emplace_back(share.Reveal());
  }
  return own;
}

absl::StatusOr<SecretBytes> Revealed(const JsonObject& object, BrokerTpm* tpm,
                                     std::span<const SecretBytes> shares) {
  PAVISE_ASSIGN_OR_RETURN(const std::string kind, object.GetString("kind"));
  SecretBytes key;
  if (kind == "plain") {
    PAVISE_RETURN_IF_ERROR(object.RequireOnly({"kind", "key"}));
    PAVISE_ASSIGN_OR_RETURN(std::string text, object.GetString("key"));
    absl::StatusOr<Bytes> bytes = FromBase64(text, object.PathOf("key"));
    WipeMemory(text);
    PAVISE_RETURN_IF_ERROR(bytes.status());
    key = SecretBytes(*std::move(bytes));
  } else if (kind == "tpm") {
    PAVISE_RETURN_IF_ERROR(object.RequireOnly({"kind", "sealed"}));
    PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString("sealed"));
    PAVISE_ASSIGN_OR_RETURN(const Bytes sealed, FromBase64(text, object.PathOf("sealed")));
    if (tpm == nullptr) {
      return Refuse(Reason::kEvidenceMissing, object.path(),
                    "is sealed to a TPM, and none is given", "name the TPM");
    }
    PAVISE_ASSIGN_OR_RETURN(key, tpm->Unseal(sealed, object.path()));
  } else if (kind == "shares") {
    PAVISE_RETURN_IF_ERROR(object.RequireOnly({"kind", "set"}));
    PAVISE_ASSIGN_OR_RETURN(const std::string set, object.GetString("set"));
    const std::vector<SecretBytes> own = SharesOf(set, shares);
    if (own.empty()) {
      return Refuse(Reason::kEvidenceMissing, object.path(),
                    StrCat("is held by owners, and no share of the set ", set, " is given"),
                    "have enough owners give theirs");
    }
    PAVISE_ASSIGN_OR_RETURN(key, crypto::CombineShares(own, set));
  } else {
    return Refuse(Reason::kUnsupported, object.PathOf("kind"), StrCat("\"", kind, "\" is unknown"));
  }
  if (key.size_bytes() == kRootKeyBytes) return key;
  return Refuse(Reason::kMalformed, object.path(), "a root key has 32 bytes");
}

// Keeps one key of a rotation; nothing to do where there is none.
absl::Status EndRotation(const std::string& path, bool promote) {
  PAVISE_ASSIGN_OR_RETURN(const Json file, ReadRootKeyFile(path));
  if (!file.contains("next")) return absl::OkStatus();
  return WriteFile(path, file[promote ? "next" : "current"], nullptr);
}

}  // namespace

absl::StatusOr<SecretBytes> NewRootKey(RandomSource& random) {
  Bytes key(kRootKeyBytes);
  PAVISE_RETURN_IF_ERROR(random.Fill(key));
  return SecretBytes(std::move(key));
}

absl::Status SaveRootKey(const std::string& path, const SecretBytes& key,
                         const RootKeyProtection& protection) {
  struct stat status;
  if (lstat(path.c_str(), &status) == 0) {
    return UsageError(StrCat(path, " is there already: a root key is never overwritten"));
  }
  PAVISE_ASSIGN_OR_RETURN(const Json current, Protected(key, protection));
  return WriteFile(path, current, nullptr);
}

absl::StatusOr<RootKeys> LoadRootKeys(const std::string& path, BrokerTpm* tpm,
                                      std::span<const SecretBytes> shares) {
  PAVISE_ASSIGN_OR_RETURN(const Json file, ReadRootKeyFile(path));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(file, path));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject current, object.GetObject("current"));
  absl::StatusOr<SecretBytes> current_key = Revealed(current, tpm, shares);
  RootKeys keys;
  if (current_key.ok()) keys.current = *std::move(current_key);
  if (object.Has("next")) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject next, object.GetObject("next"));
    absl::StatusOr<SecretBytes> next_key = Revealed(next, tpm, shares);
    if (next_key.ok()) keys.next = *std::move(next_key);
  }
  if (!keys.current.has_value() && !keys.next.has_value()) return current_key.status();
  return keys;
}

absl::StatusOr<std::unique_ptr<Store>> OpenStore(const StoreOptions& options,
                                                 const std::string& path, BrokerTpm* tpm,
                                                 std::span<const SecretBytes> shares) {
  PAVISE_ASSIGN_OR_RETURN(const RootKeys keys, LoadRootKeys(path, tpm, shares));
  // A new store begins with the current key.
  absl::StatusOr<std::unique_ptr<Store>> store =
      Store::Open(options, keys.current.has_value() ? *keys.current : *keys.next);
  bool promote = !keys.current.has_value();
  if (ReasonOf(store.status()) == Reason::kKeyMismatch && keys.current.has_value() &&
      keys.next.has_value()) {
    promote = true;
    store = Store::Open(options, *keys.next);
  }
  PAVISE_RETURN_IF_ERROR(store.status());
  PAVISE_RETURN_IF_ERROR(EndRotation(path, promote));
  return store;
}

absl::Status RotateRootKey(Store& store, const std::string& path, const SecretBytes& new_key,
                           const RootKeyProtection& protection) {
  PAVISE_ASSIGN_OR_RETURN(const Json file, ReadRootKeyFile(path));
  if (file.contains("next")) {
    return Refuse(Reason::kFileUnstable, path, "a rotation has not ended",
                  "open the store once: that ends it");
  }
  PAVISE_ASSIGN_OR_RETURN(const Json next, Protected(new_key, protection));
  PAVISE_RETURN_IF_ERROR(WriteFile(path, file["current"], &next));
  PAVISE_RETURN_IF_ERROR(store.RotateRootKey(new_key));
  return EndRotation(path, /*promote=*/true);
}

}  // namespace pavise::broker
