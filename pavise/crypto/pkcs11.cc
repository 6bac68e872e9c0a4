#include "pavise/crypto/pkcs11.h"

#include <p11-kit/p11-kit.h>
#include <p11-kit/pkcs11.h>
#include <p11-kit/uri.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <set>
#include <string_view>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/internal/openssl.h"

namespace pavise::crypto {
namespace {

constexpr size_t kMaxUriBytes = 8 << 10;
constexpr size_t kMaxPinBytes = 1 << 10;
constexpr size_t kMaxAttributeBytes = 4 << 10;
constexpr CK_ULONG kMaxSlots = 256;
// What C_GetAttributeValue writes for an attribute that the object lacks or keeps to itself.
constexpr CK_ULONG kUnavailable = std::numeric_limits<CK_ULONG>::max();

using OwnedUri = internal::Owned<P11KitUri, p11_kit_uri_free>;

std::string Describe(CK_RV result) {
  const char* text = p11_kit_strerror(result);
  return StrCat(text == nullptr ? "PKCS #11 error" : text, " (0x",
                ToHex(Bytes{static_cast<uint8_t>(result >> 8), static_cast<uint8_t>(result)}), ")");
}

// The blank-padded text of a token's fixed-size field.
std::string FieldText(const unsigned char* field, size_t size_bytes) {
  std::string text(reinterpret_cast<const char*>(field), size_bytes);
  text.erase(text.find_last_not_of(std::string_view(" \0", 2)) + 1);
  return Printable(text);
}

// A PKCS #11 URI with its attributes where p11-kit looks for them. Wiped: it may hold the PIN.
class UriText {
 public:
  UriText() = default;
  ~UriText() { WipeMemory(text_); }
  UriText(UriText&& other) noexcept : text_(std::exchange(other.text_, {})) {}
  UriText& operator=(UriText&&) = delete;

  std::string& text() { return text_; }

 private:
  std::string text_;
};

// RFC 7512 puts pin-value, pin-source, module-path and module-name after "?"; the reference tool's
// users also write them before. An attribute given twice is refused, where libraries disagree about
// which one counts.
absl::StatusOr<UriText> Normalise(const std::string& uri) {
  constexpr std::string_view kScheme = "pkcs11:";
  constexpr std::array<std::string_view, 4> kQueryAttributes = {"pin-value", "pin-source",
                                                                "module-path", "module-name"};
  if (uri.size() > kMaxUriBytes) {
    return Refuse(Reason::kLimitExceeded, "PKCS #11 URI", "longer than 8 KiB");
  }
  if (!uri.starts_with(kScheme) || uri.find('\0') != std::string::npos) {
    return Refuse(Reason::kMalformed, "PKCS #11 URI", "does not begin with \"pkcs11:\"",
                  "write it like pkcs11:token=NAME;object=KEY?pin-source=file:/path/to/pin");
  }
  const std::string_view rest = std::string_view(uri).substr(kScheme.size());
  const size_t mark = rest.find('?');
  UriText path;
  UriText query;
  // Appending moves text to larger buffers; sized once, none with a PIN in it is left behind.
  path.text().reserve(2 * uri.size() + 2);
  query.text().reserve(2 * uri.size() + 2);
  path.text().append(kScheme);
  std::set<std::string_view> names;
  const auto take = [&](std::string_view part, char separator, bool in_query) -> absl::Status {
    while (!part.empty()) {
      const size_t end = part.find(separator);
      const std::string_view attribute = part.substr(0, end);
      part = end == std::string_view::npos ? std::string_view() : part.substr(end + 1);
      const size_t equals = attribute.find('=');
      const std::string_view name = attribute.substr(0, equals);
      if (equals == std::string_view::npos || name.empty()) {
        return Refuse(Reason::kMalformed, "PKCS #11 URI", "an attribute is not NAME=VALUE");
      }
      if (!names.insert(name).second) {
        return Refuse(Reason::kMalformed, "PKCS #11 URI",
                      StrCat("the attribute ", Printable(name), " is given twice"));
      }
      const bool belongs_in_query =
          in_query || std::find(kQueryAttributes.begin(), kQueryAttributes.end(), name) !=
                          kQueryAttributes.end();
      std::string& target = belongs_in_query ? query.text() : path.text();
      if (belongs_in_query) {
        target.push_back(target.empty() ? '?' : '&');
      } else if (target.size() > kScheme.size()) {
        target.push_back(';');
      }
      target.append(attribute);
    }
    return absl::OkStatus();
  };
  PAVISE_RETURN_IF_ERROR(take(rest.substr(0, mark), ';', false));
  if (mark != std::string_view::npos) {
    PAVISE_RETURN_IF_ERROR(take(rest.substr(mark + 1), '&', true));
  }
  path.text().append(query.text());
  return path;
}

// The PKCS #11 modules in use, initialised; released when the last user goes.
class Modules {
 public:
  static absl::StatusOr<std::unique_ptr<Modules>> LoadOne(const std::string& path) {
    CK_FUNCTION_LIST* module = p11_kit_module_load(path.c_str(), 0);
    if (module == nullptr) {
      const char* message = p11_kit_message();
      return Refuse(Reason::kFileUnreadable, path,
                    StrCat("the PKCS #11 module does not load: ",
                           message == nullptr ? "unknown cause" : message),
                    "check module-path in the URI");
    }
    const CK_RV result = p11_kit_module_initialize(module);
    if (result != CKR_OK) {
      p11_kit_module_release(module);
      return MachineFailure(path, StrCat("the PKCS #11 module does not start: ", Describe(result)));
    }
    auto modules = std::unique_ptr<Modules>(new Modules);
    modules->single_ = module;
    modules->list_.push_back(module);
    return modules;
  }

