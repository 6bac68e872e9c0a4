#include "pavise/crypto/x509.h"

#include <openssl/core_names.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <set>
#include <utility>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/internal/openssl.h"

#include "absl/strings/ascii.h"

namespace pavise::crypto {
namespace {

using internal::ErrorQueueScope;
using internal::Owned;
using internal::OwnedBignum;
using internal::OwnedBio;
using internal::OwnedBuffer;
using internal::OwnedX509;
using internal::TakeErrors;

using OwnedGeneralNames = Owned<GENERAL_NAMES, GENERAL_NAMES_free>;
using OwnedUsages = Owned<EXTENDED_KEY_USAGE, EXTENDED_KEY_USAGE_free>;
using OwnedObject = Owned<ASN1_OBJECT, ASN1_OBJECT_free>;
using OwnedStore = Owned<X509_STORE, X509_STORE_free>;
using OwnedStoreContext = Owned<X509_STORE_CTX, X509_STORE_CTX_free>;
using OwnedSctList = Owned<STACK_OF(SCT), internal::FreeSctList>;

constexpr size_t kMaxCertificateBytes = 64 << 10;
constexpr size_t kMaxPemBytes = 16 << 20;
constexpr size_t kMaxRevocationListBytes = 16 << 20;
constexpr size_t kMaxPemCertificates = 1000;
constexpr int kMaxChainDepth = 16;
// 112 bits: refuses MD5 and SHA-1 signatures and RSA keys under 2,048 bits.
constexpr int kSecurityLevel = 2;
constexpr int kMaxScts = 64;
constexpr char kAlternativeNamesOid[] = "2.5.29.17";
constexpr char kExtendedKeyUsageOid[] = "2.5.29.37";
constexpr char kEmbeddedSctsOid[] = "1.3.6.1.4.1.11129.2.4.2";
constexpr char kSystemRootsPath[] = "/etc/ssl/certs/ca-certificates.crt";
// The identity of a Sigstore certificate that is neither an address nor a URI.
constexpr char kFulcioOtherNameOid[] = "1.3.6.1.4.1.57264.1.7";

std::string ShowTime(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}

absl::StatusOr<absl::Time> FromAsn1Time(const ASN1_TIME* time, std::string_view item) {
  std::tm broken_down{};
  if (time == nullptr || ASN1_TIME_to_tm(time, &broken_down) != 1) {
    return Refuse(Reason::kMalformed, item, "a validity date is not a date");
  }
  return absl::FromCivil(
      absl::CivilSecond(broken_down.tm_year + 1900, broken_down.tm_mon + 1, broken_down.tm_mday,
                        broken_down.tm_hour, broken_down.tm_min, broken_down.tm_sec),
      absl::UTCTimeZone());
}

std::string ShowName(const X509_NAME* name) {
  OwnedBio bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253) < 0) return "";
  char* text = nullptr;
  const long size_bytes = BIO_get_mem_data(bio.get(), &text);
  return size_bytes > 0 ? std::string(text, static_cast<size_t>(size_bytes)) : "";
}

std::string ItemOf(X509* certificate) {
  const std::string subject = ShowName(X509_get_subject_name(certificate));
  return StrCat("certificate ", subject.empty() ? "without a subject" : subject);
}

ByteSpan BytesOf(const ASN1_STRING* text) {
  const int size_bytes = ASN1_STRING_length(text);
  return {ASN1_STRING_get0_data(text), static_cast<size_t>(std::max(size_bytes, 0))};
}

// RFC 5280, 4.2: at most one extension of a kind. OpenSSL's lookups take the first, others' the
// last, so a second one means different things to different readers.
absl::Status CheckExtensionsOnce(const X509* certificate, std::string_view item) {
  std::set<std::string_view> seen;
  const int count = X509_get_ext_count(certificate);
  for (int i = 0; i < count; ++i) {
    const ASN1_OBJECT* object = X509_EXTENSION_get_object(X509_get_ext(certificate, i));
    if (!seen.insert(AsText({OBJ_get0_data(object), OBJ_length(object)})).second) {
      return Refuse(Reason::kMalformed, item, "an extension occurs twice");
    }
  }
  return absl::OkStatus();
}

// The text of an IA5String or UTF8String name. "good.example\0.evil.example" must not read as
// "good.example", and nothing that moves a terminal's cursor is a name.
absl::StatusOr<std::string> NameText(std::string_view value, bool ascii_only,
                                     std::string_view item) {
  std::string text(value);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f || (ascii_only && byte > 0x7f)) {
      return Refuse(Reason::kCertificateInvalid, item,
                    StrCat("the alternative name \"", Printable(text),
                           "\" holds a character that no name has"));
    }
  }
  if (!IsUtf8(text)) {
    return Refuse(Reason::kCertificateInvalid, item, "an alternative name is not UTF-8");
  }
  return text;
}

// nullptr without the extension.
absl::StatusOr<OwnedGeneralNames> AlternativeNamesOf(const Certificate& certificate,
                                                     std::string_view item) {
  const std::optional<Bytes> extension = certificate.Extension(kAlternativeNamesOid);
  if (!extension.has_value()) return OwnedGeneralNames();
  const unsigned char* cursor = extension->data();
  OwnedGeneralNames names(
      extension->empty()
          ? nullptr
          : d2i_GENERAL_NAMES(nullptr, &cursor, static_cast<long>(extension->size())));
  if (names == nullptr || cursor != extension->data() + extension->size()) {
    return Refuse(
        Reason::kMalformed, item,
        StrCat("its alternative names cannot be read: ", TakeErrors("empty, or bytes after them")));
  }
  return names;
}

