/* A CUDA runtime and driver that do nothing: torch's own CUDA backend starts on a machine without a
   GPU. No kernel runs, and device memory is address space that nobody touches, so no value means
   anything. `build.py` beside this file compiles it; it is loaded with LD_PRELOAD.

   The environment says what is pretended: PRETEND_GPU_COUNT (1), PRETEND_GPU_CAPABILITY (80, ten
   times the compute capability) and PRETEND_GPU_GIB (80, the memory of a device). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <driver_types.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define OUT_OF_MEMORY 2
#define DRIVER_VERSION 13000
typedef void *Handle;
typedef unsigned long long U64;

static double setting(const char *name, double otherwise) {
  const char *text = getenv(name);
  return text ? atof(text) : otherwise;
}
static int device_count(void) { return (int)setting("PRETEND_GPU_COUNT", 1); }
static size_t device_bytes(void) { return (size_t)(setting("PRETEND_GPU_GIB", 80) * (1ull << 30)); }

/* Calls whose only answer is "done". On the platforms of torch's CUDA wheels a function may be
   called with more arguments than it names. */
#define DONE(name) int name(void) { return 0; }
DONE(cudaGetLastError) DONE(cudaPeekAtLastError)
DONE(cudaDeviceSynchronize) DONE(cudaDeviceEnablePeerAccess) DONE(cudaProfilerStart) DONE(cudaProfilerStop)
DONE(cudaStreamDestroy) DONE(cudaStreamSynchronize) DONE(cudaStreamQuery) DONE(cudaStreamWaitEvent)
DONE(cudaThreadExchangeStreamCaptureMode)
DONE(cudaEventDestroy) DONE(cudaEventRecord) DONE(cudaEventRecordWithFlags) DONE(cudaEventQuery) DONE(cudaEventSynchronize)
DONE(cudaFree) DONE(cudaFreeAsync) DONE(cudaHostRegister) DONE(cudaHostUnregister)
DONE(cudaMemset) DONE(cudaMemsetAsync) DONE(cudaMemcpyPeerAsync) DONE(cudaMemcpy2DAsync) DONE(cudaMemcpyToSymbol)
DONE(cudaMemPoolGetAttribute) DONE(cudaMemPoolSetAttribute) DONE(cudaMemPoolSetAccess) DONE(cudaMemPoolTrimTo)
DONE(cudaIpcGetMemHandle) DONE(cudaLaunchHostFunc) DONE(cudaFuncSetAttribute)
DONE(cudaLaunchKernel) DONE(cudaLaunchKernelExC) DONE(__cudaLaunchKernel)
DONE(cuInit) DONE(cuCtxSetCurrent) DONE(cuFuncGetAttribute) DONE(cuFuncSetAttribute) DONE(cuFuncSetCacheConfig)
DONE(cuGetErrorString) DONE(cuLaunchKernel) DONE(cuLaunchCooperativeKernel) DONE(cuLinkAddData_v2) DONE(cuLinkComplete)
DONE(cuLinkCreate_v2) DONE(cuModuleGetFunction) DONE(cuModuleLoad) DONE(cuModuleLoadData) DONE(cuModuleLoadDataEx)
DONE(cuModuleUnload) DONE(cuOccupancyMaxActiveBlocksPerMultiprocessor) DONE(cuPointerGetAttribute) DONE(cuTensorMapEncodeTiled)
DONE(nvmlDeviceGetHandleByPciBusId_v2) DONE(nvmlDeviceGetNvLinkRemoteDeviceType) DONE(nvmlDeviceGetNvLinkRemotePciInfo_v2)
DONE(nvmlSystemGetCudaDriverVersion_v2)

/* Devices. */
static __thread int current_device = 0;
int cudaGetDeviceCount(int *count) { *count = device_count(); return 0; }
int cudaGetDevice(int *device) { *device = current_device; return 0; }
int cudaSetDevice(int device) { current_device = device; return 0; }
int cudaDriverGetVersion(int *version) { *version = DRIVER_VERSION; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = DRIVER_VERSION; return 0; }
int cudaDeviceCanAccessPeer(int *can, int a, int b) { *can = 0; return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
int cudaDeviceGetPCIBusId(char *text, int length, int device) { snprintf(text, length, "0000:00:00.0"); return 0; }
int cudaDeviceGetDefaultMemPool(Handle *pool, int device) { *pool = (Handle)1; return 0; }
int cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  int capability = (int)setting("PRETEND_GPU_CAPABILITY", 80);
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Pretended GPU");
  p->totalGlobalMem = device_bytes();
  p->major = capability / 10;
  p->minor = capability % 10;
  p->multiProcessorCount = 108;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerMultiprocessor = 167936;
  p->sharedMemPerBlockOptin = 166912;
  p->l2CacheSize = 41943040;
  for (int axis = 0; axis < 3; axis++) {
    p->maxThreadsDim[axis] = 1024;
    p->maxGridSize[axis] = axis ? 65535 : 2147483647;
  }
  return 0;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
  case cudaDevAttrMaxThreadsPerBlock: case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY:
  case cudaDevAttrMaxBlockDimZ: *value = 1024; break;
  case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
  case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *value = 65535; break;
  case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
  case cudaDevAttrWarpSize: *value = 32; break;
  case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 65536; break;
  case cudaDevAttrMultiProcessorCount: *value = 108; break;
  case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
  case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 167936; break;
  case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 166912; break;
  case cudaDevAttrComputeCapabilityMajor: *value = (int)setting("PRETEND_GPU_CAPABILITY", 80) / 10; break;
  case cudaDevAttrComputeCapabilityMinor: *value = (int)setting("PRETEND_GPU_CAPABILITY", 80) % 10; break;
  default: *value = 0;
  }
  return 0;
}

