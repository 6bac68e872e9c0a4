#include "pavise/train/torch/fused_block.h"

#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/status.h"

#include "torch/csrc/autograd/custom_function.h"
#include "torch/utils.h"

namespace pavise::train {
namespace {

using offload::FusedPass;
using offload::LayerChain;
using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

offload::MutableMatrixView ViewOf(const Tensor& matrix) {
  const size_t columns = static_cast<size_t>(matrix.size(1));
  return {matrix.data_ptr<float>(), static_cast<size_t>(matrix.size(0)), columns, columns};
}
std::span<float> SpanOf(const Tensor& vector) {
  return {vector.data_ptr<float>(), static_cast<size_t>(vector.numel())};
}
Tensor RowsOf(const Tensor& tokens) {
  return tokens.detach().reshape({-1, tokens.size(-1)}).contiguous();
}
Tensor ZerosLike(const Tensor& vector) { return torch::zeros({vector.numel()}); }

// The parameters are arguments, so that autograd knows of them.
class QkvFunction : public torch::autograd::Function<QkvFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& tokens, const Tensor&,
                        const Tensor&, const Tensor&, int64_t handle, bool trains) {
    auto [out, pass] = reinterpret_cast<FusedBlock*>(handle)->ForwardOfQkv(tokens, trains);
    context->saved_data["block"] = handle;
    context->saved_data["pass"] = pass;
    return out;
  }
  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    auto& block = *reinterpret_cast<FusedBlock*>(context->saved_data["block"].toInt());
    tensor_list out = block.BackwardOfQkv(context->saved_data["pass"].toInt(), gradients[0]);
    out.resize(6);
    return out;
  }
};

class RestFunction : public torch::autograd::Function<RestFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& tokens, const Tensor& attended,
                        const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                        int64_t handle, bool trains) {
    auto [out, pass] =
        reinterpret_cast<FusedBlock*>(handle)->ForwardOfRest(tokens, attended, trains);
    context->saved_data["block"] = handle;
    context->saved_data["pass"] = pass;
    return out;
  }
  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    auto& block = *reinterpret_cast<FusedBlock*>(context->saved_data["block"].toInt());
    tensor_list out = block.BackwardOfRest(context->saved_data["pass"].toInt(), gradients[0]);
    out.resize(9);
    return out;
  }
};

}  // namespace

struct FusedBlock::Pass {
  explicit Pass(LayerChain begun) : chain(std::move(begun)) {}
  LayerChain chain;
  Tensor tokens;  // rows
  Tensor mixed;   // tokens + proj(attended)
  Tensor inner;   // fc1's outputs, before GELU
};

bool FusedBlock::Supports(const Layers& layers) {
  for (offload::OffloadedLayer* const layer : {layers.qkv, layers.proj, layers.fc1, layers.fc2}) {
    if (layer == nullptr || !LayerChain::Supports(*layer)) return false;
  }
  return true;
}

FusedBlock::FusedBlock(offload::Coordinator& coordinator, const Layers& layers,
                       const TransformerBlock& block, absl::Status& status)
    : coordinator_(coordinator), layers_(layers), status_(status) {
  const auto parameters = block.named_parameters();
  parameters_ = {parameters["norm1.weight"],  parameters["norm1.bias"],
                 parameters["attn.qkv.bias"], parameters["attn.proj.bias"],
                 parameters["norm2.weight"],  parameters["norm2.bias"],
                 parameters["mlp.fc1.bias"],  parameters["mlp.fc2.bias"]};
}

FusedBlock::~FusedBlock() = default;

void FusedBlock::Must(absl::Status status) {
  if (status.ok()) return;
  const std::string message(status.message());
  if (status_.ok()) status_ = std::move(status);
  throw std::runtime_error(message);
}

