// Any bytes as each kind of dataset, which the first byte chooses: read or refused, never a crash.
// What is read has as many pixels as its shape and labels say.

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/train/image_dataset.h"

namespace {

void Check(const pavise::train::ImageDataset& dataset) {
  if (dataset.count() == 0 || dataset.images.size() != dataset.count() * dataset.image_bytes())
    abort();
}

template <typename T>
bool IsRead(const absl::StatusOr<T>& result) {
  if (!result.ok() && pavise::ExitCodeOf(result.status()) != 1) abort();
  return result.ok();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const pavise::ByteSpan file(data + 2, size - 2);
  if (data[0] % 3 == 0) {
    const auto dataset = pavise::train::ParseCifar10(file, "input");
    if (IsRead(dataset)) Check(*dataset);
  } else if (data[0] % 3 == 1) {
    const auto splits = pavise::train::ParseNpz(file, "input");
    if (!IsRead(splits)) return 0;
    Check(splits->train);
    Check(splits->test);
  } else {
    // The second byte says how long the file of labels is, in eights.
    const size_t labels = std::min<size_t>(file.size(), data[1] * 8);
    const auto dataset =
        pavise::train::ParseIdx(file.subspan(labels), file.first(labels), "images", "labels");
    if (IsRead(dataset)) Check(*dataset);
  }
  return 0;
}
