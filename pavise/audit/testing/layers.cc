#include "pavise/audit/testing/layers.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>

#include "pavise/base/random.h"
#include "pavise/base/strings.h"
#include "pavise/offload/coordinator.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/testing/plain_worker.h"

namespace pavise::audit::testing {

using offload::Matrix;
using offload::testing::RandomMatrix;
using offload::testing::StreamOf;

namespace {

// Masks that come again, so that a run can be repeated.
class FixedRandom final : public RandomSource {
 public:
  absl::Status Fill(std::span<uint8_t> out) override {
    std::fill(out.begin(), out.end(), uint8_t{7});
    return absl::OkStatus();
  }
};

}  // namespace

PlainRun MakeRun(size_t rows, size_t k, size_t n, uint64_t seed) {
  PlainRun run;
  run.weights = RandomMatrix(k, n, seed);
  Matrix mixing = RandomMatrix(k, k, seed + 1);
  for (size_t i = 0; i < k; ++i) {
    const float size = 4 / std::sqrt(static_cast<float>(1 + i));
    for (size_t j = 0; j < k; ++j) mixing(i, j) *= size;
  }
  for (uint64_t step = 0; step < 2; ++step) {
    Matrix inputs = Multiplied(RandomMatrix(rows, k, seed + 2 + step), mixing);
    for (float& value : inputs.values()) value = std::max(value, 0.0f);
    run.inputs.push_back(std::move(inputs));
  }
  Matrix again = run.inputs[0];
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < k; ++j) again(i, j) = run.inputs[0]((i + rows / 3) % rows, j);
  }
  run.inputs.push_back(std::move(again));
  for (uint64_t step = 0; step < 3; ++step) {
    run.output_gradients.push_back(RandomMatrix(rows, n, seed + 5 + step));
  }
  return run;
}

PlainRun MakeConvolutionRun(size_t samples, size_t side, size_t channels, uint64_t seed) {
  PlainRun run;
  run.convolution = offload::ConvolutionShape{samples, side, side, channels, 3, 3, 1, 1};
  run.weights = RandomMatrix(9 * channels, channels, seed);
  const size_t rows = samples * side * side;
  for (uint64_t step = 0; step < 3; ++step) {
    // The third batch repeats the first, its samples in another order.
    const Matrix noise = RandomMatrix(rows, channels, seed + 1 + step % 2);
    Matrix& inputs = run.inputs.emplace_back(Matrix::Create(rows, channels, "inputs").value());
    for (size_t row = 0; row < rows; ++row) {
      const size_t shift = step == 2 ? side * side * (samples / 2) : 0;
      const size_t from = (row + shift) % rows;
      // Brighter to one side.
      const float level = 2 * static_cast<float>(row % side) / static_cast<float>(side) - 1.5f;
      for (size_t j = 0; j < channels; ++j) inputs(row, j) = std::max(noise(from, j) + level, 0.0f);
    }
    run.output_gradients.push_back(RandomMatrix(rows, channels, seed + 5 + step));
  }
  return run;
}

SeenLayer InTheClear(const PlainRun& run) {
  SeenLayer seen;
  seen.form.convolution = run.convolution;
  const size_t taps = run.convolution.has_value() ? run.convolution->taps() : 1;
  seen.form.shape = {run.weights.rows() / taps, run.weights.columns(), taps, run.inputs[0].rows()};
  seen.weights = run.weights;
  for (size_t i = 0; i < run.inputs.size(); ++i) {
    SeenStep& step = seen.steps.emplace_back();
    step.step = i + 1;
    step.inputs = run.inputs[i];
    step.outputs = Multiplied(
        run.convolution.has_value()
            ? offload::ImageToColumns(*run.convolution, run.inputs[i].view(), "inputs").value()
            : run.inputs[i],
        run.weights);
    step.output_gradients = run.output_gradients[i];
  }
  return seen;
}

