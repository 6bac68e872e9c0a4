#include <malloc.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

#include "pavise/offload/coordinator.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/layer_chain.h"
#include "pavise/offload/onednn/onednn_products.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/sgd.h"
#include "pavise/offload/tempo.h"
#include "pavise/offload/testing/sealed_connection.h"

// What a coordinator pays for one transformer block (two norms, attention, two layers with GELU,
// residuals; forward, backward, update) beside what the block costs it without workers: CPU seconds
// of one thread, in one process, on the same numbers. Both do attention here, by the same code, and
// what lies between products by the same kernels; the one multiplies with oneDNN in fp32 and
// updates its weights, the other encodes, encrypts (AES-256-GCM of all that travels), checks and
// decodes. Results are compared first. One line of JSON for each measurement: bench/offload.py.
//
//   offload_block_bench tempo|orthogonal bf16|fp32 WIDTH
//                       [CYCLES [both|alone|coordinator [here|workers]]]
//
// Where memory does not hold both, each has a process of its own, and there are no checkpoints.
// The last word says who does attention's products on the coordinator's side.
namespace pavise::offload {
namespace {

constexpr size_t kHead = 64;
constexpr SgdStep kSgd = {1e-6f, 0.9f, 1e-4f};
constexpr uint64_t kCycle = 3;  // steps from one checkpoint to the next

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "offload_block_bench: %s\n", why.c_str());
  std::exit(1);
}
void Must(const absl::Status& status) {
  if (!status.ok()) Fail(std::string(status.message()));
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Sums of four uniform numbers of variance scale^2: near enough to normal for what is timed.
Matrix Noise(size_t rows, size_t columns, float scale, uint64_t seed) {
  Matrix out = Matrix::Create(rows, columns, "noise").value();
  uint64_t state = seed * 0x9E3779B97F4A7C15 + 1;
  for (float& value : out.values()) {
    float sum = 0;
    state = state * 6364136223846793005 + 1442695040888963407;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>((state >> (8 + 14 * i)) & 0x3FFF);
    value = scale * (sum / 8192 - 4) * 0.866f;
  }
  return out;
}

struct Shape {
  size_t width, batch, tokens;
  size_t rows() const { return batch * tokens; }
};

// softmax(Q K^T / 8) V for each sample and head, by this thread.
class Attention {
 public:
  // By workers: the products, each under a key of its own (Coordinator::Products). Not owned.
  Coordinator* workers = nullptr;

  explicit Attention(const Shape& shape)
      : shape_(shape),
        heads_(shape.width / kHead),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_),
        rows_({static_cast<dnnl_dim_t>(shape.batch * heads_ * shape.tokens),
               static_cast<dnnl_dim_t>(shape.tokens)},
              dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab),
        forward_({{dnnl::prop_kind::forward_training, rows_, 1}, engine_}),
        backward_({{rows_, rows_, 1}, engine_, forward_}),
        weights_(shape.batch * heads_ * shape.tokens * shape.tokens),
        gradient_(weights_.size()) {}

  void Forward(const Matrix& qkv, Matrix& out) {
    if (workers != nullptr) return ForwardOnWorkers(qkv, out);
    Each([&](size_t row, size_t head, float* p, float*) {
      const float* const q = &qkv.view()(row, head);
      Multiply('N', 'T', n(), n(), kHead, kScale, q, wide(), q + shape_.width, wide(), p, n());
    });
    Softmax();
    Each([&](size_t row, size_t head, float* p, float*) {
      Multiply('N', 'N', n(), kHead, n(), 1, p, n(), &qkv.view()(row, head) + 2 * shape_.width,
               wide(), &out(row, head), shape_.width);
    });
  }

  void Backward(const Matrix& qkv, const Matrix& dout, Matrix& dqkv) {
    if (workers != nullptr) return BackwardOnWorkers(qkv, dout, dqkv);
    Each([&](size_t row, size_t head, float* p, float* dp) {
      const float* const dy = &dout.view()(row, head);
      Multiply('N', 'T', n(), n(), kHead, 1, dy, shape_.width,
               &qkv.view()(row, head) + 2 * shape_.width, wide(), dp, n());
      Multiply('T', 'N', n(), kHead, n(), 1, p, n(), dy, shape_.width,
               &dqkv(row, head) + 2 * shape_.width, wide());
    });
    SoftmaxGradient();
    Each([&](size_t row, size_t head, float*, float* ds) {
      const float* const q = &qkv.view()(row, head);
      Multiply('N', 'N', n(), kHead, n(), kScale, ds, n(), q + shape_.width, wide(),
               &dqkv(row, head), wide());
      Multiply('T', 'N', n(), kHead, n(), kScale, ds, n(), q, wide(),
               &dqkv(row, head) + shape_.width, wide());
    });
  }

 private:
  static constexpr float kScale = 0.125f;
  size_t n() const { return shape_.tokens; }
  size_t wide() const { return 3 * shape_.width; }

  void Softmax() {
    dnnl::memory values(rows_, engine_, weights_.data());
    dnnl::softmax_forward(forward_).execute(stream_,
                                            {{DNNL_ARG_SRC, values}, {DNNL_ARG_DST, values}});
    stream_.wait();
  }
  void SoftmaxGradient() {
    dnnl::memory values(rows_, engine_, weights_.data());
    dnnl::memory gradient(rows_, engine_, gradient_.data());
    dnnl::softmax_backward(backward_).execute(
        stream_,
        {{DNNL_ARG_DST, values}, {DNNL_ARG_DIFF_DST, gradient}, {DNNL_ARG_DIFF_SRC, gradient}});
    stream_.wait();
  }

  // A head's part of a matrix of `wide` columns, and of attention's weights.
  MatrixView Part(const Matrix& of, size_t row, size_t column) const {
    return {&of.view()(row, column), n(), kHead, of.columns()};
  }
  MatrixView Square(const float* p) const { return {p, n(), n(), n()}; }
  static void Store(const Matrix& product, float scale, float* to, size_t stride) {
    for (size_t i = 0; i < product.rows(); ++i) {
      for (size_t j = 0; j < product.columns(); ++j)
        to[i * stride + j] = scale * product.view()(i, j);
    }
  }
  // operands(row, head column, p, dp) of each head; the results go to to(...), of a stride.
  template <class Operands, class To>
  void Products(Operation operation, float scale, size_t stride, const Operands& operands,
                const To& to) {
    std::vector<Coordinator::Operands> given;
    Each([&](size_t row, size_t head, float* p, float* dp) {
      given.push_back(operands(row, head, p, dp));
    });
    auto products = workers->Products(operation, given);
    Must(products.status());
    auto product = products->begin();
    Each([&](size_t row, size_t head, float* p, float* dp) {
      Store(*product++, scale, to(row, head, p, dp), stride);
    });
  }
  void ForwardOnWorkers(const Matrix& qkv, Matrix& out) {
    const size_t w = shape_.width;
    using Operands = Coordinator::Operands;
    Products(
        Operation::kTransposeRight, kScale, n(),
        [&](size_t row, size_t head, float*, float*) -> Operands {
          return {Part(qkv, row, head), Part(qkv, row, head + w)};
        },
        [](size_t, size_t, float* p, float*) { return p; });
    Softmax();
    Products(
        Operation::kPlain, 1, w,
        [&](size_t row, size_t head, float* p, float*) -> Operands {
          return {Square(p), Part(qkv, row, head + 2 * w)};
        },
        [&](size_t row, size_t head, float*, float*) { return &out(row, head); });
  }
  void BackwardOnWorkers(const Matrix& qkv, const Matrix& dout, Matrix& dqkv) {
    const size_t w = shape_.width;
    using Operands = Coordinator::Operands;
    Products(
        Operation::kTransposeRight, 1, n(),
        [&](size_t row, size_t head, float*, float*) -> Operands {
          return {Part(dout, row, head), Part(qkv, row, head + 2 * w)};
        },
        [](size_t, size_t, float*, float* dp) { return dp; });
    Products(
        Operation::kTransposeLeft, 1, wide(),
        [&](size_t row, size_t head, float* p, float*) -> Operands {
          return {Square(p), Part(dout, row, head)};
        },
        [&](size_t row, size_t head, float*, float*) { return &dqkv(row, head + 2 * w); });
    SoftmaxGradient();
    Products(
        Operation::kPlain, kScale, wide(),
        [&](size_t row, size_t head, float*, float* ds) -> Operands {
          return {Square(ds), Part(qkv, row, head + w)};
        },
        [&](size_t row, size_t head, float*, float*) { return &dqkv(row, head); });
    Products(
        Operation::kTransposeLeft, kScale, wide(),
        [&](size_t row, size_t head, float*, float* ds) -> Operands {
          return {Square(ds), Part(qkv, row, head)};
        },
        [&](size_t row, size_t head, float*, float*) { return &dqkv(row, head + w); });
  }

  template <typename Work>
  void Each(const Work& work) {
    for (size_t i = 0; i < shape_.batch * heads_; ++i) {
      work(i / heads_ * n(), i % heads_ * kHead, &weights_[i * n() * n()],
           &gradient_[i * n() * n()]);
    }
  }
  static void Multiply(char a, char b, size_t m, size_t n, size_t k, float scale, const float* left,
                       size_t left_stride, const float* right, size_t right_stride, float* out,
                       size_t out_stride) {
    const auto dim = [](size_t size) { return static_cast<dnnl_dim_t>(size); };
    if (dnnl_sgemm(a, b, dim(m), dim(n), dim(k), scale, left, dim(left_stride), right,
                   dim(right_stride), 0, out, dim(out_stride)) != dnnl_success) {
      Fail("oneDNN refuses a product");
    }
  }

  const Shape shape_;
  const size_t heads_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::memory::desc rows_;
  dnnl::softmax_forward::primitive_desc forward_;
  dnnl::softmax_backward::primitive_desc backward_;
  std::vector<float> weights_;  // of attention
  std::vector<float> gradient_;
};

