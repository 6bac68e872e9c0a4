#include "pavise/offload/layer_chain.h"

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/internal/coordinator_state.h"
#include "pavise/offload/internal/frames.h"
#include "pavise/offload/internal/wipe.h"

namespace pavise::offload {
namespace {

template <typename T>
ViewOf<T> Rows(const ViewOf<T>& view, size_t first, size_t count) {
  if (view.data == nullptr) return view;
  return {view.Row(first), count, view.columns, view.stride};
}

}  // namespace

bool LayerChain::Supports(const OffloadedLayer& layer) {
  return layer.impl_->reads_in_place() && !layer.spec().convolution.has_value();
}

absl::StatusOr<LayerChain> LayerChain::Begin(Coordinator& coordinator, size_t rows, Use use) {
  Coordinator::State& state = *coordinator.state_;
  if (rows == 0) return UsageError("a chain of no rows");
  LayerChain chain(state, rows, use);
  PAVISE_ASSIGN_OR_RETURN(SecretStream stream,
                          state.stream.Derive(StrCat("chain ", ++state.chains)));
  const size_t count = OffloadedLayer::Impl::PiecesOf(state.options, rows);
  for (size_t i = 0; i < count; ++i) {
    PAVISE_ASSIGN_OR_RETURN(chain.groupings_.emplace_back(),
                            stream.Permutation(rows * (i + 1) / count - rows * i / count));
  }
  return chain;
}

LayerChain::~LayerChain() {
  for (const auto& [layer, pass] : passes_) {
    if (pass != 0) layer->Forget(pass);
  }
  for (std::vector<uint32_t>& grouping : groupings_) internal::Wipe(grouping);
}

absl::Status LayerChain::CheckHop(const Hop& hop, size_t columns, bool is_backward) const {
  for (const OffloadedLayer* const layer : {hop.from, hop.to}) {
    if (layer != nullptr && (!Supports(*layer) || &layer->impl_->coordinator != coordinator_)) {
      return UsageError(StrCat(layer->spec().item, ": not a layer for this chain"));
    }
  }
  if (hop.from == nullptr && hop.to == nullptr) return UsageError("a hop between no layers");
  const auto pass_of = [&](OffloadedLayer* layer) {
    const auto found = passes_.find(layer);
    return found == passes_.end() ? 0 : found->second;
  };
  if (hop.from != nullptr && pass_of(hop.from) == 0) {
    return UsageError(StrCat(hop.from->spec().item, ": nothing of this chain is under way there"));
  }
  if (hop.to != nullptr && (is_backward ? pass_of(hop.to) == 0 : passes_.contains(hop.to))) {
    return UsageError(StrCat(hop.to->spec().item, ": in this chain twice, or not yet"));
  }
  const auto fits = [&](const auto& view, bool is_needed) {
    return view.data == nullptr ? !is_needed : view.rows == rows_ && view.columns == columns;
  };
  const FusedPass& pass = hop.pass;
  const size_t operand = hop.to == nullptr ? columns
                         : is_backward     ? hop.to->spec().outputs
                                           : hop.to->spec().inputs;
  if (operand != columns || !fits(pass.in, hop.from == nullptr) ||
      (hop.from != nullptr && pass.in.data != nullptr) || !fits(pass.plain, hop.to == nullptr) ||
      !fits(pass.residual, false) || !fits(pass.sum, false) || !fits(pass.saved, false) ||
      pass.in_bf16.data != nullptr || pass.out.data != nullptr || pass.out_bf16.data != nullptr) {
    return UsageError("hop: shapes do not fit, or a matrix is missing");
  }
  return absl::OkStatus();
}

FusedPass LayerChain::PartOf(const FusedPass& pass, size_t first) {
  FusedPass part = pass;
  part.in = Rows(pass.in, first, pass.rows);
  part.residual = Rows(pass.residual, first, pass.rows);
  part.sum = Rows(pass.sum, first, pass.rows);
  part.saved = Rows(pass.saved, first, pass.rows);
  part.plain = Rows(pass.plain, first, pass.rows);
  return part;
}

absl::Status LayerChain::Run(const Hop& hop, bool is_backward) {
  const auto width = [&](OffloadedLayer* layer, bool is_result) {
    return is_result != is_backward ? layer->spec().outputs : layer->spec().inputs;
  };
  FusedPass whole = hop.pass;
  whole.columns = hop.from != nullptr ? width(hop.from, true)
                  : hop.to != nullptr ? width(hop.to, false)
                                      : 0;
  whole.is_backward = is_backward;
  PAVISE_RETURN_IF_ERROR(CheckHop(hop, whole.columns, is_backward));
  using Impl = OffloadedLayer::Impl;
  Impl* const from = hop.from == nullptr ? nullptr : hop.from->impl_.get();
  Impl* const to = hop.to == nullptr ? nullptr : hop.to->impl_.get();
  const internal::CpuTimer timer((to != nullptr ? to : from)->report.coordinator_cpu_seconds);
  if (to != nullptr && !is_backward) {
    if (rows_ > to->spec.max_samples) {
      return Refuse(Reason::kLimitExceeded, to->spec.item,
                    StrCat(rows_, " samples, not 1 to ", to->spec.max_samples),
                    "send smaller batches, or make the layer for more samples");
    }
    PAVISE_ASSIGN_OR_RETURN(std::vector<Impl::Piece> pieces,
                            to->NewPieces(rows_, use_, 0, groupings_));
    passes_[hop.to] = ++to->last_pass;
    to->open.emplace(to->last_pass, std::move(pieces));
  }
  const auto pieces_of = [&](Impl* impl,
                             OffloadedLayer* layer) -> absl::StatusOr<std::vector<Impl::Piece>*> {
    const auto found = impl->open.find(passes_[layer]);
    if (found == impl->open.end()) return UsageError(StrCat(impl->spec.item, ": was abandoned"));
    return &found->second;
  };
  std::vector<Impl::Piece>* decoded = nullptr;
  std::vector<Impl::Piece>* encoded = nullptr;
  if (from != nullptr) {
    PAVISE_ASSIGN_OR_RETURN(decoded, pieces_of(from, hop.from));
  }
  if (to != nullptr) {
    PAVISE_ASSIGN_OR_RETURN(encoded, pieces_of(to, hop.to));
  }
  size_t first = 0;
  for (size_t i = 0; i < groupings_.size(); ++i) {
    whole.rows = groupings_[i].size();
    FusedPass pass = PartOf(whole, first);
    first += pass.rows;
    Frame received;
    Frame sent;
    if (from != nullptr) {
      const Wire wire = is_backward ? Wire::kInputGradients : Wire::kOutputs;
      PAVISE_ASSIGN_OR_RETURN(received, from->ReceiveFrame((*decoded)[i], wire));
      internal::DecodeFrom(received, (*decoded)[i].step->keys(wire), pass);
    }
    const Wire wire = is_backward ? Wire::kOutputGradients : Wire::kInputs;
    if (to != nullptr) {
      PAVISE_ASSIGN_OR_RETURN(sent, internal::NewFrame(to->type(), pass.rows, pass.columns,
                                                       to->spec.item, coordinator_->spare));
      internal::EncodeInto(sent, (*encoded)[i].step->keys(wire), pass);
    }
    PAVISE_RETURN_IF_ERROR(RunPass(pass, coordinator_->workspace));
    if (from != nullptr) internal::KeepMemory(std::move(received), coordinator_->spare);
    if (to == nullptr) continue;
    Impl::Piece& piece = (*encoded)[i];
    Request request =
        to->NewRequest(is_backward ? Command::kBackward : Command::kForward, piece.id);
    request.keep_inputs = use_ == Use::kTraining;
    request.want_input_gradients = hop.wants_input_gradients;
    request.samples = piece.samples;
    if (is_backward) ++to->gradients;
    PAVISE_RETURN_IF_ERROR(to->SendFrame(std::move(request), piece, wire, std::move(sent)));
  }
  const auto finish = [&](Impl* impl, OffloadedLayer* layer) {
    impl->open.erase(passes_[layer]);
    passes_[layer] = 0;
  };
  if (from != nullptr && (is_backward || use_ == Use::kInference)) finish(from, hop.from);
  if (to != nullptr && is_backward && !hop.wants_input_gradients) {
    for (Impl::Piece& piece : *encoded) {
      PAVISE_RETURN_IF_ERROR(to->ReceiveInputGradients(piece, false).status());
    }
    finish(to, hop.to);
  }
  for (Impl* const impl : {from, to}) {
    if (impl != nullptr) impl->has_sent = false;
  }
  return absl::OkStatus();
}

absl::Status LayerChain::Forward(const Hop& hop) {
  absl::Status status = Run(hop, /*is_backward=*/false);
  if (!status.ok()) Abandon();
  return status;
}

absl::Status LayerChain::Backward(const Hop& hop) {
  absl::Status status =
      use_ == Use::kTraining ? Run(hop, /*is_backward=*/true) : UsageError("a chain of inference");
  if (!status.ok()) Abandon();
  return status;
}

void LayerChain::Abandon() {
  for (auto& [layer, pass] : passes_) {
    layer->Abandon();
    layer->impl_->has_sent = false;
    pass = 0;
  }
}

}  // namespace pavise::offload
