#include "pavise/crypto/jwe.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "pavise/base/random.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/aead.h"
#include "pavise/crypto/credential_protection.h"
#include "pavise/crypto/jwt.h"
#include "pavise/crypto/key_derivation.h"
#include "pavise/crypto/key_wrap.h"

namespace pavise::crypto {
namespace {

constexpr std::string_view kEcdh = "ECDH-ES+A256KW";
constexpr std::string_view kRsaOaep = "RSA-OAEP-256";
constexpr std::string_view kContentEncryption = "A256GCM";
constexpr size_t kMaxHeaderBytes = 16 << 10;
constexpr size_t kMaxAdditionalBytes = 64 << 10;
constexpr size_t kMaxPartyBytes = 1024;

// The algorithm that a recipient's key decides on.
absl::StatusOr<std::string_view> AlgorithmOf(const PublicKey& key, std::string_view item) {
  if (IsOmsKey(key.type())) return kEcdh;
  if (key.type() == KeyType::kRsa) return kRsaOaep;
  return Refuse(Reason::kKeyUnsupported, item,
                StrCat("nothing is encrypted to keys of type ", KeyTypeName(key.type())),
                "use a key on P-256, P-384 or P-521, or an RSA key");
}

// What the tag covers beside the ciphertext (RFC 7516, 5.1, step 14).
std::string Authenticated(std::string_view header, ByteSpan additional) {
  return additional.empty() ? std::string(header) : StrCat(header, ".", ToBase64Url(additional));
}

// A member of base64url whose text may be no longer than that of `max_bytes` bytes.
absl::StatusOr<Bytes> GetBase64Url(const JsonObject& object, std::string_view key,
                                   size_t max_bytes) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString(key));
  if (text.size() > (4 * max_bytes + 2) / 3) {
    return Refuse(Reason::kLimitExceeded, object.PathOf(key),
                  StrCat("longer than ", max_bytes, " bytes"));
  }
  return FromBase64Url(text, object.PathOf(key));
}

absl::StatusOr<Bytes> GetParty(const JsonObject& header, std::string_view key) {
  if (!header.Has(key)) return Bytes();
  return GetBase64Url(header, key, kMaxPartyBytes);
}

absl::StatusOr<SecretBytes> RecoverContentKey(const JsonObject& header, const JsonObject& message,
                                              const PrivateKey& key, std::string_view algorithm) {
  const std::string path = message.PathOf("encrypted_key");
  PAVISE_ASSIGN_OR_RETURN(const Bytes encrypted, GetBase64Url(message, "encrypted_key", 2048));
  if (algorithm == kRsaOaep) {
    PAVISE_RETURN_IF_ERROR(header.RequireOnly({"alg", "enc", "kid", "typ", "cty"}));
    if (message.Has("header")) {
      return Refuse(Reason::kMalformed, message.PathOf("header"), "unprotected");
    }
    return key.DecryptRsaOaep(DigestAlgorithm::kSha256, encrypted, path);
  }
  JsonObject holder = header;
  if (message.Has("header")) {
    PAVISE_ASSIGN_OR_RETURN(holder, message.GetObject("header"));
    PAVISE_RETURN_IF_ERROR(holder.RequireOnly({"epk"}));
    // RFC 7516, 7.2.1: no name in both.
    if (header.Has("epk")) return Refuse(Reason::kMalformed, holder.path(), "a second epk");
  }
  PAVISE_ASSIGN_OR_RETURN(const Json* epk, holder.Get("epk"));
  PAVISE_ASSIGN_OR_RETURN(const PublicKey ephemeral, PublicKeyFromJwk(*epk, holder.PathOf("epk")));
  PAVISE_ASSIGN_OR_RETURN(const Bytes party_u, GetParty(header, "apu"));
  PAVISE_ASSIGN_OR_RETURN(const Bytes party_v, GetParty(header, "apv"));
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes shared, key.Agree(ephemeral, holder.PathOf("epk")));
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes wrapping_key,
                          ConcatKdf(shared, kEcdh, party_u, party_v, Aes256Gcm::kKeyBytes));
  return UnwrapKey(wrapping_key, encrypted, path);
}

}  // namespace

