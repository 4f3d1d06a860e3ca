/* The CUDA driver functions the runtime calls, on host memory: what checks the ctypes table where there is no GPU.
 *
 * Where cuda.h is found, the compiler compares every definition below with NVIDIA's declaration. A stream runs its work
 * at once, or notes it while it is being captured; a graph is that list of notes. Environment: STAND_IN_GPUS (1),
 * STAND_IN_BYTES (64 MiB) of "GPU" memory, STAND_IN_NO_CAPTURE to refuse captures, STAND_IN_LAZY to put work off until
 * somebody waits for it: what is read too early or written over too soon then shows.
 */
#include <stdlib.h>
#include <string.h>
#if defined(__has_include) && __has_include(<cuda.h>)
#include <cuda.h>
#else
#include <stddef.h>
typedef int CUresult, CUdevice, CUdevice_attribute, CUstreamCaptureMode;
typedef unsigned long long CUdeviceptr;
typedef void *CUcontext, *CUevent, *CUgraph, *CUgraphExec;
typedef struct CUstream_st *CUstream;
typedef void (*CUhostFn)(void *);
typedef unsigned int CUmemorytype;
enum { CU_MEMORYTYPE_DEVICE = 2 };
typedef struct {
  size_t srcXInBytes, srcY; CUmemorytype srcMemoryType; const void *srcHost; CUdeviceptr srcDevice; void *srcArray; size_t srcPitch;
  size_t dstXInBytes, dstY; CUmemorytype dstMemoryType; void *dstHost; CUdeviceptr dstDevice; void *dstArray; size_t dstPitch;
  size_t WidthInBytes, Height;
} CUDA_MEMCPY2D;
enum { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1, CUDA_ERROR_OUT_OF_MEMORY = 2, CUDA_ERROR_NO_DEVICE = 100,
       CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900 };
#define cuCtxPushCurrent cuCtxPushCurrent_v2
#define cuCtxPopCurrent cuCtxPopCurrent_v2
#define cuMemGetInfo cuMemGetInfo_v2
#define cuMemAlloc cuMemAlloc_v2
#define cuMemFree cuMemFree_v2
#define cuMemcpyHtoDAsync cuMemcpyHtoDAsync_v2
#define cuMemcpyDtoHAsync cuMemcpyDtoHAsync_v2
#define cuMemcpyDtoDAsync cuMemcpyDtoDAsync_v2
#define cuMemcpy2DAsync cuMemcpy2DAsync_v2
#define cuStreamDestroy cuStreamDestroy_v2
#define cuStreamBeginCapture cuStreamBeginCapture_v2
#define cuEventDestroy cuEventDestroy_v2
#endif

enum { COPY, CLEAR, CALL };
struct Note { int kind; void *target; const void *source; size_t bytes; CUhostFn call; };
struct Notes {
  int capturing; size_t count; struct Note notes[64];
  struct Note *queue; size_t queued, done; struct Notes *next;
};
struct Point { struct Notes *stream; size_t queued; };
struct Block { size_t bytes; };

static size_t used;
static size_t setting(const char *name, size_t otherwise) {
  const char *text = getenv(name);
  return text ? (size_t)strtoull(text, NULL, 10) : otherwise;
}
static size_t capacity(void) { return setting("STAND_IN_BYTES", (size_t)64 << 20); }

/* Work under way. A host function is Python: its garbage collector may free memory of objects that are long gone, and
 * must not start the work that waits for this very function. Such memory is not given back. */
static int performing;
static void perform(struct Note note) {
  performing++;
  if (note.kind == COPY) memcpy(note.target, note.source, note.bytes);
  if (note.kind == CLEAR) memset(note.target, 0, note.bytes);
  if (note.kind == CALL) note.call(note.target);
  performing--;
}
static struct Notes *streams;
static void catch_up(struct Notes *stream, size_t queued) {
  while (stream->done < queued) perform(stream->queue[stream->done++]);
}
static void catch_up_all(void) {
  for (struct Notes *stream = streams; stream; stream = stream->next) catch_up(stream, stream->queued);
}
static void run(struct Notes *stream, struct Note note) {
  if (!stream || !getenv("STAND_IN_LAZY")) { perform(note); return; }
  stream->queue = (struct Note *)realloc(stream->queue, (stream->queued + 1) * sizeof note);
  stream->queue[stream->queued++] = note;
}
static CUresult put(CUstream stream, struct Note note) {
  struct Notes *notes = (struct Notes *)stream;
  if (!notes || !notes->capturing) { run(notes, note); return CUDA_SUCCESS; }
  if (notes->count == sizeof notes->notes / sizeof *notes->notes) return CUDA_ERROR_INVALID_VALUE;
  notes->notes[notes->count++] = note;
  return CUDA_SUCCESS;
}

CUresult cuInit(unsigned int flags) {
  return flags ? CUDA_ERROR_INVALID_VALUE : setting("STAND_IN_GPUS", 1) ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}
CUresult cuDriverGetVersion(int *version) { *version = 13010; return CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult error, const char **text) {
  *text = error == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" : "CUDA_ERROR";
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char **text) { (void)error; *text = "a stand-in's error"; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { *count = (int)setting("STAND_IN_GPUS", 1); return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = ordinal; return CUDA_SUCCESS; }
CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
  (void)device;
  strncpy(name, "stand-in", (size_t)length);
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  (void)device;
  *value = attribute == 75 ? 8 : attribute == 76 ? 9 : 0;
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  *context = (CUcontext)(size_t)(device + 1);
  return CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext context) { return context ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }
CUresult cuCtxPushCurrent(CUcontext context) { return context ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }
CUresult cuCtxPopCurrent(CUcontext *context) { *context = (CUcontext)(size_t)1; return CUDA_SUCCESS; }
CUresult cuMemGetInfo(size_t *free_bytes, size_t *total) {
  *total = capacity();
  *free_bytes = *total - used;
  return CUDA_SUCCESS;
}
/* Each block stands 256 bytes behind its record, filled with bytes no test expects. */
CUresult cuMemAlloc(CUdeviceptr *address, size_t bytes) {
  char *block = NULL;
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  if (used + bytes > capacity()) return CUDA_ERROR_OUT_OF_MEMORY;
  if (posix_memalign((void **)&block, 256, bytes + 256)) return CUDA_ERROR_OUT_OF_MEMORY;
  ((struct Block *)block)->bytes = bytes;
  used += bytes;
  memset(block + 256, 0xFF, bytes);
  *address = (CUdeviceptr)(size_t)(block + 256);
  return CUDA_SUCCESS;
}
CUresult cuMemFree(CUdeviceptr address) {
  char *block = (char *)(size_t)address - 256;
  used -= ((struct Block *)block)->bytes;
  if (performing) return CUDA_SUCCESS;
  catch_up_all();
  free(block);
  return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned int flags) {
  (void)flags;
  return posix_memalign(address, 4096, bytes) ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void *address) {
  if (performing) return CUDA_SUCCESS;
  catch_up_all();
  free(address);
  return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr target, const void *source, size_t bytes, CUstream stream) {
  return put(stream, (struct Note){COPY, (void *)(size_t)target, source, bytes, NULL});
}
CUresult cuMemcpyDtoHAsync(void *target, CUdeviceptr source, size_t bytes, CUstream stream) {
  return put(stream, (struct Note){COPY, target, (void *)(size_t)source, bytes, NULL});
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr target, CUdeviceptr source, size_t bytes, CUstream stream) {
  return put(stream, (struct Note){COPY, (void *)(size_t)target, (void *)(size_t)source, bytes, NULL});
}
CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D *copy, CUstream stream) {
  int device = copy->srcMemoryType == CU_MEMORYTYPE_DEVICE && copy->dstMemoryType == CU_MEMORYTYPE_DEVICE;
  if (!device || copy->srcXInBytes || copy->srcY || copy->dstXInBytes || copy->dstY) return CUDA_ERROR_INVALID_VALUE;
  if (copy->srcPitch < copy->WidthInBytes || copy->dstPitch < copy->WidthInBytes) return CUDA_ERROR_INVALID_VALUE;
  for (size_t row = 0; row < copy->Height; row++) {
    CUdeviceptr target = copy->dstDevice + row * copy->dstPitch, source = copy->srcDevice + row * copy->srcPitch;
    CUresult code = cuMemcpyDtoDAsync(target, source, copy->WidthInBytes, stream);
    if (code) return code;
  }
  return CUDA_SUCCESS;
}
CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t bytes, CUstream stream) {
  return value ? CUDA_ERROR_INVALID_VALUE : put(stream, (struct Note){CLEAR, (void *)(size_t)target, NULL, bytes, NULL});
}
CUresult cuLaunchHostFunc(CUstream stream, CUhostFn call, void *data) {
  return put(stream, (struct Note){CALL, data, NULL, 0, call});
}
CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
  struct Notes *made = (struct Notes *)calloc(1, sizeof(struct Notes));
  made->next = streams;
  streams = made;
  *stream = (CUstream)made;
  return flags == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuStreamDestroy(CUstream stream) {
  struct Notes *notes = (struct Notes *)stream, **place = &streams;
  if (performing) return CUDA_SUCCESS;
  catch_up(notes, notes->queued);
  while (*place != notes) place = &(*place)->next;
  *place = notes->next;
  free(notes->queue);
  free(notes);
  return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
  struct Notes *notes = (struct Notes *)stream;
  if (notes && notes->capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (notes) catch_up(notes, notes->queued);
  return CUDA_SUCCESS;
}
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  struct Notes *notes = (struct Notes *)stream;
  if (!notes || mode != 1 || getenv("STAND_IN_NO_CAPTURE")) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  notes->capturing = 1;
  notes->count = 0;
  return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  struct Notes *notes = (struct Notes *)stream, *copy = (struct Notes *)malloc(sizeof *notes);
  notes->capturing = 0;
  *copy = *notes;
  *graph = (CUgraph)copy;
  return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags) {
  struct Notes *copy = (struct Notes *)malloc(sizeof *copy);
  *copy = *(struct Notes *)graph;
  *executable = (CUgraphExec)copy;
  return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  struct Notes *notes = (struct Notes *)executable;
  for (size_t index = 0; index < notes->count; ++index) run((struct Notes *)stream, notes->notes[index]);
  return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec executable) { free(executable); return CUDA_SUCCESS; }
CUresult cuGraphDestroy(CUgraph graph) { free(graph); return CUDA_SUCCESS; }
CUresult cuEventCreate(CUevent *event, unsigned int flags) { (void)flags; *event = (CUevent)calloc(1, sizeof(struct Point)); return CUDA_SUCCESS; }
CUresult cuEventDestroy(CUevent event) { free(event); return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent event, CUstream stream) {
  struct Notes *notes = (struct Notes *)stream;
  if (notes && notes->capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  *(struct Point *)event = (struct Point){notes, notes ? notes->queued : 0};
  return CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent event) {
  struct Point *point = (struct Point *)event;
  if (point->stream) catch_up(point->stream, point->queued);
  return CUDA_SUCCESS;
}
