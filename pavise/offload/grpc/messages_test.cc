#include "pavise/offload/grpc/messages.h"

#include <functional>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/offload/testing/frames.h"
#include "pavise/offload/testing/plain_worker.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "offload.pb.h"

namespace pavise::offload {
namespace {

using testing::FrameOf;
using testing::RandomMatrix;

RequestReader::Charge Unlimited() {
  return [](uint64_t) { return absl::StatusOr<MemoryCharge>(MemoryCharge()); };
}

// A request of every field, with frames of more than two chunks, of one, and of none.
Request FullRequest() {
  Request request;
  request.command = Command::kPutWeights;
  request.layer = 1;
  request.version = UINT64_MAX;
  request.step = 3;
  request.frames = {FrameOf(RandomMatrix(300, 512, 1)),
                    {DType::kFp32, 251, 2, 2, Bytes(4, 7)},
                    {DType::kBf16, 0, 0, 5, {}}};
  request.reply_type = DType::kFp16;
  request.operand_type = DType::kBf16;
  request.layer_shape.shape = {4, 5, 6, 7};
  request.layer_shape.moduli = {251, 241};
  request.layer_shape.convolution = ConvolutionShape{1, 2, 3, 4, 5, 6, 7, 8};
  request.samples = 9;
  request.keep_inputs = true;
  request.want_input_gradients = false;
  request.sgd = SgdStep{0.1f, 0.9f, 1e-4f};
  request.shift = {{1, 2, 3}, {4, 5}};
  request.operation = Operation::kTransposeLeft;
  return request;
}

std::vector<v1::ClientMessage> MessagesOf(const Request& request, uint64_t id = 1) {
  std::vector<v1::ClientMessage> messages;
  EXPECT_TRUE(SendRequest(id, request, [&](const v1::ClientMessage& message) {
    messages.push_back(message);
    return true;
  }));
  return messages;
}
std::vector<v1::WorkerMessage> MessagesOf(const absl::StatusOr<Reply>& reply, uint64_t id = 1) {
  std::vector<v1::WorkerMessage> messages;
  EXPECT_TRUE(SendReply(id, reply, [&](const v1::WorkerMessage& message) {
    messages.push_back(message);
    return true;
  }));
  return messages;
}

void ExpectSame(const Frames& a, const Frames& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].type, b[i].type);
    EXPECT_EQ(a[i].modulus, b[i].modulus);
    EXPECT_EQ(a[i].rows, b[i].rows);
    EXPECT_EQ(a[i].columns, b[i].columns);
    EXPECT_EQ(a[i].bytes, b[i].bytes);
  }
}

