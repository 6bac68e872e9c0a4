#ifndef PAVISE_HASH_INTERNAL_PLAIN_STAGING_H_
#define PAVISE_HASH_INTERNAL_PLAIN_STAGING_H_

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "pavise/hash/device.h"

namespace pavise::hash {

struct FreePages {
  void operator()(uint8_t* memory) const { std::free(memory); }
};
using Pages = std::unique_ptr<uint8_t, FreePages>;

// Page-aligned, uninitialised, at least one page; nullptr where there is not so much.
Pages AllocatePages(uint64_t size_bytes);

// Staging of pages that are not pinned; nullptr as above.
std::unique_ptr<Staging> NewPlainStaging(size_t size_bytes);

}  // namespace pavise::hash

#endif  // PAVISE_HASH_INTERNAL_PLAIN_STAGING_H_
