#ifndef PAVISE_CLI_TORCH_TRAINER_H_
#define PAVISE_CLI_TORCH_TRAINER_H_

#include <memory>

#include "pavise/cli/training.h"

namespace pavise::cli {

// pavise-train's.
std::unique_ptr<Trainer> NewTorchTrainer();

}  // namespace pavise::cli

#endif  // PAVISE_CLI_TORCH_TRAINER_H_
