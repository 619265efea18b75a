// The engine as a shared library: memories through the host port, runs with every probe recorded. Compiled together with
// what Verilator makes of engine.v; loaded by bnhw/rtl/driver.py.
#include <cstdint>
#include <cstring>
#include <vector>

#include "Vengine.h"
#include "verilated.h"

namespace {

// The words of one probe as they lie in Verilator's variables, and the cycle of each.
struct Probe {
    std::vector<uint8_t> data;
    std::vector<uint64_t> cycles;

    template <typename Port>
    void record(const Port& port, uint64_t cycle) {
        const uint8_t* bytes = reinterpret_cast<const uint8_t*>(&port);
        data.insert(data.end(), bytes, bytes + sizeof(Port));
        cycles.push_back(cycle);
    }

    void clear() {
        data.clear();
        cycles.clear();
    }
};

// Since the run's begin: clamped sums, then words that pass the memories' ports.
struct Counters {
    uint64_t saturations, activation_reads, residual_reads, weight_reads, constant_reads, threshold_reads, lookup_reads,
        class_reads, descriptor_reads, activation_writes, residual_writes;
};

template <typename Port>
uint64_t ones(const Port& port) {
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(&port);
    uint64_t count = 0;
    for (size_t at = 0; at < sizeof(Port); ++at) count += __builtin_popcount(bytes[at]);
    return count;
}

struct Engine {
    VerilatedContext context;
    Vengine* top = nullptr;
    Probe raw, q, number, step;  // step: the counters at each step's last cycle
    Counters counters;

    explicit Engine(int seed) {
        context.randReset(2);  // registers and memories begin with random bits
        context.randSeed(seed);
        top = new Vengine(&context);
        top->clk = 0;
        top->start = 0;
        top->host_valid = 0;
        top->reset = 1;
        clock();
        clock();
        top->reset = 0;
        top->eval();
    }

    ~Engine() {
        top->final();
        delete top;
    }

    void count() {
        const unsigned reads = top->probe_reads, writes = top->probe_writes;
        counters.activation_reads += ones(top->probe_activation_reads);
        counters.lookup_reads += ones(top->probe_lookup_reads);
        counters.residual_reads += (reads & 1) + (reads >> 1 & 1);
        counters.weight_reads += reads >> 2 & 1;
        counters.constant_reads += reads >> 3 & 1;
        counters.threshold_reads += reads >> 4 & 1;
        counters.class_reads += reads >> 5 & 1;
        counters.descriptor_reads += reads >> 6 & 1;
        counters.activation_writes += writes & 1;
        counters.residual_writes += writes >> 1 & 1;
        counters.saturations = top->saturations;
    }

    void clock() {
        top->clk = 1;
        top->eval();
        top->clk = 0;
        top->eval();
    }
};

}  // namespace

extern "C" {

void* engine_new(int seed) { return new Engine(seed); }

void engine_delete(void* handle) { delete static_cast<Engine*>(handle); }

// Bytes of: a beat of the host port, an entry of the probes raw, q, number.
uint32_t engine_bytes(void* handle, int what) {
    Vengine* top = static_cast<Engine*>(handle)->top;
    switch (what) {
        case 0: return sizeof(top->host_data);
        case 1: return sizeof(top->probe_raw);
        case 2: return sizeof(top->probe_q);
        default: return sizeof(top->probe_number);
    }
}

// data: words * beats * bytes of a beat. Returns 0 where the port is not ready.
int engine_write(void* handle, int memory, uint32_t address, uint32_t words, uint32_t beats, const uint8_t* data) {
    Engine* engine = static_cast<Engine*>(handle);
    Vengine* top = engine->top;
    top->host_write = 1;
    top->host_memory = memory;
    for (uint32_t word = 0; word < words; ++word) {
        top->host_address = address + word;
        for (uint32_t beat = 0; beat < beats; ++beat) {
            std::memcpy(&top->host_data, data, sizeof(top->host_data));
            data += sizeof(top->host_data);
            top->host_valid = 1;
            top->eval();
            if (!top->host_ready) return 0;
            engine->clock();
        }
    }
    top->host_valid = 0;
    engine->clock();  // the last word is written
    return 1;
}

// data: room for words * beats * bytes of a beat. Returns 0 where the port does not answer.
int engine_read(void* handle, int memory, uint32_t address, uint32_t words, uint32_t beats, uint8_t* data) {
    Engine* engine = static_cast<Engine*>(handle);
    Vengine* top = engine->top;
    top->host_write = 0;
    top->host_memory = memory;
    for (uint32_t word = 0; word < words; ++word) {
        top->host_address = address + word;
        top->host_valid = 1;
        top->eval();
        if (!top->host_ready) return 0;
        engine->clock();
        top->host_valid = 0;
        top->eval();
        for (int wait = 0; !top->host_answer_valid; ++wait) {
            if (wait > 16) return 0;
            engine->clock();
        }
        for (uint32_t beat = 0; beat < beats; ++beat) {
            if (!top->host_answer_valid) return 0;
            std::memcpy(data, &top->host_answer, sizeof(top->host_answer));
            data += sizeof(top->host_answer);
            engine->clock();
        }
    }
    return 1;
}

// Run the program once. Returns the cycles of all steps, or -1 where it is not done after so many.
int64_t engine_run(void* handle, uint64_t most) {
    Engine* engine = static_cast<Engine*>(handle);
    Vengine* top = engine->top;
    engine->raw.clear();
    engine->q.clear();
    engine->number.clear();
    engine->step.clear();
    engine->counters = Counters();
    top->start = 1;
    top->eval();
    engine->clock();
    top->start = 0;
    top->eval();
    for (uint64_t cycle = 1; cycle <= most; ++cycle) {
        if (top->probe_raw_valid) engine->raw.record(top->probe_raw, cycle);
        if (top->probe_q_valid) engine->q.record(top->probe_q, cycle);
        if (top->probe_number_valid) engine->number.record(top->probe_number, cycle);
        engine->count();
        if (top->step_done) engine->step.record(engine->counters, cycle);
        const bool done = top->done;
        engine->clock();
        if (done) return cycle;
    }
    return -1;
}

static Probe& probe_of(void* handle, int which) {
    Engine* engine = static_cast<Engine*>(handle);
    switch (which) {
        case 0: return engine->raw;
        case 1: return engine->q;
        case 2: return engine->number;
        default: return engine->step;
    }
}

uint64_t engine_probe_count(void* handle, int which) { return probe_of(handle, which).cycles.size(); }
const uint8_t* engine_probe_data(void* handle, int which) { return probe_of(handle, which).data.data(); }
const uint64_t* engine_probe_cycles(void* handle, int which) { return probe_of(handle, which).cycles.data(); }
}
