#ifndef PAVISE_OFFLOAD_INTERNAL_WIPE_H_
#define PAVISE_OFFLOAD_INTERNAL_WIPE_H_

#include <cstdint>
#include <span>
#include <type_traits>

#include "pavise/base/secret_bytes.h"

namespace pavise::offload::internal {

// WipeMemory for numbers of any type.
template <typename Numbers>
void Wipe(Numbers&& numbers) noexcept {
  const std::span view(numbers);
  static_assert(std::is_arithmetic_v<typename decltype(view)::element_type>);
  WipeMemory({reinterpret_cast<uint8_t*>(view.data()), view.size_bytes()});
}

}  // namespace pavise::offload::internal

#endif  // PAVISE_OFFLOAD_INTERNAL_WIPE_H_