std::unique_ptr<FusedBlock::Pass> FusedBlock::NewPass(const Tensor& tokens, bool trains) {
  Tensor rows = RowsOf(tokens);
  auto chain = LayerChain::Begin(coordinator_, static_cast<size_t>(rows.size(0)),
                                 trains ? offload::Use::kTraining : offload::Use::kInference);
  Must(chain.status());
  auto pass = std::make_unique<Pass>(*std::move(chain));
  pass->tokens = std::move(rows);
  return pass;
}

int64_t FusedBlock::Keep(std::unique_ptr<Pass> pass, bool trains) {
  if (!trains) return 0;
  passes_[++last_pass_] = std::move(pass);
  return last_pass_;
}

std::unique_ptr<FusedBlock::Pass> FusedBlock::Take(int64_t pass) {
  auto node = passes_.extract(pass);
  if (node.empty()) throw std::runtime_error("a pass that was abandoned, or run backwards before");
  return std::move(node.mapped());
}

void FusedBlock::Abandon() { passes_.clear(); }

Tensor FusedBlock::QueriesKeysValues(const Tensor& tokens) {
  const Parameters& p = parameters_;
  return QkvFunction::apply(tokens, p.gamma1, p.beta1, p.qkv_bias, reinterpret_cast<int64_t>(this),
                            torch::GradMode::is_enabled());
}

Tensor FusedBlock::Rest(const Tensor& tokens, const Tensor& attended) {
  const Parameters& p = parameters_;
  return RestFunction::apply(tokens, attended, p.proj_bias, p.gamma2, p.beta2, p.fc1_bias,
                             p.fc2_bias, reinterpret_cast<int64_t>(this),
                             torch::GradMode::is_enabled());
}

std::pair<Tensor, int64_t> FusedBlock::ForwardOfQkv(const Tensor& tokens, bool trains) {
  std::unique_ptr<Pass> pass = NewPass(tokens, trains);
  const int64_t width = tokens.size(-1);
  const Tensor out = torch::empty({pass->tokens.size(0), 3 * width});
  FusedPass norm;
  norm.in = ViewOf(pass->tokens);
  norm.gamma = SpanOf(parameters_.gamma1);
  norm.beta = SpanOf(parameters_.beta1);
  norm.epsilon = static_cast<float>(kVitNormEpsilon);
  Must(pass->chain.Forward({nullptr, layers_.qkv, norm}));
  FusedPass biased;
  biased.bias = SpanOf(parameters_.qkv_bias);
  biased.plain = ViewOf(out);
  Must(pass->chain.Forward({layers_.qkv, nullptr, biased}));
  return {out.view({tokens.size(0), tokens.size(1), 3 * width}), Keep(std::move(pass), trains)};
}

std::vector<Tensor> FusedBlock::BackwardOfQkv(int64_t number, const Tensor& gradient) {
  const std::unique_ptr<Pass> pass = Take(number);
  const Parameters& p = parameters_;
  const Tensor rows = RowsOf(gradient);
  const Tensor gamma = ZerosLike(p.gamma1), beta = ZerosLike(p.beta1), bias = ZerosLike(p.qkv_bias);
  const Tensor dtokens = torch::empty_like(pass->tokens);
  FusedPass first;
  first.in = ViewOf(rows);
  first.bias_gradient = SpanOf(bias);
  Must(pass->chain.Backward({nullptr, layers_.qkv, first}));
  FusedPass norm;
  norm.saved = ViewOf(pass->tokens);
  norm.gamma = SpanOf(p.gamma1);
  norm.beta = SpanOf(p.beta1);
  norm.epsilon = static_cast<float>(kVitNormEpsilon);
  norm.gamma_gradient = SpanOf(gamma);
  norm.beta_gradient = SpanOf(beta);
  norm.plain = ViewOf(dtokens);
  Must(pass->chain.Backward({layers_.qkv, nullptr, norm}));
  return {dtokens.view({gradient.size(0), gradient.size(1), -1}), gamma, beta, bias};
}

