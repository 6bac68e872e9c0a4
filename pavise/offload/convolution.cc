#include "pavise/offload/convolution.h"

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/scheme.h"

namespace pavise::offload {
namespace {

// Calls visit(output row, tap, image row) for each tap that falls on a pixel.
template <typename Visit>
void ForEachTap(const ConvolutionShape& shape, const Visit& visit) {
  size_t output_row = 0;
  for (size_t sample = 0; sample < shape.samples; ++sample) {
    for (size_t y = 0; y < shape.output_height(); ++y) {
      for (size_t x = 0; x < shape.output_width(); ++x, ++output_row) {
        for (size_t tap = 0; tap < shape.taps(); ++tap) {
          // One that lies in the padding before the image wraps to a number over any size.
          const size_t row = y * shape.stride + tap / shape.kernel_width - shape.padding;
          const size_t column = x * shape.stride + tap % shape.kernel_width - shape.padding;
          if (row >= shape.height || column >= shape.width) continue;
          visit(output_row, tap, (sample * shape.height + row) * shape.width + column);
        }
      }
    }
  }
}

size_t OutputRows(const ConvolutionShape& shape) {
  return shape.samples * shape.output_height() * shape.output_width();
}

template <typename T>
absl::StatusOr<MatrixOf<T>> ColumnsOf(const ConvolutionShape& shape, ViewOf<const T> images,
                                      std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckConvolution(shape, item));
  if (images.rows != shape.samples * shape.height * shape.width ||
      images.columns != shape.channels) {
    return UsageError(StrCat(item, ": images of another shape than the convolution's"));
  }
  PAVISE_ASSIGN_OR_RETURN(
      auto out, MatrixOf<T>::Create(OutputRows(shape), shape.taps() * shape.channels, item));
  ForEachTap(shape, [&](size_t output_row, size_t tap, size_t image_row) {
    for (size_t c = 0; c < shape.channels; ++c) {
      out(output_row, tap * shape.channels + c) = images(image_row, c);
    }
  });
  return out;
}

}  // namespace

absl::Status CheckConvolution(const ConvolutionShape& shape, std::string_view item) {
  constexpr size_t kMaxSide = size_t{1} << 16;
  const auto refuse = [&](std::string_view what) {
    return Refuse(Reason::kLimitExceeded, item, what);
  };
  for (const size_t side : {shape.height, shape.width, shape.kernel_height, shape.kernel_width,
                            shape.stride, shape.samples, shape.channels}) {
    if (side < 1 || side > kMaxSide) return refuse(StrCat("a size is ", side));
  }
  if (shape.padding > kMaxSide || shape.kernel_height > shape.height + 2 * shape.padding ||
      shape.kernel_width > shape.width + 2 * shape.padding) {
    return refuse("the kernel is larger than the padded image, or the padding too large");
  }
  // No factor is over 2^18, so that products of two or three fit in 64 bits before they are
  // checked.
  PAVISE_RETURN_IF_ERROR(CheckShape(shape.height * shape.width, shape.samples, item));
  PAVISE_RETURN_IF_ERROR(
      CheckShape(shape.samples * shape.height * shape.width, shape.channels, item));
  PAVISE_RETURN_IF_ERROR(
      CheckShape(shape.output_height() * shape.output_width(), shape.samples, item));
  PAVISE_RETURN_IF_ERROR(CheckShape(shape.taps(), shape.channels, item));
  return CheckShape(OutputRows(shape), shape.taps() * shape.channels, item);
}

absl::StatusOr<Matrix> ImageToColumns(const ConvolutionShape& shape, MatrixView images,
                                      std::string_view item) {
  return ColumnsOf(shape, images, item);
}

absl::StatusOr<ResidueMatrix> ImageToColumns(const ConvolutionShape& shape,
                                             ViewOf<const int8_t> images, std::string_view item) {
  return ColumnsOf(shape, images, item);
}

absl::StatusOr<Matrix> ColumnsToImage(const ConvolutionShape& shape, MatrixView columns,
                                      std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckConvolution(shape, item));
  if (columns.rows != OutputRows(shape) || columns.columns != shape.taps() * shape.channels) {
    return UsageError(StrCat(item, ": columns of another shape than the convolution's"));
  }
  PAVISE_ASSIGN_OR_RETURN(
      Matrix out, Matrix::Create(shape.samples * shape.height * shape.width, shape.channels, item));
  ForEachTap(shape, [&](size_t output_row, size_t tap, size_t image_row) {
    for (size_t c = 0; c < shape.channels; ++c) {
      out(image_row, c) += columns(output_row, tap * shape.channels + c);
    }
  });
  return out;
}

}  // namespace pavise::offload
