// The input is an IMA log, binary, in either byte order. What is accepted is appraised by a small
// policy; every refusal must be one.

#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/evidence/appraise/ima/ima_appraiser.h"

namespace {

void Try(pavise::ByteSpan bytes, pavise::evidence::ImaForm form) {
  using namespace pavise::evidence;
  const auto log = ParseImaLog(bytes, form, "input");
  if (!log.ok()) {
    if (pavise::ExitCodeOf(log.status()) != 1) abort();
    return;
  }
  static const ImaPolicy policy = *ImaPolicy::Create({.excludes = {"/*"}});
  PcrValues quoted;
  if (!quoted.Set(PcrBank::kSha1, kImaRegister, pavise::Bytes(20, 1)).ok()) abort();
  ImaState state;
  CheckList checks;
  const auto verified =
      ImaAppraiser::Appraise(*log, PcrBank::kSha1, quoted, policy, "input", state, checks);
  if (verified.ok() || pavise::ExitCodeOf(verified.status()) != 1) abort();
  for (const ImaEntry& entry : log->entries) {
    const auto answer = policy.Appraise(entry, "input");
    if (!answer.ok() && pavise::ExitCodeOf(answer.status()) != 1) abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Try({data, size}, pavise::evidence::ImaForm::kLittleEndian);
  Try({data, size}, pavise::evidence::ImaForm::kBigEndian);
  return 0;
}
