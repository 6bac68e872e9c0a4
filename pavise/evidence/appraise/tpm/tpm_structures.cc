#include "pavise/evidence/appraise/tpm/tpm_structures.h"

#include <algorithm>
#include <array>
#include <string>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_format.h"

namespace pavise::evidence {
namespace {

using crypto::DigestAlgorithm;
using crypto::KeyType;
using crypto::SignatureScheme;

// TPM_ALG_ID (6.3).
constexpr uint16_t kAlgRsa = 0x0001;
constexpr uint16_t kAlgAes = 0x0006;
constexpr uint16_t kAlgNull = 0x0010;
constexpr uint16_t kAlgRsaSsa = 0x0014;
constexpr uint16_t kAlgRsaPss = 0x0016;
constexpr uint16_t kAlgEcdsa = 0x0018;
constexpr uint16_t kAlgEcc = 0x0023;
constexpr uint16_t kAlgCfb = 0x0043;
// TPM_ECC_CURVE (6.4).
constexpr uint16_t kCurveP256 = 0x0003;
constexpr uint16_t kCurveP384 = 0x0004;
// TPM_GENERATED_VALUE (6.2): no key that is restricted signs outside data that begins so.
constexpr uint32_t kGenerated = 0xff544347;
constexpr uint16_t kAttestQuote = 0x8018;
// TPMA_OBJECT: bits 0, 3, 12 to 15 and above 19. Bits 8 and 9 (firmwareLimited, svnLimited) and 19
// (x509sign) came with later revisions.
constexpr uint32_t kReservedAttributes = 0xfff0f009;
// An absent exponent is this one (12.2.3.5).
constexpr uint32_t kDefaultRsaExponent = 65537;
constexpr size_t kMaxFieldBytes = 66;  // P-521
constexpr uint32_t kMaxSelectedBanks = 16;
constexpr uint8_t kMaxSelectBytes = 4;

struct AttestType {
  uint16_t value;
  std::string_view name;
};
// TPM_ST (6.9), without the quote.
constexpr std::array<AttestType, 8> kOtherAttestTypes = {{
    {0x8014, "NV contents"},
    {0x8015, "a command audit"},
    {0x8016, "a session audit"},
    {0x8017, "a certification of a key"},
    {0x8019, "the time"},
    {0x801a, "the creation of a key"},
    {0x801c, "a digest of NV contents"},
    {0x801d, "an NV index"},
}};

std::string ShowAlgorithm(uint16_t algorithm) { return absl::StrFormat("0x%04x", algorithm); }

absl::Status Unsupported(const ByteReader& reader, std::string_view what, uint16_t value) {
  return Refuse(Reason::kUnsupported, reader.item(), StrCat(what, " ", ShowAlgorithm(value)),
                "use SHA-1 (names and PCRs only), SHA-256, SHA-384 or SHA-512 with RSA, P-256 or "
                "P-384");
}

absl::Status CheckSize(ByteSpan bytes, std::string_view item) {
  if (bytes.size() <= kMaxTpmStructureBytes) return absl::OkStatus();
  return Refuse(Reason::kLimitExceeded, item,
                StrCat(bytes.size(), " bytes; at most ", kMaxTpmStructureBytes, " are read"));
}

absl::StatusOr<DigestAlgorithm> ReadDigestAlgorithm(ByteReader& reader, std::string_view field) {
  PAVISE_ASSIGN_OR_RETURN(const uint16_t algorithm, reader.BigEndian16(field));
  // The banks of a TPM and its hash algorithms are the same four.
  const std::optional<PcrBank> bank = PcrBankOfAlgorithm(algorithm);
  if (!bank.has_value()) return Unsupported(reader, StrCat(field, " is"), algorithm);
  return PcrBankDigest(*bank);
}

// TPM2B_*: a length of 16 bits and as many bytes.
absl::StatusOr<ByteSpan> ReadSized(ByteReader& reader, std::string_view field) {
  PAVISE_ASSIGN_OR_RETURN(const uint16_t size_bytes, reader.BigEndian16(field));
  return reader.Take(size_bytes, field);
}

absl::StatusOr<std::optional<uint16_t>> ReadSymmetric(ByteReader& reader) {
  PAVISE_ASSIGN_OR_RETURN(const uint16_t algorithm, reader.BigEndian16("symmetric algorithm"));
  if (algorithm == kAlgNull) return std::nullopt;
  if (algorithm != kAlgAes) return Unsupported(reader, "symmetric algorithm", algorithm);
  PAVISE_ASSIGN_OR_RETURN(const uint16_t key_bits, reader.BigEndian16("symmetric key bits"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t mode, reader.BigEndian16("symmetric mode"));
  if (key_bits != 128 && key_bits != 256) {
    return Refuse(Reason::kUnsupported, reader.item(), StrCat("AES with ", key_bits, " bits"));
  }
  if (mode != kAlgCfb) return Unsupported(reader, "symmetric mode", mode);
  return key_bits;
}

absl::StatusOr<SignatureScheme> SchemeOf(const ByteReader& reader, uint16_t algorithm) {
  switch (algorithm) {
    case kAlgRsaSsa:
      return SignatureScheme::kRsaPkcs1;
    case kAlgRsaPss:
      return SignatureScheme::kRsaPss;
    case kAlgEcdsa:
      return SignatureScheme::kEcdsaRaw;
    default:
      return Unsupported(reader, "signing scheme", algorithm);
  }
}

absl::StatusOr<std::optional<TpmSigningScheme>> ReadKeyScheme(ByteReader& reader) {
  PAVISE_ASSIGN_OR_RETURN(const uint16_t algorithm, reader.BigEndian16("scheme"));
  if (algorithm == kAlgNull) return std::nullopt;
  TpmSigningScheme scheme{};
  PAVISE_ASSIGN_OR_RETURN(scheme.scheme, SchemeOf(reader, algorithm));
  PAVISE_ASSIGN_OR_RETURN(scheme.digest, ReadDigestAlgorithm(reader, "scheme's hash"));
  return scheme;
}

absl::StatusOr<crypto::PublicKey> ReadRsaKey(ByteReader& reader) {
  PAVISE_ASSIGN_OR_RETURN(const uint16_t key_bits, reader.BigEndian16("RSA key bits"));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t exponent, reader.BigEndian32("RSA exponent"));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan modulus, ReadSized(reader, "RSA modulus"));
  if (modulus.size() * 8 != key_bits || modulus.empty() || (modulus[0] & 0x80) == 0) {
    return reader.Malformed(StrCat("an RSA modulus of ", modulus.size(), " bytes where ", key_bits,
                                   " bits are stated"));
  }
  if (exponent != 0 && exponent != kDefaultRsaExponent) {
    return Refuse(Reason::kUnsupported, reader.item(), StrCat("RSA exponent ", exponent),
                  "use a key with the exponent 65537");
  }
  return crypto::PublicKey::FromRsaModulus(modulus, kDefaultRsaExponent, reader.item());
}

absl::StatusOr<crypto::PublicKey> ReadEccKey(ByteReader& reader) {
  PAVISE_ASSIGN_OR_RETURN(const uint16_t curve, reader.BigEndian16("curve"));
  if (curve != kCurveP256 && curve != kCurveP384) return Unsupported(reader, "curve", curve);
  PAVISE_ASSIGN_OR_RETURN(const uint16_t kdf, reader.BigEndian16("key derivation scheme"));
  if (kdf != kAlgNull) return Unsupported(reader, "key derivation scheme", kdf);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan x, ReadSized(reader, "x coordinate"));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan y, ReadSized(reader, "y coordinate"));
  return crypto::PublicKey::FromEcCoordinates(
      curve == kCurveP256 ? KeyType::kEcP256 : KeyType::kEcP384, x, y, reader.item());
}

