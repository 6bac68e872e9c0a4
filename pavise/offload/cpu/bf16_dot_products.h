#ifndef PAVISE_OFFLOAD_CPU_BF16_DOT_PRODUCTS_H_
#define PAVISE_OFFLOAD_CPU_BF16_DOT_PRODUCTS_H_

#include <cstdint>
#include <span>

#include "pavise/offload/cpu/sketch_products.h"
#include "pavise/offload/tensor.h"

namespace pavise::offload::cpu {

// MultiplyVectors (sketch_products.h) of a bf16 matrix by VDPBF16PS, which adds two products of
// bf16 to a sum in fp32. Only where CpuSupportsAvx512Bf16().
void MultiplyVectorsByDotProducts(ViewOf<const uint16_t> m, std::span<RowVectors> vectors,
                                  const RowSquares& squares);

}  // namespace pavise::offload::cpu

#endif  // PAVISE_OFFLOAD_CPU_BF16_DOT_PRODUCTS_H_