std::string DottedOid(const ASN1_OBJECT* object) {
  std::array<char, 128> text{};
  const int size_bytes = OBJ_obj2txt(text.data(), static_cast<int>(text.size()), object, 1);
  return size_bytes > 0 && static_cast<size_t>(size_bytes) < text.size() ? text.data() : "";
}

// In words that a user can act on.
absl::Status RefuseChain(X509_STORE_CTX* context, absl::Time at, const X509* leaf) {
  const int error = X509_STORE_CTX_get_error(context);
  X509* current = X509_STORE_CTX_get_current_cert(context);
  if (current == nullptr) current = const_cast<X509*>(leaf);
  const std::string item = ItemOf(current);
  const std::string issuer = ShowName(X509_get_issuer_name(current));
  switch (error) {
    case X509_V_ERR_OUT_OF_MEM:
      return MachineFailure(item, X509_verify_cert_error_string(error));
    case X509_V_ERR_CERT_HAS_EXPIRED: {
      const auto end = FromAsn1Time(X509_get0_notAfter(current), item);
      return Refuse(Reason::kCertificateInvalid, item,
                    StrCat("expired on ", end.ok() ? ShowTime(*end) : "an unreadable date",
                           "; it is held against ", ShowTime(at)),
                    "sign again with a certificate that is valid");
    }
    case X509_V_ERR_CERT_NOT_YET_VALID: {
      const auto begin = FromAsn1Time(X509_get0_notBefore(current), item);
      return Refuse(
          Reason::kCertificateInvalid, item,
          StrCat("not valid before ", begin.ok() ? ShowTime(*begin) : "an unreadable date",
                 "; it is held against ", ShowTime(at)),
          "check the clock of the machine that signed");
    }
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
      return Refuse(Reason::kCertificateInvalid, item,
                    StrCat("its issuer ", issuer,
                           " is neither a trusted root nor an intermediate that leads to one"),
                    "give the issuer's root with --certificate-chain if you trust it");
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
      return Refuse(Reason::kCertificateInvalid, item,
                    "is self-signed and not one of the trusted roots",
                    "give it with --certificate-chain if you trust it");
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return Refuse(Reason::kCertificateInvalid, item,
                    StrCat("the signature of its issuer ", issuer, " does not verify"));
    case X509_V_ERR_INVALID_CA:
    case X509_V_ERR_INVALID_NON_CA:
    case X509_V_ERR_KEYUSAGE_NO_CERTSIGN:
      return Refuse(Reason::kCertificateInvalid, item, "it may not issue certificates");
    case X509_V_ERR_PATH_LENGTH_EXCEEDED:
      return Refuse(Reason::kCertificateInvalid, item,
                    "more intermediates below it than it allows (path length)");
    case X509_V_ERR_CERT_CHAIN_TOO_LONG:
      return Refuse(Reason::kCertificateInvalid, item,
                    StrCat("the chain is longer than ", kMaxChainDepth, " certificates"));
    case X509_V_ERR_EE_KEY_TOO_SMALL:
    case X509_V_ERR_CA_KEY_TOO_SMALL:
      return Refuse(Reason::kCertificateInvalid, item, "its key is too short (under 112 bits)");
    case X509_V_ERR_CA_MD_TOO_WEAK:
      return Refuse(Reason::kCertificateInvalid, item,
                    "it is signed with a broken digest (MD5 or SHA-1)");
    default:
      return Refuse(Reason::kCertificateInvalid, item, X509_verify_cert_error_string(error));
  }
}

void AppendBigEndian(uint64_t value, int size_bytes, Bytes& out) {
  for (int shift = 8 * (size_bytes - 1); shift >= 0; shift -= 8) {
    out.push_back(static_cast<uint8_t>(value >> shift));
  }
}

// What a log signed for a precertificate (RFC 6962, 3.2), but for the timestamp and the
// extensions that each SCT has of its own: the certificate as it was before it held SCTs.
struct Precertificate {
  Bytes issuer_key_sha256;
  Bytes tbs;
};

absl::StatusOr<Precertificate> PrecertificateOf(X509* leaf, X509* issuer, std::string_view item) {
  Precertificate result;
  unsigned char* encoded = nullptr;
  int size_bytes = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(issuer), &encoded);
  if (size_bytes <= 0) return MachineFailure(item, TakeErrors("cannot encode the issuer's key"));
  {
    OwnedBuffer owned(encoded);
    PAVISE_ASSIGN_OR_RETURN(
        result.issuer_key_sha256,
        Digest(DigestAlgorithm::kSha256, {encoded, static_cast<size_t>(size_bytes)}));
  }
  OwnedX509 copy(X509_dup(leaf));
  if (copy == nullptr) return MachineFailure(item, TakeErrors("out of memory"));
  const int position = X509_get_ext_by_NID(copy.get(), NID_ct_precert_scts, -1);
  if (position < 0) return Refuse(Reason::kTransparencyInvalid, item, "it embeds no timestamps");
  Owned<X509_EXTENSION, X509_EXTENSION_free> removed(X509_delete_ext(copy.get(), position));
  encoded = nullptr;
  size_bytes = i2d_re_X509_tbs(copy.get(), &encoded);
  if (size_bytes <= 0) return MachineFailure(item, TakeErrors("cannot encode the certificate"));
  OwnedBuffer owned(encoded);
  result.tbs.assign(encoded, encoded + size_bytes);
  return result;
}

