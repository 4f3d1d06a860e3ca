#include "emulate/fiber.h"

#include <sys/mman.h>

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define LUVC_STACK_SWITCH(call) call
#else
#define LUVC_STACK_SWITCH(call) static_cast<void>(0)
#endif

namespace luvc::emulate {
namespace {

Fiber* starting = nullptr;

// GCC does not take both builtins in one function.
[[noreturn]] __attribute__((noinline, noclone)) void go(void** to) {
    __builtin_longjmp(to, 1);
}

// Saves where this stack is and goes on where the other was. The builtins save neither registers, which the compiler
// takes as lost, nor signal masks, so a switch is a few instructions.
__attribute__((noinline)) void jump(void** from, void** to) {
    if (__builtin_setjmp(from) == 0) go(to);
}

__attribute__((noinline)) void enter(void** from, const ucontext_t* to) {
    if (__builtin_setjmp(from) == 0) setcontext(to);
}

}  // namespace

Fiber::Fiber(void (*entry)(void*), void* data)
    : entry_(entry),
      data_(data),
      stack_(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    if (stack_ == MAP_FAILED) throw std::bad_alloc();
    getcontext(&first_);
    first_.uc_stack.ss_sp = stack_;
    first_.uc_stack.ss_size = kStackBytes;
    first_.uc_link = nullptr;
    makecontext(&first_, &Fiber::start, 0);
}

Fiber::~Fiber() {
    LUVC_STACK_SWITCH(__asan_unpoison_memory_region(stack_, kStackBytes));
    munmap(stack_, kStackBytes);
}

void Fiber::start() {
    Fiber* self = starting;
    LUVC_STACK_SWITCH(
        __sanitizer_finish_switch_fiber(nullptr, &self->scheduler_stack_, &self->scheduler_bytes_));
    self->entry_(self->data_);
}

void Fiber::resume() {
    void* fake_stack = nullptr;
    LUVC_STACK_SWITCH(__sanitizer_start_switch_fiber(&fake_stack, stack_, kStackBytes));
    if (started_) {
        jump(scheduler_, here_);
    } else {
        started_ = true;
        starting = this;
        enter(scheduler_, &first_);
    }
    LUVC_STACK_SWITCH(__sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr));
    static_cast<void>(fake_stack);
}

void Fiber::leave() {
    LUVC_STACK_SWITCH(__sanitizer_start_switch_fiber(&fake_stack_, scheduler_stack_, scheduler_bytes_));
    jump(here_, scheduler_);
    LUVC_STACK_SWITCH(__sanitizer_finish_switch_fiber(fake_stack_, &scheduler_stack_, &scheduler_bytes_));
}

}  // namespace luvc::emulate
