/* AMX tile instructions on processors without them, for tests: preloaded, it catches the signal of an unknown
 * instruction, decodes it, computes what Intel's manual says, and goes on behind it. Every thread has tiles of its own.
 * An instruction on tiles that are not configured, or a shape that a configuration does not have, ends the process with
 * a message: on a real processor it would be a fault. With AMX_EMULATOR_FAULT in the environment, products are wrong.
 *
 *     gcc -O3 -shared -fPIC -ftls-model=initial-exec -o amx_emulator.so amx_emulator.c -ldl
 *
 * Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, "Instruction Set Reference" and
 * section 2.3.5 (VEX prefix); volume 1, chapter 18 (AMX).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64, ARCH_PRCTL = 158, REQUEST_PERMISSION = 0x1023 };

static __thread struct {
    int configured;
    uint8_t rows[TILES], row_bytes[TILES];
    uint8_t data[TILES][ROWS][ROW_BYTES];
} tiles;
static struct sigaction previous;
static int permitted; /* whether tiles were asked for */
static int fault; /* whether the first sum of every product is wrong, for tests of tests */

static void fail(const char *what) {
    ssize_t ignored = write(STDERR_FILENO, what, strlen(what));
    (void)ignored;
    _exit(70);
}

/* Numbers of general registers in instructions -> places in a ucontext. */
static const int PLACES[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

struct instruction {
    int prefix, opcode, reg, rm, vvvv, is_memory, length; /* prefix: 0 none, 1 66, 2 F3, 3 F2 */
    uint64_t base, stride;
};

static int decode(const uint8_t *code, const greg_t *registers, struct instruction *out) {
    if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84) != 0) return 0; /* VEX.128.0F38.W0 */
    int extend_index = !(code[1] & 0x40), extend_base = !(code[1] & 0x20);
    uint8_t modrm = code[4];
    int mode = modrm >> 6;
    memset(out, 0, sizeof *out);
    out->prefix = code[2] & 3;
    out->vvvv = ~(code[2] >> 3) & 15;
    out->opcode = code[3];
    out->reg = modrm >> 3 & 7;
    out->rm = modrm & 7;
    out->is_memory = mode != 3;
    out->length = 5;
    if (!out->is_memory) return 1;
    const uint8_t *at = code + 5;
    int has_base = 1, base = out->rm + 8 * extend_base, index = 4, scale = 0;
    if (out->rm == 4) {
        base = (*at & 7) + 8 * extend_base, index = (*at >> 3 & 7) + 8 * extend_index, scale = *at >> 6;
        has_base = !(mode == 0 && (*at & 7) == 5);
        at++;
    } else if (mode == 0 && out->rm == 5) {
        fail("amx_emulator: addresses relative to the instruction are not known here\n");
    }
    int64_t displacement = 0;
    if (mode == 1) displacement = (int8_t)*at, at += 1;
    if (mode == 2 || (mode == 0 && !has_base)) displacement = *(const int32_t *)at, at += 4;
    out->base = displacement + (has_base ? (uint64_t)registers[PLACES[base]] : 0);
    out->stride = index == 4 ? 0 : (uint64_t)registers[PLACES[index]] << scale;
    out->length = at - code;
    return 1;
}

static void check(int tile) {
    if (!tiles.configured || !tiles.rows[tile]) fail("amx_emulator: a tile is used that is not configured\n");
}

static void configure(const uint8_t *configuration) {
    if (configuration[0] != 1 || configuration[1] != 0) fail("amx_emulator: palette 1 from row 0 was expected\n");
    if (!permitted) fail("amx_emulator: the operating system was not asked for tiles\n");
    for (int byte = 2; byte < 64; byte++)
        if ((byte < 16 || (byte >= 32 && byte < 48) || byte >= 56) && configuration[byte])
            fail("amx_emulator: a reserved byte of the configuration is not 0\n");
    memset(&tiles, 0, sizeof tiles);
    for (int tile = 0; tile < TILES; tile++) {
        unsigned bytes = configuration[16 + 2 * tile] + 256 * configuration[17 + 2 * tile];
        unsigned rows = configuration[48 + tile];
        if (bytes > ROW_BYTES || rows > ROWS || !bytes != !rows) fail("amx_emulator: a tile has no such shape\n");
        tiles.row_bytes[tile] = bytes, tiles.rows[tile] = rows;
    }
    tiles.configured = 1;
}

