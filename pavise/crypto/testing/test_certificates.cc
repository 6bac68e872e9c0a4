#include "pavise/crypto/testing/test_certificates.h"

#include <openssl/objects.h>
#include <openssl/rand.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/internal/openssl.h"

namespace pavise::crypto::testing {
namespace {

using internal::Owned;
using internal::OwnedBuffer;
using internal::OwnedKey;
using internal::OwnedX509;

void Check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "test_certificates: %s: %s\n", what, internal::TakeErrors("-").c_str());
  std::abort();
}

template <typename T>
T Value(absl::StatusOr<T> value, const char* what) {
  if (!value.ok()) std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
  Check(value.ok(), what);
  return *std::move(value);
}

OwnedKey NativeKey(const PrivateKey& key) {
  const SecretBytes pem = Value(key.ToPem(SecretBytes()), "ToPem");
  internal::OwnedBio bio = internal::ReadBio(pem.Reveal());
  OwnedKey native(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  Check(native != nullptr, "PEM_read_bio_PrivateKey");
  return native;
}

PrivateKey NewKey(KeyType type) {
  if (type != KeyType::kRsa) return Value(PrivateKey::Generate(type), "Generate");
  const OwnedKey key(EVP_RSA_gen(4096));
  const internal::OwnedBio bio(BIO_new(BIO_s_mem()));
  Check(key != nullptr && PEM_write_bio_PrivateKey(bio.get(), key.get(), nullptr, nullptr, 0,
                                                   nullptr, nullptr) == 1,
        "EVP_RSA_gen");
  char* pem = nullptr;
  const long size_bytes = BIO_get_mem_data(bio.get(), &pem);
  return Value(PrivateKey::FromPemOfAnyType(
                   SecretBytes(std::string_view(pem, static_cast<size_t>(size_bytes))),
                   SecretBytes(), "RSA key"),
               "FromPemOfAnyType");
}

void SetTime(ASN1_TIME* target, absl::Time time) {
  Check(ASN1_TIME_set(target, absl::ToTimeT(time)) != nullptr, "ASN1_TIME_set");
}

void AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  if (value.empty()) return;
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509V3_set_ctx_nodb(&context);
  Owned<X509_EXTENSION, X509_EXTENSION_free> extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  Check(extension != nullptr, value.c_str());
  Check(X509_add_ext(certificate, extension.get(), -1) == 1, "X509_add_ext");
}

void AddRawExtension(X509* certificate, const std::string& oid, const Bytes& der) {
  Owned<ASN1_OBJECT, ASN1_OBJECT_free> object(OBJ_txt2obj(oid.c_str(), 1));
  Owned<ASN1_OCTET_STRING, ASN1_OCTET_STRING_free> value(ASN1_OCTET_STRING_new());
  Check(object != nullptr && value != nullptr &&
            ASN1_OCTET_STRING_set(value.get(), der.data(), static_cast<int>(der.size())) == 1,
        "extension value");
  Owned<X509_EXTENSION, X509_EXTENSION_free> extension(
      X509_EXTENSION_create_by_OBJ(nullptr, object.get(), 0, value.get()));
  Check(extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1,
        "X509_add_ext");
}

// `issuer` null: self-signed.
OwnedX509 Build(const PublicKey& key, X509* issuer, const CertificateOptions& options) {
  OwnedX509 certificate(X509_new());
  Check(certificate != nullptr && X509_set_version(certificate.get(), options.version - 1) == 1,
        "X509_new");
  unsigned char serial[16];
  Check(RAND_bytes(serial, sizeof(serial)) == 1, "RAND_bytes");
  serial[0] = static_cast<unsigned char>((serial[0] & 0x7f) | 0x40);
  internal::OwnedBignum number(BN_bin2bn(serial, sizeof(serial), nullptr));
  BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate.get()));
  X509_NAME* name = X509_get_subject_name(certificate.get());
  Check(X509_NAME_add_entry_by_txt(
            name, "CN", MBSTRING_UTF8,
            reinterpret_cast<const unsigned char*>(options.common_name.c_str()), -1, -1, 0) == 1,
        "common name");
  X509_set_issuer_name(certificate.get(), issuer == nullptr ? name : X509_get_subject_name(issuer));
  SetTime(X509_getm_notBefore(certificate.get()), options.not_before);
  SetTime(X509_getm_notAfter(certificate.get()), options.not_after);
  Check(X509_set_pubkey(certificate.get(), key.native().key.get()) == 1, "X509_set_pubkey");
  if (options.version < 3) return certificate;
  X509* issuing = issuer == nullptr ? certificate.get() : issuer;
  if (options.basic_constraints) {
    AddExtension(certificate.get(), issuing, NID_basic_constraints,
                 !options.is_authority ? "critical,CA:FALSE"
                 : options.path_length.has_value()
                     ? StrCat("critical,CA:TRUE,pathlen:", *options.path_length)
                     : "critical,CA:TRUE");
  }
  AddExtension(certificate.get(), issuing, NID_key_usage, options.key_usage);
  AddExtension(certificate.get(), issuing, NID_ext_key_usage, options.extended_key_usage);
  AddExtension(certificate.get(), issuing, NID_subject_alt_name, options.subject_alternative_name);
  AddExtension(certificate.get(), issuing, NID_subject_key_identifier, "hash");
  if (X509_get0_subject_key_id(issuing) != nullptr) {
    AddExtension(certificate.get(), issuing, NID_authority_key_identifier, "keyid");
  }
  for (const auto& [oid, der] : options.extensions) {
    AddRawExtension(certificate.get(), oid, der);
  }
  return certificate;
}

