#include "pavise/host/pe_image.h"

#include <algorithm>
#include <limits>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::host {
namespace {

constexpr size_t kCoffHeaderBytes = 20;
constexpr size_t kSectionHeaderBytes = 40;
constexpr size_t kChecksumOffset = 64;  // in the optional header of PE32+
constexpr size_t kSizeOfImageOffset = 56;
constexpr size_t kInitializedDataOffset = 8;
constexpr size_t kCertificateEntryOffset = 112 + 4 * 8;
constexpr size_t kCertificateEntryBytes = 8;
constexpr uint16_t kMachineX64 = 0x8664;
constexpr uint16_t kPe32Plus = 0x20b;
// IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ
constexpr uint32_t kReadOnlyData = 0x40000040;

uint64_t RoundUp(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

void Store32(uint32_t value, size_t offset, Bytes& out) {
  for (size_t i = 0; i < 4; ++i) out[offset + i] = static_cast<uint8_t>(value >> (8 * i));
}

}  // namespace

absl::StatusOr<PeHeaders> ParsePe(ByteSpan file, std::string_view item) {
  PeHeaders headers;
  ByteReader dos(file, item);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan magic, dos.Take(2, "the DOS header"));
  if (AsText(magic) != "MZ") return dos.Malformed("no EFI application: it does not begin with MZ");
  PAVISE_RETURN_IF_ERROR(dos.Take(0x3a, "the DOS header").status());
  PAVISE_ASSIGN_OR_RETURN(const uint32_t pe_offset, dos.LittleEndian32("e_lfanew"));
  if (pe_offset > file.size()) return dos.Malformed("e_lfanew points beyond the file");

  ByteReader reader(file.subspan(pe_offset), item, pe_offset);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan signature, reader.Take(4, "the PE signature"));
  if (AsText(signature) != std::string_view("PE\0\0", 4)) {
    return reader.Malformed("the PE signature is missing");
  }
  headers.coff_offset = reader.offset();
  PAVISE_ASSIGN_OR_RETURN(const uint16_t machine, reader.LittleEndian16("Machine"));
  if (machine != kMachineX64) return reader.Malformed("it is not for x86-64");
  PAVISE_ASSIGN_OR_RETURN(const uint16_t section_count, reader.LittleEndian16("NumberOfSections"));
  PAVISE_RETURN_IF_ERROR(reader.Take(12, "the COFF header").status());
  PAVISE_ASSIGN_OR_RETURN(const uint16_t optional_size_bytes,
                          reader.LittleEndian16("SizeOfOptionalHeader"));
  PAVISE_RETURN_IF_ERROR(reader.Take(2, "Characteristics").status());

  headers.optional_offset = reader.offset();
  PAVISE_ASSIGN_OR_RETURN(ByteReader optional,
                          reader.Sub(optional_size_bytes, "the optional header"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t kind, optional.LittleEndian16("Magic"));
  if (kind != kPe32Plus) return optional.Malformed("it is not a PE32+ image");
  PAVISE_RETURN_IF_ERROR(optional.Take(30, "the optional header").status());
  PAVISE_ASSIGN_OR_RETURN(headers.section_alignment, optional.LittleEndian32("SectionAlignment"));
  PAVISE_ASSIGN_OR_RETURN(headers.file_alignment, optional.LittleEndian32("FileAlignment"));
  PAVISE_RETURN_IF_ERROR(optional.Take(20, "the optional header").status());
  PAVISE_ASSIGN_OR_RETURN(headers.headers_size_bytes, optional.LittleEndian32("SizeOfHeaders"));
  PAVISE_RETURN_IF_ERROR(optional.Take(44, "the optional header").status());
  PAVISE_ASSIGN_OR_RETURN(const uint32_t directories,
                          optional.LittleEndian32("NumberOfRvaAndSizes"));
  if (directories < 5 || directories > 16) {
    return optional.Malformed(StrCat(directories, " data directories; 5 to 16 are expected"));
  }
  PAVISE_RETURN_IF_ERROR(optional.Take(32, "the data directories").status());
  PAVISE_ASSIGN_OR_RETURN(headers.certificates_offset,
                          optional.LittleEndian32("certificate table"));
  PAVISE_ASSIGN_OR_RETURN(headers.certificates_size_bytes,
                          optional.LittleEndian32("certificate table"));
  const auto is_power_of_two = [](uint32_t value) {
    return value > 0 && (value & (value - 1)) == 0;
  };
  if (!is_power_of_two(headers.section_alignment) || !is_power_of_two(headers.file_alignment)) {
    return optional.Malformed("an alignment that is no power of two");
  }

  headers.table_offset = reader.offset();
  for (uint16_t i = 0; i < section_count; ++i) {
    PAVISE_ASSIGN_OR_RETURN(ByteReader header, reader.Sub(kSectionHeaderBytes, "a section header"));
    PeSection section;
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan name, header.Take(8, "Name"));
    section.name = std::string(AsText(name).substr(0, AsText(name).find('\0')));
    PAVISE_ASSIGN_OR_RETURN(section.virtual_size, header.LittleEndian32("VirtualSize"));
    PAVISE_ASSIGN_OR_RETURN(section.virtual_address, header.LittleEndian32("VirtualAddress"));
    PAVISE_ASSIGN_OR_RETURN(section.raw_size_bytes, header.LittleEndian32("SizeOfRawData"));
    PAVISE_ASSIGN_OR_RETURN(section.raw_offset_bytes, header.LittleEndian32("PointerToRawData"));
    if (uint64_t{section.raw_offset_bytes} + section.raw_size_bytes > file.size()) {
      return header.Malformed(StrCat("section ", section.name, " lies beyond the file"));
    }
    headers.sections.push_back(std::move(section));
  }
  if (headers.headers_size_bytes < reader.offset() || headers.headers_size_bytes > file.size()) {
    return reader.Malformed("SizeOfHeaders does not cover the headers");
  }
  if (uint64_t{headers.certificates_offset} + headers.certificates_size_bytes > file.size()) {
    return reader.Malformed("the certificate table lies beyond the file");
  }
  return headers;
}