  // `name`: only the module configured under that name, when not empty.
  static absl::StatusOr<std::unique_ptr<Modules>> LoadRegistered(const std::string& name) {
    CK_FUNCTION_LIST** registered = p11_kit_modules_load_and_initialize(0);
    if (registered == nullptr) {
      const char* message = p11_kit_message();
      return MachineFailure("PKCS #11", StrCat("the registered modules do not load: ",
                                               message == nullptr ? "unknown cause" : message));
    }
    auto modules = std::unique_ptr<Modules>(new Modules);
    modules->registered_ = registered;
    for (CK_FUNCTION_LIST** module = registered; *module != nullptr; ++module) {
      char* module_name = p11_kit_module_get_name(*module);
      if (name.empty() || (module_name != nullptr && name == module_name)) {
        modules->list_.push_back(*module);
      }
      free(module_name);
    }
    return modules;
  }

  ~Modules() {
    if (single_ != nullptr) {
      p11_kit_module_finalize(single_);
      p11_kit_module_release(single_);
    }
    if (registered_ != nullptr) p11_kit_modules_finalize_and_release(registered_);
  }
  Modules(const Modules&) = delete;
  Modules& operator=(const Modules&) = delete;

  const std::vector<CK_FUNCTION_LIST*>& list() const { return list_; }