Certificate Signed(OwnedX509 certificate, const PrivateKey& issuer_key,
                   const std::string& digest_name) {
  const OwnedKey key = NativeKey(issuer_key);
  internal::OwnedDigest digest(EVP_MD_fetch(nullptr, digest_name.c_str(), nullptr));
  Check(digest != nullptr && X509_sign(certificate.get(), key.get(), digest.get()) > 0,
        "X509_sign");
  unsigned char* encoded = nullptr;
  const int size_bytes = i2d_X509(certificate.get(), &encoded);
  Check(size_bytes > 0, "i2d_X509");
  OwnedBuffer owned(encoded);
  // Certificates that FromDer refuses are made of Signed's DER by the tests themselves.
  return Value(Certificate::FromDer({encoded, static_cast<size_t>(size_bytes)}, "test"), "FromDer");
}

void AppendBigEndian(uint64_t value, int size_bytes, Bytes& out) {
  for (int shift = 8 * (size_bytes - 1); shift >= 0; shift -= 8) {
    out.push_back(static_cast<uint8_t>(value >> shift));
  }
}

void Append(const Bytes& bytes, Bytes& out) { out.insert(out.end(), bytes.begin(), bytes.end()); }

// DER with a definite length of up to 65,535 bytes.
Bytes Der(uint8_t tag, const Bytes& content) {
  Bytes out = {tag};
  if (content.size() < 0x80) {
    out.push_back(static_cast<uint8_t>(content.size()));
  } else if (content.size() < 0x100) {
    out.push_back(0x81);
    out.push_back(static_cast<uint8_t>(content.size()));
  } else {
    Check(content.size() < 0x10000, "DER content too long");
    out.push_back(0x82);
    AppendBigEndian(content.size(), 2, out);
  }
  Append(content, out);
  return out;
}

}  // namespace

CertificateOptions AuthorityOptions(std::string common_name) {
  CertificateOptions options;
  options.common_name = std::move(common_name);
  options.is_authority = true;
  options.key_usage = "critical,keyCertSign,cRLSign";
  options.extended_key_usage = "";
  return options;
}

TestCertificate MakeRoot(const CertificateOptions& options) {
  PrivateKey key = NewKey(options.key_type);
  Certificate certificate = Signed(Build(key.public_key(), nullptr, options), key, options.digest);
  return {std::move(certificate), std::move(key)};
}

TestCertificate Issue(const TestCertificate& issuer, const CertificateOptions& options) {
  PrivateKey key = NewKey(options.key_type);
  Certificate certificate = IssueFor(issuer, key.public_key(), options);
  return {std::move(certificate), std::move(key)};
}

Certificate IssueFor(const TestCertificate& issuer, const PublicKey& key,
                     const CertificateOptions& options) {
  return Signed(Build(key, issuer.certificate.native().certificate.get(), options), issuer.key,
                options.digest);
}

