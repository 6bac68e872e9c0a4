#include "pavise/evidence/appraise/ima/ima_policy.h"

#include <algorithm>
#include <utility>

#include "pavise/base/byte_reader.h"
#include "pavise/base/glob.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"

#include "absl/strings/str_format.h"

namespace pavise::evidence {
namespace {

constexpr std::string_view kUnknownRemedy =
    "if it belongs there, add it to the reference values and review the difference";

// Types of security.ima (Linux, security/integrity/integrity.h).
constexpr uint8_t kImaSignature = 0x03;
constexpr uint8_t kVeritySignature = 0x06;

// struct signature_v2_hdr (Linux, security/integrity/integrity.h), big-endian.
struct SignatureHeader {
  uint8_t type;
  uint8_t version;
  crypto::DigestAlgorithm algorithm;
  uint8_t algorithm_number;
  uint32_t key_id;
  ByteSpan signature;
};

absl::StatusOr<SignatureHeader> ParseSignature(ByteSpan bytes, const std::string& item) {
  ByteReader reader(bytes, item);
  SignatureHeader header;
  PAVISE_ASSIGN_OR_RETURN(header.type, reader.Uint8("signature type"));
  PAVISE_ASSIGN_OR_RETURN(header.version, reader.Uint8("signature version"));
  if (!(header.type == kImaSignature && header.version == 2) &&
      !(header.type == kVeritySignature && header.version == 3)) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("a file signature of type ", uint32_t{header.type}, ", version ",
                         uint32_t{header.version}),
                  "sign with evmctl ima_sign (version 2), or version 3 for fs-verity digests");
  }
  // enum hash_algo (Linux, include/uapi/linux/hash_info.h).
  PAVISE_ASSIGN_OR_RETURN(header.algorithm_number, reader.Uint8("hash algorithm"));
  switch (header.algorithm_number) {
    case 4:
      header.algorithm = crypto::DigestAlgorithm::kSha256;
      break;
    case 5:
      header.algorithm = crypto::DigestAlgorithm::kSha384;
      break;
    case 6:
      header.algorithm = crypto::DigestAlgorithm::kSha512;
      break;
    default:
      return Refuse(
          Reason::kUnsupported, item,
          StrCat("a file signature with hash algorithm number ", uint32_t{header.algorithm_number}),
          "sign with SHA-256 or longer");
  }
  PAVISE_ASSIGN_OR_RETURN(header.key_id, reader.BigEndian32("key id"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t size_bytes, reader.BigEndian16("signature length"));
  PAVISE_ASSIGN_OR_RETURN(header.signature, reader.Take(size_bytes, "signature"));
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  return header;
}

// The bits of a SubjectPublicKeyInfo in DER, which OpenSSL wrote: SEQUENCE { SEQUENCE, BIT STRING
// }.
absl::StatusOr<ByteSpan> PublicKeyBits(ByteSpan spki) {
  ByteReader reader(spki, "key");
  const auto element = [&](uint8_t tag) -> absl::StatusOr<uint64_t> {
    PAVISE_ASSIGN_OR_RETURN(const uint8_t found, reader.Uint8("tag"));
    if (found != tag) return reader.Malformed("another element than a public key has");
    PAVISE_ASSIGN_OR_RETURN(const uint8_t first, reader.Uint8("length"));
    if (first < 0x80) return uint64_t{first};
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, reader.Take(first & 0x7f, "length"));
    uint64_t size_bytes = 0;
    for (const uint8_t byte : bytes.first(std::min<size_t>(bytes.size(), 4))) {
      size_bytes = size_bytes << 8 | byte;
    }
    return size_bytes;
  };
  PAVISE_RETURN_IF_ERROR(element(0x30).status());
  PAVISE_ASSIGN_OR_RETURN(const uint64_t algorithm_bytes, element(0x30));
  PAVISE_RETURN_IF_ERROR(reader.Take(algorithm_bytes, "algorithm").status());
  PAVISE_ASSIGN_OR_RETURN(const uint64_t bits_bytes, element(0x03));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan bits, reader.Take(bits_bytes, "bits"));
  if (bits.empty()) return reader.Malformed("no bits");
  return bits.subspan(1);
}

