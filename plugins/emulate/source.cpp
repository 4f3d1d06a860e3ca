// Names and lines of code addresses, from the debug information, through binutils.
#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "emulate/shadow.h"

namespace luvc::emulate {
namespace {

// Pairs of function and file:line, innermost first. Only faults and counts ask, so a process each time is quick enough.
std::vector<std::pair<std::string, std::string>> lookup(const void* address) {
    Dl_info info{};
    std::vector<std::pair<std::string, std::string>> frames;
    if (dladdr(address, &info) == 0) return frames;
    const auto offset = static_cast<const char*>(address) - static_cast<const char*>(info.dli_fbase);
    char command[4096];
    std::snprintf(command, sizeof(command), "addr2line -C -f -i -e '%s' 0x%tx", info.dli_fname, offset);
    FILE* pipe = popen(command, "r");
    if (pipe == nullptr) return frames;
    const auto line = [pipe] {
        std::string text;
        for (int c; (c = std::getc(pipe)) != EOF && c != '\n';) text += static_cast<char>(c);
        return text;
    };
    for (std::string function = line(); !function.empty(); function = line()) frames.emplace_back(function, line());
    pclose(pipe);
    return frames;
}

// plugins/cuda/spectrum.cu:101 of a longer path with notes after it.
std::string short_place(const std::string& place) {
    const size_t plugins = place.rfind("plugins/");
    const size_t start = plugins == std::string::npos ? 0 : plugins;
    return place.substr(start, place.find(" (", start) - start);
}

}  // namespace

std::string source_of(const void* caller) {
    // The call returns to the instruction after it.
    std::string text;
    for (const auto& [function, place] : lookup(static_cast<const char*>(caller) - 1)) {
        text += (text.empty() ? "" : " in ") + short_place(place);
        if (place.find(".cu") != std::string::npos && place.find("emulate/") == std::string::npos) break;
    }
    return text.empty() ? "an unknown place" : text;
}

std::string name_of(const void* entry) {
    static std::map<const void*, std::string> known;
    std::string& name = known[entry];
    if (name.empty()) {
        const auto frames = lookup(entry);
        name = frames.empty() ? "unknown" : frames.back().first;
        const std::string hidden = "(anonymous namespace)::";
        for (size_t at; (at = name.find(hidden)) != std::string::npos;) name.erase(at, hidden.size());
        name = name.substr(0, name.find('('));
        const size_t last = name.rfind("::", name.find('<'));
        name = name.substr(last == std::string::npos ? 0 : last + 2);
    }
    return name;
}

}  // namespace luvc::emulate
