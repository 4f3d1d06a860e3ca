// Preloaded into a process, this makes its CPU look like one with AVX2 and nothing newer (no AVX-512, VNNI or AMX),
// at full speed: the kernel is asked to trap the CPUID instruction (arch_prctl(2), ARCH_SET_CPUID), and the trap
// answers with the CPU's own words less those features. Bits: Intel SDM volume 2, CPUID. Linux on x86-64 whose CPU and
// hypervisor can trap CPUID ("cpuid_fault" in /proc/cpuinfo); elsewhere the process ends with code 3.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { SET_CPUID = 0x1012 };

typedef int (*sigaction_function)(int, const struct sigaction *, struct sigaction *);
typedef int (*mask_function)(int, const sigset_t *, sigset_t *);

static struct sigaction next;  // what the process itself wants to be done with SIGSEGV, for example faulthandler's

static uint32_t without(uint32_t word, uint32_t bits) { return word & ~bits; }
#define BIT(n) (1u << (n))

static void answer(uint32_t leaf, uint32_t part, uint32_t r[4]) {
  syscall(SYS_arch_prctl, SET_CPUID, 1);
  __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(part));
  syscall(SYS_arch_prctl, SET_CPUID, 0);
  if (leaf == 7 && part == 0) {
    // AVX512F DQ IFMA PF ER CD BW VL; VBMI VBMI2 VNNI BITALG VPOPCNTDQ; 4VNNIW 4FMAPS VP2INTERSECT AMX and FP16
    r[1] = without(r[1], BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
    r[2] = without(r[2], BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
    r[3] = without(r[3], BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
  } else if (leaf == 7 && part == 1) {
    r[0] = without(r[0], BIT(4) | BIT(5) | BIT(21) | BIT(23));           // AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA
    r[3] = without(r[3], BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19));  // AVX-VNNI-INT8, NE-CONVERT, AMX-COMPLEX, INT16, AVX10
  } else if (leaf == 0xd && part == 0) {
    r[0] = without(r[0], BIT(5) | BIT(6) | BIT(7) | BIT(17) | BIT(18));  // states of AVX-512 and AMX
  } else if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) {
    r[0] = r[1] = r[2] = r[3] = 0;  // AMX tiles, AVX10
  }
}

static void trapped(int signal_number, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *code = (const unsigned char *)registers[REG_RIP];
  if (info->si_code == SI_KERNEL && code[0] == 0x0f && code[1] == 0xa2) {
    uint32_t r[4];
    answer((uint32_t)registers[REG_RAX], (uint32_t)registers[REG_RCX], r);
    registers[REG_RAX] = r[0];
    registers[REG_RBX] = r[1];
    registers[REG_RCX] = r[2];
    registers[REG_RDX] = r[3];
    registers[REG_RIP] += 2;
  } else if (next.sa_flags & SA_SIGINFO) {
    next.sa_sigaction(signal_number, info, context);
  } else if (next.sa_handler != SIG_DFL && next.sa_handler != SIG_IGN) {
    next.sa_handler(signal_number);
  } else {
    sigaction_function real = (sigaction_function)dlsym(RTLD_NEXT, "sigaction");
    real(SIGSEGV, &next, NULL);  // the instruction runs again and faults as it would have; a signal is sent again
    if (info->si_code <= 0) kill(getpid(), signal_number);
  }
}

int sigaction(int signal_number, const struct sigaction *wanted, struct sigaction *before) {
  if (signal_number == SIGSEGV) {
    struct sigaction old = next;
    if (wanted) next = *wanted;
    if (before) *before = old;
    return 0;
  }
  return ((sigaction_function)dlsym(RTLD_NEXT, "sigaction"))(signal_number, wanted, before);
}

sighandler_t signal(int signal_number, sighandler_t handler) {
  struct sigaction wanted = {.sa_handler = handler, .sa_flags = SA_RESTART}, before;
  return sigaction(signal_number, &wanted, &before) ? SIG_ERR : before.sa_handler;
}

// A thread that blocks SIGSEGV and asks for CPUID would be killed: nobody blocks it here.
static int masked(const char *name, int how, const sigset_t *set, sigset_t *before) {
  sigset_t open;
  if (set && how != SIG_UNBLOCK) {
    open = *set;
    sigdelset(&open, SIGSEGV);
    set = &open;
  }
  return ((mask_function)dlsym(RTLD_NEXT, name))(how, set, before);
}
int pthread_sigmask(int how, const sigset_t *set, sigset_t *before) { return masked("pthread_sigmask", how, set, before); }
int sigprocmask(int how, const sigset_t *set, sigset_t *before) { return masked("sigprocmask", how, set, before); }

__attribute__((constructor)) static void begin(void) {
  struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
  sigaction_function real = (sigaction_function)dlsym(RTLD_NEXT, "sigaction");
  if (real(SIGSEGV, &action, &next) || syscall(SYS_arch_prctl, SET_CPUID, 0)) {
    fputs("avx2_only: this CPU or kernel cannot trap CPUID (no cpuid_fault in /proc/cpuinfo)\n", stderr);
    _exit(3);
  }
}