absl::StatusOr<Json> EncryptJwe(const SecretBytes& plain, const PublicKey& recipient,
                                std::string_view item, ByteSpan additional) {
  if (plain.size_bytes() > kMaxJwePlainBytes || additional.size() > kMaxAdditionalBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("a secret of ", HumanBytes(plain.size_bytes()), ", the limit is ",
                         HumanBytes(kMaxJwePlainBytes)));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string_view algorithm, AlgorithmOf(recipient, item));
  Bytes random(Aes256Gcm::kKeyBytes);
  PAVISE_RETURN_IF_ERROR(SystemRandom().Fill(random));
  const SecretBytes content_key(std::move(random));
  Json header = {{"alg", std::string(algorithm)}, {"enc", std::string(kContentEncryption)}};
  Bytes encrypted_key;
  if (algorithm == kRsaOaep) {
    PAVISE_ASSIGN_OR_RETURN(
        encrypted_key, EncryptRsaOaep(recipient, DigestAlgorithm::kSha256, {}, content_key, item));
  } else {
    PAVISE_ASSIGN_OR_RETURN(const PrivateKey ephemeral, PrivateKey::Generate(recipient.type()));
    PAVISE_ASSIGN_OR_RETURN(header["epk"], ToJwk(ephemeral.public_key(), item));
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes shared, ephemeral.Agree(recipient, item));
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes wrapping_key,
                            ConcatKdf(shared, kEcdh, {}, {}, Aes256Gcm::kKeyBytes));
    PAVISE_ASSIGN_OR_RETURN(encrypted_key, WrapKey(wrapping_key, content_key));
  }
  const std::string header_text = ToBase64Url(AsBytes(header.dump()));
  // The content key is new, so that a nonce of zeros would do; a random one is what JOSE expects.
  std::array<uint8_t, Aes256Gcm::kNonceBytes> nonce;
  std::array<uint8_t, Aes256Gcm::kTagBytes> tag;
  PAVISE_RETURN_IF_ERROR(SystemRandom().Fill(nonce));
  PAVISE_ASSIGN_OR_RETURN(Aes256Gcm cipher, Aes256Gcm::Create(content_key));
  Bytes ciphertext(plain.size_bytes());
  PAVISE_RETURN_IF_ERROR(cipher.Seal(nonce, AsBytes(Authenticated(header_text, additional)),
                                     plain.Reveal(), ciphertext, tag));
  Json message = {{"protected", header_text},
                  {"encrypted_key", ToBase64Url(encrypted_key)},
                  {"iv", ToBase64Url(nonce)},
                  {"ciphertext", ToBase64Url(ciphertext)},
                  {"tag", ToBase64Url(tag)}};
  if (!additional.empty()) message["aad"] = ToBase64Url(additional);
  return message;
}

absl::StatusOr<SecretBytes> DecryptJwe(const Json& json, const PrivateKey& key,
                                       std::string_view item, ByteSpan additional) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject message, JsonObject::From(json, item));
  PAVISE_RETURN_IF_ERROR(message.RequireOnly(
      {"protected", "header", "encrypted_key", "iv", "ciphertext", "tag", "aad"}));
  PAVISE_ASSIGN_OR_RETURN(const Bytes header_bytes,
                          GetBase64Url(message, "protected", kMaxHeaderBytes));
  const std::string header_path = message.PathOf("protected");
  PAVISE_ASSIGN_OR_RETURN(
      const Json header_json,
      ParseJson(header_bytes, header_path, {.max_bytes = kMaxHeaderBytes, .max_depth = 4}));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject header, JsonObject::From(header_json, header_path));
  PAVISE_RETURN_IF_ERROR(
      header.RequireOnly({"alg", "enc", "epk", "apu", "apv", "kid", "typ", "cty"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string algorithm, header.GetString("alg"));
  if (algorithm != kEcdh && algorithm != kRsaOaep) {
    return Refuse(Reason::kUnsupported, header.PathOf("alg"), Printable(algorithm),
                  StrCat("encrypt with ", kEcdh, " or ", kRsaOaep));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string encryption, header.GetString("enc"));
  if (encryption != kContentEncryption) {
    return Refuse(Reason::kUnsupported, header.PathOf("enc"), Printable(encryption),
                  StrCat("encrypt with ", kContentEncryption));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string_view expected, AlgorithmOf(key.public_key(), item));
  if (algorithm != expected) {
    return Refuse(
        Reason::kKeyUnsupported, item,
        StrCat("encrypted with ", algorithm, ", the key is ", KeyTypeName(key.public_key().type())),
        "give the private key of the recipient it was made for");
  }
  Bytes stated;
  if (message.Has("aad")) {
    PAVISE_ASSIGN_OR_RETURN(stated, GetBase64Url(message, "aad", kMaxAdditionalBytes));
    if (stated.empty()) {  // RFC 7516, 7.2.1: absent then
      return Refuse(Reason::kMalformed, message.PathOf("aad"), "empty");
    }
  }
  if (!std::ranges::equal(stated, additional)) {
    return Refuse(Reason::kBindingMismatch, message.PathOf("aad"),
                  StrCat("made for \"", Printable(AsText(stated)), "\", not for \"",
                         Printable(AsText(additional)), "\""),
                  "ask for the secret again, for this purpose");
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes nonce, GetBase64Url(message, "iv", Aes256Gcm::kNonceBytes));
  PAVISE_ASSIGN_OR_RETURN(const Bytes tag, GetBase64Url(message, "tag", Aes256Gcm::kTagBytes));
  if (nonce.size() != Aes256Gcm::kNonceBytes || tag.size() != Aes256Gcm::kTagBytes) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("an iv of ", nonce.size(), " and a tag of ", tag.size(), " bytes"));
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes ciphertext,
                          GetBase64Url(message, "ciphertext", kMaxJwePlainBytes));
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes content_key,
                          RecoverContentKey(header, message, key, algorithm));
  if (content_key.size_bytes() != Aes256Gcm::kKeyBytes) {
    return Refuse(Reason::kMalformed, message.PathOf("encrypted_key"),
                  StrCat("a content key of ", content_key.size_bytes(), " bytes"));
  }
  PAVISE_ASSIGN_OR_RETURN(Aes256Gcm cipher, Aes256Gcm::Create(content_key));
  PAVISE_ASSIGN_OR_RETURN(const std::string header_text, message.GetString("protected"));
  Bytes plain(ciphertext.size());
  PAVISE_RETURN_IF_ERROR(cipher.Open(ByteSpan(nonce).first<Aes256Gcm::kNonceBytes>(),
                                     AsBytes(Authenticated(header_text, additional)), ciphertext,
                                     ByteSpan(tag).first<Aes256Gcm::kTagBytes>(), plain,
                                     message.PathOf("ciphertext")));
  return SecretBytes(std::move(plain));
}

}  // namespace pavise::crypto
