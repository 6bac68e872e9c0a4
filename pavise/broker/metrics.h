#ifndef PAVISE_BROKER_METRICS_H_
#define PAVISE_BROKER_METRICS_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace pavise::broker {

// What the broker counts, in Prometheus' text format (version 0.0.4). Labels are routes, status
// codes, reasons and kinds of events: nothing that a client chooses, nothing of an agreement's.
// Thread-safe.
class Metrics {
 public:
  Metrics();
  ~Metrics();

  // One request: pavise_broker_requests_total{route,status}, pavise_broker_request_seconds{route}.
  void CountRequest(std::string_view route, int status, absl::Duration duration);
  // pavise_broker_refusals_total{reason}; failures of the machine under "machine-failure".
  void CountRefusal(std::string_view reason);
  // pavise_broker_events_total{event}: ledger entries by kind.
  void CountEvent(std::string_view event);
  // pavise_broker_<name>.
  void Set(std::string_view name, double value);

  std::string Serialize() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_METRICS_H_
