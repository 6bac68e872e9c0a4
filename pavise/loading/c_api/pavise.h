/* Verified loading from C (libpavise.so): from a signature and a model on disk to tensors in
   memory, whose bytes were hashed there. What loading/load.h promises holds here; nothing is handed
   out before all that was asked for is verified.

   Results. A function that can fail returns PAVISE_OK or the class of the failure (an exit code of
   the program), leaves its outputs NULL or untouched, and stores a pavise_error where `error` is
   not NULL; it is the caller's to free. No C++ exception leaves the library.

   Threads. A model may be used by several threads at a time; options and errors by one at a time.

   Lifetimes. Strings, shapes and strides belong to the object they were asked of. A model, its
   exported tensors and its guards keep the loaded memory alive together, until the last of them is
   closed. Once loaded, the library stays so, also after dlclose.

   fork. A model, its tensors and its guards belong to the process that loaded. A child made by fork
   has none of the library's threads: there no guard is at work (pavise_guard_get_report says so),
   none can be started, and closing gives no memory back. Load in the process that uses the model.
 */
#ifndef PAVISE_LOADING_C_API_PAVISE_H_
#define PAVISE_LOADING_C_API_PAVISE_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PAVISE_API __attribute__((visibility("default")))
#else
#define PAVISE_API
#endif

enum {
  PAVISE_OK = 0,
  PAVISE_REFUSED = 1, /* a verdict: the input is not what was signed, or cannot be accepted */
  PAVISE_USAGE = 2,   /* the call makes no sense */
  PAVISE_MACHINE = 3  /* I/O, memory or the device failed: no verdict */
};

typedef struct pavise_error pavise_error;
typedef struct pavise_model pavise_model;
typedef struct pavise_guard pavise_guard;

/* "0.1.0" */
PAVISE_API const char* pavise_version(void);

/* ---- Errors. Of several findings these describe the first. */

PAVISE_API int pavise_error_class(const pavise_error* error); /* PAVISE_REFUSED, ... */
/* As in the program's --json: "content-mismatch", ...; "usage", "machine-failure". Stable. */
PAVISE_API const char* pavise_error_reason(const pavise_error* error);
PAVISE_API const char* pavise_error_item(const pavise_error* error);   /* file, tensor; may be "" */
PAVISE_API const char* pavise_error_detail(const pavise_error* error); /* what is wrong with it */
/* What would change the verdict; may be "". */
PAVISE_API const char* pavise_error_remedy(const pavise_error* error);
/* All findings: {"exit_code": 1, "error": "...", "findings": [{"reason", "item", "detail",
   "remedy"}]}, UTF-8. */
PAVISE_API const char* pavise_error_json(const pavise_error* error);
PAVISE_API void pavise_error_free(pavise_error* error); /* NULL: nothing */

/* ---- Loading. */

/* What a load keeps so that a guard can check the memory later; loading/guard.h compares them. */
enum { PAVISE_GUARD_NONE = 0, PAVISE_GUARD_TAG = 1, PAVISE_GUARD_BLAKE3 = 2 };

/* One rank's share of tensors: dimension 0 is the outermost. loading/slice.h. */
typedef struct pavise_slice {
  const char* tensors; /* glob over tensor names */
  uint64_t dimension;
  uint64_t rank; /* 0 to ranks - 1 */
  uint64_t ranks;
} pavise_slice;

/* Set by pavise_load_options_init, then filled in; later versions add members at the end only. */
typedef struct pavise_load_options {
  size_t size_bytes;
  const char* model_path;
  const char* signature_path;
  const char* tree_path; /* NULL: "<signature_path>.tree", where it exists */
  /* Whom to trust: exactly one of the two. */
  const char* public_key_path; /* a PEM file */
  const char* trust_file_path; /* docs/formats/trust.md */
  const char* model_name; /* what the signature must call the model; goes with trust_file_path */
  const char* device;     /* "cpu", "cuda:N", "opencl:N"; NULL: "auto" */
  /* Globs: only these are loaded, besides the slices; without either, the whole model. */
  const char* const* tensors;
  size_t tensor_count;
  const pavise_slice* slices;
  size_t slice_count;
  int ignore_unsigned_files; /* not 0: accept files that are not signed */
  int guard;                 /* PAVISE_GUARD_...: what a guard is to check by */
  /* How many of the device's answers the CPU computes again, at most 1000000; initially 8. */
  uint64_t sampled_answers;
} pavise_load_options;

/* `size_bytes`: sizeof(pavise_load_options) as the caller was compiled with. */
PAVISE_API void pavise_load_options_init(pavise_load_options* options, size_t size_bytes);

/* The refusals of loading::Loader::Load and of reading the key or the trust file. PAVISE_USAGE also
   where the options come from a newer header and use a member that this library does not know. */
