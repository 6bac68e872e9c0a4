#include "pavise/loading/c_api/pavise.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/keys.h"
#include "pavise/hash/devices.h"
#include "pavise/loading/c_api/dlpack.h"
#include "pavise/loading/guard.h"
#include "pavise/loading/load.h"
#include "pavise/signing/statement.h"
#include "pavise/signing/trust_policy.h"

#include "absl/time/time.h"

// What every handle shares: gone with the last of them.
namespace pavise::loading::c_api {
namespace {

constexpr uint64_t kMaxKeyFileBytes = 64u << 10;
constexpr size_t kMaxOptionsBytes = 4096;
constexpr uint64_t kMostSampledAnswers = 1'000'000;

// No padding at the end, where a later member would go unseen.
static_assert(sizeof(pavise_load_options) ==
              offsetof(pavise_load_options, sampled_answers) + sizeof(uint64_t));
static_assert(sizeof(pavise_guard_options) ==
              offsetof(pavise_guard_options, context) + sizeof(void*));

struct Loaded {
  std::unique_ptr<hash::Device> device;  // outlives the load
  std::string device_name;
  VerifiedLoad load;
  int guard = PAVISE_GUARD_NONE;
  // After fork, the threads of device and guard are in this process only, and locks may be held for
  // ever: elsewhere nothing is waited for and nothing given back.
  pid_t process = getpid();

  bool IsHere() const { return getpid() == process; }
  const LoadedModel& model() const { return *load; }
};

}  // namespace
}  // namespace pavise::loading::c_api

using pavise::Refusal;
using pavise::StrCat;
using pavise::UsageError;
using pavise::loading::LoadedTensor;
using pavise::loading::c_api::Loaded;

struct pavise_error {
  int exit_class = PAVISE_MACHINE;
  const char* reason = "";
  const char* item = "";
  const char* detail = "";
  const char* remedy = "";
  const char* json = "";
  std::array<std::string, 5> texts;  // what the five point to; empty in out_of_memory
};

struct pavise_model {
  std::shared_ptr<const Loaded> loaded;
};

struct pavise_guard {
  std::shared_ptr<const Loaded> loaded;
  std::unique_ptr<pavise::loading::Guard> guard;  // goes first
};

