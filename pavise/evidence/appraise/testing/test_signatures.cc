#include "pavise/evidence/appraise/testing/test_signatures.h"

#include <algorithm>
#include <cstdlib>

#include "pavise/evidence/appraise/der_reader.h"

namespace pavise::evidence::testing {

Bytes SignRaw(crypto::PrivateKey& key, ByteSpan message, size_t field_bytes) {
  const absl::StatusOr<Bytes> der = key.Sign(message);
  if (!der.ok()) std::abort();
  DerReader whole(*der, "signature");
  DerReader numbers(whole.Next(DerTag::kSequence, "signature").value(), "signature");
  Bytes raw;
  while (!numbers.done()) {
    ByteSpan number = numbers.Next(DerTag::kInteger, "number").value();
    if (number.size() > field_bytes) number = number.subspan(1);  // the sign's zero
    raw.insert(raw.end(), field_bytes - number.size(), 0);
    raw.insert(raw.end(), number.begin(), number.end());
  }
  return raw;
}

Bytes RawPoint(const crypto::PublicKey& key, size_t field_bytes) {
  // The uncompressed point ends the SubjectPublicKeyInfo.
  return {key.der().end() - static_cast<std::ptrdiff_t>(2 * field_bytes), key.der().end()};
}

std::vector<Reason> ReasonsOf(const CheckList& checks) {
  std::vector<Reason> reasons;
  for (const Check& check : checks.checks()) {
    if (check.refusal.has_value()) reasons.push_back(check.refusal->reason);
  }
  return reasons;
}

Bytes DerElement(uint8_t tag, ByteSpan content) {
  Bytes out = {tag};
  if (content.size() >= 0x100) {
    out.push_back(0x82);
    out.push_back(static_cast<uint8_t>(content.size() >> 8));
  } else if (content.size() >= 0x80) {
    out.push_back(0x81);
  }
  out.push_back(static_cast<uint8_t>(content.size()));
  out.insert(out.end(), content.begin(), content.end());
  return out;
}

Bytes DerUint(uint32_t value) {
  Bytes content;
  if (value >= 0x8000) content.push_back(0);
  if (value >= 0x80) content.push_back(static_cast<uint8_t>(value >> 8));
  content.push_back(static_cast<uint8_t>(value));
  return DerElement(0x02, content);
}

void Put(Bytes& bytes, size_t offset, uint64_t value, size_t size_bytes) {
  for (size_t i = 0; i < size_bytes; ++i) {
    bytes[offset + i] = static_cast<uint8_t>(value >> (8 * i));
  }
}

void Fill(Bytes& bytes, size_t offset, size_t size_bytes, uint8_t value) {
  std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), size_bytes, value);
}

}  // namespace pavise::evidence::testing
