#include "pavise/host/predicted_boot.h"

#include <algorithm>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/host/pe_image.h"

namespace pavise::host {
namespace {

using evidence::PcrBank;
using evidence::PcrValues;

constexpr PcrBank kBanks[] = {PcrBank::kSha1, PcrBank::kSha256, PcrBank::kSha384, PcrBank::kSha512};
const Bytes kSeparator(4, 0);

// Extends one PCR of one bank.
class Register {
 public:
  Register(PcrValues& values, PcrBank bank, uint32_t index)
      : values_(values), bank_(bank), index_(index) {}

  absl::Status Measure(ByteSpan data) {
    PAVISE_ASSIGN_OR_RETURN(const Bytes digest,
                            crypto::Digest(evidence::PcrBankDigest(bank_), data));
    return values_.Extend(bank_, index_, digest);
  }
  absl::Status MeasureImage(ByteSpan image, std::string_view item) {
    PAVISE_ASSIGN_OR_RETURN(const Bytes digest,
                            AuthenticodeDigest(evidence::PcrBankDigest(bank_), image, item));
    return values_.Extend(bank_, index_, digest);
  }

 private:
  PcrValues& values_;
  PcrBank bank_;
  uint32_t index_;
};

// What the stub sees of a section: its content without the padding in the file.
absl::StatusOr<ByteSpan> SectionOf(const PeHeaders& headers, ByteSpan image, std::string_view name,
                                   std::string_view item) {
  const auto found = std::find_if(headers.sections.begin(), headers.sections.end(),
                                  [&](const PeSection& section) { return section.name == name; });
  if (found == headers.sections.end() || found->virtual_size > found->raw_size_bytes) {
    return Refuse(Reason::kMalformed, item, StrCat("has no section ", name),
                  "give an image made by pavise host-image");
  }
  return image.subspan(found->raw_offset_bytes, found->virtual_size);
}

Bytes Utf16WithNul(ByteSpan ascii) {
  Bytes wide;
  for (const uint8_t c : ascii) {
    wide.push_back(c);
    wide.push_back(0);
  }
  wide.insert(wide.end(), 2, 0);
  return wide;
}

}  // namespace

absl::StatusOr<PcrValues> PredictPcrs(ByteSpan image, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const PeHeaders headers, ParsePe(image, item));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan linux_image, SectionOf(headers, image, ".linux", item));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan cmdline, SectionOf(headers, image, ".cmdline", item));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan initrd, SectionOf(headers, image, ".initrd", item));
  PcrValues values;
  for (const PcrBank bank : kBanks) {
    for (const uint32_t untouched : {2u, 3u, 6u}) {
      PAVISE_RETURN_IF_ERROR(Register(values, bank, untouched).Measure(kSeparator));
    }
    Register applications(values, bank, 4);
    PAVISE_RETURN_IF_ERROR(
        applications.Measure(AsBytes("Calling EFI Application from Boot Option")));
    PAVISE_RETURN_IF_ERROR(applications.Measure(kSeparator));
    PAVISE_RETURN_IF_ERROR(applications.MeasureImage(image, item));
    PAVISE_RETURN_IF_ERROR(applications.MeasureImage(linux_image, ".linux"));

    Register actions(values, bank, 5);
    PAVISE_RETURN_IF_ERROR(actions.Measure(kSeparator));
    PAVISE_RETURN_IF_ERROR(actions.Measure(AsBytes("Exit Boot Services Invocation")));
    PAVISE_RETURN_IF_ERROR(actions.Measure(AsBytes("Exit Boot Services Returned with Success")));

    Register kernel(values, bank, 9);
    PAVISE_RETURN_IF_ERROR(kernel.Measure(Utf16WithNul(cmdline)));
    PAVISE_RETURN_IF_ERROR(kernel.Measure(initrd));

    Register sections(values, bank, 11);
    for (const std::string_view name : {".linux", ".osrel", ".cmdline", ".initrd"}) {
      PAVISE_ASSIGN_OR_RETURN(const ByteSpan content, SectionOf(headers, image, name, item));
      PAVISE_RETURN_IF_ERROR(sections.Measure(AsBytes(StrCat(name, std::string(1, '\0')))));
      PAVISE_RETURN_IF_ERROR(sections.Measure(content));
    }
    for (const uint32_t untouched : {12u, 13u}) {
      PAVISE_RETURN_IF_ERROR(
          values.Set(bank, untouched, evidence::InitialPcrValue(bank, untouched)));
    }
  }
  return values;
}

}  // namespace pavise::host