RecordedRun Record(const PlainRun& run, std::shared_ptr<const offload::Scheme> scheme,
                   offload::Use use, offload::DType type) {
  RecordedRun recorded;
  recorded.scheme = std::make_shared<AuditedScheme>(std::move(scheme));
  std::vector<std::shared_ptr<Recording>> recordings;
  {
    std::vector<offload::WorkerSeat> seats;
    for (size_t i = 0; i < recorded.scheme->workers(); ++i) {
      const std::string name = StrCat("worker ", i + 1);
      auto worker = offload::ConnectInProcess({.name = name},
                                              offload::NewCpuDevice(offload::NewPlainProducts()));
      recordings.push_back(std::make_shared<Recording>([](size_t) { return true; }, 3));
      worker = RecordConnection(std::move(worker), recordings.back());
      seats.push_back({std::move(worker), name});
    }
    offload::CoordinatorOptions options;
    options.type = type;
    FixedRandom random;
    options.random = &random;
    const auto coordinator =
        offload::Coordinator::Create(recorded.scheme, std::move(seats), StreamOf(11), options)
            .value();
    offload::LayerSpec spec;
    spec.item = "layer";
    spec.inputs = run.inputs[0].columns();
    spec.outputs = run.weights.columns();
    spec.max_samples =
        run.convolution.has_value() ? run.convolution->samples : run.inputs[0].rows();
    spec.convolution = run.convolution;
    spec.is_native = run.convolution.has_value();
    offload::LayerState state;
    state.weights = run.weights;
    offload::OffloadedLayer* const layer = coordinator->AddLayer(spec, std::move(state)).value();
    for (size_t i = 0; i < run.inputs.size(); ++i) {
      const auto outputs = layer->Forward(run.inputs[i], use).value();
      if (use == offload::Use::kInference) continue;
      if (!layer->Backward(outputs.pass, run.output_gradients[i], true).ok()) return recorded;
      if (!layer->Update(offload::SgdStep{1e-9f, 0.9f, 0}).ok()) return recorded;
    }
  }
  recorded.layer.item = "layer";
  recorded.layer.seen = recordings[0]->layers().at(0);
  for (size_t i = 1; i < recordings.size(); ++i)
    recorded.layer.others.push_back(recordings[i]->layers().at(0));
  recorded.layer.plain = InTheClear(run);
  if (recorded.layer.seen.form.moduli.empty()) {
    recorded.layer.keys = recorded.scheme->KeysOf("layer");
  }
  return recorded;
}

Matrix Perturbed(const Matrix& weights, double distance, uint64_t seed) {
  const Matrix noise = RandomMatrix(weights.rows(), weights.columns(), seed);
  double norm = 0, noise_norm = 0;
  for (size_t i = 0; i < weights.values().size(); ++i) {
    norm += weights.values()[i] * weights.values()[i];
    noise_norm += noise.values()[i] * noise.values()[i];
  }
  Matrix out = weights;
  const double size = distance * std::sqrt(norm / noise_norm);
  for (size_t i = 0; i < out.values().size(); ++i) {
    out.values()[i] += static_cast<float>(size * noise.values()[i]);
  }
  return out;
}

Matrix Multiplied(const Matrix& a, const Matrix& b) {
  Matrix out = Matrix::Create(a.rows(), b.columns(), "product").value();
  for (size_t i = 0; i < a.rows(); ++i) {
    for (size_t l = 0; l < a.columns(); ++l) {
      const float left = a(i, l);
      for (size_t j = 0; j < b.columns(); ++j) out(i, j) += left * b(l, j);
    }
  }
  return out;
}

Matrix MultipliedByTransposed(const Matrix& a, const Matrix& b) {
  return Multiplied(a, offload::Transposed(b, "b").value());
}

// Gram and Schmidt, on noise.
Matrix RandomRotation(size_t size, uint64_t seed) {
  Matrix out = RandomMatrix(size, size, seed);
  for (size_t i = 0; i < size; ++i) {
    const auto inner = [&](size_t a, size_t b) {
      double sum = 0;
      for (size_t j = 0; j < size; ++j) sum += out(a, j) * out(b, j);
      return sum;
    };
    for (size_t other = 0; other < i; ++other) {
      const double along = inner(i, other);
      for (size_t j = 0; j < size; ++j) out(i, j) -= static_cast<float>(along * out(other, j));
    }
    const double norm = std::sqrt(inner(i, i));
    for (size_t j = 0; j < size; ++j) out(i, j) = static_cast<float>(out(i, j) / norm);
  }
  return out;
}

SeenLayer Rotated(const SeenLayer& plain, uint64_t seed) {
  const Matrix rotation = RandomRotation(plain.weights.rows(), seed);
  SeenLayer seen = plain;
  seen.weights = Multiplied(rotation, plain.weights);
  for (SeenStep& step : seen.steps) step.inputs = MultipliedByTransposed(step.inputs, rotation);
  return seen;
}

}  // namespace pavise::audit::testing
