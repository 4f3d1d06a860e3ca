// Stacks that are switched between without the kernel of the operating system.
#pragma once

#include <ucontext.h>

#include <cstddef>

namespace luvc::emulate {

class Fiber {
public:
    // Runs `entry(data)` on a stack of its own at the first resume(); `entry` must not return.
    Fiber(void (*entry)(void*), void* data);
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;
    ~Fiber();

    // From the scheduler: runs the fiber until it calls leave().
    void resume();
    // From the fiber: back to the scheduler.
    void leave();

    bool holds(const void* address) const {
        return stack_ <= address && address < static_cast<const char*>(stack_) + kStackBytes;
    }

private:
    static constexpr size_t kStackBytes = size_t{256} << 10;

    static void start();

    void (*entry_)(void*);
    void* data_;
    void* stack_;
    bool started_ = false;
    ucontext_t first_;
    void* here_[5];
    void* scheduler_[5];
    void* fake_stack_ = nullptr;
    const void* scheduler_stack_ = nullptr;
    size_t scheduler_bytes_ = 0;
};

}  // namespace luvc::emulate
