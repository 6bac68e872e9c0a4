#include "pavise/signing/diff.h"

#include <map>
#include <set>

#include "pavise/base/strings.h"
#include "pavise/signing/internal/file_digests.h"

#include "absl/strings/str_join.h"

namespace pavise::signing {
namespace {

struct TensorSide {
  const TensorDigest* digest = nullptr;
  std::string path;
};

// A name may stand in several files; each of them is one entry.
std::multimap<std::string, TensorSide> TensorsOf(
    const std::map<std::string, internal::FileResources>& files) {
  std::multimap<std::string, TensorSide> tensors;
  for (const auto& [path, side] : files) {
    if (side.annotation == nullptr) continue;
    for (const TensorDigest& digest : side.annotation->tensors) {
      tensors.emplace(digest.tensor.name, TensorSide{&digest, path});
    }
  }
  return tensors;
}

std::string Describe(const model::TensorEntry& tensor) {
  return StrCat(tensor.dtype, " [", absl::StrJoin(tensor.shape, ","), "]");
}

bool SameTensor(const TensorDigest& a, const TensorDigest& b) {
  return a.tensor.dtype == b.tensor.dtype && a.tensor.shape == b.tensor.shape &&
         a.blake3 == b.blake3;
}

enum class Comparison { kSame, kDifferent, kIncomparable };

Comparison CompareFiles(const internal::FileResources& before,
                        const internal::FileResources& after) {
  if (before.annotation != nullptr && after.annotation != nullptr) {
    return before.annotation->blake3 == after.annotation->blake3 &&
                   before.annotation->size_bytes == after.annotation->size_bytes
               ? Comparison::kSame
               : Comparison::kDifferent;
  }
  const auto comparable = [](const Resource& a, const Resource& b) {
    return a.algorithm == b.algorithm;
  };
  if (!comparable(*before.resources.front(), *after.resources.front())) {
    return Comparison::kIncomparable;
  }
  if (before.resources.size() != after.resources.size()) return Comparison::kDifferent;
  for (size_t i = 0; i < before.resources.size(); ++i) {
    const Resource& a = *before.resources[i];
    const Resource& b = *after.resources[i];
    if (a.begin_bytes != b.begin_bytes || a.end_bytes != b.end_bytes || a.digest != b.digest) {
      return Comparison::kDifferent;
    }
  }
  return Comparison::kSame;
}

std::string DescribeSizes(const internal::FileResources& before,
                          const internal::FileResources& after) {
  if (before.annotation == nullptr || after.annotation == nullptr ||
      before.annotation->size_bytes == after.annotation->size_bytes) {
    return "content";
  }
  return StrCat("content, ", before.annotation->size_bytes, " -> ", after.annotation->size_bytes,
                " bytes");
}

void DiffTensors(const std::map<std::string, internal::FileResources>& before_files,
                 const std::map<std::string, internal::FileResources>& after_files,
                 StatementDiff& diff) {
  const auto before = TensorsOf(before_files);
  const auto after = TensorsOf(after_files);
  std::set<std::string> names;
  for (const auto& [name, side] : before) names.insert(name);
  for (const auto& [name, side] : after) names.insert(name);

  for (const std::string& name : names) {
    std::vector<TensorSide> old_sides;
    std::vector<TensorSide> new_sides;
    for (auto [it, end] = before.equal_range(name); it != end; ++it)
      old_sides.push_back(it->second);
    for (auto [it, end] = after.equal_range(name); it != end; ++it) new_sides.push_back(it->second);
    // Equal ones cancel out wherever they lie; what is left has changed, come or gone.
    for (auto old_side = old_sides.begin(); old_side != old_sides.end();) {
      auto match = new_sides.begin();
      while (match != new_sides.end() && !SameTensor(*old_side->digest, *match->digest)) ++match;
      if (match == new_sides.end()) {
        ++old_side;
        continue;
      }
      ++diff.tensors_unchanged;
      new_sides.erase(match);
      old_side = old_sides.erase(old_side);
    }
    size_t i = 0;
    for (; i < old_sides.size() && i < new_sides.size(); ++i) {
      const model::TensorEntry& a = old_sides[i].digest->tensor;
      const model::TensorEntry& b = new_sides[i].digest->tensor;
      const bool same_type = a.dtype == b.dtype && a.shape == b.shape;
      diff.tensors.push_back({Change::kChanged, name,
                              same_type ? StrCat("content, ", Describe(b))
                                        : StrCat(Describe(a), " -> ", Describe(b))});
    }
    for (size_t j = i; j < old_sides.size(); ++j) {
      diff.tensors.push_back(
          {Change::kRemoved, name,
           StrCat(Describe(old_sides[j].digest->tensor), " from ", old_sides[j].path)});
    }
    for (size_t j = i; j < new_sides.size(); ++j) {
      diff.tensors.push_back(
          {Change::kAdded, name,
           StrCat(Describe(new_sides[j].digest->tensor), " in ", new_sides[j].path)});
    }
  }
}

}  // namespace

StatementDiff DiffStatements(const Statement& before, const Statement& after) {
  StatementDiff diff;
  const auto before_files = internal::ResourcesByPath(before);
  const auto after_files = internal::ResourcesByPath(after);
  bool before_annotated = false;
  bool after_annotated = false;
  for (const auto& [path, side] : before_files) {
    before_annotated = before_annotated || side.annotation != nullptr;
    const auto it = after_files.find(path);
    if (it == after_files.end()) {
      diff.files.push_back({Change::kRemoved, path, ""});
      continue;
    }
    switch (CompareFiles(side, it->second)) {
      case Comparison::kSame:
        break;
      case Comparison::kDifferent:
        diff.files.push_back({Change::kChanged, path, DescribeSizes(side, it->second)});
        break;
      case Comparison::kIncomparable:
        diff.notes.push_back(StrCat(
            path, ": cannot be compared, the signatures use different digests (",
            side.resources.front()->algorithm, ", ", it->second.resources.front()->algorithm, ")"));
        break;
    }
  }
  for (const auto& [path, side] : after_files) {
    after_annotated = after_annotated || side.annotation != nullptr;
    if (!before_files.contains(path)) diff.files.push_back({Change::kAdded, path, ""});
  }
  // Without tables on one side every tensor would look added or removed.
  if (before_annotated && after_annotated) {
    DiffTensors(before_files, after_files, diff);
  } else {
    diff.notes.push_back(
        StrCat(before_annotated  ? "the newer"
               : after_annotated ? "the older"
                                 : "neither",
               before_annotated || after_annotated
                   ? " signature carries no tensor tables: tensors are not compared"
                   : " signature carries tensor tables: tensors are not compared"));
  }
  return diff;
}

}  // namespace pavise::signing
