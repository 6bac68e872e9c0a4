#include <benchmark/benchmark.h>
#include <malloc.h>
#include <time.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "pavise/base/random.h"
#include "pavise/offload/checks/sketch.h"
#include "pavise/offload/coordinator.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/fused_pass.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/none.h"
#include "pavise/offload/onednn/onednn_products.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/tempo.h"

// What the coordinator pays for each element between two offloaded layers: one thread, fp32 in,
// bf16 out, everything else fp32. ns_per_element is CPU time. Every benchmark first compares its
// answer with the plain implementation's.
namespace pavise::offload {
namespace {

enum class Kind {
  kConvert,
  kEncode,
  kDecode,
  kForwardGelu,
  kForwardNorm,
  kBackwardGelu,
  kBackwardNorm
};

Matrix Gaussian(size_t rows, size_t columns) {
  SecretStream stream = SecretStream::FromKey(SecretBytes(Bytes(SecretStream::kKeyBytes))).value();
  const auto numbers = stream.Gaussians(rows * columns).value();
  Matrix matrix = Matrix::Create(rows, columns, "bench").value();
  for (size_t i = 0; i < numbers.size(); ++i) matrix.values()[i] = static_cast<float>(numbers[i]);
  return matrix;
}

std::unique_ptr<Scheme> SchemeOf(int64_t index) {
  if (index == 0) return NewNoneScheme();
  return index == 1 ? NewTempoScheme().value() : NewOrthogonalScheme().value();
}

void BM_FusedPass(benchmark::State& state, Kind kind) {
  const auto scheme = SchemeOf(state.range(0));
  const size_t rows = static_cast<size_t>(state.range(1));
  const size_t columns = static_cast<size_t>(state.range(2));
  SecretStream stream = SecretStream::Random(SystemRandom()).value();
  StepShape shape = {.samples = rows};
  shape.grouping = stream.Permutation(rows).value();
  const auto layer = [&](const char* label) {
    return scheme
        ->NewLayer(label, {.inputs = columns, .outputs = columns, .max_rows = rows},
                   stream.Derive(label).value())
        .value();
  };
  const auto before_layer = layer("before");
  const auto after_layer = layer("after");
  const auto before = before_layer->NewStep(shape, Use::kTraining).value();
  const auto after = after_layer->NewStep(shape, Use::kTraining).value();

  const Matrix in = Gaussian(rows, columns);
  const Matrix other = in;
  Matrix plain_in_full = Matrix::Create(rows, columns, "bench").value();
  const std::vector<float> vector(columns, 0.5f);
  std::vector<float> gradients[3] = {vector, vector, vector};
  std::vector<uint16_t> out(rows * columns);
  FusedPass pass;
  pass.rows = rows;
  pass.columns = columns;
  pass.in = in;
  pass.out_bf16 = {out.data(), rows, columns, columns};
  pass.is_backward = kind == Kind::kBackwardGelu || kind == Kind::kBackwardNorm;
  if (kind != Kind::kEncode) {
    pass.decode =
        pass.is_backward ? after->keys(Wire::kInputGradients) : before->keys(Wire::kOutputs);
  }
  if (kind != Kind::kDecode) {
    pass.encode =
        pass.is_backward ? before->keys(Wire::kOutputGradients) : after->keys(Wire::kInputs);
  }
  if (kind == Kind::kForwardGelu || kind == Kind::kBackwardGelu)
    pass.activation = Activation::kGelu;
  if (kind == Kind::kForwardNorm || kind == Kind::kBackwardNorm) {
    pass.gamma = pass.beta = vector;
    pass.residual = other;
  }
  if (kind == Kind::kForwardGelu || kind == Kind::kForwardNorm) {
    pass.bias = vector;
    pass.sum = plain_in_full.view();  // what the backward pass will need
  }
  if (pass.is_backward) {
    pass.saved = other;
    pass.bias_gradient = gradients[0];
    if (kind == Kind::kBackwardNorm) {
      pass.gamma_gradient = gradients[1];
      pass.beta_gradient = gradients[2];
      pass.plain = plain_in_full.view();
    }
  }
  FusedWorkspace workspace;
  if (!RunPlainPass(pass).ok()) return state.SkipWithError("no plain result");
  const std::vector<uint16_t> expected = out;
  if (!RunFusedPass(pass, 0, PartsOf(pass), workspace).ok())
    return state.SkipWithError("no kernel");
  for (size_t i = 0; i < out.size(); ++i) {
    const float plain = FloatFromBf16(expected[i]);
    if (std::abs(FloatFromBf16(out[i]) - plain) > 0.01f * std::abs(plain) + 1e-4f) {
      return state.SkipWithError("wrong answer");
    }
  }
  for (auto _ : state) {
    (void)RunFusedPass(pass, 0, PartsOf(pass), workspace);
    benchmark::ClobberMemory();
  }
  state.SetLabel(std::string(scheme->name()) + " " + std::string(FusedPassTarget()));
  state.counters["ns_per_element"] = benchmark::Counter(
      static_cast<double>(rows * columns) * 1e-9,
      benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

// Scheme (0: none, 1: tempo, 2: orthogonal), rows, columns: 8 x 197 tokens at ViT-Base's widths,
// and 4 x 256 at those of large blocks.
void Shapes(benchmark::internal::Benchmark* bench) {
  for (const int64_t scheme : {1, 2}) {
    for (const auto& [rows, columns] :
         {std::pair<int64_t, int64_t>{1576, 768}, {1576, 3072}, {1024, 4096}, {1024, 16384}}) {
      bench->Args({scheme, rows, columns});
    }
  }
}
BENCHMARK_CAPTURE(BM_FusedPass, convert, Kind::kConvert)
    ->Args({0, 1576, 768})
    ->Args({0, 1024, 16384});
BENCHMARK_CAPTURE(BM_FusedPass, encode, Kind::kEncode)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_FusedPass, decode, Kind::kDecode)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_FusedPass, forward_gelu, Kind::kForwardGelu)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_FusedPass, forward_norm, Kind::kForwardNorm)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_FusedPass, backward_gelu, Kind::kBackwardGelu)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_FusedPass, backward_norm, Kind::kBackwardNorm)->Apply(Shapes);