Bytes SignedByLog(const SCT* sct, const Precertificate& precertificate) {
  constexpr uint64_t kVersion1 = 0;
  constexpr uint64_t kCertificateTimestamp = 0;
  constexpr uint64_t kPrecertificateEntry = 1;
  Bytes message;
  AppendBigEndian(kVersion1, 1, message);
  AppendBigEndian(kCertificateTimestamp, 1, message);
  AppendBigEndian(SCT_get_timestamp(sct), 8, message);
  AppendBigEndian(kPrecertificateEntry, 2, message);
  message.insert(message.end(), precertificate.issuer_key_sha256.begin(),
                 precertificate.issuer_key_sha256.end());
  AppendBigEndian(precertificate.tbs.size(), 3, message);
  message.insert(message.end(), precertificate.tbs.begin(), precertificate.tbs.end());
  unsigned char* extensions = nullptr;
  const size_t extensions_bytes = SCT_get0_extensions(sct, &extensions);
  AppendBigEndian(extensions_bytes, 2, message);
  if (extensions_bytes > 0)
    message.insert(message.end(), extensions, extensions + extensions_bytes);
  return message;
}

absl::Status VerifySct(const SCT* sct, const Precertificate& precertificate,
                       const std::vector<CtLog>& logs, std::string_view item) {
  const auto refuse = [&](const std::string& detail) {
    return Refuse(Reason::kTransparencyInvalid, item, detail);
  };
  if (SCT_get_version(sct) != SCT_VERSION_V1) return refuse("a timestamp of an unknown version");
  unsigned char* log_id = nullptr;
  const size_t log_id_bytes = SCT_get0_log_id(sct, &log_id);
  const std::string log_name = ToHex({log_id, log_id_bytes});
  // The identifier stands in the certificate, so it only picks the candidate keys; several entries
  // of one log, with different periods, are all tried.
  bool known = false;
  absl::Status last;
  const uint64_t timestamp_ms = SCT_get_timestamp(sct);
  // Year 9999: beyond it absl's and the file's idea of time part ways.
  if (timestamp_ms > 253'402'300'799'999u) return refuse("a timestamp beyond the year 9999");
  const absl::Time time = absl::FromUnixMillis(static_cast<int64_t>(timestamp_ms));
  for (const CtLog& log : logs) {
    if (log.key.Fingerprint() != log_name) continue;
    known = true;
    if (time < log.valid_from || time > log.valid_until) {
      last = refuse(StrCat("log ", log_name, " was not trusted at ", ShowTime(time)));
      continue;
    }
    const KeyType type = log.key.type();
    const int expected_algorithm = type == KeyType::kEcP256 ? NID_ecdsa_with_SHA256
                                   : type == KeyType::kRsa  ? NID_sha256WithRSAEncryption
                                                            : NID_undef;
    if (expected_algorithm == NID_undef || SCT_get_signature_nid(sct) != expected_algorithm) {
      last = refuse(StrCat("log ", log_name, " signs in a way that RFC 6962 does not allow"));
      continue;
    }
    unsigned char* signature = nullptr;
    const size_t signature_bytes = SCT_get0_signature(sct, &signature);
    const absl::Status verified =
        log.key.Verify(SignedByLog(sct, precertificate), {signature, signature_bytes}, item);
    if (verified.ok()) return absl::OkStatus();
    if (!ReasonOf(verified).has_value()) return verified;  // the machine failed
    last = refuse(StrCat("the timestamp of log ", log_name, " does not verify"));
  }
  if (!known) return refuse(StrCat("log ", log_name, " is not a trusted log"));
  return last;
}

// A partial, indirect or delta list says so in a critical extension; read as a complete one it
// would clear what it does not speak of.
absl::Status CheckNothingCritical(const STACK_OF(X509_EXTENSION) * extensions,
                                  std::string_view item) {
  for (int i = 0; i < sk_X509_EXTENSION_num(extensions); ++i) {
    if (X509_EXTENSION_get_critical(sk_X509_EXTENSION_value(extensions, i)) != 0) {
      return Refuse(Reason::kUnsupported, item,
                    "the list has a critical extension: it is not a complete list of one issuer",
                    "give the issuer's complete revocation list");
    }
  }
  return absl::OkStatus();
}

// Of the digest that a list was signed with.
bool IsAcceptedDigest(int nid) {
  return nid == NID_sha256 || nid == NID_sha384 || nid == NID_sha512;
}

bool IsSignedWithAcceptedDigest(const X509_CRL* list) {
  const X509_ALGOR* algorithm = nullptr;
  X509_CRL_get0_signature(list, nullptr, &algorithm);
  const ASN1_OBJECT* object = nullptr;
  int parameter_type = V_ASN1_UNDEF;
  const void* parameter = nullptr;
  X509_ALGOR_get0(&object, &parameter_type, &parameter, algorithm);
  const int signature = OBJ_obj2nid(object);
  if (signature != NID_rsassaPss) {
    int digest = NID_undef;
    return OBJ_find_sigid_algs(signature, &digest, nullptr) == 1 && IsAcceptedDigest(digest);
  }
  if (parameter_type != V_ASN1_SEQUENCE) return false;
  Owned<RSA_PSS_PARAMS, RSA_PSS_PARAMS_free> parameters(
      static_cast<RSA_PSS_PARAMS*>(ASN1_item_unpack(static_cast<const ASN1_STRING*>(parameter),
                                                    ASN1_ITEM_rptr(RSA_PSS_PARAMS))));
  // Without a digest named it is SHA-1 (RFC 8017, A.2.3).
  return parameters != nullptr && parameters->hashAlgorithm != nullptr &&
         IsAcceptedDigest(OBJ_obj2nid(parameters->hashAlgorithm->algorithm));
}

