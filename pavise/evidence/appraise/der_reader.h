#ifndef PAVISE_EVIDENCE_APPRAISE_DER_READER_H_
#define PAVISE_EVIDENCE_APPRAISE_DER_READER_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::evidence {

enum class DerTag : uint8_t {
  kInteger = 0x02,
  kOctetString = 0x04,
  kObjectIdentifier = 0x06,
  kEnumerated = 0x0a,
  kIa5String = 0x16,
  kSequence = 0x30,
};

// Reads the DER elements (X.690) of a vendor's certificate extension in order: single-byte tags,
// definite lengths in their shortest form, nothing beyond the end (kMalformed names the item and
// the field). A value type; the bytes must outlive it. Not thread-safe.
class DerReader {
 public:
  DerReader(ByteSpan bytes, std::string_view item) : bytes_(bytes), item_(item) {}

  bool done() const { return bytes_.empty(); }
  // The content of the next element.
  absl::StatusOr<ByteSpan> Next(DerTag tag, std::string_view field);
  // An INTEGER from 0 to `max`.
  absl::StatusOr<uint32_t> NextUint(uint32_t max, std::string_view field);
  // The next element whatever its tag, whole.
  absl::StatusOr<ByteSpan> NextElement(std::string_view field);
  absl::Status RequireEnd() const;

 private:
  absl::Status Malformed(std::string_view detail) const;

  ByteSpan bytes_;
  std::string item_;
};

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_DER_READER_H_
