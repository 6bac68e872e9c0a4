#include "pavise/offload/fused_pass.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "pavise/base/status.h"
#include "pavise/offload/internal/axis_key.h"

namespace pavise::offload {
namespace {

double NormalCdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

double Activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kGelu:
      return x * NormalCdf(x);
  }
  return x;
}

double Derivative(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return 1;
    case Activation::kRelu:
      return x > 0 ? 1 : 0;
    case Activation::kGelu:
      return NormalCdf(x) +
             x * std::exp(-x * x / 2) * (std::numbers::inv_sqrtpi / std::numbers::sqrt2);
  }
  return 1;
}

struct Moments {
  double mean = 0;
  double inverse_deviation = 0;
};
Moments MomentsOf(MatrixView m, size_t row, float epsilon) {
  double sum = 0;
  double square = 0;
  const double n = static_cast<double>(m.columns);
  for (size_t j = 0; j < m.columns; ++j) sum += m(row, j);
  const double mean = sum / n;
  for (size_t j = 0; j < m.columns; ++j) square += (m(row, j) - mean) * (m(row, j) - mean);
  return {mean, 1 / std::sqrt(square / n + double{epsilon})};
}

void ForwardRow(const FusedPass& pass, size_t i, Matrix& v) {
  for (size_t j = 0; j < pass.columns; ++j) {
    if (!pass.bias.empty()) v(i, j) += pass.bias[j];
    if (pass.residual.data != nullptr) v(i, j) += pass.residual(i, j);
    if (pass.sum.data != nullptr) pass.sum(i, j) = v(i, j);
  }
  if (!pass.gamma.empty()) {
    const Moments moments = MomentsOf(v, i, pass.epsilon);
    for (size_t j = 0; j < pass.columns; ++j) {
      v(i, j) = static_cast<float>(
          (v(i, j) - moments.mean) * moments.inverse_deviation * pass.gamma[j] + pass.beta[j]);
    }
    return;
  }
  for (size_t j = 0; j < pass.columns; ++j) {
    v(i, j) = static_cast<float>(Activate(pass.activation, v(i, j)));
  }
}

void BackwardRow(const FusedPass& pass, size_t i, Matrix& v) {
  const double n = static_cast<double>(pass.columns);
  if (!pass.gamma.empty()) {
    const Moments moments = MomentsOf(pass.saved, i, pass.epsilon);
    double sum = 0;
    double dot = 0;
    const auto normalised = [&](size_t j) {
      return (pass.saved(i, j) - moments.mean) * moments.inverse_deviation;
    };
    for (size_t j = 0; j < pass.columns; ++j) {
      const double g = double{v(i, j)} * pass.gamma[j];
      sum += g;
      dot += g * normalised(j);
      if (pass.gamma_gradient.empty()) continue;
      pass.gamma_gradient[j] += static_cast<float>(v(i, j) * normalised(j));
      pass.beta_gradient[j] += v(i, j);
    }
    for (size_t j = 0; j < pass.columns; ++j) {
      const double g = double{v(i, j)} * pass.gamma[j];
      v(i, j) =
          static_cast<float>(moments.inverse_deviation * (g - sum / n - normalised(j) * dot / n));
    }
  } else if (pass.activation != Activation::kNone) {
    for (size_t j = 0; j < pass.columns; ++j) {
      v(i, j) = static_cast<float>(v(i, j) * Derivative(pass.activation, pass.saved(i, j)));
    }
  }
  for (size_t j = 0; j < pass.columns; ++j) {
    if (pass.residual.data != nullptr) v(i, j) += pass.residual(i, j);
    if (!pass.bias_gradient.empty()) pass.bias_gradient[j] += v(i, j);
  }
}

template <typename T>
bool Fits(const ViewOf<T>& view, const FusedPass& pass) {
  return view.data == nullptr ||
         (view.rows == pass.rows && view.columns == pass.columns && view.stride >= pass.columns);
}

}  // namespace

