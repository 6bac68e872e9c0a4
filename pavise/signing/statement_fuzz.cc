#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "pavise/base/json.h"
#include "pavise/crypto/digest.h"
#include "pavise/signing/statement.h"

namespace pavise::signing {
namespace {

// The input with the root that its resources make: mutations of a valid statement would otherwise
// all end at the comparison of roots.
std::string WithRoot(ByteSpan text) {
  auto json = ParseJson(text, "fuzz", {.max_bytes = 1 << 20, .max_depth = 16});
  if (!json.ok() || !json->is_object() || !json->contains("predicate") ||
      !json->contains("subject")) {
    return "";
  }
  Json& subjects = (*json)["subject"];
  Json& predicate = (*json)["predicate"];
  if (!subjects.is_array() || subjects.empty() || !subjects[0].is_object() ||
      !predicate.is_object() || !predicate.contains("resources") ||
      !predicate["resources"].is_array()) {
    return "";
  }
  std::string digests;
  for (const Json& resource : predicate["resources"]) {
    if (!resource.is_object() || !resource.contains("digest")) continue;
    if (!resource["digest"].is_string()) continue;
    const auto digest = FromHex(resource["digest"].get<std::string>(), "fuzz");
    if (digest.ok()) digests += AsText(*digest);
  }
  const auto root = crypto::Sha256(AsBytes(digests));
  if (!root.ok()) return "";
  subjects[0]["digest"] = {{"sha256", ToHex(*root)}};
  return json->dump();
}

void Check(ByteSpan text) {
  auto statement = ParseStatement(text, "fuzz");
  if (!statement.ok()) return;
  const auto first = FormatStatement(*statement);
  // What is read but never written.
  const bool read_only = statement->is_release_020 || statement->resources.empty();
  if (first.ok() == read_only) std::abort();
  if (!first.ok()) return;
  auto again = ParseStatement(AsBytes(*first), "fuzz");
  if (!again.ok() || again->root != statement->root || again->model_name != statement->model_name ||
      again->model_version != statement->model_version ||
      again->resources.size() != statement->resources.size()) {
    std::abort();
  }
  const auto second = FormatStatement(*again);
  if (!second.ok() || *second != *first) std::abort();
}

}  // namespace
}  // namespace pavise::signing

// Any bytes: a refusal, or a statement that is written and read back as the same text.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pavise::signing::Check({data, size});
  const std::string repaired = pavise::signing::WithRoot({data, size});
  if (!repaired.empty()) pavise::signing::Check(pavise::AsBytes(repaired));
  return 0;
}