absl::Status CheckAgainstList(X509* certificate, X509* issuer, const RevocationList& list,
                              absl::Time at) {
  const std::string& item = list.native().item;
  X509_CRL* native = list.native().list.get();
  if ((X509_get_extension_flags(issuer) & EXFLAG_KUSAGE) != 0 &&
      (X509_get_key_usage(issuer) & KU_CRL_SIGN) == 0) {
    return Refuse(Reason::kCertificateInvalid, ItemOf(issuer), "it may not sign revocation lists");
  }
  EVP_PKEY* key = X509_get0_pubkey(issuer);
  if (key == nullptr || !IsSignedWithAcceptedDigest(native) || X509_CRL_verify(native, key) != 1) {
    return Refuse(Reason::kSignatureInvalid, item,
                  StrCat("its signature does not verify under the key of ", ItemOf(issuer)),
                  "download the revocation list again");
  }
  if (at < list.this_update() || at > list.next_update()) {
    return Refuse(Reason::kCertificateInvalid, item,
                  StrCat("the revocation list is good from ", ShowTime(list.this_update()), " to ",
                         ShowTime(list.next_update()), "; it is held against ", ShowTime(at)),
                  "give the issuer's current revocation list");
  }
  X509_REVOKED* entry = nullptr;
  if (X509_CRL_get0_by_cert(native, &entry, certificate) != 0) {
    const auto date = FromAsn1Time(X509_REVOKED_get0_revocationDate(entry), item);
    return Refuse(Reason::kRevoked, ItemOf(certificate),
                  StrCat("its issuer revoked it on ",
                         date.ok() ? ShowTime(*date) : "an unreadable date", " (", item, ")"),
                  "nothing that it certifies counts; ask its owner for evidence under another");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Certificate> Certificate::FromDer(ByteSpan der, std::string_view item) {
  if (der.size() > kMaxCertificateBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("larger than any certificate (", der.size(), " bytes)"));
  }
  ErrorQueueScope errors;
  const unsigned char* cursor = der.data();
  auto native = std::make_shared<Native>();
  if (!der.empty()) {
    native->certificate.reset(d2i_X509(nullptr, &cursor, static_cast<long>(der.size())));
  }
  if (native->certificate == nullptr) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("not an X.509 certificate: ", TakeErrors("empty")));
  }
  if (cursor != der.data() + der.size()) {
    return Refuse(Reason::kMalformed, item, "bytes after the certificate");
  }
  // The parser also takes BER, in which one certificate has many spellings and many fingerprints.
  unsigned char* encoded = nullptr;
  const int size_bytes = i2d_X509(native->certificate.get(), &encoded);
  if (size_bytes <= 0) return MachineFailure(item, TakeErrors("cannot encode the certificate"));
  {
    OwnedBuffer owned(encoded);
    if (!std::equal(der.begin(), der.end(), encoded, encoded + size_bytes)) {
      return Refuse(Reason::kMalformed, item, "the certificate's encoding is not DER");
    }
  }
  PAVISE_RETURN_IF_ERROR(CheckExtensionsOnce(native->certificate.get(), item));
  PAVISE_RETURN_IF_ERROR(
      FromAsn1Time(X509_get0_notBefore(native->certificate.get()), item).status());
  PAVISE_RETURN_IF_ERROR(
      FromAsn1Time(X509_get0_notAfter(native->certificate.get()), item).status());
  // Reads the extensions once, here, where no other thread can see the certificate yet.
  X509_check_purpose(native->certificate.get(), -1, 0);
  native->der.assign(der.begin(), der.end());
  native->item = std::string(item);
  return Certificate(std::shared_ptr<const Native>(std::move(native)));
}

absl::StatusOr<std::vector<Certificate>> Certificate::ListFromPem(std::string_view pem,
                                                                  std::string_view item) {
  constexpr std::string_view kBegin = "-----BEGIN ";
  constexpr std::string_view kBeginCertificate = "-----BEGIN CERTIFICATE-----";
  constexpr std::string_view kEndCertificate = "-----END CERTIFICATE-----";
  if (pem.size() > kMaxPemBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("larger than ", kMaxPemBytes, " bytes (", pem.size(), ")"));
  }
  std::vector<Certificate> certificates;
  for (size_t at = pem.find(kBegin); at != std::string_view::npos; at = pem.find(kBegin, at)) {
    const std::string_view rest = pem.substr(at);
    if (!rest.starts_with(kBeginCertificate)) {
      const std::string_view label = rest.substr(kBegin.size(), 40);
      return Refuse(Reason::kMalformed, item,
                    StrCat("holds a block that is not a certificate: ",
                           Printable(label.substr(0, label.find("-----")))),
                    "give a file that holds certificates only");
    }
    const size_t end = rest.find(kEndCertificate);
    if (end == std::string_view::npos) {
      return Refuse(Reason::kMalformed, item,
                    StrCat("certificate ", certificates.size() + 1, " has no end"));
    }
    if (certificates.size() == kMaxPemCertificates) {
      return Refuse(Reason::kLimitExceeded, item,
                    StrCat("holds more than ", kMaxPemCertificates, " certificates"));
    }
    const std::string name = StrCat(item, " (certificate ", certificates.size() + 1, ")");
    const size_t block_bytes = end + kEndCertificate.size();
    PAVISE_ASSIGN_OR_RETURN(
        Bytes der, internal::DecodePemBlock(rest.substr(0, block_bytes), "CERTIFICATE", name));
    PAVISE_ASSIGN_OR_RETURN(Certificate certificate, FromDer(der, name));
    certificates.push_back(std::move(certificate));
    at += block_bytes;
  }
  if (certificates.empty()) {
    return Refuse(Reason::kMalformed, item, "holds no certificate in PEM form");
  }
  return certificates;
}