absl::StatusOr<Bytes> AuthenticodeDigest(crypto::DigestAlgorithm algorithm, ByteSpan file,
                                         std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const PeHeaders headers, ParsePe(file, item));
  PAVISE_ASSIGN_OR_RETURN(crypto::Digester digester, crypto::Digester::Create(algorithm));
  const auto hash = [&](uint64_t begin, uint64_t end) {
    return digester.Update(file.subspan(begin, end - begin));
  };
  const size_t checksum = headers.optional_offset + kChecksumOffset;
  const size_t entry = headers.optional_offset + kCertificateEntryOffset;
  PAVISE_RETURN_IF_ERROR(hash(0, checksum));
  PAVISE_RETURN_IF_ERROR(hash(checksum + 4, entry));
  PAVISE_RETURN_IF_ERROR(hash(entry + kCertificateEntryBytes, headers.headers_size_bytes));
  std::vector<PeSection> sections = headers.sections;
  std::stable_sort(sections.begin(), sections.end(), [](const PeSection& a, const PeSection& b) {
    return a.raw_offset_bytes < b.raw_offset_bytes;
  });
  uint64_t hashed_bytes = headers.headers_size_bytes;
  uint64_t end = headers.headers_size_bytes;
  for (const PeSection& section : sections) {
    if (section.raw_size_bytes == 0) continue;
    // Else a small file could ask for the hash of its bytes 65,535 times.
    if (section.raw_offset_bytes < end) {
      return Refuse(Reason::kMalformed, item,
                    StrCat("section ", Printable(section.name), " overlaps what stands before it"),
                    "give an image made by a linker");
    }
    end = uint64_t{section.raw_offset_bytes} + section.raw_size_bytes;
    PAVISE_RETURN_IF_ERROR(hash(section.raw_offset_bytes,
                                uint64_t{section.raw_offset_bytes} + section.raw_size_bytes));
    hashed_bytes += section.raw_size_bytes;
  }
  // What follows the sections, but for the certificates, which stand at the end.
  if (hashed_bytes + headers.certificates_size_bytes < file.size()) {
    PAVISE_RETURN_IF_ERROR(hash(hashed_bytes, file.size() - headers.certificates_size_bytes));
  }
  return digester.Finish();
}