absl::StatusOr<uint32_t> KeyIdOf(const crypto::PublicKey& key) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan bits, PublicKeyBits(key.der()));
  PAVISE_ASSIGN_OR_RETURN(const Bytes sha1, crypto::Digest(crypto::DigestAlgorithm::kSha1, bits));
  ByteReader reader(ByteSpan(sha1).subspan(16), "key");
  return reader.BigEndian32("key id");
}

}  // namespace

absl::StatusOr<ImaPolicy> ImaPolicy::Create(const ImaRules& rules) {
  ImaPolicy policy;
  for (const auto& [path, digests] : rules.files) {
    if (path.empty()) return Refuse(Reason::kMalformed, "IMA rules", "an empty path");
    std::vector<Listed>& listed = policy.files_[path];
    for (const std::string& text : digests) {
      const size_t colon = text.rfind(':');
      if (colon == std::string::npos || colon == 0 || colon + 1 == text.size()) {
        return Refuse(Reason::kMalformed, path, StrCat("'", text, "' is no digest"));
      }
      PAVISE_ASSIGN_OR_RETURN(Bytes digest, FromHex(text.substr(colon + 1), path));
      listed.push_back({text.substr(0, colon + 1), std::move(digest), policy.names_.size()});
      policy.names_.push_back(StrCat(path, " ", text));
    }
  }
  const auto add_patterns = [&](const std::vector<std::string>& patterns, std::string_view what,
                                std::vector<Pattern>& out) -> absl::Status {
    for (const std::string& pattern : patterns) {
      if (pattern.empty()) return Refuse(Reason::kMalformed, "IMA rules", "an empty pattern");
      out.push_back({pattern, policy.names_.size()});
      policy.names_.push_back(StrCat(what, " ", pattern));
    }
    return absl::OkStatus();
  };
  PAVISE_RETURN_IF_ERROR(add_patterns(rules.excludes, "exclude", policy.excludes_));
  PAVISE_RETURN_IF_ERROR(add_patterns(rules.violations, "violation", policy.violations_));
  for (const ImaKey& key : rules.keys) {
    if (key.key.type() != crypto::KeyType::kRsa && !crypto::IsOmsKey(key.key.type())) {
      return Refuse(Reason::kKeyUnsupported, key.key.Fingerprint(), "is neither RSA nor ECDSA");
    }
    PAVISE_ASSIGN_OR_RETURN(uint32_t id, KeyIdOf(key.key));
    id = key.key_id.value_or(id);
    policy.keys_.push_back({key, id, policy.names_.size()});
    policy.names_.push_back(
        StrCat("key ", absl::StrFormat("%08x", id), " ", key.key.Fingerprint()));
  }
  Bytes all;
  for (const std::string& name : policy.names_) {
    AppendLittleEndian64(name.size(), all);
    all.insert(all.end(), name.begin(), name.end());
  }
  PAVISE_ASSIGN_OR_RETURN(policy.fingerprint_, crypto::Sha256(all));
  return policy;
}

