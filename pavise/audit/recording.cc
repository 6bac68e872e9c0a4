#include "pavise/audit/recording.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "pavise/base/status.h"

namespace pavise::audit {
namespace {

using offload::Command;
using offload::Frames;
using offload::Matrix;

// Frames were checked by whoever made or takes them; one that does not parse is kept as nothing.
Matrix MatrixOf(const Frames& frames, size_t index = 0) {
  if (index >= frames.size()) return Matrix();
  const offload::Frame& frame = frames[index];
  if (frame.modulus == 0) {
    auto matrix =
        offload::UnpackMatrix(frame.bytes, frame.type, frame.rows, frame.columns, "frame");
    return matrix.ok() ? *std::move(matrix) : Matrix();
  }
  auto matrix = Matrix::Create(frame.rows, frame.columns, "frame");
  if (!matrix.ok() || frame.bytes.size() != matrix->values().size()) return Matrix();
  std::transform(frame.bytes.begin(), frame.bytes.end(), matrix->values().begin(),
                 [](uint8_t byte) { return static_cast<float>(static_cast<int8_t>(byte)); });
  return *std::move(matrix);
}

}  // namespace

struct Recording::State {
  State(RecordsLayer chosen, size_t most_steps, RecordsProduct chosen_products)
      : records(std::move(chosen)),
        max_steps(most_steps),
        records_product(std::move(chosen_products)) {}

  // The step's record, where it is kept. With `mutex` held.
  SeenStep* Find(uint64_t layer, uint64_t step) {
    const auto place = places.find(layer);
    if (place == places.end()) return nullptr;
    std::vector<SeenStep>& steps = layers[place->second].steps;
    const auto found =
        std::find_if(steps.begin(), steps.end(), [&](const SeenStep& s) { return s.step == step; });
    return found == steps.end() ? nullptr : &*found;
  }

  // Whether its answer is wanted.
  bool Keep(const offload::Request& request) {
    const std::scoped_lock lock(mutex);
    if (request.command == Command::kProduct) {
      if (!records_product(request.step)) return false;
      // A worker's trial products, which come first, have numbers of their own.
      SeenProduct& product = products[request.step] = {};
      product.number = request.step;
      product.operation = request.operation;
      // Those of a, and then as many of b.
      const size_t frames = request.frames.size() / 2;
      for (size_t i = 0; i < frames && request.frames[i].modulus != 0; ++i)
        product.moduli.push_back(request.frames[i].modulus);
      product.a = MatrixOf(request.frames);
      product.b = MatrixOf(request.frames, frames);
      return true;
    }
    if (request.command == Command::kPutWeights) {
      // Anew after an update, or under the layer's next key.
      if (has_begun || places.contains(request.layer)) return false;
      places[request.layer] = layers.size();
      SeenLayer& layer = layers.emplace_back();
      layer.form = request.layer_shape;
      layer.weights = MatrixOf(request.frames);
      return false;
    }
    const auto place = places.find(request.layer);
    if (place == places.end()) return false;
    SeenLayer& layer = layers[place->second];
    if (request.command == Command::kUpdate && layer.shift.rows.empty())
      layer.shift = request.shift;
    if (request.command == Command::kForward) has_begun = true;
    if (!records(place->second)) return false;
    if (request.command == Command::kForward) {
      if (layer.steps.size() >= max_steps) return false;
      SeenStep& step = layer.steps.emplace_back();
      step.step = request.step;
      step.inputs = MatrixOf(request.frames);
      return true;
    }
    if (request.command == Command::kBackward) {
      SeenStep* const step = Find(request.layer, request.step);
      if (step != nullptr) step->output_gradients = MatrixOf(request.frames);
    }
    return false;
  }

