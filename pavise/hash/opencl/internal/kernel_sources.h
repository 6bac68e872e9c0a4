#ifndef PAVISE_HASH_OPENCL_INTERNAL_KERNEL_SOURCES_H_
#define PAVISE_HASH_OPENCL_INTERNAL_KERNEL_SOURCES_H_

// OpenCL C, each with the arithmetic it uses before it: written at build time by
// cmake/EmbedKernels.cmake from arithmetic/*.h and the .cl files of this folder.
namespace pavise::hash::opencl {

extern const char* const kSha256Source;
extern const char* const kSha384Source;
extern const char* const kBlake3ChunksSource;
extern const char* const kBlake3ParentsSource;
extern const char* const kTagSource;

}  // namespace pavise::hash::opencl

#endif  // PAVISE_HASH_OPENCL_INTERNAL_KERNEL_SOURCES_H_
