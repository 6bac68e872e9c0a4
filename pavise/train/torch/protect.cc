#include "pavise/train/torch/protect.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/train/torch/fused_block.h"
#include "pavise/train/torch/zoo.h"

#include "torch/csrc/autograd/custom_function.h"
#include "torch/library.h"
#include "torch/nn/modules/conv.h"
#include "torch/nn/modules/linear.h"
#include "torch/utils.h"

namespace pavise::train {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// One stock layer, from the probe on.
struct Site {
  std::string parameter;       // "layer1.0.conv1.weight"
  Tensor* member = nullptr;    // the module's own weight
  Tensor listed;               // the parameter that the module lists: what `member` was
  std::vector<int64_t> shape;  // of the weight
  bool is_convolution = false;
  int64_t stride = 1;
  int64_t padding = 0;
  std::string why_kept;  // not empty: stays
  // Of the probe:
  int runs = 0;
  std::vector<int64_t> input_shape;
  // Afterwards:
  offload::OffloadedLayer* layer = nullptr;
  absl::Status* status = nullptr;  // the model's

  int64_t outputs() const { return shape[0]; }
  int64_t inputs() const { return shape[1]; }
};

// The weights that the probe has seen at work, in that order.
thread_local std::vector<Site*>* probed = nullptr;

constexpr c10::DeviceType kDevice = c10::DeviceType::PrivateUse1;

struct ProtectedWeight final : c10::TensorImpl {
  ProtectedWeight(Site* its_site, torch::IntArrayRef sizes, bool transposed)
      : TensorImpl(c10::DispatchKeySet(
                       {c10::DispatchKey::PrivateUse1, c10::DispatchKey::AutogradPrivateUse1}),
                   caffe2::TypeMeta::Make<float>(), c10::Device(kDevice, 0)),
        site(its_site),
        is_transposed(transposed) {
    set_sizes_contiguous(sizes);
  }
  Site* const site;
  const bool is_transposed;
};

Tensor MakeWeight(Site* site, torch::IntArrayRef sizes, bool transposed) {
  return at::detail::make_tensor<ProtectedWeight>(site, sizes, transposed);
}

const ProtectedWeight& WeightOf(const Tensor& tensor, bool transposed) {
  const auto* const weight = dynamic_cast<const ProtectedWeight*>(tensor.unsafeGetTensorImpl());
  if (weight == nullptr || weight->is_transposed != transposed) {
    throw std::runtime_error("an offloaded weight in an operation that is not offloaded");
  }
  return *weight;
}

[[noreturn]] void Throw(Site& site, absl::Status status) {
  const std::string message(status.message());
  if (site.status->ok()) *site.status = std::move(status);
  throw std::runtime_error(message);
}

offload::MatrixView ViewOf(const Tensor& matrix) {
  const size_t columns = static_cast<size_t>(matrix.size(1));
  return {matrix.data_ptr<float>(), static_cast<size_t>(matrix.size(0)), columns, columns};
}

Tensor TensorOf(offload::Matrix matrix) {
  auto* const owned = new offload::Matrix(std::move(matrix));
  return torch::from_blob(
      owned->values().data(),
      {static_cast<int64_t>(owned->rows()), static_cast<int64_t>(owned->columns())},
      [owned](void*) { delete owned; });
}

// Rows times an offloaded weight. `listed` brings the result into the graph where the rows do not.
class OffloadedRows : public torch::autograd::Function<OffloadedRows> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& rows, const Tensor&, int64_t handle,
                        bool trains) {
    Site& site = *reinterpret_cast<Site*>(handle);
    const Tensor inputs = rows.contiguous();
    auto outputs = site.layer->Forward(ViewOf(inputs),
                                       trains ? offload::Use::kTraining : offload::Use::kInference);
    if (!outputs.ok()) Throw(site, outputs.status());
    context->saved_data["site"] = handle;
    context->saved_data["pass"] = static_cast<int64_t>(outputs->pass);
    context->saved_data["wanted"] = rows.requires_grad();
    return TensorOf(std::move(outputs->values));
  }
  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    Site& site = *reinterpret_cast<Site*>(context->saved_data["site"].toInt());
    const bool wanted = context->saved_data["wanted"].toBool();
    const Tensor gradient = gradients[0].contiguous();
    auto result = site.layer->Backward(static_cast<uint64_t>(context->saved_data["pass"].toInt()),
                                       ViewOf(gradient), wanted);
    if (!result.ok()) Throw(site, result.status());
    return {wanted ? TensorOf(*std::move(result)) : Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

void Record(Site& site, const Tensor& input) {
  if (site.runs++ == 0) {
    site.input_shape = input.sizes().vec();
    probed->push_back(&site);
  }
}

Tensor Rows(Site& site, const Tensor& rows) {
  const bool trains =
      torch::GradMode::is_enabled() && (rows.requires_grad() || site.listed.requires_grad());
  return OffloadedRows::apply(rows, site.listed, reinterpret_cast<int64_t>(&site), trains);
}

Tensor LinearOf(const Tensor& input, const Tensor& transposed_weight) {
  Site& site = *WeightOf(transposed_weight, /*transposed=*/true).site;
  std::vector<int64_t> sizes = input.sizes().vec();
  sizes.back() = site.outputs();
  if (site.layer == nullptr) {
    Record(site, input);
    return torch::zeros(sizes);
  }
  return Rows(site, input.reshape({-1, site.inputs()})).view(sizes);
}

Tensor Transpose(const Tensor& weight) {
  const ProtectedWeight& plain = WeightOf(weight, /*transposed=*/false);
  return MakeWeight(plain.site, {plain.site->inputs(), plain.site->outputs()}, /*transposed=*/true);
}

Tensor AddMatrixProduct(const Tensor& bias, const Tensor& input, const Tensor& weight,
                        const at::Scalar& beta, const at::Scalar& alpha) {
  if (beta.toDouble() != 1 || alpha.toDouble() != 1) {
    throw std::runtime_error("an offloaded weight in a scaled product");
  }
  return LinearOf(input, weight) + bias;
}

Tensor Convolution(const Tensor& input, const Tensor& weight, const c10::optional<Tensor>& bias,
                   at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t) {
  Site& site = *WeightOf(weight, /*transposed=*/false).site;
  const auto length = [&](int64_t size, int64_t kernel) {
    return (size + 2 * site.padding - kernel) / site.stride + 1;
  };
  const int64_t height = length(input.size(2), site.shape[2]);
  const int64_t width = length(input.size(3), site.shape[3]);
  Tensor output;
  if (site.layer == nullptr) {
    Record(site, input);
    output = torch::zeros({input.size(0), site.outputs(), height, width});
  } else {
    const Tensor rows = input.permute({0, 2, 3, 1}).reshape({-1, site.inputs()});
    output =
        Rows(site, rows).view({input.size(0), height, width, site.outputs()}).permute({0, 3, 1, 2});
  }
  return bias.has_value() && bias->defined() ? output + bias->view({1, -1, 1, 1}) : output;
}

// The operations that stock layers do with their weights. On this device alone: everything else of
// libtorch is as before.
void RegisterOperations() {
  static torch::Library* const library = [] {
    auto* const made = new torch::Library(
        torch::Library::IMPL, "aten", c10::DispatchKey::AutogradPrivateUse1, __FILE__, __LINE__);
    made->impl("t", Transpose);
    made->impl("matmul", LinearOf);
    made->impl("addmm", AddMatrixProduct);
    made->impl("linear",
               [](const Tensor& input, const Tensor& weight, const c10::optional<Tensor>& bias) {
                 const Tensor output = LinearOf(input, Transpose(weight));
                 return bias.has_value() && bias->defined() ? output + *bias : output;
               });
    made->impl("conv2d", Convolution);
    return made;
  }();
  (void)library;
}

// [out, in, ...] as the coordinator has it: a row for each tap and input.
absl::StatusOr<offload::Matrix> MatrixOf(const Tensor& weight, const std::string& item) {
  const Tensor rows =
      (weight.dim() == 4 ? weight.permute({2, 3, 1, 0}).reshape({-1, weight.size(0)}) : weight.t())
          .contiguous();
  return offload::CopyOf(ViewOf(rows), item);
}

Tensor WeightFrom(offload::Matrix matrix, const std::vector<int64_t>& shape) {
  const Tensor rows = TensorOf(std::move(matrix));
  if (shape.size() == 2) return rows.t().contiguous();
  return rows.view({shape[2], shape[3], shape[1], shape[0]}).permute({3, 2, 0, 1}).contiguous();
}

// What zoo.h's Attention asks for.
class OffloadedAttention final : public AttentionProduct {
 public:
  OffloadedAttention(offload::Coordinator& coordinator, absl::Status& status)
      : coordinator_(coordinator), status_(status) {}

  // All of a batch's and the heads' products.
  Tensor Run(offload::Operation operation, const Tensor& a, const Tensor& b) {
    const Tensor left = a.reshape({-1, a.size(-2), a.size(-1)}).contiguous();
    const Tensor right = b.reshape({-1, b.size(-2), b.size(-1)}).contiguous();
    std::vector<offload::Coordinator::Operands> operands;
    for (int64_t i = 0; i < left.size(0); ++i)
      operands.push_back({ViewOf(left[i]), ViewOf(right[i])});
    auto products = coordinator_.Products(operation, operands);
    if (!products.ok()) {
      const std::string message(products.status().message());
      if (status_.ok()) status_ = products.status();
      throw std::runtime_error(message);
    }
    std::vector<Tensor> results;
    for (offload::Matrix& product : *products) results.push_back(TensorOf(std::move(product)));
    const Tensor stacked = torch::stack(results);
    std::vector<int64_t> sizes = a.sizes().vec();
    sizes[sizes.size() - 2] = stacked.size(1);
    sizes.back() = stacked.size(2);
    return stacked.view(sizes);
  }

  Tensor Multiply(const Tensor& a, const Tensor& b) override;

 private:
  offload::Coordinator& coordinator_;
  absl::Status& status_;
};

class OffloadedProduct : public torch::autograd::Function<OffloadedProduct> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& a, const Tensor& b,
                        int64_t handle) {
    context->save_for_backward({a, b});
    context->saved_data["attention"] = handle;
    return reinterpret_cast<OffloadedAttention*>(handle)->Run(offload::Operation::kPlain, a, b);
  }
  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    auto& attention =
        *reinterpret_cast<OffloadedAttention*>(context->saved_data["attention"].toInt());
    const auto saved = context->get_saved_variables();
    return {attention.Run(offload::Operation::kTransposeRight, gradients[0], saved[1]),
            attention.Run(offload::Operation::kTransposeLeft, saved[0], gradients[0]), Tensor()};
  }
};

