// Hides AVX-512, AMX and the newer dot products of AVX from a process, so that every library in it
// chooses its code for AVX2: scripts/without_avx512.sh preloads this.
//
// CPUID faults (arch_prctl, Linux on Intel CPUs of 2012 and later), and the handler executes it with
// some bits cleared. New threads inherit the setting; execve resets it, but preloads this again.
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012

// Leaf 7, subleaf 0: F, DQ, IFMA, PF, ER, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ;
// 4VNNIW, 4FMAPS, VP2INTERSECT, AMX-BF16, FP16, AMX-TILE, AMX-INT8
static const uint32_t kEbx7 = 1u << 16 | 1u << 17 | 1u << 21 | 0xFu << 26 | 3u << 30;
static const uint32_t kEcx7 = 1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14;
static const uint32_t kEdx7 = 3u << 2 | 1u << 8 | 0xFu << 22;
static const uint32_t kEax71 = 3u << 4;  // subleaf 1: AVX-VNNI, AVX512-BF16

static void allow(long allowed) {
  if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed) != 0) {
    perror("without_avx512: this CPU or kernel cannot let CPUID fault");
    _exit(1);
  }
}

static int set_action(int number, const struct sigaction* action, struct sigaction* former) {
  int (*real)(int, const struct sigaction*, struct sigaction*) = dlsym(RTLD_NEXT, "sigaction");
  return real(number, action, former);
}

// Libraries that report crashes would put their handlers in the place of ours. They get none: a
// process that crashes ends as if nobody had asked.
int sigaction(int number, const struct sigaction* action, struct sigaction* former) {
  return set_action(number, number == SIGSEGV ? NULL : action, former);
}

sighandler_t signal(int number, sighandler_t handler) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, former;
  return sigaction(number, &action, &former) == 0 ? former.sa_handler : SIG_ERR;
}

static void on_fault(int signal_number, siginfo_t* info, void* context) {
  (void)info;
  greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
  const uint8_t* code = (const uint8_t*)registers[REG_RIP];
  if (code[0] != 0x0F || code[1] != 0xA2) {  // not CPUID: fail as without this handler
    const struct sigaction usual = {.sa_handler = SIG_DFL};
    set_action(signal_number, &usual, NULL);
    return;
  }
  const uint32_t leaf = (uint32_t)registers[REG_RAX], sub = (uint32_t)registers[REG_RCX];
  uint32_t a, b, c, d;
  allow(1);
  __cpuid_count(leaf, sub, a, b, c, d);
  allow(0);
  if (leaf == 7 && sub == 0) b &= ~kEbx7, c &= ~kEcx7, d &= ~kEdx7;
  if (leaf == 7 && sub == 1) a &= ~kEax71;
  registers[REG_RAX] = a;
  registers[REG_RBX] = b;
  registers[REG_RCX] = c;
  registers[REG_RDX] = d;
  registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  set_action(SIGSEGV, &action, NULL);
  allow(0);
}
