#ifndef PAVISE_BROKER_CONFIGURATION_H_
#define PAVISE_BROKER_CONFIGURATION_H_

#include <set>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/broker/store.h"

#include "absl/status/statusor.h"

namespace pavise::broker {

// What a broker's operator writes down: docs/guides/broker.md has the members. A value.
struct Configuration {
  std::string name;    // of the ledger's origin; fixed when the broker is made
  std::string listen;  // "0.0.0.0:8443"; "" with unix_socket
  std::string unix_socket;
  std::string certificate;  // PEM files
  std::string private_key;
  std::string metrics = "127.0.0.1:9464";  // loopback, in the clear; "" serves none
  StoreOptions::Kind store = StoreOptions::Kind::kSqlite;
  std::string store_location;
  std::string root_key;
  std::string tpm;       // TCTI; "" uses none
  bool counter = false;  // rollback is detected by a counter of that TPM
  bool attest = false;   // the broker attests itself, with that TPM where there is one
  bool attest_tee = false;
  bool attest_logs = true;  // with the firmware's event log and the IMA log beside the quote
  std::set<std::string> proposers;
};

// Strict JSON: unknown members are kMalformed. kUnsupported: a later version.
absl::StatusOr<Configuration> ParseConfiguration(ByteSpan text, std::string_view item);

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_CONFIGURATION_H_