Tensor OffloadedAttention::Multiply(const Tensor& a, const Tensor& b) {
  return OffloadedProduct::apply(a, b, reinterpret_cast<int64_t>(this));
}

// Why a stock layer cannot be offloaded; "" where it can.
std::string WhyNot(const torch::nn::Conv2dImpl& convolution) {
  const auto& options = convolution.options;
  // libtorch's own variant up to 1.13, later the standard's: found by its argument.
  const auto* const padding = get_if<torch::ExpandingArray<2>>(&options.padding());
  if (padding == nullptr || !get_if<torch::enumtype::kZeros>(&options.padding_mode())) {
    return "its padding is not of zeros in a stated width";
  }
  if (options.groups() != 1) return "it has groups";
  if ((*options.dilation())[0] != 1 || (*options.dilation())[1] != 1) return "it is dilated";
  if ((*options.stride())[0] != (*options.stride())[1] || (**padding)[0] != (**padding)[1]) {
    return "its stride or padding differs in height and width";
  }
  return "";
}

std::vector<std::unique_ptr<Site>> FindSites(torch::nn::Module& module) {
  std::vector<std::unique_ptr<Site>> sites;
  for (const auto& item : module.named_modules("", /*include_self=*/true)) {
    auto site = std::make_unique<Site>();
    if (auto* const linear = item.value()->as<torch::nn::LinearImpl>()) {
      site->member = &linear->weight;
    } else if (auto* const convolution = item.value()->as<torch::nn::Conv2dImpl>()) {
      site->member = &convolution->weight;
      site->is_convolution = true;
      site->why_kept = WhyNot(*convolution);
      if (site->why_kept.empty()) {
        site->stride = (*convolution->options.stride())[0];
        site->padding = (*get<torch::ExpandingArray<2>>(convolution->options.padding()))[0];
      }
    } else {
      continue;
    }
    site->parameter = StrCat(item.key(), item.key().empty() ? "" : ".", "weight");
    site->listed = *site->member;
    site->shape = site->listed.sizes().vec();
    if (site->listed.scalar_type() != torch::kFloat32 || !site->listed.device().is_cpu()) {
      site->why_kept = "it is not float32 in this machine's memory";
    }
    sites.push_back(std::move(site));
  }
  return sites;
}

