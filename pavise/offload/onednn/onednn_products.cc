#include "pavise/offload/onednn/onednn_products.h"

#include <omp.h>

#include <exception>
#include <string>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>
#include <oneapi/dnnl/dnnl_debug.h>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::offload {
namespace {

using dnnl::memory;
using Dims = memory::dims;

bool HasIsa(dnnl_cpu_isa_t least) { return (dnnl_get_effective_cpu_isa() & least) == least; }

// Without these 8-bit products are summed in 16 bits, which saturate.
bool SumsResiduesExactly() {
  return dnnl_get_effective_cpu_isa() == dnnl_cpu_isa_avx2_vnni ||
         HasIsa(dnnl_cpu_isa_avx512_core_vnni);
}

dnnl_dim_t Dim(size_t size) { return static_cast<dnnl_dim_t>(size); }

char Transposes(bool is_transposed) { return is_transposed ? 'T' : 'N'; }

// Sizes of the product that makes out, for oneDNN's row-major functions.
struct Gemm {
  template <typename A, typename Out>
  Gemm(Operation operation, const ViewOf<A>& a, const ViewOf<Out>& out)
      : a_transposed(operation == Operation::kTransposeLeft),
        b_transposed(operation == Operation::kTransposeRight),
        m(Dim(out.rows)),
        n(Dim(out.columns)),
        k(Dim(a_transposed ? a.rows : a.columns)) {}
  bool a_transposed, b_transposed;
  dnnl_dim_t m, n, k;
};

memory::data_type TypeOf(DType type) {
  return type == DType::kBf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// The primitive of a convolution and what it takes.
struct Convolution {
  dnnl::primitive primitive;
  memory::desc a, b, out;        // as matrices lie in memory
  memory::desc weights_as_used;  // in the library's own layout
  memory::desc scratchpad;
  int a_argument = 0, b_argument = 0, out_argument = 0;

  Convolution(const HostConvolution& convolution, const dnnl::engine& engine) {
    const ConvolutionShape& s = convolution.shape;
    const auto type = TypeOf(convolution.type);
    const auto f32 = memory::data_type::f32;
    const auto any = memory::format_tag::any;
    const auto nhwc = memory::format_tag::nhwc;
    const auto hwio = memory::format_tag::hwio;
    const Dims images = {Dim(s.samples), Dim(s.channels), Dim(s.height), Dim(s.width)};
    const Dims outputs = {Dim(s.samples), Dim(convolution.outputs), Dim(s.output_height()),
                          Dim(s.output_width())};
    const Dims weights = {Dim(convolution.outputs), Dim(s.channels), Dim(s.kernel_height),
                          Dim(s.kernel_width)};
    const Dims strides = {Dim(s.stride), Dim(s.stride)};
    const Dims padding = {Dim(s.padding), Dim(s.padding)};
    const auto algorithm = dnnl::algorithm::convolution_direct;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const bool is_forward = convolution.operation == Operation::kPlain;
    const dnnl::convolution_forward::primitive_desc forward(
        {dnnl::prop_kind::forward_training,
         algorithm,
         {images, type, nhwc},
         {weights, type, any},
         {outputs, is_forward ? f32 : type, nhwc},
         strides,
         padding,
         padding},
        attributes, engine);
    if (is_forward) {
      Take(forward, forward.weights_desc());
      primitive = dnnl::convolution_forward(forward);
      a = {images, type, nhwc};
      b = {weights, type, hwio};
      out = {outputs, f32, nhwc};
      a_argument = DNNL_ARG_SRC;
      b_argument = DNNL_ARG_WEIGHTS;
      out_argument = DNNL_ARG_DST;
    } else if (convolution.operation == Operation::kTransposeRight) {
      const dnnl::convolution_backward_data::primitive_desc backward({algorithm,
                                                                      {images, f32, nhwc},
                                                                      {weights, type, any},
                                                                      {outputs, type, nhwc},
                                                                      strides,
                                                                      padding,
                                                                      padding},
                                                                     attributes, engine, forward);
      Take(backward, backward.weights_desc());
      primitive = dnnl::convolution_backward_data(backward);
      a = {outputs, type, nhwc};
      b = {weights, type, hwio};
      out = {images, f32, nhwc};
      a_argument = DNNL_ARG_DIFF_DST;
      b_argument = DNNL_ARG_WEIGHTS;
      out_argument = DNNL_ARG_DIFF_SRC;
    } else {
      const dnnl::convolution_backward_weights::primitive_desc backward({algorithm,
                                                                         {images, type, nhwc},
                                                                         {weights, f32, any},
                                                                         {outputs, type, nhwc},
                                                                         strides,
                                                                         padding,
                                                                         padding},
                                                                        attributes, engine,
                                                                        forward);
      Take(backward, backward.diff_weights_desc());
      primitive = dnnl::convolution_backward_weights(backward);
      a = {images, type, nhwc};
      b = {outputs, type, nhwc};
      out = {weights, f32, hwio};
      a_argument = DNNL_ARG_SRC;
      b_argument = DNNL_ARG_DIFF_DST;
      out_argument = DNNL_ARG_DIFF_WEIGHTS;
    }
  }

  uint64_t workspace_bytes() const { return weights_as_used.get_size() + scratchpad.get_size(); }

 private:
  template <typename Description>
  void Take(const Description& description, const memory::desc& weights) {
    weights_as_used = weights;
    scratchpad = description.scratchpad_desc();
  }
};

class OneDnnProducts final : public HostProducts {
 public:
  explicit OneDnnProducts(int threads)
      : threads_(threads > 0 ? threads : omp_get_max_threads()),
        engine_(dnnl::engine::kind::cpu, 0),
        has_bf16_(HasIsa(dnnl_cpu_isa_avx512_core_bf16)),
        residues_(SumsResiduesExactly() ? nullptr : NewPlainProducts()) {
    const dnnl_version_t* const version = dnnl_version();
    name_ = StrCat("oneDNN ", version->major, ".", version->minor, ".", version->patch, ", ",
                   threads_, threads_ == 1 ? " thread" : " threads");
  }

  std::string_view name() const override { return name_; }
  bool multiplies_bf16() const override { return has_bf16_; }

  absl::Status Floats(Operation operation, MatrixView a, MatrixView b, bool add,
                      MutableMatrixView out) const override {
    UseThreads();
    const Gemm gemm(operation, a, out);
    return Checked(dnnl_sgemm(Transposes(gemm.a_transposed), Transposes(gemm.b_transposed), gemm.m,
                              gemm.n, gemm.k, 1.0f, a.data, Dim(a.stride), b.data, Dim(b.stride),
                              add ? 1.0f : 0.0f, out.data, Dim(out.stride)));
  }

  absl::Status Bf16(Operation operation, ViewOf<const uint16_t> a, ViewOf<const uint16_t> b,
                    MutableMatrixView out) const override {
    UseThreads();
    const Gemm gemm(operation, a, out);
    const auto strides = [](bool is_transposed, size_t stride) {
      return is_transposed ? Dims{1, Dim(stride)} : Dims{Dim(stride), 1};
    };
    const auto bf16 = memory::data_type::bf16;
    return Run([&](dnnl::stream& stream) {
      const memory::desc left({gemm.m, gemm.k}, bf16, strides(gemm.a_transposed, a.stride));
      const memory::desc right({gemm.k, gemm.n}, bf16, strides(gemm.b_transposed, b.stride));
      const memory::desc result({gemm.m, gemm.n}, memory::data_type::f32,
                                strides(false, out.stride));
      const dnnl::matmul matmul(
          dnnl::matmul::primitive_desc(dnnl::matmul::desc(left, right, result), engine_));
      matmul.execute(stream, {{DNNL_ARG_SRC, Over(left, a.data)},
                              {DNNL_ARG_WEIGHTS, Over(right, b.data)},
                              {DNNL_ARG_DST, Over(result, out.data)}});
    });
  }

  absl::Status Residues(Operation operation, ViewOf<const int8_t> a, ViewOf<const int8_t> b,
                        ViewOf<int32_t> out) const override {
    if (residues_ != nullptr) return residues_->Residues(operation, a, b, out);
    UseThreads();
    const Gemm gemm(operation, a, out);
    const int32_t no_offset = 0;
    return Checked(dnnl_gemm_s8s8s32(Transposes(gemm.a_transposed), Transposes(gemm.b_transposed),
                                     'F', gemm.m, gemm.n, gemm.k, 1.0f, a.data, Dim(a.stride), 0,
                                     b.data, Dim(b.stride), 0, 0.0f, out.data, Dim(out.stride),
                                     &no_offset));
  }

  std::optional<uint64_t> ConvolutionWorkspaceBytes(
      const HostConvolution& convolution) const override {
    try {
      return Convolution(convolution, engine_).workspace_bytes();
    } catch (const std::exception&) {
      return std::nullopt;  // a shape for which the library has no code
    }
  }

  absl::Status Convolve(const HostConvolution& convolution, const void* a, const void* b,
                        float* out) const override {
    UseThreads();
    return Run([&](dnnl::stream& stream) {
      const Convolution c(convolution, engine_);
      memory left = Over(c.a, a);
      memory right = Over(c.b, b);
      memory result = Over(c.out, out);
      const memory scratchpad(c.scratchpad, engine_);
      memory weights(c.weights_as_used, engine_);
      memory& given = convolution.operation == Operation::kTransposeLeft ? result : right;
      memory plain = given;
      given = weights;
      if (convolution.operation != Operation::kTransposeLeft) {
        dnnl::reorder(plain, weights).execute(stream, plain, weights);
      }
      c.primitive.execute(stream, {{c.a_argument, left},
                                   {c.b_argument, right},
                                   {c.out_argument, result},
                                   {DNNL_ARG_SCRATCHPAD, scratchpad}});
      if (convolution.operation == Operation::kTransposeLeft) {
        dnnl::reorder(weights, plain).execute(stream, weights, plain);
      }
    });
  }

 private:
  // OpenMP's number is the calling thread's.
  void UseThreads() const { omp_set_num_threads(threads_); }

  static absl::Status Checked(dnnl_status_t status) {
    if (status == dnnl_success) return absl::OkStatus();
    return MachineFailure("oneDNN", dnnl_status2str(status));
  }

  memory Over(const memory::desc& description, const void* data) const {
    return memory(description, engine_, const_cast<void*>(data));
  }

  template <typename Work>
  absl::Status Run(const Work& work) const {
    try {
      dnnl::stream stream(engine_);
      work(stream);
      stream.wait();
      return absl::OkStatus();
    } catch (const std::exception& e) {
      return MachineFailure("oneDNN", e.what());
    }
  }

  const int threads_;
  const dnnl::engine engine_;
  const bool has_bf16_;
  const std::unique_ptr<HostProducts> residues_;  // null: the library's
  std::string name_;
};

}  // namespace

std::unique_ptr<HostProducts> NewOneDnnProducts(int threads) {
  try {
    return std::make_unique<OneDnnProducts>(threads);
  } catch (const std::exception&) {
    return nullptr;  // no CPU engine in this library
  }
}

}  // namespace pavise::offload
