#ifndef PAVISE_OFFLOAD_CONVOLUTION_H_
#define PAVISE_OFFLOAD_CONVOLUTION_H_

#include <cstddef>
#include <string_view>

#include "pavise/offload/tensor.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Convolutions as products. Images are matrices with a row for each position, sample by sample, row
// of pixels by row of pixels, and a column for each channel (NHWC). Weights have a row for each tap
// and input channel, tap by tap, and a column for each output channel.
namespace pavise::offload {

// Dilation 1, one group. A 1x1 convolution with stride 1 is a product of these matrices as they
// are.
struct ConvolutionShape {
  size_t samples = 0;
  size_t height = 0;
  size_t width = 0;
  size_t channels = 0;
  size_t kernel_height = 1;
  size_t kernel_width = 1;
  size_t stride = 1;
  size_t padding = 0;  // rows and columns of zeros on every side

  size_t output_height() const { return (height + 2 * padding - kernel_height) / stride + 1; }
  size_t output_width() const { return (width + 2 * padding - kernel_width) / stride + 1; }
  size_t taps() const { return kernel_height * kernel_width; }
};

// kLimitExceeded: a size is 0 or too large, or the padded image is smaller than the kernel.
absl::Status CheckConvolution(const ConvolutionShape& shape, std::string_view item);

// A row for each output position, with the taps x channels that it sees: the convolution is this
// times the weights. `images` has samples x height x width rows (usage error).
absl::StatusOr<Matrix> ImageToColumns(const ConvolutionShape& shape, MatrixView images,
                                      std::string_view item);
absl::StatusOr<ResidueMatrix> ImageToColumns(const ConvolutionShape& shape,
                                             ViewOf<const int8_t> images, std::string_view item);
// The transposed map, which gradients take: overlapping contributions are added.
absl::StatusOr<Matrix> ColumnsToImage(const ConvolutionShape& shape, MatrixView columns,
                                      std::string_view item);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_CONVOLUTION_H_
