#include "pavise/evidence/appraise/accepted_values.h"

#include <algorithm>
#include <string>

#include "pavise/base/strings.h"

namespace pavise::evidence {

void CheckAcceptedValue(std::string_view name, ByteSpan seen, const AcceptedValues& accepted,
                        CheckList& checks) {
  const std::string hex = ToHex(seen);
  if (!accepted.has_value()) {
    checks.Pass(name, StrCat(hex, " (not compared: no reference value was asked for)"));
    return;
  }
  if (accepted->empty()) {
    checks.Fail(name, Reason::kMeasurementUnknown, name,
                StrCat("it is ", hex, ", and the list of accepted values is empty"),
                "add the value to the reference values if it is a build that you know");
    return;
  }
  if (std::none_of(accepted->begin(), accepted->end(), [&](const Bytes& value) {
        return std::equal(value.begin(), value.end(), seen.begin(), seen.end());
      })) {
    checks.Fail(name, Reason::kMeasurementMismatch, name,
                StrCat("it is ", hex, ", none of the ", accepted->size(), " accepted values"),
                "boot the image that the reference values were made for, or accept this value");
    return;
  }
  checks.Pass(name, hex);
}

void CheckReportData(ByteSpan seen, ByteSpan expected, CheckList& checks) {
  if (!std::equal(seen.begin(), seen.end(), expected.begin(), expected.end())) {
    checks.Fail("report data", Reason::kNonceMismatch, "report data",
                StrCat("it is ", ToHex(seen), ", not ", ToHex(expected),
                       ": the evidence was made for another challenge or session"),
                "collect the evidence anew, for this challenge");
    return;
  }
  checks.Pass("report data", ToHex(seen));
}

}  // namespace pavise::evidence