 private:
  Modules() = default;
  CK_FUNCTION_LIST* single_ = nullptr;
  CK_FUNCTION_LIST** registered_ = nullptr;
  std::vector<CK_FUNCTION_LIST*> list_;
};

struct Slot {
  CK_FUNCTION_LIST* module = nullptr;
  CK_SLOT_ID id = 0;
  CK_TOKEN_INFO token{};
};

bool SignsWithEcdsa(CK_FUNCTION_LIST* module, CK_SLOT_ID slot) {
  CK_MECHANISM_INFO info{};
  return module->C_GetMechanismInfo(slot, CKM_ECDSA, &info) == CKR_OK && (info.flags & CKF_SIGN);
}

// The one initialised token that the URI names and that signs with ECDSA. Several are refused
// before any login: a PIN tried on the wrong token uses up its attempts.
absl::StatusOr<Slot> FindToken(const Modules& modules, P11KitUri* uri, const std::string& item) {
  std::vector<Slot> matches;
  const CK_SLOT_ID wanted_slot = p11_kit_uri_get_slot_id(uri);
  for (CK_FUNCTION_LIST* module : modules.list()) {
    CK_INFO library{};
    if (module->C_GetInfo(&library) != CKR_OK) continue;
    if (p11_kit_uri_match_module_info(uri, &library) != 1) continue;
    CK_ULONG count = 0;
    CK_RV result = module->C_GetSlotList(CK_TRUE, nullptr, &count);
    if (result != CKR_OK) {
      return MachineFailure(item, StrCat("cannot list the tokens: ", Describe(result)));
    }
    if (count > kMaxSlots) return MachineFailure(item, "the module lists too many slots");
    std::vector<CK_SLOT_ID> slots(count);
    if (count > 0) {
      result = module->C_GetSlotList(CK_TRUE, slots.data(), &count);
      if (result != CKR_OK || count > slots.size()) {
        return MachineFailure(item, StrCat("cannot list the tokens: ", Describe(result)));
      }
      slots.resize(count);
    }
    for (const CK_SLOT_ID id : slots) {
      if (wanted_slot != static_cast<CK_SLOT_ID>(-1) && wanted_slot != id) continue;
      Slot slot{.module = module, .id = id};
      CK_SLOT_INFO slot_info{};
      if (module->C_GetSlotInfo(id, &slot_info) != CKR_OK ||
          module->C_GetTokenInfo(id, &slot.token) != CKR_OK) {
        continue;  // pulled out just now; were it the one, "no token" is what is true
      }
      if ((slot.token.flags & CKF_TOKEN_INITIALIZED) == 0) continue;
      if (p11_kit_uri_match_slot_info(uri, &slot_info) != 1 ||
          p11_kit_uri_match_token_info(uri, &slot.token) != 1) {
        continue;
      }
      if (!SignsWithEcdsa(module, id)) continue;
      matches.push_back(slot);
    }
  }
  if (matches.empty()) {
    return Refuse(Reason::kKeyUnsupported, item, "no token that signs with ECDSA matches the URI",
                  "check the token's name (p11tool --list-tokens) and module-path");
  }
  if (matches.size() > 1) {
    std::string labels;
    for (const Slot& slot : matches) {
      StrAppend(&labels, labels.empty() ? "" : ", ", "\"",
                FieldText(slot.token.label, sizeof(slot.token.label)), "\"");
    }
    return Refuse(Reason::kKeyUnsupported, item, StrCat("several tokens match the URI: ", labels),
                  "name one with token= or serial=");
  }
  return matches.front();
}

// An open session; closed when it goes.
class Session {
 public:
  static absl::StatusOr<Session> Open(const Slot& slot, const std::string& item) {
    CK_SESSION_HANDLE handle = CK_INVALID_HANDLE;
    const CK_RV result =
        slot.module->C_OpenSession(slot.id, CKF_SERIAL_SESSION, nullptr, nullptr, &handle);
    if (result != CKR_OK) {
      return MachineFailure(item, StrCat("cannot open a session: ", Describe(result)));
    }
    return Session(slot.module, handle);
  }
  ~Session() {
    // No logout: it would also log out other sessions of this program on the token. Closing the
    // last one does it.
    if (module_ != nullptr) module_->C_CloseSession(handle_);
  }
  Session(Session&& other) noexcept
      : module_(std::exchange(other.module_, nullptr)), handle_(other.handle_) {}
  Session& operator=(Session&&) = delete;

  CK_FUNCTION_LIST* module() const { return module_; }
  CK_SESSION_HANDLE handle() const { return handle_; }