// Everything of a block but its four weights, and the glue between its products.
struct Block {
  explicit Block(const Shape& s)
      : shape(s),
        attention(s),
        x(Noise(s.rows(), s.width, 1, 1)),
        dy(Noise(s.rows(), s.width, 1, 2)) {
    for (const size_t size : {3 * s.width, s.width, 4 * s.width, s.width, s.width, s.width}) {
      vectors.push_back(std::vector<float>(size, 0.1f));
      gradients.push_back(std::vector<float>(size));
    }
    for (int i = 0; i < 4; ++i) gradients.push_back(std::vector<float>(s.width));
    const auto zeros = [&](size_t columns) {
      return Matrix::Create(s.rows(), columns, "block").value();
    };
    qkv = zeros(3 * s.width);
    dqkv = zeros(3 * s.width);
    attended = zeros(s.width);
    dattended = zeros(s.width);
    mixed = zeros(s.width);
    dmixed = zeros(s.width);
    inner = zeros(4 * s.width);
    y = zeros(s.width);
    dx = zeros(s.width);
    norm1.in = x;
    norm1.gamma = vectors[4];
    norm1.beta = vectors[4];
    plain_qkv.bias = vectors[0];
    plain_qkv.plain = qkv.view();
    from_attention.in = attended;
    norm2.bias = vectors[1];
    norm2.residual = x;
    norm2.sum = mixed.view();
    norm2.gamma = vectors[5];
    norm2.beta = vectors[5];
    gelu.bias = vectors[2];
    gelu.sum = inner.view();
    gelu.activation = Activation::kGelu;
    last.bias = vectors[3];
    last.residual = mixed;
    last.plain = y.view();

    first.in = dy;
    first.bias_gradient = gradients[3];
    dgelu.saved = inner;
    dgelu.activation = Activation::kGelu;
    dgelu.bias_gradient = gradients[2];
    dnorm2.gamma = vectors[5];
    dnorm2.beta = vectors[5];
    dnorm2.saved = mixed;
    dnorm2.residual = dy;
    dnorm2.gamma_gradient = gradients[6];
    dnorm2.beta_gradient = gradients[7];
    dnorm2.bias_gradient = gradients[1];
    dnorm2.plain = dmixed.view();
    dplain.plain = dattended.view();
    from_dqkv.in = dqkv;
    from_dqkv.bias_gradient = gradients[0];
    dnorm1.gamma = vectors[4];
    dnorm1.beta = vectors[4];
    dnorm1.saved = x;
    dnorm1.residual = dmixed;
    dnorm1.gamma_gradient = gradients[8];
    dnorm1.beta_gradient = gradients[9];
    dnorm1.plain = dx.view();
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  const Shape shape;
  Attention attention;
  Matrix x, dy, qkv, dqkv, attended, dattended, mixed, dmixed, inner, y, dx;
  std::vector<std::vector<float>> vectors, gradients;
  FusedPass norm1, plain_qkv, from_attention, norm2, gelu, last;
  FusedPass first, dgelu, dnorm2, dplain, from_dqkv, dnorm1;
};

// qkv, proj, fc1, fc2.
std::vector<std::pair<size_t, size_t>> Layers(size_t width) {
  return {{width, 3 * width}, {width, width}, {width, 4 * width}, {4 * width, width}};
}
Matrix WeightsOf(size_t width, size_t layer) {
  const auto [inputs, outputs] = Layers(width)[layer];
  return Noise(inputs, outputs, 1 / std::sqrt(static_cast<float>(inputs)), 10 + layer);
}

// Without workers: oneDNN's products in fp32, and an update in place.
class Alone {
 public:
  explicit Alone(const Shape& shape) : block(shape), products_(NewOneDnnProducts(1)) {
    const auto layers = Layers(shape.width);
    for (size_t i = 0; i < layers.size(); ++i) {
      const auto [inputs, outputs] = layers[i];
      const auto zeros = [](size_t rows, size_t columns) {
        return Matrix::Create(rows, columns, "alone").value();
      };
      layers_.push_back({WeightsOf(shape.width, i), zeros(inputs, outputs), zeros(inputs, outputs),
                         zeros(shape.rows(), inputs), zeros(shape.rows(), outputs)});
    }
    // One for each width: what a product gives is used up by the next pass.
    for (const size_t columns : {3 * shape.width, shape.width, 4 * shape.width}) {
      results_.push_back(Matrix::Create(shape.rows(), columns, "alone").value());
    }
  }