offload::LayerSpec SpecOf(const Site& site, const ProtectOptions& options) {
  offload::LayerSpec spec;
  spec.item = site.parameter;
  spec.inputs = static_cast<size_t>(site.inputs());
  spec.outputs = static_cast<size_t>(site.outputs());
  spec.updates_on_worker = options.updates_on_worker;
  if (!site.is_convolution) {
    size_t rows = 1;
    for (size_t i = 0; i + 1 < site.input_shape.size(); ++i)
      rows *= static_cast<size_t>(site.input_shape[i]);
    spec.max_samples = rows;
    return spec;
  }
  spec.max_samples = static_cast<size_t>(site.input_shape[0]);
  spec.is_native = options.convolutions == ConvolutionForm::kNative;
  offload::ConvolutionShape convolution;
  convolution.samples = spec.max_samples;
  convolution.channels = spec.inputs;
  convolution.height = static_cast<size_t>(site.input_shape[2]);
  convolution.width = static_cast<size_t>(site.input_shape[3]);
  convolution.kernel_height = static_cast<size_t>(site.shape[2]);
  convolution.kernel_width = static_cast<size_t>(site.shape[3]);
  convolution.stride = static_cast<size_t>(site.stride);
  convolution.padding = static_cast<size_t>(site.padding);
  spec.convolution = convolution;
  return spec;
}