 private:
  Session(CK_FUNCTION_LIST* module, CK_SESSION_HANDLE handle) : module_(module), handle_(handle) {}
  CK_FUNCTION_LIST* module_;
  CK_SESSION_HANDLE handle_;
};

absl::Status LogIn(const Session& session, CK_USER_TYPE user, const SecretBytes& pin, bool pin_pad,
                   const std::string& item) {
  auto* text = const_cast<unsigned char*>(pin.Reveal().data());
  const bool ask_token = pin.empty() && pin_pad;
  const CK_RV result =
      session.module()->C_Login(session.handle(), user, ask_token ? nullptr : text,
                                ask_token ? 0 : static_cast<CK_ULONG>(pin.size_bytes()));
  switch (result) {
    case CKR_OK:
    case CKR_USER_ALREADY_LOGGED_IN:
      return absl::OkStatus();
    case CKR_PIN_INCORRECT:
    case CKR_PIN_INVALID:
    case CKR_PIN_LEN_RANGE:
      return Refuse(Reason::kKeyUnsupported, item, "the token refuses the PIN",
                    "check pin-value or pin-source; tokens lock after a few wrong PINs");
    case CKR_PIN_LOCKED:
    case CKR_PIN_EXPIRED:
    case CKR_USER_PIN_NOT_INITIALIZED:
      return Refuse(Reason::kKeyUnsupported, item,
                    StrCat("the token's user PIN cannot be used: ", Describe(result)),
                    "unlock or set it with the token's own tool");
    default:
      return MachineFailure(item, StrCat("cannot log in: ", Describe(result)));
  }
}

// Handles of the objects that match; at most a few, enough to tell one from several.
absl::StatusOr<std::vector<CK_OBJECT_HANDLE>> FindObjects(const Session& session,
                                                          std::vector<CK_ATTRIBUTE> wanted,
                                                          const std::string& item) {
  CK_FUNCTION_LIST* module = session.module();
  CK_RV result = module->C_FindObjectsInit(session.handle(), wanted.data(), wanted.size());
  if (result != CKR_OK) {
    return MachineFailure(item, StrCat("cannot search the token: ", Describe(result)));
  }
  std::vector<CK_OBJECT_HANDLE> found;
  std::array<CK_OBJECT_HANDLE, 4> batch;
  while (found.size() < batch.size()) {
    CK_ULONG count = 0;
    result = module->C_FindObjects(session.handle(), batch.data(), batch.size(), &count);
    if (result != CKR_OK || count == 0 || count > batch.size()) break;
    found.insert(found.end(), batch.begin(), batch.begin() + count);
  }
  const CK_RV end_result = module->C_FindObjectsFinal(session.handle());
  if (result != CKR_OK || end_result != CKR_OK) {
    return MachineFailure(item, StrCat("cannot search the token: ",
                                       Describe(result != CKR_OK ? result : end_result)));
  }
  return found;
}

// The attribute's value; empty when the object has none or does not give it away.
absl::StatusOr<Bytes> ReadAttribute(const Session& session, CK_OBJECT_HANDLE object,
                                    CK_ATTRIBUTE_TYPE type, const std::string& item) {
  CK_ATTRIBUTE attribute{.type = type, .pValue = nullptr, .ulValueLen = 0};
  CK_RV result = session.module()->C_GetAttributeValue(session.handle(), object, &attribute, 1);
  if (result == CKR_ATTRIBUTE_TYPE_INVALID || result == CKR_ATTRIBUTE_SENSITIVE ||
      (result == CKR_OK && attribute.ulValueLen == kUnavailable)) {
    return Bytes();
  }
  if (result != CKR_OK) {
    return MachineFailure(item, StrCat("cannot read an attribute: ", Describe(result)));
  }
  if (attribute.ulValueLen > kMaxAttributeBytes) {
    return MachineFailure(item, "the token reports an attribute that is too large");
  }
  Bytes value(attribute.ulValueLen);
  if (value.empty()) return value;
  attribute.pValue = value.data();
  result = session.module()->C_GetAttributeValue(session.handle(), object, &attribute, 1);
  if (result != CKR_OK || attribute.ulValueLen > value.size()) {
    return MachineFailure(item, StrCat("cannot read an attribute: ", Describe(result)));
  }
  value.resize(attribute.ulValueLen);
  return value;
}

// From CKA_EC_PARAMS: the DER of the curve's object identifier.
KeyType TypeOfParameters(ByteSpan parameters) {
  static constexpr uint8_t kP256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
  static constexpr uint8_t kP384[] = {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22};
  static constexpr uint8_t kP521[] = {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23};
  if (std::ranges::equal(parameters, kP256)) return KeyType::kEcP256;
  if (std::ranges::equal(parameters, kP384)) return KeyType::kEcP384;
  if (std::ranges::equal(parameters, kP521)) return KeyType::kEcP521;
  return KeyType::kOther;
}

// CKA_EC_POINT holds an OCTET STRING around the point; some tokens leave the point bare. Their
// lengths differ, so one is never taken for the other.
absl::StatusOr<Bytes> PointOf(KeyType type, ByteSpan value, const std::string& item) {
  const size_t point_bytes = 1 + 2 * internal::EcFieldSizeBytes(type);
  if (value.size() == point_bytes && value[0] == 0x04) return Bytes(value.begin(), value.end());
  const unsigned char* cursor = value.data();
  internal::Owned<ASN1_OCTET_STRING, ASN1_OCTET_STRING_free> wrapped(
      value.empty() ? nullptr
                    : d2i_ASN1_OCTET_STRING(nullptr, &cursor, static_cast<long>(value.size())));
  if (wrapped == nullptr || cursor != value.data() + value.size()) {
    return Refuse(Reason::kMalformed, item, "the token's public point is not an OCTET STRING");
  }
  const unsigned char* point = ASN1_STRING_get0_data(wrapped.get());
  return Bytes(point, point + ASN1_STRING_length(wrapped.get()));
}

absl::StatusOr<CK_KEY_TYPE> KeyTypeOf(const Session& session, CK_OBJECT_HANDLE object,
                                      const std::string& item) {
  PAVISE_ASSIGN_OR_RETURN(Bytes value, ReadAttribute(session, object, CKA_KEY_TYPE, item));
  CK_KEY_TYPE type = 0;
  if (value.size() != sizeof(type)) return MachineFailure(item, "the key has no type");
  std::memcpy(&type, value.data(), sizeof(type));
  return type;
}

// The private object's public half: from itself where the token offers it, else from the public
// object of the same CKA_ID (of the same label where it has no id).
absl::StatusOr<PublicKey> ReadPublicKey(const Session& session, CK_OBJECT_HANDLE private_key,
                                        const std::string& item) {
  internal::ErrorQueueScope errors;
  PAVISE_ASSIGN_OR_RETURN(Bytes parameters,
                          ReadAttribute(session, private_key, CKA_EC_PARAMS, item));
  PAVISE_ASSIGN_OR_RETURN(Bytes point, ReadAttribute(session, private_key, CKA_EC_POINT, item));
  if (parameters.empty() || point.empty()) {
    PAVISE_ASSIGN_OR_RETURN(Bytes id, ReadAttribute(session, private_key, CKA_ID, item));
    PAVISE_ASSIGN_OR_RETURN(Bytes label, ReadAttribute(session, private_key, CKA_LABEL, item));
    CK_OBJECT_CLASS object_class = CKO_PUBLIC_KEY;
    Bytes& shared = id.empty() ? label : id;
    std::vector<CK_ATTRIBUTE> wanted = {
        {CKA_CLASS, &object_class, sizeof(object_class)},
        {static_cast<CK_ATTRIBUTE_TYPE>(id.empty() ? CKA_LABEL : CKA_ID), shared.data(),
         static_cast<CK_ULONG>(shared.size())}};
    PAVISE_ASSIGN_OR_RETURN(std::vector<CK_OBJECT_HANDLE> found,
                            FindObjects(session, std::move(wanted), item));
    if (found.size() != 1) {
      return Refuse(Reason::kKeyUnsupported, item,
                    found.empty() ? "the token has no public key that belongs to the private key"
                                  : "the token has several public keys for the private key",
                    "store exactly one public key with the private key's id");
    }
    PAVISE_ASSIGN_OR_RETURN(Bytes public_parameters,
                            ReadAttribute(session, found[0], CKA_EC_PARAMS, item));
    if (parameters.empty()) parameters = public_parameters;
    if (parameters != public_parameters) {
      return Refuse(Reason::kKeyUnsupported, item,
                    "the token's public and private key lie on different curves");
    }
    PAVISE_ASSIGN_OR_RETURN(point, ReadAttribute(session, found[0], CKA_EC_POINT, item));
  }
  const KeyType type = TypeOfParameters(parameters);
  if (type == KeyType::kOther) {
    return Refuse(Reason::kKeyUnsupported, item, "the key's curve is not P-256, P-384 or P-521",
                  "use a key on one of these curves");
  }
  PAVISE_ASSIGN_OR_RETURN(Bytes bare_point, PointOf(type, point, item));
  return internal::EcPublicKeyFromPoint(type, bare_point, item);
}

DigestAlgorithm DigestForKey(KeyType type) {
  switch (type) {
    case KeyType::kEcP384:
      return DigestAlgorithm::kSha384;
    case KeyType::kEcP521:
      return DigestAlgorithm::kSha512;
    default:
      return DigestAlgorithm::kSha256;
  }
}

class TokenSigner final : public Signer {
 public:
  TokenSigner(std::unique_ptr<Modules> modules, Session session, CK_OBJECT_HANDLE key,
              PublicKey public_key, std::optional<SecretBytes> pin_for_each_use, std::string item)
      : modules_(std::move(modules)),
        session_(std::move(session)),
        key_(key),
        public_key_(std::move(public_key)),
        pin_for_each_use_(std::move(pin_for_each_use)),
        item_(std::move(item)) {}

