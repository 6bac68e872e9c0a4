#ifndef PAVISE_AGENT_INTERNAL_DESTINATION_PROXY_H_
#define PAVISE_AGENT_INTERNAL_DESTINATION_PROXY_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "pavise/base/file.h"

namespace pavise::agent::internal {

// The only way out of a contained command's network: carries connections to the destinations that
// its stage grants, and to no other. The command asks by HTTP CONNECT (RFC 9110, 9.3.6), as
// programs do that heed HTTPS_PROXY; anything else gets 405, another destination 403. Names are
// resolved here, by the host. What goes through is not looked at. At most 64 connections at a time.
// Thread-safe; its threads end with it.
class DestinationProxy {
 public:
  // `listener`: a listening socket inside of the command's network namespace. `destinations`:
  // "host:port" as a policy::Stage has them, in lower case; those asked for may be in either.
  DestinationProxy(FileDescriptor listener, std::set<std::string> destinations);
  // Closes all connections. May wait for a name that is being resolved.
  ~DestinationProxy();
  DestinationProxy(const DestinationProxy&) = delete;
  DestinationProxy& operator=(const DestinationProxy&) = delete;

 private:
  class Registered;
  void Accept();
  void Serve(FileDescriptor socket);

  const FileDescriptor listener_;
  const std::set<std::string> destinations_;
  std::mutex mutex_;
  std::condition_variable ended_;
  bool stopping_ = false;
  std::set<int> open_;  // sockets, to be shut down
  uint32_t serving_ = 0;
  std::thread acceptor_;
};

}  // namespace pavise::agent::internal

#endif  // PAVISE_AGENT_INTERNAL_DESTINATION_PROXY_H_
