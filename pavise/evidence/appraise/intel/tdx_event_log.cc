#include "pavise/evidence/appraise/intel/tdx_event_log.h"

#include "pavise/base/status.h"

namespace pavise::evidence {

absl::StatusOr<PcrValues> RtmrValues(const TdReportBody& body) {
  PcrValues values;
  for (uint32_t i = 0; i < body.rtmr.size(); ++i) {
    PAVISE_RETURN_IF_ERROR(values.Set(PcrBank::kSha384, i + 1, body.rtmr[i]));
  }
  return values;
}

absl::StatusOr<VerifiedEventLog> AppraiseTdxEventLog(ByteSpan log, const VerifiedIntelQuote& quote,
                                                     CheckList& checks,
                                                     const std::set<uint32_t>& required_rtmrs) {
  constexpr std::string_view kItem = "CCEL event log";
  const auto* body = std::get_if<TdReportBody>(&quote->quote.body);
  if (body == nullptr) {
    return checks.Add(kItem, "",
                      Refuse(Reason::kUnsupported, kItem, "the quote is an SGX enclave's",
                             "give the log with the quote of its trust domain"));
  }
  const absl::StatusOr<EventLog> parsed = ParseEventLog(log, kItem);
  PAVISE_RETURN_IF_ERROR(checks.Add("event log form", "", parsed.status()));
  PAVISE_ASSIGN_OR_RETURN(const PcrValues rtmrs, RtmrValues(*body));
  EventLogRequest request = {.bank = PcrBank::kSha384, .kind = LogRegisters::kTdx, .required = {}};
  for (const uint32_t index : required_rtmrs) request.required.insert(index + 1);
  return EventLogAppraiser::Appraise(*parsed, request, rtmrs, kItem, checks);
}

}  // namespace pavise::evidence