  void Step() {
    Pass(block.norm1, nullptr, &layers_[0].x, false);
    Pass(block.plain_qkv, Forward(0), nullptr, false);
    block.attention.Forward(block.qkv, block.attended);
    // No keys: what attention gives is the layer's operand as it is.
    FusedPass norm2 = block.norm2;
    Multiply(Operation::kPlain, block.attended, layers_[1].w, Result(block.shape.width));
    Pass(norm2, &Result(block.shape.width), &layers_[2].x, false);
    Pass(block.gelu, Forward(2), &layers_[3].x, false);
    Pass(block.last, Forward(3), nullptr, false);

    Pass(block.first, nullptr, &layers_[3].dy, true);
    Pass(block.dgelu, Backward(3, layers_[3].x), &layers_[2].dy, true);
    Pass(block.dnorm2, Backward(2, layers_[2].x), &layers_[1].dy, true);
    Multiply(Operation::kTransposeLeft, block.attended, layers_[1].dy, layers_[1].dw);
    Multiply(Operation::kTransposeRight, layers_[1].dy, layers_[1].w, block.dattended);
    block.attention.Backward(block.qkv, block.dattended, block.dqkv);
    Pass(block.from_dqkv, nullptr, &layers_[0].dy, true);
    Pass(block.dnorm1, Backward(0, layers_[0].x), nullptr, true);
    for (LayerData& layer : layers_) {
      Must(ApplySgd(kSgd, layer.dw, layer.v.view(), layer.w.view()));
    }
  }