const Bytes& Certificate::der() const { return native_->der; }

std::string Certificate::ToPem() const {
  return internal::EncodePemBlock(native_->der, "CERTIFICATE");
}

std::string Certificate::subject() const {
  return ShowName(X509_get_subject_name(native_->certificate.get()));
}

std::string Certificate::CommonName() const {
  const X509_NAME* const name = X509_get_subject_name(native_->certificate.get());
  const int index = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  if (index < 0 || X509_NAME_get_index_by_NID(name, NID_commonName, index) >= 0) return "";
  ErrorQueueScope errors;
  unsigned char* utf8 = nullptr;
  const int size_bytes =
      ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index)));
  const OwnedBuffer owned(utf8);
  return size_bytes < 0 ? "" : std::string(AsText({utf8, static_cast<size_t>(size_bytes)}));
}

std::string Certificate::issuer() const {
  return ShowName(X509_get_issuer_name(native_->certificate.get()));
}

std::string Certificate::SerialHex() const {
  ErrorQueueScope errors;
  OwnedBignum serial(
      ASN1_INTEGER_to_BN(X509_get0_serialNumber(native_->certificate.get()), nullptr));
  if (serial == nullptr) return "";
  char* digits = BN_bn2hex(serial.get());
  if (digits == nullptr) return "";
  std::string text = absl::AsciiStrToLower(digits);
  OPENSSL_free(digits);
  return text;
}

std::string Certificate::Fingerprint() const {
  const absl::StatusOr<Digest32> digest = Sha256(native_->der);
  return digest.ok() ? ToHex(*digest) : "";
}

absl::StatusOr<std::string> Certificate::TwinFingerprint(const PublicKey& issuer_key) const {
  internal::ErrorQueueScope errors;
  EVP_PKEY* key = issuer_key.native().key.get();
  BIGNUM* read_order = nullptr;
  if (EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_EC_ORDER, &read_order) != 1) return std::string();
  const internal::OwnedBignum order(read_order);
  const ASN1_BIT_STRING* signature = nullptr;
  X509_get0_signature(&signature, nullptr, native_->certificate.get());
  const unsigned char* cursor = ASN1_STRING_get0_data(signature);
  internal::OwnedEcdsaSignature ecdsa(
      d2i_ECDSA_SIG(nullptr, &cursor, ASN1_STRING_length(signature)));
  if (ecdsa == nullptr) return std::string();
  internal::OwnedBignum r(BN_dup(ECDSA_SIG_get0_r(ecdsa.get())));
  internal::OwnedBignum s(BN_new());
  if (r == nullptr || s == nullptr ||
      BN_sub(s.get(), order.get(), ECDSA_SIG_get0_s(ecdsa.get())) != 1) {
    return MachineFailure(native_->item, internal::TakeErrors("out of memory"));
  }
  internal::OwnedEcdsaSignature twin(ECDSA_SIG_new());
  if (twin == nullptr || ECDSA_SIG_set0(twin.get(), r.get(), s.get()) != 1) {
    return MachineFailure(native_->item, internal::TakeErrors("out of memory"));
  }
  (void)r.release();
  (void)s.release();
  unsigned char* encoded = nullptr;
  const int encoded_bytes = i2d_ECDSA_SIG(twin.get(), &encoded);
  const internal::OwnedBuffer owned_signature(encoded);
  // The signature is the last field of the certificate: a copy gets the twin in its place.
  internal::OwnedX509 copy(X509_dup(native_->certificate.get()));
  if (encoded_bytes <= 0 || copy == nullptr) {
    return MachineFailure(native_->item, internal::TakeErrors("out of memory"));
  }
  const ASN1_BIT_STRING* place = nullptr;
  X509_get0_signature(&place, nullptr, copy.get());
  if (ASN1_BIT_STRING_set(const_cast<ASN1_BIT_STRING*>(place), encoded, encoded_bytes) != 1) {
    return MachineFailure(native_->item, internal::TakeErrors("out of memory"));
  }
  unsigned char* der = nullptr;
  const int der_bytes = i2d_X509(copy.get(), &der);
  const internal::OwnedBuffer owned_der(der);
  if (der_bytes <= 0) return MachineFailure(native_->item, internal::TakeErrors("cannot encode"));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, Sha256({der, static_cast<size_t>(der_bytes)}));
  return ToHex(digest);
}

absl::Time Certificate::not_before() const {
  // FromDer has seen that it is a date; a certificate that never begins is the safe answer.
  return FromAsn1Time(X509_get0_notBefore(native_->certificate.get()), native_->item)
      .value_or(absl::InfiniteFuture());
}

absl::Time Certificate::not_after() const {
  return FromAsn1Time(X509_get0_notAfter(native_->certificate.get()), native_->item)
      .value_or(absl::InfinitePast());
}