absl::StatusOr<TpmPcrSelection> ReadSelection(ByteReader& reader) {
  PAVISE_ASSIGN_OR_RETURN(const uint32_t count, reader.BigEndian32("PCR selection count"));
  if (count > kMaxSelectedBanks) {
    return Refuse(
        Reason::kLimitExceeded, reader.item(),
        StrCat("selects PCRs of ", count, " banks; at most ", kMaxSelectedBanks, " are read"));
  }
  TpmPcrSelection selection;
  for (uint32_t i = 0; i < count; ++i) {
    PAVISE_ASSIGN_OR_RETURN(const uint16_t algorithm, reader.BigEndian16("PCR bank"));
    PAVISE_ASSIGN_OR_RETURN(const uint8_t size_bytes, reader.Uint8("PCR bitmap size"));
    if (size_bytes > kMaxSelectBytes) {
      return reader.Malformed(StrCat("a PCR bitmap of ", size_bytes, " bytes"));
    }
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan bitmap, reader.Take(size_bytes, "PCR bitmap"));
    const std::optional<PcrBank> bank = PcrBankOfAlgorithm(algorithm);
    if (!bank.has_value()) return Unsupported(reader, "PCR bank", algorithm);
    if (std::any_of(selection.begin(), selection.end(),
                    [&](const auto& other) { return other.first == *bank; })) {
      return reader.Malformed(StrCat("selects the ", PcrBankName(*bank), " bank twice"));
    }
    std::set<uint32_t> indices;
    for (uint32_t index = 0; index < 8u * size_bytes; ++index) {
      if ((bitmap[index / 8] >> (index % 8) & 1) == 0) continue;
      if (index >= kPcrCount) {
        return reader.Malformed(StrCat("selects PCR ", index, " of ", kPcrCount));
      }
      indices.insert(index);
    }
    selection.emplace_back(*bank, std::move(indices));
  }
  return selection;
}

