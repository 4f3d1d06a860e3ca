// Finds the shared memory of the kernels this file is linked with: function-local variables of luvc::cuda, in the
// library's own symbol table. (GCC before 14 drops a section attribute inside a template, so the linker cannot tell.)
#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "emulate/shadow.h"

namespace {

constexpr char kPrefix[] = "_ZZN4luvc4cuda";  // a variable of a function of luvc::cuda

std::string variable_of(const char* symbol) {
    int status = 0;
    char* text = abi::__cxa_demangle(symbol, nullptr, nullptr, &status);
    std::string name = text != nullptr ? text : symbol;
    std::free(text);
    return name.substr(name.rfind("::") + 2);
}

bool find_shared_variables() {
    static const int here = 0;
    Dl_info info{};
    dladdr(&here, &info);
    std::ifstream file(info.dli_fname, std::ios::binary);
    const std::string image{std::istreambuf_iterator<char>(file), {}};
    const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(image.data());
    const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(image.data() + header->e_shoff);
    for (int i = 0; i < header->e_shnum; ++i) {
        const auto& table = sections[i];
        if (table.sh_type != SHT_SYMTAB) continue;
        const char* names = image.data() + sections[table.sh_link].sh_offset;
        const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(image.data() + table.sh_offset);
        for (size_t j = 0; j < table.sh_size / sizeof(*symbols); ++j) {
            const auto& symbol = symbols[j];
            const bool variable = symbol.st_shndx < header->e_shnum && sections[symbol.st_shndx].sh_type == SHT_NOBITS;
            const char* name = names + symbol.st_name;
            if (!variable || std::strncmp(name, kPrefix, sizeof(kPrefix) - 1) != 0) continue;
            auto* first = static_cast<char*>(info.dli_fbase) + symbol.st_value;
            luvc::emulate::shadow::add_shared(variable_of(name), first, symbol.st_size);
        }
    }
    return true;
}

[[maybe_unused]] const bool found = find_shared_variables();

}  // namespace
