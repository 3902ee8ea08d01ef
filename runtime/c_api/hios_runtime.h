/* Runs artifacts of hios-tvm (.hios files) on CPUs, without Python.
 *
 *     hios_artifact* artifact;
 *     hios_session* session;
 *     if (hios_artifact_open("model.hios", NULL, &artifact) != HIOS_OK ||
 *         hios_session_open(artifact, NULL, &session) != HIOS_OK) {
 *       fprintf(stderr, "%s\n", hios_error());
 *     }
 *     hios_session_run(session, &input, 1, &output, 1, NULL);
 *
 * Functions that can fail return a code; `hios_error` then says what is wrong and what to do. All
 * functions may be called from several threads; runs of one session take turns. What they return
 * belongs to the artifact, session or trace that it is of, and lives as long as that.
 */

#ifndef HIOS_RUNTIME_H_
#define HIOS_RUNTIME_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HIOS_API __attribute__((visibility("default")))

/* Raised with every change after which programs have to be compiled again. */
#define HIOS_RUNTIME_VERSION 1
HIOS_API int32_t hios_runtime_version(void);

/* The version of TVM whose artifacts are read, such as "0.27.0". */
HIOS_API const char* hios_runtime_tvm_version(void);

typedef enum hios_status {
  HIOS_OK = 0,
  HIOS_USAGE = 1,      /* an argument or option that cannot be used */
  HIOS_ARTIFACT = 2,   /* a file that is damaged, or does not fit this machine or runtime */
  HIOS_INPUT = 3,      /* tensors of wrong names, types, shapes or values */
  HIOS_MEMORY = 4,     /* too little memory */
  HIOS_DEVICE = 5,     /* a core that this process may not use, or a kind of device without support */
  HIOS_EXECUTION = 6,  /* a kernel that failed; the session works again afterwards */
  HIOS_TIMEOUT = 7,    /* a run that took longer than its timeout */
  HIOS_CLOSED = 8      /* a session whose kernel hangs, or that belongs to the parent process */
} hios_status;

/* The message of the calling thread's latest call that failed; "" if none has. It lives until that
 * thread's next call that fails. */
HIOS_API const char* hios_error(void);

/* ---- Artifacts */

typedef struct hios_artifact hios_artifact;

/* Reads an artifact and checks all of it, as Python does: nothing of it has run afterwards.
 *
 * `key` is NULL or the file of an Ed25519 public key (PEM): its owner must have signed the artifact.
 * With NULL it is what the environment variable HIOS_REQUIRE_SIGNATURE names, if that is set. Keys
 * need the system's libcrypto.so. */
HIOS_API hios_status hios_artifact_open(const char* path, const char* key, hios_artifact** artifact);

/* Sessions of it go on. */
HIOS_API void hios_artifact_close(hios_artifact* artifact);

/* An input or output of a model. */
typedef struct hios_tensor_spec {
  const char* name;
  const char* dtype;    /* float32, int64, bool, bfloat16, ... */
  int32_t rank;
  const int64_t* shape; /* `rank` numbers */
  uint64_t bytes;
} hios_tensor_spec;

HIOS_API const char* hios_artifact_model(const hios_artifact* artifact);

/* How many shapes of inputs there are programs for; number 0 is the largest. */
HIOS_API size_t hios_artifact_shapes(const hios_artifact* artifact);

/* The inputs and outputs of one of the shapes, in the model's order; NULL if there is no such shape. */
HIOS_API const hios_tensor_spec* hios_artifact_inputs(const hios_artifact* artifact, size_t shape,
                                                      size_t* count);
HIOS_API const hios_tensor_spec* hios_artifact_outputs(const hios_artifact* artifact, size_t shape,
                                                       size_t* count);

/* The devices that it was compiled for, such as cpu@0-3. */
HIOS_API const char* const* hios_artifact_devices(const hios_artifact* artifact, size_t* count);

/* The JSON of a shape's manifest, which says everything else; NULL if there is no such shape. */
HIOS_API const char* hios_artifact_manifest(const hios_artifact* artifact, size_t shape,
                                            size_t* bytes);

/* Whether runs of other batch sizes are possible, and between which. */
HIOS_API int32_t hios_artifact_batch(const hios_artifact* artifact, int64_t* smallest,
                                     int64_t* largest);

/* ---- Sessions */

typedef struct hios_session hios_session;

/* All zero is what NULL stands for: `hios_session_options options = {0};`. */
typedef struct hios_session_options {
  const char* devices;  /* other devices in the order of the artifact's, with as many cores:
                           "cpu@4,cpu@5"; NULL: those of the artifact */
  double spin_us;       /* how long a worker polls before it sleeps; 0: 500 */
  int32_t exclusive;    /* refuse cores that another process uses, and let no other use them */
} hios_session_options;

/* Loads kernels and weights, and starts a worker thread for each core. */
HIOS_API hios_status hios_session_open(const hios_artifact* artifact,
                                       const hios_session_options* options, hios_session** session);

/* Ends the worker threads. No run may be going on. */
HIOS_API void hios_session_close(hios_session* session);

/* A tensor of the caller: contiguous, in the order of C. */
typedef struct hios_tensor {
  const char* name;     /* NULL: all are in the model's order */
  const char* dtype;
  int32_t rank;
  const int64_t* shape;
  void* data;           /* kernels use it in place where it is aligned to 64 bytes */
} hios_tensor;

/* What ran when: an instruction of a program. */
typedef struct hios_span {
  const char* device;   /* the artifact's */
  int64_t stream;
  const char* kind;     /* call, copy, signal or wait */
  const char* name;     /* the operator, the buffer that is copied to, or the event */
  int64_t start_ns;     /* of the monotonic clock */
  int64_t end_ns;
} hios_span;

typedef struct hios_trace {
  const hios_span* spans;
  size_t count;
  int64_t start_ns;     /* of the whole run */
  int64_t end_ns;
} hios_trace;

/* All zero is what NULL stands for. */
typedef struct hios_run_options {
  double timeout_s;     /* after which the run is given up, waiting for others included; 0: never */
  hios_trace** trace;   /* receives what ran when; NULL: nobody wants to know */
} hios_run_options;

/* Runs the model once. All inputs are needed. Outputs that are not given are dropped, and those that
 * are given need the memory of their shape; on an error their content is undefined. Of an artifact
 * of several shapes, the shape of the inputs decides. */
HIOS_API hios_status hios_session_run(hios_session* session, const hios_tensor* inputs,
                                      size_t num_inputs, const hios_tensor* outputs,
                                      size_t num_outputs, const hios_run_options* options);

HIOS_API void hios_trace_free(hios_trace* trace);

#ifdef __cplusplus
}
#endif

#endif /* HIOS_RUNTIME_H_ */