absl::StatusOr<offload::LayerState> StateOf(const Site& site,
                                            const std::map<std::string, ProtectedState>& states) {
  offload::LayerState state;
  const auto found = states.find(site.parameter);
  const bool is_new = found == states.end();
  PAVISE_ASSIGN_OR_RETURN(
      state.weights,
      MatrixOf(is_new ? site.listed.detach() : found->second.weight, site.parameter));
  if (is_new) return state;
  if (found->second.velocity.defined()) {
    PAVISE_ASSIGN_OR_RETURN(state.velocity, MatrixOf(found->second.velocity, site.parameter));
  }
  if (found->second.second_moment.defined()) {
    PAVISE_ASSIGN_OR_RETURN(state.second_moment,
                            MatrixOf(found->second.second_moment, site.parameter));
  }
  state.updates = found->second.updates;
  state.keys = found->second.keys;
  state.drift_spent = found->second.drift_spent;
  return state;
}

}  // namespace

struct ProtectedModel::State {
  std::shared_ptr<torch::nn::Module> module;
  std::vector<std::unique_ptr<Site>> sites;  // all, then those that are offloaded
  std::vector<std::shared_ptr<Attention>> attentions;
  std::vector<std::pair<std::shared_ptr<TransformerBlock>, std::shared_ptr<FusedBlock>>> fused;
  std::vector<std::string> parameters;
  std::vector<std::string> kept;
  absl::Status status;

