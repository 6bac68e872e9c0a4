#include "pavise/base/secret_bytes.h"

#include <string.h>  // explicit_bzero

#include <utility>

namespace pavise {

void WipeMemory(std::span<uint8_t> memory) noexcept {
  if (!memory.empty()) explicit_bzero(memory.data(), memory.size());
}

void WipeMemory(std::string& text) noexcept {
  if (!text.empty()) explicit_bzero(text.data(), text.size());
  text.clear();
}

bool ConstantTimeEquals(ByteSpan a, ByteSpan b) {
  if (a.size() != b.size()) return false;
  volatile uint8_t difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference = difference | (a[i] ^ b[i]);
  return difference == 0;
}

SecretBytes& SecretBytes::operator=(SecretBytes&& other) noexcept {
  if (this != &other) {
    Wipe();
    bytes_ = std::move(other.bytes_);
    other.Wipe();
  }
  return *this;
}

bool SecretBytes::Equals(const SecretBytes& other) const {
  return ConstantTimeEquals(bytes_, other.bytes_);
}

void SecretBytes::Wipe() noexcept {
  WipeMemory(bytes_);
  bytes_.clear();
}

}  // namespace pavise
