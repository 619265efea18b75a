// One PE's arithmetic requantise unit behind the constant memory: takes a record apart, {S, B, M} from the highest bits.
// A stored digit of M is {nonzero, negative, exponent}, its exponent as wide as MULTIPLIER_BITS needs.
module post_unit #(
    parameter POST = 0,
    parameter ACC_BITS = 16,
    parameter OFFSET_BITS = 24,
    parameter SHIFT_BITS = 6,
    parameter MULTIPLIER_BITS = 8,
    parameter CSD_DIGITS = 0,
    parameter RESULT_BITS = 18,
    parameter EXPONENT_BITS = 3,
    parameter FIELD_BITS = 5
) (
    input [ACC_BITS-1:0] acc,
    input [FIELD_BITS+OFFSET_BITS+SHIFT_BITS-1:0] record,
    input [RESULT_BITS-1:0] low,
    input [RESULT_BITS-1:0] high,
    output [RESULT_BITS-1:0] q
);
    localparam DIGITS = POST == 1 ? CSD_DIGITS : 1;
    localparam UNIT_FIELD_BITS = POST == 2 ? MULTIPLIER_BITS : DIGITS * 7;

    wire [UNIT_FIELD_BITS-1:0] multiplier;
    genvar digit;
    generate
        if (POST == 2) begin : number
            assign multiplier = record[FIELD_BITS-1:0];
        end else begin : signed_digits
            for (digit = 0; digit < DIGITS; digit = digit + 1) begin : each
                wire [EXPONENT_BITS+1:0] stored = record[digit*(EXPONENT_BITS+2) +: EXPONENT_BITS+2];
                wire [4:0] exponent;
                if (EXPONENT_BITS < 5) begin : narrow
                    assign exponent = {{(5-EXPONENT_BITS){1'b0}}, stored[EXPONENT_BITS-1:0]};
                end else begin : full
                    assign exponent = stored[4:0];
                end
                assign multiplier[digit*7 +: 7] = {stored[EXPONENT_BITS+1:EXPONENT_BITS], exponent};
            end
        end
    endgenerate

    post_arithmetic #(
        .POST(POST), .ACC_BITS(ACC_BITS), .OFFSET_BITS(OFFSET_BITS), .SHIFT_BITS(SHIFT_BITS),
        .MULTIPLIER_BITS(MULTIPLIER_BITS), .CSD_DIGITS(DIGITS), .RESULT_BITS(RESULT_BITS), .EXPONENTS(MULTIPLIER_BITS)
    ) arithmetic (
        .acc(acc), .multiplier(multiplier), .offset(record[FIELD_BITS +: OFFSET_BITS]),
        .shift(record[FIELD_BITS+OFFSET_BITS +: SHIFT_BITS]), .low(low), .high(high), .q(q)
    );
endmodule