absl::StatusOr<PublicKey> Certificate::public_key() const {
  ErrorQueueScope errors;
  unsigned char* encoded = nullptr;
  const int size_bytes =
      i2d_X509_PUBKEY(X509_get_X509_PUBKEY(native_->certificate.get()), &encoded);
  if (size_bytes <= 0) return MachineFailure(native_->item, TakeErrors("cannot encode its key"));
  OwnedBuffer owned(encoded);
  return PublicKey::FromDer({encoded, static_cast<size_t>(size_bytes)}, native_->item);
}

bool Certificate::is_self_issued() const {
  return X509_NAME_cmp(X509_get_subject_name(native_->certificate.get()),
                       X509_get_issuer_name(native_->certificate.get())) == 0;
}

absl::StatusOr<std::vector<SubjectAlternativeName>> Certificate::SubjectAlternativeNames() const {
  ErrorQueueScope errors;
  std::vector<SubjectAlternativeName> result;
  PAVISE_ASSIGN_OR_RETURN(const OwnedGeneralNames names, AlternativeNamesOf(*this, native_->item));
  if (names == nullptr) return result;
  OwnedObject fulcio(OBJ_txt2obj(kFulcioOtherNameOid, 1));
  if (fulcio == nullptr) return MachineFailure(native_->item, TakeErrors("out of memory"));
  using Kind = SubjectAlternativeName::Kind;
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int type = 0;
    const void* value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type);
    Kind kind;
    const ASN1_STRING* text = nullptr;
    switch (type) {
      case GEN_EMAIL:
        kind = Kind::kEmail;
        text = static_cast<const ASN1_STRING*>(value);
        break;
      case GEN_URI:
        kind = Kind::kUri;
        text = static_cast<const ASN1_STRING*>(value);
        break;
      case GEN_DNS:
        kind = Kind::kDns;
        text = static_cast<const ASN1_STRING*>(value);
        break;
      case GEN_OTHERNAME: {
        const auto* other = static_cast<const OTHERNAME*>(value);
        if (OBJ_cmp(other->type_id, fulcio.get()) != 0) continue;
        if (ASN1_TYPE_get(other->value) != V_ASN1_UTF8STRING) {
          return Refuse(Reason::kCertificateInvalid, native_->item,
                        "its Sigstore identity is not a UTF-8 string");
        }
        kind = Kind::kOtherName;
        text = other->value->value.utf8string;
        break;
      }
      default:  // IP addresses, directory names: no signer is named by them
        continue;
    }
    PAVISE_ASSIGN_OR_RETURN(
        std::string name, NameText(AsText(BytesOf(text)), kind != Kind::kOtherName, native_->item));
    result.push_back({kind, std::move(name)});
  }
  return result;
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>>
Certificate::DirectoryNameAttributes() const {
  ErrorQueueScope errors;
  std::vector<std::pair<std::string, std::string>> result;
  PAVISE_ASSIGN_OR_RETURN(const OwnedGeneralNames names, AlternativeNamesOf(*this, native_->item));
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_DIRNAME) continue;
    const X509_NAME* directory = name->d.directoryName;
    for (int j = 0; j < X509_NAME_entry_count(directory); ++j) {
      const X509_NAME_ENTRY* entry = X509_NAME_get_entry(directory, j);
      unsigned char* utf8 = nullptr;
      const int size_bytes = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(entry));
      OwnedBuffer owned(utf8);
      if (size_bytes < 0) {
        return Refuse(Reason::kMalformed, native_->item, "a directory name that is not text");
      }
      PAVISE_ASSIGN_OR_RETURN(
          std::string text,
          NameText(AsText({utf8, static_cast<size_t>(size_bytes)}), false, native_->item));
      result.emplace_back(DottedOid(X509_NAME_ENTRY_get_object(entry)), std::move(text));
    }
  }
  return result;
}

absl::StatusOr<std::optional<std::vector<std::string>>> Certificate::ExtendedKeyUsages() const {
  ErrorQueueScope errors;
  const std::optional<Bytes> extension = Extension(kExtendedKeyUsageOid);
  if (!extension.has_value()) return std::nullopt;
  const unsigned char* cursor = extension->data();
  OwnedUsages usages(
      extension->empty()
          ? nullptr
          : d2i_EXTENDED_KEY_USAGE(nullptr, &cursor, static_cast<long>(extension->size())));
  if (usages == nullptr || cursor != extension->data() + extension->size()) {
    return Refuse(Reason::kMalformed, native_->item, "its extended key usages cannot be read");
  }
  std::vector<std::string> result;
  for (int i = 0; i < sk_ASN1_OBJECT_num(usages.get()); ++i) {
    result.push_back(DottedOid(sk_ASN1_OBJECT_value(usages.get(), i)));
  }
  return result;
}

std::optional<Bytes> Certificate::Extension(const std::string& oid) const {
  ErrorQueueScope errors;
  OwnedObject object(OBJ_txt2obj(oid.c_str(), 1));
  if (object == nullptr) return std::nullopt;
  X509* certificate = native_->certificate.get();
  const int position = X509_get_ext_by_OBJ(certificate, object.get(), -1);
  if (position < 0) return std::nullopt;
  const ByteSpan value = BytesOf(X509_EXTENSION_get_data(X509_get_ext(certificate, position)));
  return Bytes(value.begin(), value.end());
}

bool Certificate::MaySignModels() const {
  X509* certificate = native_->certificate.get();
  const uint32_t flags = X509_get_extension_flags(certificate);
  if ((flags & EXFLAG_INVALID) != 0) return false;
  if ((flags & EXFLAG_KUSAGE) != 0 &&
      (X509_get_key_usage(certificate) & KU_DIGITAL_SIGNATURE) != 0) {
    return true;
  }
  return HasCodeSigningUsage();
}