PAVISE_API int pavise_load(const pavise_load_options* options, pavise_model** model,
                           pavise_error** error);
PAVISE_API void pavise_model_close(pavise_model* model); /* NULL: nothing */

/* Not 0: only the tensors that were asked for were read and verified. */
PAVISE_API int pavise_model_is_partial(const pavise_model* model);
PAVISE_API const char* pavise_model_device(const pavise_model* model); /* "cuda:0" */

/* ---- Tensors. */

typedef struct pavise_tensor {
  const char* name;
  const char* file;
  const char* dtype; /* the format's own name: "BF16", "Q4_K" */
  size_t dimensions;
  const uint64_t* shape;            /* of what is loaded, outermost dimension first */
  const uint64_t* strides_elements; /* of a share that is no stretch, larger than its shape says */
  uint64_t size_bytes; /* from the first byte to the last, other ranks' rows included */
  int is_slice;
} pavise_tensor;

PAVISE_API size_t pavise_tensor_count(const pavise_model* model);
/* PAVISE_USAGE: no such index. */
PAVISE_API int pavise_tensor_get(const pavise_model* model, size_t index, pavise_tensor* tensor,
                                 pavise_error** error);
/* The index of the tensor of that name, in `file` or, where that is NULL, in the only file that has
   one. PAVISE_USAGE: there is none, or several. */
PAVISE_API int pavise_tensor_find(const pavise_model* model, const char* file, const char* name,
                                  size_t* index, pavise_error** error);

struct DLManagedTensorVersioned;
struct DLManagedTensor;

/* The tensor where it lies, without a copy, as DLPack 1.1 describes it and marked read-only: who
   writes to it changes what was verified, and a guard finds that. Its deleter gives the reference
   back, on any thread, also after pavise_model_close. The load has waited for the device, so a
   consumer needs no stream to wait for. On OpenCL, `data` is a cl_mem, in the context that it was
   made in.

   PAVISE_REFUSED (unsupported): a dtype that DLPack does not have or packs otherwise (quantised
   blocks, F4, F6); memory without a name for others; a tensor that lies at no multiple of its
   element's size; a shape beyond 63 bits. */
PAVISE_API int pavise_tensor_export(const pavise_model* model, size_t index,
                                    struct DLManagedTensorVersioned** tensor, pavise_error** error);
/* For consumers before DLPack 1.0. It cannot be marked read-only; it is all the same. */
PAVISE_API int pavise_tensor_export_unversioned(const pavise_model* model, size_t index,
                                                struct DLManagedTensor** tensor,
                                                pavise_error** error);

/* ---- The guard: checks the loaded memory again and again while the program uses it. */

typedef struct pavise_finding {
  int is_change; /* 0: the guard cannot vouch any more, and has stopped for good */
  const char* file;
  uint64_t begin_bytes; /* of the file, [begin, end) */
  uint64_t end_bytes;
  const char* const* tensors; /* loaded tensors that lie there, at least in part */
  size_t tensor_count;
  const pavise_error* error; /* the callback must not free it */
} pavise_finding;

/* Set by pavise_guard_options_init, then filled in. */
typedef struct pavise_guard_options {
  size_t size_bytes;
  double share_of_time; /* above 0, at most 1; initially 0.01 */
  /* Called on the guard's thread. All of `finding` is gone when it returns. It must not close or
     stop anything of the library's. NULL: prints the finding to standard error and aborts. */
  void (*on_finding)(void* context, const pavise_finding* finding);
  void* context;
} pavise_guard_options;
PAVISE_API void pavise_guard_options_init(pavise_guard_options* options, size_t size_bytes);

typedef struct pavise_guard_report {
  uint64_t ranges; /* of at most 1 MiB, that a pass checks */
  uint64_t bytes;
  uint64_t ranges_checked;
  uint64_t passes_completed;
  uint64_t ranges_changed;
  double longest_unchecked_seconds; /* as long may a change have gone unseen, so far */
  double now_unchecked_seconds;
  double share_of_time; /* used so far */
  int vouches;          /* 0 after the first finding, and in a fork, where all members are 0 */
} pavise_guard_report;

/* The errors of loading::Guard::Start; PAVISE_USAGE: the model was loaded with PAVISE_GUARD_NONE,
   or by the process that this one is a fork of. */
PAVISE_API int pavise_guard_start(const pavise_model* model, const pavise_guard_options* options,
                                  pavise_guard** guard, pavise_error** error);
PAVISE_API int pavise_guard_get_report(const pavise_guard* guard, pavise_guard_report* report,
                                       pavise_error** error);
/* Waits for the slice under way, which may still find something. NULL: nothing. */
PAVISE_API void pavise_guard_stop(pavise_guard* guard);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* PAVISE_LOADING_C_API_PAVISE_H_ */