  Block block;

 private:
  struct LayerData {
    Matrix w, v, dw, x, dy;
  };

  Matrix& Result(size_t columns) {
    for (Matrix& result : results_) {
      if (result.columns() == columns) return result;
    }
    Fail("no such width");
  }
  void Multiply(Operation operation, MatrixView a, MatrixView b, Matrix& out) {
    Must(products_->Floats(operation, a, b, false, out.view()));
  }
  Matrix* Forward(size_t layer) {
    Matrix& out = Result(layers_[layer].w.columns());
    Multiply(Operation::kPlain, layers_[layer].x, layers_[layer].w, out);
    return &out;
  }
  Matrix* Backward(size_t layer, MatrixView x) {
    LayerData& data = layers_[layer];
    Multiply(Operation::kTransposeLeft, x, data.dy, data.dw);
    Matrix& out = Result(data.w.rows());
    Multiply(Operation::kTransposeRight, data.dy, data.w, out);
    return &out;
  }
  void Pass(FusedPass pass, const Matrix* in, Matrix* out, bool is_backward) {
    if (in != nullptr) pass.in = *in;
    if (out != nullptr) pass.out = out->view();
    pass.rows = pass.in.rows;
    pass.columns = pass.in.columns;
    pass.is_backward = is_backward;
    Must(RunPass(pass, workspace_));
  }