TEST(MessagesTest, ARequestArrivesAsItWas) {
  const Request sent = FullRequest();
  const auto messages = MessagesOf(sent);
  ASSERT_EQ(messages.size(), 1u + 3 + 1 + 1 + 1);
  uint64_t charged_bytes = 0;
  RequestReader reader([&](uint64_t size_bytes) {
    charged_bytes = size_bytes;
    return absl::StatusOr<MemoryCharge>(MemoryCharge());
  });
  for (size_t i = 0; i < messages.size(); ++i) {
    ASSERT_LE(messages[i].ByteSizeLong(), kMaxMessageBytes);
    auto taken = reader.Take(messages[i]);
    ASSERT_TRUE(taken.ok()) << taken.status();
    ASSERT_EQ(taken->has_value(), i + 1 == messages.size());
    if (!taken->has_value()) continue;
    EXPECT_EQ((*taken)->id, 1u);
    const Request got = *std::move((*taken)->request);
    EXPECT_EQ(got.command, sent.command);
    EXPECT_EQ(got.layer, sent.layer);
    EXPECT_EQ(got.version, sent.version);
    EXPECT_EQ(got.step, sent.step);
    ExpectSame(got.frames, sent.frames);
    EXPECT_EQ(got.reply_type, sent.reply_type);
    EXPECT_EQ(got.operand_type, sent.operand_type);
    EXPECT_EQ(got.layer_shape.shape.inputs, 4u);
    EXPECT_EQ(got.layer_shape.shape.outputs, 5u);
    EXPECT_EQ(got.layer_shape.shape.taps, 6u);
    EXPECT_EQ(got.layer_shape.shape.max_rows, 7u);
    EXPECT_EQ(got.layer_shape.moduli, sent.layer_shape.moduli);
    const ConvolutionShape& shape = got.layer_shape.convolution.value();
    EXPECT_THAT((std::vector{shape.samples, shape.height, shape.width, shape.channels,
                             shape.kernel_height, shape.kernel_width, shape.stride, shape.padding}),
                ::testing::ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
    EXPECT_EQ(got.samples, 9u);
    EXPECT_TRUE(got.keep_inputs);
    EXPECT_FALSE(got.want_input_gradients);
    EXPECT_EQ(got.sgd->learning_rate, 0.1f);
    EXPECT_EQ(got.sgd->momentum, 0.9f);
    EXPECT_EQ(got.sgd->weight_decay, 1e-4f);
    EXPECT_EQ(got.shift.rows, sent.shift.rows);
    EXPECT_EQ(got.shift.columns, sent.shift.columns);
    EXPECT_EQ(got.operation, sent.operation);
  }
  EXPECT_EQ(charged_bytes, 300u * 512 * 4 + 4 + 5 * 4);
}

TEST(MessagesTest, RequestsThatBreakTheProtocolEndTheSession) {
  const auto valid = MessagesOf(FullRequest());
  struct Case {
    const char* what;
    size_t at;  // this message is changed
    std::function<void(v1::ClientMessage&)> change;
  };
  const std::vector<Case> cases = {
      {"a chunk first", 0, [](auto& m) { m.set_chunk("x"); }},
      {"a second hello", 0, [](auto& m) { m.mutable_hello()->set_protocol(1); }},
      {"an empty message", 0, [](auto& m) { m.Clear(); }},
      {"an id that is not the next", 0, [](auto& m) { m.mutable_request()->set_id(2); }},
      {"nine frames", 0,
       [](auto& m) {
         while (m.request().frames_size() < 9) m.mutable_request()->add_frames();
       }},
      {"six moduli", 0,
       [](auto& m) {
         while (m.request().layer_shape().moduli_size() < 6) {
           m.mutable_request()->mutable_layer_shape()->add_moduli(3);
         }
       }},
      {"a shift longer than any side", 0,
       [](auto& m) { m.mutable_request()->set_shift_rows(kMaxDimension + 1); }},
      {"a shift whose bytes are no number", 0,
       [](auto& m) { m.mutable_request()->set_shift_columns(UINT64_MAX / 2); }},
      {"a frame longer than any", 0,
       [](auto& m) { m.mutable_request()->mutable_frames(0)->set_size_bytes(UINT64_MAX); }},
      {"a request inside another", 1, [&](auto& m) { m = valid[0]; }},
      {"an empty chunk", 1, [](auto& m) { m.set_chunk(""); }},
      {"a chunk that is too long", 1,
       [](auto& m) { m.set_chunk(std::string(kMaxChunkBytes + 1, 'x')); }},
      {"a chunk over a frame's end", 3, [](auto& m) { m.mutable_chunk()->push_back('x'); }},
      {"a chunk over the shift's end", 6, [](auto& m) { m.mutable_chunk()->push_back('x'); }},
  };
  size_t refused = 0;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    RequestReader reader(Unlimited());
    for (size_t i = 0; i <= c.at; ++i) {
      v1::ClientMessage message = valid[i];
      if (i == c.at) c.change(message);
      const auto taken = reader.Take(message);
      ASSERT_EQ(taken.ok(), i < c.at);
      if (taken.ok()) continue;
      EXPECT_EQ(ReasonOf(taken.status()), Reason::kMalformed) << taken.status();
      ++refused;
    }
  }
  EXPECT_EQ(refused, 14u);
  RequestReader reader(Unlimited());
  for (const auto& message : valid) ASSERT_TRUE(reader.Take(message).ok());
  EXPECT_EQ(ReasonOf(reader.Take(valid[1]).status()), Reason::kMalformed) << "one chunk more";
}

