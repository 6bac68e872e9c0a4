#ifndef PAVISE_BASE_SECRET_BYTES_H_
#define PAVISE_BASE_SECRET_BYTES_H_

#include <string_view>

#include "pavise/base/bytes.h"

namespace pavise {

// Key material, passwords. Move-only, wiped when it goes, never printed (no stream operator, no
// conversion to string), compared in constant time. Not locked against swapping.
class SecretBytes {
 public:
  SecretBytes() = default;
  // Copies `bytes`; the caller wipes its own copy.
  explicit SecretBytes(ByteSpan bytes) : bytes_(bytes.begin(), bytes.end()) {}
  explicit SecretBytes(std::string_view text) : SecretBytes(AsBytes(text)) {}
  // Takes the buffer over, without a copy.
  explicit SecretBytes(Bytes&& bytes) noexcept : bytes_(std::move(bytes)) {}
  ~SecretBytes() { Wipe(); }

  SecretBytes(SecretBytes&& other) noexcept : bytes_(std::move(other.bytes_)) { other.Wipe(); }
  SecretBytes& operator=(SecretBytes&& other) noexcept;
  SecretBytes(const SecretBytes&) = delete;
  SecretBytes& operator=(const SecretBytes&) = delete;

  ByteSpan Reveal() const { return bytes_; }
  std::string_view RevealText() const { return AsText(bytes_); }
  bool empty() const { return bytes_.empty(); }
  size_t size_bytes() const { return bytes_.size(); }

  // Time depends on the sizes only.
  bool Equals(const SecretBytes& other) const;

 private:
  void Wipe() noexcept;
  Bytes bytes_;
};

// Overwrites memory in a way that the compiler may not remove.
void WipeMemory(std::span<uint8_t> memory) noexcept;
void WipeMemory(std::string& text) noexcept;

// Equality in time that depends on the sizes only.
bool ConstantTimeEquals(ByteSpan a, ByteSpan b);

}  // namespace pavise

#endif  // PAVISE_BASE_SECRET_BYTES_H_