  // Each with its plain weight again.
  void Release(Site& site) {
    *site.member = site.listed;
    site.layer = nullptr;
  }
  void ReleaseAll() {
    for (const auto& site : sites) Release(*site);
    for (const auto& attention : attentions) attention->set_product(nullptr);
    attentions.clear();
    for (const auto& [block, passes] : fused) block->set_passes(nullptr);
    fused.clear();
    sites.clear();
    parameters.clear();
  }
};

ProtectedModel::ProtectedModel(std::unique_ptr<State> state) : state_(std::move(state)) {}

ProtectedModel::~ProtectedModel() { state_->ReleaseAll(); }

absl::StatusOr<std::unique_ptr<ProtectedModel>> ProtectedModel::Protect(
    std::shared_ptr<torch::nn::Module> module,
    const std::function<torch::Tensor(torch::Tensor)>& forward, const torch::Tensor& example,
    offload::Coordinator& coordinator, const ProtectOptions& options,
    const std::map<std::string, ProtectedState>& states) {
  RegisterOperations();
  auto state = std::make_unique<State>();
  state->module = module;
  state->sites = FindSites(*module);
  std::vector<Site*> order;
  for (const auto& site : state->sites) {
    site->status = &state->status;
    if (site->why_kept.empty()) *site->member = MakeWeight(site.get(), site->shape, false);
  }
  const bool was_training = module->is_training();
  absl::Status failed;
  try {
    const torch::NoGradGuard no_grad;
    probed = &order;
    module->eval();
    forward(example);
  } catch (const std::exception& e) {
    failed = UsageError(StrCat("the model does not run on the example: ", e.what()));
  }
  probed = nullptr;
  module->train(was_training);
  for (const auto& site : state->sites) *site->member = site->listed;
  PAVISE_RETURN_IF_ERROR(failed);

  for (Site* const site : order) {
    if (site == order.front() && options.keep_first) site->why_kept = "it is the first layer";
    if (site->runs > 1) site->why_kept = "it runs several times a pass";
    if (std::min(site->inputs(), site->outputs()) < options.least_width) {
      site->why_kept = StrCat("it has fewer than ", options.least_width, " inputs or outputs");
    }
    if (!site->why_kept.empty()) continue;
    const offload::LayerSpec spec = SpecOf(*site, options);
    if (options.plan) {
      PAVISE_ASSIGN_OR_RETURN(const offload::LayerPlan plan,
                              coordinator.PlanLayer(spec, spec.max_samples));
      if (!plan.offloads) {
        site->why_kept = plan.why;
        continue;
      }
    }
    PAVISE_ASSIGN_OR_RETURN(offload::LayerState initial, StateOf(*site, states));
    PAVISE_ASSIGN_OR_RETURN(site->layer, coordinator.AddLayer(spec, std::move(initial)));
  }
  // From here on nothing fails.
  for (Site* const site : order) {
    if (site->layer != nullptr) state->parameters.push_back(site->parameter);
  }
  for (const auto& site : state->sites) {
    if (site->layer == nullptr) {
      state->kept.push_back(StrCat(site->parameter, ": ",
                                   site->why_kept.empty() ? "it does not run" : site->why_kept));
      continue;
    }
    *site->member = MakeWeight(site.get(), site->shape, /*transposed=*/false);
    const torch::NoGradGuard no_grad;
    site->listed.set_data(
        torch::full({1}, std::numeric_limits<float>::quiet_NaN()).expand(site->shape));
  }
  std::erase_if(state->sites, [](const auto& site) { return site->layer == nullptr; });
  for (const auto& child : module->named_modules()) {
    const auto block = std::dynamic_pointer_cast<TransformerBlock>(child.value());
    if (!options.fuse || block == nullptr) continue;
    const auto layer = [&](const char* name) -> offload::OffloadedLayer* {
      const std::string parameter = StrCat(child.key(), child.key().empty() ? "" : ".", name);
      for (const auto& site : state->sites) {
        if (site->parameter == parameter) return site->layer;
      }
      return nullptr;
    };
    const FusedBlock::Layers layers = {layer("attn.qkv.weight"), layer("attn.proj.weight"),
                                       layer("mlp.fc1.weight"), layer("mlp.fc2.weight")};
    if (!FusedBlock::Supports(layers)) continue;
    auto passes = std::make_shared<FusedBlock>(coordinator, layers, *block, state->status);
    block->set_passes(passes);
    state->fused.emplace_back(block, std::move(passes));
  }
  if (options.attention) {
    for (const auto& child : module->modules()) {
      if (auto attention = std::dynamic_pointer_cast<Attention>(child)) {
        attention->set_product(std::make_shared<OffloadedAttention>(coordinator, state->status));
        state->attentions.push_back(std::move(attention));
      }
    }
  }
  if (state->sites.empty() && state->attentions.empty()) {
    return UsageError("no layer of the model could be offloaded");
  }
  return std::unique_ptr<ProtectedModel>(new ProtectedModel(std::move(state)));
}