  const std::unique_ptr<HostProducts> products_;
  std::vector<LayerData> layers_;
  std::vector<Matrix> results_;
  FusedWorkspace workspace_;
};

class Offloaded {
 public:
  Offloaded(const Shape& shape, std::unique_ptr<Scheme> scheme, DType type, uint64_t checkpoint)
      : block(shape),
        connection(std::make_shared<SealedConnection>(
            ConnectInProcess({.name = "worker", .memory_limit_bytes = uint64_t{64} << 30},
                             NewCpuDevice(NewOneDnnProducts(1))))) {
    CoordinatorOptions options;
    options.type = type;
    options.updates_per_checkpoint = checkpoint;
    options.reply_timeout = absl::Minutes(60);
    auto made = Coordinator::Create(
        std::move(scheme), {{connection, "bench"}},
        SecretStream::FromKey(SecretBytes(Bytes(SecretStream::kKeyBytes))).value(), options);
    Must(made.status());
    coordinator = *std::move(made);
    const auto shapes = Layers(shape.width);
    for (size_t i = 0; i < shapes.size(); ++i) {
      LayerSpec spec;
      spec.item = "layer " + std::to_string(i);
      spec.inputs = shapes[i].first;
      spec.outputs = shapes[i].second;
      spec.max_samples = shape.rows();
      LayerState state;
      state.weights = WeightsOf(shape.width, i);
      auto layer = coordinator->AddLayer(spec, std::move(state));
      Must(layer.status());
      layers.push_back(*layer);
    }
  }

  void Step() {
    auto begun = LayerChain::Begin(*coordinator, block.shape.rows(), Use::kTraining);
    Must(begun.status());
    LayerChain& chain = *begun;
    Must(chain.Forward({nullptr, layers[0], block.norm1}));
    Must(chain.Forward({layers[0], nullptr, block.plain_qkv}));
    block.attention.Forward(block.qkv, block.attended);
    Must(chain.Forward({nullptr, layers[1], block.from_attention}));
    Must(chain.Forward({layers[1], layers[2], block.norm2}));
    Must(chain.Forward({layers[2], layers[3], block.gelu}));
    Must(chain.Forward({layers[3], nullptr, block.last}));

    Must(chain.Backward({nullptr, layers[3], block.first}));
    Must(chain.Backward({layers[3], layers[2], block.dgelu}));
    Must(chain.Backward({layers[2], layers[1], block.dnorm2}));
    Must(chain.Backward({layers[1], nullptr, block.dplain}));
    block.attention.Backward(block.qkv, block.dattended, block.dqkv);
    Must(chain.Backward({nullptr, layers[0], block.from_dqkv}));
    Must(chain.Backward({layers[0], nullptr, block.dnorm1}));
    for (OffloadedLayer* const layer : layers) Must(layer->Update(kSgd));
  }