namespace pavise::loading::c_api {
namespace {

// For when there is no memory to say more; never freed.
constinit pavise_error out_of_memory = {
    .exit_class = PAVISE_MACHINE,
    .reason = "machine-failure",
    .detail = "out of memory",
    .json = R"({"exit_code": 3, "error": "out of memory", "findings": []})"};

pavise_error* NewError(const absl::Status& status) noexcept {
  try {
    const int exit_class = ExitCodeOf(status);
    std::vector<Refusal> findings = RefusalsOf(status);
    const std::string message(status.message().data(), status.message().size());
    OrderedJson json = {{"exit_code", exit_class}, {"error", message}};
    json["findings"] = OrderedJson::array();
    for (const Refusal& finding : findings) {
      json["findings"].push_back({{"reason", std::string(ReasonName(finding.reason))},
                                  {"item", finding.item},
                                  {"detail", finding.detail},
                                  {"remedy", finding.remedy}});
    }
    auto error = std::make_unique<pavise_error>();
    error->exit_class = exit_class;
    auto& [reason, item, detail, remedy, text] = error->texts;
    if (findings.empty()) {
      reason = exit_class == PAVISE_USAGE ? "usage" : "machine-failure";
      detail = message;
    } else {
      Refusal& first = findings.front();
      reason = ReasonName(first.reason);
      item = std::move(first.item);
      detail = std::move(first.detail);
      remedy = std::move(first.remedy);
    }
    text = DumpJson(json);
    error->reason = reason.c_str();
    error->item = item.c_str();
    error->detail = detail.c_str();
    error->remedy = remedy.c_str();
    error->json = text.c_str();
    return error.release();
  } catch (...) {
    return &out_of_memory;
  }
}

// Every function that can fail: whatever happens inside becomes a class and an error.
template <typename Function>
int Run(pavise_error** error, const Function& function) noexcept {
  if (error != nullptr) *error = nullptr;
  const auto fail = [&](const absl::Status& status) {
    if (error != nullptr) *error = NewError(status);
    return ExitCodeOf(status);
  };
  try {
    try {
      const absl::Status status = function();
      return status.ok() ? PAVISE_OK : fail(status);
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& exception) {
      return fail(MachineFailure("libpavise", exception.what()));
    }
  } catch (...) {
    if (error != nullptr) *error = &out_of_memory;
    return PAVISE_MACHINE;
  }
}

// The caller's options over `known`, of this version of the header, the first, or of a later one.
template <typename Options>
absl::Status TakeOptions(const Options* given, Options& known) {
  if (given == nullptr) return UsageError("options are NULL");
  const size_t size_bytes = given->size_bytes;
  if (size_bytes < sizeof(Options) || size_bytes > kMaxOptionsBytes) {
    return UsageError(StrCat("options of ", size_bytes, " bytes were not set by their _init"));
  }
  const auto* const bytes = reinterpret_cast<const unsigned char*>(given);
  if (std::any_of(bytes + sizeof(Options), bytes + size_bytes,
                  [](unsigned char byte) { return byte != 0; })) {
    return UsageError("an option that this version of the library does not know is set");
  }
  std::memcpy(&known, given, sizeof(Options));
  return absl::OkStatus();
}

template <typename Options>
void InitOptions(Options* options, size_t size_bytes, Options defaults) {
  if (options == nullptr || size_bytes < sizeof(size_t)) return;
  std::memset(static_cast<void*>(options), 0, size_bytes);
  defaults.size_bytes = size_bytes;
  std::memcpy(static_cast<void*>(options), &defaults, std::min(size_bytes, sizeof(Options)));
}

absl::StatusOr<signing::TrustPolicy> PolicyOf(const pavise_load_options& options) {
  if ((options.public_key_path != nullptr) == (options.trust_file_path != nullptr)) {
    return UsageError("whom to trust: exactly one of public_key_path and trust_file_path");
  }
  if ((options.trust_file_path != nullptr) != (options.model_name != nullptr)) {
    return UsageError("trust_file_path and model_name go together");
  }
  if (options.trust_file_path != nullptr) {
    PAVISE_ASSIGN_OR_RETURN(signing::TrustPolicy policy,
                            signing::LoadTrustPolicy(options.trust_file_path));
    policy.expected_model_name = options.model_name;
    return policy;
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes pem, ReadFile(options.public_key_path, kMaxKeyFileBytes));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey key,
                          crypto::PublicKey::FromPem(AsText(pem), options.public_key_path));
  signing::TrustedSigners signers;
  signers.keys.push_back({std::move(key)});
  return signing::TrustPolicy::ForSigners(std::move(signers));
}

absl::StatusOr<LoadOptions> LoadOptionsOf(const pavise_load_options& given) {
  if (given.model_path == nullptr || given.signature_path == nullptr) {
    return UsageError("model_path and signature_path are needed");
  }
  LoadOptions options;
  signing::VerifyOptions& verify = options.verify;
  verify.model_path = given.model_path;
  verify.signature_path = given.signature_path;
  if (given.tree_path != nullptr) verify.outboard_path = given.tree_path;
  verify.ignore_unsigned_files = given.ignore_unsigned_files != 0;
  verify.ignore_paths.assign(std::begin(signing::kGitPaths), std::end(signing::kGitPaths));
  PAVISE_ASSIGN_OR_RETURN(verify.policy, PolicyOf(given));
  if ((given.tensor_count > 0 && given.tensors == nullptr) ||
      (given.slice_count > 0 && given.slices == nullptr)) {
    return UsageError("a count without its array");
  }
  for (size_t i = 0; i < given.tensor_count; ++i) {
    if (given.tensors[i] == nullptr) return UsageError(StrCat("tensors[", i, "] is NULL"));
    verify.tensors.emplace_back(given.tensors[i]);
  }
  for (size_t i = 0; i < given.slice_count; ++i) {
    const pavise_slice& slice = given.slices[i];
    if (slice.tensors == nullptr) return UsageError(StrCat("slices[", i, "].tensors is NULL"));
    options.slices.push_back({slice.tensors, slice.dimension, slice.rank, slice.ranks});
  }
  switch (given.guard) {
    case PAVISE_GUARD_NONE:
      break;
    case PAVISE_GUARD_TAG:
      options.pass.references = ReferencesFor(GuardHash::kTag);
      break;
    case PAVISE_GUARD_BLAKE3:
      options.pass.references = ReferencesFor(GuardHash::kBlake3);
      break;
    default:
      return UsageError(StrCat("guard ", given.guard, " is no PAVISE_GUARD_..."));
  }
  if (given.sampled_answers > kMostSampledAnswers) {
    return UsageError(StrCat("sampled_answers: at most ", kMostSampledAnswers));
  }
  options.pass.sampled_answers = static_cast<unsigned>(given.sampled_answers);
  return options;
}

absl::StatusOr<const LoadedTensor*> TensorAt(const pavise_model* model, size_t index) {
  if (model == nullptr) return UsageError("the model is NULL");
  const std::vector<LoadedTensor>& tensors = model->loaded->model().tensors;
  if (index >= tensors.size()) {
    return UsageError(StrCat("there is no tensor ", index, " of ", tensors.size()));
  }
  return &tensors[index];
}

// Safetensors' and GGUF's names of what both and DLPack have mean the same. F8_E4M3 has no
// infinities: PyTorch's float8_e4m3fn.
std::optional<DLDataType> DataTypeOf(std::string_view dtype) {
  struct Known {
    std::string_view name;
    DLDataTypeCode code;
    uint8_t bits;
  };
  static constexpr Known kKnown[] = {
      {"BOOL", kDLBool, 8},
      {"U8", kDLUInt, 8},
      {"U16", kDLUInt, 16},
      {"U32", kDLUInt, 32},
      {"U64", kDLUInt, 64},
      {"I8", kDLInt, 8},
      {"I16", kDLInt, 16},
      {"I32", kDLInt, 32},
      {"I64", kDLInt, 64},
      {"F16", kDLFloat, 16},
      {"F32", kDLFloat, 32},
      {"F64", kDLFloat, 64},
      {"BF16", kDLBfloat, 16},
      {"C64", kDLComplex, 64},
      {"F8_E4M3", kDLFloat8_e4m3fn, 8},
      {"F8_E4M3FNUZ", kDLFloat8_e4m3fnuz, 8},
      {"F8_E5M2", kDLFloat8_e5m2, 8},
      {"F8_E5M2FNUZ", kDLFloat8_e5m2fnuz, 8},
      {"F8_E8M0", kDLFloat8_e8m0fnu, 8},
  };
  for (const Known& known : kKnown) {
    if (known.name == dtype) return DLDataType{static_cast<uint8_t>(known.code), known.bits, 1};
  }
  return std::nullopt;
}

absl::Status CannotExport(const LoadedTensor& tensor, std::string_view detail,
                          std::string_view remedy) {
  return Refuse(Reason::kUnsupported, tensor.entry.name, detail, remedy);
}

absl::StatusOr<DLDevice> DLDeviceOf(const LoadedTensor& tensor, const hash::NativeMemory& memory) {
  switch (memory.kind) {
    case hash::NativeMemory::Kind::kHost:
      return DLDevice{kDLCPU, 0};
    case hash::NativeMemory::Kind::kCuda:
      return DLDevice{kDLCUDA, memory.ordinal};
    case hash::NativeMemory::Kind::kOpenCl:
      return DLDevice{kDLOpenCL, memory.ordinal};
    case hash::NativeMemory::Kind::kNone:
      break;
  }
  return CannotExport(tensor, "lies in memory that has no name for other libraries",
                      "load it to cpu, cuda:N or opencl:N");
}

// What an exported tensor points to; goes with it.
template <typename Managed>
struct Export {
  std::shared_ptr<const Loaded> loaded;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
  Managed managed = {};