absl::Status CheckFusedPass(const FusedPass& pass) {
  const auto is_length = [&](size_t size) { return size == 0 || size == pass.columns; };
  if (pass.rows == 0 || pass.columns == 0 ||
      (pass.in.data == nullptr) == (pass.in_bf16.data == nullptr) || !Fits(pass.in, pass) ||
      !Fits(pass.in_bf16, pass) || !Fits(pass.residual, pass) || !Fits(pass.sum, pass) ||
      !Fits(pass.saved, pass) || !Fits(pass.plain, pass) || !Fits(pass.out, pass) ||
      !Fits(pass.out_bf16, pass) || !is_length(pass.bias.size()) || !is_length(pass.gamma.size()) ||
      !is_length(pass.bias_gradient.size()) || !is_length(pass.gamma_gradient.size()) ||
      pass.beta.size() != pass.gamma.size() ||
      pass.beta_gradient.size() != pass.gamma_gradient.size()) {
    return UsageError("fused pass: shapes do not fit");
  }
  for (const WireKeys& keys : {pass.decode, pass.encode}) {
    if ((keys.samples == nullptr) != (keys.features == nullptr) ||
        (keys.samples != nullptr && (keys.samples->size() * keys.positions != pass.rows ||
                                     keys.features->size() != pass.columns))) {
      return UsageError("fused pass: keys of other dimensions");
    }
  }
  const bool needs_saved =
      pass.is_backward && (pass.activation != Activation::kNone || !pass.gamma.empty());
  if ((pass.out.data != nullptr && pass.out_bf16.data != nullptr) ||
      (!pass.gamma.empty() && pass.activation != Activation::kNone) ||
      (!pass.gamma_gradient.empty() && pass.gamma.empty()) ||
      needs_saved != (pass.saved.data != nullptr) ||
      (pass.is_backward ? !pass.bias.empty() || pass.sum.data != nullptr
                        : !pass.bias_gradient.empty() || !pass.gamma_gradient.empty())) {
    return UsageError("fused pass: members contradict each other");
  }
  return absl::OkStatus();
}

absl::Status RunPlainPass(const FusedPass& pass) {
  PAVISE_RETURN_IF_ERROR(CheckFusedPass(pass));
  PAVISE_ASSIGN_OR_RETURN(Matrix v, Matrix::Create(pass.rows, pass.columns, "fused pass"));
  for (size_t i = 0; i < pass.rows; ++i) {
    for (size_t j = 0; j < pass.columns; ++j) {
      v(i, j) = pass.in.data != nullptr ? pass.in(i, j) : FloatFromBf16(pass.in_bf16(i, j));
    }
  }
  const internal::AxisLayout by_column = {pass.rows, pass.columns, 1};
  const auto by_sample = [&](const WireKeys& keys) -> internal::AxisLayout {
    return {1, keys.samples->size(), keys.positions * pass.columns};
  };
  if (pass.decode.samples != nullptr) {
    pass.decode.samples->Decode(pass.decode.samples_variant, by_sample(pass.decode), v.values());
    pass.decode.features->Decode(pass.decode.features_variant, by_column, v.values());
  }
  for (size_t i = 0; i < pass.rows; ++i) {
    (pass.is_backward ? BackwardRow : ForwardRow)(pass, i, v);
    if (pass.plain.data != nullptr) std::copy_n(v.view().Row(i), pass.columns, pass.plain.Row(i));
  }
  if (pass.encode.samples != nullptr) {
    pass.encode.features->Encode(pass.encode.features_variant, by_column, v.values());
    pass.encode.samples->Encode(pass.encode.samples_variant, by_sample(pass.encode), v.values());
  }
  for (size_t i = 0; i < pass.rows; ++i) {
    for (size_t j = 0; j < pass.columns; ++j) {
      if (pass.out.data != nullptr) pass.out(i, j) = v(i, j);
      if (pass.out_bf16.data != nullptr) pass.out_bf16(i, j) = Bf16FromFloat(v(i, j));
    }
  }
  return absl::OkStatus();
}

absl::Status RunPass(const FusedPass& pass, FusedWorkspace& workspace) {
  return KernelSupports(pass) ? RunFusedPass(pass, 0, PartsOf(pass), workspace)
                              : RunPlainPass(pass);
}

}  // namespace pavise::offload
