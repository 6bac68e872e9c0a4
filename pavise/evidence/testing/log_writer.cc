#include "pavise/evidence/testing/log_writer.h"

#include <cstdlib>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/evidence/appraise/eventlog/event_log.h"

namespace pavise::evidence::testing {
namespace {

Bytes Hash(crypto::DigestAlgorithm algorithm, ByteSpan bytes) {
  auto digest = crypto::Digest(algorithm, bytes);
  if (!digest.ok()) abort();
  return *std::move(digest);
}

void Append(ByteSpan bytes, Bytes& out) { out.insert(out.end(), bytes.begin(), bytes.end()); }

void Append16(uint16_t value, Bytes& out) {
  out.push_back(static_cast<uint8_t>(value));
  out.push_back(static_cast<uint8_t>(value >> 8));
}

void Extend(PcrBank bank, uint32_t index, ByteSpan digest, PcrValues& values) {
  if (!values.Extend(bank, index, digest).ok()) abort();
}

}  // namespace

EventLogWriter::EventLogWriter(std::vector<PcrBank> banks)
    : banks_(std::move(banks)), crypto_agile_(!banks_.empty()) {
  if (!crypto_agile_) {
    banks_ = {PcrBank::kSha1};
    return;
  }
  // Signature, platform class, version 2.0, errata 0, 64-bit.
  constexpr std::string_view kHeader("Spec ID Event03\0\0\0\0\0\0\2\0\2", 24);
  Bytes header(kHeader.begin(), kHeader.end());
  AppendLittleEndian32(static_cast<uint32_t>(banks_.size()), header);
  for (const PcrBank bank : banks_) {
    Append16(AlgorithmOfPcrBank(bank), header);
    Append16(static_cast<uint16_t>(PcrSizeBytes(bank)), header);
  }
  header.push_back(0);
  AppendLittleEndian32(0, bytes_);
  AppendLittleEndian32(kEvNoAction, bytes_);
  Append(Bytes(20), bytes_);
  AppendLittleEndian32(static_cast<uint32_t>(header.size()), bytes_);
  Append(header, bytes_);
}

EventLogWriter& EventLogWriter::Add(uint32_t register_index, uint32_t type, ByteSpan data,
                                    ByteSpan measured) {
  AppendLittleEndian32(register_index, bytes_);
  AppendLittleEndian32(type, bytes_);
  if (crypto_agile_) AppendLittleEndian32(static_cast<uint32_t>(banks_.size()), bytes_);
  for (const PcrBank bank : banks_) {
    if (crypto_agile_) Append16(AlgorithmOfPcrBank(bank), bytes_);
    const Bytes digest =
        type == kEvNoAction ? Bytes(PcrSizeBytes(bank)) : Hash(PcrBankDigest(bank), measured);
    Append(digest, bytes_);
    if (type != kEvNoAction) Extend(bank, register_index, digest, values_);
  }
  AppendLittleEndian32(static_cast<uint32_t>(data.size()), bytes_);
  Append(data, bytes_);
  return *this;
}

EventLogWriter& EventLogWriter::StartupLocality(uint8_t locality) {
  Bytes data;
  Append(AsBytes(std::string_view("StartupLocality", 16)), data);
  data.push_back(locality);
  Add(0, kEvNoAction, data);
  for (const PcrBank bank : banks_) {
    Bytes initial(PcrSizeBytes(bank));
    initial.back() = locality;
    if (!values_.Set(bank, 0, initial).ok()) abort();
  }
  return *this;
}

Bytes VariableEvent(std::string_view name, ByteSpan content) {
  Bytes data = {0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11,
                0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c};
  AppendLittleEndian64(name.size(), data);
  AppendLittleEndian64(content.size(), data);
  const Bytes wide = Utf16(name);
  Append(ByteSpan(wide).first(2 * name.size()), data);
  Append(content, data);
  return data;
}

Bytes Utf16(std::string_view text) {
  Bytes result;
  for (const char letter : text) {
    result.push_back(static_cast<uint8_t>(letter));
    result.push_back(0);
  }
  result.resize(result.size() + 2);
  return result;
}

void ImaLogWriter::Append32(uint32_t value, Bytes& out) const {
  for (int i = 0; i < 4; ++i) {
    out.push_back(static_cast<uint8_t>(value >> 8 * (big_endian_ ? 3 - i : i)));
  }
}

void ImaLogWriter::Finish(std::string_view name, ByteSpan data, ByteSpan hashed,
                          std::string_view ascii, bool violation, bool with_length) {
  const Bytes sha1 = violation ? Bytes(20) : Hash(crypto::DigestAlgorithm::kSha1, hashed);
  Append32(10, bytes_);
  Append(sha1, bytes_);
  Append32(static_cast<uint32_t>(name.size()), bytes_);
  Append(AsBytes(name), bytes_);
  if (with_length) Append32(static_cast<uint32_t>(data.size()), bytes_);
  Append(data, bytes_);
  StrAppend(&ascii_, "10 ", ToHex(sha1), " ", name, " ", ascii, "\n");
  ends_.push_back(bytes_.size());

  const Bytes of_sha1 = violation ? Bytes(20, 0xff) : sha1;
  const Bytes of_sha256 =
      violation ? Bytes(32, 0xff) : Hash(crypto::DigestAlgorithm::kSha256, hashed);
  Bytes zero_padded = of_sha1;
  zero_padded.resize(32, violation ? 0xff : 0x00);
  for (PcrValues* values : {&per_bank_, &padded_}) Extend(PcrBank::kSha1, 10, of_sha1, *values);
  Extend(PcrBank::kSha256, 10, of_sha256, per_bank_);
  Extend(PcrBank::kSha256, 10, zero_padded, padded_);
}

ImaLogWriter& ImaLogWriter::Entry(std::string_view name, const std::vector<Bytes>& fields,
                                  std::string_view ascii, bool violation) {
  Bytes data;
  for (const Bytes& field : fields) {
    Append32(static_cast<uint32_t>(field.size()), data);
    Append(field, data);
  }
  Finish(name, data, data, ascii, violation, true);
  return *this;
}

namespace {

Bytes DigestField(std::string_view algorithm, ByteSpan digest) {
  Bytes field;
  Append(AsBytes(algorithm), field);
  field.push_back(':');
  field.push_back(0);
  Append(digest, field);
  return field;
}

Bytes PathField(std::string_view path) {
  Bytes field;
  Append(AsBytes(path), field);
  field.push_back(0);
  return field;
}

}  // namespace

ImaLogWriter& ImaLogWriter::Ng(std::string_view path, ByteSpan digest, std::string_view algorithm) {
  return Entry("ima-ng", {DigestField(algorithm, digest), PathField(path)},
               StrCat(algorithm, ":", ToHex(digest), " ", path));
}

ImaLogWriter& ImaLogWriter::Sig(std::string_view path, ByteSpan digest, ByteSpan signature) {
  return Entry(
      "ima-sig",
      {DigestField("sha256", digest), PathField(path), Bytes(signature.begin(), signature.end())},
      StrCat("sha256:", ToHex(digest), " ", path, " ", ToHex(signature)));
}

ImaLogWriter& ImaLogWriter::Violation(std::string_view path) {
  const Bytes zero(32);
  return Entry("ima-ng", {DigestField("sha256", zero), PathField(path)},
               StrCat("sha256:", ToHex(zero), " ", path), true);
}

ImaLogWriter& ImaLogWriter::Legacy(std::string_view path, ByteSpan sha1) {
  Bytes data(sha1.begin(), sha1.end());
  Bytes hashed = data;
  Append(AsBytes(path), hashed);
  hashed.resize(20 + 256);
  Append32(static_cast<uint32_t>(path.size()), data);
  Append(AsBytes(path), data);
  Finish("ima", data, hashed, StrCat(ToHex(sha1), " ", path), false, false);
  return *this;
}

}  // namespace pavise::evidence::testing