bool Certificate::HasCodeSigningUsage() const {
  X509* certificate = native_->certificate.get();
  const uint32_t flags = X509_get_extension_flags(certificate);
  // Without the extension the usage reads as "everything"; here a usage is there only when stated.
  return (flags & EXFLAG_INVALID) == 0 && (flags & EXFLAG_XKUSAGE) != 0 &&
         (X509_get_extended_key_usage(certificate) & XKU_CODE_SIGN) != 0;
}

absl::StatusOr<std::vector<Certificate>> SystemRoots() {
  PAVISE_ASSIGN_OR_RETURN(Bytes pem, ReadFile(kSystemRootsPath, kMaxPemBytes));
  return Certificate::ListFromPem(AsText(pem), kSystemRootsPath);
}

absl::StatusOr<std::vector<Certificate>> VerifyChain(const Certificate& leaf,
                                                     const std::vector<Certificate>& intermediates,
                                                     const std::vector<Certificate>& roots,
                                                     absl::Time at, bool partial_chain) {
  ErrorQueueScope errors;
  X509* leaf_certificate = leaf.native().certificate.get();
  const std::string item = ItemOf(leaf_certificate);
  if (at <= absl::FromUnixSeconds(0) || at == absl::InfiniteFuture()) {
    return Refuse(Reason::kCertificateInvalid, item, "there is no time to hold it against");
  }
  OwnedStore store(X509_STORE_new());
  internal::OwnedX509Stack untrusted(sk_X509_new_null());
  OwnedStoreContext context(X509_STORE_CTX_new());
  if (store == nullptr || untrusted == nullptr || context == nullptr) {
    return MachineFailure(item, TakeErrors("out of memory"));
  }
  for (const Certificate& root : roots) {
    if (X509_STORE_add_cert(store.get(), root.native().certificate.get()) != 1) {
      return MachineFailure(item, TakeErrors("cannot hold a root"));
    }
  }
  for (const Certificate& intermediate : intermediates) {
    if (sk_X509_push(untrusted.get(), intermediate.native().certificate.get()) <= 0) {
      return MachineFailure(item, TakeErrors("out of memory"));
    }
  }
  if (X509_STORE_CTX_init(context.get(), store.get(), leaf_certificate, untrusted.get()) != 1) {
    return MachineFailure(item, TakeErrors("cannot start the validation"));
  }
  X509_VERIFY_PARAM* parameters = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_time(parameters, absl::ToTimeT(at));
  X509_VERIFY_PARAM_set_depth(parameters, kMaxChainDepth);
  X509_VERIFY_PARAM_set_auth_level(parameters, kSecurityLevel);
  // X509_V_FLAG_X509_STRICT stays off: it insists on key identifiers, which certificates made with
  // `openssl x509 -req` lack. What it adds for safety is checked below.
  unsigned long flags = X509_V_FLAG_TRUSTED_FIRST;
  if (partial_chain) flags |= X509_V_FLAG_PARTIAL_CHAIN;
  if (X509_VERIFY_PARAM_set_flags(parameters, flags) != 1 ||
      X509_VERIFY_PARAM_set_purpose(parameters, X509_PURPOSE_ANY) != 1) {
    return MachineFailure(item, TakeErrors("cannot set the validation's rules"));
  }
  const int verdict = X509_verify_cert(context.get());
  if (verdict != 1 || X509_STORE_CTX_get_error(context.get()) != X509_V_OK) {
    if (verdict < 0 && X509_STORE_CTX_get_error(context.get()) == X509_V_OK) {
      return MachineFailure(item, TakeErrors("the validation could not be done"));
    }
    return RefuseChain(context.get(), at, leaf_certificate);
  }
  STACK_OF(X509)* found = X509_STORE_CTX_get0_chain(context.get());
  const int length = sk_X509_num(found);
  std::vector<Certificate> chain;
  for (int i = 0; i < length; ++i) {
    X509* certificate = sk_X509_value(found, i);
    if ((X509_get_extension_flags(certificate) & EXFLAG_INVALID) != 0) {
      return Refuse(Reason::kCertificateInvalid, ItemOf(certificate),
                    "its extensions contradict the standard (RFC 5280)");
    }
    // 1: version 3 with basicConstraints CA:TRUE. OpenSSL otherwise lets older forms pass. The
    // anchor is trusted because the user named it, whatever its form.
    const bool is_intermediate = i > 0 && i + 1 < length;
    if (is_intermediate && X509_check_ca(certificate) != 1) {
      return Refuse(Reason::kCertificateInvalid, ItemOf(certificate),
                    "it may not issue certificates (no basicConstraints CA:TRUE)");
    }
    if (i == 0) {
      chain.push_back(leaf);
      continue;
    }
    // One of those that were given, which is parsed.
    const auto is_link = [&](const Certificate& given) {
      return given.native().certificate.get() == certificate;
    };
    auto link = std::ranges::find_if(intermediates, is_link);
    if (link == intermediates.end()) {
      link = std::ranges::find_if(roots, is_link);
      if (link == roots.end()) return MachineFailure(item, "its chain holds another certificate");
    }
    chain.push_back(*link);
  }
  return chain;
}

