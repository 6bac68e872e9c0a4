#ifndef PAVISE_LOADING_INTERNAL_RANK_MESSAGE_H_
#define PAVISE_LOADING_INTERNAL_RANK_MESSAGE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// What ranks say to each other. Little-endian; texts and byte strings behind their 64-bit length.
// The form is this version's own: ranks of two versions refuse each other. Only that a message
// begins with its version's name, and that a rank which cannot read a message leaves in that round
// (RankedRun), is the same in all versions.
namespace pavise::loading::internal {

inline constexpr size_t kMostRankTextBytes = 8192;

class MessageWriter {
 public:
  void Integer(uint64_t value) { AppendLittleEndian64(value, bytes_); }
  void Raw(ByteSpan bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  void String(ByteSpan bytes) {
    Integer(bytes.size());
    Raw(bytes);
  }
  // Cut where it is longer than a reader takes.
  void Text(std::string_view text) { String(AsBytes(text.substr(0, kMostRankTextBytes))); }
  void Status(const absl::Status& status);
  Bytes Take() { return std::move(bytes_); }

 private:
  Bytes bytes_;
};

// Bounds before allocations. After the first thing that is not as it should be, ok() is false and
// everything further reads as empty.
class MessageReader {
 public:
  explicit MessageReader(ByteSpan bytes) : left_(bytes) {}
  bool ok() const { return ok_; }
  // Everything was read, and nothing lies behind it.
  bool AtEnd() const { return ok_ && left_.empty(); }
  uint64_t Integer();
  ByteSpan Raw(uint64_t size_bytes);
  ByteSpan String() { return Raw(Integer()); }
  std::string Text();
  // A status as Status() wrote it: a refusal with all its findings, a failure or a usage error.
  absl::Status Status();

 private:
  void Fail() {
    ok_ = false;
    left_ = {};
  }

  ByteSpan left_;
  bool ok_ = true;
};

enum class RankStage : uint8_t {
  kRequest = 1,  // what is to be read
  kResults = 2,  // what this rank found in its share
  kVerdict = 3,  // how this rank's run ends
};

// Things that all ranks must say alike, with their names.
using RankFacts = std::vector<std::pair<std::string, std::string>>;

struct RankMessage {
  RankStage stage = RankStage::kVerdict;
  std::string host;
  // This rank has nothing of its own to say against the run: another ended it.
  bool follows = false;
  absl::Status status;
  RankFacts facts;
  Bytes payload;
};

// kInternal for facts that ParseRankMessage would not take, too many or too long: cut ones would
// compare alike and be different. Long things are told by their digests.
absl::StatusOr<Bytes> SerializeRankMessage(const RankMessage& message);
// kMalformed, naming `item`: another version, an unknown stage or reason, a length beyond the
// message, trailing bytes.
absl::StatusOr<RankMessage> ParseRankMessage(ByteSpan bytes, std::string_view item);

}  // namespace pavise::loading::internal

#endif  // PAVISE_LOADING_INTERNAL_RANK_MESSAGE_H_
