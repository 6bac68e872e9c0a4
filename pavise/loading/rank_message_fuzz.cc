#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/loading/internal/rank_message.h"

// Any bytes: a refusal, or a message that stays the same once it was written again.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using pavise::loading::internal::ParseRankMessage;
  using pavise::loading::internal::SerializeRankMessage;
  const auto message = ParseRankMessage({data, size}, "fuzz");
  if (!message.ok()) return 0;
  const auto once = SerializeRankMessage(*message);
  if (!once.ok()) std::abort();
  const auto again = ParseRankMessage(*once, "fuzz");
  if (!again.ok() || SerializeRankMessage(*again) != once) std::abort();
  return 0;
}
