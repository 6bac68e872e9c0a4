#include "pavise/loading/internal/rank_message.h"

#include "pavise/base/strings.h"

namespace pavise::loading::internal {
namespace {

constexpr std::string_view kMagic = "pavise ranks " PAVISE_VERSION;
constexpr uint64_t kMostFindings = 1'000'000;
constexpr uint64_t kMostFacts = 64;

std::string MessageOf(const absl::Status& status) {
  return std::string(FromAbsl(status.message()));
}

}  // namespace

void MessageWriter::Status(const absl::Status& status) {
  const int kind = ExitCodeOf(status);
  Integer(static_cast<uint64_t>(kind));
  if (kind == 0) return;
  if (kind != 1) {
    Text(MessageOf(status));
    return;
  }
  std::vector<Refusal> findings = RefusalsOf(status);
  if (findings.size() > kMostFindings) findings.resize(kMostFindings);
  Integer(findings.size());
  for (const Refusal& finding : findings) {
    Integer(static_cast<uint64_t>(finding.reason));
    Text(finding.item);
    Text(finding.detail);
    Text(finding.remedy);
  }
}

uint64_t MessageReader::Integer() {
  const ByteSpan bytes = Raw(sizeof(uint64_t));
  return bytes.empty() ? 0 : LoadLittleEndian64(bytes, 0);
}

ByteSpan MessageReader::Raw(uint64_t size_bytes) {
  if (size_bytes > left_.size()) {
    Fail();
    return {};
  }
  const ByteSpan bytes = left_.first(size_bytes);
  left_ = left_.subspan(size_bytes);
  return bytes;
}

std::string MessageReader::Text() {
  const ByteSpan bytes = String();
  if (bytes.size() > kMostRankTextBytes) {
    Fail();
    return {};
  }
  return std::string(AsText(bytes));
}

absl::Status MessageReader::Status() {
  switch (Integer()) {
    case 0:
      return absl::OkStatus();
    case 2:
      return UsageError(Text());
    case 3:
      return MachineFailure("", Text());
    case 1:
      break;
    default:
      Fail();
      return absl::OkStatus();
  }
  const uint64_t count = Integer();
  std::vector<Refusal> findings;
  if (count == 0 || count > kMostFindings) Fail();
  for (uint64_t i = 0; i < count && ok_; ++i) {
    const uint64_t number = Integer();
    // Compared as a number first: not every integer is an int.
    if (number > 0xff || ReasonName(static_cast<Reason>(number)) == "unknown") Fail();
    std::string item = Text();
    std::string detail = Text();
    findings.push_back(
        {static_cast<Reason>(number & 0xff), std::move(item), std::move(detail), Text()});
  }
  return ok_ ? Refuse(std::move(findings)) : absl::OkStatus();
}

absl::StatusOr<Bytes> SerializeRankMessage(const RankMessage& message) {
  if (message.facts.size() > kMostFacts) return MachineFailure("ranks", "too many facts");
  MessageWriter writer;
  writer.Text(kMagic);
  writer.Integer(static_cast<uint64_t>(message.stage));
  writer.Text(message.host);
  writer.Integer(message.follows ? 1 : 0);
  writer.Status(message.status);
  writer.Integer(message.facts.size());
  for (const auto& [name, value] : message.facts) {
    if (name.size() > kMostRankTextBytes || value.size() > kMostRankTextBytes) {
      return MachineFailure("ranks", "a fact is too long to be compared");
    }
    writer.Text(name);
    writer.Text(value);
  }
  writer.String(message.payload);
  return writer.Take();
}

absl::StatusOr<RankMessage> ParseRankMessage(ByteSpan bytes, std::string_view item) {
  MessageReader reader(bytes);
  if (reader.Text() != kMagic) {
    return Refuse(Reason::kMalformed, item, "speaks another language",
                  "start the same version of pavise on every machine");
  }
  RankMessage message;
  const uint64_t stage = reader.Integer();
  message.host = reader.Text();
  const uint64_t follows = reader.Integer();
  message.status = reader.Status();
  const uint64_t facts = reader.Integer();
  bool is_known = stage >= 1 && stage <= 3 && follows <= 1 && facts <= kMostFacts;
  for (uint64_t i = 0; is_known && reader.ok() && i < facts; ++i) {
    std::string name = reader.Text();
    message.facts.emplace_back(std::move(name), reader.Text());
  }
  const ByteSpan payload = reader.String();
  if (!is_known || !reader.AtEnd()) {
    return Refuse(Reason::kMalformed, item, "sent a message that breaks its form");
  }
  message.stage = static_cast<RankStage>(stage);
  message.follows = follows == 1;
  message.payload.assign(payload.begin(), payload.end());
  return message;
}

}  // namespace pavise::loading::internal