// A matrix, or its transpose, times the vectors of a check.
void BM_Sketch(benchmark::State& state) {
  const Matrix m = Gaussian(1576, 3072);
  const bool is_transposed = state.range(1) != 0;
  SecretStream stream = SecretStream::Random(SystemRandom()).value();
  const Sketch v = DrawVectors(is_transposed ? m.rows() : m.columns(),
                               static_cast<size_t>(state.range(0)), stream)
                       .value();
  double expected = 0;
  for (size_t i = 0; i < v.rows; ++i) {
    expected += v.Row(i)[0] * double{is_transposed ? m(i, 0) : m(0, i)};
  }
  for (auto _ : state) {
    const Sketch product = is_transposed ? TransposedTimes(m, v) : Times(m, v);
    if (std::abs(product.Row(0)[0] - expected) > 1e-6) return state.SkipWithError("wrong answer");
  }
  state.counters["ns_per_element"] =
      benchmark::Counter(1576.0 * 3072 * 1e-9, benchmark::Counter::kIsIterationInvariantRate |
                                                   benchmark::Counter::kInvert);
}
BENCHMARK(BM_Sketch)
    ->ArgNames({"vectors", "transposed"})
    ->Args({2, 0})
    ->Args({8, 0})
    ->Args({2, 1})
    ->Args({8, 1});

