#include "pavise/broker/metrics.h"

#include "pavise/base/strings.h"

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

namespace pavise::broker {
namespace {

const prometheus::Histogram::BucketBoundaries& Buckets() {
  static const auto* const buckets = new prometheus::Histogram::BucketBoundaries{
      0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};
  return *buckets;
}

}  // namespace

struct Metrics::State {
  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& requests = prometheus::BuildCounter()
                                                          .Name("pavise_broker_requests_total")
                                                          .Help("Requests by route and status")
                                                          .Register(registry);
  prometheus::Family<prometheus::Histogram>& seconds = prometheus::BuildHistogram()
                                                           .Name("pavise_broker_request_seconds")
                                                           .Help("Time in the handler, by route")
                                                           .Register(registry);
  prometheus::Family<prometheus::Counter>& refusals = prometheus::BuildCounter()
                                                          .Name("pavise_broker_refusals_total")
                                                          .Help("Refusals by their first reason")
                                                          .Register(registry);
  prometheus::Family<prometheus::Counter>& events = prometheus::BuildCounter()
                                                        .Name("pavise_broker_events_total")
                                                        .Help("Ledger entries by kind")
                                                        .Register(registry);
};

Metrics::Metrics() : state_(std::make_unique<State>()) {}
Metrics::~Metrics() = default;

void Metrics::CountRequest(std::string_view route, int status, absl::Duration duration) {
  const std::string name(route);
  state_->requests.Add({{"route", name}, {"status", std::to_string(status)}}).Increment();
  state_->seconds.Add({{"route", name}}, Buckets()).Observe(absl::ToDoubleSeconds(duration));
}

void Metrics::CountRefusal(std::string_view reason) {
  state_->refusals.Add({{"reason", std::string(reason)}}).Increment();
}

void Metrics::CountEvent(std::string_view event) {
  state_->events.Add({{"event", std::string(event)}}).Increment();
}

void Metrics::Set(std::string_view name, double value) {
  prometheus::BuildGauge()
      .Name(StrCat("pavise_broker_", name))
      .Register(state_->registry)
      .Add({})
      .Set(value);
}

std::string Metrics::Serialize() const {
  return prometheus::TextSerializer().Serialize(state_->registry.Collect());
}

}  // namespace pavise::broker