  static void Delete(Managed* managed) {
    if (managed != nullptr) delete static_cast<Export*>(managed->manager_ctx);
  }
};

template <typename Managed>
absl::StatusOr<std::unique_ptr<Export<Managed>>> NewExport(const pavise_model* model,
                                                           size_t index) {
  PAVISE_ASSIGN_OR_RETURN(const LoadedTensor* const found, TensorAt(model, index));
  const LoadedTensor& tensor = *found;
  const std::optional<DLDataType> dtype = DataTypeOf(tensor.entry.dtype);
  if (!dtype.has_value()) {
    return CannotExport(tensor, StrCat("is of dtype ", tensor.entry.dtype, ", which DLPack lacks"),
                        "take it apart with the format's own library, from a verified file");
  }
  const hash::NativeMemory memory = tensor.buffer->native_memory();
  PAVISE_ASSIGN_OR_RETURN(const DLDevice device, DLDeviceOf(tensor, memory));

  auto exported = std::make_unique<Export<Managed>>();
  uint64_t span_elements = 1;  // from the first to the last
  bool is_empty = false;
  for (size_t i = 0; i < tensor.view.shape.size(); ++i) {
    const uint64_t length = tensor.view.shape[i];
    const uint64_t stride = tensor.view.strides_elements[i];
    if (length > INT64_MAX || stride > INT64_MAX) {
      return CannotExport(tensor, "has more elements than DLPack can count", "");
    }
    is_empty = is_empty || length == 0;
    // No more than the elements of the whole tensor, which WholeView counted.
    if (length > 0) span_elements += (length - 1) * stride;
    exported->shape.push_back(static_cast<int64_t>(length));
    exported->strides.push_back(static_cast<int64_t>(stride));
  }
  // What is signed of a tensor's shape reaches no further than its proven bytes.
  const uint64_t element_bytes = dtype->bits / 8;
  uint64_t size_bytes = 0;
  if (!is_empty && __builtin_mul_overflow(span_elements, element_bytes, &size_bytes)) {
    return Refuse(Reason::kMalformed, tensor.entry.name, "its shape overflows");
  }
  if (size_bytes != tensor.size_bytes()) {
    return Refuse(Reason::kMalformed, tensor.entry.name,
                  "its signed shape and dtype contradict its signed length",
                  "ask the signer: no tensor is like this");
  }
  if (!is_empty && tensor.buffer_offset_bytes % element_bytes != 0) {
    return CannotExport(tensor,
                        StrCat("lies at byte ", tensor.buffer_offset_bytes,
                               " of its buffer, no multiple of its elements' ", element_bytes),
                        "load it alone (tensors), or have the file written with an aligned header");
  }
  exported->loaded = model->loaded;
  Managed& managed = exported->managed;
  managed.manager_ctx = exported.get();
  managed.deleter = Export<Managed>::Delete;
  managed.dl_tensor = {.data = is_empty ? nullptr : memory.handle,
                       .device = device,
                       .ndim = static_cast<int32_t>(exported->shape.size()),
                       .dtype = *dtype,
                       .shape = exported->shape.data(),
                       .strides = exported->strides.data(),
                       .byte_offset = is_empty ? 0 : tensor.buffer_offset_bytes};
  return exported;
}

void TellCaller(const pavise_guard_options& options, const GuardFinding& found) noexcept {
  pavise_finding finding = {};
  finding.is_change = found.kind == GuardFinding::Kind::kChanged;
  finding.file = found.file.c_str();
  finding.begin_bytes = found.begin_bytes;
  finding.end_bytes = found.end_bytes;
  std::vector<const char*> tensors;
  try {
    for (const std::string& tensor : found.tensors) tensors.push_back(tensor.c_str());
  } catch (...) {
    tensors.clear();  // the finding itself is told all the same
  }
  finding.tensors = tensors.data();
  finding.tensor_count = tensors.size();
  pavise_error* const error = NewError(found.status);
  finding.error = error;
  options.on_finding(options.context, &finding);
  pavise_error_free(error);
}

}  // namespace
}  // namespace pavise::loading::c_api

