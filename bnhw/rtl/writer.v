// Adds the operand with saturation, makes stored numbers of the results and writes their planes, lowest first. The
// result register is stage 6; `finished` is the cycle of a step's last write.
`include "descriptor.vh"
module writer #(
    parameter PE = 4,
    parameter SIMD = 16,
    parameter ACT_BITS = 4,
    parameter RESIDUAL_BITS = 16,
    parameter RESULT_BITS = 18
) (
    input clk,
    input reset,
    input start,
    input loading,                            // the descriptor stands in descriptor_word
    input [`DESCRIPTOR_BITS-1:0] descriptor_word,
    input [`DESCRIPTOR_BITS-1:0] descriptor,
    input q_valid,
    input [PE*RESULT_BITS-1:0] q,
    input [PE*RESULT_BITS-1:0] q_operands,
    output result_valid,                      // the first cycle of a result
    output reg [PE*RESULT_BITS-1:0] numbers,  // stored numbers; shifted down behind each plane
    output write,
    output [23:0] write_address,
    output [SIMD/PE-1:0] write_banks,
    output [PE*ACT_BITS-1:0] write_activations,
    output [PE*RESIDUAL_BITS-1:0] write_residuals,
    output finished,
    output reg [31:0] saturations             // clamped sums since start
);
    localparam BANKS = SIMD / PE;

    wire residual = descriptor[`WRITE_MEMORY];
    wire [33:0] low_field = descriptor[`ADD_LOW];
    wire [33:0] high_field = descriptor[`ADD_HIGH];
    wire [33:0] offset_field = descriptor[`WRITE_OFFSET];
    wire [RESULT_BITS:0] low = {low_field[RESULT_BITS-1], low_field[RESULT_BITS-1:0]};
    wire [RESULT_BITS:0] high = {high_field[RESULT_BITS-1], high_field[RESULT_BITS-1:0]};

    // ---- where the next word goes
    reg active;
    reg [5:0] plane;
    reg [15:0] block, bank, row, column;
    reg [23:0] pixel_address, offset;
    wire plane_last = plane == descriptor[`WRITE_PLANES];
    wire block_last = block == descriptor[`BLOCKS];
    wire bank_last = residual || bank == BANKS[15:0] - 16'd1;
    wire column_last = column == descriptor[`OUT_COLUMNS];
    assign write = active;
    assign write_address = pixel_address + offset + {18'd0, plane};
    assign finished = active && plane_last && block_last && column_last && row == descriptor[`OUT_ROWS];
    assign result_valid = active && plane == 0;
    always @(posedge clk) begin
        if (reset) active <= 0;
        else if (q_valid) active <= 1;
        else if (plane_last) active <= 0;
        if (q_valid) plane <= 0;
        else if (active) plane <= plane + 6'd1;
        if (loading) begin
            block <= 0;
            row <= 0;
            column <= 0;
            offset <= 0;
            bank <= descriptor_word[`WRITE_BANK];
            pixel_address <= descriptor_word[`WRITE_BASE];
        end else if (active && plane_last) begin
            block <= block_last ? 16'd0 : block + 16'd1;
            bank <= block_last ? descriptor[`WRITE_BANK] : bank_last ? 16'd0 : bank + 16'd1;
            if (block_last) begin
                offset <= 0;
                pixel_address <= pixel_address + descriptor[`WRITE_STEP];
                column <= column_last ? 16'd0 : column + 16'd1;
                if (column_last) row <= row + 16'd1;
            end else if (bank_last) offset <= offset + {18'd0, descriptor[`WRITE_PLANES]} + 24'd1;
        end
    end

    genvar number;
    generate
        for (number = 0; number < SIMD / PE; number = number + 1) begin : banks
            localparam [15:0] NUMBER = number;
            assign write_banks[number] = !residual && bank == NUMBER;
        end
    endgenerate

    // ---- addition, clamp, shift register of planes
    // A clamped sum counts where its lane holds a channel of the result; q_block is the block that q belongs to.
    reg [15:0] q_block;
    wire [15:0] lanes_used = q_block == descriptor[`BLOCKS] ? descriptor[`WRITE_LANES] : 16'hffff;
    always @(posedge clk) begin
        if (loading) q_block <= 0;
        else if (q_valid) q_block <= q_block == descriptor[`BLOCKS] ? 16'd0 : q_block + 16'd1;
    end
    wire [PE-1:0] clamped;
    genvar pe;
    generate
        for (pe = 0; pe < PE; pe = pe + 1) begin : each
            localparam [15:0] NUMBER = pe;
            wire [RESULT_BITS-1:0] own = q[pe*RESULT_BITS +: RESULT_BITS];
            wire [RESULT_BITS-1:0] other = q_operands[pe*RESULT_BITS +: RESULT_BITS];
            wire signed [RESULT_BITS:0] sum = {own[RESULT_BITS-1], own} + {other[RESULT_BITS-1], other};
            wire below = sum < $signed(low);
            wire above = sum > $signed(high);
            assign clamped[pe] = NUMBER < lanes_used && (below || above);
            wire [RESULT_BITS-1:0] result = !descriptor[`ADD] ? own : below ? low[RESULT_BITS-1:0]
                : above ? high[RESULT_BITS-1:0] : sum[RESULT_BITS-1:0];
            wire [RESULT_BITS-1:0] number_now = numbers[pe*RESULT_BITS +: RESULT_BITS];
            always @(posedge clk)
                if (q_valid) numbers[pe*RESULT_BITS +: RESULT_BITS] <= result - offset_field[RESULT_BITS-1:0];
                else if (active) numbers[pe*RESULT_BITS +: RESULT_BITS]
                    <= residual ? number_now >> RESIDUAL_BITS : number_now >> ACT_BITS;
            wire [RESULT_BITS+ACT_BITS+RESIDUAL_BITS-1:0] padded = {{(ACT_BITS+RESIDUAL_BITS){1'b0}}, number_now};
            assign write_activations[pe*ACT_BITS +: ACT_BITS] = padded[ACT_BITS-1:0];
            assign write_residuals[pe*RESIDUAL_BITS +: RESIDUAL_BITS] = padded[RESIDUAL_BITS-1:0];
            wire unused = &{1'b0, padded};
        end
    endgenerate

    reg [31:0] clamped_count;
    integer lane;
    always @* begin
        clamped_count = 0;
        for (lane = 0; lane < PE; lane = lane + 1) clamped_count = clamped_count + {31'd0, clamped[lane]};
    end
    always @(posedge clk) begin
        if (reset || start) saturations <= 0;
        else if (q_valid && descriptor[`ADD]) saturations <= saturations + clamped_count;
    end
    wire unused = &{1'b0, descriptor, descriptor_word, low_field, high_field, offset_field};
endmodule
