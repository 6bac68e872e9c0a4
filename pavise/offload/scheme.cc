#include "pavise/offload/scheme.h"

#include <algorithm>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::offload {
namespace {

absl::Status CheckDimension(std::string_view item, std::string_view name, size_t size) {
  if (size >= 1 && size <= kMaxDimension) return absl::OkStatus();
  return Refuse(Reason::kLimitExceeded, item,
                StrCat(name, " is ", size, ", not 1 to ", kMaxDimension));
}

}  // namespace

absl::Status CheckLayerShape(std::string_view item, const LayerShape& shape) {
  PAVISE_RETURN_IF_ERROR(CheckDimension(item, "its number of inputs", shape.inputs));
  PAVISE_RETURN_IF_ERROR(CheckDimension(item, "its number of outputs", shape.outputs));
  PAVISE_RETURN_IF_ERROR(CheckDimension(item, "its number of taps", shape.taps));
  PAVISE_RETURN_IF_ERROR(CheckDimension(item, "its number of rows", shape.max_rows));
  PAVISE_RETURN_IF_ERROR(CheckShape(shape.taps * shape.inputs, shape.outputs, item));
  return CheckShape(shape.max_rows, std::max(shape.inputs, shape.outputs), item);
}

absl::Status CheckStepShape(std::string_view item, const LayerShape& layer, const StepShape& step) {
  PAVISE_RETURN_IF_ERROR(CheckDimension(item, "its number of samples", step.samples));
  for (const size_t positions : {step.input_positions, step.output_positions}) {
    PAVISE_RETURN_IF_ERROR(CheckDimension(item, "its number of positions", positions));
    if (step.samples * positions > layer.max_rows) {
      return Refuse(Reason::kLimitExceeded, item,
                    StrCat(step.samples * positions, " rows, over the ", layer.max_rows,
                           " that the layer was made for"),
                    "send smaller batches, or make the layer with more rows");
    }
  }
  if (step.grouping.empty()) return absl::OkStatus();
  std::vector<bool> is_there(step.samples);
  for (const uint32_t sample : step.grouping) {
    if (step.grouping.size() != step.samples || sample >= step.samples || is_there[sample]) {
      return UsageError(StrCat(item, ": the grouping is no permutation of the samples"));
    }
    is_there[sample] = true;
  }
  return absl::OkStatus();
}

}  // namespace pavise::offload