using namespace pavise::loading::c_api;  // NOLINT: the functions below belong to no namespace

extern "C" {

const char* pavise_version(void) { return PAVISE_VERSION; }

int pavise_error_class(const pavise_error* error) { return error->exit_class; }
const char* pavise_error_reason(const pavise_error* error) { return error->reason; }
const char* pavise_error_item(const pavise_error* error) { return error->item; }
const char* pavise_error_detail(const pavise_error* error) { return error->detail; }
const char* pavise_error_remedy(const pavise_error* error) { return error->remedy; }
const char* pavise_error_json(const pavise_error* error) { return error->json; }
void pavise_error_free(pavise_error* error) {
  if (error != &out_of_memory) delete error;
}

void pavise_load_options_init(pavise_load_options* options, size_t size_bytes) {
  pavise_load_options defaults = {};
  defaults.sampled_answers = pavise::hash::DevicePassOptions().sampled_answers;
  InitOptions(options, size_bytes, defaults);
}

int pavise_load(const pavise_load_options* options, pavise_model** model, pavise_error** error) {
  return Run(error, [&]() -> absl::Status {
    if (model == nullptr) return UsageError("there is no place for the model");
    *model = nullptr;
    pavise_load_options given = {};
    PAVISE_RETURN_IF_ERROR(TakeOptions(options, given));
    PAVISE_ASSIGN_OR_RETURN(const pavise::loading::LoadOptions load, LoadOptionsOf(given));
    PAVISE_ASSIGN_OR_RETURN(
        std::unique_ptr<pavise::hash::Device> device,
        pavise::hash::OpenDevice(given.device == nullptr ? "auto" : given.device));
    PAVISE_ASSIGN_OR_RETURN(pavise::loading::VerifiedLoad verified,
                            pavise::loading::Loader::Load(load, *device));
    std::string name = device->name();
    std::shared_ptr<const Loaded> loaded(
        new Loaded{std::move(device), std::move(name), std::move(verified), given.guard},
        [](const Loaded* last) {
          if (last->IsHere()) delete last;
        });
    *model = new pavise_model{std::move(loaded)};
    return absl::OkStatus();
  });
}

void pavise_model_close(pavise_model* model) { delete model; }

int pavise_model_is_partial(const pavise_model* model) {
  return model->loaded->model().report.partial ? 1 : 0;
}

const char* pavise_model_device(const pavise_model* model) {
  return model->loaded->device_name.c_str();
}

size_t pavise_tensor_count(const pavise_model* model) {
  return model->loaded->model().tensors.size();
}

int pavise_tensor_get(const pavise_model* model, size_t index, pavise_tensor* tensor,
                      pavise_error** error) {
  return Run(error, [&]() -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const LoadedTensor* const found, TensorAt(model, index));
    if (tensor == nullptr) return UsageError("there is no place for the tensor");
    tensor->name = found->entry.name.c_str();
    tensor->file = found->file.c_str();
    tensor->dtype = found->entry.dtype.c_str();
    tensor->dimensions = found->view.shape.size();
    tensor->shape = found->view.shape.data();
    tensor->strides_elements = found->view.strides_elements.data();
    tensor->size_bytes = found->size_bytes();
    tensor->is_slice = found->slice.has_value() ? 1 : 0;
    return absl::OkStatus();
  });
}