// Its bytes are passed over, and the next request is taken.
TEST(MessagesTest, ARequestWithoutMemoryIsRefusedAndTheSessionGoesOn) {
  MemoryBudget budget(10'000);
  RequestReader reader([&](uint64_t size_bytes) { return budget.Charge(size_bytes, "request"); });
  for (const auto& message : MessagesOf(FullRequest())) {
    const auto taken = reader.Take(message);
    ASSERT_TRUE(taken.ok());
    EXPECT_EQ(budget.used_bytes(), 0u);
    if (taken->has_value()) {
      EXPECT_EQ(ReasonOf((*taken)->request.status()), Reason::kLimitExceeded);
    }
  }
  Request small;
  small.frames = {FrameOf(RandomMatrix(2, 3, 1))};
  for (const auto& message : MessagesOf(small, 2)) {
    const auto taken = reader.Take(message);
    ASSERT_TRUE(taken.ok());
    EXPECT_EQ(budget.used_bytes(), 24u);
    if (taken->has_value()) ExpectSame((*taken)->request->frames, small.frames);
  }
  EXPECT_EQ(budget.used_bytes(), 0u);
}

TEST(MessagesTest, RepliesArriveAsTheyWere) {
  Reply sent;
  sent.command = Command::kForward;
  sent.layer = 2;
  sent.version = 3;
  sent.step = 4;
  sent.frames = {FrameOf(RandomMatrix(300, 512, 1)), {DType::kFp32, 251, 2, 2, Bytes(4, 7)}};
  ReplyReader reader(1 << 20);
  std::optional<IncomingReply> got;
  for (const auto& message : MessagesOf(sent)) {
    ASSERT_FALSE(got.has_value());
    got = reader.Take(message).value();
  }
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(got->reply->command, sent.command);
  EXPECT_EQ(got->reply->layer, 2u);
  EXPECT_EQ(got->reply->version, 3u);
  EXPECT_EQ(got->reply->step, 4u);
  ExpectSame(got->reply->frames, sent.frames);

  uint64_t id = 1;
  for (const Reason reason :
       {Reason::kMalformed, Reason::kLimitExceeded, Reason::kUnsupported, Reason::kStateMissing}) {
    const auto messages = MessagesOf(Refuse(reason, "item", std::string(2000, 'x')), ++id);
    ASSERT_EQ(messages.size(), 1u);
    const auto refused = reader.Take(messages[0]).value();
    EXPECT_EQ(ReasonOf(refused->reply.status()), reason);
    EXPECT_EQ(RefusalsOf(refused->reply.status())[0].detail.size(), kMaxTextBytes);
  }
  const auto failed = reader.Take(MessagesOf(MachineFailure("/secret/path", "x"), ++id)[0]).value();
  EXPECT_EQ(ExitCodeOf(failed->reply.status()), 3);
  EXPECT_THAT(std::string(failed->reply.status().message()),
              ::testing::Not(::testing::HasSubstr("secret")));
  const auto foreign =
      reader.Take(MessagesOf(Refuse(Reason::kSignatureInvalid, "a", "b"), ++id)[0]).value();
  EXPECT_EQ(ReasonOf(foreign->reply.status()), Reason::kMalformed) << "not a worker's to say";
}

TEST(MessagesTest, HostileRepliesAreRefused) {
  Reply reply;
  reply.frames = {FrameOf(RandomMatrix(300, 512, 1)), FrameOf(RandomMatrix(1, 2, 1))};
  const auto valid = MessagesOf(reply);
  ASSERT_EQ(valid.size(), 5u);
  struct Case {
    const char* what;
    size_t at;
    std::function<void(v1::WorkerMessage&)> change;
    Reason reason = Reason::kMalformed;
  };
  const std::vector<Case> cases = {
      {"a chunk first", 0, [](auto& m) { m.set_chunk("x"); }},
      {"a second hello", 0, [](auto& m) { m.mutable_hello(); }},
      {"an empty message", 0, [](auto& m) { m.Clear(); }},
      {"another reply's id", 0, [](auto& m) { m.mutable_reply()->set_id(0); }},
      {"nine frames", 0,
       [](auto& m) {
         while (m.reply().frames_size() < 9) m.mutable_reply()->add_frames();
       }},
      {"a refusal with frames", 0,
       [](auto& m) { m.mutable_reply()->mutable_refusal()->set_reason("malformed"); }},
      {"a failure with frames", 0, [](auto& m) { m.mutable_reply()->set_failure("x"); }},
      {"a length that is not the shape's", 0,
       [](auto& m) { m.mutable_reply()->mutable_frames(0)->set_size_bytes(4); }},
      {"rows beyond any", 0,
       [](auto& m) { m.mutable_reply()->mutable_frames(0)->set_rows(UINT64_MAX); },
       Reason::kLimitExceeded},
      {"no such type", 0, [](auto& m) { m.mutable_reply()->mutable_frames(0)->set_type(4); }},
      {"no such modulus", 0,
       [](auto& m) {
         m.mutable_reply()->mutable_frames(0)->set_modulus(256);
         m.mutable_reply()->mutable_frames(0)->set_size_bytes(300 * 512);
       }},
      {"longer than is taken", 0,
       [](auto& m) {
         m.mutable_reply()->mutable_frames(0)->set_rows(1024);
         m.mutable_reply()->mutable_frames(0)->set_size_bytes(1024 * 512 * 4);
       },
       Reason::kLimitExceeded},
      {"a reply inside another", 1, [&](auto& m) { m = valid[0]; }},
      {"an empty chunk", 1, [](auto& m) { m.set_chunk(""); }},
      {"a chunk that is too long", 1,
       [](auto& m) { m.set_chunk(std::string(kMaxChunkBytes + 1, 'x')); }},
      {"a chunk over a frame's end", 3, [](auto& m) { m.mutable_chunk()->push_back('x'); }},
  };
  size_t refused = 0;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    ReplyReader reader(1 << 20);
    for (size_t i = 0; i <= c.at; ++i) {
      v1::WorkerMessage message = valid[i];
      if (i == c.at) c.change(message);
      const auto taken = reader.Take(message);
      ASSERT_EQ(taken.ok(), i < c.at);
      if (taken.ok()) continue;
      EXPECT_EQ(ReasonOf(taken.status()), c.reason) << taken.status();
      ++refused;
    }
  }
  EXPECT_EQ(refused, 16u);
}