Bytes Copy(ByteSpan bytes) { return Bytes(bytes.begin(), bytes.end()); }

}  // namespace

absl::StatusOr<TpmPublic> ParseTpmtPublic(ByteSpan bytes, std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckSize(bytes, item));
  ByteReader reader(bytes, item);
  PAVISE_ASSIGN_OR_RETURN(const uint16_t type, reader.BigEndian16("key type"));
  if (type != kAlgRsa && type != kAlgEcc) return Unsupported(reader, "key type", type);
  PAVISE_ASSIGN_OR_RETURN(const DigestAlgorithm name_algorithm,
                          ReadDigestAlgorithm(reader, "name algorithm"));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t attributes, reader.BigEndian32("attributes"));
  if ((attributes & kReservedAttributes) != 0) {
    return reader.Malformed(absl::StrFormat("reserved attributes are set (0x%08x)", attributes));
  }
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan auth_policy, ReadSized(reader, "policy digest"));
  if (!auth_policy.empty() && auth_policy.size() != crypto::DigestSizeBytes(name_algorithm)) {
    return reader.Malformed(StrCat("a policy digest of ", auth_policy.size(), " bytes"));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::optional<uint16_t> symmetric_key_bits, ReadSymmetric(reader));
  PAVISE_ASSIGN_OR_RETURN(const std::optional<TpmSigningScheme> scheme, ReadKeyScheme(reader));
  if (scheme.has_value() && (scheme->scheme == SignatureScheme::kEcdsaRaw) != (type == kAlgEcc)) {
    return reader.Malformed("a signing scheme that is not this type of key's");
  }
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey key,
                          type == kAlgRsa ? ReadRsaKey(reader) : ReadEccKey(reader));
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());

  const uint16_t name_id = [&] {
    for (const PcrBank bank : {PcrBank::kSha1, PcrBank::kSha256, PcrBank::kSha384}) {
      if (PcrBankDigest(bank) == name_algorithm) return AlgorithmOfPcrBank(bank);
    }
    return AlgorithmOfPcrBank(PcrBank::kSha512);
  }();
  PAVISE_ASSIGN_OR_RETURN(const Bytes digest, crypto::Digest(name_algorithm, bytes));
  Bytes name = {static_cast<uint8_t>(name_id >> 8), static_cast<uint8_t>(name_id)};
  name.insert(name.end(), digest.begin(), digest.end());
  return TpmPublic{name_algorithm, attributes,     Copy(auth_policy), symmetric_key_bits,
                   scheme,         std::move(key), Copy(bytes),       std::move(name)};
}

absl::StatusOr<TpmPublic> ParseTpm2bPublic(ByteSpan bytes, std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckSize(bytes, item));
  ByteReader reader(bytes, item);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan area, ReadSized(reader, "public area"));
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  return ParseTpmtPublic(area, item);
}

absl::StatusOr<TpmSignature> ParseTpmtSignature(ByteSpan bytes, std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckSize(bytes, item));
  ByteReader reader(bytes, item);
  PAVISE_ASSIGN_OR_RETURN(const uint16_t algorithm, reader.BigEndian16("signature algorithm"));
  TpmSignature signature{};
  PAVISE_ASSIGN_OR_RETURN(signature.scheme.scheme, SchemeOf(reader, algorithm));
  PAVISE_ASSIGN_OR_RETURN(signature.scheme.digest, ReadDigestAlgorithm(reader, "hash algorithm"));
  if (signature.scheme.scheme == SignatureScheme::kEcdsaRaw) {
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan r, ReadSized(reader, "r"));
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan s, ReadSized(reader, "s"));
    if (r.empty() || s.empty() || r.size() > kMaxFieldBytes || s.size() > kMaxFieldBytes) {
      return reader.Malformed(StrCat("r and s of ", r.size(), " and ", s.size(), " bytes"));
    }
    signature.ecdsa_r = Copy(r);
    signature.ecdsa_s = Copy(s);
  } else {
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan rsa, ReadSized(reader, "RSA signature"));
    signature.rsa = Copy(rsa);
  }
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  return signature;
}

