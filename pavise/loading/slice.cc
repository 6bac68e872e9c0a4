#include "pavise/loading/slice.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "pavise/base/glob.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::loading {
namespace {

constexpr std::string_view kOtherwise = "or load the tensor whole (--tensors)";

absl::Status CannotCut(const model::TensorEntry& entry, std::string_view detail,
                       std::string_view remedy) {
  return Refuse(Reason::kUnsupported, entry.name, detail, StrCat(remedy, ", ", kOtherwise));
}

}  // namespace

absl::StatusOr<TensorView> WholeView(const model::TensorEntry& entry, model::TensorFormat format) {
  TensorView view = {.shape = entry.shape,
                     .strides_elements = std::vector<uint64_t>(entry.shape.size(), 0),
                     .begin_bytes = entry.begin_bytes,
                     .end_bytes = entry.end_bytes};
  if (format == model::TensorFormat::kGguf) std::reverse(view.shape.begin(), view.shape.end());
  if (std::find(view.shape.begin(), view.shape.end(), 0) != view.shape.end()) return view;
  uint64_t elements = 1;
  for (size_t i = view.shape.size(); i-- > 0;) {
    view.strides_elements[i] = elements;
    if (__builtin_mul_overflow(elements, view.shape[i], &elements)) {
      return Refuse(Reason::kMalformed, entry.name, "its shape overflows");
    }
  }
  return view;
}

absl::StatusOr<TensorView> SliceView(const Slice& slice, const model::TensorEntry& entry,
                                     model::TensorFormat format) {
  PAVISE_ASSIGN_OR_RETURN(TensorView view, WholeView(entry, format));
  if (slice.dimension >= view.shape.size()) {
    return CannotCut(
        entry,
        StrCat("has ", view.shape.size(), " dimensions, and so none of number ", slice.dimension),
        "name another dimension, of which the outermost is 0");
  }
  if (view.strides_elements.front() == 0) {
    return CannotCut(entry, "has no elements to share", "leave it out of the slices");
  }
  uint64_t& length = view.shape[slice.dimension];
  if (length % slice.ranks != 0) {
    return CannotCut(entry,
                     StrCat("its dimension ", slice.dimension, " of length ", length, " has no ",
                            slice.ranks, " equal shares"),
                     "use a number of ranks that divides it, name another dimension");
  }
  const std::optional<model::ElementUnit> unit = model::ElementUnitOf(format, entry.dtype);
  if (!unit.has_value()) {
    return CannotCut(entry, StrCat("is of the unknown dtype ", entry.dtype),
                     "have the model signed with a dtype that this version knows");
  }
  const uint64_t elements = view.shape.front() * view.strides_elements.front();
  uint64_t size_bytes = 0;
  if (elements % unit->elements != 0 ||
      __builtin_mul_overflow(elements / unit->elements, unit->bytes, &size_bytes) ||
      size_bytes != entry.end_bytes - entry.begin_bytes) {
    return Refuse(Reason::kMalformed, entry.name,
                  "its signed shape and dtype contradict its signed length",
                  "ask the signer: no tensor is like this");
  }
  // A share is runs of elements, as many as the dimensions outside of the cut one have elements.
  length /= slice.ranks;
  const uint64_t run = length * view.strides_elements[slice.dimension];
  if (run % unit->elements != 0) {
    return CannotCut(entry,
                     StrCat("a cut every ", run, " elements of ", entry.dtype, " is inside a ",
                            unit->elements >= 32 ? "block" : "byte", ", which has ", unit->elements,
                            " in ", unit->bytes, unit->bytes == 1 ? " byte" : " bytes"),
                     "cut another dimension");
  }
  const auto bytes_of = [&](uint64_t count) { return count / unit->elements * unit->bytes; };
  const uint64_t stride = run * slice.ranks;
  view.begin_bytes += bytes_of(slice.rank * run);
  view.end_bytes = view.begin_bytes + bytes_of(elements - stride + run);
  return view;
}

SliceSelection::SliceSelection(const std::vector<Slice>& slices)
    : slices_(slices), matched_(slices.size(), false) {}

absl::Status SliceSelection::Validate() const {
  for (const Slice& slice : slices_) {
    if (slice.rank >= slice.ranks) {
      return UsageError(StrCat("slice ", slice.tensors, ": there is no rank ", slice.rank, " of ",
                               slice.ranks, "; ranks count from 0"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<signing::FileParts> SliceSelection::PartsOf(
    const std::string& file, const signing::FileAnnotation& signed_as) {
  signing::FileParts parts;
  std::vector<Refusal> findings;
  for (const signing::TensorDigest& digest : signed_as.tensors) {
    const model::TensorEntry& entry = digest.tensor;
    const Slice* chosen = nullptr;
    for (size_t i = 0; i < slices_.size(); ++i) {
      if (!GlobMatches(slices_[i].tensors, entry.name)) continue;
      if (chosen != nullptr) {
        return UsageError(StrCat(file, ": tensor ", entry.name, " is in two slices, ",
                                 chosen->tensors, " and ", slices_[i].tensors));
      }
      chosen = &slices_[i];
      matched_[i] = true;
    }
    if (chosen == nullptr) continue;
    const absl::StatusOr<TensorView> view = SliceView(*chosen, entry, *signed_as.tensor_format);
    if (!view.ok()) {
      const std::vector<Refusal> refusals = RefusalsOf(view.status());
      findings.insert(findings.end(), refusals.begin(), refusals.end());
      continue;
    }
    parts.ranges.emplace_back(view->begin_bytes, view->end_bytes);
    parts.not_whole.insert(entry.name);
  }
  if (!findings.empty()) return Refuse(std::move(findings));
  return parts;
}

absl::Status SliceSelection::CheckMatched() const {
  std::vector<Refusal> findings;
  for (size_t i = 0; i < slices_.size(); ++i) {
    if (matched_[i]) continue;
    findings.push_back({Reason::kFileMissing, slices_[i].tensors,
                        "no signed tensor has such a name",
                        "list the signed tensors with: pavise inspect --tensors"});
  }
  return findings.empty() ? absl::OkStatus() : Refuse(std::move(findings));
}

const Slice* SliceSelection::Find(const std::string& tensor) const {
  const auto found = std::find_if(slices_.begin(), slices_.end(), [&](const Slice& slice) {
    return GlobMatches(slice.tensors, tensor);
  });
  return found == slices_.end() ? nullptr : &*found;
}

}  // namespace pavise::loading