const std::vector<std::string>& ProtectedModel::parameters() const { return state_->parameters; }
const std::vector<std::string>& ProtectedModel::kept() const { return state_->kept; }
size_t ProtectedModel::fused_blocks() const { return state_->fused.size(); }
const absl::Status& ProtectedModel::status() const { return state_->status; }

absl::Status ProtectedModel::Update(const offload::SgdStep& step) {
  for (const auto& site : state_->sites) PAVISE_RETURN_IF_ERROR(site->layer->Update(step));
  return absl::OkStatus();
}

absl::Status ProtectedModel::Update(const offload::AdamWStep& step) {
  for (const auto& site : state_->sites) PAVISE_RETURN_IF_ERROR(site->layer->Update(step));
  return absl::OkStatus();
}

absl::Status ProtectedModel::Update(const offload::MuonStep& step) {
  for (const auto& site : state_->sites) PAVISE_RETURN_IF_ERROR(site->layer->Update(step));
  return absl::OkStatus();
}

void ProtectedModel::Abandon() {
  for (const auto& [block, passes] : state_->fused) passes->Abandon();
  for (const auto& site : state_->sites) site->layer->Abandon();
  state_->status = absl::OkStatus();
}

absl::StatusOr<std::map<std::string, ProtectedState>> ProtectedModel::States() {
  std::map<std::string, ProtectedState> states;
  for (const auto& site : state_->sites) {
    PAVISE_ASSIGN_OR_RETURN(offload::LayerState layer, site->layer->State());
    ProtectedState& state = states[site->parameter];
    state.weight = WeightFrom(std::move(layer.weights), site->shape);
    if (layer.velocity.rows() != 0)
      state.velocity = WeightFrom(std::move(layer.velocity), site->shape);
    if (layer.second_moment.rows() != 0) {
      state.second_moment = WeightFrom(std::move(layer.second_moment), site->shape);
    }
    state.updates = layer.updates;
    state.keys = layer.keys;
    state.drift_spent = layer.drift_spent;
  }
  return states;
}

absl::StatusOr<std::map<std::string, torch::Tensor>> ProtectedModel::Weights() {
  std::map<std::string, torch::Tensor> weights;
  for (const auto& site : state_->sites) {
    PAVISE_ASSIGN_OR_RETURN(offload::Matrix matrix, site->layer->Weights());
    weights[site->parameter] = WeightFrom(std::move(matrix), site->shape);
  }
  return weights;
}

absl::Status ProtectedModel::Unprotect() {
  if (state_->sites.empty() && state_->attentions.empty()) return absl::OkStatus();
  Abandon();
  auto weights = Weights();
  if (weights.ok()) {
    const torch::NoGradGuard no_grad;
    for (const auto& site : state_->sites) site->listed.set_data((*weights)[site->parameter]);
  }
  state_->ReleaseAll();
  return weights.status();
}

}  // namespace pavise::train