absl::StatusOr<Bytes> AppendSections(ByteSpan image, const std::vector<NamedSection>& sections,
                                     std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const PeHeaders headers, ParsePe(image, item));
  if (headers.certificates_size_bytes > 0) {
    return Refuse(Reason::kUnsupported, item, "is signed; a section would void the signature",
                  "give the unsigned stub, and sign the result");
  }
  size_t header = headers.table_offset + headers.sections.size() * kSectionHeaderBytes;
  size_t room_end = headers.headers_size_bytes;
  uint64_t address = 0;
  uint64_t end = headers.headers_size_bytes;
  for (const PeSection& section : headers.sections) {
    end = std::max<uint64_t>(end, uint64_t{section.raw_offset_bytes} + section.raw_size_bytes);
    if (section.raw_size_bytes > 0) {
      room_end = std::min<size_t>(room_end, section.raw_offset_bytes);
    }
    address = std::max<uint64_t>(address, uint64_t{section.virtual_address} + section.virtual_size);
  }
  if (header + sections.size() * kSectionHeaderBytes > room_end) {
    return Refuse(Reason::kLimitExceeded, item, "has no room for the headers of more sections",
                  "give the stub of systemd (linuxx64.efi.stub)");
  }
  // Symbols, which stand after the sections, stay behind.
  Bytes out(image.begin(), image.begin() + static_cast<std::ptrdiff_t>(end));
  uint64_t added_bytes = 0;
  for (const NamedSection& section : sections) {
    if (section.name.empty() || section.name.size() > 8 || section.data.empty()) {
      return Refuse(Reason::kMalformed, item,
                    StrCat("section \"", section.name, "\" needs a name of 1 to 8 bytes and data"));
    }
    address = RoundUp(address, std::max<uint64_t>(headers.section_alignment, 4096));
    out.resize(RoundUp(out.size(), headers.file_alignment));
    const uint64_t raw_size_bytes = RoundUp(section.data.size(), headers.file_alignment);
    if (out.size() + raw_size_bytes > std::numeric_limits<uint32_t>::max() ||
        address + section.data.size() > std::numeric_limits<uint32_t>::max()) {
      return Refuse(Reason::kLimitExceeded, item, "would be larger than 4 GiB");
    }
    std::copy(section.name.begin(), section.name.end(),
              out.begin() + static_cast<std::ptrdiff_t>(header));
    std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(header + section.name.size()),
                kSectionHeaderBytes - section.name.size(), uint8_t{0});
    Store32(static_cast<uint32_t>(section.data.size()), header + 8, out);
    Store32(static_cast<uint32_t>(address), header + 12, out);
    Store32(static_cast<uint32_t>(raw_size_bytes), header + 16, out);
    Store32(static_cast<uint32_t>(out.size()), header + 20, out);
    Store32(kReadOnlyData, header + 36, out);
    header += kSectionHeaderBytes;
    const size_t begin = out.size();
    out.insert(out.end(), section.data.begin(), section.data.end());
    out.resize(begin + raw_size_bytes);
    address += section.data.size();
    added_bytes += raw_size_bytes;
  }
  out.resize(RoundUp(out.size(), 8));
  const size_t count = headers.sections.size() + sections.size();
  out[headers.coff_offset + 2] = static_cast<uint8_t>(count);
  out[headers.coff_offset + 3] = static_cast<uint8_t>(count >> 8);
  Store32(0, headers.coff_offset + 4, out);   // TimeDateStamp
  Store32(0, headers.coff_offset + 8, out);   // PointerToSymbolTable
  Store32(0, headers.coff_offset + 12, out);  // NumberOfSymbols
  const uint32_t data_bytes =
      LoadLittleEndian32(out, headers.optional_offset + kInitializedDataOffset);
  Store32(data_bytes + static_cast<uint32_t>(added_bytes),
          headers.optional_offset + kInitializedDataOffset, out);
  Store32(static_cast<uint32_t>(RoundUp(address, headers.section_alignment)),
          headers.optional_offset + kSizeOfImageOffset, out);
  Store32(0, headers.optional_offset + kChecksumOffset, out);
  return out;
}

}  // namespace pavise::host
