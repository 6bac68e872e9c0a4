#ifndef PAVISE_OFFLOAD_ONEDNN_ONEDNN_PRODUCTS_H_
#define PAVISE_OFFLOAD_ONEDNN_ONEDNN_PRODUCTS_H_

#include <memory>

#include "pavise/offload/cpu/host_products.h"

namespace pavise::offload {

// oneDNN's products and convolutions on `threads` threads; 0: as many as OMP_NUM_THREADS or the
// machine says. bf16 where the CPU has AVX512-BF16 or AMX. Residues are exact, which oneDNN is on
// CPUs with VNNI only: elsewhere plain loops multiply them. Null where Pavise was built without
// oneDNN. Its packing buffers, some MiB a thread, are in nobody's account.
std::unique_ptr<HostProducts> NewOneDnnProducts(int threads = 0);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_ONEDNN_ONEDNN_PRODUCTS_H_
