#ifndef PAVISE_LOADING_SLICE_H_
#define PAVISE_LOADING_SLICE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "pavise/model/tensor_table.h"
#include "pavise/signing/statement.h"
#include "pavise/signing/verify.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Shares of tensors for tensor-parallel programs: which bytes of a file a rank's share lies in, and
// how its elements lie in them.
namespace pavise::loading {

// One rank's share of every tensor of such a name.
struct Slice {
  std::string tensors;  // glob over tensor names
  // Is cut into equal shares. Counted from the outermost (the one whose steps are the longest), as
  // programs count: of GGUF, which lists dimensions innermost first, the last one listed is 0.
  uint64_t dimension = 0;
  uint64_t rank = 0;  // whose share: below `ranks`
  uint64_t ranks = 1;
};

// How a tensor, or a share of one, lies in its file, and so in a buffer that holds these bytes.
struct TensorView {
  // Outermost dimension first, whatever the format's own order. Strides are in elements, also of
  // types whose elements come in blocks; all 0 where there are no elements.
  std::vector<uint64_t> shape;
  std::vector<uint64_t> strides_elements;
  // Of the file: from its first element's first byte to its last one's end. Between the rows of a
  // share other shares' bytes lie here too.
  uint64_t begin_bytes = 0;
  uint64_t end_bytes = 0;
};

// All of a tensor. kMalformed where the product of its shape overflows.
absl::StatusOr<TensorView> WholeView(const model::TensorEntry& entry, model::TensorFormat format);

// A rank's share. kUnsupported: no such dimension, not divisible by the ranks, a cut inside a byte
// or block (of F4, or of quantised types along their rows), no elements, an unknown dtype.
// kMalformed: shape, dtype and length contradict each other.
absl::StatusOr<TensorView> SliceView(const Slice& slice, const model::TensorEntry& entry,
                                     model::TensorFormat format);

// The slices of one load. Not thread-safe; `slices` must outlive it.
class SliceSelection {
 public:
  explicit SliceSelection(const std::vector<Slice>& slices);

  // kInvalidArgument for a rank that is none of its ranks.
  absl::Status Validate() const;
  // signing::VerifyOptions::choose_parts: the bytes of all shares in a file. The refusals of
  // SliceView for every tensor concerned; kInvalidArgument where two slices match one tensor.
  absl::StatusOr<signing::FileParts> PartsOf(const std::string& file,
                                             const signing::FileAnnotation& signed_as);
  // After PartsOf was asked for every file: kFileMissing for globs that match nothing signed.
  absl::Status CheckMatched() const;
  // The first that matches; nullptr: none.
  const Slice* Find(const std::string& tensor) const;

 private:
  const std::vector<Slice>& slices_;
  std::vector<bool> matched_;
};

}  // namespace pavise::loading

#endif  // PAVISE_LOADING_SLICE_H_
