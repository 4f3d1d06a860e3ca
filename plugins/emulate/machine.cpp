#include "emulate/machine.h"

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <utility>

#include "emulate/fiber.h"
#include "emulate/hooks.h"
#include "emulate/shadow.h"
#include "emulate/tensor_core.h"

namespace luvc::emulate {

Places places;

namespace {

enum class State { kReady, kAtBarrier, kAtWarp, kReturned };

struct Wait {
    const char* what;
    Site site;
    unsigned mask;
    unsigned long long bits;  // of a shuffle: the value, then what the thread gets
    int from;
    const float* address;  // of a matrix
    unsigned stride;
    Product product;
};

void loop(void* data);

struct Thread {
    explicit Thread(unsigned index) : number(index), fiber(std::make_unique<Fiber>(loop, this)) {}

    unsigned number;
    std::unique_ptr<Fiber> fiber;
    State state = State::kReturned;
    uint32_t barriers = 0;
    Wait wait{};

    unsigned lane() const { return number % kWarp; }
};

class Machine {
public:
    bool launch(const Kernel& kernel, Extent grid, Extent block);
    void run_thread(Thread& thread);
    void wait_at_barrier(Site site);
    const Wait& wait_in_warp(const Wait& wait);
    void stop_here(const std::string& text);

    Thread& running() { return *running_; }

    uint64_t seed = 0;
    std::string fault;
    std::string asked_fault;
    std::string asked_counts;
    std::map<const void*, Counts> counts;
    Actor actor;
    Counts* counting = nullptr;
    const Kernel* kernel = nullptr;

private:
    void run_block();
    void release_barrier();
    std::string why_stuck() const;
    void resolve(unsigned mask);
    uint64_t random();