  double check_seconds() const {
    double sum = 0;
    for (const LayerReport& report : coordinator->Report().layers) sum += report.check_cpu_seconds;
    return sum;
  }

  Block block;
  const std::shared_ptr<SealedConnection> connection;
  std::unique_ptr<Coordinator> coordinator;
  std::vector<OffloadedLayer*> layers;
};

void Compare(const char* what, const Matrix& got, const Matrix& expected, double tolerance) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < got.values().size(); ++i) {
    error += std::pow(double{got.values()[i]} - double{expected.values()[i]}, 2);
    norm += std::pow(double{expected.values()[i]}, 2);
  }
  if (!(std::sqrt(error / norm) < tolerance)) {
    Fail(std::string("wrong ") + what + ", off by " + std::to_string(std::sqrt(error / norm)));
  }
}

// Elements here and there, by which processes that did one side each are compared.
std::string Sampled(const Matrix& m) {
  std::string text;
  for (size_t i = 0; i < 16; ++i) {
    char number[32];
    const size_t at = m.values().size() / 16 * i + 37 * i;
    std::snprintf(number, sizeof number, "%s%.6g", i == 0 ? "" : ",", double{m.values()[at]});
    text += number;
  }
  return text;
}

struct Arguments {
  std::string scheme;
  std::string type;
  size_t width = 0;
  int cycles = 3;
  std::string side = "both";
  std::string attention = "here";
};