int pavise_tensor_find(const pavise_model* model, const char* file, const char* name, size_t* index,
                       pavise_error** error) {
  return Run(error, [&]() -> absl::Status {
    if (model == nullptr || name == nullptr || index == nullptr) {
      return UsageError("model, name or index is NULL");
    }
    const pavise::loading::LoadedModel& loaded = model->loaded->model();
    const LoadedTensor* const found = file != nullptr ? loaded.Find(file, name) : loaded.Find(name);
    if (found == nullptr) {
      return UsageError(
          StrCat(name, ": no such tensor was loaded, or one in each of several files"));
    }
    *index = static_cast<size_t>(found - loaded.tensors.data());
    return absl::OkStatus();
  });
}

int pavise_tensor_export(const pavise_model* model, size_t index,
                         struct DLManagedTensorVersioned** tensor, pavise_error** error) {
  return Run(error, [&]() -> absl::Status {
    if (tensor == nullptr) return UsageError("there is no place for the tensor");
    *tensor = nullptr;
    PAVISE_ASSIGN_OR_RETURN(auto exported, NewExport<DLManagedTensorVersioned>(model, index));
    exported->managed.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
    exported->managed.flags = DLPACK_FLAG_BITMASK_READ_ONLY;
    *tensor = &exported.release()->managed;
    return absl::OkStatus();
  });
}

