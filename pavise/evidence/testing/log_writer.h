#ifndef PAVISE_EVIDENCE_TESTING_LOG_WRITER_H_
#define PAVISE_EVIDENCE_TESTING_LOG_WRITER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

namespace pavise::evidence::testing {

// Writes TCG event logs and keeps the registers that they lead to. Ends the process where a digest
// cannot be computed.
class EventLogWriter {
 public:
  // Crypto-agile with those banks; none: the SHA-1 form, without a header.
  explicit EventLogWriter(std::vector<PcrBank> banks);

  // Digests of `measured`; `data` is what is logged.
  EventLogWriter& Add(uint32_t register_index, uint32_t type, ByteSpan data, ByteSpan measured);
  EventLogWriter& Add(uint32_t register_index, uint32_t type, ByteSpan data) {
    return Add(register_index, type, data, data);
  }
  EventLogWriter& StartupLocality(uint8_t locality);

  const Bytes& bytes() const { return bytes_; }
  const PcrValues& values() const { return values_; }

 private:
  std::vector<PcrBank> banks_;
  bool crypto_agile_;
  Bytes bytes_;
  PcrValues values_;
};

// UEFI_VARIABLE_DATA of an EFI_GLOBAL_VARIABLE.
Bytes VariableEvent(std::string_view name, ByteSpan content);
// UTF-16LE of ASCII, with its NUL.
Bytes Utf16(std::string_view text);

// Writes binary and ascii IMA logs and keeps PCR 10 under both rules of the SHA-256 bank.
class ImaLogWriter {
 public:
  explicit ImaLogWriter(bool big_endian = false) : big_endian_(big_endian) {}

  ImaLogWriter& Ng(std::string_view path, ByteSpan digest, std::string_view algorithm = "sha256");
  ImaLogWriter& Sig(std::string_view path, ByteSpan digest, ByteSpan signature);
  // An ima-ng entry with a zero hash, which extends 0xff.
  ImaLogWriter& Violation(std::string_view path);
  // Any template; `ascii`: the fields as the kernel prints them.
  ImaLogWriter& Entry(std::string_view name, const std::vector<Bytes>& fields,
                      std::string_view ascii, bool violation = false);
  // The legacy template.
  ImaLogWriter& Legacy(std::string_view path, ByteSpan sha1);

  const Bytes& bytes() const { return bytes_; }
  const std::string& ascii() const { return ascii_; }
  size_t entries() const { return ends_.size(); }
  // Where entry i ends in bytes().
  const std::vector<size_t>& ends() const { return ends_; }
  // sha1, and sha256 with a hash of its own for each bank (Linux 5.8 on) or padded SHA-1.
  const PcrValues& per_bank() const { return per_bank_; }
  const PcrValues& padded() const { return padded_; }

 private:
  void Append32(uint32_t value, Bytes& out) const;
  void Finish(std::string_view name, ByteSpan data, ByteSpan hashed, std::string_view ascii,
              bool violation, bool with_length);

  bool big_endian_;
  Bytes bytes_;
  std::string ascii_;
  std::vector<size_t> ends_;
  PcrValues per_bank_;
  PcrValues padded_;
};

}  // namespace pavise::evidence::testing

#endif  // PAVISE_EVIDENCE_TESTING_LOG_WRITER_H_
