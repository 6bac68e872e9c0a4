#include "pavise/offload/cuda/cublaslt_products.h"

#include <cublasLt.h>

#include <compare>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/cuda/shared_library.h"

namespace pavise::offload::cuda {
namespace {

// Shapes come from strangers: what is kept of them has a bound.
constexpr size_t kMaxPlans = 4096;

struct Library {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtGetStatusString) status_text;
  decltype(&cublasLtMatmul) multiply;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulDescCreate) create_description;
  decltype(&cublasLtMatmulDescDestroy) destroy_description;
  decltype(&cublasLtMatmulDescSetAttribute) set_description;
  decltype(&cublasLtMatrixLayoutCreate) create_layout;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;
};

absl::StatusOr<Library> OpenLibrary() {
  PAVISE_ASSIGN_OR_RETURN(const SharedLibrary file,
                          SharedLibrary::Open(StrCat("libcublasLt.so.", CUBLAS_VER_MAJOR)));
  Library library;
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtCreate", library.create));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtDestroy", library.destroy));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtGetVersion", library.version));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtGetStatusString", library.status_text));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtMatmul", library.multiply));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtMatmulAlgoGetHeuristic", library.heuristic));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtMatmulDescCreate", library.create_description));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtMatmulDescDestroy", library.destroy_description));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtMatmulDescSetAttribute", library.set_description));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtMatrixLayoutCreate", library.create_layout));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtMatrixLayoutDestroy", library.destroy_layout));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtMatmulPreferenceCreate", library.create_preference));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtMatmulPreferenceDestroy", library.destroy_preference));
  PAVISE_RETURN_IF_ERROR(file.Find("cublasLtMatmulPreferenceSetAttribute", library.set_preference));
  return library;
}

// Of an address, as far as algorithms care.
uint32_t AlignmentOf(const void* pointer) {
  uint32_t alignment = 256;
  while (reinterpret_cast<uintptr_t>(pointer) % alignment != 0) alignment /= 2;
  return alignment;
}

struct Key {
  Gemm gemm;
  uint32_t first_alignment = 0;
  uint32_t second_alignment = 0;
  uint32_t result_alignment = 0;
  auto operator<=>(const Key&) const = default;
};

cudaDataType_t TypeOf(GemmType type) {
  switch (type) {
    case GemmType::kFp32:
      return CUDA_R_32F;
    case GemmType::kBf16:
      return CUDA_R_16BF;
    case GemmType::kFp16:
      return CUDA_R_16F;
    case GemmType::kInt8:
      return CUDA_R_8I;
  }
  return CUDA_R_32F;
}

class Products final : public CublasLtProducts {
 public:
  explicit Products(const Library& library) : library_(library) {
    const size_t version = library_.version();
    name_ = StrCat("cuBLASLt ", version / 10000, ".", version / 100 % 100);
  }
  ~Products() override {
    plans_.clear();
    if (handle_ != nullptr) (void)library_.destroy(handle_);
  }
  absl::Status Start() { return Check(library_.create(&handle_), "cublasLtCreate"); }

  std::string_view name() const override { return name_; }

  absl::Status Multiply(const Gemm& gemm, const void* first, const void* second, bool add,
                        void* result, void* workspace, void* stream) override {
    PAVISE_ASSIGN_OR_RETURN(
        const std::shared_ptr<const Plan> plan,
        PlanOf({gemm, AlignmentOf(first), AlignmentOf(second), AlignmentOf(result)}));
    // The scale's type is that of sums.
    const float one = 1, old = add ? 1 : 0;
    const int32_t int_one = 1, int_old = add ? 1 : 0;
    const bool is_int = gemm.type == GemmType::kInt8;
    return Check(
        library_.multiply(handle_, plan->description,
                          is_int ? static_cast<const void*>(&int_one) : &one, first, plan->first,
                          second, plan->second, is_int ? static_cast<const void*>(&int_old) : &old,
                          result, plan->result, result, plan->result, &plan->algorithm, workspace,
                          kWorkspaceBytes, static_cast<cudaStream_t>(stream)),
        "cublasLtMatmul");
  }

 private:
  struct Plan {
    explicit Plan(const Library& its_library) : library(its_library) {}
    Plan(const Plan&) = delete;
    Plan& operator=(const Plan&) = delete;
    ~Plan() {
      if (description != nullptr) (void)library.destroy_description(description);
      for (const cublasLtMatrixLayout_t layout : {first, second, result}) {
        if (layout != nullptr) (void)library.destroy_layout(layout);
      }
    }
    const Library& library;
    cublasLtMatmulDesc_t description = nullptr;
    cublasLtMatrixLayout_t first = nullptr;
    cublasLtMatrixLayout_t second = nullptr;
    cublasLtMatrixLayout_t result = nullptr;
    cublasLtMatmulAlgo_t algorithm;
  };