  const RecordsLayer records;
  const size_t max_steps;
  const RecordsProduct records_product;
  std::mutex mutex;
  std::map<uint64_t, SeenProduct> products;
  std::map<uint64_t, size_t> places;  // by the number that requests have
  std::vector<SeenLayer> layers;
  bool has_begun = false;
};

Recording::Recording(RecordsLayer records, size_t max_steps, RecordsProduct records_product)
    : state_(std::make_shared<State>(std::move(records), max_steps, std::move(records_product))) {}
Recording::~Recording() = default;
const std::vector<SeenLayer>& Recording::layers() const { return state_->layers; }
const SeenProduct* Recording::product(uint64_t number) const {
  const auto found = state_->products.find(number);
  return found == state_->products.end() ? nullptr : &found->second;
}

std::unique_ptr<offload::WorkerConnection> RecordConnection(
    std::unique_ptr<offload::WorkerConnection> worker, std::shared_ptr<Recording> recording) {
  using State = Recording::State;
  class Pending final : public offload::PendingReply {
   public:
    Pending(std::unique_ptr<offload::PendingReply> inner, std::shared_ptr<State> state)
        : inner_(std::move(inner)), state_(std::move(state)) {}
    absl::StatusOr<offload::Reply> Wait(absl::Time deadline) override {
      absl::StatusOr<offload::Reply> reply = inner_->Wait(deadline);
      if (reply.ok()) {
        const std::scoped_lock lock(state_->mutex);
        if (reply->command == Command::kProduct) {
          const auto product = state_->products.find(reply->step);
          if (product != state_->products.end()) product->second.result = MatrixOf(reply->frames);
          return reply;
        }
        SeenStep* const step = state_->Find(reply->layer, reply->step);
        if (step != nullptr) step->outputs = MatrixOf(reply->frames);
      }
      return reply;
    }

   private:
    const std::unique_ptr<offload::PendingReply> inner_;
    const std::shared_ptr<State> state_;
  };
  class Connection final : public offload::WorkerConnection {
   public:
    Connection(std::unique_ptr<offload::WorkerConnection> inner, std::shared_ptr<State> state)
        : inner_(std::move(inner)), state_(std::move(state)) {}
    const offload::WorkerDescription& description() const override { return inner_->description(); }
    std::unique_ptr<offload::PendingReply> Send(offload::Request request) override {
      const bool keeps_answer = state_->Keep(request);
      std::unique_ptr<offload::PendingReply> pending = inner_->Send(std::move(request));
      if (!keeps_answer) return pending;
      return std::make_unique<Pending>(std::move(pending), state_);
    }

   private:
    const std::unique_ptr<offload::WorkerConnection> inner_;
    const std::shared_ptr<State> state_;
  };
  return std::make_unique<Connection>(std::move(worker), recording->state_);
}

AuditedScheme::AuditedScheme(std::shared_ptr<const offload::Scheme> scheme,
                             std::function<bool(const std::string& item)> keeps)
    : scheme_(std::move(scheme)), keeps_(std::move(keeps)), kept_(std::make_unique<Kept>()) {}

absl::StatusOr<std::unique_ptr<offload::Layer>> AuditedScheme::NewLayer(
    std::string item, const offload::LayerShape& shape, offload::SecretStream stream) const {
  if ((!keeps_ || keeps_(item)) && KeysOf(item) == nullptr) {
    PAVISE_ASSIGN_OR_RETURN(offload::SecretStream again, stream.Derive("audited"));
    PAVISE_ASSIGN_OR_RETURN(auto twin, scheme_->NewLayer(item, shape, std::move(again)));
    kept_->items.push_back(item);
    kept_->layers.push_back(std::move(twin));
  }
  PAVISE_ASSIGN_OR_RETURN(offload::SecretStream own, stream.Derive("audited"));
  return scheme_->NewLayer(std::move(item), shape, std::move(own));
}

offload::Layer* AuditedScheme::KeysOf(const std::string& item) const {
  const auto found = std::find(kept_->items.begin(), kept_->items.end(), item);
  return found == kept_->items.end()
             ? nullptr
             : kept_->layers[static_cast<size_t>(found - kept_->items.begin())].get();
}

}  // namespace pavise::audit
