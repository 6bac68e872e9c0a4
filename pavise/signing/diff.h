#ifndef PAVISE_SIGNING_DIFF_H_
#define PAVISE_SIGNING_DIFF_H_

#include <string>
#include <vector>

#include "pavise/signing/statement.h"

namespace pavise::signing {

enum class Change { kAdded, kRemoved, kChanged };

struct DiffEntry {
  Change change = Change::kChanged;
  std::string name;    // file path or tensor name
  std::string detail;  // "F32 [4,4] -> BF16 [4,4]", "content", "moved from a.safetensors"
};

struct StatementDiff {
  std::vector<DiffEntry> files;
  // Across files, by tensor name; content compared by BLAKE3 digest, so that re-sharding a model
  // shows no changed tensor. A tensor that only moved to another file is not listed.
  std::vector<DiffEntry> tensors;
  // Tensors with the same name, type, shape and content.
  uint64_t tensors_unchanged = 0;
  // Where a side carries no tensor table.
  std::vector<std::string> notes;
};

// Files are compared by BLAKE3 root where both sides carry it, else by OMS digests where those are
// comparable (same algorithm and method), else noted. Pure.
StatementDiff DiffStatements(const Statement& before, const Statement& after);

}  // namespace pavise::signing

#endif  // PAVISE_SIGNING_DIFF_H_
