#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/ledger/bundle.h"

// Any input under the key that signed the corpus's bundles: what is accepted has its text again,
// and no other checkpoint than theirs is.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;          // NOLINT: a fuzz target is one function
  using namespace pavise::ledger;  // NOLINT
  static const CheckpointTrust* const trust = new CheckpointTrust{
      *NoteKey::Parse("broker.example/ledger+94ac1f60+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c",
                      "key"),
      {},
      0};
  const auto bundle = ParseBundle({data, size}, "fuzz");
  if (!bundle.ok()) {
    if (ExitCodeOf(bundle.status()) != 1) std::abort();
    return 0;
  }
  const std::string text = FormatBundle(*bundle);
  const auto again = ParseBundle(AsBytes(text), "again");
  if (!again.ok() || FormatBundle(*again) != text) std::abort();
  const auto verified = BundleVerifier::Verify(*bundle, *trust, "fuzz");
  if (!verified.ok() && ExitCodeOf(verified.status()) != 1) std::abort();
  if (verified.ok() && (*verified)->checkpoint.checkpoint().size != 17) std::abort();
  return 0;
}