    std::vector<std::unique_ptr<Thread>> threads_;
    std::vector<Thread*> ready_;
    size_t count_ = 0;  // threads of the block
    Thread* running_ = nullptr;
    uint64_t state_ = 0;
};

Machine machine;

void loop(void* data) {
    for (;;) machine.run_thread(*static_cast<Thread*>(data));
}

Extent unravel(unsigned index, Extent extent) {
    return {index % extent.x, index / extent.x % extent.y, index / extent.x / extent.y};
}

std::string place_text(Extent place) {
    return "(" + std::to_string(place.x) + ", " + std::to_string(place.y) + ", " + std::to_string(place.z) + ")";
}

uint64_t Machine::random() {
    // splitmix64 (Steele, Lea, Flood 2014)
    uint64_t mixed = state_ += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
    return mixed ^ mixed >> 31;
}

void Machine::run_thread(Thread& thread) {
    hooks::enter_kernel();
    kernel->run();
    hooks::leave_kernel();
    thread.state = State::kReturned;
    thread.fiber->leave();
}

void Machine::wait_at_barrier(Site site) {
    Thread& thread = *running_;
    thread.wait = {};
    thread.wait.what = "__syncthreads";
    thread.wait.site = site;
    thread.state = State::kAtBarrier;
    hooks::leave_kernel();
    thread.fiber->leave();
    hooks::enter_kernel();
}

// Lets the lanes of `mask` go on once all of them wait for the same thing.
void Machine::resolve(unsigned mask) {
    const unsigned warp = running_->number / kWarp * kWarp;
    const auto lane = [&](unsigned i) -> Thread& { return *threads_[warp + i]; };
    for (unsigned i = 0; i < kWarp; ++i) {
        if ((mask >> i & 1u) == 0) continue;
        if (warp + i >= count_ || lane(i).state != State::kAtWarp) return;
    }
    for (unsigned i = 0; i < kWarp; ++i) {
        if ((mask >> i & 1u) == 0) continue;
        const Wait& own = running_->wait;
        const Wait& other = lane(i).wait;
        if (own.mask != other.mask || std::strcmp(own.what, other.what) != 0 || own.address != other.address
            || own.stride != other.stride) {
            return stop_here("divergence: lanes " + std::to_string(running_->lane()) + " and " + std::to_string(i)
                             + " of a warp wait for different things: " + own.what + " at " + own.site.text() + ", "
                             + other.what + " at " + other.site.text());
        }
    }
    if (running_->wait.product.result != nullptr) {
        Products products;
        for (unsigned i = 0; i < kWarp; ++i) products[i] = lane(i).wait.product;
        multiply(products);
        counting->products += 16 * 16 * 8;
    } else if (running_->wait.address == nullptr) {
        unsigned long long bits[kWarp];
        for (unsigned i = 0; i < kWarp; ++i) bits[i] = (mask >> i & 1u) != 0 ? lane(i).wait.bits : 0;
        for (unsigned i = 0; i < kWarp; ++i) {
            if ((mask >> i & 1u) != 0) lane(i).wait.bits = bits[lane(i).wait.from];
        }
    }
    for (unsigned i = 0; i < kWarp; ++i) {
        if ((mask >> i & 1u) == 0) continue;
        lane(i).state = State::kReady;
        if (&lane(i) != running_) ready_.push_back(&lane(i));
    }
}

const Wait& Machine::wait_in_warp(const Wait& wait) {
    Thread& thread = *running_;
    hooks::leave_kernel();
    thread.wait = wait;
    thread.state = State::kAtWarp;
    if ((wait.mask >> thread.lane() & 1u) == 0) {
        stop_here("mask: lane " + std::to_string(thread.lane()) + " calls " + wait.what
                  + " with a mask that does not name it, at " + wait.site.text());
    } else if ((wait.mask >> wait.from & 1u) == 0) {
        stop_here("mask: lane " + std::to_string(thread.lane()) + " reads lane " + std::to_string(wait.from)
                  + ", which the mask of " + wait.what + " does not name, at " + wait.site.text());
    } else {
        resolve(wait.mask);
    }
    if (thread.state != State::kReady) thread.fiber->leave();
    hooks::enter_kernel();
    return thread.wait;
}

// Notes the fault; run_block sees it and never goes back into the block's threads.
void Machine::stop_here(const std::string& text) {
    if (fault.empty()) fault = name_of(kernel->entry()) + ", block " + place_text(places.block) + ": " + text;
    hooks::leave_kernel();
    running_->state = State::kAtBarrier;
    running_->fiber->leave();
}

std::string Machine::why_stuck() const {
    const Thread* waiting = nullptr;
    const Thread* other = nullptr;
    for (size_t i = 0; i < count_; ++i) {
        const Thread& thread = *threads_[i];
        if (thread.state == State::kAtWarp) {
            for (unsigned lane = 0; lane < kWarp; ++lane) {
                const size_t peer = thread.number / kWarp * kWarp + lane;
                if ((thread.wait.mask >> lane & 1u) == 0 || (peer < count_ && threads_[peer]->state == State::kAtWarp)) {
                    continue;
                }
                const bool here = peer < count_ && threads_[peer]->state == State::kAtBarrier;
                return "divergence: thread " + std::to_string(thread.number) + " waits in " + thread.wait.what + " at "
                       + thread.wait.site.text() + " for lane " + std::to_string(lane)
                       + (here ? ", which waits in __syncthreads at " + threads_[peer]->wait.site.text()
                               : ", which has returned");
            }
        }
        if (thread.state == State::kAtBarrier && waiting == nullptr) waiting = &thread;
        if (thread.state != State::kAtBarrier) other = &thread;
    }
    if (waiting == nullptr) return "divergence: threads wait for each other";
    return "divergence: thread " + std::to_string(waiting->number) + " waits in __syncthreads at "
           + waiting->wait.site.text() + ", thread " + std::to_string(other->number)
           + (other->state == State::kReturned ? " has returned" : " does not");
}

// All threads of the block must wait in one barrier of the source.
void Machine::release_barrier() {
    const Wait& first = threads_[0]->wait;
    for (size_t i = 0; i < count_; ++i) {
        Thread& thread = *threads_[i];
        if (thread.state != State::kAtBarrier) {
            fault = name_of(kernel->entry()) + ", block " + place_text(places.block) + ": " + why_stuck();
            return;
        }
        if (thread.wait.site.line != first.site.line || std::strcmp(thread.wait.site.file, first.site.file) != 0) {
            fault = name_of(kernel->entry()) + ", block " + place_text(places.block) + ": divergence: thread 0 waits in "
                    + "__syncthreads at " + first.site.text() + ", thread " + std::to_string(i) + " at "
                    + thread.wait.site.text();
            return;
        }
    }
    for (size_t i = 0; i < count_; ++i) {
        threads_[i]->state = State::kReady;
        ++threads_[i]->barriers;
        ready_.push_back(threads_[i].get());
    }
}

void Machine::run_block() {
    shadow::clear_shared();
    ++actor.block;
    ready_.clear();
    for (size_t i = 0; i < count_; ++i) {
        threads_[i]->state = State::kReady;
        threads_[i]->barriers = 0;
        ready_.push_back(threads_[i].get());
    }
    for (;;) {
        while (!ready_.empty() && fault.empty()) {
            if (seed != 0) std::swap(ready_.back(), ready_[random() % ready_.size()]);
            running_ = ready_.back();
            ready_.pop_back();
            places.thread = unravel(running_->number, places.block_extent);
            actor.thread = running_->number;
            actor.step = running_->barriers;
            hooks::stack = running_->fiber.get();
            running_->fiber->resume();
        }
        if (!fault.empty()) return;
        const auto returned = [](const auto& thread) { return thread->state == State::kReturned; };
        if (std::all_of(threads_.begin(), threads_.begin() + static_cast<std::ptrdiff_t>(count_), returned)) return;
        release_barrier();
    }
}

bool Machine::launch(const Kernel& call, Extent grid, Extent block) {
    kernel = &call;
    count_ = size_t{block.x} * block.y * block.z;
    while (threads_.size() < count_) threads_.push_back(std::make_unique<Thread>(static_cast<unsigned>(threads_.size())));
    counting = &counts[call.entry()];
    ++counting->launches;
    counting->threads += count_ * grid.x * grid.y * grid.z;
    ++actor.launch;
    state_ = seed;
    places.block_extent = block;
    places.grid_extent = grid;
    std::vector<unsigned> order(size_t{grid.x} * grid.y * grid.z);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size(); seed != 0 && i > 1; --i) std::swap(order[i - 1], order[random() % i]);
    for (unsigned index : order) {
        places.block = unravel(index, grid);
        run_block();
        if (!fault.empty()) {
            threads_.clear();  // some stand in the middle of the kernel
            return false;
        }
    }
    return true;
}

}  // namespace

