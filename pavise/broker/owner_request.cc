#include "pavise/broker/owner_request.h"

#include <array>

#include "pavise/base/canonical_json.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"

namespace pavise::broker {
namespace {

constexpr std::string_view kItem = "Pavise-Request";
constexpr std::string_view kFormat = "pavise-request/1";
constexpr size_t kMostHeaderBytes = 8u << 10;
constexpr const char* kTimeFormat = "%Y-%m-%dT%H:%M:%SZ";
// To what a clock of seconds shows.
constexpr absl::Duration kTimeStep = absl::Seconds(1);

}  // namespace

absl::StatusOr<std::string> SignOwnerCall(const OwnerCall& call, absl::Time at,
                                          RandomSource& random, crypto::Signer& signer) {
  std::array<uint8_t, 16> id;
  PAVISE_RETURN_IF_ERROR(random.Fill(id));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 body, crypto::Sha256(call.body));
  const Json payload = {{"format", kFormat},
                        {"broker", call.broker},
                        {"key", signer.public_key().ToPem()},
                        {"method", call.method},
                        {"target", call.target},
                        {"body", ToHex(body)},
                        {"time", absl::FormatTime(kTimeFormat, at, absl::UTCTimeZone())},
                        {"id", ToHex(id)}};
  PAVISE_ASSIGN_OR_RETURN(const std::string text, CanonicalJson(payload, kItem));
  PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                          crypto::SignEnvelope(kRequestType, AsBytes(text), signer));
  return ToBase64Url(AsBytes(crypto::FormatEnvelope(envelope)));
}

absl::StatusOr<VerifiedOwnerCall> VerifyOwnerCall(std::string_view header, const OwnerCall& call) {
  if (header.size() > kMostHeaderBytes) {
    return Refuse(Reason::kLimitExceeded, kItem, "longer than a request is");
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, FromBase64Url(header, kItem));
  PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope, crypto::ParseEnvelope(text, kItem));
  PAVISE_ASSIGN_OR_RETURN(const Json payload, ParseJson(envelope.payload, kItem));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(payload, kItem));
  PAVISE_RETURN_IF_ERROR(
      object.RequireOnly({"format", "broker", "key", "method", "target", "body", "time", "id"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string format, object.GetString("format"));
  if (format != kFormat) {
    return Refuse(Reason::kUnsupported, kItem, StrCat("format ", Printable(format)),
                  StrCat("send ", kFormat));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string pem, object.GetString("key"));
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key, crypto::PublicKey::FromPem(pem, kItem));
  if (envelope.signatures.size() != 1) {
    return Refuse(Reason::kMalformed, kItem, "a request has one signature");
  }
  PAVISE_RETURN_IF_ERROR(crypto::VerifyEnvelope(envelope, kRequestType, key, kItem));

  PAVISE_ASSIGN_OR_RETURN(const std::string broker, object.GetString("broker"));
  PAVISE_ASSIGN_OR_RETURN(const std::string method, object.GetString("method"));
  PAVISE_ASSIGN_OR_RETURN(const std::string target, object.GetString("target"));
  PAVISE_ASSIGN_OR_RETURN(const std::string body, object.GetString("body"));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 actual_body, crypto::Sha256(call.body));
  if (broker != call.broker) {
    return Refuse(Reason::kBindingMismatch, kItem, "signed for another broker",
                  StrCat("sign for ", call.broker));
  }
  if (method != call.method || target != call.target || body != ToHex(actual_body)) {
    return Refuse(Reason::kBindingMismatch, kItem, "signed for another call");
  }
  VerifiedOwnerCall verified{key, key.Fingerprint(), "", {}};
  PAVISE_ASSIGN_OR_RETURN(const std::string time, object.GetString("time"));
  std::string error;
  if (!absl::ParseTime(kTimeFormat, time, &verified.time, &error)) {
    return Refuse(Reason::kMalformed, kItem, "time: as 2026-11-21T12:00:00Z");
  }
  PAVISE_ASSIGN_OR_RETURN(verified.request_id, object.GetString("id"));
  PAVISE_ASSIGN_OR_RETURN(const Bytes id, FromHex(verified.request_id, kItem));
  if (id.size() != 16) return Refuse(Reason::kMalformed, kItem, "id: 16 bytes");
  // One id has one spelling.
  verified.request_id = ToHex(id);
  return verified;
}

absl::Status ClockBehindLedger(absl::Time newest, absl::Time now) {
  const auto text = [](absl::Time time) {
    return absl::FormatTime(absl::RFC3339_sec, time, absl::UTCTimeZone());
  };
  return Refuse(Reason::kPlatformInsecure, "clock",
                StrCat("the broker's newest ledger entry is of ", text(newest),
                       ", and its clock says ", text(now)),
                "the broker's operator sets the clock right; if it is, it had jumped ahead: see "
                "\"The clock jumped ahead\" in the operator's guide");
}

absl::Status RequestMemory::Take(const VerifiedOwnerCall& call, absl::Time now) {
  if (call.time < absl::UnixEpoch() || call.time > now + kRequestWindow ||
      call.time < now - kRequestWindow) {
    return Refuse(Reason::kPolicyDenied, kItem, "signed too long ago, or in the future",
                  StrCat("sign again; the broker's time is ",
                         absl::FormatTime(absl::RFC3339_sec, now, absl::UTCTimeZone())));
  }
  if (call.time + kTimeStep <= start_) {
    if (start_ > now + kRequestWindow) return ClockBehindLedger(start_, now);
    return Refuse(Reason::kPolicyDenied, kItem, "signed before the broker started", "sign again");
  }
  const std::scoped_lock lock(mutex_);
  // A request can be signed up to a window ahead, so that it must be remembered for two.
  while (!order_.empty() && order_.front().first < now - 2 * kRequestWindow - kTimeStep) {
    const std::string& oldest = order_.front().second;
    const auto of_key = of_key_.find(oldest.substr(0, oldest.find('/')));
    if (--of_key->second == 0) of_key_.erase(of_key);
    taken_.erase(oldest);
    order_.pop_front();
  }
  const auto mine = of_key_.find(call.key_id);
  if (taken_.size() >= kMostRequests ||
      (mine != of_key_.end() && mine->second >= kMostRequestsOfKey)) {
    return Refuse(Reason::kLimitExceeded, kItem, "too many requests", "try again in four minutes");
  }
  const std::string name = StrCat(call.key_id, "/", call.request_id);
  if (!taken_.insert(name).second) {
    return Refuse(Reason::kNonceMismatch, kItem, "this request was taken before", "sign again");
  }
  order_.emplace_back(now, name);
  ++of_key_[call.key_id];
  return absl::OkStatus();
}

}  // namespace pavise::broker