std::pair<Tensor, int64_t> FusedBlock::ForwardOfRest(const Tensor& tokens, const Tensor& attended,
                                                     bool trains) {
  std::unique_ptr<Pass> pass = NewPass(tokens, trains);
  const Parameters& p = parameters_;
  const Tensor rows = RowsOf(attended);
  pass->mixed = torch::empty_like(pass->tokens);
  pass->inner = torch::empty({rows.size(0), p.fc1_bias.numel()});
  const Tensor out = torch::empty_like(pass->tokens);
  FusedPass plain;
  plain.in = ViewOf(rows);
  Must(pass->chain.Forward({nullptr, layers_.proj, plain}));
  FusedPass norm;
  norm.bias = SpanOf(p.proj_bias);
  norm.residual = ViewOf(pass->tokens);
  norm.sum = ViewOf(pass->mixed);
  norm.gamma = SpanOf(p.gamma2);
  norm.beta = SpanOf(p.beta2);
  norm.epsilon = static_cast<float>(kVitNormEpsilon);
  Must(pass->chain.Forward({layers_.proj, layers_.fc1, norm}));
  FusedPass gelu;
  gelu.bias = SpanOf(p.fc1_bias);
  gelu.sum = ViewOf(pass->inner);
  gelu.activation = offload::Activation::kGelu;
  Must(pass->chain.Forward({layers_.fc1, layers_.fc2, gelu}));
  FusedPass last;
  last.bias = SpanOf(p.fc2_bias);
  last.residual = ViewOf(pass->mixed);
  last.plain = ViewOf(out);
  Must(pass->chain.Forward({layers_.fc2, nullptr, last}));
  return {out.view(tokens.sizes()), Keep(std::move(pass), trains)};
}

std::vector<Tensor> FusedBlock::BackwardOfRest(int64_t number, const Tensor& gradient) {
  const std::unique_ptr<Pass> pass = Take(number);
  const Parameters& p = parameters_;
  const Tensor rows = RowsOf(gradient);
  const Tensor proj_bias = ZerosLike(p.proj_bias), gamma = ZerosLike(p.gamma2);
  const Tensor beta = ZerosLike(p.beta2), fc1_bias = ZerosLike(p.fc1_bias);
  const Tensor fc2_bias = ZerosLike(p.fc2_bias);
  const Tensor dmixed = torch::empty_like(pass->tokens);
  const Tensor dattended = torch::empty_like(pass->tokens);
  FusedPass first;
  first.in = ViewOf(rows);
  first.bias_gradient = SpanOf(fc2_bias);
  Must(pass->chain.Backward({nullptr, layers_.fc2, first}));
  FusedPass gelu;
  gelu.saved = ViewOf(pass->inner);
  gelu.activation = offload::Activation::kGelu;
  gelu.bias_gradient = SpanOf(fc1_bias);
  Must(pass->chain.Backward({layers_.fc2, layers_.fc1, gelu}));
  FusedPass norm;
  norm.saved = ViewOf(pass->mixed);
  norm.gamma = SpanOf(p.gamma2);
  norm.beta = SpanOf(p.beta2);
  norm.epsilon = static_cast<float>(kVitNormEpsilon);
  norm.residual = ViewOf(rows);
  norm.gamma_gradient = SpanOf(gamma);
  norm.beta_gradient = SpanOf(beta);
  norm.bias_gradient = SpanOf(proj_bias);
  norm.plain = ViewOf(dmixed);
  Must(pass->chain.Backward({layers_.fc1, layers_.proj, norm}));
  FusedPass plain;
  plain.plain = ViewOf(dattended);
  Must(pass->chain.Backward({layers_.proj, nullptr, plain}));
  return {dmixed.view(gradient.sizes()),
          dattended.view(gradient.sizes()),
          proj_bias,
          gamma,
          beta,
          fc1_bias,
          fc2_bias};
}

}  // namespace pavise::train