absl::Status VerifyTpmSignature(const crypto::PublicKey& key, const TpmSignature& signature,
                                ByteSpan message, std::string_view item) {
  if (signature.scheme.scheme != SignatureScheme::kEcdsaRaw) {
    return key.VerifyAs(signature.scheme.scheme, signature.scheme.digest, message, signature.rsa,
                        item);
  }
  const size_t field_bytes = key.type() == KeyType::kEcP384 ? 48 : 32;
  if (signature.ecdsa_r.size() > field_bytes || signature.ecdsa_s.size() > field_bytes) {
    return Refuse(Reason::kSignatureInvalid, item, "r or s is longer than the curve's field");
  }
  Bytes raw(2 * field_bytes, 0);
  std::copy_backward(signature.ecdsa_r.begin(), signature.ecdsa_r.end(),
                     raw.begin() + static_cast<std::ptrdiff_t>(field_bytes));
  std::copy_backward(signature.ecdsa_s.begin(), signature.ecdsa_s.end(), raw.end());
  return key.VerifyAs(SignatureScheme::kEcdsaRaw, signature.scheme.digest, message, raw, item);
}

absl::StatusOr<TpmQuote> ParseTpmsAttestQuote(ByteSpan bytes, std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckSize(bytes, item));
  ByteReader reader(bytes, item);
  PAVISE_ASSIGN_OR_RETURN(const uint32_t magic, reader.BigEndian32("magic"));
  if (magic != kGenerated) {
    return reader.Malformed("it does not begin with TPM_GENERATED_VALUE: no TPM made it");
  }
  PAVISE_ASSIGN_OR_RETURN(const uint16_t type, reader.BigEndian16("attestation type"));
  if (type != kAttestQuote) {
    for (const AttestType& other : kOtherAttestTypes) {
      if (other.value == type) {
        return Refuse(Reason::kUnsupported, item, StrCat("it attests ", other.name, ", not PCRs"),
                      "send the result of TPM2_Quote");
      }
    }
    return reader.Malformed(StrCat("attestation type ", ShowAlgorithm(type)));
  }
  TpmQuote quote;
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan signer, ReadSized(reader, "qualified signer"));
  quote.qualified_signer = Copy(signer);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan extra, ReadSized(reader, "qualifying data"));
  quote.extra_data = Copy(extra);
  PAVISE_ASSIGN_OR_RETURN(quote.clock.clock_ms, reader.BigEndian64("clock"));
  PAVISE_ASSIGN_OR_RETURN(quote.clock.reset_count, reader.BigEndian32("reset count"));
  PAVISE_ASSIGN_OR_RETURN(quote.clock.restart_count, reader.BigEndian32("restart count"));
  PAVISE_ASSIGN_OR_RETURN(const uint8_t safe, reader.Uint8("safe"));
  if (safe > 1) return reader.Malformed(StrCat("\"safe\" is ", safe, ", neither 0 nor 1"));
  quote.clock.safe = safe == 1;
  PAVISE_ASSIGN_OR_RETURN(quote.firmware_version, reader.BigEndian64("firmware version"));
  PAVISE_ASSIGN_OR_RETURN(quote.selection, ReadSelection(reader));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan digest, ReadSized(reader, "PCR digest"));
  quote.pcr_digest = Copy(digest);
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  return quote;
}

absl::StatusOr<Bytes> DigestOfPcrs(const TpmPcrSelection& selection, const PcrValues& pcrs,
                                   DigestAlgorithm digest, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(crypto::Digester digester, crypto::Digester::Create(digest));
  for (const auto& [bank, indices] : selection) {
    for (const uint32_t index : indices) {
      const Bytes* value = pcrs.Get(bank, index);
      if (value == nullptr) {
        return Refuse(Reason::kEvidenceMissing, item,
                      StrCat(PcrName(bank, index), " is quoted, and its value is not reported"),
                      "send the value of every PCR that the quote selects");
      }
      PAVISE_RETURN_IF_ERROR(digester.Update(*value));
    }
  }
  return digester.Finish();
}

}  // namespace pavise::evidence