TEST(MessagesTest, HellosAreCheckedAndCut) {
  const WorkerDescription sent = {.name = std::string(1000, 'n'),
                                  .device = "cpu",
                                  .memory_limit_bytes = 7,
                                  .types = {DType::kFp32, DType::kBf16},
                                  .operand_types = {DType::kInt8},
                                  .convolves = true,
                                  .multiplies_residues = true};
  const v1::WorkerHello hello = HelloOf(sent);
  const WorkerDescription got = DescriptionOf(hello).value();
  EXPECT_EQ(got.name, std::string(kMaxTextBytes, 'n'));
  EXPECT_EQ(got.device, "cpu");
  EXPECT_EQ(got.memory_limit_bytes, 7u);
  EXPECT_EQ(got.types, sent.types);
  EXPECT_EQ(got.operand_types, sent.operand_types);
  EXPECT_TRUE(got.convolves);
  EXPECT_TRUE(got.multiplies_residues);
  v1::WorkerHello other = hello;
  other.set_protocol(2);
  EXPECT_EQ(ReasonOf(DescriptionOf(other).status()), Reason::kUnsupported);
  other = hello;
  other.set_types(1, 4);
  EXPECT_EQ(ReasonOf(DescriptionOf(other).status()), Reason::kMalformed);
  other = hello;
  for (int i = 0; i < 5; ++i) other.add_types(0);
  EXPECT_EQ(ReasonOf(DescriptionOf(other).status()), Reason::kMalformed);
}

}  // namespace
}  // namespace pavise::offload