// `side`: both, whose results are compared; or one of them, and the coordinator's then without
// checkpoints, for which a machine's memory may be too small.
int Run(const Arguments& arguments) {
  const int steps = arguments.cycles * static_cast<int>(kCycle);
  // Pages that go back to the system between batches cost more to get again than the work on them.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 2147483647);
  mallopt(M_TOP_PAD, 256 << 20);
  omp_set_num_threads(1);
  const size_t width = arguments.width;
  const Shape shape = width <= 768 ? Shape{width, 8, 197} : Shape{width, 4, 256};
  const bool has_both = arguments.side == "both";
  std::optional<Alone> alone;
  std::optional<Offloaded> offloaded;
  if (has_both || arguments.side == "alone") alone.emplace(shape);
  if (has_both || arguments.side == "coordinator") {
    offloaded.emplace(
        shape,
        arguments.scheme == "tempo" ? NewTempoScheme().value() : NewOrthogonalScheme().value(),
        arguments.type == "bf16" ? DType::kBf16 : DType::kFp32,
        has_both ? kCycle : uint64_t{1} << 40);
    if (arguments.attention == "workers") {
      offloaded->block.attention.workers = offloaded->coordinator.get();
    }
  }
  const auto attention_seconds = [&](Block& block) {
    const double begin = ThreadCpuSeconds();
    block.attention.Forward(block.qkv, block.attended);
    block.attention.Backward(block.qkv, block.dattended, block.dqkv);
    return ThreadCpuSeconds() - begin;
  };
  // A whole cycle first: from then on the log's memory is used again.
  for (uint64_t i = 0; i < kCycle; ++i) {
    if (alone.has_value()) alone->Step();
    if (offloaded.has_value()) offloaded->Step();
  }
  const double tolerance = arguments.type == "bf16" ? 0.02 : 1e-4;
  const Block& first = alone.has_value() ? alone->block : offloaded->block;
  const std::string sampled = Sampled(first.y) + "," + Sampled(first.dx);
  if (has_both) {
    Compare("outputs", offloaded->block.y, alone->block.y, tolerance);
    Compare("input gradients", offloaded->block.dx, alone->block.dx, tolerance);
  }
  std::vector<double> tee, offload, checks, wire, attention, with_checkpoint;
  for (int i = 0; i < steps; ++i) {
    const bool takes_checkpoint = (static_cast<uint64_t>(i) + 1) % kCycle == 0;
    if (alone.has_value()) {
      const double begin = ThreadCpuSeconds();
      alone->Step();
      if (!takes_checkpoint) tee.push_back(ThreadCpuSeconds() - begin);
    }
    if (!offloaded.has_value()) continue;
    const double checked = offloaded->check_seconds();
    const double sealed = offloaded->connection->seconds();
    const double begin = ThreadCpuSeconds();
    offloaded->Step();
    const double taken = ThreadCpuSeconds() - begin;
    if (has_both && takes_checkpoint) {
      with_checkpoint.push_back(taken);
      continue;
    }
    offload.push_back(taken);
    checks.push_back((offloaded->check_seconds() - checked) / offload.back());
    wire.push_back((offloaded->connection->seconds() - sealed) / offload.back());
    attention.push_back(attention_seconds(offloaded->block));
  }
  // Of one checkpoint; CoordinatorOptions takes one in 16 steps.
  double checkpoint = 0;
  if (has_both) {
    Compare("outputs", offloaded->block.y, alone->block.y, tolerance);
    checkpoint = std::max(0.0, Median(with_checkpoint) - Median(offload));
    if (offloaded->coordinator->Report().layers[0].checkpoints != 1 + with_checkpoint.size()) {
      Fail("not the checkpoints that there should be");
    }
  }
  std::printf("{\"scheme\":\"%s\",\"type\":\"%s\",\"width\":%zu,\"rows\":%zu,\"steps\":%d,",
              arguments.scheme.c_str(), arguments.type.c_str(), width, shape.rows(), steps);
  std::printf("\"side\":\"%s\",\"attention\":\"%s\",", arguments.side.c_str(),
              arguments.attention.c_str());
  if (!tee.empty()) std::printf("\"tee_s\":%.5f,", Median(tee));
  if (!offload.empty()) {
    std::printf(
        "\"coordinator_s\":%.5f,\"checks\":%.4f,\"wire\":%.4f,\"attention_s\":%.5f,"
        "\"checkpoint_s\":%.5f,",
        Median(offload), Median(checks), Median(wire), Median(attention), checkpoint);
  }
  std::printf("\"sampled\":[%s],\"target\":\"%s\"}\n", sampled.c_str(),
              std::string(FusedPassTarget()).c_str());
  return 0;
}

}  // namespace
}  // namespace pavise::offload

int main(int count, char** words) {
  const std::vector<std::string> given(words + 1, words + count);
  pavise::offload::Arguments arguments;
  if (given.size() >= 3) {
    arguments.scheme = given[0];
    arguments.type = given[1];
    arguments.width = std::strtoul(given[2].c_str(), nullptr, 10);
    if (given.size() > 3) arguments.cycles = std::atoi(given[3].c_str());
    if (given.size() > 4) arguments.side = given[4];
    if (given.size() > 5) arguments.attention = given[5];
  }
  if ((arguments.scheme != "tempo" && arguments.scheme != "orthogonal") ||
      (arguments.type != "bf16" && arguments.type != "fp32") || arguments.width < 64 ||
      arguments.width % 64 != 0 || arguments.cycles < 1 ||
      (arguments.side != "both" && arguments.side != "alone" && arguments.side != "coordinator") ||
      (arguments.attention != "here" && arguments.attention != "workers")) {
    std::fprintf(stderr,
                 "usage: offload_block_bench tempo|orthogonal bf16|fp32 WIDTH [CYCLES "
                 "[both|alone|coordinator [here|workers]]]\n");
    return 2;
  }
  try {
    return pavise::offload::Run(arguments);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "offload_block_bench: %s\n", e.what());
    return 1;
  }
}
