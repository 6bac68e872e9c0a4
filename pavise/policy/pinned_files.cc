#include "pavise/policy/pinned_files.h"

namespace pavise::policy {
namespace {

void AddFiles(const EvidenceRules& rules, std::set<Digest32>& files) {
  files.insert(rules.policy);
  for (const auto& [name, digest] : rules.files) files.insert(digest);
  for (const auto& [name, digest] : rules.anchors) files.insert(digest);
}

}  // namespace

std::set<Digest32> PinnedFiles(const Agreement& agreement) {
  std::set<Digest32> files;
  for (const auto& [name, stage] : agreement.stages) {
    for (const auto& [mode, rules] : stage.modes) AddFiles(rules, files);
  }
  for (const auto& [name, rule] : agreement.rules) {
    if (rule.evidence.has_value()) AddFiles(*rule.evidence, files);
  }
  return files;
}

}  // namespace pavise::policy
