#include "pavise/offload/testing/plain_worker.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>

namespace pavise::offload::testing {
namespace {

template <typename T>
MatrixOf<T> New(size_t rows, size_t columns) {
  return MatrixOf<T>::Create(rows, columns, "test").value();
}

Matrix Multiply(Operation operation, MatrixView a, MatrixView b, int) {
  return Product64(operation, a, b);
}
ResidueMatrix Multiply(Operation operation, ViewOf<const int8_t> a, ViewOf<const int8_t> b,
                       int modulus) {
  return ModularProduct(operation, a, b, modulus).value();
}

float Sum(float a, float b, int) { return a + b; }
int8_t Sum(int8_t a, int8_t b, int modulus) { return Centered(a + b, modulus); }

// The im2col of any element type.
template <typename T>
MatrixOf<T> Columns(const ConvolutionShape& shape, const MatrixOf<T>& images) {
  Matrix floats = New<float>(images.rows(), images.columns());
  std::copy(images.values().begin(), images.values().end(), floats.values().begin());
  const Matrix columns = ImageToColumns(shape, floats, "test").value();
  MatrixOf<T> out = New<T>(columns.rows(), columns.columns());
  for (size_t i = 0; i < columns.values().size(); ++i) {
    out.values()[i] = static_cast<T>(columns.values()[i]);
  }
  return out;
}

template <typename T>
MatrixOf<T> ForwardOf(const Geometry& geometry, const MatrixOf<T>& x, const MatrixOf<T>& w, int p) {
  if (!geometry.is_native) return Multiply(Operation::kPlain, x, w, p);
  return Multiply(Operation::kPlain, Columns(geometry.convolution, x), w, p);
}

template <typename T>
MatrixOf<T> InputGradientOf(const Geometry& geometry, const MatrixOf<T>& dy, const MatrixOf<T>& w,
                            int p) {
  const MatrixOf<T> columns = Multiply(Operation::kTransposeRight, dy, w, p);
  if (!geometry.is_native) return columns;
  // Which column entry belongs to which pixel: the im2col of the pixels' own numbers, from 1.
  const ConvolutionShape& shape = geometry.convolution;
  const size_t pixels = shape.samples * shape.height * shape.width;
  ConvolutionShape one = shape;
  one.channels = 1;
  Matrix numbers = New<float>(pixels, 1);
  for (size_t i = 0; i < pixels; ++i) numbers(i, 0) = static_cast<float>(i + 1);
  const Matrix map = ImageToColumns(one, numbers, "test").value();
  MatrixOf<T> out = New<T>(pixels, shape.channels);
  for (size_t row = 0; row < map.rows(); ++row) {
    for (size_t tap = 0; tap < map.columns(); ++tap) {
      const size_t pixel = static_cast<size_t>(map(row, tap));
      if (pixel == 0) continue;
      for (size_t c = 0; c < shape.channels; ++c) {
        T& to = out(pixel - 1, c);
        to = Sum(to, columns(row, tap * shape.channels + c), p);
      }
    }
  }
  return out;
}

template <typename T>
MatrixOf<T> WeightGradientOf(const Geometry& geometry, const MatrixOf<T>& x, const MatrixOf<T>& dy,
                             int p) {
  if (!geometry.is_native) return Multiply(Operation::kTransposeLeft, x, dy, p);
  return Multiply(Operation::kTransposeLeft, Columns(geometry.convolution, x), dy, p);
}

template <typename Compute>
Encoding ForEachWorker(const Layer& layer, const Encoding& a, const Encoding& b,
                       const Compute& compute) {
  Encoding out(a.size());
  const std::vector<int> moduli = layer.moduli();
  for (size_t w = 0; w < a.size(); ++w) {
    if (moduli.empty()) out[w].values = compute(a[w].values, b[w].values, 0);
    for (size_t p = 0; p < moduli.size(); ++p) {
      out[w].residues.push_back(compute(a[w].residues[p], b[w].residues[p], moduli[p]));
    }
  }
  return out;
}

}  // namespace

Matrix Product64(Operation operation, MatrixView a, MatrixView b) {
  const bool left = operation == Operation::kTransposeLeft;
  const bool right = operation == Operation::kTransposeRight;
  const size_t rows = left ? a.columns : a.rows;
  const size_t inner = left ? a.rows : a.columns;
  const size_t columns = right ? b.rows : b.columns;
  Matrix out = New<float>(rows, columns);
  std::vector<double> sums(columns);
  for (size_t i = 0; i < rows; ++i) {
    std::fill(sums.begin(), sums.end(), 0.0);
    for (size_t k = 0; k < inner; ++k) {
      const double factor = left ? a(k, i) : a(i, k);
      for (size_t j = 0; j < columns; ++j) {
        sums[j] += factor * static_cast<double>(right ? b(j, k) : b(k, j));
      }
    }
    for (size_t j = 0; j < columns; ++j) out(i, j) = static_cast<float>(sums[j]);
  }
  return out;
}

Encoding Forward(const Layer& layer, const Geometry& geometry, const Encoding& inputs,
                 const Encoding& weights) {
  return ForEachWorker(layer, inputs, weights, [&](const auto& x, const auto& w, int p) {
    return ForwardOf(geometry, x, w, p);
  });
}

Encoding InputGradient(const Layer& layer, const Geometry& geometry, const Encoding& gradients,
                       const Encoding& weights) {
  return ForEachWorker(layer, gradients, weights, [&](const auto& dy, const auto& w, int p) {
    return InputGradientOf(geometry, dy, w, p);
  });
}

Encoding WeightGradient(const Layer& layer, const Geometry& geometry, const Encoding& inputs,
                        const Encoding& gradients) {
  Encoding out = ForEachWorker(layer, inputs, gradients, [&](const auto& x, const auto& dy, int p) {
    return WeightGradientOf(geometry, x, dy, p);
  });
  const KeyShift& shift = layer.key_shift();
  if (shift.rows.empty()) return out;
  Matrix& gradient = out[0].values;
  for (size_t i = 0; i < gradient.rows(); ++i) {
    for (size_t j = 0; j < gradient.columns(); ++j) {
      gradient(i, j) *= shift.rows[i % shift.rows.size()] * shift.columns[j];
    }
  }
  return out;
}

Matrix RandomMatrix(size_t rows, size_t columns, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  Matrix out = New<float>(rows, columns);
  for (float& value : out.values()) value = normal(random);
  return out;
}

SecretStream StreamOf(uint64_t seed) {
  Bytes key(SecretStream::kKeyBytes);
  std::memcpy(key.data(), &seed, sizeof seed);
  return SecretStream::FromKey(SecretBytes(std::move(key))).value();
}

double RelativeDifference(MatrixView a, MatrixView b) {
  if (a.rows != b.rows || a.columns != b.columns) return INFINITY;
  double difference = 0;
  double largest = 0;
  for (size_t i = 0; i < a.rows; ++i) {
    for (size_t j = 0; j < a.columns; ++j) {
      difference = std::max(difference, std::abs(double{a(i, j)} - double{b(i, j)}));
      largest = std::max(largest, std::abs(double{b(i, j)}));
    }
  }
  return largest == 0 ? difference : difference / largest;
}

}  // namespace pavise::offload::testing