absl::StatusOr<RevocationList> RevocationList::FromDer(ByteSpan der, std::string_view item) {
  if (der.size() > kMaxRevocationListBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("larger than ", kMaxRevocationListBytes, " bytes (", der.size(), ")"));
  }
  ErrorQueueScope errors;
  const unsigned char* cursor = der.data();
  auto native = std::make_shared<Native>();
  if (!der.empty()) {
    native->list.reset(d2i_X509_CRL(nullptr, &cursor, static_cast<long>(der.size())));
  }
  if (native->list == nullptr) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("not a certificate revocation list: ", TakeErrors("empty")));
  }
  if (cursor != der.data() + der.size()) {
    return Refuse(Reason::kMalformed, item, "bytes after the revocation list");
  }
  unsigned char* encoded = nullptr;
  const int size_bytes = i2d_X509_CRL(native->list.get(), &encoded);
  if (size_bytes <= 0) return MachineFailure(item, TakeErrors("cannot encode the list"));
  {
    OwnedBuffer owned(encoded);
    if (!std::equal(der.begin(), der.end(), encoded, encoded + size_bytes)) {
      return Refuse(Reason::kMalformed, item, "the list's encoding is not DER");
    }
  }
  PAVISE_ASSIGN_OR_RETURN(native->this_update,
                          FromAsn1Time(X509_CRL_get0_lastUpdate(native->list.get()), item));
  PAVISE_ASSIGN_OR_RETURN(native->next_update,
                          FromAsn1Time(X509_CRL_get0_nextUpdate(native->list.get()), item));
  PAVISE_RETURN_IF_ERROR(CheckNothingCritical(X509_CRL_get0_extensions(native->list.get()), item));
  STACK_OF(X509_REVOKED)* entries = X509_CRL_get_REVOKED(native->list.get());
  for (int i = 0; i < sk_X509_REVOKED_num(entries); ++i) {
    PAVISE_RETURN_IF_ERROR(CheckNothingCritical(
        X509_REVOKED_get0_extensions(sk_X509_REVOKED_value(entries, i)), item));
  }
  native->item = std::string(item);
  return RevocationList(std::shared_ptr<const Native>(std::move(native)));
}

absl::StatusOr<RevocationList> RevocationList::FromPem(std::string_view pem,
                                                       std::string_view item) {
  if (pem.size() > 2 * kMaxRevocationListBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("larger than ", 2 * kMaxRevocationListBytes, " bytes"));
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes der, internal::DecodePemBlock(pem, "X509 CRL", item));
  return FromDer(der, item);
}

std::string RevocationList::issuer() const {
  return ShowName(X509_CRL_get_issuer(native_->list.get()));
}

absl::Time RevocationList::this_update() const { return native_->this_update; }

absl::Time RevocationList::next_update() const { return native_->next_update; }

absl::Status CheckRevocation(const std::vector<Certificate>& chain,
                             const std::vector<RevocationList>& lists, absl::Time at) {
  ErrorQueueScope errors;
  for (size_t i = 0; i + 1 < chain.size(); ++i) {
    X509* certificate = chain[i].native().certificate.get();
    X509* issuer = chain[i + 1].native().certificate.get();
    bool is_covered = false;
    for (const RevocationList& list : lists) {
      if (X509_NAME_cmp(X509_CRL_get_issuer(list.native().list.get()),
                        X509_get_subject_name(issuer)) != 0) {
        continue;
      }
      PAVISE_RETURN_IF_ERROR(CheckAgainstList(certificate, issuer, list, at));
      is_covered = true;
    }
    if (!is_covered) {
      return Refuse(Reason::kEvidenceMissing, ItemOf(certificate),
                    StrCat("there is no revocation list of its issuer ",
                           ShowName(X509_get_subject_name(issuer))),
                    "add the issuer's current revocation list");
    }
  }
  return absl::OkStatus();
}

absl::Status VerifyEmbeddedScts(const Certificate& leaf, const Certificate& issuer,
                                const std::vector<CtLog>& logs) {
  ErrorQueueScope errors;
  X509* certificate = leaf.native().certificate.get();
  const std::string item = ItemOf(certificate);
  const std::optional<Bytes> extension = leaf.Extension(kEmbeddedSctsOid);
  if (!extension.has_value()) {
    return Refuse(Reason::kTransparencyInvalid, item, "it embeds no signed certificate timestamp");
  }
  const unsigned char* cursor = extension->data();
  OwnedSctList scts(extension->empty()
                        ? nullptr
                        : d2i_SCT_LIST(nullptr, &cursor, static_cast<long>(extension->size())));
  if (scts == nullptr || cursor != extension->data() + extension->size()) {
    return Refuse(Reason::kTransparencyInvalid, item, "its certificate timestamps cannot be read");
  }
  const int count = sk_SCT_num(scts.get());
  if (count < 1 || count > kMaxScts) {
    return Refuse(Reason::kTransparencyInvalid, item,
                  StrCat("it embeds ", count, " certificate timestamps"));
  }
  PAVISE_ASSIGN_OR_RETURN(const Precertificate precertificate,
                          PrecertificateOf(certificate, issuer.native().certificate.get(), item));
  absl::Status first_refusal;
  for (int i = 0; i < count; ++i) {
    const absl::Status verified =
        VerifySct(sk_SCT_value(scts.get(), i), precertificate, logs, item);
    if (verified.ok()) return absl::OkStatus();
    if (!ReasonOf(verified).has_value()) return verified;
    if (first_refusal.ok()) first_refusal = verified;
  }
  return first_refusal;
}

}  // namespace pavise::crypto