static void move(const struct instruction *in, int is_store) {
    check(in->reg);
    for (int row = 0; row < tiles.rows[in->reg]; row++) {
        uint8_t *memory = (uint8_t *)(in->base + row * in->stride), *tile = tiles.data[in->reg][row];
        if (is_store) memcpy(memory, tile, tiles.row_bytes[in->reg]);
        else memcpy(tile, memory, tiles.row_bytes[in->reg]);
    }
}

/* prefix: none u8 u8, 66 u8 s8, F3 s8 u8, F2 s8 s8 (first the pixels, then the weights) */
static void multiply(const struct instruction *in) {
    int sums = in->reg, first = in->rm, second = in->vvvv & 7;
    check(sums), check(first), check(second);
    if (sums == first || sums == second || first == second) fail("amx_emulator: tiles of a product must differ\n");
    if (tiles.rows[sums] != tiles.rows[first] || tiles.row_bytes[sums] != tiles.row_bytes[second]
        || tiles.row_bytes[first] != 4 * tiles.rows[second]) fail("amx_emulator: shapes of a product do not fit\n");
    int is_first_signed = in->prefix >= 2, is_second_signed = in->prefix & 1;
    for (int row = 0; row < tiles.rows[sums]; row++) {
        int32_t line[ROW_BYTES / 4];
        memcpy(line, tiles.data[sums][row], sizeof line);
        for (int k = 0; k < tiles.rows[second]; k++)
            for (int column = 0; column < tiles.row_bytes[sums] / 4; column++)
                for (int byte = 0; byte < 4; byte++) {
                    uint8_t a = tiles.data[first][row][4 * k + byte], b = tiles.data[second][k][4 * column + byte];
                    line[column] = (uint32_t)line[column]
                        + (uint32_t)((is_first_signed ? (int8_t)a : a) * (is_second_signed ? (int8_t)b : b));
                }
        if (row == 0) line[0] += fault;
        memcpy(tiles.data[sums][row], line, sizeof line);
    }
}

static int execute(const struct instruction *in) {
    if (in->opcode == 0x49 && in->prefix == 0 && in->is_memory && in->reg == 0) configure((const uint8_t *)in->base);
    else if (in->opcode == 0x49 && in->prefix == 0 && !in->is_memory && in->reg == 0 && in->rm == 0)
        memset(&tiles, 0, sizeof tiles);
    else if (in->opcode == 0x49 && in->prefix == 3 && !in->is_memory && in->rm == 0)
        check(in->reg), memset(tiles.data[in->reg], 0, sizeof tiles.data[in->reg]);
    else if (in->opcode == 0x4B && in->is_memory && in->rm == 4 && (in->prefix == 1 || in->prefix == 3)) move(in, 0);
    else if (in->opcode == 0x4B && in->is_memory && in->rm == 4 && in->prefix == 2) move(in, 1);
    else if (in->opcode == 0x5E && !in->is_memory) multiply(in);
    else return 0;
    return 1;
}

static void on_unknown_instruction(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct instruction in;
    if (decode((const uint8_t *)registers[REG_RIP], registers, &in) && execute(&in)) {
        registers[REG_RIP] += in.length;
        return;
    }
    sigaction(SIGILL, &previous, NULL); /* not ours: the instruction is met again, without us */
    (void)signal, (void)info;
}

__attribute__((constructor)) static void start(void) {
    struct sigaction action = {.sa_sigaction = on_unknown_instruction, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGILL, &action, &previous);
    fault = getenv("AMX_EMULATOR_FAULT") != NULL;
}

/* The operating system's permission for tiles is given here. */
long syscall(long number, ...) {
    static long (*real)(long, ...);
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (number == ARCH_PRCTL && a[0] == REQUEST_PERMISSION) return permitted = 1, 0;
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
