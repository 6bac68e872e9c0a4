// pavise-train: the verbs that need libtorch. `pavise` starts it (main.cc).
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <vector>

#include "pavise/base/process_memory.h"
#include "pavise/cli/program.h"
#include "pavise/cli/torch_trainer.h"
#include "pavise/cli/training.h"

namespace {

// OpenBLAS, which is libtorch's for products, takes newer Intel CPUs for one of 2004, unless it is
// told better before it is loaded: so the program starts itself once more. What the user set stays.
void ChooseOpenBlasKernels(char** argv) {
#if defined(__x86_64__)
  if (std::getenv("OPENBLAS_CORETYPE") != nullptr) return;
  if (!__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) return;
  if (setenv("OPENBLAS_CORETYPE", "SKYLAKEX", 0) == 0) execv("/proc/self/exe", argv);
    // Where that fails training is slower, and right.
#else
  (void)argv;
#endif
}

}  // namespace

int main(int argc, char** argv) {
  ChooseOpenBlasKernels(argv);
  pavise::KeepFreedMemory();
  try {
    const std::unique_ptr<pavise::cli::Trainer> trainer = pavise::cli::NewTorchTrainer();
    std::vector<std::unique_ptr<pavise::cli::Verb>> verbs;
    verbs.push_back(pavise::cli::NewTrainVerb(trainer.get()));
    verbs.push_back(pavise::cli::NewInferVerb(trainer.get()));
    verbs.push_back(pavise::cli::NewAuditVerb(trainer.get()));
    verbs.push_back(pavise::cli::NewBenchVerb(pavise::cli::NewModesBench(trainer.get())));
    return pavise::cli::RunProgram(argc, argv, std::move(verbs));
  } catch (const std::bad_alloc&) {
    return pavise::cli::ReportOutOfMemory(argc, argv);
  } catch (const std::exception& e) {
    // No exception crosses the areas' interfaces: this is a defect, and never a verdict.
    std::fprintf(stderr, "FAILED: internal error: %s\n", e.what());
    return 3;
  }
}