  const PublicKey& public_key() const override { return public_key_; }

  absl::StatusOr<Bytes> Sign(ByteSpan message) override {
    PAVISE_ASSIGN_OR_RETURN(Bytes digest, Digest(DigestForKey(public_key_.type()), message));
    CK_MECHANISM mechanism{.mechanism = CKM_ECDSA, .pParameter = nullptr, .ulParameterLen = 0};
    CK_FUNCTION_LIST* module = session_.module();
    CK_RV result = module->C_SignInit(session_.handle(), &mechanism, key_);
    if (result == CKR_KEY_FUNCTION_NOT_PERMITTED || result == CKR_KEY_TYPE_INCONSISTENT) {
      return Refuse(Reason::kKeyUnsupported, item_,
                    StrCat("the token does not sign with this key: ", Describe(result)));
    }
    if (result != CKR_OK) return MachineFailure(item_, StrCat("cannot sign: ", Describe(result)));
    if (pin_for_each_use_.has_value()) {
      PAVISE_RETURN_IF_ERROR(LogIn(session_, CKU_CONTEXT_SPECIFIC, *pin_for_each_use_,
                                   /*pin_pad=*/true, item_));
    }
    Bytes raw(2 * internal::EcFieldSizeBytes(public_key_.type()));
    CK_ULONG raw_bytes = raw.size();
    result =
        module->C_Sign(session_.handle(), digest.data(), digest.size(), raw.data(), &raw_bytes);
    if (result != CKR_OK || raw_bytes > raw.size()) {
      return MachineFailure(item_, StrCat("cannot sign: ", Describe(result)));
    }
    raw.resize(raw_bytes);
    PAVISE_ASSIGN_OR_RETURN(Bytes signature,
                            internal::EcdsaDerFromRaw(public_key_.type(), raw, item_));
    // The public key was found by its id or label; only this shows that it belongs to the private
    // key, and that the token computed well.
    if (!public_key_.Verify(message, signature, item_).ok()) {
      return Refuse(Reason::kKeyMismatch, item_,
                    "the token's signature does not verify under the public key stored beside it",
                    "store the public key that belongs to the private key");
    }
    return signature;
  }

