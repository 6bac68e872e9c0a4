#ifndef PAVISE_OFFLOAD_GRPC_MESSAGES_H_
#define PAVISE_OFFLOAD_GRPC_MESSAGES_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pavise/offload/memory_budget.h"
#include "pavise/offload/worker.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// docs/formats/offload.md: a request or a reply is a head and then the bytes of its frames (and of
// a request's key shift) in chunks. Both sides take the other's messages for hostile.
namespace pavise::offload {

// Of offload.proto; who uses them includes offload.pb.h.
namespace v1 {
class ClientMessage;
class RequestHead;
class WorkerHello;
class WorkerMessage;
}  // namespace v1

inline constexpr uint32_t kOffloadProtocol = 1;
inline constexpr size_t kMaxChunkBytes = size_t{1} << 18;
// Of one message; a head has at most a few hundred bytes.
inline constexpr size_t kMaxMessageBytes = kMaxChunkBytes + 4096;
inline constexpr size_t kMaxFrames = 8;  // two shares of four moduli
inline constexpr size_t kMaxTextBytes = 512;

// Where bytes that are under way go, buffer after buffer.
class BodyReader {
 public:
  // Buffers grow as bytes come, so that nothing is allocated for what is only announced. nullptr:
  // the bytes are passed over.
  void Expect(Bytes* buffer, uint64_t size_bytes);
  // kMalformed: a chunk that is empty, longer than allowed, or crosses a buffer's end.
  absl::Status Append(std::string_view chunk);
  bool is_done() const { return next_ == parts_.size(); }

 private:
  struct Part {
    Bytes* buffer;
    uint64_t left_bytes;
  };
  std::vector<Part> parts_;
  size_t next_ = 0;
};

struct IncomingRequest {
  uint64_t id = 0;
  // A refusal where the request was understood but could not be taken: the session goes on.
  absl::StatusOr<Request> request;
  MemoryCharge charge;  // of its bytes
};

// A worker's side of one session: requests out of messages. Not thread-safe.
class RequestReader {
 public:
  using Charge = std::function<absl::StatusOr<MemoryCharge>(uint64_t size_bytes)>;
  // `charge` is asked for all of a request's bytes before they are allocated; where it refuses, the
  // bytes are passed over and the request is answered with the refusal.
  explicit RequestReader(Charge charge) : charge_(std::move(charge)) {}

  // A request that is complete. kMalformed, after which the session ends: a chunk that does not
  // belong to what was announced, an id that is not the next, another message.
  absl::StatusOr<std::optional<IncomingRequest>> Take(const v1::ClientMessage& message);

 private:
  absl::Status Begin(const v1::RequestHead& head);

  const Charge charge_;
  uint64_t next_id_ = 1;
  std::optional<IncomingRequest> incoming_;
  Request request_;
  Bytes shift_rows_, shift_columns_;
  BodyReader body_;
};

struct IncomingReply {
  uint64_t id = 0;
  absl::StatusOr<Reply> reply;
};

// A coordinator's side. Not thread-safe.
class ReplyReader {
 public:
  // The longest reply that is taken.
  explicit ReplyReader(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}
  // A reply that is complete. `asked_bytes`: of the frames that the next one may have by what was
  // asked. kMalformed, kLimitExceeded: nothing that follows can be understood.
  absl::StatusOr<std::optional<IncomingReply>> Take(const v1::WorkerMessage& message,
                                                    uint64_t asked_bytes = UINT64_MAX);

 private:
  const uint64_t limit_bytes_;
  uint64_t next_id_ = 1;
  std::optional<IncomingReply> incoming_;
  BodyReader body_;
};

// Head and chunks to `send`, which says whether the other side is still there. False: it is not.
bool SendRequest(uint64_t id, const Request& request,
                 const std::function<bool(const v1::ClientMessage&)>& send);
bool SendReply(uint64_t id, const absl::StatusOr<Reply>& reply,
               const std::function<bool(const v1::WorkerMessage&)>& send);

v1::WorkerHello HelloOf(const WorkerDescription& description);
// kMalformed, kUnsupported (another protocol).
absl::StatusOr<WorkerDescription> DescriptionOf(const v1::WorkerHello& hello);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_GRPC_MESSAGES_H_
