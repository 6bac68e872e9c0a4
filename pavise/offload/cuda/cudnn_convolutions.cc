#include "pavise/offload/cuda/cudnn_convolutions.h"

#include <cudnn.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/cuda/shared_library.h"

namespace pavise::offload::cuda {
namespace {

// Shapes come from strangers: what is kept of them has a bound.
constexpr size_t kMaxPlans = 4096;
// As many as the library has for any of the three.
constexpr int kMaxAlgorithms = 16;

struct Library {
  decltype(&cudnnCreate) create;
  decltype(&cudnnDestroy) destroy;
  decltype(&cudnnSetStream) set_stream;
  decltype(&cudnnGetVersion) version;
  decltype(&cudnnGetErrorString) error_text;
  decltype(&cudnnCreateTensorDescriptor) create_tensor;
  decltype(&cudnnDestroyTensorDescriptor) destroy_tensor;
  decltype(&cudnnSetTensor4dDescriptor) set_tensor;
  decltype(&cudnnCreateFilterDescriptor) create_filter;
  decltype(&cudnnDestroyFilterDescriptor) destroy_filter;
  decltype(&cudnnSetFilter4dDescriptor) set_filter;
  decltype(&cudnnCreateConvolutionDescriptor) create_convolution;
  decltype(&cudnnDestroyConvolutionDescriptor) destroy_convolution;
  decltype(&cudnnSetConvolution2dDescriptor) set_convolution;
  decltype(&cudnnSetConvolutionMathType) set_math;
  decltype(&cudnnGetConvolutionForwardAlgorithm_v7) forward_algorithms;
  decltype(&cudnnGetConvolutionBackwardDataAlgorithm_v7) data_algorithms;
  decltype(&cudnnGetConvolutionBackwardFilterAlgorithm_v7) filter_algorithms;
  decltype(&cudnnGetConvolutionForwardWorkspaceSize) forward_workspace;
  decltype(&cudnnGetConvolutionBackwardDataWorkspaceSize) data_workspace;
  decltype(&cudnnGetConvolutionBackwardFilterWorkspaceSize) filter_workspace;
  decltype(&cudnnConvolutionForward) forward;
  decltype(&cudnnConvolutionBackwardData) backward_data;
  decltype(&cudnnConvolutionBackwardFilter) backward_filter;
};

absl::StatusOr<Library> OpenLibrary() {
  PAVISE_ASSIGN_OR_RETURN(const SharedLibrary file,
                          SharedLibrary::Open(StrCat("libcudnn.so.", CUDNN_MAJOR)));
  Library l;
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnCreate", l.create));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnDestroy", l.destroy));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnSetStream", l.set_stream));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnGetVersion", l.version));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnGetErrorString", l.error_text));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnCreateTensorDescriptor", l.create_tensor));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnDestroyTensorDescriptor", l.destroy_tensor));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnSetTensor4dDescriptor", l.set_tensor));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnCreateFilterDescriptor", l.create_filter));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnDestroyFilterDescriptor", l.destroy_filter));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnSetFilter4dDescriptor", l.set_filter));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnCreateConvolutionDescriptor", l.create_convolution));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnDestroyConvolutionDescriptor", l.destroy_convolution));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnSetConvolution2dDescriptor", l.set_convolution));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnSetConvolutionMathType", l.set_math));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnGetConvolutionForwardAlgorithm_v7", l.forward_algorithms));
  PAVISE_RETURN_IF_ERROR(
      file.Find("cudnnGetConvolutionBackwardDataAlgorithm_v7", l.data_algorithms));
  PAVISE_RETURN_IF_ERROR(
      file.Find("cudnnGetConvolutionBackwardFilterAlgorithm_v7", l.filter_algorithms));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnGetConvolutionForwardWorkspaceSize", l.forward_workspace));
  PAVISE_RETURN_IF_ERROR(
      file.Find("cudnnGetConvolutionBackwardDataWorkspaceSize", l.data_workspace));
  PAVISE_RETURN_IF_ERROR(
      file.Find("cudnnGetConvolutionBackwardFilterWorkspaceSize", l.filter_workspace));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnConvolutionForward", l.forward));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnConvolutionBackwardData", l.backward_data));
  PAVISE_RETURN_IF_ERROR(file.Find("cudnnConvolutionBackwardFilter", l.backward_filter));
  return l;
}

bool AddsProducts(cudnnConvolutionFwdAlgo_t algorithm) {
  return algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM ||
         algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM ||
         algorithm == CUDNN_CONVOLUTION_FWD_ALGO_GEMM;
}
bool AddsProducts(cudnnConvolutionBwdDataAlgo_t algorithm) {
  return algorithm == CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
}
bool AddsProducts(cudnnConvolutionBwdFilterAlgo_t algorithm) {
  return algorithm == CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
}

using Key = std::tuple<Operation, DType, size_t, size_t, size_t, size_t, size_t, size_t, size_t,
                       size_t, size_t>;
Key KeyOf(const HostConvolution& c) {
  const ConvolutionShape& s = c.shape;
  return {c.operation,     c.type == DType::kFp32 ? DType::kFp32 : DType::kBf16,
          s.samples,       s.height,
          s.width,         s.channels,
          s.kernel_height, s.kernel_width,
          s.stride,        s.padding,
          c.outputs};
}

