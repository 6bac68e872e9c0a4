/* Loads one tensor of a signed model and adds up its values, where they lie and after the model's
   own handle is closed.

     load MODEL SIGNATURE PUBLIC_KEY TENSOR [DIMENSION RANK RANKS] */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pavise/loading/c_api/dlpack.h"
#include "pavise/loading/c_api/pavise.h"

static int Tell(int result, pavise_error* error) {
  fprintf(stderr, "%s: %s: %s\n", pavise_error_reason(error), pavise_error_item(error),
          pavise_error_detail(error));
  if (*pavise_error_remedy(error) != '\0') fprintf(stderr, "%s\n", pavise_error_remedy(error));
  pavise_error_free(error);
  return result;
}

/* Of a matrix or vector of F32 in the memory of this process. */
static double Sum(const DLTensor* tensor) {
  const float* values;
  const int64_t rows = tensor->ndim == 2 ? tensor->shape[0] : 1;
  const int64_t row_stride = tensor->ndim == 2 ? tensor->strides[0] : 0;
  const int64_t columns = tensor->shape[tensor->ndim - 1];
  const int64_t column_stride = tensor->strides[tensor->ndim - 1];
  double sum = 0;
  int64_t row;
  int64_t column;
  values = (const float*)(const void*)((const char*)tensor->data + tensor->byte_offset);
  for (row = 0; row < rows; ++row) {
    for (column = 0; column < columns; ++column) {
      sum += values[row * row_stride + column * column_stride];
    }
  }
  return sum;
}

int main(int argc, char** argv) {
  pavise_load_options options;
  pavise_slice slice;
  pavise_model* model = NULL;
  pavise_error* error = NULL;
  pavise_tensor tensor;
  struct DLManagedTensorVersioned* exported = NULL;
  const char* names[1];
  size_t index = 0;
  size_t i;
  int result;
  if (argc != 5 && argc != 8) {
    fprintf(stderr, "load MODEL SIGNATURE PUBLIC_KEY TENSOR [DIMENSION RANK RANKS]\n");
    return PAVISE_USAGE;
  }
  pavise_load_options_init(&options, sizeof(options));
  options.model_path = argv[1];
  options.signature_path = argv[2];
  options.public_key_path = argv[3];
  options.device = "cpu";
  if (argc == 8) {
    slice.tensors = argv[4];
    slice.dimension = strtoull(argv[5], NULL, 10);
    slice.rank = strtoull(argv[6], NULL, 10);
    slice.ranks = strtoull(argv[7], NULL, 10);
    options.slices = &slice;
    options.slice_count = 1;
  } else {
    names[0] = argv[4];
    options.tensors = names;
    options.tensor_count = 1;
  }

  /* From here on nothing is believed that was not signed by the holder of the key. */
  result = pavise_load(&options, &model, &error);
  if (result != PAVISE_OK) return Tell(result, error);
  result = pavise_tensor_find(model, NULL, argv[4], &index, &error);
  if (result == PAVISE_OK) result = pavise_tensor_get(model, index, &tensor, &error);
  if (result == PAVISE_OK) {
    printf("%s of %s on %s:", tensor.name, tensor.file, pavise_model_device(model));
    for (i = 0; i < tensor.dimensions; ++i) printf(" %lu", (unsigned long)tensor.shape[i]);
    printf(" %s\n", tensor.dtype);
    result = pavise_tensor_export(model, index, &exported, &error);
  }
  /* The exported tensor keeps the memory. */
  pavise_model_close(model);
  if (result != PAVISE_OK) return Tell(result, error);

  if (exported->dl_tensor.device.device_type != kDLCPU || exported->dl_tensor.ndim < 1 ||
      exported->dl_tensor.ndim > 2 || exported->dl_tensor.dtype.code != kDLFloat ||
      exported->dl_tensor.dtype.bits != 32) {
    fprintf(stderr, "not a vector or matrix of F32\n");
    result = PAVISE_USAGE;
  } else {
    printf("sum %.1f\n", Sum(&exported->dl_tensor));
  }
  exported->deleter(exported);
  return result;
}