void barrier(Site site) {
    machine.wait_at_barrier(site);
}

unsigned long long shuffle(const char* what, unsigned mask, unsigned long long bits, int from, Site site) {
    Wait wait{};
    wait.what = what;
    wait.site = site;
    wait.mask = mask;
    wait.bits = bits;
    wait.from = from;
    return machine.wait_in_warp(wait).bits;
}

void warp_address(const char* what, const float* address, unsigned stride, Site site) {
    if (reinterpret_cast<uintptr_t>(address) % 32 != 0 || stride % 4 != 0) {
        stop("misaligned: " + std::string(what) + " takes 32-byte aligned matrices with rows of a multiple of 16 bytes, at "
             + site.text());
    }
    Wait wait{};
    wait.what = what;
    wait.site = site;
    wait.mask = 0xffffffffu;
    wait.address = address;
    wait.stride = stride;
    machine.wait_in_warp(wait);
}

void warp_product(float* result, const float* left, const float* right, const float* sum, Site site) {
    Wait wait{};
    wait.what = "mma_sync";
    wait.site = site;
    wait.mask = 0xffffffffu;
    wait.product = {result, left, right, sum};
    machine.wait_in_warp(wait);
}

int shared_add(int* target, int value, const void* caller) {
    if (!shadow::is_shared(target)) {
        stop("atomicAdd of memory that is not shared, which the emulation does not have, at " + source_of(caller));
    }
    if (LUVC_EMULATE_CHECK) hooks::check(target, sizeof(int), Kind::kAdd, caller);
    const int before = *target;
    *target += value;
    return before;
}

void stop(const std::string& text) {
    machine.stop_here(text);
    __builtin_unreachable();
}

bool run(const Kernel& kernel, Extent grid, Extent block) {
    return machine.launch(kernel, grid, block);
}

namespace hooks {

const Fiber* stack = nullptr;

void check(const void* address, size_t bytes, Kind kind, const void* caller) {
    leave_kernel();
    const auto* begin = static_cast<const char*>(address);
    const auto within = [begin, bytes](const void* first, size_t size) {
        return static_cast<const char*>(first) <= begin && begin + bytes <= static_cast<const char*>(first) + size;
    };
    const bool private_memory =
        stack->holds(address) || within(&places, sizeof(places))
        || (kind == Kind::kRead && within(machine.kernel, machine.kernel->bytes()));
    if (!private_memory) {
        const std::string fault = reinterpret_cast<uintptr_t>(address) % bytes != 0 && (bytes & (bytes - 1)) == 0
                                          && bytes <= 16
                                      ? "misaligned: " + std::to_string(bytes) + " bytes at " + source_of(caller)
                                      : shadow::access(machine.actor, address, bytes, kind, caller, *machine.counting);
        if (!fault.empty()) stop(fault);
    }
    enter_kernel();
}

}  // namespace hooks

}  // namespace luvc::emulate

extern "C" void luvc_emulate_order(uint64_t seed) {
    luvc::emulate::machine.seed = seed;
}

extern "C" const char* luvc_emulate_fault() {
    auto& machine = luvc::emulate::machine;
    machine.asked_fault = std::exchange(machine.fault, {});
    return machine.asked_fault.c_str();
}

extern "C" const char* luvc_emulate_counts() {
    auto& machine = luvc::emulate::machine;
    std::string& text = machine.asked_counts;
    text.clear();
    for (const auto& [entry, counts] : machine.counts) {
        text += luvc::emulate::name_of(entry);
        for (uint64_t number : {counts.launches, counts.threads, counts.read, counts.written, counts.distinct_read,
                 counts.distinct_written, counts.products, counts.shared_read, counts.shared_written}) {
            text += " " + std::to_string(number);
        }
        text += "\n";
    }
    machine.counts.clear();
    return text.c_str();
}
