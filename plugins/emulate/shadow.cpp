#include "emulate/shadow.h"

#include <cstring>
#include <map>
#include <vector>

#include "emulate/machine.h"

namespace luvc::emulate::shadow {
namespace {

struct Cell {
    bool written = false;  // ever; of shared memory: by this block
    bool added = false;    // the last write was an atomic addition
    bool other_blocks = false;
    Actor writer, reader, other_reader;
    const void* write_caller = nullptr;
    const void* read_caller = nullptr;
    const void* other_caller = nullptr;
};

struct Allocation {
    size_t bytes = 0;
    std::vector<Cell> cells;  // of checked builds
};

#if LUVC_EMULATE_CHECK
constexpr bool kChecked = true;
#else
constexpr bool kChecked = false;
#endif

std::map<const char*, Allocation> allocations;

struct Variable {
    std::string name;
    char* first;
    size_t bytes;
    std::vector<Cell> cells;
};
std::vector<Variable>& variables() {
    static std::vector<Variable> all;  // libraries add theirs while they are loaded
    return all;
}

Variable* variable_of(const void* address) {
    static size_t last = 0;
    const auto holds = [address](const Variable& variable) {
        return variable.first <= address && address < variable.first + variable.bytes;
    };
    auto& all = variables();
    if (last < all.size() && holds(all[last])) return &all[last];
    for (last = 0; last < all.size(); ++last) {
        if (holds(all[last])) return &all[last];
    }
    return nullptr;
}

std::pair<const char* const, Allocation>* find(const void* address) {
    auto after = allocations.upper_bound(static_cast<const char*>(address));
    if (after == allocations.begin()) return nullptr;
    auto& found = *--after;
    return static_cast<const char*>(address) <= found.first + found.second.bytes ? &found : nullptr;
}

std::string thread_text(const Actor& actor) {
    return "thread " + std::to_string(actor.thread) + " of block run " + std::to_string(actor.block);
}

bool same_thread(const Actor& left, const Actor& right) {
    return left.block == right.block && left.thread == right.thread;
}

// Whether `earlier` may run at the same time as `now`.
bool concurrent(const Actor& earlier, const Actor& now) {
    if (earlier.launch != now.launch || same_thread(earlier, now)) return false;
    return earlier.block != now.block || earlier.step == now.step;
}

std::string race(const char* did, const Actor& now, const void* caller, const char* had, const Actor& earlier,
    const void* earlier_caller, const char* memory) {
    return std::string("race: ") + thread_text(now) + " " + did + " " + memory + " memory at " + source_of(caller)
           + ", which " + thread_text(earlier) + " " + had + " at " + source_of(earlier_caller)
           + " with no barrier between";
}

std::string check(Cell& cell, const Actor& now, Kind kind, const void* caller, const char* memory) {
    const char* did = kind == Kind::kRead ? "reads" : kind == Kind::kWrite ? "writes" : "adds to";
    if (kind != Kind::kWrite && !cell.written) {
        return std::string("uninitialised: ") + thread_text(now) + " " + did + " " + memory
               + " memory nobody wrote, at " + source_of(caller);
    }
    const bool both_add = kind == Kind::kAdd && cell.added;
    if (cell.write_caller != nullptr && !both_add && concurrent(cell.writer, now)) {
        return race(did, now, caller, cell.added ? "added to" : "wrote", cell.writer, cell.write_caller, memory);
    }
    if (kind == Kind::kRead) {
        const bool fresh = cell.read_caller == nullptr || cell.reader.launch != now.launch;
        if (fresh) {
            cell.other_blocks = false;
            cell.other_caller = nullptr;
        } else if (!same_thread(cell.reader, now)) {
            cell.other_blocks = cell.other_blocks || cell.reader.block != now.block;
            cell.other_reader = cell.reader;
            cell.other_caller = cell.read_caller;
        }
        cell.reader = now;
        cell.read_caller = caller;
        return {};
    }
    if (cell.read_caller != nullptr && concurrent(cell.reader, now)) {
        return race(did, now, caller, "read", cell.reader, cell.read_caller, memory);
    }
    if (cell.other_caller != nullptr && cell.reader.launch == now.launch
        && (cell.other_blocks || concurrent(cell.other_reader, now))) {
        return race(did, now, caller, "read", cell.other_reader, cell.other_caller, memory);
    }
    cell.written = true;
    cell.added = kind == Kind::kAdd;
    cell.writer = now;
    cell.write_caller = caller;
    return {};
}

}  // namespace

void add(void* base, size_t bytes) {
    allocations[static_cast<const char*>(base)] = {bytes, std::vector<Cell>(kChecked ? bytes : 0)};
}

bool remove(void* base) {
    return allocations.erase(static_cast<const char*>(base)) == 1;
}

bool contains(const void* base, size_t bytes) {
    const auto* found = find(base);
    return found != nullptr && static_cast<const char*>(base) + bytes <= found->first + found->second.bytes;
}

void fill(const void* base, size_t bytes) {
    if (!kChecked || bytes == 0) return;
    auto* found = find(base);
    const auto first = found->second.cells.begin() + (static_cast<const char*>(base) - found->first);
    for (auto cell = first; cell != first + static_cast<std::ptrdiff_t>(bytes); ++cell) {
        *cell = {};
        cell->written = true;
    }
}

void add_shared(const std::string& name, char* first, size_t bytes) {
    variables().push_back({name, first, bytes, std::vector<Cell>(kChecked ? bytes : 0)});
}

void clear_shared() {
    for (const Variable& variable : variables()) std::memset(variable.first, 0xff, variable.bytes);
}

bool is_shared(const void* address) {
    return variable_of(address) != nullptr;
}

std::string access(
    const Actor& actor, const void* address, size_t bytes, Kind kind, const void* caller, Counts& counts) {
    Variable* shared = variable_of(address);
    Cell* cell = nullptr;
    size_t room = 0;
    if (shared != nullptr) {
        const auto offset = static_cast<size_t>(static_cast<const char*>(address) - shared->first);
        cell = &shared->cells[offset];
        room = shared->cells.size() - offset;
    } else if (auto* found = find(address); found != nullptr) {
        const auto offset = static_cast<size_t>(static_cast<const char*>(address) - found->first);
        cell = found->second.cells.data() + offset;
        room = found->second.bytes - offset;
    }
    if (room < bytes) {
        const std::string where = shared != nullptr ? "the shared variable " + shared->name : "an array of the device";
        return "out of bounds: " + thread_text(actor) + (kind == Kind::kRead ? " reads " : " writes ")
               + std::to_string(bytes) + " bytes at " + source_of(caller) + ", " + std::to_string(room)
               + " of which lie in " + where;
    }
    (shared != nullptr ? kind == Kind::kRead ? counts.shared_read : counts.shared_written
            : kind == Kind::kRead ? counts.read
                                  : counts.written) += bytes;
    for (size_t i = 0; i < bytes; ++i) {
        Cell& byte = cell[i];
        // Another block's bytes are gone.
        if (shared != nullptr && byte.written && byte.writer.block != actor.block) byte = {};
        if (shared == nullptr && kind == Kind::kRead && byte.reader.launch != actor.launch) ++counts.distinct_read;
        if (shared == nullptr && kind == Kind::kWrite && byte.writer.launch != actor.launch) ++counts.distinct_written;
        std::string fault = check(byte, actor, kind, caller, shared != nullptr ? "shared" : "device");
        if (!fault.empty()) return fault;
    }
    return {};
}

}  // namespace luvc::emulate::shadow
