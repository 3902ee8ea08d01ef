/* Describes an artifact, and runs it once on files of raw bytes.
 *
 *     python scripts/build_c_runtime.py -o build/c-runtime
 *     gcc examples/c/run.c -Ibuild/c-runtime -Lbuild/c-runtime -lhios_runtime \
 *         -Wl,-rpath,'$ORIGIN' -o build/c-runtime/run
 *     build/c-runtime/run model.hios input0.bin output0.bin
 *
 * A file for each input comes first, then one for each output, in the model's order. Without files
 * it only describes the artifact. */

#include <stdio.h>
#include <stdlib.h>

#include "hios_runtime.h"

static int fail(void) {
  fprintf(stderr, "%s\n", hios_error());
  return 1;
}

static void print_specs(const char* what, const hios_tensor_spec* specs, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    printf("%s %s %s [", what, specs[i].name, specs[i].dtype);
    for (int32_t k = 0; k < specs[i].rank; ++k) {
      printf("%s%lld", k == 0 ? "" : ", ", (long long)specs[i].shape[k]);
    }
    printf("]\n");
  }
}

/* Kernels use memory that is aligned to 64 bytes without a copy. */
static hios_tensor new_tensor(const hios_tensor_spec* spec) {
  const size_t bytes = ((size_t)spec->bytes + 64) / 64 * 64;
  hios_tensor tensor = {spec->name, spec->dtype, spec->rank, spec->shape, aligned_alloc(64, bytes)};
  return tensor;
}

static int transfer(const char* path, const char* mode, void* data, size_t bytes) {
  FILE* file = fopen(path, mode);
  const size_t done = file == NULL ? 0
                      : *mode == 'r' ? fread(data, 1, bytes, file)
                                     : fwrite(data, 1, bytes, file);
  if (file == NULL || done != bytes || fclose(file) != 0) {
    fprintf(stderr, "%s: not %zu bytes\n", path, bytes);
    return 1;
  }
  return 0;
}

int main(int argc, char** argv) {
  hios_artifact* artifact;
  hios_session* session;
  if (argc < 2) {
    fprintf(stderr, "%s MODEL [INPUT... OUTPUT...]\n", argv[0]);
    return 2;
  }
  if (hios_artifact_open(argv[1], NULL, &artifact) != HIOS_OK) return fail();
  size_t num_inputs, num_outputs;
  const hios_tensor_spec* inputs = hios_artifact_inputs(artifact, 0, &num_inputs);
  const hios_tensor_spec* outputs = hios_artifact_outputs(artifact, 0, &num_outputs);
  printf("%s\n", hios_artifact_model(artifact));
  print_specs("input", inputs, num_inputs);
  print_specs("output", outputs, num_outputs);
  if (argc == 2) {
    hios_artifact_close(artifact);
    return 0;
  }
  if ((size_t)argc != 2 + num_inputs + num_outputs) {
    fprintf(stderr, "a file for each input and output is needed\n");
    return 2;
  }

  /* The cores of the artifact may not be those of this machine: HIOS_DEVICES names others. */
  hios_session_options options = {0};
  options.devices = getenv("HIOS_DEVICES");
  if (hios_session_open(artifact, &options, &session) != HIOS_OK) return fail();

  hios_tensor* tensors = calloc(num_inputs + num_outputs, sizeof(hios_tensor));
  for (size_t i = 0; i < num_inputs; ++i) {
    tensors[i] = new_tensor(&inputs[i]);
    if (transfer(argv[2 + i], "rb", tensors[i].data, inputs[i].bytes) != 0) return 1;
  }
  for (size_t i = 0; i < num_outputs; ++i) tensors[num_inputs + i] = new_tensor(&outputs[i]);

  hios_trace* trace;
  hios_run_options run = {0};
  run.trace = &trace;
  if (hios_session_run(session, tensors, num_inputs, tensors + num_inputs, num_outputs, &run) !=
      HIOS_OK) {
    return fail();
  }
  for (size_t i = 0; i < trace->count; ++i) {
    const hios_span* span = &trace->spans[i];
    printf("%s %s %s %.1f us\n", span->device, span->kind, span->name,
           (double)(span->end_ns - span->start_ns) / 1000);
  }
  hios_trace_free(trace);

  for (size_t i = 0; i < num_outputs; ++i) {
    const hios_tensor* output = &tensors[num_inputs + i];
    if (transfer(argv[2 + num_inputs + i], "wb", output->data, outputs[i].bytes) != 0) return 1;
  }
  for (size_t i = 0; i < num_inputs + num_outputs; ++i) free(tensors[i].data);
  free(tensors);
  hios_session_close(session);
  hios_artifact_close(artifact);
  return 0;
}