class Convolutions final : public CudnnConvolutions {
 public:
  explicit Convolutions(const Library& library) : library_(library) {
    const size_t version = library_.version();
    name_ = StrCat("cuDNN ", version / 10000, ".", version / 100 % 100, ".", version % 100);
  }
  ~Convolutions() override {
    plans_.clear();
    if (handle_ != nullptr) (void)library_.destroy(handle_);
  }
  absl::Status Start() { return Check(library_.create(&handle_), "cudnnCreate"); }

  std::string_view name() const override { return name_; }

  std::optional<uint64_t> WorkspaceBytes(const HostConvolution& convolution) override {
    const std::lock_guard lock(mutex_);
    const auto plan = PlanOf(convolution);
    if (!plan.ok() || !(*plan)->algorithm.has_value()) return std::nullopt;
    return (*plan)->workspace_bytes;
  }

  absl::Status Convolve(const HostConvolution& convolution, const float* a, const float* b,
                        float* out, void* workspace, uint64_t workspace_bytes,
                        void* stream) override {
    // The handle has one stream at a time; queueing is short.
    const std::lock_guard lock(mutex_);
    PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<const Plan> plan, PlanOf(convolution));
    if (!plan->algorithm.has_value() || plan->workspace_bytes > workspace_bytes) {
      return MachineFailure("cuDNN", "no algorithm for a convolution that had one");
    }
    PAVISE_RETURN_IF_ERROR(
        Check(library_.set_stream(handle_, static_cast<cudaStream_t>(stream)), "cudnnSetStream"));
    const float one = 1;
    const float zero = 0;
    switch (convolution.operation) {
      case Operation::kPlain:
        return Check(
            library_.forward(handle_, &one, plan->images, a, plan->weights, b, plan->convolution,
                             static_cast<cudnnConvolutionFwdAlgo_t>(*plan->algorithm), workspace,
                             workspace_bytes, &zero, plan->outputs, out),
            "cudnnConvolutionForward");
      case Operation::kTransposeRight:
        return Check(library_.backward_data(
                         handle_, &one, plan->weights, b, plan->outputs, a, plan->convolution,
                         static_cast<cudnnConvolutionBwdDataAlgo_t>(*plan->algorithm), workspace,
                         workspace_bytes, &zero, plan->images, out),
                     "cudnnConvolutionBackwardData");
      case Operation::kTransposeLeft:
        return Check(library_.backward_filter(
                         handle_, &one, plan->images, a, plan->outputs, b, plan->convolution,
                         static_cast<cudnnConvolutionBwdFilterAlgo_t>(*plan->algorithm), workspace,
                         workspace_bytes, &zero, plan->weights, out),
                     "cudnnConvolutionBackwardFilter");
    }
    return UsageError("no such operation");
  }

 private:
  struct Plan {
    explicit Plan(const Library& its_library) : library(its_library) {}
    Plan(const Plan&) = delete;
    Plan& operator=(const Plan&) = delete;
    ~Plan() {
      if (images != nullptr) (void)library.destroy_tensor(images);
      if (outputs != nullptr) (void)library.destroy_tensor(outputs);
      if (weights != nullptr) (void)library.destroy_filter(weights);
      if (convolution != nullptr) (void)library.destroy_convolution(convolution);
    }
    const Library& library;
    cudnnTensorDescriptor_t images = nullptr;
    cudnnTensorDescriptor_t outputs = nullptr;
    cudnnFilterDescriptor_t weights = nullptr;
    cudnnConvolutionDescriptor_t convolution = nullptr;
    std::optional<int> algorithm;
    size_t workspace_bytes = 0;
  };

  absl::Status Check(cudnnStatus_t status, std::string_view call) const {
    if (status == CUDNN_STATUS_SUCCESS) return absl::OkStatus();
    return MachineFailure("cuDNN", StrCat(call, ": ", library_.error_text(status)));
  }

  // Under the lock. A shape that the library refuses has a plan without an algorithm.
  absl::StatusOr<std::shared_ptr<const Plan>> PlanOf(const HostConvolution& convolution) {
    const Key key = KeyOf(convolution);
    const auto found = plans_.find(key);
    if (found != plans_.end()) return found->second;
    PAVISE_ASSIGN_OR_RETURN(std::shared_ptr<const Plan> plan, NewPlan(convolution));
    if (plans_.size() >= kMaxPlans) plans_.clear();
    plans_.emplace(key, plan);
    return plan;
  }

  absl::StatusOr<std::shared_ptr<const Plan>> NewPlan(const HostConvolution& c) const {
    const ConvolutionShape& s = c.shape;
    const auto narrow = [](size_t size) { return static_cast<int>(size); };
    const auto plan = std::make_shared<Plan>(library_);
    PAVISE_RETURN_IF_ERROR(
        Check(library_.create_tensor(&plan->images), "cudnnCreateTensorDescriptor"));
    PAVISE_RETURN_IF_ERROR(
        Check(library_.create_tensor(&plan->outputs), "cudnnCreateTensorDescriptor"));
    PAVISE_RETURN_IF_ERROR(
        Check(library_.create_filter(&plan->weights), "cudnnCreateFilterDescriptor"));
    PAVISE_RETURN_IF_ERROR(
        Check(library_.create_convolution(&plan->convolution), "cudnnCreateConvolutionDescriptor"));
    // With this layout weights have a row for each output channel: taps, then input channels.
    const bool is_described =
        library_.set_tensor(plan->images, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, narrow(s.samples),
                            narrow(s.channels), narrow(s.height),
                            narrow(s.width)) == CUDNN_STATUS_SUCCESS &&
        library_.set_tensor(plan->outputs, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, narrow(s.samples),
                            narrow(c.outputs), narrow(s.output_height()),
                            narrow(s.output_width())) == CUDNN_STATUS_SUCCESS &&
        library_.set_filter(plan->weights, CUDNN_DATA_FLOAT, CUDNN_TENSOR_NHWC, narrow(c.outputs),
                            narrow(s.channels), narrow(s.kernel_height),
                            narrow(s.kernel_width)) == CUDNN_STATUS_SUCCESS &&
        library_.set_convolution(plan->convolution, narrow(s.padding), narrow(s.padding),
                                 narrow(s.stride), narrow(s.stride), 1, 1, CUDNN_CROSS_CORRELATION,
                                 CUDNN_DATA_FLOAT) == CUDNN_STATUS_SUCCESS;
    if (!is_described) return plan;
    // CUDNN_DEFAULT_MATH lets fp32 become TF32.
    PAVISE_RETURN_IF_ERROR(
        Check(library_.set_math(plan->convolution,
                                c.type == DType::kFp32 ? CUDNN_FMA_MATH : CUDNN_DEFAULT_MATH),
              "cudnnSetConvolutionMathType"));
    switch (c.operation) {
      case Operation::kPlain:
        Choose<cudnnConvolutionFwdAlgoPerf_t>(
            [&](int* count, auto* found) {
              return library_.forward_algorithms(handle_, plan->images, plan->weights,
                                                 plan->convolution, plan->outputs, kMaxAlgorithms,
                                                 count, found);
            },
            [&](auto algorithm, size_t* size_bytes) {
              return library_.forward_workspace(handle_, plan->images, plan->weights,
                                                plan->convolution, plan->outputs, algorithm,
                                                size_bytes);
            },
            *plan);
        break;
      case Operation::kTransposeRight:
        Choose<cudnnConvolutionBwdDataAlgoPerf_t>(
            [&](int* count, auto* found) {
              return library_.data_algorithms(handle_, plan->weights, plan->outputs,
                                              plan->convolution, plan->images, kMaxAlgorithms,
                                              count, found);
            },
            [&](auto algorithm, size_t* size_bytes) {
              return library_.data_workspace(handle_, plan->weights, plan->outputs,
                                             plan->convolution, plan->images, algorithm,
                                             size_bytes);
            },
            *plan);
        break;
      case Operation::kTransposeLeft:
        Choose<cudnnConvolutionBwdFilterAlgoPerf_t>(
            [&](int* count, auto* found) {
              return library_.filter_algorithms(handle_, plan->images, plan->outputs,
                                                plan->convolution, plan->weights, kMaxAlgorithms,
                                                count, found);
            },
            [&](auto algorithm, size_t* size_bytes) {
              return library_.filter_workspace(handle_, plan->images, plan->outputs,
                                               plan->convolution, plan->weights, algorithm,
                                               size_bytes);
            },
            *plan);
        break;
    }
    return plan;
  }

  // The first of the library's proposals, which come by expected time, that is one of ours. The
  // math type stays the descriptor's, whatever a proposal's is.
  template <typename Found, typename List, typename Workspace>
  static void Choose(const List& list, const Workspace& workspace, Plan& plan) {
    std::array<Found, kMaxAlgorithms> found = {};
    int count = 0;
    if (list(&count, found.data()) != CUDNN_STATUS_SUCCESS) return;
    for (int i = 0; i < std::min(count, kMaxAlgorithms); ++i) {
      const Found& one = found[static_cast<size_t>(i)];
      if (one.status != CUDNN_STATUS_SUCCESS || one.determinism != CUDNN_DETERMINISTIC ||
          !AddsProducts(one.algo)) {
        continue;
      }
      size_t size_bytes = 0;
      if (workspace(one.algo, &size_bytes) != CUDNN_STATUS_SUCCESS) continue;
      plan.algorithm = static_cast<int>(one.algo);
      plan.workspace_bytes = size_bytes;
      return;
    }
  }

  const Library library_;
  std::string name_;
  cudnnHandle_t handle_ = nullptr;
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<const Plan>> plans_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudnnConvolutions>> CudnnConvolutions::Open() {
  PAVISE_ASSIGN_OR_RETURN(const Library library, OpenLibrary());
  auto convolutions = std::make_unique<Convolutions>(library);
  PAVISE_RETURN_IF_ERROR(convolutions->Start());
  return convolutions;
}

}  // namespace pavise::offload::cuda
