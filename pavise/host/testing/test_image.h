#ifndef PAVISE_HOST_TESTING_TEST_IMAGE_H_
#define PAVISE_HOST_TESTING_TEST_IMAGE_H_

#include <cstdint>
#include <string_view>

#include "pavise/base/bytes.h"

namespace pavise::host::testing {

// A PE32+ image for x86-64 with one section .text that holds `content`: headers of 1 KiB, so that
// a few more sections fit.
inline Bytes TestImage(std::string_view content) {
  Bytes image(1024, 0);
  const auto store = [&](size_t offset, uint64_t value, size_t size) {
    for (size_t i = 0; i < size; ++i) image[offset + i] = static_cast<uint8_t>(value >> (8 * i));
  };
  image[0] = 'M';
  image[1] = 'Z';
  store(0x3c, 0x80, 4);
  image[0x80] = 'P';
  image[0x81] = 'E';
  store(0x84, 0x8664, 2);  // Machine
  store(0x86, 1, 2);       // NumberOfSections
  store(0x94, 0xf0, 2);    // SizeOfOptionalHeader
  constexpr size_t kOptional = 0x98;
  store(kOptional, 0x20b, 2);
  store(kOptional + 32, 4096, 4);  // SectionAlignment
  store(kOptional + 36, 512, 4);   // FileAlignment
  store(kOptional + 56, 8192, 4);  // SizeOfImage
  store(kOptional + 60, 1024, 4);  // SizeOfHeaders
  store(kOptional + 108, 16, 4);   // NumberOfRvaAndSizes
  constexpr size_t kTable = kOptional + 0xf0;
  constexpr std::string_view kName = ".text";
  for (size_t i = 0; i < kName.size(); ++i) image[kTable + i] = static_cast<uint8_t>(kName[i]);
  store(kTable + 8, content.size(), 4);  // VirtualSize
  store(kTable + 12, 4096, 4);           // VirtualAddress
  const size_t raw_bytes = (content.size() + 511) / 512 * 512;
  store(kTable + 16, raw_bytes, 4);
  store(kTable + 20, 1024, 4);
  for (const char c : content) image.push_back(static_cast<uint8_t>(c));
  image.resize(1024 + raw_bytes);
  return image;
}

}  // namespace pavise::host::testing

#endif  // PAVISE_HOST_TESTING_TEST_IMAGE_H_
