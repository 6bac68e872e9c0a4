#ifndef PAVISE_AUDIT_INTERNAL_EIGEN_H_
#define PAVISE_AUDIT_INTERNAL_EIGEN_H_

#include <algorithm>

#include "pavise/offload/tensor.h"

#include "Eigen/Dense"

// Matrices as Eigen has them.
namespace pavise::audit::internal {

using Floats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

inline Eigen::Map<const Floats> EigenOf(const offload::Matrix& m) {
  return {m.values().data(), static_cast<Eigen::Index>(m.rows()),
          static_cast<Eigen::Index>(m.columns())};
}

// A copy. Its size is that of something that was in memory already.
inline offload::Matrix MatrixFrom(const Floats& m) {
  auto out = offload::Matrix::Create(static_cast<size_t>(m.rows()), static_cast<size_t>(m.cols()),
                                     "matrix");
  if (!out.ok()) throw std::bad_alloc();  // as Eigen itself does
  std::copy(m.data(), m.data() + m.size(), out->values().begin());
  return *std::move(out);
}

}  // namespace pavise::audit::internal

#endif  // PAVISE_AUDIT_INTERNAL_EIGEN_H_