TestCertificate IssueWithScts(const TestCertificate& issuer, const CertificateOptions& options,
                              PrivateKey& log_key, absl::Time timestamp, int count) {
  PrivateKey key = NewKey(options.key_type);
  X509* issuer_certificate = issuer.certificate.native().certificate.get();
  OwnedX509 certificate = Build(key.public_key(), issuer_certificate, options);
  // Sets the signature algorithm, which is part of what the log signs.
  {
    const OwnedKey native = NativeKey(issuer.key);
    Check(X509_sign(certificate.get(), native.get(), EVP_sha256()) > 0, "X509_sign");
  }
  unsigned char* encoded = nullptr;
  const int tbs_bytes = i2d_re_X509_tbs(certificate.get(), &encoded);
  Check(tbs_bytes > 0, "i2d_re_X509_tbs");
  const Bytes tbs(encoded, encoded + tbs_bytes);
  OPENSSL_free(encoded);

  const Digest32 log_id = Value(Sha256(log_key.public_key().der()), "Sha256");
  const Digest32 issuer_key =
      Value(Sha256(Value(issuer.certificate.public_key(), "issuer key").der()), "Sha256");
  const auto timestamp_ms = static_cast<uint64_t>(absl::ToUnixMillis(timestamp));
  Bytes list;
  for (int i = 0; i < count; ++i) {
    Bytes message;
    AppendBigEndian(0, 1, message);  // version 1
    AppendBigEndian(0, 1, message);  // certificate_timestamp
    AppendBigEndian(timestamp_ms + i, 8, message);
    AppendBigEndian(1, 2, message);  // precert_entry
    message.insert(message.end(), issuer_key.begin(), issuer_key.end());
    AppendBigEndian(tbs.size(), 3, message);
    Append(tbs, message);
    AppendBigEndian(0, 2, message);  // no extensions
    const Bytes signature = Value(log_key.Sign(message), "Sign");

    Bytes sct;
    AppendBigEndian(0, 1, sct);
    sct.insert(sct.end(), log_id.begin(), log_id.end());
    AppendBigEndian(timestamp_ms + i, 8, sct);
    AppendBigEndian(0, 2, sct);
    AppendBigEndian(0x0403, 2, sct);  // sha256, ecdsa
    AppendBigEndian(signature.size(), 2, sct);
    Append(signature, sct);
    AppendBigEndian(sct.size(), 2, list);
    Append(sct, list);
  }
  Bytes framed;
  AppendBigEndian(list.size(), 2, framed);
  Append(list, framed);
  AddRawExtension(certificate.get(), "1.3.6.1.4.1.11129.2.4.2", Der(0x04, framed));
  Certificate result = Signed(std::move(certificate), issuer.key, "SHA2-256");
  return {std::move(result), std::move(key)};
}

Bytes MakeRevocationList(const TestCertificate& issuer, const RevocationListOptions& options) {
  internal::OwnedX509Crl list(X509_CRL_new());
  Owned<ASN1_TIME, ASN1_TIME_free> time(ASN1_TIME_new());
  Check(list != nullptr && time != nullptr && X509_CRL_set_version(list.get(), 1) == 1 &&
            X509_CRL_set_issuer_name(
                list.get(), X509_get_subject_name(issuer.certificate.native().certificate.get())) ==
                1,
        "X509_CRL_new");
  SetTime(time.get(), options.this_update);
  Check(X509_CRL_set1_lastUpdate(list.get(), time.get()) == 1, "lastUpdate");
  for (const Certificate& certificate : options.revoked) {
    Owned<X509_REVOKED, X509_REVOKED_free> entry(X509_REVOKED_new());
    Check(
        entry != nullptr &&
            X509_REVOKED_set_serialNumber(
                entry.get(), X509_get_serialNumber(certificate.native().certificate.get())) == 1 &&
            X509_REVOKED_set_revocationDate(entry.get(), time.get()) == 1 &&
            X509_CRL_add0_revoked(list.get(), entry.get()) == 1,
        "X509_REVOKED");
    (void)entry.release();
  }
  if (options.next_update.has_value()) {
    SetTime(time.get(), *options.next_update);
    Check(X509_CRL_set1_nextUpdate(list.get(), time.get()) == 1, "nextUpdate");
  }
  if (options.critical_extension) {
    Owned<X509_EXTENSION, X509_EXTENSION_free> extension(X509V3_EXT_conf_nid(
        nullptr, nullptr, NID_issuing_distribution_point, "critical,onlyuser:TRUE"));
    Check(extension != nullptr && X509_CRL_add_ext(list.get(), extension.get(), -1) == 1,
          "issuingDistributionPoint");
  }
  const OwnedKey key = NativeKey(issuer.key);
  internal::OwnedDigest digest(EVP_MD_fetch(nullptr, options.digest.c_str(), nullptr));
  Check(digest != nullptr && X509_CRL_sort(list.get()) == 1 &&
            X509_CRL_sign(list.get(), key.get(), digest.get()) > 0,
        "X509_CRL_sign");
  unsigned char* encoded = nullptr;
  const int size_bytes = i2d_X509_CRL(list.get(), &encoded);
  Check(size_bytes > 0, "i2d_X509_CRL");
  OwnedBuffer owned(encoded);
  return Bytes(encoded, encoded + size_bytes);
}

Bytes Utf8StringDer(std::string_view text) { return Der(0x0c, Bytes(text.begin(), text.end())); }

std::string ChainPem(const std::vector<Certificate>& certificates) {
  std::string pem;
  for (const Certificate& certificate : certificates) pem += certificate.ToPem();
  return pem;
}

}  // namespace pavise::crypto::testing
