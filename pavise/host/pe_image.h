#ifndef PAVISE_HOST_PE_IMAGE_H_
#define PAVISE_HOST_PE_IMAGE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/digest.h"

#include "absl/status/statusor.h"

// EFI applications as files (Microsoft PE/COFF Specification, PE32+; x86-64 only).
namespace pavise::host {

struct PeSection {
  std::string name;
  uint32_t virtual_size = 0;
  uint32_t virtual_address = 0;
  uint32_t raw_size_bytes = 0;
  uint32_t raw_offset_bytes = 0;
};

// The headers of one. A value type.
struct PeHeaders {
  size_t coff_offset = 0;      // of the COFF file header
  size_t optional_offset = 0;  // of the optional header
  size_t table_offset = 0;     // of the section table
  uint32_t section_alignment = 0;
  uint32_t file_alignment = 0;
  uint32_t headers_size_bytes = 0;
  // Attribute certificate table (what Secure Boot signs with); size 0: none.
  uint32_t certificates_offset = 0;
  uint32_t certificates_size_bytes = 0;
  std::vector<PeSection> sections;
};

// kMalformed: no PE32+ image for x86-64, or headers and sections that do not lie in the file.
absl::StatusOr<PeHeaders> ParsePe(ByteSpan file, std::string_view item);

// What the firmware extends into PCR 4 for an image that it loads (Windows Authenticode Portable
// Executable Signature Format, "Calculating the PE Image Hash"; TCG PC Client Platform Firmware
// Profile 3.3.4.5): everything but the checksum, the entry of the certificate table, and that
// table. kMalformed also for sections that overlap each other or the headers.
absl::StatusOr<Bytes> AuthenticodeDigest(crypto::DigestAlgorithm algorithm, ByteSpan file,
                                         std::string_view item);

struct NamedSection {
  std::string name;  // at most 8 bytes
  ByteSpan data;
};

// `image` with the sections appended, each at the next 4 KiB: what `objcopy --add-section` does,
// but with nothing in it that depends on the time, and padded to 8 bytes so that signing does not
// change the Authenticode digest. Timestamp and checksum are zero, symbols are left out, a
// certificate table is refused (kUnsupported). kLimitExceeded: no room for the headers, or over
// 4 GiB.
absl::StatusOr<Bytes> AppendSections(ByteSpan image, const std::vector<NamedSection>& sections,
                                     std::string_view item);

}  // namespace pavise::host

#endif  // PAVISE_HOST_PE_IMAGE_H_