  absl::Status Check(cublasStatus_t status, std::string_view call) const {
    if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
    return MachineFailure("cuBLASLt", StrCat(call, ": ", library_.status_text(status)));
  }

  absl::StatusOr<std::shared_ptr<const Plan>> PlanOf(const Key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = plans_.find(key);
    if (found != plans_.end()) return found->second;
    PAVISE_ASSIGN_OR_RETURN(std::shared_ptr<const Plan> plan, NewPlan(key));
    if (plans_.size() >= kMaxPlans) plans_.clear();
    plans_.emplace(key, plan);
    return plan;
  }

  absl::StatusOr<std::shared_ptr<const Plan>> NewPlan(const Key& key) const {
    const Gemm& gemm = key.gemm;
    const auto plan = std::make_shared<Plan>(library_);
    const bool is_int = gemm.type == GemmType::kInt8;
    const cudaDataType_t sums = is_int ? CUDA_R_32I : CUDA_R_32F;
    PAVISE_RETURN_IF_ERROR(
        Check(library_.create_description(&plan->description,
                                          is_int ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F, sums),
              "cublasLtMatmulDescCreate"));
    const auto set_transposed = [&](cublasLtMatmulDescAttributes_t which, bool is_transposed) {
      const int32_t operation = is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
      return Check(library_.set_description(plan->description, which, &operation, sizeof operation),
                   "cublasLtMatmulDescSetAttribute");
    };
    PAVISE_RETURN_IF_ERROR(set_transposed(CUBLASLT_MATMUL_DESC_TRANSA, gemm.first_transposed));
    PAVISE_RETURN_IF_ERROR(set_transposed(CUBLASLT_MATMUL_DESC_TRANSB, gemm.second_transposed));
    // Matrices as they lie in memory, before they are transposed.
    const auto create = [&](cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows,
                            uint64_t columns, bool is_transposed, uint64_t stride) {
      if (is_transposed) std::swap(rows, columns);
      return Check(
          library_.create_layout(layout, type, rows, columns, static_cast<int64_t>(stride)),
          "cublasLtMatrixLayoutCreate");
    };
    const cudaDataType_t type = TypeOf(gemm.type);
    PAVISE_RETURN_IF_ERROR(
        create(&plan->first, type, gemm.m, gemm.k, gemm.first_transposed, gemm.first_stride));
    PAVISE_RETURN_IF_ERROR(
        create(&plan->second, type, gemm.k, gemm.n, gemm.second_transposed, gemm.second_stride));
    PAVISE_RETURN_IF_ERROR(create(&plan->result, sums, gemm.m, gemm.n, false, gemm.result_stride));

    cublasLtMatmulPreference_t preference = nullptr;
    PAVISE_RETURN_IF_ERROR(
        Check(library_.create_preference(&preference), "cublasLtMatmulPreferenceCreate"));
    const auto destroy = [this](cublasLtMatmulPreference_t p) {
      (void)library_.destroy_preference(p);
    };
    const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, decltype(destroy)> owned(preference,
                                                                                     destroy);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, const auto& value) {
      return Check(library_.set_preference(preference, which, &value, sizeof value),
                   "cublasLtMatmulPreferenceSetAttribute");
    };
    PAVISE_RETURN_IF_ERROR(prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes));
    // Not those that add in place, in the order in which blocks finish.
    PAVISE_RETURN_IF_ERROR(prefer(
        CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE}));
    PAVISE_RETURN_IF_ERROR(prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.first_alignment));
    PAVISE_RETURN_IF_ERROR(
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.second_alignment));
    for (const auto which :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      PAVISE_RETURN_IF_ERROR(prefer(which, key.result_alignment));
    }
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    const cublasStatus_t status =
        library_.heuristic(handle_, plan->description, plan->first, plan->second, plan->result,
                           plan->result, preference, 1, &found, &count);
    if (status != CUBLAS_STATUS_SUCCESS || count < 1 || found.state != CUBLAS_STATUS_SUCCESS) {
      return MachineFailure(
          "cuBLASLt",
          StrCat("no algorithm for a product of ", gemm.n, " x ", gemm.k, " and ", gemm.k, " x ",
                 gemm.m, ": ",
                 library_.status_text(status != CUBLAS_STATUS_SUCCESS ? status : found.state)));
    }
    plan->algorithm = found.algo;
    return plan;
  }

  const Library library_;
  std::string name_;
  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<const Plan>> plans_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CublasLtProducts>> CublasLtProducts::Open() {
  PAVISE_ASSIGN_OR_RETURN(const Library library, OpenLibrary());
  auto products = std::make_unique<Products>(library);
  PAVISE_RETURN_IF_ERROR(products->Start());
  return products;
}

}  // namespace pavise::offload::cuda
