#include <time.h>

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/internal/coordinator_state.h"
#include "pavise/offload/internal/frames.h"

#include "absl/strings/str_format.h"

namespace pavise::offload {
namespace {

// Rows that are measured: as many as kernels want. What a batch has more is in proportion.
constexpr size_t kRows = 128;
constexpr SgdStep kStep = {1e-3f, 0.9f, 0};

// Of all threads: a local product may use several.
double ProcessCpuSeconds() {
  timespec now = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

absl::StatusOr<Matrix> Noise(size_t rows, size_t columns, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(Matrix matrix, Matrix::Create(rows, columns, item));
  uint32_t state = 1;
  for (float& value : matrix.values()) {
    state = state * 1664525 + 1013904223;  // a linear congruence: what is in it does not matter
    value = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
  }
  return matrix;
}

}  // namespace

// A layer of noise under a key that serves for nothing else, on the workers as they are.
absl::StatusOr<LayerPlan> Coordinator::PlanLayer(const LayerSpec& spec, size_t samples) {
  LayerSpec measured = spec;
  measured.item = StrCat("plan of ", spec.item);
  const size_t positions =
      spec.convolution.has_value() ? spec.convolution->height * spec.convolution->width : 1;
  measured.max_samples = std::clamp<size_t>(kRows / positions, 1, std::max<size_t>(samples, 1));
  const size_t taps = spec.convolution.has_value() ? spec.convolution->taps() : 1;
  LayerState initial;
  PAVISE_RETURN_IF_ERROR(CheckShape(taps * spec.inputs, spec.outputs, spec.item));
  PAVISE_ASSIGN_OR_RETURN(initial.weights, Noise(taps * spec.inputs, spec.outputs, spec.item));
  PAVISE_ASSIGN_OR_RETURN(const Matrix weights, CopyOf(initial.weights, spec.item));
  PAVISE_ASSIGN_OR_RETURN(OffloadedLayer* const layer, AddLayer(measured, std::move(initial)));
  layer->impl_->stays_whole = true;
  const auto measure = [&]() -> absl::StatusOr<LayerPlan> {
    const double& cpu_seconds = layer->impl_->report.coordinator_cpu_seconds;
    const double making = cpu_seconds;
    const bool trains = state_->scheme->supports(Use::kTraining);
    PAVISE_ASSIGN_OR_RETURN(const Matrix x,
                            Noise(measured.max_samples * positions, spec.inputs, spec.item));
    double pass = 0;
    double update = 0;
    Matrix y;
    // The first time pages are touched that later ones find.
    for (int i = 0; i < 2; ++i) {
      double before = cpu_seconds;
      PAVISE_ASSIGN_OR_RETURN(Outputs outputs,
                              layer->Forward(x, trains ? Use::kTraining : Use::kInference));
      if (trains) {
        PAVISE_RETURN_IF_ERROR(layer->Backward(outputs.pass, outputs.values, true).status());
      }
      pass = cpu_seconds - before;
      before = cpu_seconds;
      if (trains) PAVISE_RETURN_IF_ERROR(layer->Update(kStep));
      update = cpu_seconds - before;
      y = std::move(outputs.values);
    }
    // Where the worker updates, its weights are fetched and checked now and then, which costs about
    // what encoding and sketching them does.
    if (layer->impl_->updates_on_worker) {
      update += making / static_cast<double>(state_->options.updates_per_checkpoint);
    }
    PAVISE_ASSIGN_OR_RETURN(const Matrix columns, Noise(y.rows(), weights.rows(), spec.item));
    const double before = ProcessCpuSeconds();
    PAVISE_RETURN_IF_ERROR(state_->MultiplyHere(Operation::kPlain, columns, weights).status());
    if (trains) {
      PAVISE_RETURN_IF_ERROR(state_->MultiplyHere(Operation::kTransposeRight, y, weights).status());
      PAVISE_RETURN_IF_ERROR(state_->MultiplyHere(Operation::kTransposeLeft, columns, y).status());
    }
    const double local = ProcessCpuSeconds() - before;
    const double scale = static_cast<double>(samples) / static_cast<double>(measured.max_samples);
    LayerPlan plan;
    plan.local_seconds = local * scale;
    plan.offload_seconds = pass * scale + update;
    plan.offloads = plan.offload_seconds < plan.local_seconds;
    plan.why = absl::StrFormat("%s: %s, %.3g ms of this CPU offloaded, %.3g ms here", spec.item,
                               plan.offloads ? "offloaded" : "stays here",
                               1e3 * plan.offload_seconds, 1e3 * plan.local_seconds);
    return plan;
  };
  absl::StatusOr<LayerPlan> plan = measure();
  layer->impl_->Reset();
  for (OffloadedLayer::Impl::Slot& slot : layer->impl_->slots) layer->impl_->LeaveWorker(slot);
  state_->layers.erase(measured.item);
  return plan;
}

}  // namespace pavise::offload