 private:
  // In the order in which they must go last: the session before its module.
  std::unique_ptr<Modules> modules_;
  Session session_;
  CK_OBJECT_HANDLE key_;
  PublicKey public_key_;
  std::optional<SecretBytes> pin_for_each_use_;
  std::string item_;
};

absl::StatusOr<SecretBytes> PinOf(P11KitUri* uri) {
  if (const char* pin = p11_kit_uri_get_pin_value(uri); pin != nullptr) {
    return SecretBytes(std::string_view(pin));
  }
  const char* source = p11_kit_uri_get_pin_source(uri);
  if (source == nullptr) return SecretBytes();
  std::string path(source);
  constexpr std::string_view kFileScheme = "file:";
  if (path.starts_with(kFileScheme)) path.erase(0, kFileScheme.size());
  if (path.starts_with("//")) path.erase(0, 2);  // file:///path: no host
  if (path.empty() || path.front() == '|') {
    return Refuse(Reason::kUnsupported, "pin-source", "only a file can give the PIN",
                  "write pin-source=file:/path/to/pin");
  }
  PAVISE_ASSIGN_OR_RETURN(SecretBytes content, ReadSecretFile(path, kMaxPinBytes));
  std::string_view pin = content.RevealText();
  if (pin.ends_with('\n')) pin.remove_suffix(1);
  if (pin.ends_with('\r')) pin.remove_suffix(1);
  return SecretBytes(pin);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Signer>> OpenPkcs11Signer(const std::string& uri,
                                                         const std::string& module_path) {
  PAVISE_ASSIGN_OR_RETURN(UriText normalised, Normalise(uri));
  OwnedUri parsed(p11_kit_uri_new());
  if (parsed == nullptr) return MachineFailure("PKCS #11 URI", "out of memory");
  const int parse_result =
      p11_kit_uri_parse(normalised.text().c_str(), P11_KIT_URI_FOR_ANY, parsed.get());
  if (parse_result != P11_KIT_URI_OK) {
    const char* message = p11_kit_uri_message(parse_result);
    return Refuse(Reason::kMalformed, "PKCS #11 URI",
                  message == nullptr ? "cannot be parsed" : message);
  }
  if (p11_kit_uri_any_unrecognized(parsed.get())) {
    return Refuse(Reason::kMalformed, "PKCS #11 URI", "holds an attribute that is not known",
                  "use the attributes of RFC 7512");
  }
  PAVISE_ASSIGN_OR_RETURN(SecretBytes pin, PinOf(parsed.get()));
  // From here on the URI names the key in messages, so the PIN leaves it.
  p11_kit_uri_set_pin_value(parsed.get(), nullptr);
  char* formatted = nullptr;
  std::string item = "PKCS #11 key";
  if (p11_kit_uri_format(parsed.get(), P11_KIT_URI_FOR_OBJECT_ON_TOKEN, &formatted) ==
      P11_KIT_URI_OK) {
    item = Printable(formatted);
    free(formatted);
  }

  CK_ATTRIBUTE* label = p11_kit_uri_get_attribute(parsed.get(), CKA_LABEL);
  CK_ATTRIBUTE* id = p11_kit_uri_get_attribute(parsed.get(), CKA_ID);
  if (label == nullptr && id == nullptr) {
    return Refuse(Reason::kMalformed, item, "the URI names no key", "name it with object= or id=");
  }
  if (const CK_ATTRIBUTE* named_class = p11_kit_uri_get_attribute(parsed.get(), CKA_CLASS);
      named_class != nullptr) {
    CK_OBJECT_CLASS value = 0;
    if (named_class->ulValueLen == sizeof(value)) {
      std::memcpy(&value, named_class->pValue, sizeof(value));
    }
    if (value != CKO_PRIVATE_KEY) {
      return Refuse(Reason::kKeyUnsupported, item, "the URI does not name a private key",
                    "write type=private or leave the type out");
    }
  }

  const char* uri_module_path = p11_kit_uri_get_module_path(parsed.get());
  const char* uri_module_name = p11_kit_uri_get_module_name(parsed.get());
  const std::string path = !module_path.empty()         ? module_path
                           : uri_module_path != nullptr ? uri_module_path
                                                        : "";
  PAVISE_ASSIGN_OR_RETURN(
      std::unique_ptr<Modules> modules,
      path.empty() ? Modules::LoadRegistered(uri_module_name == nullptr ? "" : uri_module_name)
                   : Modules::LoadOne(path));
  PAVISE_ASSIGN_OR_RETURN(const Slot slot, FindToken(*modules, parsed.get(), item));
  PAVISE_ASSIGN_OR_RETURN(Session session, Session::Open(slot, item));
  const bool pin_pad = (slot.token.flags & CKF_PROTECTED_AUTHENTICATION_PATH) != 0;
  if (!pin.empty() || pin_pad) {
    PAVISE_RETURN_IF_ERROR(LogIn(session, CKU_USER, pin, pin_pad, item));
  } else if ((slot.token.flags & CKF_LOGIN_REQUIRED) != 0) {
    return Refuse(Reason::kKeyUnsupported, item, "the token asks for a PIN",
                  "add ?pin-source=file:/path/to/pin (or pin-value=PIN) to the URI");
  }

  CK_OBJECT_CLASS object_class = CKO_PRIVATE_KEY;
  std::vector<CK_ATTRIBUTE> wanted = {{CKA_CLASS, &object_class, sizeof(object_class)}};
  if (label != nullptr) wanted.push_back(*label);
  if (id != nullptr) wanted.push_back(*id);
  PAVISE_ASSIGN_OR_RETURN(std::vector<CK_OBJECT_HANDLE> found,
                          FindObjects(session, std::move(wanted), item));
  if (found.empty()) {
    return Refuse(Reason::kKeyUnsupported, item, "the token holds no such private key",
                  "check object= and id= (p11tool --login --list-privkeys)");
  }
  if (found.size() > 1) {
    return Refuse(Reason::kKeyUnsupported, item, "several private keys of the token match",
                  "tell them apart with id=");
  }
  PAVISE_ASSIGN_OR_RETURN(const CK_KEY_TYPE key_type, KeyTypeOf(session, found[0], item));
  if (key_type != CKK_EC) {
    return Refuse(Reason::kKeyUnsupported, item, "the key is not an elliptic-curve key",
                  "use a key on P-256, P-384 or P-521");
  }
  PAVISE_ASSIGN_OR_RETURN(PublicKey public_key, ReadPublicKey(session, found[0], item));
  PAVISE_ASSIGN_OR_RETURN(Bytes each_use,
                          ReadAttribute(session, found[0], CKA_ALWAYS_AUTHENTICATE, item));
  std::optional<SecretBytes> pin_for_each_use;
  if (!each_use.empty() && each_use[0] == CK_TRUE) pin_for_each_use = std::move(pin);
  return std::unique_ptr<Signer>(std::make_unique<TokenSigner>(
      std::move(modules), std::move(session), found[0], std::move(public_key),
      std::move(pin_for_each_use), std::move(item)));
}

}  // namespace pavise::crypto