double ThreadCpuSeconds() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The four linear layers of a transformer block, forward, backward and update, as a coordinator has
// them done by a worker in this process: the CPU time of the coordinator's thread (encoding,
// rounding, checking, decoding; no transport, and nothing that lies between the layers) against
// that of the same products by one thread of oneDNN. Layers are not fused with each other.
void BM_BlockOfLinearLayers(benchmark::State& state) {
  const size_t width = static_cast<size_t>(state.range(1));
  const size_t rows = width <= 768 ? 8 * 197 : 4 * 256;
  // Pages that go back to the system between batches cost more to get again than the work on them.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 256 << 20);
  const std::shared_ptr<HostProducts> products = NewOneDnnProducts(1);
  if (products == nullptr) return state.SkipWithError("no oneDNN");
  CoordinatorOptions options;
  options.local_product = [&](Operation operation, MatrixView a,
                              MatrixView b) -> absl::StatusOr<Matrix> {
    const bool left = operation == Operation::kTransposeLeft;
    auto out = Matrix::Create(left ? a.columns : a.rows,
                              operation == Operation::kTransposeRight ? b.rows : b.columns, "y");
    const absl::Status status = products->Floats(operation, a, b, false, out->view());
    if (!status.ok()) return status;
    return out;
  };
  auto coordinator =
      Coordinator::Create(
          SchemeOf(state.range(0)),
          {{ConnectInProcess({.name = "worker"}, NewCpuDevice(NewOneDnnProducts(1))), "bench"}},
          SecretStream::FromKey(SecretBytes(Bytes(SecretStream::kKeyBytes))).value(), options)
          .value();
  double local_seconds = 0;
  double offload_seconds = 0;
  struct Part {
    OffloadedLayer* layer;
    Matrix x, dy;
  };
  std::vector<Part> parts;
  for (const auto& [inputs, outputs] : {std::pair<size_t, size_t>{width, 3 * width},
                                        {width, width},
                                        {width, 4 * width},
                                        {4 * width, width}}) {
    LayerSpec spec;
    spec.item = "layer " + std::to_string(parts.size());
    spec.inputs = inputs;
    spec.outputs = outputs;
    spec.max_samples = rows;
    LayerState initial;
    initial.weights = Gaussian(inputs, outputs);
    const Matrix weights = initial.weights;
    Part part = {coordinator->AddLayer(spec, std::move(initial)).value(), Gaussian(rows, inputs),
                 Gaussian(rows, outputs)};
    const Matrix y = part.layer->Forward(part.x, Use::kInference)->values;
    const Matrix expected = options.local_product(Operation::kPlain, part.x, weights).value();
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < y.values().size(); ++i) {
      error += std::pow(y.values()[i] - expected.values()[i], 2);
      norm += std::pow(expected.values()[i], 2);
    }
    if (!(std::sqrt(error / norm) < 0.01)) return state.SkipWithError("wrong answer");
    const double before = ThreadCpuSeconds();
    (void)options.local_product(Operation::kPlain, part.x, weights);
    (void)options.local_product(Operation::kTransposeRight, part.dy, weights);
    (void)options.local_product(Operation::kTransposeLeft, part.x, part.dy);
    local_seconds += ThreadCpuSeconds() - before;
    parts.push_back(std::move(part));
  }
  for (auto _ : state) {
    const double before = ThreadCpuSeconds();
    for (Part& part : parts) {
      const auto outputs = part.layer->Forward(part.x, Use::kTraining);
      if (!outputs.ok() || !part.layer->Backward(outputs->pass, part.dy, true).ok() ||
          !part.layer->Update(SgdStep{1e-9f, 0.9f, 0}).ok()) {
        return state.SkipWithError("refused");
      }
    }
    offload_seconds += ThreadCpuSeconds() - before;
  }
  offload_seconds /= static_cast<double>(state.iterations());
  state.counters["coordinator_cpu_s"] = offload_seconds;
  state.counters["products_cpu_s"] = local_seconds;
  state.counters["ratio"] = local_seconds / offload_seconds;
  state.SetLabel(std::string(coordinator->Report().layers[0].scheme));
}
BENCHMARK(BM_BlockOfLinearLayers)
    ->ArgNames({"scheme", "width"})
    ->ArgsProduct({{1, 2}, {256, 768, 2048, 4096}})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace pavise::offload

BENCHMARK_MAIN();