/* Streams and events: handles that are never read. */
int cudaStreamCreate(Handle *stream) { *stream = malloc(8); return 0; }
int cudaStreamCreateWithFlags(Handle *stream, unsigned flags) { return cudaStreamCreate(stream); }
int cudaStreamCreateWithPriority(Handle *stream, unsigned flags, int priority) { return cudaStreamCreate(stream); }
int cudaStreamGetPriority(Handle stream, int *priority) { *priority = 0; return 0; }
int cudaStreamIsCapturing(Handle stream, int *status) { *status = 0; return 0; }
int cudaStreamGetCaptureInfo(Handle stream, int *status, Handle a, Handle b, Handle c, Handle d, Handle e) {
  if (status) *status = 0;
  return 0;
}
int cudaEventCreate(Handle *event) { *event = malloc(8); return 0; }
int cudaEventCreateWithFlags(Handle *event, unsigned flags) { return cudaEventCreate(event); }
int cudaEventElapsedTime(float *milliseconds, Handle a, Handle b) { *milliseconds = 1; return 0; }

/* Memory: address space on the device, real memory on the host. */
static size_t used = 0;
int cudaMalloc(Handle *address, size_t bytes) {
  *address = 0;
  if (used + bytes > device_bytes()) return OUT_OF_MEMORY;
  *address = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  used += bytes;
  return 0;
}
int cudaMallocAsync(Handle *address, size_t bytes, Handle stream) { return cudaMalloc(address, bytes); }
int cudaMemGetInfo(size_t *available, size_t *total) {
  *total = device_bytes();
  *available = *total - used;
  return 0;
}
#define MOST_PINNED 4096
static struct { char *begin; size_t bytes; } pinned[MOST_PINNED];
static int pinned_blocks = 0;
static int is_pinned(const void *address) {
  for (int i = 0; i < pinned_blocks; i++) {
    if ((char *)address >= pinned[i].begin && (char *)address < pinned[i].begin + pinned[i].bytes) return 1;
  }
  return 0;
}
int cudaHostAlloc(Handle *address, size_t bytes, unsigned flags) {
  *address = malloc(bytes);
  if (pinned_blocks < MOST_PINNED) {
    pinned[pinned_blocks].begin = *address;
    pinned[pinned_blocks++].bytes = bytes;
  }
  return 0;
}
int cudaFreeHost(Handle address) { return 0; } /* kept: its addresses stay those of pinned memory */
int cudaMemcpy(Handle to, const void *from, size_t bytes, int kind) { memcpy(to, from, bytes); return 0; }
int cudaMemcpyAsync(Handle to, const void *from, size_t bytes, int kind, Handle stream) {
  return cudaMemcpy(to, from, bytes, kind);
}
int cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *address) {
  memset(attributes, 0, sizeof *attributes);
  attributes->type = is_pinned(address) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  return 0;
}
int cudaGetSymbolAddress(Handle *address, const void *symbol) { *address = (Handle)symbol; return 0; }

/* Kernels: registered, looked up, never run. */
int cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->ptxVersion = attributes->binaryVersion = 80;
  return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *f, int n, size_t s, unsigned flags) {
  *blocks = 1;
  return 0;
}
static Handle registered[16];
Handle *__cudaRegisterFatBinary(Handle binary) { return registered; }
void __cudaRegisterFatBinaryEnd(Handle *handle) {}
void __cudaUnregisterFatBinary(Handle *handle) {}
void __cudaRegisterFunction(Handle *h, const char *a, char *b, const char *c, int d, Handle e, Handle f, Handle g, Handle i, int *j) {}
void __cudaRegisterVar(Handle *h, char *a, char *b, const char *c, int d, size_t e, int f, int g) {}
char __cudaInitModule(Handle *handle) { return 1; }
unsigned __cudaPushCallConfiguration(U64 a, unsigned b, U64 c, unsigned d, size_t e, Handle f) { return 0; }
int __cudaPopCallConfiguration(Handle a, Handle b, Handle c, Handle d) { return 0; }
int __cudaGetKernel(Handle *kernel, const void *function) { *kernel = (Handle)function; return 0; }

/* The driver, as far as torch asks it. A name that is missing here does nothing. */
static int done(void) { return 0; }
static int entry_point(const char *name, Handle *function, int *status) {
  Handle found = dlsym(RTLD_DEFAULT, name);
  *function = found ? found : (Handle)done;
  if (status) *status = 0;
  return 0;
}
int cudaGetDriverEntryPointByVersion(const char *name, Handle *f, unsigned version, U64 flags, int *status) {
  return entry_point(name, f, status);
}
int cuGetProcAddress_v2(const char *name, Handle *f, int version, U64 flags, int *status) { return entry_point(name, f, status); }
int cuGetProcAddress(const char *name, Handle *f, int version, U64 flags) { return entry_point(name, f, 0); }
int cuDriverGetVersion(int *version) { *version = DRIVER_VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = device_count(); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = 0; return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
int cuDevicePrimaryCtxRetain(Handle *context, int device) { *context = (Handle)1; return 0; }
int cuCtxGetCurrent(Handle *context) { *context = (Handle)1; return 0; }
int nvmlInit_v2(void) { return 1; } /* absent: torch then asks the runtime */
int nvmlInitWithFlags(unsigned flags) { return 1; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = device_count(); return 0; }
int nvmlDeviceGetComputeRunningProcesses(Handle device, unsigned *count, Handle infos) { *count = 0; return 0; }
