// The post stage: holds the sums of an interval (or multiplies them with the operand), requantises them and hands them
// on. Stage 3 in; the hold register is stage 4, q stage 5 (behind POST_CYCLES cycles). Constants, thresholds and tables
// are read so that they answer in the cycle in which they are used.
`include "descriptor.vh"
module post #(
    parameter PE = 4,
    parameter ACC_BITS = 16,
    parameter POST = 0,
    parameter CSD_DIGITS = 0,
    parameter MULTIPLIER_BITS = 8,
    parameter COMPARATORS = 0,
    parameter LOOKUPS = 0,
    parameter PRODUCT_BITS = 0,
    parameter OFFSET_BITS = 24,
    parameter SHIFT_BITS = 6,
    parameter RESIDUAL_BITS = 16,
    parameter RESULT_BITS = 18,
    parameter EXPONENT_BITS = MULTIPLIER_BITS > 1 ? $clog2(MULTIPLIER_BITS) : 1,
    parameter FIELD_BITS = POST == 2 ? MULTIPLIER_BITS : (POST == 1 ? CSD_DIGITS : 1) * (2 + EXPONENT_BITS),
    parameter RECORD_BITS = FIELD_BITS + OFFSET_BITS + SHIFT_BITS,
    parameter THRESHOLD_RECORD_BITS = COMPARATORS * (ACC_BITS + 1) + 1,
    parameter LOOKUP_PORTS = LOOKUPS > 0 ? LOOKUPS : 1
) (
    input clk,
    input reset,
    input [`DESCRIPTOR_BITS-1:0] descriptor,
    input tick_2,                             // the interval's last cycle, at stages 2 and 3
    input tick_3,
    input [23:0] constant_3,                  // address of the block's constants
    input [PE*ACC_BITS-1:0] sums_3,
    input [PE*RESULT_BITS-1:0] operands_2,    // stored numbers
    output constant_read,
    output [23:0] constant_address,
    input [PE*RECORD_BITS-1:0] constants,
    input [PE*THRESHOLD_RECORD_BITS-1:0] thresholds,
    output [LOOKUP_PORTS-1:0] lookup_reads,   // of lanes that hold channels of the result
    output [LOOKUP_PORTS*24-1:0] lookup_addresses,
    input [LOOKUP_PORTS*RESIDUAL_BITS-1:0] lookups,
    output raw_valid,
    output reg [PE*ACC_BITS-1:0] raw,
    output reg q_valid,
    output [PE*RESULT_BITS-1:0] q,
    output reg [PE*RESULT_BITS-1:0] q_operands
);
    localparam WIDE = (ACC_BITS > RESULT_BITS ? ACC_BITS : RESULT_BITS) + 1;
    localparam COUNT_BITS = COMPARATORS > 0 ? $clog2(COMPARATORS + 1) : 1;
    localparam [1:0] ARITHMETIC = 1, THRESHOLD = 2, LOOKUP = 3;

    wire [1:0] kind = descriptor[`POST];
    wire multiply = descriptor[`MAIN] == 2'd3;
    wire [33:0] low_field = descriptor[`LOW];
    wire [33:0] high_field = descriptor[`HIGH];
    wire [33:0] offset_field = descriptor[`OPERAND_OFFSET];
    wire [RESULT_BITS-1:0] low = low_field[RESULT_BITS-1:0];

    // ---- cycles of the unit
    reg active;
    reg [15:0] count;
    reg [15:0] block;                         // all blocks of a step pass, so the next one begins with 0
    reg [23:0] constant_held;
    wire last = active && count == descriptor[`POST_CYCLES];
    assign raw_valid = active && count == 0;
    always @(posedge clk) begin
        if (reset) active <= 0;
        else if (tick_3) active <= 1;
        else if (last) active <= 0;
        if (tick_3) begin
            count <= 0;
            constant_held <= constant_3;
        end else if (active) count <= count + 16'd1;
        q_valid <= last && !reset;
        if (reset) block <= 0;
        else if (last) block <= block == descriptor[`BLOCKS] ? 16'd0 : block + 16'd1;
    end
    assign constant_read = tick_3 || (active && !last);
    assign constant_address = tick_3 ? constant_3 : constant_held + {8'd0, count} + 24'd1;

    // ---- lookups: port p looks up lane count * LOOKUPS + p
    wire [15:0] lanes_used = block == descriptor[`BLOCKS] ? descriptor[`WRITE_LANES] : PE[15:0];
    genvar port;
    generate
        for (port = 0; port < LOOKUP_PORTS; port = port + 1) begin : ports
            localparam [15:0] NUMBER = port;
            if (LOOKUPS > 0) begin : address
                wire [15:0] lane = count * LOOKUP_PORTS[15:0] + NUMBER;
                wire [ACC_BITS+23:0] wide = {24'd0, raw[lane*ACC_BITS +: ACC_BITS]};
                wire [23:0] table_offset =
                    descriptor[`LOOKUP_CHANNELS] ? {8'd0, lane} << descriptor[`LOOKUP_SHIFT] : 24'd0;
                assign lookup_addresses[port*24 +: 24] = constant_held + table_offset + wide[23:0];
                assign lookup_reads[port] = active && kind == LOOKUP && lane < lanes_used;
                wire unused = &{1'b0, wide};
            end else begin : none
                assign lookup_addresses[port*24 +: 24] = 0;
                assign lookup_reads[port] = 0;
            end
        end
    endgenerate

    // ---- each PE
    genvar pe;
    generate
        for (pe = 0; pe < PE; pe = pe + 1) begin : each
            localparam LOOKUP_PORT = pe % LOOKUP_PORTS;
            localparam GROUP_NUMBER = pe / LOOKUP_PORTS;
            localparam [15:0] GROUP = GROUP_NUMBER[15:0];

            // the operand's value beside the sums, beside the held number, beside q
            wire [RESULT_BITS-1:0] operand_code =
                operands_2[pe*RESULT_BITS +: RESULT_BITS] - offset_field[RESULT_BITS-1:0];
            reg [RESULT_BITS-1:0] operand_3, operand_4;
            wire [ACC_BITS-1:0] sum = sums_3[pe*ACC_BITS +: ACC_BITS];
            wire [ACC_BITS-1:0] product;
            always @(posedge clk) begin
                if (tick_2) operand_3 <= operand_code;
                if (tick_3) operand_4 <= operand_3;
                if (last) q_operands[pe*RESULT_BITS +: RESULT_BITS] <= operand_4;
                if (tick_3) raw[pe*ACC_BITS +: ACC_BITS] <= multiply ? product : sum;
            end
            if (PRODUCT_BITS > 0) begin : products
                localparam FACTOR_BITS = PRODUCT_BITS > ACC_BITS ? PRODUCT_BITS : ACC_BITS;
                localparam WIDE_FACTOR = FACTOR_BITS > RESULT_BITS ? FACTOR_BITS : RESULT_BITS;
                wire [WIDE_FACTOR-1:0] first = {{(WIDE_FACTOR-ACC_BITS){sum[ACC_BITS-1]}}, sum};
                wire [WIDE_FACTOR-1:0] second =
                    {{(WIDE_FACTOR-RESULT_BITS){operand_3[RESULT_BITS-1]}}, operand_3};
                wire signed [2*PRODUCT_BITS-1:0] full =
                    $signed({{PRODUCT_BITS{first[PRODUCT_BITS-1]}}, first[PRODUCT_BITS-1:0]})
                    * $signed({{PRODUCT_BITS{second[PRODUCT_BITS-1]}}, second[PRODUCT_BITS-1:0]});
                wire [2*PRODUCT_BITS+ACC_BITS-1:0] wide = {{ACC_BITS{full[2*PRODUCT_BITS-1]}}, full};
                assign product = wide[ACC_BITS-1:0];
                wire unused = &{1'b0, first, second, wide};
            end else begin : no_products
                assign product = sum;
            end

            // ARITHMETIC
            wire [RECORD_BITS-1:0] record = constants[pe*RECORD_BITS +: RECORD_BITS];
            wire [RESULT_BITS-1:0] scaled;
            post_unit #(
                .POST(POST), .ACC_BITS(ACC_BITS), .OFFSET_BITS(OFFSET_BITS), .SHIFT_BITS(SHIFT_BITS),
                .MULTIPLIER_BITS(MULTIPLIER_BITS), .CSD_DIGITS(CSD_DIGITS), .RESULT_BITS(RESULT_BITS),
                .EXPONENT_BITS(EXPONENT_BITS), .FIELD_BITS(FIELD_BITS)
            ) unit (
                .acc(raw[pe*ACC_BITS +: ACC_BITS]), .record(record),
                .low(low), .high(high_field[RESULT_BITS-1:0]), .q(scaled)
            );

            // THRESHOLD
            wire [RESULT_BITS-1:0] levels;
            if (COMPARATORS > 0) begin : comparisons
                wire [THRESHOLD_RECORD_BITS-1:0] chunk =
                    thresholds[pe*THRESHOLD_RECORD_BITS +: THRESHOLD_RECORD_BITS];
                wire [COUNT_BITS-1:0] agreeing;
                post_threshold #(
                    .ACC_BITS(ACC_BITS + 1), .COMPARATORS(COMPARATORS), .COUNT_BITS(COUNT_BITS)
                ) unit (
                    .acc({raw[(pe+1)*ACC_BITS-1], raw[pe*ACC_BITS +: ACC_BITS]}),
                    .thresholds(chunk[COMPARATORS*(ACC_BITS+1)-1:0]),
                    .falling(chunk[THRESHOLD_RECORD_BITS-1]), .count(agreeing)
                );
                reg [RESULT_BITS-1:0] so_far;
                assign levels = (count == 0 ? low : so_far) + {{(RESULT_BITS-COUNT_BITS){1'b0}}, agreeing};
                always @(posedge clk) if (active) so_far <= levels;
            end else begin : no_comparisons
                assign levels = low;
            end

            // LOOKUP: the last lanes' answers come in the cycle of q
            wire [RESULT_BITS-1:0] found;
            if (LOOKUPS > 0) begin : tables
                wire [RESIDUAL_BITS-1:0] answer = lookups[LOOKUP_PORT*RESIDUAL_BITS +: RESIDUAL_BITS];
                reg [RESIDUAL_BITS-1:0] kept;
                reg [15:0] answered;
                always @(posedge clk) begin
                    answered <= count;
                    if (answered == GROUP) kept <= answer;
                end
                wire [RESIDUAL_BITS-1:0] entry = descriptor[`POST_CYCLES] == GROUP ? answer : kept;
                assign found = {{(RESULT_BITS-RESIDUAL_BITS){entry[RESIDUAL_BITS-1]}}, entry};
            end else begin : no_tables
                assign found = low;
            end

            wire [WIDE-1:0] wide = {{(WIDE-ACC_BITS){raw[(pe+1)*ACC_BITS-1]}}, raw[pe*ACC_BITS +: ACC_BITS]};
            reg [RESULT_BITS-1:0] kept_q;
            always @(posedge clk)
                if (last) kept_q <= kind == ARITHMETIC ? scaled : kind == THRESHOLD ? levels : wide[RESULT_BITS-1:0];
            assign q[pe*RESULT_BITS +: RESULT_BITS] = kind == LOOKUP ? found : kept_q;
            wire unused = &{1'b0, wide};
        end
    endgenerate
    wire unused = &{1'b0, lanes_used, descriptor, low_field, high_field, offset_field, thresholds, lookups, operands_2};
endmodule