int pavise_tensor_export_unversioned(const pavise_model* model, size_t index,
                                     struct DLManagedTensor** tensor, pavise_error** error) {
  return Run(error, [&]() -> absl::Status {
    if (tensor == nullptr) return UsageError("there is no place for the tensor");
    *tensor = nullptr;
    PAVISE_ASSIGN_OR_RETURN(auto exported, NewExport<DLManagedTensor>(model, index));
    *tensor = &exported.release()->managed;
    return absl::OkStatus();
  });
}

void pavise_guard_options_init(pavise_guard_options* options, size_t size_bytes) {
  pavise_guard_options defaults = {};
  defaults.share_of_time = pavise::loading::GuardOptions().share_of_time;
  InitOptions(options, size_bytes, defaults);
}

int pavise_guard_start(const pavise_model* model, const pavise_guard_options* options,
                       pavise_guard** guard, pavise_error** error) {
  return Run(error, [&]() -> absl::Status {
    if (model == nullptr || guard == nullptr) return UsageError("model or guard is NULL");
    *guard = nullptr;
    pavise_guard_options given = {};
    PAVISE_RETURN_IF_ERROR(TakeOptions(options, given));
    if (!model->loaded->IsHere()) {
      return UsageError("the model was loaded by another process, of which this is a fork");
    }
    if (model->loaded->guard == PAVISE_GUARD_NONE) {
      return UsageError(
          "the model was loaded with PAVISE_GUARD_NONE: nothing to check it by was kept");
    }
    pavise::loading::GuardOptions guarding;
    guarding.hash = model->loaded->guard == PAVISE_GUARD_TAG ? pavise::loading::GuardHash::kTag
                                                             : pavise::loading::GuardHash::kBlake3;
    guarding.share_of_time = given.share_of_time;
    if (given.on_finding != nullptr) {
      guarding.on_mismatch = [given](const pavise::loading::GuardFinding& finding) {
        TellCaller(given, finding);
      };
    }
    auto started = std::make_unique<pavise_guard>();
    started->loaded = model->loaded;
    PAVISE_ASSIGN_OR_RETURN(
        started->guard, pavise::loading::Guard::Start(model->loaded->load, *model->loaded->device,
                                                      std::move(guarding)));
    *guard = started.release();
    return absl::OkStatus();
  });
}

int pavise_guard_get_report(const pavise_guard* guard, pavise_guard_report* report,
                            pavise_error** error) {
  return Run(error, [&]() -> absl::Status {
    if (guard == nullptr || report == nullptr) return UsageError("guard or report is NULL");
    if (!guard->loaded->IsHere()) {  // nobody checks the memory of a fork
      *report = {};
      return absl::OkStatus();
    }
    const pavise::loading::GuardReport now = guard->guard->Report();
    *report = {.ranges = now.ranges,
               .bytes = now.bytes,
               .ranges_checked = now.ranges_checked,
               .passes_completed = now.passes_completed,
               .ranges_changed = now.ranges_changed,
               .longest_unchecked_seconds = absl::ToDoubleSeconds(now.longest_unchecked),
               .now_unchecked_seconds = absl::ToDoubleSeconds(now.now_unchecked),
               .share_of_time = now.share_of_time,
               .vouches = now.vouches ? 1 : 0};
    return absl::OkStatus();
  });
}

void pavise_guard_stop(pavise_guard* guard) {
  if (guard == nullptr) return;
  if (!guard->loaded->IsHere()) (void)guard->guard.release();  // its thread is not here to end
  delete guard;
}

}  // extern "C"