absl::StatusOr<ImaPolicy::Answer> ImaPolicy::Appraise(const ImaEntry& entry,
                                                      std::string_view log) const {
  const auto item = [&] { return StrCat(log, ": ", Printable(entry.name)); };
  const bool is_buffer = entry.kind == ImaTemplate::kImaBuf;
  const std::string buffer_name = is_buffer ? StrCat(kBufferPrefix, entry.name) : "";
  const std::string_view path = is_buffer ? buffer_name : entry.name;
  const auto match = [&](const std::vector<Pattern>& patterns) {
    const std::string name(path);
    return std::find_if(patterns.begin(), patterns.end(),
                        [&](const Pattern& pattern) { return GlobMatches(pattern.text, name); });
  };
  if (entry.is_violation()) {
    const auto allowed = match(violations_);
    if (allowed != violations_.end()) return Answer{Verdict::kViolationAllowed, allowed->rule};
    return Refuse(Reason::kMeasurementMismatch, item(),
                  "a violation: the file was open for writing while it was measured, or was "
                  "written while it was in use; what was used is not known",
                  "keep writers off measured files and boot again, or list the path under "
                  "violations if its content does not matter");
  }
  const auto listed = files_.find(path);
  if (listed != files_.end()) {
    const std::string_view type = entry.is_verity ? "verity:" : "";
    for (const Listed& one : listed->second) {
      if (one.prefix.size() == type.size() + entry.algorithm.size() + 1 &&
          one.prefix.starts_with(type) &&
          std::string_view(one.prefix).substr(type.size()).starts_with(entry.algorithm) &&
          std::equal(one.digest.begin(), one.digest.end(), entry.digest.begin(),
                     entry.digest.end())) {
        return Answer{Verdict::kListed, one.rule};
      }
    }
    return Refuse(Reason::kMeasurementMismatch, item(),
                  StrCat("is ", entry.DigestText(), ", which is none of the ",
                         listed->second.size(), " listed for this path"),
                  "if the file was updated, make its reference value again and review the "
                  "difference");
  }
  if (!entry.signature.empty() && !keys_.empty()) {
    auto answer = AppraiseSignature(entry, item());
    if (answer.ok() || ReasonOf(answer.status()) != Reason::kMeasurementUnknown) return answer;
    const auto excluded = match(excludes_);
    if (excluded == excludes_.end()) return answer;
    return Answer{Verdict::kExcluded, excluded->rule};
  }
  const auto excluded = match(excludes_);
  if (excluded != excludes_.end()) return Answer{Verdict::kExcluded, excluded->rule};
  return Refuse(Reason::kMeasurementUnknown, item(),
                StrCat("is ", entry.DigestText(), ", and no reference value covers this path"),
                kUnknownRemedy);
}

absl::StatusOr<ImaPolicy::Answer> ImaPolicy::AppraiseSignature(const ImaEntry& entry,
                                                               const std::string& item) const {
  PAVISE_ASSIGN_OR_RETURN(const SignatureHeader header, ParseSignature(entry.signature, item));
  if (entry.algorithm != crypto::DigestName(header.algorithm) ||
      entry.is_verity != (header.type == kVeritySignature)) {
    return Refuse(Reason::kMeasurementUnknown, item,
                  StrCat("is measured by ", entry.is_verity ? "verity:" : "", entry.algorithm,
                         " and signed over another digest"),
                  "boot with ima_hash= as the signatures have it");
  }
  // Version 3 signs struct ima_file_id: type, algorithm, digest (Linux, ima_appraise.c).
  Bytes signed_digest(entry.digest.begin(), entry.digest.end());
  if (header.version == 3) {
    Bytes file_id = {header.type, header.algorithm_number};
    file_id.insert(file_id.end(), entry.digest.begin(), entry.digest.end());
    PAVISE_ASSIGN_OR_RETURN(signed_digest, crypto::Digest(header.algorithm, file_id));
  }
  absl::Status last = Refuse(
      Reason::kMeasurementUnknown, item,
      StrCat("is signed by key ", absl::StrFormat("%08x", header.key_id), ", which is not listed"),
      "if that key is yours, add it to the reference values");
  for (const Key& key : keys_) {
    if (key.id != header.key_id) continue;
    last = key.key.key.VerifyDigest(key.key.key.type() == crypto::KeyType::kRsa
                                        ? crypto::SignatureScheme::kRsaPkcs1
                                        : crypto::SignatureScheme::kEcdsaDer,
                                    header.algorithm, signed_digest, header.signature, item);
    if (last.ok()) return Answer{Verdict::kSigned, key.rule};
  }
  return last;
}

}  // namespace pavise::evidence
