#ifndef PAVISE_LOADING_TESTING_THREAD_RANKS_H_
#define PAVISE_LOADING_TESTING_THREAD_RANKS_H_

#include <functional>

#include "pavise/loading/ranks.h"

namespace pavise::loading::testing {

// What rank `rank` sends in its round `round` (from 0) in place of `message`; it may change it.
using Forgery = std::function<void(unsigned rank, unsigned round, Bytes& message)>;

// Runs `body` once a rank, each in a thread, and returns when all have returned. A rank that
// returns counts as one that has left: who waits for it then gets kInternal, as where a launcher
// ends a job one of whose processes died.
void RunRanks(unsigned size, const std::function<void(RankGroup& group)>& body,
              const Forgery& forgery = nullptr);

}  // namespace pavise::loading::testing

#endif  // PAVISE_LOADING_TESTING_THREAD_RANKS_H_
